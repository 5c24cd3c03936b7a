//! The capture thread: owner of the engine.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use synwatch_core::engine::{Action, Engine};
use synwatch_core::observe::{KernelSample, Report};
use synwatch_core::time::Timestamp;
use synwatch_core::wire::Fragments;
use tokio::sync::watch;

use super::{Error, Shared};
use crate::alert::{Alert, Alerts, Change};
use crate::app::feed::{Selector, catch_up, feed, selection};
use crate::app::team::Team;
use crate::app::{Clock, Host, Load, take_sample};
use crate::capture::Source;
use crate::config::Config;
use crate::state::Baselines;
use crate::sys::threads::Confined;

/// How often what was learned is written to the state file.
const KEEP_INTERVAL: Duration = Duration::from_mins(10);

/// Who looks at packets.
pub(super) enum Wire {
    /// Nobody may.
    Nothing,
    /// The capture thread itself.
    One { source: Box<dyn Source>, selector: Selector },
    /// A thread for each shard.
    Many { team: Team, loads: Vec<Load> },
}

impl Wire {
    /// Begins to look.
    fn start(
        mut sources: Vec<Box<dyn Source>>,
        confined: &Confined,
        engine: &mut Engine,
        host: &Host,
        clock: Clock,
    ) -> io::Result<Self> {
        if sources.len() > 1 {
            let loads = sources.iter().map(|_| Load::of_new_thread()).collect();
            return Ok(Self::Many {
                loads,
                team: Team::start(confined, sources, engine, host, clock)?,
            });
        }
        Ok(sources
            .pop()
            .map_or(Self::Nothing, |source| Self::One { source, selector: Selector::default() }))
    }

    /// Runs `work` while the engine has all of its shards.
    fn assemble<T>(&self, engine: &mut Engine, work: impl FnOnce(&mut Engine) -> T) -> T {
        match self {
            Self::Many { team, .. } => team.assemble(engine, work),
            _ => work(engine),
        }
    }
}

/// The capture thread: owner of the engine.
pub(super) struct Capture {
    pub(super) engine: Engine,
    pub(super) wire: Wire,
    pub(super) samples: Option<Receiver<KernelSample>>,
    pub(super) reports: watch::Sender<Arc<Report>>,
    pub(super) alerts: Alerts,
    pub(super) baselines: Option<Baselines>,
    pub(super) clock: Clock,
    pub(super) load: Load,
    pub(super) config: Config,
    pub(super) host: Host,
    pub(super) shared: Arc<Shared>,
}

impl Capture {
    pub(super) fn run(
        mut self,
        sources: Vec<Box<dyn Source>>,
        confined: &Confined,
    ) -> Result<(), Error> {
        let outcome = self.watch(sources, confined);
        self.keep_baselines();
        outcome
    }

    fn watch(&mut self, sources: Vec<Box<dyn Source>>, confined: &Confined) -> Result<(), Error> {
        // The listeners have their places before the first SYN comes.
        if let Some(sample) =
            self.samples.as_ref().and_then(|s| s.recv_timeout(Duration::from_secs(1)).ok())
        {
            self.take_sample(sample);
        }
        self.wire = Wire::start(sources, confined, &mut self.engine, &self.host, self.clock)?;
        let mut fragments = Fragments::new(self.engine.hasher().state());
        let mut next_tick = Instant::now();
        // The first time at once: whether it can be written is known when it was just started.
        let mut next_keep = next_tick;
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.shared.turns.fetch_add(1, Ordering::Relaxed);
            let left = next_tick.saturating_duration_since(Instant::now());
            match &mut self.wire {
                Wire::Nothing => thread::sleep(left),
                Wire::One { source, .. } => {
                    let correction = || self.clock.correction();
                    let (engine, source) = (&mut self.engine, source.as_mut());
                    feed(engine, source, left, correction, &self.host, &mut fragments)?;
                }
                Wire::Many { team, .. } => {
                    thread::sleep(left);
                    if let Some(end) = team.ended() {
                        return Ok(end?);
                    }
                }
            }
            self.take_samples();
            let now = Instant::now();
            if now >= next_tick {
                let settled = self.clock.settled();
                if let Wire::One { source, .. } = &mut self.wire {
                    let (engine, source) = (&mut self.engine, source.as_mut());
                    catch_up(engine, source, &self.clock, &self.host, &mut fragments)?;
                }
                self.tick(settled);
                next_tick = self.clock.when_settled(self.engine.step_end());
            }
            if now >= next_keep {
                next_keep = now + KEEP_INTERVAL;
                self.keep_baselines();
            }
        }
        Ok(())
    }

    fn keep_baselines(&self) {
        if let Some(baselines) = &self.baselines {
            baselines.keep(self.engine.baselines());
        }
    }

    fn take_sample(&mut self, sample: KernelSample) {
        let Self { engine, wire, host, config, .. } = self;
        wire.assemble(engine, |engine| take_sample(engine, host, config, sample));
        if let Wire::Many { team, .. } = wire {
            team.learn(host);
        }
    }

    fn take_samples(&mut self) {
        loop {
            let Some(samples) = &self.samples else { return };
            match samples.try_recv() {
                Ok(sample) => self.take_sample(sample),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.shared.kernel_ok.store(false, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    /// Lets time pass up to `now`, and tells what comes of it.
    fn tick(&mut self, now: Timestamp) {
        let Self { engine, wire, .. } = self;
        let load = match wire {
            Wire::Nothing => self.load.share(),
            Wire::One { source, .. } => {
                engine.handle_capture(source.stats());
                self.load.share()
            }
            Wire::Many { team, loads } => {
                engine.handle_capture(team.stats());
                // The one that has most to do counts.
                let shares =
                    loads.iter_mut().zip(team.used()).map(|(load, used)| load.share_of(used));
                shares.fold(0.0, f64::max)
            }
        };
        engine.handle_load(load);
        let (actions, mut report) = wire.assemble(engine, |engine| {
            let actions = engine.tick(now);
            (actions, engine.snapshot(engine.now()))
        });
        for action in actions {
            let (change, detection) = match action {
                Action::Raised(detection) => (Change::Raised, detection),
                Action::Updated(detection) => (Change::Updated, detection),
                Action::Cleared(detection) => (Change::Cleared, detection),
            };
            self.alerts.send(Alert { change, detection, at: engine.now() });
        }
        let selected = selection(engine, &report);
        match wire {
            Wire::Nothing => {}
            Wire::One { source, selector } => {
                report.capture.source = source.name();
                report.capture.interfaces = source.interfaces();
                selector.select(source.as_mut(), &selected);
            }
            Wire::Many { team, .. } => {
                report.capture.source = team.name();
                report.capture.interfaces = team.interfaces();
                team.select(selected);
            }
        }
        self.reports.send_replace(Arc::new(report));
    }
}
