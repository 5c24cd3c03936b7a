//! The operating system around the program: everything that changes the process itself.

pub mod map;
pub mod memory;
pub mod netns;
pub mod privileges;
pub mod sandbox;
pub mod service;
