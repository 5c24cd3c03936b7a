//! What kind of flood it is, from the sources of the attempts that fail.

use crate::model::Variant;
use crate::stats::SourceProfile;

/// Failures that are needed before anything is said.
const ENOUGH: usize = 50;

/// Share of returning sources above which they are not forged at random; false hits of the memory
/// of those that failed stay below it for floods of an hour.
const RETURNING: f64 = 0.1;

/// The variant of a SYN flood, `None` until enough failures are seen.
///
/// In this order: one source; one prefix; uniform over the address space; else many sources that
/// come back. Only the spread over /16s tells random forgery from a botnet at these numbers (the
/// plain entropy of the addresses does not), and with a small botnet even that is high: sources
/// that return are the tell, since of 2^32 forged ones hardly any does.
#[must_use]
pub fn variant(profile: &SourceProfile) -> Option<Variant> {
    if profile.failures < ENOUGH {
        return None;
    }
    Some(if profile.top_source.1 >= 0.5 {
        Variant::SingleSource
    } else if profile.top_prefix.1 >= 0.5 {
        Variant::SpoofedSubnet
    } else if profile.spread >= 0.9 && profile.new >= 0.9 && profile.returning < RETURNING {
        Variant::SpoofedRandom
    } else {
        Variant::Distributed
    })
}

/// Whether the sources are probably those that they say: many of them completed handshakes before,
/// or come back although there are many. That one source comes back says nothing.
#[must_use]
pub fn are_real(profile: &SourceProfile) -> bool {
    match variant(profile) {
        Some(Variant::SingleSource) => profile.new < 0.5,
        Some(Variant::Distributed) => profile.new < 0.9 || profile.returning >= RETURNING,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random() -> SourceProfile {
        SourceProfile { failures: 200, sources: 200, spread: 0.99, new: 1.0, ..Default::default() }
    }

    #[test]
    fn the_order_of_the_rules() {
        assert_eq!(variant(&SourceProfile { failures: 49, ..random() }), None);
        assert_eq!(variant(&random()), Some(Variant::SpoofedRandom));
        let subnet = SourceProfile { top_prefix: (None, 0.8), ..random() };
        assert_eq!(variant(&subnet), Some(Variant::SpoofedSubnet));
        let single = SourceProfile { top_source: (None, 0.6), ..subnet };
        assert_eq!(variant(&single), Some(Variant::SingleSource));
        let known = SourceProfile { new: 0.5, ..random() };
        assert_eq!(variant(&known), Some(Variant::Distributed));
        let returning = SourceProfile { returning: 0.15, ..random() };
        assert_eq!(variant(&returning), Some(Variant::Distributed));
    }
    #[test]
    fn a_single_source_is_not_real_because_it_returns() {
        let single = SourceProfile { top_source: (None, 0.9), returning: 1.0, ..random() };
        assert!(!are_real(&single));
        assert!(are_real(&SourceProfile { new: 0.1, ..single }));
        assert!(are_real(&SourceProfile { returning: 0.5, ..random() }));
        assert!(!are_real(&random()));
    }
}
