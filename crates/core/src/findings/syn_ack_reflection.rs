//! SYNs in the name of a victim: the answers are the attack, and hit the victim.

use crate::findings::{Onset, Room};
use crate::stats::SourceProfile;

/// Share of the answers that the victim resets, since it did not ask.
const RESET: f64 = 0.5;
/// Share of the failing attempts that come from the victim, which is a /24 or smaller.
const SHARE: f64 = 0.5;
const PREFIX_LENGTH: u8 = 24;

/// Attempts whose source did not make them.
#[derive(Clone, Copy, Debug)]
pub struct SynAckReflection {
    /// Services that they were sent to, among the sampled failures.
    pub services: usize,
    /// Share that the victim reset.
    pub reset: f64,
}

impl SynAckReflection {
    /// Judges failing attempts to so many services of a host: they come from one network, and its
    /// hosts reset the answers.
    pub(crate) fn judge(profile: &SourceProfile, services: usize) -> Option<Self> {
        let longest = profile
            .top_prefixes
            .iter()
            .map(|top| (top.prefix.prefix_len(), top.share))
            .max_by_key(|top| top.0);
        let one = longest.is_some_and(|(length, share)| length >= PREFIX_LENGTH && share >= SHARE);
        (profile.reset >= RESET && one).then_some(Self { services, reset: profile.reset })
    }
}

impl Room for SynAckReflection {
    const TITLE: &'static str = "SYN-ACK reflection";
    const EVENT: u32 = 4;
    const CATEGORY: &'static str = "Attempted Denial of Service";

    fn sentence(&self, onset: &Onset) -> String {
        let top = onset.evidence.top_prefixes.last();
        let source = top.map_or_else(|| "few sources".to_owned(), |top| top.prefix.to_string());
        format!(
            "{:.0} SYN/s from {source} arrive at {} services of {}, and {:.0} % of the SYN-ACKs are \
             answered by a RST: the source did not ask, it is the victim of a reflection.",
            onset.evidence.syn_rate.value,
            self.services,
            onset.place(),
            100.0 * self.reset
        )
    }

    fn advice(&self, _: &Onset) -> Vec<String> {
        vec![
            "Do not block the source, it is the victim: limit SYN-ACKs per destination, or drop \
             SYNs from it for a while, so that this host adds nothing to the attack."
                .to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PrefixShare;

    #[test]
    fn the_answers_to_one_network_are_reset() {
        let profile = |prefix: &str, share, reset| SourceProfile {
            top_prefixes: vec![PrefixShare { prefix: prefix.parse().expect("a prefix"), share }],
            reset,
            ..SourceProfile::default()
        };
        let judge = |profile| SynAckReflection::judge(&profile, 5).is_some();
        assert!(judge(profile("203.0.113.0/24", 0.5, 0.5)));
        assert!(judge(profile("203.0.113.9/32", 0.9, 0.8)));
        assert!(!judge(profile("203.0.0.0/16", 0.9, 0.8)));
        assert!(!judge(profile("203.0.113.0/24", 0.4, 0.8)));
        assert!(!judge(profile("203.0.113.0/24", 0.9, 0.4)));
    }
}
