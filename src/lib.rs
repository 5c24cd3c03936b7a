//! synwatch watches the handshakes of TCP for SYN floods.

#[cfg(feature = "host")]
pub mod alert;
#[cfg(feature = "host")]
pub mod app;
#[cfg(feature = "host")]
pub mod http;
pub mod metrics;
pub mod observe;
pub mod time;
pub mod wire;
