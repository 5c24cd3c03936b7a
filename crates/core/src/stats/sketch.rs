//! Counting distinct things in little memory, and maps whose keys the attacker picks.

use std::hash::BuildHasher;

use datasketches::hll::{HllSketch, HllType, HllUnion};

use crate::flow::Hasher;

/// A cardinality sketch of `2^lg_k` registers.
pub(crate) fn sketch(lg_k: u8) -> HllSketch {
    #[expect(clippy::expect_used, reason = "the constants given are within 4 to 21")]
    HllSketch::new(lg_k, HllType::Hll8).expect("a valid number of registers")
}

/// How many distinct things all `sketches` of `2^lg_k` registers have seen together (exact while
/// small). It depends on what they saw alone, not on its order nor on who saw what.
pub(crate) fn distinct<'a>(lg_k: u8, mut sketches: impl Iterator<Item = &'a HllSketch>) -> f64 {
    let (Some(first), second) = (sketches.next(), sketches.next()) else { return 0.0 };
    let Some(second) = second else { return first.composite_estimate() };
    #[expect(clippy::expect_used, reason = "the constants given are within 4 to 21")]
    let mut union = HllUnion::new(lg_k).expect("a valid number of registers");
    union.update(first);
    union.update(second);
    sketches.for_each(|sketch| union.update(sketch));
    union.composite_estimate()
}

/// An estimate as a count.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative")]
pub(crate) fn rounded(estimate: f64) -> u64 {
    estimate.round().max(0.0) as u64
}

/// How many distinct things there are where `distinct` were seen in a sample of `sampled` out of
/// `all`. Taken that each of them occurs equally often, n of them are expected to show n (1 - (1 -
/// sampled/all)^(all/n)): few that come often show all, many that come once as many as were
/// sampled.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub(crate) fn scaled_up(distinct: f64, sampled: u64, all: u64) -> f64 {
    /// Two standard errors of the smaller of the sketches that are asked.
    const DOUBT: f64 = 0.05;
    if sampled >= all || sampled == 0 {
        return distinct;
    }
    let (sampled, all) = (sampled as f64, all as f64);
    if distinct * (1.0 + DOUBT) >= sampled {
        // All of them differ, as far as can be told.
        return all;
    }
    let shown = |n: f64| n * (1.0 - (all / n * (-sampled / all).ln_1p()).exp());
    let (mut low, mut high) = (distinct, all);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if shown(middle) < distinct {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_a_sample_are_scaled_by_how_often_they_come() {
        assert_eq!(scaled_up(100.0, 500, 500).round(), 100.0);
        // One attempt each, and each of them its own source.
        let once = scaled_up(1_000.0, 1_000, 64_000);
        assert!((60_000.0..=64_000.0).contains(&once), "{once}");
        // A hundred sources with 640 attempts each: nearly every one is in the sample.
        let often = scaled_up(100.0, 1_000, 64_000);
        assert!((99.0..102.0).contains(&often), "{often}");
    }
}
