//! The loop that all live faces share: frames, kernel samples, and time.
//!
//! A [`Session`] owns the engine and what feeds it. The daemon and `--once` differ in where kernel
//! samples come from, in how long they go on, and in what they do with the outcome.
//!
//! # Order of the calls
//!
//! 1. [`Session::new`].
//! 2. [`Session::take_sample`], where the kernel is asked: the listeners have their places before
//!    the first SYN comes.
//! 3. [`Session::listen`], or [`Session::listen_on_threads`]; neither where the wire may not be
//!    watched.
//! 4. Over and over [`Session::feed`], which waits for frames until the next thing is due. Then
//!    [`Session::take_sample`] for each sample that came, and [`Session::tick`] where a step is
//!    over ([`Session::next_tick`]).
//! 5. [`Session::finish`], where there is a verdict at the end.

mod clock;
mod feed;
mod host;
mod load;
mod wire;
mod workers;

use std::io;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use synwatch_core::engine::{Action, Engine, SavedBaseline};
use synwatch_core::observe::{CaptureStats, KernelSample, Snapshot};
use synwatch_core::time::Timestamp;

pub use clock::{Clock, Correction};
pub use feed::{Intake, feed};
pub use host::Host;

use self::feed::selection;
use self::load::Load;
use self::wire::Wire;
use crate::app::{networks, watched};
use crate::capture::{self, Batch, Source};
use crate::config::Config;
use crate::sys::threads::Confined;

/// The engine, and what feeds it.
pub struct Session {
    wire: Wire,
    host: Host,
    /// The networks that are asked for.
    networks: Vec<IpNet>,
    clock: Clock,
    load: Load,
}

/// What came of a tick.
pub struct Judged {
    /// What happened to incidents.
    pub actions: Vec<Action>,
    /// How things stand.
    pub snapshot: Snapshot,
    /// The engine's time.
    pub at: Timestamp,
}

impl Session {
    /// A session on `host` that listens to nothing so far. The time of `engine` is that of `clock`.
    #[must_use]
    pub fn new(engine: Engine, host: Host, clock: Clock, config: &Config) -> Self {
        let (wire, networks) = (Wire::Nothing(Box::new(engine)), networks(config));
        Self { wire, host, networks, clock, load: Load::start() }
    }

    /// Begins to look at the wire, on the thread that calls [`Session::feed`].
    #[must_use]
    pub fn listen(self, source: Box<dyn Source>) -> Self {
        let wire = match self.wire {
            Wire::Nothing(engine) => Wire::one(source, engine),
            listening => listening,
        };
        Self { wire, ..self }
    }

    /// Begins to look at the wire. Of several sources each gets a thread; they are for the shards
    /// of the engine, in their order.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn listen_on_threads(
        self,
        mut sources: Vec<Box<dyn Source>>,
        confined: &Confined,
    ) -> io::Result<Self> {
        if sources.len() < 2 {
            return Ok(match sources.pop() {
                Some(source) => self.listen(source),
                None => self,
            });
        }
        let wire = match self.wire {
            Wire::Nothing(engine) => {
                Wire::many(sources, *engine, &self.host, self.clock, confined)?
            }
            listening => listening,
        };
        Ok(Self { wire, ..self })
    }

    /// Hands a look at the kernel to the engine; the host's addresses may have changed with it.
    pub fn take_sample(&mut self, sample: KernelSample) {
        let Self { wire, host, networks, .. } = self;
        host.has(sample.addresses.iter().copied());
        wire.assemble(|engine| {
            engine.watch(watched(networks, &sample.addresses));
            engine.handle_kernel(sample);
        });
        wire.learn(host);
    }

    /// Hands the next frames to the engine; waits for them up to `timeout`. Where none come to this
    /// thread it waits all the time.
    ///
    /// # Errors
    /// The capture is of no use any more.
    pub fn feed(&mut self, timeout: Duration) -> Result<Batch, capture::Error> {
        self.wire.feed(timeout, &self.clock, &self.host)
    }

    /// When the next step is over, and all its frames have come up.
    #[must_use]
    pub fn next_tick(&self) -> Instant {
        self.clock.when_settled(self.wire.step_end())
    }

    /// Lets time pass up to where all frames have come up, judges the steps that are over, and has
    /// the wire pass what the engine wants to look at from now on.
    ///
    /// # Errors
    /// The capture is of no use any more.
    pub fn tick(&mut self) -> Result<Judged, capture::Error> {
        let settled = self.clock.settled();
        let stats = self.catch_up()?;
        let Self { wire, load, .. } = self;
        let load = wire.load(load);
        let (mut judged, selection) = wire.assemble(|engine| {
            if let Some(stats) = stats {
                engine.handle_capture(stats);
            }
            engine.handle_load(load);
            let actions = engine.tick(settled);
            let at = engine.now();
            let snapshot = engine.snapshot(at);
            let selection = selection(engine, &snapshot.document);
            (Judged { actions, snapshot, at }, selection)
        });
        wire.describe(&mut judged.snapshot.document);
        wire.select(selection);
        Ok(judged)
    }

    /// Judges what came up to now, without waiting for a step to end, and reports.
    ///
    /// # Errors
    /// The capture is of no use any more.
    pub fn finish(mut self) -> Result<Snapshot, capture::Error> {
        if !self.wire.is_nothing() {
            let now = self.clock.now();
            let stats = self.catch_up()?;
            self.wire.assemble(|engine| {
                if let Some(stats) = stats {
                    engine.handle_capture(stats);
                }
                engine.tick(now);
                engine.consult_kernel();
            });
        }
        Ok(self.snapshot())
    }

    /// How things stand now.
    pub fn snapshot(&mut self) -> Snapshot {
        let Self { wire, clock, .. } = self;
        let mut snapshot = wire.assemble(|engine| engine.snapshot(clock.now()));
        wire.describe(&mut snapshot.document);
        snapshot
    }

    /// The time of the session.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What was learned of each service.
    #[must_use]
    pub fn baselines(&mut self) -> Vec<SavedBaseline> {
        self.wire.assemble(|engine| engine.baselines())
    }

    /// Takes in the frames up to now; returns what was received and lost, for the engine.
    fn catch_up(&mut self) -> Result<Option<CaptureStats>, capture::Error> {
        let Self { wire, clock, host, .. } = self;
        wire.catch_up(clock, host)?;
        Ok(wire.stats())
    }
}

#[cfg(test)]
mod tests {
    use synwatch_core::engine::Settings;
    use synwatch_core::observe::CaptureStats;
    use synwatch_core::wire::LinkType;

    use synwatch_core::observe::Document;

    use super::*;
    use crate::capture::{Direction, Error, Frame};

    /// A source in which frames wait that are no packets, one a batch.
    struct Waiting {
        at: Timestamp,
        left: u32,
    }

    impl Source for Waiting {
        fn name(&self) -> &'static str {
            "waiting"
        }

        fn interfaces(&self) -> Vec<String> {
            vec!["here".to_owned()]
        }

        fn read_batch(
            &mut self,
            _timeout: Duration,
            visit: &mut dyn FnMut(Frame<'_>),
        ) -> Result<Batch, Error> {
            let Some(left) = self.left.checked_sub(1) else { return Ok(Batch::Idle) };
            self.left = left;
            visit(Frame {
                at: self.at,
                link: LinkType::Ethernet,
                data: &[],
                original_len: 0,
                interface: 1,
                direction: Direction::Unknown,
            });
            Ok(Batch::Frames)
        }

        fn stats(&mut self) -> CaptureStats {
            CaptureStats { received: 5, dropped: 7 }
        }
    }

    #[test]
    fn what_waits_is_taken_in_before_a_verdict() {
        let clock = Clock::start();
        let engine = Engine::new(Settings::default(), clock.now());
        let config = Config::default();
        let mut session = Session::new(engine, Host::default(), clock, &config);
        assert_eq!(session.feed(Duration::ZERO).unwrap(), Batch::Idle);
        assert_eq!(session.snapshot().document.capture.source, "none");

        session = session.listen(Box::new(Waiting { at: clock.now(), left: 5 }));
        assert_eq!(session.feed(Duration::ZERO).unwrap(), Batch::Frames);
        let skipped = |report: &Document| report.capture.skipped.values().sum::<u64>();
        assert_eq!(skipped(&session.snapshot().document), 1);
        let report = session.finish().unwrap().document;
        assert_eq!(skipped(&report), 5);
        assert_eq!((&*report.capture.source, report.capture.dropped), ("waiting", 7));
        assert_eq!(report.capture.interfaces, ["here"]);
    }
}
