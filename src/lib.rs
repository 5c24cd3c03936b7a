//! synwatch watches the handshakes of TCP for SYN floods.

pub mod observe;
pub mod time;
pub mod wire;
