//! synwatch watches the handshakes of TCP for SYN floods.

#[cfg(feature = "host")]
pub mod alert;
#[cfg(feature = "host")]
pub mod app;
#[cfg(feature = "host")]
pub mod capture;
#[cfg(feature = "host")]
pub mod cli;
#[cfg(feature = "host")]
pub mod config;
pub mod detect;
pub mod engine;
pub mod flow;
#[cfg(feature = "host")]
pub mod http;
#[cfg(feature = "host")]
pub mod kernel;
pub mod metrics;
pub mod observe;
pub mod stats;
#[cfg(feature = "host")]
pub mod sys;
pub mod time;
pub mod wire;
