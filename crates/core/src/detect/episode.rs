//! What is going on at a service, from the first sign of it until it has been calm for long enough.

use std::time::Duration;

use crate::detect::change::Learning;
use crate::detect::limits::Reason;
use crate::model::Severity;
use crate::stats::Step;
use crate::time::Timestamp;

/// An incident of severity warning or less is over after so much calm.
const CALM: Duration = Duration::from_secs(30);
/// A critical one.
const CALM_CRITICAL: Duration = Duration::from_secs(60);
/// How long after an incident nothing is learned.
const FREEZE: Duration = Duration::from_secs(60);
/// A change that has lasted so long and did not page is the new normal.
const RELEARN: Duration = Duration::from_secs(30 * 60);

/// The incident of one service, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Episode {
    severity: Option<Severity>,
    reason: Reason,
    /// The first step that shows what is going on now.
    onset: Option<Step>,
    raised_at: Timestamp,
    calm_since: Option<Timestamp>,
    cleared_at: Option<Timestamp>,
    /// The first page came by what the queue holds.
    slow: bool,
}

impl Episode {
    /// What may be learned from a step that ends at `at`.
    pub(crate) fn learning(&self, at: Timestamp) -> Learning {
        // The baseline is frozen until a minute after the end of an incident.
        let frozen = self.cleared_at.is_some_and(|cleared| at - cleared < FREEZE);
        match self.severity {
            None => Learning { clear: !frozen, settled: false },
            // That the queue is occupied is no reason not to learn; what that comes from is.
            Some(Severity::Info) => Learning {
                clear: matches!(self.reason, Reason::Occupancy { .. }),
                settled: at - self.raised_at >= RELEARN,
            },
            Some(_) => Learning { clear: false, settled: false },
        }
    }

    /// Takes note of where it began: at `step` if that `shows` anything or an incident is going on
    /// already.
    pub(crate) fn note_onset(&mut self, step: Step, shows: bool) {
        self.onset =
            if shows || self.severity.is_some() { self.onset.or(Some(step)) } else { None };
    }

    /// Takes in the severity that a step alone would give. `slow` says whether the queue fills at a
    /// rate that is low for it, should this be the first page for that reason.
    pub(crate) fn judge(
        &mut self,
        judged: Option<(Severity, Reason)>,
        slow: impl FnOnce(Reason) -> bool,
    ) {
        // What is told is why it is as grave as it is.
        if let Some((severity, reason)) = judged
            && self.severity.is_none_or(|before| severity >= before)
        {
            self.reason = reason;
        }
        let pages = judged.is_some_and(|(severity, _)| severity >= Severity::Warning);
        if pages && self.severity < Some(Severity::Warning) {
            self.slow = slow(self.reason);
        }
    }

    /// Ends the step at `at`: raises, keeps or clears. `calm`: nothing speaks for an attack.
    /// `occupied`: the queue is. Whether it is over with this step.
    pub(crate) fn end_step(
        &mut self,
        at: Timestamp,
        now: Option<Severity>,
        calm: bool,
        occupied: bool,
    ) -> bool {
        let Some(before) = self.severity else {
            self.calm_since = None;
            self.raised_at = at;
            self.severity = now;
            return false;
        };
        let severity = now.map_or(before, |now| now.max(before));
        self.severity = Some(severity);
        // A queue that stays occupied is still worth the word that it is.
        if !calm || (severity == Severity::Info && occupied) {
            self.calm_since = None;
            return false;
        }
        let wait = if severity == Severity::Critical { CALM_CRITICAL } else { CALM };
        let over = at - *self.calm_since.get_or_insert(at) >= wait;
        if over {
            self.cleared_at = Some(at);
            self.severity = None;
        }
        over
    }

    pub(crate) const fn severity(&self) -> Option<Severity> {
        self.severity
    }

    pub(crate) const fn reason(&self) -> Reason {
        self.reason
    }

    pub(crate) const fn onset(&self) -> Option<Step> {
        self.onset
    }

    pub(crate) const fn is_slow(&self) -> bool {
        self.slow
    }
}
