//! The operating system around the program: what changes the process itself, and what safe
//! Rust has no words for.

pub mod bpf;
#[cfg(test)]
pub(crate) mod headers;
pub mod memory;
mod needs;
pub mod netns;
pub mod packet;
pub mod privileges;
mod sandbox;
pub mod systemd;
pub mod threads;

pub use needs::Needs;
