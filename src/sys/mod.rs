//! The operating system around the program: what changes the process itself, and what safe
//! Rust has no words for.

pub mod bpf;
#[cfg(test)]
pub(crate) mod headers;
pub mod memory;
pub mod netns;
pub mod packet;
pub mod privileges;
pub mod sandbox;
pub mod service;
