//! Which flow a segment belongs to.

use siphasher::sip::SipHasher13;

use crate::flow::rank::Ranks;
use crate::wire::{Address, Segment};

/// The secret of the flow hash. With it an attacker cannot choose addresses that collide.
#[derive(Clone, Copy)]
pub struct HashKey(pub [u8; 16]);

/// A keyed hash of the two endpoints of a connection, the same for both directions.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FlowHash(pub u64);

/// Hashes what the attacker picks; SipHash-1-3 because he may also watch what it does to us.
#[derive(Clone, Copy)]
pub struct Hasher(SipHasher13, Ranks);

impl Hasher {
    /// A hasher with the secret `key`.
    pub fn new(key: HashKey) -> Self {
        let hasher = SipHasher13::new_with_key(&key.0);
        Self(hasher, Ranks::new(&hasher))
    }

    /// The numbers that flows are ranked by.
    pub const fn ranks(&self) -> &Ranks {
        &self.1
    }

    /// The hash of the segment's connection, and whether its sender is the first endpoint of the
    /// canonical (ascending) order.
    pub fn flow(&self, segment: &Segment) -> (FlowHash, bool) {
        let source = (segment.source, segment.source_port);
        let destination = (segment.destination, segment.destination_port);
        let sender_first = source <= destination;
        let (low, high) = if sender_first { (source, destination) } else { (destination, source) };
        let ports = u32::from(low.1) << 16 | u32::from(high.1);
        let hash = if low.0.is_ipv4() && high.0.is_ipv4() {
            let mut bytes = [0; 12];
            bytes[..4].copy_from_slice(&v4(low.0));
            bytes[4..8].copy_from_slice(&v4(high.0));
            bytes[8..].copy_from_slice(&ports.to_be_bytes());
            self.0.hash(&bytes)
        } else {
            let mut bytes = [0; 36];
            bytes[..16].copy_from_slice(&low.0.to_bits().to_be_bytes());
            bytes[16..32].copy_from_slice(&high.0.to_bits().to_be_bytes());
            bytes[32..].copy_from_slice(&ports.to_be_bytes());
            self.0.hash(&bytes)
        };
        (FlowHash(hash), sender_first)
    }

    /// The hasher's state, for maps whose keys the attacker picks.
    pub const fn state(&self) -> SipHasher13 {
        self.0
    }

    /// The hash of an address.
    pub fn address(&self, address: Address) -> u64 {
        self.0.hash(&address.to_bits().to_be_bytes())
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
        let (forward, first) = hasher.flow(&there);
        let (backward, second) = hasher.flow(&back);
        assert_eq!(forward, backward);
        assert_ne!(first, second);
        back.source_port ^= 1;
        assert_ne!(hasher.flow(&back).0, forward);
        assert_ne!(Hasher::new(HashKey([8; 16])).flow(&there).0, forward);
    }
}
