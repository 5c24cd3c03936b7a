//! Counts of things that are due: a timer wheel that holds numbers instead of timers.
//!
//! A flow's deadline is a [`Bin`]. Every kind of thing that is counted has a calendar with one
//! count per bin. When a bin passes, whatever it still counts has expired, all at once; no list of
//! timers is kept and no table is walked, so the cost of time is the same with one flow as with a
//! million. A flow that is touched later knows by its deadline that it was already taken off.

use std::time::Duration;

/// The length of a bin: 62.5 ms, a quarter of the detector's step.
pub const BIN: Duration = Duration::from_micros(62_500);

/// A point in time in units of [`BIN`] since the engine's start; 32 bits last 8.5 years.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Bin(pub u32);

/// A length of time in units of [`BIN`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Bins(pub u32);

impl Bins {
    /// The fewest that last at least so long; at most 2^32 - 1.
    pub const fn lasting(duration: Duration) -> Self {
        let bins = duration.as_nanos().div_ceil(BIN.as_nanos());
        Self(if bins > u32::MAX as u128 { u32::MAX } else { bins as u32 })
    }
}

impl Bin {
    /// So many bins later.
    pub const fn after(self, bins: Bins) -> Self {
        Self(self.0.saturating_add(bins.0))
    }
}

/// Counts by deadline, for deadlines less than `2^SHIFT * LENGTH` bins ahead. One count covers
/// `2^SHIFT` bins.
#[derive(Clone, Debug, Default)]
pub struct Calendar<const LENGTH: usize, const SHIFT: u32> {
    /// Nothing before the first count: most of a thousand services never come. A table of 2^24
    /// flows that stand for 2^16 each would have to be due in one bin, nearly all of it half-open,
    /// to be too many for 32 bits.
    counts: Option<Box<[u32; LENGTH]>>,
    total: u64,
}

impl<const LENGTH: usize, const SHIFT: u32> Calendar<LENGTH, SHIFT> {
    /// The bins of a count, less one.
    const MASK: u32 = (1 << SHIFT) - 1;

    /// How many are not yet due.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The latest deadline that can be entered at `now`.
    const fn horizon(now: Bin) -> Bin {
        Bin(now.0.saturating_add(((LENGTH as u32) - 1) << SHIFT))
    }

    /// Rounds a deadline to what the calendar can hold at `now`: the last bin of its count, within
    /// the horizon and not before `now`.
    #[inline]
    pub fn round(deadline: Bin, now: Bin) -> Bin {
        let deadline = deadline.max(now).min(Self::horizon(now));
        Bin(deadline.0 | Self::MASK)
    }

    fn slot(&mut self, deadline: Bin) -> &mut u32 {
        let counts = self.counts.get_or_insert_with(|| Box::new([0; LENGTH]));
        &mut counts[(deadline.0 >> SHIFT) as usize % LENGTH]
    }

    /// Counts `weight` more that are due at `deadline`, or as near to that as can be held at `now`;
    /// returns when they will be due.
    #[inline]
    pub fn enter(&mut self, deadline: Bin, now: Bin, weight: u32) -> Bin {
        let deadline = Self::round(deadline, now);
        let slot = self.slot(deadline);
        let entered = weight.min(u32::MAX - *slot);
        *slot += entered;
        self.total += u64::from(entered);
        deadline
    }

    /// Takes `weight` off that were entered until `deadline` and are not yet due.
    #[inline]
    pub fn remove(&mut self, deadline: Bin, weight: u32) {
        let slot = self.slot(deadline);
        debug_assert!(*slot >= weight, "struck what was never entered");
        let struck = (*slot).min(weight);
        *slot -= struck;
        self.total -= u64::from(struck);
    }

    /// Closes the bin `bin`, which must be called for every bin in turn; returns how many expired
    /// in it.
    pub fn close(&mut self, bin: Bin) -> u64 {
        if self.total == 0 || bin.0 & Self::MASK != Self::MASK {
            return 0;
        }
        let expired = u64::from(std::mem::take(self.slot(bin)));
        self.total -= expired;
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bins_round_up() {
        assert_eq!(Bins::lasting(Duration::ZERO), Bins(0));
        assert_eq!(Bins::lasting(Duration::from_nanos(1)), Bins(1));
        assert_eq!(Bins::lasting(Duration::from_secs(1)), Bins(16));
        assert_eq!(Bins::lasting(Duration::MAX), Bins(u32::MAX));
    }

    #[test]
    fn an_entry_expires_in_its_bin_and_not_before() {
        let mut calendar = Calendar::<8, 0>::default();
        assert_eq!(calendar.enter(Bin(5), Bin(0), 8), Bin(5));
        calendar.enter(Bin(5), Bin(0), 1);
        calendar.enter(Bin(6), Bin(0), 1);
        calendar.remove(Bin(5), 8);
        assert_eq!((0..5).map(|bin| calendar.close(Bin(bin))).sum::<u64>(), 0);
        assert_eq!(calendar.close(Bin(5)), 1);
        assert_eq!(calendar.total(), 1);
        assert_eq!(calendar.close(Bin(6)), 1);
    }

    proptest! {
        /// Whatever is entered and not struck expires exactly once, not before its deadline and
        /// less than one count after it.
        #[test]
        fn nothing_is_lost(deadlines in proptest::collection::vec(0_u32..400, 0..200)) {
            check::<0>(&deadlines)?;
            check::<1>(&deadlines)?;
            check::<2>(&deadlines)?;
            check::<3>(&deadlines)?;
        }
    }

    fn check<const SHIFT: u32>(deadlines: &[u32]) -> Result<(), TestCaseError> {
        let mut calendar = Calendar::<128, SHIFT>::default();
        let mut pending = Vec::new();
        let mut entered = deadlines.iter().enumerate();
        for now in 0..2_000_u32 {
            if let Some((_, ahead)) = entered.next() {
                let deadline = calendar.enter(Bin(now + ahead), Bin(now), 1);
                prop_assert!(deadline.0 >= now);
                pending.push(deadline);
            }
            let expired = calendar.close(Bin(now));
            let due = pending.iter().filter(|deadline| deadline.0 == now).count() as u64;
            prop_assert_eq!(expired, due);
            pending.retain(|deadline| deadline.0 > now);
            prop_assert_eq!(calendar.total(), pending.len() as u64);
        }
        prop_assert_eq!(calendar.total(), 0);
        Ok(())
    }
}
