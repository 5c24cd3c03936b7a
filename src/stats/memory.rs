//! Which sources have done something of late.

use std::time::Duration;

use prefetch_index::prefetch_index;

use crate::time::Timestamp;

/// A set of keyed hashes that forgets: two Bloom filters, of which the older is dropped in turn.
///
/// Whatever was entered is found for at least one period and at most two. With two bits each, a tenth as
/// many entries in a period as a filter has bits give 4 % false hits. Both bits lie in one cache line (a blocked
/// filter; Putze, Sanders and Singler 2009), so that each entry costs one miss, and none that anything waits for.
#[derive(Clone)]
pub struct Recent {
    current: Filter,
    previous: Filter,
    /// Hashes whose places are being fetched.
    fetching: Vec<u64>,
    period: Duration,
    since: Timestamp,
}

impl Recent {
    /// An empty set of two filters of `2^lg_bits` bits that remembers for `period`, from `now` on.
    #[must_use]
    pub fn new(lg_bits: u32, period: Duration, now: Timestamp) -> Self {
        let empty = || Filter::new(1 << lg_bits.saturating_sub(6));
        let fetching = Vec::with_capacity(FETCHING);
        Self { current: empty(), previous: empty(), fetching, period, since: now }
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Timestamp) {
        self.enter();
        while now - self.since >= self.period {
            std::mem::swap(&mut self.current, &mut self.previous);
            self.current.clear();
            // Two empty filters are the same for ever.
            let idle = now - self.since >= self.period * 3;
            self.since = if idle { now } else { self.since + self.period };
            if idle {
                self.previous.clear();
            }
        }
    }

    /// Remembers a hash.
    pub fn insert(&mut self, hash: u64) {
        if self.fetching.len() == FETCHING {
            self.enter();
        }
        self.current.prefetch(hash);
        self.fetching.push(hash);
    }

    fn enter(&mut self) {
        for hash in self.fetching.drain(..) {
            self.current.insert(hash);
        }
    }

    /// Has the processor begin to fetch what [`Self::contains`] will look at.
    pub fn prefetch(&self, hash: u64) {
        self.current.prefetch(hash);
        self.previous.prefetch(hash);
    }

    /// Whether a hash was entered within the period (or, rarely, not).
    #[must_use]
    pub fn contains(&self, hash: u64) -> bool {
        self.current.contains(hash) || self.previous.contains(hash) || self.fetching.contains(&hash)
    }
}

/// A Bloom filter whose memory is not touched before something is in it.
#[derive(Clone)]
struct Filter {
    /// As many as a power of two.
    words: Box<[u64]>,
    empty: bool,
}

impl Filter {
    fn new(words: usize) -> Self {
        // Zeros of its own: memory that nobody has looked at yet costs nothing, a copy does.
        Self { words: vec![0; words].into_boxed_slice(), empty: true }
    }

    fn clear(&mut self) {
        if !self.empty {
            self.words.fill(0);
            self.empty = true;
        }
    }

    fn prefetch(&self, hash: u64) {
        prefetch_index(&self.words, self.bits(hash)[0].0);
    }

    fn insert(&mut self, hash: u64) {
        self.empty = false;
        for (word, bit) in self.bits(hash) {
            self.words[word] |= bit;
        }
    }

    fn contains(&self, hash: u64) -> bool {
        !self.empty && self.bits(hash).iter().all(|(word, bit)| self.words[*word] & bit != 0)
    }

    /// The words and bits of a hash.
    #[expect(clippy::cast_possible_truncation, reason = "masked")]
    fn bits(&self, hash: u64) -> [(usize, u64); 2] {
        let line = hash as usize & (self.words.len() - 1) & !(LINE - 1);
        let place = |part: u64| (line | (part >> 6) as usize & (LINE - 1), 1 << (part & 63));
        [place(hash >> 46), place(hash >> 55)]
    }
}

/// Hashes that are fetched at once.
const FETCHING: usize = 16;
/// Words of a cache line.
const LINE: usize = 8;

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
