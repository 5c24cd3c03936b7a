//! Which sources have done something of late.

use std::time::Duration;

use prefetch_index::prefetch_index;

use crate::time::Timestamp;

/// A set of keyed hashes that forgets: two Bloom filters, of which the older is dropped in turn.
///
/// Whatever was entered is found for at least one period and at most two. With two bits each, a
/// tenth as many entries in a period as a filter has bits give 4 % false hits. Both bits lie in one
/// cache line (a blocked filter; Putze, Sanders and Singler 2009), so that each entry costs one
/// miss, and none that anything waits for.
#[derive(Clone)]
pub struct Recent {
    current: Box<[u64]>,
    previous: Box<[u64]>,
    /// Hashes whose places are being fetched.
    fetching: Vec<u64>,
    period: Duration,
    since: Timestamp,
    /// Nothing was ever entered, and neither filter's memory is touched: to look up a few hashes in
    /// it, as `--once` does, would cost more than all else.
    unused: bool,
}

impl Recent {
    /// An empty set of two filters of `2^lg_bits` bits that remembers for `period`, from `now` on.
    #[must_use]
    pub fn new(lg_bits: u32, period: Duration, now: Timestamp) -> Self {
        // Zeros of its own for each: memory that nobody has written to yet costs nothing, a copy
        // does.
        let empty = || vec![0; 1 << lg_bits.saturating_sub(6)].into_boxed_slice();
        let fetching = Vec::with_capacity(FETCHING);
        Self { current: empty(), previous: empty(), fetching, period, since: now, unused: true }
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Timestamp) {
        self.enter();
        while now - self.since >= self.period {
            std::mem::swap(&mut self.current, &mut self.previous);
            if !self.unused {
                self.current.fill(0);
            }
            // Two empty filters are the same for ever.
            let idle = now - self.since >= self.period * 3;
            self.since = if idle { now } else { self.since + self.period };
            if idle && !self.unused {
                self.previous.fill(0);
            }
        }
    }

    /// Remembers a hash.
    pub fn insert(&mut self, hash: u64) {
        if self.fetching.len() == FETCHING {
            self.enter();
        }
        prefetch_index(&self.current, bits(hash, &self.current)[0].0);
        self.fetching.push(hash);
    }

    fn enter(&mut self) {
        if self.unused && !self.fetching.is_empty() {
            self.unused = false;
            // All of the memory now, so that it never grows. It is zero: a write to each page is
            // enough.
            for filter in [&mut self.current, &mut self.previous] {
                filter.iter_mut().step_by(PAGE).for_each(|word| *word = 0);
            }
        }
        for hash in self.fetching.drain(..) {
            for (word, bit) in bits(hash, &self.current) {
                self.current[word] |= bit;
            }
        }
    }

    /// Has the processor begin to fetch what [`Self::contains`] will look at.
    pub fn prefetch(&self, hash: u64) {
        prefetch_index(&self.current, bits(hash, &self.current)[0].0);
        prefetch_index(&self.previous, bits(hash, &self.previous)[0].0);
    }

    /// Whether a hash was entered within the period (or, rarely, not).
    #[must_use]
    pub fn contains(&self, hash: u64) -> bool {
        let within =
            |filter: &[u64]| bits(hash, filter).iter().all(|(word, bit)| filter[*word] & bit != 0);
        let entered = !self.unused && (within(&self.current) || within(&self.previous));
        entered || self.fetching.contains(&hash)
    }
}

/// Hashes that are fetched at once.
const FETCHING: usize = 16;
/// Words of a cache line.
const LINE: usize = 8;
/// Words of the smallest page of memory.
const PAGE: usize = 4_096 / 8;

/// The words and bits of a hash in a filter whose length is a power of two.
#[expect(clippy::cast_possible_truncation, reason = "masked")]
fn bits(hash: u64, filter: &[u64]) -> [(usize, u64); 2] {
    let line = hash as usize & (filter.len() - 1) & !(LINE - 1);
    let place = |part: u64| (line | (part >> 6) as usize & (LINE - 1), 1 << (part & 63));
    [place(hash >> 46), place(hash >> 55)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_for_one_period_and_forgets_after_two() {
        let start = Timestamp::from_nanos(0);
        let hour = Duration::from_secs(3600);
        let mut set = Recent::new(16, hour, start);
        set.insert(0x1234_5678_9abc_def0);
        assert!(set.contains(0x1234_5678_9abc_def0));
        assert!(!set.contains(0x0fed_cba9_8765_4321));
        set.advance(start + hour);
        assert!(set.contains(0x1234_5678_9abc_def0));
        set.advance(start + hour * 2);
        assert!(!set.contains(0x1234_5678_9abc_def0));
        set.insert(5);
        set.advance(start + hour * 24);
        assert!(!set.contains(5));
    }
}
