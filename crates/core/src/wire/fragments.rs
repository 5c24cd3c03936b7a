//! Datagrams that came in fragments: their heads, joined as far as a TCP header needs.
//!
//! A segment counts when its datagram is complete, not when its first fragment is there, even where
//! that holds the whole TCP header: a receiver hands nothing up before (RFC 791, section 3.2; RFC
//! 8200, section 4.5), so fragments of which the rest never comes are no SYN to it.
//!
//! Which octets are there is kept as ranges (RFC 815 keeps the holes between them). As in Linux
//! (`inet_frag_queue_insert`) a fragment that lies within what is there is a copy; one that
//! overlaps it in part ends the datagram (RFC 5722, of IPv4 since Linux 4.18). As long as Linux
//! waits for the rest (`ipfrag_time`, `ip6frag_time`), so long is it waited for here: an attacker
//! could sit out a shorter time.
//!
//! The memory is fixed: 4,096 datagrams, about as many as Linux keeps (`ipfrag_high_thresh`, 4
//! MiB). A keyed hash finds the 8 places where one may be; where none is free, the oldest of these
//! goes, which is counted as [`Skip::Fragment`]. What is no fragment never gets here.

use std::cell::Cell;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::time::Timestamp;
use crate::wire::cursor::Cursor;
use crate::wire::ip::{self, Envelope, Version};
use crate::wire::{Address, LinkType, Segment, Skip, link};

/// Octets kept of a datagram: TCP with its options and, before it, 964 octets of extension headers
/// or a tunnel's.
const HEAD: usize = 1_024;
/// Places in which a datagram may be.
const WAYS: usize = 8;
/// Sets of so many places: a power of two.
const SETS: usize = 512;
/// Runs of octets with gaps between them that are kept of a datagram. In any order but the worst
/// the fragments of 64 KiB on Ethernet, 45, have fewer.
const RUNS: usize = 32;
/// How long Linux waits for the rest (`IP_FRAG_TIME`, `IPV6_FRAG_TIMEOUT`).
const LIFETIME_V4: Duration = Duration::from_secs(30);
const LIFETIME_V6: Duration = Duration::from_secs(60);
/// The longest datagram.
const MAX_LENGTH: usize = u16::MAX as usize;

/// A fragment, as the decoder finds it.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) version: Version,
    pub(super) envelope: Envelope,
    pub(super) identification: u32,
    /// What follows the header: of IPv6 only the first fragment's word counts (RFC 8200, section
    /// 4.5).
    pub(super) upper: u8,
    /// Where in the datagram it begins.
    pub(super) offset: usize,
    /// Whether others follow it.
    pub(super) more: bool,
    pub(super) rest: Cursor<'a>,
}

/// Which datagram a fragment belongs to. Copies on several interfaces are kept apart: the engine
/// tells them by that.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Key {
    version: Version,
    source: Address,
    destination: Address,
    identification: u32,
    /// Not of IPv6.
    protocol: u8,
    interface: u32,
}

impl Key {
    fn new(piece: &Piece<'_>, interface: u32) -> Self {
        Self {
            version: piece.version,
            source: piece.envelope.source,
            destination: piece.envelope.destination,
            identification: piece.identification,
            protocol: if piece.version == Version::V4 { piece.upper } else { 0 },
            interface,
        }
    }

    fn set(&self, hasher: SipHasher13) -> usize {
        let mut octets = [0; 41];
        octets[..16].copy_from_slice(&self.source.to_bits().to_be_bytes());
        octets[16..32].copy_from_slice(&self.destination.to_bits().to_be_bytes());
        octets[32..36].copy_from_slice(&self.identification.to_be_bytes());
        octets[36..40].copy_from_slice(&self.interface.to_be_bytes());
        octets[40] = self.protocol;
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
        let hash = hasher.hash(&octets) as usize;
        hash % SETS
    }
}

/// A datagram that is not whole yet.
struct Datagram {
    key: Key,
    began: Timestamp,
    /// The higher, the younger.
    number: u64,
    runs: Runs,
    /// Its length, once the last fragment is there.
    length: Option<usize>,
    /// From the first fragment: the header's time to live, and what follows the header.
    first: Option<(u8, u8)>,
    /// The capture holds the octets of the head up to here, or those of which fragments are there.
    captured: usize,
    head: [u8; HEAD],
}

/// What a fragment does to its datagram.
#[derive(Debug, Eq, PartialEq)]
enum Change {
    /// Something is missing still.
    Waiting,
    /// It is whole, and so long.
    Whole(usize),
    /// No receiver would accept it any more, or it has too many gaps.
    Broken,
}

impl Datagram {
    fn new(key: Key, began: Timestamp, number: u64) -> Self {
        Self {
            key,
            began,
            number,
            runs: Runs::default(),
            length: None,
            first: None,
            captured: HEAD,
            head: [0; HEAD],
        }
    }

    fn is_over(&self, at: Timestamp) -> bool {
        let lifetime = match self.key.version {
            Version::V4 => LIFETIME_V4,
            Version::V6 => LIFETIME_V6,
        };
        // Either way, should the clock have been set.
        at.since(self.began).max(self.began.since(at)) > lifetime
    }

    /// Takes in a fragment of `length` octets.
    fn take(&mut self, piece: &Piece<'_>, length: usize) -> Change {
        let (start, end) = (piece.offset, piece.offset + length);
        let contradicts = match self.length {
            Some(known) => end > known || (!piece.more && end != known),
            None => !piece.more && end < self.runs.end(),
        };
        if contradicts {
            return Change::Broken;
        }
        match self.runs.insert(start, end) {
            Insertion::Copy => return Change::Waiting,
            Insertion::Refused => return Change::Broken,
            Insertion::Done => {}
        }
        if !piece.more {
            self.length = Some(end);
        }
        if start == 0 {
            self.first = Some((piece.envelope.ttl, piece.upper));
        }
        let data = &piece.rest.data()[..piece.rest.data().len().min(length)];
        if let Some(place) = self.head.get_mut(start..) {
            let fits = data.len().min(place.len());
            place[..fits].copy_from_slice(&data[..fits]);
        }
        if data.len() < length {
            self.captured = self.captured.min(start + data.len());
        }
        match self.length {
            Some(length) if self.runs.is_whole(length) => Change::Whole(length),
            _ => Change::Waiting,
        }
    }
}

/// Runs of octets that are there, in order, with gaps between them.
#[derive(Clone, Copy, Default)]
struct Runs {
    count: usize,
    list: [(u32, u32); RUNS],
}

/// What became of one more.
#[derive(Debug, Eq, PartialEq)]
enum Insertion {
    Done,
    /// All of it was there.
    Copy,
    /// A part of it was there, or there are too many gaps.
    Refused,
}

impl Runs {
    /// Adds `start..end`, which is not empty.
    fn insert(&mut self, start: usize, end: usize) -> Insertion {
        // Both are below 2^16 here.
        let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(end)) else {
            return Insertion::Refused;
        };
        let runs = &self.list[..self.count];
        if runs.iter().any(|run| run.0 <= start && end <= run.1) {
            return Insertion::Copy;
        }
        if runs.iter().any(|run| start < run.1 && run.0 < end) {
            return Insertion::Refused;
        }
        let next = runs.partition_point(|run| run.1 <= start);
        let joins_before = next > 0 && runs[next - 1].1 == start;
        let joins_after = next < self.count && runs[next].0 == end;
        match (joins_before, joins_after) {
            (true, true) => {
                self.list[next - 1].1 = self.list[next].1;
                self.list.copy_within(next + 1..self.count, next);
                self.count -= 1;
            }
            (true, false) => self.list[next - 1].1 = end,
            (false, true) => self.list[next].0 = start,
            (false, false) if self.count == RUNS => return Insertion::Refused,
            (false, false) => {
                self.list.copy_within(next..self.count, next + 1);
                self.list[next] = (start, end);
                self.count += 1;
            }
        }
        Insertion::Done
    }

    /// Where the last one ends.
    fn end(&self) -> usize {
        self.list[..self.count].last().map_or(0, |run| run.1 as usize)
    }

    fn is_whole(&self, length: usize) -> bool {
        self.count == 1 && self.list[0].0 == 0 && self.end() == length
    }
}

/// The datagrams that wait for the rest of their fragments.
pub struct Fragments {
    hasher: SipHasher13,
    /// None until there is a fragment.
    places: Vec<Option<Box<Datagram>>>,
    /// How many datagrams there have been.
    number: u64,
}

impl Fragments {
    /// An empty store; `hasher` has a secret key.
    #[must_use]
    pub const fn new(hasher: SipHasher13) -> Self {
        Self { hasher, places: Vec::new(), number: 0 }
    }

    /// Takes in a frame that arrived `at` on the interface number `interface` and that
    /// [`decode_into`](super::decode_into), which has the other parameters, calls a
    /// [`Skip::Fragment`].
    ///
    /// # Errors
    ///
    /// The reason why it gives no segment: its datagram is not whole, broken, or not TCP.
    #[inline(never)]
    pub fn join(
        &mut self,
        at: Timestamp,
        interface: u32,
        link: LinkType,
        data: &[u8],
        original_len: u32,
        segment: &mut Segment,
    ) -> Result<(), Skip> {
        let found = Cell::new(None);
        link::decode(link, Cursor::new(data, original_len).noting(&found))
            .map(drop)
            .or_else(|skip| if skip == Skip::Fragment { Ok(()) } else { Err(skip) })?;
        let Some(piece) = found.get() else { return Err(Skip::Fragment) };
        *segment = self.take(at, interface, &piece)?;
        Ok(())
    }

    fn take(&mut self, at: Timestamp, interface: u32, piece: &Piece<'_>) -> Result<Segment, Skip> {
        let length = checked_length(piece)?;
        let key = Key::new(piece, interface);
        if self.places.is_empty() {
            self.places.resize_with(SETS * WAYS, || None);
        }
        let set = key.set(self.hasher) * WAYS;
        let places = &mut self.places[set..set + WAYS];
        let is_there = |place: &Option<Box<Datagram>>| {
            place.as_ref().is_some_and(|datagram| datagram.key == key && !datagram.is_over(at))
        };
        let known = places.iter().position(is_there);
        let way = known.unwrap_or_else(|| oldest(places, at));
        let mut outcome = Skip::FragmentKept;
        if known.is_none() {
            self.number += 1;
            let datagram = Datagram::new(key, at, self.number);
            match &mut places[way] {
                Some(place) => {
                    if !place.is_over(at) {
                        outcome = Skip::Fragment;
                    }
                    **place = datagram;
                }
                place => *place = Some(Box::new(datagram)),
            }
        }
        let Some(datagram) = &mut places[way] else { return Err(Skip::Fragment) };
        match datagram.take(piece, length) {
            Change::Waiting => Err(outcome),
            Change::Broken => {
                places[way] = None;
                Err(Skip::Fragment)
            }
            Change::Whole(length) => {
                let whole = places[way].take().ok_or(Skip::Fragment)?;
                let (ttl, upper) = whole.first.ok_or(Skip::Fragment)?;
                let head = &whole.head[..whole.captured.min(length)];
                let envelope = Envelope { ttl, ..piece.envelope };
                let rest = piece.rest.joined(head, length);
                ip::decode_joined(key.version, envelope, upper, rest)
            }
        }
    }
}

/// The place for another datagram: a free one, or that of the one which is over or the oldest.
fn oldest(places: &[Option<Box<Datagram>>], at: Timestamp) -> usize {
    let rank = |place: &Option<Box<Datagram>>| match place {
        None => (0, 0),
        Some(datagram) if datagram.is_over(at) => (1, datagram.number),
        Some(datagram) => (2, datagram.number),
    };
    let ranks = places.iter().map(rank).enumerate();
    ranks.min_by_key(|(_, rank)| *rank).map_or(0, |(way, _)| way)
}

/// The octets of a fragment that count, where its receiver accepts it: all but the last of a
/// datagram are of units of 8, to which Linux cuts those of IPv4 (`ip_frag_queue`,
/// `ip6_frag_queue`).
fn checked_length(piece: &Piece<'_>) -> Result<usize, Skip> {
    let length = piece.rest.wire_len();
    let length = match (piece.more, piece.version) {
        (true, Version::V4) => length & !7,
        (true, Version::V6) if !length.is_multiple_of(8) => return Err(Skip::BadIpHeader),
        _ => length,
    };
    if length == 0 || piece.offset + length > MAX_LENGTH {
        return Err(Skip::BadIpHeader);
    }
    Ok(length)
}

#[cfg(test)]
mod tests;
