//! The faces of the program: the only place where the parts are wired together.
//!
//! The daemon, `--once` and `replay` run the same [`synwatch_core::engine::Engine`]; they differ in where frames come
//! from, how long they run and what is done with the outcome.

pub mod check_config;
mod crew;
pub mod daemon;
mod feed;
mod live;
pub mod logging;
pub mod once;
mod progress;
pub mod range;
pub mod render;
pub mod replay;
mod team;

pub use live::{
    Clock, Correction, Host, LiveError, Load, enter_namespace, fixed_settings, open_source,
    open_sources, settings, take_sample, threads,
};
