//! Which flow a segment belongs to.

use std::cmp::Ordering;

use siphasher::sip::SipHasher13;

use crate::flow::rank::{End, Rank, Ranks};
use crate::wire::{Address, Segment};

/// The secret of the flow hash. With it an attacker cannot choose addresses that collide.
#[derive(Clone, Copy)]
pub struct HashKey(pub [u8; 16]);

/// A keyed hash of the two ends of a connection, the same for both directions: its [`Rank`], and below that 32
/// bits of another hash.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FlowHash(pub u64);

/// The flow that a segment belongs to.
#[derive(Clone, Copy, Debug)]
pub struct FlowKey {
    /// Its hash.
    pub hash: FlowHash,
    /// Both ends, the sender first.
    pub ends: [End; 2],
    /// Whether the sender is the first end in the canonical order.
    pub sender_first: bool,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Its hash.
    pub hash: End,
    /// Its address.
    pub address: Address,
    /// Its port.
    pub port: u16,
}

impl FlowKey {
    /// Both ends with their addresses, the sender of `segment` first.
    #[must_use]
    pub const fn ends_of(&self, segment: &Segment) -> [Endpoint; 2] {
        let Segment { source, source_port, destination, destination_port, .. } = *segment;
        [
            Endpoint { hash: self.ends[0], address: source, port: source_port },
            Endpoint { hash: self.ends[1], address: destination, port: destination_port },
        ]
    }
}

impl FlowHash {
    /// The flow's rank: the upper half.
    #[must_use]
    pub const fn rank(self) -> Rank {
        Rank((self.0 >> 32) as u32)
    }
}

/// Hashes what the attacker picks; SipHash-1-3 because he may also watch what it does to us.
#[derive(Clone, Copy)]
pub struct Hasher {
    sip: SipHasher13,
    ranks: Ranks,
    /// For what only counts or remembers addresses.
    addresses: [u64; 3],
}

impl Hasher {
    /// A hasher with the secret `key`.
    pub fn new(key: HashKey) -> Self {
        let sip = SipHasher13::new_with_key(&key.0);
        let addresses = [0, 1, 2].map(|number| sip.hash(&[b'a', number]));
        Self { sip, ranks: Ranks::new(&sip), addresses }
    }

    /// The numbers that flows are ranked by.
    pub const fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// The flow of a segment.
    #[inline]
    pub fn flow(&self, segment: &Segment) -> FlowKey {
        let ends = self.ranks.ends(segment);
        let source = (segment.source, segment.source_port);
        let destination = (segment.destination, segment.destination_port);
        // The order of their hashes is as good as any, and cheaper than that of the ends themselves.
        let sender_first = match ends[0].cmp(&ends[1]) {
            Ordering::Less => true,
            Ordering::Equal => source <= destination,
            Ordering::Greater => false,
        };
        let (low, high) = if sender_first { (source, destination) } else { (destination, source) };
        let ports = u32::from(low.1) << 16 | u32::from(high.1);
        let hash = if low.0.is_ipv4() && high.0.is_ipv4() {
            let mut bytes = [0; 12];
            bytes[..4].copy_from_slice(&v4(low.0));
            bytes[4..8].copy_from_slice(&v4(high.0));
            bytes[8..].copy_from_slice(&ports.to_be_bytes());
            self.sip.hash(&bytes)
        } else {
            let mut bytes = [0; 36];
            bytes[..16].copy_from_slice(&low.0.to_bits().to_be_bytes());
            bytes[16..32].copy_from_slice(&high.0.to_bits().to_be_bytes());
            bytes[32..].copy_from_slice(&ports.to_be_bytes());
            self.sip.hash(&bytes)
        };
        let rank = u64::from(self.ranks.of(ends).0);
        FlowKey { hash: FlowHash(rank << 32 | hash >> 32), ends, sender_first }
    }

    /// One end of a flow.
    pub fn endpoint(&self, address: Address, port: u16) -> Endpoint {
        Endpoint { hash: self.ranks.end(address, port), address, port }
    }

    /// The hasher's state, for maps whose keys the attacker picks.
    pub const fn state(&self) -> SipHasher13 {
        self.sip
    }

    /// A hash of an address for sketches and filters. Two folded multiplications by secret numbers: a
    /// tenth of the price of SipHash, and no collision that could be aimed at does more than blur an estimate.
    #[inline]
    pub fn address(&self, address: Address) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
        const fn fold(a: u64, b: u64) -> u64 {
            let product = a as u128 * b as u128;
            product as u64 ^ (product >> 64) as u64
        }
        let bits = address.to_bits();
        let [low, high, last] = self.addresses;
        #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
        let (upper, lower) = ((bits >> 64) as u64, bits as u64);
        fold(fold(lower ^ low, upper ^ high) ^ lower, last)
    }
}

fn v4(address: Address) -> [u8; 4] {
    let [.., a, b, c, d] = address.to_bits().to_be_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::state::tests::segment;
    use crate::wire::Flags;

    #[test]
    fn both_directions_hash_alike() {
        let hasher = Hasher::new(HashKey([7; 16]));
        let there = segment(Flags::SYN, 1, 0);
        let mut back = there;
        std::mem::swap(&mut back.source, &mut back.destination);
        std::mem::swap(&mut back.source_port, &mut back.destination_port);
        let (forward, backward) = (hasher.flow(&there), hasher.flow(&back));
        assert_eq!(forward.hash, backward.hash);
        assert_ne!(forward.sender_first, backward.sender_first);
        assert_eq!(forward.hash.rank(), hasher.ranks().of(backward.ends));
        back.source_port ^= 1;
        assert_ne!(hasher.flow(&back).hash, forward.hash);
        assert_ne!(Hasher::new(HashKey([8; 16])).flow(&there).hash, forward.hash);
    }
}
