//! The daemon: watch until told to stop.
//!
//! # Order of the start
//!
//! Each state is a type, and the only way to the next one. What starts a thread takes the proof
//! that the thread is confined, [`Confined`](crate::sys::threads::Confined), so none can start too
//! early.
//!
//! 1. `Opened`: bind the HTTP port, where synwatch was started; enter the network namespace to look
//!    into; open what else needs privileges or may fail: capture sockets, event file, kernel
//!    reader. Every failure up to here ends the program with one line.
//! 2. `Ready`: start the kernel thread, which alone keeps what it takes to name other users'
//!    processes; drop all other privileges and enter the sandbox, both as the parts that are open
//!    need it.
//! 3. `Running`: start the threads for the state file and for alerts and the capture thread, which
//!    owns the [`Session`](app::Session). Once it knows the listeners it starts those that work on
//!    shards. Last comes the asynchronous runtime with HTTP and signals on the first thread.
//!
//! The capture thread waits for nobody: reports go out through a channel that keeps the latest,
//! alerts through a bounded queue, baselines through a queue of one, kernel samples come in through
//! one that it only looks into.

mod capture;
mod kernel;
mod serve;
mod start;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};

use thiserror::Error;

use self::start::Opened;
use crate::app::{self, LiveError};
use crate::config::Config;
use crate::sys::memory::share_heap;
use crate::sys::privileges;
use crate::{alert, baseline_file, http};

/// Why the daemon does not start or go on.
#[derive(Debug, Error)]
pub enum Error {
    /// The wire cannot be watched, and not for want of privilege.
    #[error(transparent)]
    Capture(#[from] crate::capture::Error),
    /// Something that both live faces need is missing.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// The HTTP port cannot be had.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The event file cannot be had.
    #[error(transparent)]
    Alert(#[from] alert::Error),
    /// Neither the wire nor the kernel can be watched.
    #[error("nothing to watch: {capture}, and {kernel}")]
    NoWitness {
        /// Why not the wire.
        capture: String,
        /// Why not the kernel.
        kernel: String,
    },
    /// The state file has no thread.
    #[error(transparent)]
    State(#[from] baseline_file::Error),
    /// Privileges remain that should not.
    #[error(transparent)]
    Privileges(#[from] privileges::Error),
    /// A thread, the runtime or a signal handler cannot be had.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// The capture thread is gone.
    #[error("the capture thread ended: {0}")]
    Ended(String),
}

/// What the threads tell one another.
struct Shared {
    stop: AtomicBool,
    /// Rises with every turn of the capture thread: what the watchdog looks at.
    turns: AtomicU64,
    capture_ok: AtomicBool,
    kernel_ok: AtomicBool,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Where it cannot start, or cannot go on.
pub fn run(config: &Config) -> Result<(), Error> {
    share_heap();
    app::logging::start(&config.log);
    Opened::open(config)?.confine()?.start()?.serve()
}
