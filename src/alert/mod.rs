//! Detections leave the program: a bounded queue, a thread of its own, and sinks behind it.
//!
//! The capture thread only ever does a `try_send`: a slow disk or journal costs alerts (counted and
//! reported by the worker), never packets.

mod events;
mod log;
mod worker;

use std::io;
use std::path::PathBuf;

pub use events::Events;
pub use log::Log;
use synwatch_core::observe::{Detection, Severity};
use synwatch_core::time::Timestamp;
pub use worker::{Alerts, Counters, Worker, start};

use crate::sys::Needs;

/// What goes wrong before the first alert.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The events file cannot be opened or created.
    #[error("cannot open events file {}: {source}", .path.display())]
    OpenEvents {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The worker's thread cannot be started.
    #[error("cannot start the alert thread: {0}")]
    Spawn(io::Error),
}

/// What happened to a detection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// It began.
    Raised,
    /// Its severity or variant changed.
    Updated,
    /// It is over.
    Cleared,
}

impl Change {
    /// The value of `synwatch_event` and of the log field `event`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Updated => "updated",
            Self::Cleared => "cleared",
        }
    }
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// What happened.
    pub change: Change,
    /// The detection as it is after the change.
    pub detection: Detection,
    /// When it happened.
    pub at: Timestamp,
}

impl Alert {
    /// How grave the news is: the present severity; the end of an incident is no bad news.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self.change {
            Change::Raised | Change::Updated => {
                self.detection.current_severity().unwrap_or(self.detection.severity)
            }
            Change::Cleared => Severity::Info,
        }
    }
}

/// Where alerts go. Called on the worker's thread only, so it may block, but whatever blocks it for
/// long makes the queue overflow.
pub trait Sink: Send {
    /// Hands the alert on. A sink deals with its own failures: it counts and logs them.
    fn deliver(&mut self, alert: &Alert);

    /// What delivering takes, now that the sink is open.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Opens files anew (SIGHUP, after log rotation).
    fn reopen(&mut self) {}

    /// Tries again what failed before; called now and then, and once before the worker ends.
    fn retry(&mut self) {}
}
