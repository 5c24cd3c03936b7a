//! Counting distinct things in little memory, and maps whose keys the attacker picks.

use std::hash::BuildHasher;

use datasketches::hll::{HllSketch, HllType};

use crate::flow::Hasher;

/// A cardinality sketch of `2^lg_k` registers.
pub(crate) fn sketch(lg_k: u8) -> HllSketch {
    #[expect(clippy::expect_used, reason = "the constants given are within 4 to 21")]
    HllSketch::new(lg_k, HllType::Hll8).expect("a valid number of registers")
}

/// An estimate as a count.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative")]
pub(crate) fn rounded(estimate: f64) -> u64 {
    estimate.round().max(0.0) as u64
}

/// The keyed flow hasher as a hasher of maps: addresses are the attacker's to choose.
#[derive(Clone, Copy)]
pub(crate) struct Keyed(pub Hasher);

impl BuildHasher for Keyed {
    type Hasher = siphasher::sip::SipHasher13;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.state()
    }
}
