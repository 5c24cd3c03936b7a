//! Failures that take the place of completions: the answers do not arrive, or the clients are not
//! reached.
//!
//! What looks honest (a SYN that is repeated, a source among the usual clients) is the sender's
//! choice. An outage *replaces* completions, so failures are excused only as far as completions are
//! missing; what is added to the usual counts fully.

use crate::detect::baseline::{D, Ewma};
use crate::detect::observation::Observation;

/// The usual rate is that of the last 10 s, or what is left of a higher one after 10 minutes.
const RATE: f64 = 10.0 / D;
const MEMORY: f64 = 600.0 / D;
/// In an outage so many times the usual may come: the usual is not known exactly, and some clients
/// try again.
const MORE: f64 = 1.1;
/// Part of the usual completions that may be missing: less is loss, not an outage.
const LOSS: f64 = 0.15;
/// An outage has excused so much of the usual completions of a second beyond that, and so many
/// attempts.
const BEGINS: f64 = 0.5;
const LEAST: f64 = 20.0;

/// Whether the completions of one service are missing, and which failures that explains.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    rate: Ewma,
    /// Completions per step while all was well.
    usual: f64,
    /// Completions that are missing and have excused no failure yet: what comes in one step may be
    /// missing in the one before.
    missing: f64,
    /// The clamped CUSUM of what was excused beyond [`LOSS`], of attempts that were answered: of the
    /// others it is not the answer that is lost.
    sum: f64,
}

/// What is left of the failures of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unexcused {
    /// Completions, with those that the excused failures took the place of.
    pub completed: f64,
    pub failed: f64,
    /// What is left of those that nobody answered, and how many were excused.
    pub unanswered: f64,
    pub excused_late: f64,
}

impl Outage {
    pub(crate) fn new() -> Self {
        Self { rate: Ewma::new(RATE), usual: 0.0, missing: 0.0, sum: 0.0 }
    }

    /// Takes in a step, and returns what is left of its failures. `learns`: no incident is going
    /// on.
    pub(crate) fn step(&mut self, seen: &Observation, learns: bool) -> Unexcused {
        let expected = if self.is_on() { MORE * self.usual } else { self.usual };
        self.missing = (self.missing + expected - seen.completed).clamp(0.0, 2.0 * expected);
        let failed = seen.excused.min(self.missing);
        let unanswered = seen.unanswered_excused.min(self.missing - failed);
        self.missing -= failed + unanswered;
        let limit = self.limit();
        self.sum = (self.sum + failed - LOSS * self.usual).clamp(0.0, 2.0 * limit);
        self.rate.add(seen.completed);
        if learns && self.sum == 0.0 {
            self.usual = self.rate.mean().max(self.usual * (-1.0 / MEMORY).exp());
        }
        Unexcused {
            completed: seen.completed + failed,
            failed: seen.failed - failed,
            unanswered: seen.unanswered - unanswered,
            excused_late: unanswered,
        }
    }

    /// What is left of the young attempts that are not complete.
    pub(crate) fn young(&self, seen: &Observation) -> f64 {
        let completed = f64::from(seen.young) - seen.young_incomplete;
        let missing = (self.usual / D - completed).max(0.0);
        seen.young_incomplete - seen.young_excused.min(missing)
    }

    /// Whether there is an outage.
    pub(crate) fn is_on(&self) -> bool {
        self.sum > 0.0 && self.sum >= self.limit()
    }

    /// Completions per second while all is well.
    pub(crate) fn usual_rate(&self) -> f64 {
        self.usual / D
    }

    fn limit(&self) -> f64 {
        (BEGINS * self.usual / D).max(LEAST)
    }
}
