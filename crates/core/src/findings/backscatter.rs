//! Answers to what was never asked: somebody forges this host's address.

use crate::findings::{Finding, Grounds, Onset, Room};
use crate::model::{Evidence, Severity, Target};
use crate::stats::{STEP, StrayAnswers};
use crate::time::Timestamp;

/// Segments that answer nothing, per second.
const LIMIT: u32 = 100;
/// Where any host may be ours, answers of fewer servers may be those to requests that are not
/// captured.
const SENDERS: u32 = 8;
/// The senders that [`StrayAnswers`] can tell apart are 64; with so many of them there are many
/// more.
const MANY_SENDERS: u32 = 40;

/// Segments that answer nothing, and the limit that they are above.
#[derive(Clone, Copy, Debug)]
pub struct Backscatter {
    /// Such segments per second.
    pub rate: f64,
    /// The limit.
    pub limit: u32,
    /// Senders that can be told apart.
    pub senders: u32,
}

impl Backscatter {
    /// The limit of a step.
    pub(crate) const PER_STEP: u32 = LIMIT / 4;

    /// Judges what is above the limit at a host. `selective`: only hosts are watched that are known
    /// to be ours.
    pub(crate) fn judge(stray: &StrayAnswers, selective: bool) -> Option<Self> {
        let StrayAnswers { rate, senders, .. } = *stray;
        (senders >= SENDERS || selective).then_some(Self { rate, limit: LIMIT, senders })
    }

    /// The finding on a host at `at`.
    pub(crate) fn onset(self, target: Target, at: Timestamp, dropping: bool) -> Onset {
        Onset {
            variant: None,
            severity: Severity::Warning,
            target,
            target_prefix: None,
            attacker: None,
            first_packet_at: at.before(STEP * 3),
            evidence: Evidence {
                syn_rate: self.rate.into(),
                sources: u64::from(self.senders),
                ..Evidence::default()
            },
            grounds: Grounds {
                level: self.rate / f64::from(self.limit),
                dropping,
                ..Grounds::default()
            },
            configured: Default::default(),
            finding: Finding::Backscatter(self),
        }
    }
}

impl Room for Backscatter {
    const TITLE: &'static str = "backscatter";
    const EVENT: u32 = 5;
    const CATEGORY: &'static str = "Misc activity";

    fn sentence(&self, onset: &Onset) -> String {
        let many = self.senders >= MANY_SENDERS;
        format!(
            "{:.0} SYN-ACKs and RSTs a second from {} senders arrive at {} that answer nothing it \
             sent (limit: {}/s): somebody uses its address as a forged source.",
            self.rate,
            if many { "many".to_owned() } else { self.senders.to_string() },
            onset.place(),
            self.limit
        )
    }

    fn advice(&self, _: &Onset) -> Vec<String> {
        vec![
            "Drop SYN-ACKs and RSTs of no known connection (conntrack state invalid) at the edge; \
             the senders are reflectors or victims, not attackers."
                .to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Address;

    #[test]
    fn few_servers_answer_what_is_not_captured() {
        let stray =
            |senders| StrayAnswers { host: Address::v4([192, 0, 2, 1]), rate: 150.0, senders };
        assert!(Backscatter::judge(&stray(7), false).is_none());
        assert!(Backscatter::judge(&stray(7), true).is_some());
        let found = Backscatter::judge(&stray(40), false).expect("backscatter");
        let target = Target { address: Some([192, 0, 2, 1].into()), port: None };
        let onset = found.onset(target, Timestamp::EPOCH, false);
        assert_eq!(
            onset.explanation(),
            "150 SYN-ACKs and RSTs a second from many senders arrive at 192.0.2.1 that answer \
             nothing it sent (limit: 100/s): somebody uses its address as a forged source."
        );
    }
}
