//! The capture layer against the kernel and against the capture collection.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "capture/fanout.rs"]
mod fanout;
#[path = "capture/files.rs"]
mod files;
#[path = "capture/live.rs"]
mod live;
#[path = "capture/netns.rs"]
mod netns;
#[path = "capture/sampling.rs"]
mod sampling;
mod side_by_side;
