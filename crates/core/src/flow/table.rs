//! A hash table of fixed size for flows: 4-way set-associative, two entries a cache line.
//!
//! A flow can only be in the four places of one set, so look-up, insertion and eviction touch two
//! neighbouring cache lines and take constant time, whatever an attacker sends. Entries hold the
//! flow's sampling hash and not the addresses; with the set's number that tells flows apart but for
//! one chance in 2^32 a comparison.

use std::ops::Range;
use std::time::Duration;

use prefetch_index::prefetch_index;

use crate::flow::calendar::{Bin, Bins};
use crate::flow::key::{FlowHash, FlowKey};
use crate::flow::sampling_hash::SamplingHash;
use crate::flow::state::{Connection, Marks, Role, State};
use crate::wire::SeqNumber;

/// Number of a service in the engine's list of services.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceId(pub u16);

impl ServiceId {
    /// Where attempts are counted that are for no service in the list.
    pub const OTHER: Self = Self(0);
}

/// What is kept of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What tells it apart in its set.
    pub tag: SamplingHash,
    /// Microseconds since the engine's start (modulo 2^32, 71 minutes) at the SYN.
    pub began: u32,
    /// When it expires: it is already taken off every count once this bin is closed.
    pub deadline: Bin,
    /// States and numbers.
    pub connection: Connection,
    /// The service that the client connects to.
    pub service: ServiceId,
    /// Low bits of the numbers of the interfaces that each direction was first seen on, sender
    /// first in canonical order first; 0 for none.
    pub homes: [u8; 2],
}

const WAYS: usize = 4;
/// Sets by which it is told how full the table is: to 2 % of its places.
const SAMPLE: usize = 256;

#[derive(Clone)]
#[repr(align(64))]
struct Set([Option<Entry>; WAYS]);

/// What became of a flow, for those who kept its hash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// Not answered (yet).
    Unanswered,
    /// Answered and not acknowledged (yet).
    HalfOpen,
    /// Completed, or presumed so.
    Completed,
    /// Refused by the server.
    Refused,
    /// Ended by a RST before it completed, so long after its SYN.
    Reset(Duration),
    /// No longer in the table.
    Unknown,
}

/// What fills the flow table, as shares of its places.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fill {
    /// Flows in their handshake.
    pub handshakes: f64,
    /// These, and open connections.
    pub flows: f64,
}

impl Fill {
    /// The larger of each share.
    pub const fn max(self, other: Self) -> Self {
        Self {
            handshakes: self.handshakes.max(other.handshakes),
            flows: self.flows.max(other.flows),
        }
    }
}

/// The table.
pub struct Table {
    sets: Box<[Set]>,
    mask: u64,
}

impl Table {
    /// Parts that the table can be walked in, so that no walk takes long.
    pub const PARTS: usize = 16;

    /// A table for at least `capacity` flows (rounded up to a power of two); its memory is taken at
    /// once and never grows. `prepare` is told where it is before anything is written there.
    pub fn new(capacity: usize, prepare: impl FnOnce(&Range<*const u8>)) -> Self {
        let count = capacity.div_ceil(WAYS).next_power_of_two();
        let mut sets = Vec::with_capacity(count);
        let start: *const Set = sets.as_ptr();
        prepare(&(start.cast()..start.wrapping_add(count).cast()));
        sets.resize(count, Set([const { None }; WAYS]));
        Self { sets: sets.into_boxed_slice(), mask: count as u64 - 1 }
    }

    /// The most flows that it can hold.
    pub fn capacity(&self) -> usize {
        self.sets.len() * WAYS
    }

    /// All entries with the numbers of their sets, expired ones too.
    #[cfg(test)]
    pub fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.sets
            .iter()
            .enumerate()
            .flat_map(|(set, entries)| entries.0.iter().flatten().map(move |entry| (set, entry)))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the set is part of the hash")]
    fn set(&self, hash: FlowHash) -> usize {
        (hash.0 & self.mask) as usize
    }

    /// Has the processor fetch a flow's set, which takes longer than all else that a segment needs.
    #[inline]
    pub fn prefetch(&self, hash: FlowHash) {
        let set = self.set(hash);
        // Both of its cache lines: the second is fetched along with the first, or is the
        // neighbour's.
        prefetch_index(&self.sets, set);
        prefetch_index(self.sets[set].0.as_slice(), WAYS / 2);
    }

    /// The place of a flow, where it has one.
    #[inline]
    fn find_place(&mut self, hash: FlowHash) -> Option<&mut Option<Entry>> {
        let set = self.set(hash);
        self.sets[set].0.iter_mut().find(|place| Entry::is_of(place, hash))
    }

    /// The entry of a flow, expired or not.
    #[inline]
    pub fn find(&mut self, hash: FlowHash) -> Option<&mut Entry> {
        self.find_place(hash)?.as_mut()
    }

    /// Takes a flow out.
    pub fn remove(&mut self, hash: FlowHash) {
        if let Some(place) = self.find_place(hash) {
            *place = None;
        }
    }

    /// One of [`Self::PARTS`] parts of the table.
    pub fn part(&mut self, part: usize) -> impl Iterator<Item = &mut Option<Entry>> {
        let length = self.sets.len().div_ceil(Self::PARTS);
        let sets = self.sets.chunks_mut(length).nth(part).unwrap_or_default();
        sets.iter_mut().flat_map(|set| &mut set.0)
    }

    /// What fills it, by a sample of the sets that changes with `now`.
    pub fn fill(&self, now: Bin) -> Fill {
        let (mut handshakes, mut open) = (0.0, 0.0);
        for entry in self.sample(now) {
            match entry.connection.state {
                State::TimeWait(_) | State::Refused | State::Closed => {}
                _ if entry.connection.is_past_handshake() => open += 1.0,
                _ => handshakes += 1.0,
            }
        }
        let places = self.sampled_places();
        Fill { handshakes: handshakes / places, flows: (handshakes + open) / places }
    }

    /// The share of the places that live flows take, by the same sample.
    pub fn live_share(&self, now: Bin) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a thousand")]
        let live = self.sample(now).count() as f64;
        live / self.sampled_places()
    }

    fn sample(&self, now: Bin) -> impl Iterator<Item = &Entry> {
        let start = (now.0 as usize).wrapping_mul(SAMPLE * 7);
        let count = self.sets.len();
        let sets = (0..SAMPLE.min(count)).map(move |n| &self.sets[start.wrapping_add(n) % count]);
        sets.flat_map(|set| set.0.iter().flatten()).filter(move |entry| entry.deadline >= now)
    }

    #[expect(clippy::cast_precision_loss, reason = "a thousand")]
    fn sampled_places(&self) -> f64 {
        (WAYS * SAMPLE.min(self.sets.len())) as f64
    }

    /// What became of a flow whose SYN had the sequence number `isn`, and whether that SYN was
    /// repeated as a TCP stack does.
    pub fn fate(&self, hash: FlowHash, isn: SeqNumber) -> (Fate, bool) {
        let mut set = self.sets[self.set(hash)].0.iter();
        let Some(entry) = set.find(|place| Entry::is_of(place, hash)).and_then(Option::as_ref)
        else {
            return (Fate::Unknown, false);
        };
        let connection = &entry.connection;
        let fate = match connection.state {
            // An attempt that another one on the same ports has followed ended as that one stands.
            State::SynSent => Fate::Unanswered,
            State::SynReceived | State::SimultaneousOpen | State::SimultaneousOpenAcked(_) => {
                Fate::HalfOpen
            }
            State::Refused => Fate::Refused,
            _ => connection.reset_after().map_or(Fate::Completed, Fate::Reset),
        };
        let followed = connection.state == State::SynSent && connection.client_next != isn + 1;
        (fate, connection.marks.has(Marks::SYN_RTO) && !followed)
    }

    /// A place for a flow that is not in the table: free, or that of the flow that is to leave for
    /// it.
    ///
    /// Free and expired places come first. Then a connection whose fate is decided goes (closing or
    /// open: it is counted, and is picked up again by its next segment), then a request nobody
    /// answered, and a half-open connection last: it is what we are here to count, and losing it
    /// would both lower the count and miss its completion. Among equals the one due first goes.
    /// `gentle` takes nobody's place that is still in a handshake.
    pub fn place(
        &mut self,
        hash: FlowHash,
        closed: Bin,
        gentle: bool,
    ) -> Option<&mut Option<Entry>> {
        let rank = |slot: &Option<Entry>| match slot {
            None => (0, Bin(0)),
            Some(entry) if entry.deadline < closed => (1, entry.deadline),
            Some(entry) => match entry.connection.state {
                State::SynReceived => (4, entry.deadline),
                _ if !entry.connection.is_past_handshake() => (3, entry.deadline),
                _ => (2, entry.deadline),
            },
        };
        let set = self.set(hash);
        let place = self.sets[set].0.iter_mut().min_by_key(|place| rank(place))?;
        (!gentle || rank(place).0 <= 2).then_some(place)
    }
}

impl Entry {
    /// Flows that this one stands for.
    pub const fn weight(&self) -> u32 {
        self.connection.level.weight()
    }

    /// Who sent a segment of its flow.
    #[inline]
    pub const fn sender(&self, flow: &FlowKey) -> Role {
        if self.connection.marks.has(Marks::CLIENT_FIRST) == flow.sender_first {
            Role::Client
        } else {
            Role::Server
        }
    }

    /// How long until it expires.
    pub const fn left(&self, now: Bin) -> Bins {
        Bins(self.deadline.0.saturating_sub(now.0))
    }

    #[inline]
    fn is_of(place: &Option<Self>, hash: FlowHash) -> bool {
        place.as_ref().is_some_and(|entry| entry.tag == hash.sampling_hash())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_entries_share_a_cache_line() {
        assert_eq!(size_of::<Option<Entry>>(), 32);
        assert_eq!(size_of::<Set>(), 128);
    }

    #[test]
    fn capacity_is_a_power_of_two_of_sets() {
        assert_eq!(Table::new(1, |_| {}).capacity(), 4);
        assert_eq!(Table::new(1_000, |_| {}).capacity(), 1_024);
        assert_eq!(Table::new(1 << 20, |_| {}).capacity(), 1 << 20);
    }
}
