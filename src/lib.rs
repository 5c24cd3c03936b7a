//! synwatch watches the handshakes of TCP for SYN floods.

pub mod detect;
pub mod engine;
pub mod flow;
pub mod observe;
pub mod stats;
pub mod time;
pub mod wire;
