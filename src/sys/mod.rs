//! The operating system around the daemon: everything that changes the process itself.

pub mod netns;
