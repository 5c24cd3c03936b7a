//! The capture thread: owner of the session.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use synwatch_core::engine::Action;
use synwatch_core::observe::{KernelSample, Snapshot, Unknown};
use synwatch_core::time::Timestamp;
use tokio::sync::watch;

use super::{Error, Shared};
use crate::alert::{Alert, Alerts, Change};
use crate::app::Session;
use crate::app::session::Judged;
use crate::baseline_file::Baselines;
use crate::capture::{Batch, Source};
use crate::sys::threads::Confined;

/// How often what was learned is written to the state file.
const KEEP_INTERVAL: Duration = Duration::from_mins(10);

/// What the capture thread owns.
pub(super) struct Capture {
    pub(super) session: Session,
    /// Where the kernel is asked.
    pub(super) samples: Option<Receiver<KernelSample>>,
    pub(super) reports: watch::Sender<Arc<Snapshot>>,
    pub(super) alerts: Alerts,
    /// Where there is a state file.
    pub(super) baselines: Option<Baselines>,
    pub(super) shared: Arc<Shared>,
    /// Why `ok` could not be said as of the last report.
    pub(super) unknown: Vec<Unknown>,
}

impl Capture {
    /// Watches until the daemon is to stop.
    pub(super) fn run(
        mut self,
        sources: Vec<Box<dyn Source>>,
        confined: &Confined,
    ) -> Result<(), Error> {
        // The listeners have their places before the first SYN comes.
        if let Some(sample) =
            self.samples.as_ref().and_then(|s| s.recv_timeout(Duration::from_secs(1)).ok())
        {
            self.session.take_sample(sample);
        }
        self.session = self.session.listen_on_threads(sources, confined)?;
        let outcome = self.watch();
        self.keep_baselines();
        outcome
    }

    fn watch(&mut self) -> Result<(), Error> {
        let mut next_tick = Instant::now();
        // The first time at once: whether it can be written is known when it was just started.
        let mut next_keep = next_tick;
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.shared.turns.fetch_add(1, Ordering::Relaxed);
            let left = next_tick.saturating_duration_since(Instant::now());
            if self.session.feed(left)? == Batch::End {
                return Ok(());
            }
            self.take_samples();
            let now = Instant::now();
            if now >= next_tick {
                let judged = self.session.tick()?;
                self.tell(judged);
                next_tick = self.session.next_tick();
            }
            if now >= next_keep {
                next_keep = now + KEEP_INTERVAL;
                self.keep_baselines();
            }
        }
        Ok(())
    }

    fn keep_baselines(&mut self) {
        if let Some(baselines) = &self.baselines {
            baselines.keep(self.session.baselines());
        }
    }

    fn take_samples(&mut self) {
        let Some(samples) = &self.samples else { return };
        loop {
            match samples.try_recv() {
                Ok(sample) => self.session.take_sample(sample),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.shared.kernel_ok.store(false, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    /// Alerts whom it concerns, and shows how things stand.
    fn tell(&mut self, Judged { actions, snapshot, at }: Judged) {
        self.log_doubts(&snapshot.document.unknown);
        for action in actions {
            self.alerts.send(alert(action, at));
        }
        self.reports.send_replace(Arc::new(snapshot));
    }
}

impl Capture {
    /// Logs when a reason to say `unknown` begins, and when it ends.
    fn log_doubts(&mut self, now: &[Unknown]) {
        for why in now.iter().filter(|why| !self.unknown.contains(why)) {
            tracing::warn!(reason = why.name(), "ok cannot be said: {why}");
        }
        for why in self.unknown.iter().filter(|why| !now.contains(why)) {
            tracing::info!(reason = why.name(), "no longer: {why}");
        }
        if self.unknown != now {
            self.unknown = now.to_vec();
        }
    }
}

fn alert(action: Action, at: Timestamp) -> Alert {
    let (change, detection) = match action {
        Action::Raised(detection) => (Change::Raised, detection),
        Action::Updated(detection) => (Change::Updated, detection),
        Action::Cleared(detection) => (Change::Cleared, detection),
    };
    Alert { change, detection, at }
}
