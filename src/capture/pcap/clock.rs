//! Time stamps as a clock that never runs backwards.
//!
//! Stamps come from the recorder's wall clock, which may be set, and single ones are wrong. The
//! order of the records is right. So a step back moves no packet: from there on the file's time
//! counts with an offset. A stamp far ahead is a silence, unless the next record is earlier again:
//! then it is wrong.

use synwatch_core::time::Timestamp;

/// How far stamps may be out of order: buffers of several processors are written one after another.
const WINDOW: u64 = 1_000_000_000;

/// How long after the latest time a clock that was left may come back.
const PAUSE: u64 = 60_000_000_000;

/// The year 2200: no recorder's clock says more.
const END: u64 = 7_258_118_400_000_000_000;

/// Clocks that were left and may come back: records of interfaces whose clocks differ are mixed.
const LEFT: usize = 4;

/// A file's time.
#[derive(Debug)]
pub(super) struct Clock {
    /// Nanoseconds to add to a stamp.
    offset: u64,
    /// The latest time given; never less than [`WINDOW`], which stands for none.
    latest: u64,
    /// Offsets of the clocks that were left, the last of them at the end.
    left: Vec<u64>,
    has_stepped: bool,
}

impl Default for Clock {
    fn default() -> Self {
        Self { offset: 0, latest: WINDOW, left: Vec::new(), has_stepped: false }
    }
}

impl Clock {
    /// Makes a stamp the time that it stands for, where it goes on where the last one was. Else
    /// `false`, and [`Self::judge`] has to say.
    #[inline]
    pub(super) const fn follow(&mut self, stamp: &mut Timestamp) -> bool {
        // Stamps that overflow are far from any time.
        let time = stamp.as_nanos().wrapping_add(self.offset);
        let from_window = time.wrapping_sub(self.latest).wrapping_add(WINDOW);
        if from_window > 2 * WINDOW {
            return false;
        }
        if from_window > WINDOW {
            self.latest = time;
        }
        *stamp = Timestamp::from_nanos(time);
        true
    }

    /// The time of any stamp; `next` is the stamp of the record behind it, where there is one.
    pub(super) fn judge(&mut self, stamp: Timestamp, next: Option<Timestamp>) -> Timestamp {
        let nanos = stamp.as_nanos();
        if nanos > END {
            self.has_stepped = true;
            return Timestamp::from_nanos(self.latest().unwrap_or_default());
        }
        let returns = |offset: &u64| self.comes_back(nanos.saturating_add(*offset));
        if let Some(place) = self.left.iter().rposition(returns) {
            self.has_stepped = true;
            let offset = self.left.remove(place);
            self.leave_for(offset);
        } else if nanos.saturating_add(self.offset) < self.latest {
            self.has_stepped = true;
            self.leave_for(self.latest - nanos);
        } else if self.latest().is_some() && next.is_some_and(|next| self.contradicts(nanos, next))
        {
            self.has_stepped = true;
            return Timestamp::from_nanos(self.latest);
        }
        let time = nanos.saturating_add(self.offset);
        self.latest = self.latest.max(time);
        Timestamp::from_nanos(time)
    }

    /// Whether stamps stepped, or single ones were wrong.
    pub(super) const fn has_stepped(&self) -> bool {
        self.has_stepped
    }

    /// What a record that goes on would be stamped; none before the first.
    pub(super) fn expected(&self) -> Option<Timestamp> {
        self.latest().map(|latest| Timestamp::from_nanos(latest.saturating_sub(self.offset)))
    }

    fn latest(&self) -> Option<u64> {
        (self.latest > WINDOW).then_some(self.latest)
    }

    const fn comes_back(&self, time: u64) -> bool {
        time.saturating_add(WINDOW) >= self.latest && time <= self.latest.saturating_add(PAUSE)
    }

    /// Whether the record behind a stamp far ahead is earlier, and not before what came last.
    fn contradicts(&self, stamp: u64, next: Timestamp) -> bool {
        let next = next.as_nanos();
        stamp.saturating_sub(next) > WINDOW
            && (next.saturating_add(self.offset).saturating_add(WINDOW) >= self.latest
                || self.left.iter().any(|offset| self.comes_back(next.saturating_add(*offset))))
    }

    fn leave_for(&mut self, offset: u64) {
        if self.left.len() == LEFT {
            self.left.remove(0);
        }
        self.left.push(std::mem::replace(&mut self.offset, offset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 1_700_000_000 * SECOND;

    /// The times that stamps get, in seconds after the first.
    fn times(stamps: &[u64]) -> (Vec<u64>, bool) {
        let mut clock = Clock::default();
        let stamp = |index: usize| {
            stamps.get(index).map(|seconds| Timestamp::from_nanos(DAY + seconds * SECOND))
        };
        let mut times = Vec::new();
        for index in 0..stamps.len() {
            let mut time = stamp(index).unwrap();
            if !clock.follow(&mut time) {
                time = clock.judge(time, stamp(index + 1));
            }
            times.push((time.as_nanos() - DAY) / SECOND);
        }
        (times, clock.has_stepped())
    }

    #[test]
    fn silences_are_no_steps() {
        let stamps = [0, 1, 2, 7_200, 7_201, 90_000];
        assert_eq!(times(&stamps), (stamps.to_vec(), false));
    }

    #[test]
    fn a_clock_that_is_set_back_goes_on() {
        assert_eq!(
            times(&[4_000, 4_001, 400, 401, 402]),
            (vec![4_000, 4_001, 4_001, 4_002, 4_003], true)
        );
    }

    #[test]
    fn a_stamp_ahead_of_the_next_is_wrong() {
        assert_eq!(times(&[0, 1, 7_200, 2, 3]), (vec![0, 1, 1, 2, 3], true));
        // With a pause behind it, too.
        assert_eq!(times(&[0, 1, 7_200, 60, 61]), (vec![0, 1, 1, 60, 61], true));
        // The last one of all is a silence.
        assert_eq!(times(&[0, 1, 7_200]), (vec![0, 1, 7_200], false));
    }

    #[test]
    fn a_stamp_far_behind_moves_nothing() {
        assert_eq!(
            times(&[9_000, 9_001, 5, 9_002, 9_003]),
            (vec![9_000, 9_001, 9_001, 9_002, 9_003], true)
        );
    }

    #[test]
    fn two_clocks_that_alternate_are_told_apart() {
        let stamps = [0, 3_600, 3_600, 1, 1, 3_602, 3_602, 3, 3, 3_604, 3_604];
        let (times, stepped) = times(&stamps);
        assert!(stepped);
        // The first pair looks like a silence; from then on time goes its way.
        assert_eq!(times.last(), Some(&3_604), "{times:?}");
    }

    #[test]
    fn no_clock_says_the_year_2554() {
        let mut clock = Clock::default();
        let good = Timestamp::from_nanos(DAY);
        assert_eq!(clock.judge(good, None), good);
        assert_eq!(clock.judge(Timestamp::from_nanos(u64::MAX), None), good);
        let mut time = good;
        assert!(clock.follow(&mut time));
        assert_eq!(time, good);
    }
}
