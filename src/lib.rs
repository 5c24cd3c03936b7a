//! synwatch watches the handshakes of TCP for SYN floods.

#[cfg(feature = "host")]
pub mod app;
#[cfg(feature = "host")]
pub mod cli;
#[cfg(feature = "host")]
pub mod config;
pub mod observe;
#[cfg(feature = "host")]
pub mod sys;
pub mod time;
pub mod wire;
