//! Whether more attempts fail than usual: three series of failures, each with its own baseline.

use crate::detect::baseline::Baseline;
use crate::detect::observation::Observation;
use crate::detect::outage::Unexcused;
use crate::detect::saved::{SavedBaseline, SavedSeries};

/// The series of failures of one service.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Attempts that were answered and failed.
    failing: Baseline,
    /// Attempts that nobody answered.
    unanswered: Baseline,
    /// Attempts that nobody answered though the queue had room: they are no part of a flood.
    filtered: Baseline,
}

/// From which series may be learned now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Learning {
    /// Nothing is going on: from those that are well below their limit.
    pub clear: bool,
    /// What is going on has become the normal: from all.
    pub settled: bool,
}

impl Learning {
    /// Whether anything may be learned.
    pub(crate) const fn any(self) -> bool {
        self.clear || self.settled
    }

    fn from(self, baseline: &Baseline) -> bool {
        self.settled || (self.clear && baseline.level() < 0.5)
    }
}

impl Change {
    pub(crate) fn new() -> Self {
        Self { failing: Baseline::new(), unanswered: Baseline::new(), filtered: Baseline::new() }
    }

    /// Takes in the failures of a step. `backlog` is the length of the queue that they are held
    /// against.
    pub(crate) fn step(
        &mut self,
        seen: &Observation,
        step: Unexcused,
        backlog: f64,
        learning: Learning,
    ) {
        let late = seen.completed_late;
        for (baseline, completed, failures) in [
            (&mut self.failing, step.completed, step.failed),
            (&mut self.unanswered, late + step.excused_late, step.unanswered),
            (&mut self.filtered, late, seen.filtered),
        ] {
            let learns = learning.from(baseline);
            baseline.weigh(seen.weight);
            baseline.step(completed, failures, backlog, learns);
        }
    }

    /// What a flood shows in.
    fn baselines(&self) -> [&Baseline; 2] {
        [&self.failing, &self.unanswered]
    }

    /// SYNs per second beyond the normal that something before the queue leaves unanswered, where
    /// that is more than a burst.
    pub(crate) fn filtered_rate(&self) -> Option<f64> {
        self.filtered.is_sustained().then(|| self.filtered.excess_rate())
    }

    /// The highest CUSUM in units of its limit.
    pub(crate) fn level(&self) -> f64 {
        self.baselines().into_iter().map(Baseline::level).fold(0.0, f64::max)
    }

    /// Failing attempts per second beyond the normal.
    pub(crate) fn excess_rate(&self) -> f64 {
        self.baselines().into_iter().map(|baseline| baseline.excess_rate().max(0.0)).sum()
    }

    /// The same over the last two seconds: of a rate that still rises it tells more.
    pub(crate) fn present_rate(&self) -> f64 {
        self.baselines().into_iter().map(Baseline::present_rate).fold(0.0, f64::max)
    }

    /// Whether it is more than a burst.
    pub(crate) fn is_sustained(&self) -> bool {
        self.baselines().into_iter().any(Baseline::is_sustained)
    }

    /// Whether it is enough where the queue fills at the same time.
    pub(crate) fn is_probable(&self) -> bool {
        self.baselines().into_iter().any(Baseline::is_probable)
    }

    /// Whether nothing goes beyond what is allowed for.
    pub(crate) fn is_calm(&self) -> bool {
        self.baselines().into_iter().all(Baseline::is_calm)
    }

    /// Whether no CUSUM holds anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.baselines().into_iter().all(Baseline::is_empty)
    }

    /// Forgets what is left in the CUSUMs: it belongs to an incident that is over.
    pub(crate) fn restart(&mut self) {
        self.failing.restart();
        self.unanswered.restart();
        self.filtered.restart();
    }

    /// What was learned: of failures, of what nobody answered.
    pub(crate) fn saved(&self) -> [SavedSeries; 2] {
        [&self.failing, &self.unanswered].map(Baseline::saved)
    }

    /// Goes on from what was learned before.
    pub(crate) fn restore(&mut self, saved: &SavedBaseline) {
        self.failing.restore(&saved.failing);
        self.unanswered.restore(&saved.unanswered);
    }
}
