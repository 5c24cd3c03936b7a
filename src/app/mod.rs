//! The faces of the program: the only place where the parts are wired together.
//!
//! The daemon, `--once` and `replay` run the same [`synwatch_core::engine::Engine`]; they differ in
//! where frames come from, how long they run and what is done with the outcome.

pub mod check_config;
pub mod daemon;
pub mod logging;
pub mod once;
mod progress;
pub mod range;
pub mod render;
pub mod replay;
mod replay_workers;
pub mod session;
mod setup;

pub use session::{Clock, Host, Session};
pub use setup::{
    LiveError, enter_namespace, fixed_settings, networks, open_source, open_sources, settings,
    threads, watched,
};
