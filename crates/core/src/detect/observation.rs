//! What a detector is told at the end of a step.

use std::time::Duration;

use crate::detect::limits::RateLimits;
use crate::stats::Step;
use crate::time::Timestamp;

/// The figures of one service at the end of a step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observation {
    /// End of the step.
    pub at: Timestamp,
    /// The step that has matured now.
    pub matured: Step,
    /// Nothing has matured yet: only the young attempts can speak.
    pub immature: bool,
    /// Its attempts that completed.
    pub completed: f64,
    /// Its attempts that were answered and failed, each by the part of a place that it took.
    pub failed: f64,
    /// The part of these that an outage would explain.
    pub excused: f64,
    /// Attempts that nobody answered, of a step that had longer for it.
    pub unanswered: f64,
    /// Those of that step that completed.
    pub completed_late: f64,
    /// The part of these that an outage would explain.
    pub unanswered_excused: f64,
    /// Attempts that nobody answered though the queue had room, and though an answer from afar had
    /// its time.
    pub filtered: f64,
    /// Attempts that are 0.5 to 1.5 s old.
    pub young: u32,
    /// Those of them that are not complete, as `failed`.
    pub young_incomplete: f64,
    /// The part of these that an outage would explain.
    pub young_excused: f64,
    /// Half-open connections by the better witness.
    pub half_open: u64,
    /// The limit of the SYN queue.
    pub backlog: u32,
    /// Limits that are set instead of derived from the backlog.
    pub limits: RateLimits,
    /// The kernel keeps every request to the end of its life (cookies are off, and the limit is not
    /// above half of the listen backlog, from where on it prunes).
    pub unpruned: bool,
    /// The kernel has dropped requests or answered them with cookies because the queue was full.
    pub queue_full: bool,
    /// It does so look after look, by its own count the queue is at its limit, and the wire does not
    /// show what fills it.
    pub overflows: bool,
    /// Attempts that each one counted stands for; 0 is 1.
    pub weight: u32,
}

/// A request lives so long where it is not pruned (`net.ipv4.tcp_synack_retries` = 5).
const UNPRUNED_LIFETIME: Duration = Duration::from_secs(63);
/// And about so long in a queue that is nearly full where it is.
pub(crate) const LIFETIME: Duration = Duration::from_secs(10);
/// Less than this per second fills a queue only where it is so short that any silent client does.
const LEAST_FILLING: f64 = 2.0;

impl Observation {
    /// Failures per second that fill the queue in the end.
    pub(crate) fn filling_rate(&self) -> f64 {
        let lifetime = if self.unpruned { UNPRUNED_LIFETIME } else { LIFETIME };
        (f64::from(self.backlog) / lifetime.as_secs_f64()).max(LEAST_FILLING)
    }
}
