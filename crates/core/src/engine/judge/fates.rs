//! What became of the attempts that were drawn in a step.

use std::time::Duration;

use crate::detect::LIFETIME;
use crate::engine::shard::{Completed, Known};
use crate::engine::shards::Shards;
use crate::flow::{Fate, Hasher};
use crate::stats::{Attempt, Failure, Recent, network_of, source_of};
use crate::time::Timestamp;

/// How often a scanner tries one service.
const TRIES: u32 = 4;

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
    /// Those that no scanner made.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> + Clone {
        self.failed.iter().chain(&self.unanswered).filter(|failure| !failure.scanned)
    }
}

/// Who was seen before.
pub(super) struct Past {
    pub hasher: Hasher,
    /// Sources and networks that completed a handshake.
    pub completed: Completed,
    /// Sources whose attempts failed in the last minute or two.
    pub failed_sources: Recent,
    /// Services that a scanner tried in this time, each with the scanner.
    pub scanned: Recent,
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
                Fate::Reset(held) => fates.failed.push(failure(Some(held))),
                Fate::Unanswered => {
                    fates.unanswered.push(Failure { unanswered: true, ..failure(None) });
                }
                Fate::Completed => fates.completed.push(*attempt),
                Fate::Refused => fates.refused.push(*attempt),
                Fate::Unknown => {}
            }
        }
        fates
    }

    /// What an attempt counts for that failed; `reset`: how long after its SYN, where it was.
    pub fn failure(
        &self,
        attempt: Attempt,
        completed: &Known,
        retransmitted: bool,
        reset: Option<Duration>,
    ) -> Failure {
        let (source, network) = self.origin(&attempt);
        Failure {
            attempt,
            retransmitted,
            reset,
            new: !completed.sources.contains(source),
            returning: self.failed_sources.contains(source),
            weight: reset.map_or(1.0, |held| held.div_duration_f64(LIFETIME)),
            // An attacker can choose both: no more is excused than completions are missing.
            excused: retransmitted || completed.networks.contains(network),
            unanswered: false,
            scanned: false,
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, at: Timestamp) {
        let mut known = self.completed.look();
        known.sources.advance(at);
        known.networks.advance(at);
        drop(known);
        self.failed_sources.advance(at);
        self.scanned.advance(at);
    }

    /// Takes note of a failure that a scanner made: its first few with the service count for
    /// nothing (tools try again), the next as any other's do.
    pub fn note_scan(&mut self, failure: &mut Failure) {
        let Attempt { source, destination, port, .. } = failure.attempt;
        let service = self.hasher.address(destination).rotate_left(17) ^ u64::from(port);
        let contact = self.hasher.address(source_of(source)) ^ service;
        let tries = (0..TRIES).map(|n| contact.rotate_left(n));
        let fresh = tries.into_iter().find(|contact| !self.scanned.contains(*contact));
        if let Some(contact) = fresh {
            failure.scanned = true;
            failure.weight = 0.0;
            self.scanned.insert(contact);
        }
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
