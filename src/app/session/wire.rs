//! Who looks at packets, and how the engine's shards are reached meanwhile.

use std::io;
use std::thread;
use std::time::Duration;

use synwatch_core::engine::Engine;
use synwatch_core::observe::{CaptureStats, Document};
use synwatch_core::time::Timestamp;
use synwatch_core::wire::Fragments;

use super::feed::{Selector, catch_up, feed};
use super::load::Load;
use super::workers::CaptureWorkers;
use super::{Clock, Host};
use crate::capture::{self, Batch, Selection, Source};
use crate::sys::threads::Confined;

/// The engine, and who looks at packets for it.
pub enum Wire {
    /// Nobody may.
    Nothing(Box<Engine>),
    /// The thread that owns the engine.
    One {
        /// Takes in what is seen.
        engine: Box<Engine>,
        /// Where frames come from.
        source: Box<dyn Source>,
        /// Keeps it to what is wanted.
        selector: Selector,
        /// Joins what comes in several frames.
        fragments: Fragments,
    },
    /// A thread for each shard.
    Many(Box<CaptureWorkers>),
}

impl Wire {
    /// Has the thread that owns `engine` look at the frames of `source`.
    pub fn one(source: Box<dyn Source>, engine: Box<Engine>) -> Self {
        let fragments = Fragments::new(engine.hasher().state());
        Self::One { engine, source, selector: Selector::default(), fragments }
    }

    /// Starts a thread for each of `sources`.
    pub fn many(
        sources: Vec<Box<dyn Source>>,
        engine: Engine,
        host: &Host,
        clock: Clock,
        confined: &Confined,
    ) -> io::Result<Self> {
        let workers = CaptureWorkers::start(confined, sources, engine, host, clock)?;
        Ok(Self::Many(Box::new(workers)))
    }

    /// Whether nobody looks.
    pub const fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing(_))
    }

    /// Runs `work` on the engine.
    pub fn assemble<T>(&mut self, work: impl FnOnce(&mut Engine) -> T) -> T {
        match self {
            Self::Many(workers) => workers.assemble(work),
            Self::Nothing(engine) | Self::One { engine, .. } => work(engine),
        }
    }

    /// When the present step of the engine ends.
    pub fn step_end(&self) -> Timestamp {
        match self {
            Self::Many(workers) => workers.step_end(),
            Self::Nothing(engine) | Self::One { engine, .. } => engine.step_end(),
        }
    }

    /// Hands the next frames to the engine; waits up to `timeout`.
    pub fn feed(
        &mut self,
        timeout: Duration,
        clock: &Clock,
        host: &Host,
    ) -> Result<Batch, capture::Error> {
        match self {
            Self::One { engine, source, fragments, .. } => {
                let correction = || clock.correction();
                feed(engine.as_mut(), source.as_mut(), timeout, correction, host, fragments)
            }
            Self::Nothing(_) => {
                thread::sleep(timeout);
                Ok(Batch::Idle)
            }
            Self::Many(workers) => {
                thread::sleep(timeout);
                match workers.ended() {
                    Some(end) => end.map(|()| Batch::End),
                    None => Ok(Batch::Idle),
                }
            }
        }
    }

    /// Hands the engine the frames that came before now; with several threads each does so by
    /// itself.
    pub fn catch_up(&mut self, clock: &Clock, host: &Host) -> Result<(), capture::Error> {
        match self {
            Self::One { engine, source, fragments, .. } => {
                catch_up(engine, source.as_mut(), clock, host, fragments)
            }
            Self::Nothing(_) | Self::Many(_) => Ok(()),
        }
    }

    /// What was received and dropped so far.
    pub fn stats(&mut self) -> Option<CaptureStats> {
        match self {
            Self::Nothing(_) => None,
            Self::One { source, .. } => Some(source.stats()),
            Self::Many(workers) => Some(workers.stats()),
        }
    }

    /// The part of a processor's time that looking takes: `own` is the calling thread's.
    pub fn load(&mut self, own: &mut Load) -> f64 {
        match self {
            Self::Nothing(_) | Self::One { .. } => own.share(),
            Self::Many(workers) => workers.load(),
        }
    }

    /// Tells those who look of a change of the host.
    pub fn learn(&self, host: &Host) {
        if let Self::Many(workers) = self {
            workers.learn(host);
        }
    }

    /// Writes into `report` where frames come from.
    pub fn describe(&self, report: &mut Document) {
        let (name, interfaces) = match self {
            Self::Nothing(_) => return,
            Self::One { source, .. } => (source.name(), source.interfaces()),
            Self::Many(workers) => (workers.name(), workers.interfaces()),
        };
        report.capture.source = name.into();
        report.capture.interfaces = interfaces;
    }

    /// Has all sources pass what is selected.
    pub fn select(&mut self, selection: Selection) {
        match self {
            Self::Nothing(_) => {}
            Self::One { source, selector, .. } => selector.select(source.as_mut(), &selection),
            Self::Many(workers) => workers.select(selection),
        }
    }
}
