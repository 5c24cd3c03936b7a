//! How much of a SYN queue is taken, and by what.

use std::time::Duration;

use crate::detect::baseline::{D, Ewma};
use crate::detect::observation::Observation;
use crate::time::Timestamp;

/// A part of the queue that is worth a word once it is taken for [`OCCUPIED`].
pub(crate) const OCCUPIED_PART: f64 = 0.25;
/// See [`OCCUPIED_PART`].
pub(crate) const OCCUPIED: Duration = Duration::from_secs(10);
/// Occupancy of a queue that is as good as full: places that become free are taken at once.
pub(crate) const FULL: f64 = 0.95;

/// A queue that is at its limit for so long, in so many looks at the kernel, is no burst: of honest
/// requests each leaves within a round trip.
pub(crate) const OVERFLOWING: Duration = Duration::from_secs(5);
const OVERFLOWING_LOOKS: u32 = 3;

/// Whether the kernel finds a SYN queue at its limit and turns requests away, look after look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Overflow {
    since: Timestamp,
    looks: u32,
}

impl Overflow {
    /// Takes in what a look at the kernel has shown.
    pub(crate) fn look(&mut self, at: Timestamp, overflows: bool) {
        if !overflows {
            *self = Self::default();
            return;
        }
        if self.looks == 0 {
            self.since = at;
        }
        self.looks = self.looks.saturating_add(1);
    }

    /// Whether that has lasted up to the look at `at`.
    pub(crate) fn lasts(&self, at: Timestamp) -> bool {
        self.looks >= OVERFLOWING_LOOKS && at - self.since >= OVERFLOWING
    }
}

/// The SYN queue of one service.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    half_open: u64,
    /// Half-open connections more, per second.
    fill_rate: Ewma,
    usual_occupancy: Ewma,
    occupied_since: Option<Timestamp>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            half_open: 0,
            fill_rate: Ewma::new(5.0 / D),
            usual_occupancy: Ewma::new(600.0 / D),
            occupied_since: None,
        }
    }

    /// Takes in a step. `first`: what is there did not come within it. `cold`: the usual is not
    /// known yet.
    pub(crate) fn step(&mut self, seen: &Observation, first: bool, cold: bool, learns: bool) {
        let before = if first { seen.half_open } else { self.half_open };
        #[expect(clippy::cast_precision_loss, reason = "a queue has at most 2^32 places")]
        self.fill_rate.add((seen.half_open as f64 - before as f64) / D);
        self.half_open = seen.half_open;
        let occupancy = self.occupancy(seen.backlog);
        // A short queue may be half full of honest failures at any time: that is not worth a word.
        // Not knowing better, it is taken to be a third full: pruning keeps it near one half.
        let usual = if cold { 1.0 / 3.0 } else { self.usual_occupancy.mean().min(0.5) };
        let unusual = 1.5 * usual;
        let occupied = occupancy >= unusual.max(OCCUPIED_PART);
        self.occupied_since = occupied.then(|| self.occupied_since.unwrap_or(seen.at));
        if learns {
            self.usual_occupancy.add(occupancy);
        }
    }

    /// Whether more of it than usual has been taken for long.
    pub(crate) fn is_occupied(&self, at: Timestamp) -> bool {
        self.occupied_since.is_some_and(|since| at - since >= OCCUPIED)
    }

    /// Whether nothing is in it.
    pub(crate) const fn is_empty(&self) -> bool {
        self.half_open == 0
    }

    /// Half-open connections in proportion to the limit.
    #[expect(clippy::cast_precision_loss, reason = "a queue has at most 2^32 places")]
    pub(crate) fn occupancy(&self, backlog: u32) -> f64 {
        self.half_open as f64 / f64::from(backlog.max(1))
    }

    /// Seconds until the queue is full, where it fills.
    pub(crate) fn seconds_to_full(&self, backlog: u32) -> Option<f64> {
        let rate = self.fill_rate.mean();
        #[expect(clippy::cast_precision_loss, reason = "a queue has at most 2^32 places")]
        let left = f64::from(backlog) - self.half_open as f64;
        (rate > 0.5 && left > 0.0).then(|| left / rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lasts(seconds: impl Iterator<Item = u64>, overflows: impl Fn(u64) -> bool) -> bool {
        let mut overflow = Overflow::default();
        let mut last = Timestamp::EPOCH;
        for second in seconds {
            last = Timestamp::EPOCH + Duration::from_secs(second);
            overflow.look(last, overflows(second));
        }
        overflow.lasts(last)
    }

    #[test]
    fn an_overflow_lasts_for_five_seconds_and_three_looks() {
        assert!(lasts(0..=5, |_| true));
        assert!(!lasts(0..=4, |_| true), "a burst");
        assert!(!lasts((0..=10).step_by(10), |_| true), "two looks");
        assert!(lasts((0..=20).step_by(10), |_| true));
        assert!(!lasts(0..=20, |second| second % 3 != 0), "bursts, one after another");
    }
}
