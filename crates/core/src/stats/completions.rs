//! What the SYNs looked like whose handshake completed.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::Fingerprint;
use crate::stats::fingerprint::SeenSyn;
use crate::stats::sample::Attempt;
use crate::time::Timestamp;

/// Completed handshakes that are remembered: 5 % of them are told from 1 % without error.
const KEPT: usize = 256;
/// So many are taken of a step until there are enough.
const PER_STEP: usize = 4;
/// From then on one so often, for a memory of at least four minutes that no burst displaces: an
/// attack is held against the clients from before it.
const EVERY: Duration = Duration::from_secs(1);

impl From<&Attempt> for SeenSyn {
    fn from(attempt: &Attempt) -> Self {
        Self { source: attempt.source, fingerprint: attempt.fingerprint }
    }
}

/// The SYNs of some handshakes that completed, spread over minutes.
#[derive(Clone, Debug)]
pub struct Completions {
    kept: VecDeque<SeenSyn>,
    last: Timestamp,
    limit: usize,
}

impl Default for Completions {
    fn default() -> Self {
        Self { kept: VecDeque::new(), last: Timestamp::EPOCH, limit: KEPT }
    }
}

impl Completions {
    /// Remembers no more than `limit`.
    pub fn resize(&mut self, limit: usize) {
        self.limit = limit.min(KEPT);
        if self.kept.len() > self.limit {
            self.kept.drain(..self.kept.len() - self.limit);
            self.kept.shrink_to(self.limit);
        }
    }

    /// Takes in the sampled attempts of one step that completed.
    pub fn add(&mut self, attempts: &[Attempt]) {
        for attempt in attempts.iter().take(PER_STEP) {
            if self.kept.len() >= self.limit {
                if attempt.at < self.last + EVERY {
                    return;
                }
                self.kept.pop_front();
            }
            self.kept.push_back(attempt.into());
            self.last = attempt.at;
        }
    }

    /// All that are remembered.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &SeenSyn> {
        self.kept.iter()
    }

    /// Share of those that look like `fingerprint`; `None` where none is remembered.
    #[must_use]
    pub fn share_of(&self, fingerprint: &Fingerprint) -> Option<f64> {
        let alike = self.kept.iter().filter(|syn| syn.fingerprint.is(fingerprint)).count();
        #[expect(clippy::cast_precision_loss, reason = "at most a few hundred")]
        (!self.kept.is_empty()).then(|| alike as f64 / self.kept.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{FlowHash, state_test_segment};
    use crate::wire::{Flags, Segment};

    #[test]
    fn a_burst_does_not_displace_the_clients_from_before() {
        let completed = |milliseconds: u64, window| {
            let syn = Segment { window, ..state_test_segment(Flags::SYN, 1, 0) };
            let at = Timestamp::EPOCH + Duration::from_millis(milliseconds);
            Attempt::new(FlowHash(0), at, &syn)
        };
        let mut completions = Completions::default();
        for step in 0..100 {
            completions.add(&[completed(step * 250, 64_240); 64]);
        }
        assert_eq!(completions.iter().len(), KEPT);
        // A minute of another kind, 250 a second.
        for step in 100..340 {
            completions.add(&[completed(step * 250, 512); 64]);
        }
        let new = completions.iter().filter(|syn| syn.fingerprint.window == 512).count();
        assert!((55..=65).contains(&new), "{new}");
    }
}
