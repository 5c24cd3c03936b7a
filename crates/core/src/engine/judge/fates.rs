//! What became of the attempts that were drawn in a step.

use std::time::Duration;

use crate::engine::shard::{Completed, Known};
use crate::engine::shards::Shards;
use crate::flow::{Fate, Hasher};
use crate::stats::{Attempt, Failure, Recent, network_of, source_of};

/// What a failure counts for whose SYN was repeated as honest clients do.
const WEIGHT_RETRANSMITTED: f64 = 0.1;
/// What one counts for from a network that completed a handshake within the hour. (Both discounts
/// can be gamed: the detector follows the failures without them too.)
const WEIGHT_KNOWN: f64 = 0.2;

/// Attempts of one step by what became of them.
#[derive(Default)]
pub(super) struct Fates {
    /// Answered, and not completed.
    pub failed: Vec<Failure>,
    pub unanswered: Vec<Failure>,
    pub completed: Vec<Attempt>,
    pub refused: Vec<Attempt>,
}

impl Fates {
    /// Share of the failures that no scanner made: what that does is told as a scan.
    #[expect(clippy::cast_precision_loss, reason = "at most a few dozen")]
    pub fn unexplained(&self) -> f64 {
        let scanned = self.failed.iter().filter(|failure| failure.weight == 0.0).count();
        1.0 - scanned as f64 / self.failed.len().max(1) as f64
    }

    /// Those that count for something.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> + Clone {
        self.failed.iter().chain(&self.unanswered).filter(|failure| failure.weight > 0.0)
    }
}

/// Who was seen before.
pub(super) struct Past {
    pub hasher: Hasher,
    /// Sources and networks that completed a handshake.
    pub completed: Completed,
    /// Sources whose attempts failed in the last minute or two.
    pub failed_sources: Recent,
}

impl Past {
    /// Looks up what became of `attempts`.
    pub fn fates(&self, attempts: &[Attempt], shards: &Shards) -> Fates {
        let completed = self.completed.look();
        // All that is random access is fetched before it is looked at.
        for attempt in attempts {
            shards.prefetch(attempt.flow);
            let (source, network) = self.origin(attempt);
            completed.networks.prefetch(network);
            completed.sources.prefetch(source);
            self.failed_sources.prefetch(source);
        }
        let mut fates = Fates::default();
        for attempt in attempts {
            let (fate, retransmitted) = shards.fate(attempt.flow, attempt.isn);
            let failure = |reset| self.failure(*attempt, &completed, retransmitted, reset);
            match fate {
                Fate::HalfOpen => fates.failed.push(failure(None)),
                Fate::Reset(after) => fates.failed.push(failure(Some(after))),
                Fate::Unanswered => fates.unanswered.push(failure(None)),
                Fate::Completed => fates.completed.push(*attempt),
                Fate::Refused => fates.refused.push(*attempt),
                Fate::Unknown => {}
            }
        }
        fates
    }

    /// What an attempt counts for that failed.
    pub fn failure(
        &self,
        attempt: Attempt,
        completed: &Known,
        retransmitted: bool,
        reset: Option<Duration>,
    ) -> Failure {
        let (source, network) = self.origin(&attempt);
        let weight = match (retransmitted, completed.networks.contains(network)) {
            (true, _) => WEIGHT_RETRANSMITTED,
            (false, true) => WEIGHT_KNOWN,
            (false, false) => 1.0,
        };
        let new = !completed.sources.contains(source);
        let returning = self.failed_sources.contains(source);
        Failure { attempt, retransmitted, reset, new, returning, weight }
    }

    /// Remembers the source of an attempt that failed.
    pub fn note_failure(&mut self, failure: &Failure) {
        let source = source_of(failure.attempt.source);
        self.failed_sources.insert(self.hasher.address(source));
    }

    /// Hashes of the source of an attempt, and of its network.
    fn origin(&self, attempt: &Attempt) -> (u64, u64) {
        let hash = |address| self.hasher.address(address);
        (hash(source_of(attempt.source)), hash(network_of(attempt.source)))
    }
}
