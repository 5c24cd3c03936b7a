//! Where log messages go.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;

use crate::config::{Log, LogFormat};
use crate::sys::systemd;

/// Begins to log as configured. Where the journal cannot be reached, text on standard error serves.
pub fn start(log: &Log) {
    let level = LevelFilter::from_level(Level::from(log.level));
    let journald = match log.format {
        LogFormat::Journald => true,
        LogFormat::Auto => systemd::stderr_is_journal(),
        LogFormat::Text | LogFormat::Json => false,
    };
    let journal = if journald { tracing_journald::layer().ok() } else { None };
    let json = log.format == LogFormat::Json;
    let registry = tracing_subscriber::registry().with(level);
    // A second start (there is none but in tests) leaves the first in force.
    let started = match journal {
        Some(journal) => registry
            .with(journal.with_syslog_identifier("synwatch".to_owned()).with_field_prefix(None))
            .try_init(),
        None if json => {
            let lines = tracing_subscriber::fmt::layer().json().with_writer(io::stderr);
            registry.with(lines.with_target(false)).try_init()
        }
        None => {
            let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let lines = tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(io::stderr);
            registry.with(lines.with_target(false)).try_init()
        }
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging is already initialised");
    }
}
