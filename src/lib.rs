//! synwatch watches the handshakes of TCP for SYN floods.

#[cfg(feature = "host")]
pub mod kernel;
pub mod observe;
#[cfg(feature = "host")]
pub mod sys;
pub mod time;
pub mod wire;
