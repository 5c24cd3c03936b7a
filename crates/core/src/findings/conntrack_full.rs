//! Netfilter's table of connections has no room: it drops what would open another one, long before
//! a SYN queue is full.

use crate::findings::{Configured, Finding, Grounds, Onset, Room};
use crate::model::{Conntrack, Evidence, Severity, Target};
use crate::time::Timestamp;

/// Part of the table that is taken once it is as good as full: until it is, entries that time out
/// make room.
const FULL: f64 = 0.95;

/// A connection table that is full.
#[derive(Clone, Copy, Debug)]
pub struct ConntrackFull {
    /// Entries in it.
    pub entries: u64,
    /// `nf_conntrack_max`.
    pub limit: u64,
    /// The part of it that was reached.
    pub part: f64,
    /// Packets a second that it drops.
    pub drop_rate: f64,
}

impl ConntrackFull {
    /// Whether the table is as good as full. That it drops packets says nothing alone: a packet
    /// that loses a race to insert its flow is counted there too (`nf_conntrack_confirm`).
    pub(crate) fn judge(conntrack: Conntrack, drop_rate: f64) -> Option<Self> {
        let Conntrack { entries, limit, .. } = conntrack;
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let full = limit > 0 && entries as f64 >= FULL * limit as f64;
        full.then_some(Self { entries, limit, part: FULL, drop_rate })
    }

    /// The finding at `at`.
    pub(crate) fn onset(self, at: Timestamp) -> Onset {
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let level = self.entries as f64 / (self.part * self.limit as f64);
        let drops = self.drop_rate > 0.0;
        Onset {
            variant: None,
            severity: if drops { Severity::Critical } else { Severity::Warning },
            target: Target { address: None, port: None },
            target_prefix: None,
            attacker: None,
            first_packet_at: at,
            evidence: Evidence { completion_ratio: 1.0.into(), ..Evidence::default() },
            grounds: Grounds {
                level: if drops { 2.0 } else { level },
                kernel_agrees: true,
                ..Grounds::default()
            },
            configured: Configured::default(),
            finding: Finding::ConntrackFull(self),
        }
    }
}

impl Room for ConntrackFull {
    const TITLE: &'static str = "conntrack table full";
    const EVENT: u32 = 9;
    const CATEGORY: &'static str = "Misc activity";

    fn sentence(&self, _: &Onset) -> String {
        let Self { entries, limit, part, drop_rate } = self;
        let drops = if *drop_rate > 0.0 {
            format!("and it drops {drop_rate:.0} packets a second")
        } else {
            "and drops packets once none is free".to_owned()
        };
        format!(
            "Netfilter's connection table holds {entries} of {limit} entries (limit: {:.0} %), \
             {drops}: new connections to any port of this host fail.",
            100.0 * part
        )
    }

    fn advice(&self, _: &Onset) -> Vec<String> {
        vec![
            format!(
                "Make room: sysctl -w net.netfilter.nf_conntrack_max={} doubles the table.",
                2 * self.limit
            ),
            "Find what fills it (conntrack -L), and exempt busy services from tracking (nft: \
             notrack in a chain of priority raw)."
                .to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_warns_and_one_that_drops_is_critical() {
        let judge = |entries, drop_rate| {
            let conntrack = Conntrack { entries, limit: 1_000, dropped: 7 };
            let found = ConntrackFull::judge(conntrack, drop_rate)?;
            Some(found.onset(Timestamp::EPOCH).severity)
        };
        assert_eq!(judge(949, 0.0), None);
        assert_eq!(judge(949, 20.0), None, "lost races");
        assert_eq!(judge(950, 0.0), Some(Severity::Warning));
        assert_eq!(judge(1_000, 20.0), Some(Severity::Critical));
        let unlimited = Conntrack { entries: 5, ..Conntrack::default() };
        assert!(ConntrackFull::judge(unlimited, 0.0).is_none());
    }

    #[test]
    fn the_sentence_has_the_limit_that_was_reached() {
        let conntrack = Conntrack { entries: 65_536, limit: 65_536, dropped: 0 };
        let found = ConntrackFull::judge(conntrack, 48.7).expect("full");
        assert_eq!(
            found.onset(Timestamp::EPOCH).explanation(),
            "Netfilter's connection table holds 65536 of 65536 entries (limit: 95 %), and it drops \
             49 packets a second: new connections to any port of this host fail."
        );
    }
}
