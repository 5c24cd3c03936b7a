//! The engine's time, beside the clock that stamps frames.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use synwatch_core::time::Timestamp;

/// Frames wait in the ring's open block for up to 64 ms; the engine's time stays so far behind the
/// clock, so that it does not run ahead of them.
const SETTLE: Duration = Duration::from_millis(80);

/// The engine's time: the time of day at the start, going on evenly, whatever becomes of the
/// system's clock afterwards. A step of that clock is no silence of an hour, and no hour twice.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Timestamp,
    begin: Instant,
}

impl Clock {
    /// Starts the clock.
    #[must_use]
    pub fn start() -> Self {
        Self { base: wall(), begin: Instant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.base + self.begin.elapsed()
    }

    /// The time up to which all frames have come up.
    #[must_use]
    pub fn settled(&self) -> Timestamp {
        self.now().before(SETTLE)
    }

    /// When all frames up to `at` will have come up.
    #[must_use]
    pub fn when_settled(&self, at: Timestamp) -> Instant {
        self.begin + (at + SETTLE - self.base)
    }

    /// What turns times of the system's clock into this one's, as of now.
    #[must_use]
    pub fn correction(&self) -> Correction {
        let (own, system) = (self.now(), wall());
        let step = (own - system).max(system - own) > STEPPED;
        let ahead = if step { own.as_nanos().wrapping_sub(system.as_nanos()) } else { 0 };
        Correction { ahead, latest: own }
    }
}

/// The difference between two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Correction {
    /// Nanoseconds to add, modulo 2^64.
    ahead: u64,
    /// No time is later: whatever a clock was set to while frames waited.
    latest: Timestamp,
}

impl Correction {
    /// No difference.
    pub const NONE: Self = Self { ahead: 0, latest: Timestamp::from_nanos(u64::MAX) };

    /// The time on the other clock.
    #[must_use]
    pub fn apply(self, at: Timestamp) -> Timestamp {
        Timestamp::from_nanos(at.as_nanos().wrapping_add(self.ahead)).min(self.latest)
    }
}

/// Smaller differences are the slewing of a clock that is being synchronised.
const STEPPED: Duration = Duration::from_millis(500);

fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::EPOCH + since
}
