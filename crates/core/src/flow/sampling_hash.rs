//! A second hash of a flow, made of what a classic BPF program can compute, and the sampling by it.
//!
//! Under load only flows of a low [`SamplingHash`] are looked at: the kernel's filter and the
//! tracker compute the same hash and compare it with the same limit, so a flow comes up whole or
//! not at all, in both directions. The limits are powers of two, so the flows of a higher
//! [`SamplingLevel`] are a part of those of a lower one.

use std::num::NonZeroUsize;

use siphasher::sip::SipHasher13;

use crate::wire::{Address, Segment};

/// Where a flow stands in the order in which flows are given up: those of the highest hashes first.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SamplingHash(pub u32);

impl SamplingHash {
    /// Which of `shards` shards, counted from 0, the flow belongs to.
    ///
    /// The remainder depends on the low bits, which stay random where [`Sampling`] leaves only
    /// hashes whose high bits are zero; and it is what the kernel makes of the result of a fan-out
    /// program (`fanout_demux_bpf`, net/packet/af_packet.c).
    #[inline]
    #[must_use]
    pub const fn shard(self, shards: NonZeroUsize) -> usize {
        self.0 as usize % shards.get()
    }
}

/// How few flows are looked at: one in 2^level.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SamplingLevel(u8);

impl SamplingLevel {
    /// Every flow.
    pub const ALL: Self = Self(0);
    /// One flow in 65,536; so many bits of a hash are left to tell flows apart.
    pub const MAX: Self = Self(16);

    /// One flow in 2^`exponent`, or [`Self::MAX`].
    #[must_use]
    pub const fn new(exponent: u8) -> Self {
        Self(if exponent < Self::MAX.0 { exponent } else { Self::MAX.0 })
    }

    /// The exponent.
    #[must_use]
    pub const fn exponent(self) -> u8 {
        self.0
    }

    /// Flows that one flow stands for.
    #[must_use]
    pub const fn weight(self) -> u32 {
        1 << self.0
    }

    /// Bits that are zero in the hashes that are looked at.
    #[must_use]
    pub const fn mask(self) -> u32 {
        !(u32::MAX >> self.0)
    }

    /// Whether flows of this hash are looked at.
    #[must_use]
    pub const fn includes(self, hash: SamplingHash) -> bool {
        hash.0 & self.mask() == 0
    }
}

/// The secret numbers of the hash.
///
/// Each end of a flow is hashed for itself, and the sum of both, which is the same in either
/// direction, once more: multiplications by secret odd numbers, and shifts that bring high bits to
/// where the next one spreads them. Who does not know the numbers cannot choose addresses that are,
/// or are not, looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SamplingKey {
    /// What the hash of an end begins with.
    pub seed: u32,
    /// Multipliers: of each word of an address, of the port, and of the two rounds of the sum.
    pub odd: [u32; 4],
}

/// The hash of one end of a flow.
pub type End = u32;

impl SamplingKey {
    /// Derives the numbers from a keyed hash.
    #[must_use]
    pub fn new(hasher: &SipHasher13) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "any 32 of the bits will do")]
        let draw = |number: u8| hasher.hash(&[b'r', number]) as u32;
        Self { seed: draw(0), odd: [1, 2, 3, 4].map(|number| draw(number) | 1) }
    }

    /// The hash of an address and port.
    #[must_use]
    pub fn end(&self, address: Address, port: u16) -> End {
        if let Some(address) = address.to_v4() {
            return self.end_v4(address, port);
        }
        let bits = address.to_bits();
        #[expect(clippy::cast_possible_truncation, reason = "takes the words one by one")]
        let words = [96, 64, 32, 0].map(|shift| (bits >> shift) as u32);
        self.with_port(words.into_iter().fold(self.seed, |x, word| self.with_word(x, word)), port)
    }

    /// The same of an IPv4 address.
    #[inline]
    #[must_use]
    pub const fn end_v4(&self, address: u32, port: u16) -> End {
        self.with_port(self.with_word(self.seed, address), port)
    }

    const fn with_word(&self, x: u32, word: u32) -> u32 {
        let x = (x ^ word).wrapping_mul(self.odd[0]);
        x ^ x >> 16
    }

    const fn with_port(&self, x: u32, port: u16) -> End {
        let x = x.wrapping_add(port as u32).wrapping_mul(self.odd[1]);
        x ^ x >> 15
    }

    /// The hash of the flow between two ends.
    #[must_use]
    pub const fn of(&self, ends: [End; 2]) -> SamplingHash {
        let x = ends[0].wrapping_add(ends[1]).wrapping_mul(self.odd[2]);
        SamplingHash((x ^ x >> 16).wrapping_mul(self.odd[3]))
    }

    /// Both ends of a segment's flow, its sender first.
    #[must_use]
    pub fn ends(&self, segment: &Segment) -> [End; 2] {
        [
            self.end(segment.source, segment.source_port),
            self.end(segment.destination, segment.destination_port),
        ]
    }
}

/// Which flows are looked at: those of a few services that get too much at levels of their own, all
/// others at one that is the same for all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sampling {
    /// The level of all other flows.
    pub general: SamplingLevel,
    /// The ends with a level of their own, at most [`Self::HEAVY`]. The first that a flow has
    /// decides.
    pub heavy: Vec<(End, SamplingLevel)>,
}

impl Sampling {
    /// So many ends can have a level of their own: their tests are part of the kernel's filter.
    pub const HEAVY: usize = 16;

    /// The level of the flow between two ends.
    #[must_use]
    pub fn level(&self, ends: [End; 2]) -> SamplingLevel {
        self.heavy
            .iter()
            .find(|(end, _)| ends.contains(end))
            .map_or(self.general, |(_, level)| *level)
    }

    /// Whether every flow is looked at.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{HashKey, Hasher};

    fn sampling_key(key: u8) -> SamplingKey {
        *Hasher::new(HashKey([key; 16])).sampling_key()
    }

    #[test]
    fn levels_are_nested() {
        for hash in [0, 1, 0x1234, 0xffff, 0x1_0000, 0x7fff_ffff, u32::MAX].map(SamplingHash) {
            let included: Vec<_> =
                (0..=20).map(|exponent| SamplingLevel::new(exponent).includes(hash)).collect();
            assert!(included[0]);
            assert!(included.is_sorted_by(|before, after| before >= after), "{hash:?}");
        }
        assert_eq!(SamplingLevel::new(99), SamplingLevel::MAX);
        assert_eq!(SamplingLevel::new(3).weight(), 8);
    }

    /// Also where only the lowest hashes are looked at.
    #[test]
    fn shards_are_of_one_size() {
        const SHARDS: usize = 6;
        let hashes = sampling_key(2);
        let server = hashes.end(Address::v4([192, 0, 2, 10]), 443);
        for level in [0, 4, 8].map(SamplingLevel::new) {
            let mut flows = [0_u32; SHARDS];
            for n in 0..1_u32 << 18 {
                let client = hashes.end(Address::v4((0x0a00_0000 + n).to_be_bytes()), 1_024);
                let hash = hashes.of([client, server]);
                if level.includes(hash) {
                    flows[hash.shard(NonZeroUsize::new(SHARDS).unwrap())] += 1;
                }
            }
            let expected = f64::from((1 << 18) / level.weight()) / SHARDS as f64;
            for count in flows {
                assert!((f64::from(count) - expected).abs() < 5.0 * expected.sqrt(), "{flows:?}");
            }
        }
    }

    #[test]
    fn both_directions_have_the_same_rank() {
        let hashes = sampling_key(1);
        let here = hashes.end(Address::v4([192, 0, 2, 1]), 443);
        let there = hashes.end(Address::v6([7; 16]), 50_000);
        assert_eq!(hashes.of([here, there]), hashes.of([there, here]));
        assert_ne!(hashes.end(Address::v4([192, 0, 2, 1]), 444), here);
    }

    /// Forged sources are not random: counted up, from one network, of one port, with one bit set.
    /// Whatever they are, as many are looked at as should be.
    #[test]
    fn any_pattern_of_sources_is_sampled_evenly() {
        type Pattern = fn(u32) -> (Address, u16);
        let patterns: [(&str, Pattern); 8] = [
            ("counting", |n| (Address::v4((0x0a00_0000 + n).to_be_bytes()), 1_024)),
            ("counting both", |n| {
                (Address::v4((0x0a00_0000 + n).to_be_bytes()), (1_024 + n % 60_000) as u16)
            }),
            ("ports", |n| (Address::v4((0xc633_6400 + n / 65_536).to_be_bytes()), n as u16)),
            ("high octet", |n| (Address::v4(n.rotate_left(14).to_be_bytes()), 80)),
            ("by 256", |n| (Address::v4((n << 8).to_be_bytes()), 2_000)),
            ("random", |n| (Address::v4(n.wrapping_mul(0x9e37_79b9).to_be_bytes()), 4_444)),
            ("IPv6, low", |n| (Address::from_bits(0x2001_0db8 << 96 | u128::from(n)), 1_024)),
            ("IPv6, /64", |n| (Address::from_bits(0x2001_0db8 << 96 | u128::from(n) << 64), 1_024)),
        ];
        for key in 0..12 {
            let hashes = sampling_key(key);
            let server = hashes.end(Address::v4([192, 0, 2, 10]), 443);
            for (name, pattern) in &patterns {
                const FLOWS: u32 = 1 << 18;
                let mut included = [0_u32; 9];
                for n in 0..FLOWS {
                    let (address, port) = pattern(n);
                    let hash = hashes.of([hashes.end(address, port), server]);
                    for (exponent, count) in included.iter_mut().enumerate() {
                        *count += u32::from(SamplingLevel::new(exponent as u8).includes(hash));
                    }
                }
                for (exponent, count) in included.into_iter().enumerate() {
                    let expected = f64::from(FLOWS >> exponent);
                    let deviation = (f64::from(count) - expected).abs() / expected.sqrt();
                    assert!(deviation < 5.0, "{name}, key {key}, 1/2^{exponent}: {count}");
                }
            }
        }
    }
}
