//! How long a server waits before it repeats its SYN-ACK, by which its half-open connections are
//! counted.
//!
//! A tracker tells when first repeats come; what they show is [learned](Learner) from all of a
//! service together, so it is the same however the flows are divided.

use std::time::Duration;

use crate::flow::calendar::{BIN, Bins};
use crate::time::Timestamp;

/// The time from an answer to its first repeat, in bins beyond the shortest. Each further wait is
/// twice as long.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Patience(u8);

impl Patience {
    /// That of Linux: 1 s (`TCP_TIMEOUT_INIT`, RFC 6298).
    pub const LINUX: Self = Self(0);

    /// Bits that it takes.
    pub(super) const BITS: u32 = 6;
    const SHORTEST: Bins = Bins::lasting(Duration::from_secs(1));
    /// The first repeat comes as early as that of Linux, whose timer may be late by an eighth, or
    /// earlier.
    const EARLY: Bins = Bins::lasting(Duration::from_millis(1_250));
    /// The longest that can be learned: what the calendar of unconfirmed connections holds with its
    /// slack.
    const LONGEST: Bins = Bins::lasting(Duration::from_millis(3_500));
    /// As much as the calendar of confirmed connections holds.
    const HORIZON: u32 = 1_023;

    /// That of a server whose first repeat comes after so long, within the bounds.
    pub(super) const fn of(first_repeat: Bins) -> Self {
        let bins = if first_repeat.0 > Self::LONGEST.0 { Self::LONGEST.0 } else { first_repeat.0 };
        Self(bins.saturating_sub(Self::SHORTEST.0) as u8)
    }

    /// The same from its bits.
    pub(super) const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// [`Self::BITS`] bits that tell it.
    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    /// When the first repeat comes.
    const fn first_repeat(self) -> Bins {
        Bins(Self::SHORTEST.0 + self.0 as u32)
    }

    /// How long a half-open connection is counted after its answer was repeated `repeats` times.
    ///
    /// Linux repeats after 1, 2, 4, 8, 16 s. It forgets the request when it would have repeated it
    /// once more, or earlier where the queue is half full (`reqsk_timer_handler`). So a repeat that
    /// is overdue means that it is forgotten, or was never kept (a SYN cookie). Linux timers of
    /// more than a few ticks are late by up to an eighth, depending on HZ (`kernel/time/timer.c`,
    /// wheel granularity). The slack is about the middle: a repeat that comes even later revives
    /// the entry. Other servers get the same in proportion.
    pub(super) const fn after(self, repeats: u8) -> Bins {
        const LINUX: [Bins; 6] = [
            Bins::lasting(Duration::from_millis(1_090)),
            Bins::lasting(Duration::from_millis(2_090)),
            Bins::lasting(Duration::from_millis(4_150)),
            Bins::lasting(Duration::from_millis(8_290)),
            Bins::lasting(Duration::from_millis(16_290)),
            Bins::lasting(Duration::from_millis(33_050)),
        ];
        let last = LINUX.len() - 1;
        let linux = LINUX[if (repeats as usize) < last { repeats as usize } else { last }];
        let bins = linux.0 * self.first_repeat().0 / Self::SHORTEST.0;
        Bins(if bins < Self::HORIZON { bins } else { Self::HORIZON })
    }

    /// A length of time as a multiple of that to the first repeat.
    pub(super) fn ratio(self, time: Duration) -> f64 {
        time.as_secs_f64() / (BIN * self.first_repeat().0).as_secs_f64()
    }

    /// Whether an answer that comes so long after the last is a copy of it rather than its repeat.
    pub(super) const fn is_copy(self, waited: Bins) -> bool {
        waited.0 < self.first_repeat().0 / 2
    }

    /// The patience of who sends its first repeat after so long, where this one is expected: a
    /// repeat that comes as early as that of Linux is one.
    pub(super) fn unless_early(self, first_repeat: Bins) -> Self {
        if is_early(first_repeat) { Self::LINUX } else { self }
    }
}

/// Whether a first repeat comes as early as that of Linux, and is no copy.
fn is_early(first_repeat: Bins) -> bool {
    first_repeat < Patience::EARLY && !Patience::LINUX.is_copy(first_repeat)
}

/// First repeats of a service's answers, by when they came.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FirstRepeats {
    /// As early as those of Linux.
    early: u32,
    /// Later, up to the longest patience. Beyond it the first was missed.
    late: u32,
    /// A bit for each bin that a late one came in.
    bins: u64,
}

impl FirstRepeats {
    /// Counts a first repeat that came so long after its answer.
    pub fn note(&mut self, after: Bins) {
        if is_early(after) {
            self.early += 1;
        } else if (Patience::EARLY..=Patience::LONGEST).contains(&after) {
            self.late += 1;
            self.bins |= 1 << after.0;
        }
    }

    /// Adds others.
    pub const fn add(&mut self, other: &Self) {
        self.early += other.early;
        self.late += other.late;
        self.bins |= other.bins;
    }

    /// Where all late ones agree within a quarter, the latest of them; some servers' timers tick
    /// twice a second.
    fn agreed(&self) -> Option<Bins> {
        let (earliest, latest) = (self.bins.trailing_zeros(), self.bins.checked_ilog2()?);
        (latest * 4 <= earliest * 5).then_some(Bins(latest))
    }
}

/// Learns the patience of a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Learner {
    patience: Patience,
    /// What came since it was last asked.
    seen: FirstRepeats,
    /// Late ones in a row that agree.
    run: FirstRepeats,
    /// When early ones came last.
    early_at: Option<Timestamp>,
}

impl Learner {
    /// Late first repeats that it takes. A capture that loses 30 % takes the second repeat of
    /// Linux, after 3 s, for the first one in 0.3 * 0.7 of all cases: 16 times in a row in 10^-11.
    const ENOUGH: u32 = 16;
    /// So long after an early repeat late ones show nothing: they may be the second ones of answers
    /// of the same time.
    const MEMORY: Duration = Duration::from_secs(3);
    /// An early one among so many late ones shows nothing: it may answer a repeated SYN that was
    /// not seen.
    const STRAY: u32 = 8;

    /// Takes in first repeats.
    pub const fn take_in(&mut self, seen: &FirstRepeats) {
        self.seen.add(seen);
    }

    /// The patience that those show that came in since the last call and before; `now` is when the
    /// first of them may have come.
    pub fn learn(&mut self, now: Timestamp) -> Patience {
        let seen = std::mem::take(&mut self.seen);
        if seen.early * Self::STRAY > seen.late {
            *self = Self { early_at: Some(now), ..Self::default() };
        } else if self.early_at.is_none_or(|early| now - early >= Self::MEMORY) {
            self.run.add(&seen);
            if self.run.agreed().is_none() {
                self.run = seen;
            }
            if let Some(latest) = self.run.agreed()
                && self.run.late >= Self::ENOUGH
            {
                self.patience = Patience::of(latest);
                self.run = FirstRepeats::default();
            }
        }
        self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::calendar::{Bin, Calendar};

    /// First repeats of one step, by the bins that they come after.
    fn step(bins: &[(u32, u32)]) -> FirstRepeats {
        let mut seen = FirstRepeats::default();
        for (after, count) in bins {
            (0..*count).for_each(|_| seen.note(Bins(*after)));
        }
        seen
    }

    /// What a learner has learned after each of these steps.
    fn learned(steps: &[FirstRepeats]) -> Vec<u32> {
        let mut learner = Learner::default();
        let learn = |(n, seen): (u32, &FirstRepeats)| {
            learner.take_in(seen);
            learner.learn(Timestamp::EPOCH + Duration::from_millis(250) * n).first_repeat().0
        };
        (0..).zip(steps).map(learn).collect()
    }

    #[test]
    fn the_calendars_hold_every_patience() {
        for bins in 0..200 {
            let patience = Patience::of(Bins(bins));
            assert_eq!(Patience::from_bits(patience.bits()), patience);
            assert!(patience.bits() < 1 << Patience::BITS);
            let (mut unconfirmed, mut confirmed) =
                (Calendar::<64, 0>::default(), Calendar::<1024, 0>::default());
            let due = Bin(0).after(patience.after(0));
            assert_eq!(unconfirmed.enter(due, Bin(0), 1), due);
            for repeats in 1..=16 {
                let due = Bin(0).after(patience.after(repeats));
                assert_eq!(confirmed.enter(due, Bin(0), 1), due);
            }
        }
    }

    #[test]
    fn it_takes_sixteen_that_agree() {
        assert_eq!(learned(&[step(&[(48, 15)]), step(&[]), step(&[(47, 1)])]), [16, 16, 48]);
        assert_eq!(learned(&[step(&[(40, 8), (51, 8)]), step(&[(40, 8), (50, 8)])]), [16, 50]);
        assert_eq!(
            learned(&[step(&[(48, 15)]), step(&[(30, 15)]), step(&[(30, 1)])]),
            [16, 16, 30]
        );
    }

    #[test]
    fn copies_and_second_repeats_show_nothing() {
        assert_eq!(learned(&[step(&[(48, 16), (0, 99), (7, 99), (57, 99), (144, 99)])]), [48]);
    }

    #[test]
    fn an_early_one_ends_it_but_for_a_stray_among_many() {
        let (late, early) = (step(&[(48, 16)]), step(&[(17, 1)]));
        assert_eq!(learned(&[late, early, step(&[(48, 8), (17, 1)])]), [48, 16, 16]);
        assert_eq!(learned(&[late, step(&[(48, 7), (17, 1)])]), [48, 16]);
        assert_eq!(learned(&[late, step(&[(48, 8), (17, 1)])]), [48, 48]);
    }

    #[test]
    fn second_repeats_of_linux_in_the_wake_of_first_ones_teach_nothing() {
        let mut steps = vec![step(&[(17, 70)])];
        steps.resize(12, step(&[(48, 21)]));
        assert_eq!(learned(&steps), [16; 12]);
        steps.push(step(&[(48, 16)]));
        assert_eq!(learned(&steps)[12], 48);
    }
}
