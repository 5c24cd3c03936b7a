//! The capture layer against the kernel and against the capture collection.

mod fanout;
mod files;
mod live;
mod netns;
mod sampling;
