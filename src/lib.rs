//! synwatch watches the handshakes of TCP for SYN floods.

#[cfg(feature = "host")]
pub mod capture;
pub mod observe;
pub mod time;
pub mod wire;
