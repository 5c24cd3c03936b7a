//! Which flow a segment belongs to.

use siphasher::sip::SipHasher13;

use crate::flow::sampling_hash::{End, SamplingHash, SamplingKey};
use crate::wire::{Address, Segment};

/// The secret of the flow hash. With it an attacker cannot choose addresses that collide.
#[derive(Clone, Copy)]
pub struct HashKey(pub [u8; 16]);

/// A keyed hash of the two ends of a connection, the same for both directions: its
/// [`SamplingHash`], and below that 32 bits of another hash.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct FlowHash(pub u64);

/// The flow that a segment belongs to.
#[derive(Clone, Copy, Debug, Default)]
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
    /// The flow's sampling hash: the upper half.
    #[must_use]
    pub const fn sampling_hash(self) -> SamplingHash {
        SamplingHash((self.0 >> 32) as u32)
    }
}

/// Hashes what the attacker picks, under secret keys.
///
/// On the packet path by folded multiplications with secret numbers (as wyhash does): an attacker
/// who sees no hash, nor anything that depends on one, cannot aim at collisions, and they cost a
/// tenth of SipHash. Where keys of maps are his choice it is SipHash-1-3.
#[derive(Clone, Copy)]
pub struct Hasher {
    sip: SipHasher13,
    sampling_key: SamplingKey,
    /// Secret numbers for flows, and for what only counts or remembers addresses.
    flows: [u64; 5],
    addresses: [u64; 3],
}

impl Hasher {
    /// A hasher with the secret `key`.
    pub fn new(key: HashKey) -> Self {
        let sip = SipHasher13::new_with_key(&key.0);
        let addresses = [0, 1, 2].map(|number| sip.hash(&[b'a', number]));
        let flows = [0, 1, 2, 3, 4].map(|number| sip.hash(&[b'f', number]) | 1);
        Self { sip, sampling_key: SamplingKey::new(&sip), flows, addresses }
    }

    /// The numbers that flows are ranked by.
    pub const fn sampling_key(&self) -> &SamplingKey {
        &self.sampling_key
    }

    /// The flow of a segment.
    // Always: see `wire::fast_path`.
    #[inline(always)]
    pub fn flow(&self, segment: &Segment) -> FlowKey {
        let Segment { source, source_port, destination, destination_port, .. } = *segment;
        let (ends, bits) = match (source.to_v4(), destination.to_v4()) {
            (Some(from), Some(to)) => (
                [
                    self.sampling_key.end_v4(from, source_port),
                    self.sampling_key.end_v4(to, destination_port),
                ],
                [(from, source_port), (to, destination_port)]
                    .map(|(address, port)| u64::from(address) << 16 | u64::from(port)),
            ),
            _ => self.ends_and_bits(segment),
        };
        // Either order will do that is the same for both directions.
        let sender_first = bits[0] <= bits[1];
        let [low, high] = if sender_first { bits } else { [bits[1], bits[0]] };
        let [.., for_low, for_high, last] = self.flows;
        let hash = fold(fold(low ^ for_low, high ^ for_high), last);
        let sampling_hash = u64::from(self.sampling_key.of(ends).0);
        FlowKey { hash: FlowHash(sampling_hash << 32 | hash >> 32), ends, sender_first }
    }

    /// Both ends of a flow of IPv6. Apart, so that the rest goes into its caller.
    #[inline(never)]
    fn ends_and_bits(&self, segment: &Segment) -> ([End; 2], [u64; 2]) {
        let Segment { source, source_port, destination, destination_port, .. } = *segment;
        let both = [(source, source_port), (destination, destination_port)];
        (self.sampling_key.ends(segment), both.map(|end| self.bits(end)))
    }

    /// One end of a flow of IPv6 in 64 bits, by a hash.
    fn bits(&self, (address, port): (Address, u16)) -> u64 {
        let [by, port_key, ..] = self.flows;
        #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
        let (upper, lower) = ((address.to_bits() >> 64) as u64, address.to_bits() as u64);
        fold(lower ^ fold(upper ^ u64::from(port) << 48 ^ port_key, by), by)
    }

    /// One end of a flow.
    pub fn endpoint(&self, address: Address, port: u16) -> Endpoint {
        Endpoint { hash: self.sampling_key.end(address, port), address, port }
    }

    /// The hasher's state, for maps whose keys the attacker picks.
    pub const fn state(&self) -> SipHasher13 {
        self.sip
    }

    /// A hash of an address for sketches and filters.
    #[inline]
    pub fn address(&self, address: Address) -> u64 {
        let bits = address.to_bits();
        let [low, high, last] = self.addresses;
        #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
        let (upper, lower) = ((bits >> 64) as u64, bits as u64);
        fold(fold(lower ^ low, upper ^ high) ^ lower, last)
    }
}

/// A multiplication of which nothing is lost: the lower half of the product mixed with the upper
/// one.
#[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
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
        assert_eq!(forward.hash.sampling_hash(), hasher.sampling_key().of(backward.ends));
        back.source_port ^= 1;
        assert_ne!(hasher.flow(&back).hash, forward.hash);
        assert_ne!(Hasher::new(HashKey([8; 16])).flow(&there).hash, forward.hash);
    }

    /// Whatever pattern forged sources have, the sets of the table fill evenly.
    #[test]
    fn any_pattern_of_sources_spreads_over_the_sets() {
        const SETS: usize = 1 << 12;
        const FLOWS: u32 = 1 << 16;
        type Pattern = fn(u32) -> (Address, u16);
        let patterns: [Pattern; 6] = [
            |n| (Address::v4((0x0a00_0000 + n).to_be_bytes()), 1_024),
            |n| (Address::v4([198, 51, 100, 7]), n as u16),
            |n| (Address::v4((n << 12).to_be_bytes()), 80),
            |n| (Address::v4((0x0a00_0000 + n).to_be_bytes()), n as u16),
            |n| (Address::from_bits(0x2001_0db8 << 96 | u128::from(n)), 1_024),
            |n| (Address::from_bits(0x2001_0db8 << 96 | u128::from(n) << 64), 1_024),
        ];
        for (key, pattern) in (0..16).flat_map(|key| patterns.map(|pattern| (key, pattern))) {
            let hasher = Hasher::new(HashKey([key; 16]));
            let mut sets = vec![0_u32; SETS];
            for n in 0..FLOWS {
                let (source, source_port) = pattern(n);
                let syn = Segment { source, source_port, ..segment(Flags::SYN, 1, 0) };
                sets[hasher.flow(&syn).hash.0 as usize % SETS] += 1;
            }
            let mean = f64::from(FLOWS) / SETS as f64;
            let square = |flows: &u32| (f64::from(*flows) - mean).powi(2) / mean;
            // Chi-square with 4,095 degrees of freedom: a standard deviation of 90.
            let chi_square: f64 = sets.iter().map(square).sum();
            assert!(chi_square < 4_095.0 + 6.0 * 90.0, "key {key}: {chi_square}");
        }
    }
}
