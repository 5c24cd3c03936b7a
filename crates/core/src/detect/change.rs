//! Whether more attempts fail than usual: three series of failures, each with its own baseline.

use crate::detect::baseline::Baseline;
use crate::detect::observation::Observation;
use crate::detect::saved::{SavedBaseline, SavedSeries};

/// The series of failures of one service.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Attempts that were answered and failed.
    failing: Baseline,
    /// The same at full weight: what discounts hide shows here.
    undiscounted: Baseline,
    /// Attempts that nobody answered.
    unanswered: Baseline,
    /// The discounts are ignored.
    distrustful: bool,
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
        Self {
            failing: Baseline::new(),
            undiscounted: Baseline::new(),
            unanswered: Baseline::new(),
            distrustful: false,
        }
    }

    /// Takes in the failures of a step. `backlog` is the length of the queue that they are held
    /// against.
    pub(crate) fn step(&mut self, seen: &Observation, backlog: f64, learning: Learning) {
        for (baseline, failures) in [
            (&mut self.failing, seen.failed),
            (&mut self.undiscounted, seen.undiscounted),
            (&mut self.unanswered, seen.unanswered),
        ] {
            let learns = learning.from(baseline);
            baseline.weigh(seen.weight);
            baseline.step(seen.completed, failures, backlog, learns);
        }
    }

    /// Decides whether the discounts are ignored, where requests stay in the queue for long. Honest
    /// clients too may leave many behind: what is discounted has to reach the rate that fills the
    /// queue.
    pub(crate) fn distrust(&mut self, stale: bool, filling_rate: f64) {
        self.distrustful = stale && self.undiscounted.excess_rate() >= filling_rate;
    }

    /// Whether the discounts are ignored.
    pub(crate) const fn is_distrustful(&self) -> bool {
        self.distrustful
    }

    /// Those baselines whose word counts now.
    fn baselines(&self) -> impl Iterator<Item = &Baseline> {
        let undiscounted = self.distrustful.then_some(&self.undiscounted);
        [&self.failing, &self.unanswered].into_iter().chain(undiscounted)
    }

    /// The highest CUSUM in units of its limit.
    pub(crate) fn level(&self) -> f64 {
        self.baselines().map(Baseline::level).fold(0.0, f64::max)
    }

    /// Failing attempts per second beyond the normal.
    pub(crate) fn excess_rate(&self) -> f64 {
        let undiscounted = if self.distrustful { self.undiscounted.excess_rate() } else { 0.0 };
        let failing = self.failing.excess_rate().max(undiscounted);
        failing.max(0.0) + self.unanswered.excess_rate().max(0.0)
    }

    /// The same over the last two seconds: of a rate that still rises it tells more.
    pub(crate) fn present_rate(&self) -> f64 {
        self.baselines().map(Baseline::present_rate).fold(0.0, f64::max)
    }

    /// Whether it is more than a burst.
    pub(crate) fn is_sustained(&self) -> bool {
        self.baselines().any(Baseline::is_sustained)
    }

    /// Whether it is enough where the queue fills at the same time.
    pub(crate) fn is_probable(&self) -> bool {
        self.baselines().any(Baseline::is_probable)
    }

    /// Whether nothing goes beyond what is allowed for.
    pub(crate) fn is_calm(&self) -> bool {
        self.baselines().all(Baseline::is_calm)
    }

    /// Whether no CUSUM holds anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.failing.is_empty() && self.unanswered.is_empty()
    }

    /// Forgets what is left in the CUSUMs: it belongs to an incident that is over.
    pub(crate) fn restart(&mut self) {
        self.failing.restart();
        self.undiscounted.restart();
        self.unanswered.restart();
    }

    /// What was learned: of failures, of all at full weight, of what nobody answered.
    pub(crate) fn saved(&self) -> [SavedSeries; 3] {
        [&self.failing, &self.undiscounted, &self.unanswered].map(Baseline::saved)
    }

    /// Goes on from what was learned before.
    pub(crate) fn restore(&mut self, saved: &SavedBaseline) {
        self.failing.restore(&saved.failing);
        self.undiscounted.restore(&saved.undiscounted);
        self.unanswered.restore(&saved.unanswered);
    }
}
