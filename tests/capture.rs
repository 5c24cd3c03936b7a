//! The capture layer against the kernel and against the capture collection.

#![cfg(feature = "host")]

#[path = "capture/files.rs"]
mod files;
#[path = "capture/live.rs"]
mod live;
#[path = "capture/netns.rs"]
mod netns;
