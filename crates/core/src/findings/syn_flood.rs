//! Attempts that nobody completes fill a SYN queue, or would. The rule on a service is that of
//! [`Detector`]; here are those on one source, and on what the kernel holds.
//!
//! [`Detector`]: crate::detect::Detector

mod advice;
mod filter;
mod kind;

use crate::detect::Reason;
use crate::findings::{Configured, Finding, Grounds, Onset, Room};
use crate::model::{Evidence, PrefixShare, Severity, Sysctls, Target, Variant};
use crate::stats::{STEP, SingleSourceFlood};
use crate::time::Timestamp;

pub use filter::Filter;
pub(crate) use kind::{are_real, variant};

/// One source above this rate at one host is a flood whatever the ports, per second.
const SINGLE_SOURCE: u32 = 5_000;
/// Time in which a queue that fills is worth a word, in seconds.
const SOON: f64 = 600.0;

/// A SYN flood.
#[derive(Clone, Copy, Debug, Default)]
pub struct SynFlood {
    /// What it was judged by.
    pub basis: Basis,
    /// The queue that it fills.
    pub queue: QueueState,
    /// Where it comes from.
    pub sources: Sources,
}

/// What a flood was judged by.
#[derive(Clone, Copy, Debug)]
pub enum Basis {
    /// The attempts to one service or host, and the limit that they reached.
    Attempts(Reason),
    /// The same to many services.
    Group {
        /// The limit that was reached.
        reason: Reason,
        /// How many services, among the sampled failures.
        services: usize,
    },
    /// The kernel's SYN_RECV rows alone, of which so many had their SYN-ACK re-sent in vain.
    KernelRows {
        /// Those requests.
        resent: u64,
    },
    /// The kernel's count of a queue that stays full.
    Overflow {
        /// The limit that was reached.
        reason: Reason,
        /// Half-open connections that the wire shows meanwhile, where there is one.
        wire: Option<u64>,
    },
}

impl Default for Basis {
    fn default() -> Self {
        Self::Attempts(Reason::default())
    }
}

/// The state of a SYN queue, and what shapes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueState {
    /// Half-open connections now, by the better witness.
    pub half_open: u64,
    /// Seconds until the queue is full, where it fills.
    pub seconds_to_full: Option<f64>,
    /// Kernel settings, where known.
    pub sysctls: Sysctls,
    /// What a listening socket has as its backlog, where the kernel was asked
    /// (`sk_max_ack_backlog`).
    pub listen_backlog: Option<u32>,
}

/// The sources of the attempts that fail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources {
    /// How many the sampled failures have.
    pub sampled: usize,
    /// Whether they are probably those that they say.
    pub real: bool,
    /// SYNs per second of a source, where all send as much.
    pub rate_each: f64,
    /// What a packet filter could do.
    pub filter: Option<Filter>,
}

impl SynFlood {
    /// The limit of a step for attempts of one source at one host.
    pub(crate) const SINGLE_SOURCE_PER_STEP: u32 = SINGLE_SOURCE / 4;

    /// The finding on a host that one source floods over all of its ports.
    pub(crate) fn single_source(
        flood: &SingleSourceFlood,
        at: Timestamp,
        half_open_peak: u64,
        sysctls: Sysctls,
        dropping: bool,
    ) -> Onset {
        let prefix = std::net::IpAddr::from(flood.source).into();
        let limit = f64::from(SINGLE_SOURCE);
        let found = Self {
            basis: Basis::Attempts(Reason::SingleSource { rate: limit }),
            queue: QueueState { sysctls, ..QueueState::default() },
            sources: Sources::default(),
        };
        Onset {
            variant: Some(Variant::SingleSource),
            severity: Severity::Critical,
            target: Target { address: Some(flood.host.into()), port: None },
            target_prefix: None,
            attacker: None,
            first_packet_at: at.before(STEP * 3),
            evidence: Evidence {
                syn_rate: flood.rate.into(),
                completion_ratio: flood.completed.into(),
                half_open_peak: half_open_peak.into(),
                sources: 1,
                top_prefixes: vec![PrefixShare { prefix, share: flood.share }],
                ..Evidence::default()
            },
            grounds: Grounds {
                excess_rate: flood.rate * (1.0 - flood.completed),
                level: flood.rate / limit,
                dropping,
                ..Grounds::default()
            },
            configured: Configured::default(),
            finding: Finding::SynFlood(found),
        }
    }

    /// How grave it is that of `count` requests in a queue of `backlog` so many are `old`: their
    /// answer was sent again in vain.
    pub(crate) fn judge_rows(count: u32, old: u32, backlog: u32) -> Option<Severity> {
        let occupancy = f64::from(count) / f64::from(backlog);
        let stale = f64::from(old) / f64::from(count.max(1));
        // A few clients that have gone silent are no flood, though they may fill a short queue.
        let many = old >= backlog.clamp(3, 16);
        // A quarter of the queue held by requests whose answer was in vain; and of a full queue a
        // tenth is enough, since pruning spares the young.
        if many && occupancy >= 0.75 && stale >= 0.1 {
            Some(Severity::Critical)
        } else if many && f64::from(old) >= 0.25 * f64::from(backlog) {
            Some(Severity::Warning)
        } else {
            None
        }
    }

    fn queue_in_words(&self, onset: &Onset) -> String {
        let (Some(backlog), Some(_)) = (onset.evidence.backlog, onset.target.port) else {
            return String::new();
        };
        let full = match self.queue.seconds_to_full {
            Some(seconds) if seconds < SOON => format!(" (full in {seconds:.0} s)"),
            _ => String::new(),
        };
        let half_open = self.queue.half_open;
        format!("; {half_open} of {backlog} places in the SYN queue are half-open{full}")
    }

    fn sources_in_words(&self, onset: &Onset) -> String {
        let (failures, sources) = (onset.grounds.failures, self.sources.sampled);
        match onset.variant {
            Some(Variant::SpoofedRandom) => format!(
                "; {failures} sampled failures come from {sources} sources spread like random \
                 numbers: forged"
            ),
            Some(Variant::SpoofedSubnet) => {
                onset.evidence.top_prefixes.last().map_or_else(String::new, |top| {
                    let share = 100.0 * top.share;
                    format!("; {share:.0} % of the failing sources lie in {}", top.prefix)
                })
            }
            Some(Variant::SingleSource) => {
                "; most failing attempts come from one source".to_owned()
            }
            Some(Variant::Distributed) => format!(
                "; {failures} sampled failures come from {sources} sources that return: probably \
                 real hosts"
            ),
            Some(_) => format!("; {failures} sampled failures come from {sources} sources"),
            None => "; too few failures so far to judge their sources".to_owned(),
        }
    }
}

/// What the kernel did about it, and where its count is another than that of the wire.
fn kernel_in_words(onset: &Onset) -> String {
    let mut words = String::new();
    let rate = |rate: Option<f64>| rate.unwrap_or(0.0).round();
    let dropped = rate(onset.evidence.kernel_drop_rate);
    let cookies = rate(onset.evidence.kernel_cookie_rate);
    if dropped > 0.0 {
        words += &format!("; the kernel drops {dropped}/s since the queue is full");
    }
    if cookies > 0.0 {
        words += &format!("; the kernel answers {cookies}/s by SYN cookies");
    }
    if let Some((wire, kernel)) = onset.grounds.disagreement {
        let why = if onset.grounds.dropping {
            "the capture loses packets"
        } else if kernel > wire {
            "some came before the capture began or where it does not look"
        } else {
            "the kernel has given up some whose end does not show on the wire"
        };
        words += &format!("; the wire shows {wire} half-open and the kernel {kernel}: {why}");
    }
    words
}

impl Room for SynFlood {
    const TITLE: &'static str = "SYN flood";
    const EVENT: u32 = 1;
    const CATEGORY: &'static str = "Attempted Denial of Service";

    fn sentence(&self, onset: &Onset) -> String {
        let (place, completed) = (onset.place(), onset.completed());
        let (rate, excess) = (onset.evidence.syn_rate.value, onset.grounds.excess_rate);
        let sources = self.sources_in_words(onset);
        match self.basis {
            Basis::KernelRows { resent } => format!(
                "The kernel holds {} half-open connections to {place} of {} that fit in the SYN \
                 queue, and has re-sent the SYN-ACK of {resent} of them in vain{sources}.",
                self.queue.half_open,
                onset.evidence.backlog.unwrap_or_default(),
            ),
            Basis::Overflow { reason, wire } => {
                let unseen = wire.map_or_else(String::new, |wire| {
                    format!(
                        "; what fills it is not visible on the wire, which shows {wire} half-open"
                    )
                });
                format!(
                    "The SYN queue of {place} is full by the kernel's own count, {} of {} places \
                     ({reason}){}{unseen}{sources}.",
                    self.queue.half_open,
                    onset.evidence.backlog.unwrap_or_default(),
                    kernel_in_words(onset),
                )
            }
            Basis::Group { reason, services } => format!(
                "{rate:.0} SYN/s arrive at {place} and {completed:.0} % of the attempts complete, \
                 {excess:.0}/s more fail than usual ({reason}), spread over {services} services \
                 among the {} sampled failures{sources}.",
                onset.grounds.failures,
            ),
            Basis::Attempts(reason) => format!(
                "{rate:.0} SYN/s arrive at {place} and {completed:.0} % of the attempts complete, \
                 {excess:.0}/s more fail than usual ({reason}){}{}{sources}.",
                self.queue_in_words(onset),
                kernel_in_words(onset),
            ),
        }
    }

    fn advice(&self, onset: &Onset) -> Vec<String> {
        let queue = self.advice_on_queue(onset);
        let sources = self.advice_on_sources(onset);
        queue.into_iter().chain(self.advice_on_filter(onset)).chain(sources).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_short_queue_count_as_those_of_a_long_one() {
        let judge = SynFlood::judge_rows;
        assert_eq!(judge(20, 15, 511), None, "a few");
        assert_eq!(judge(200, 130, 511), Some(Severity::Warning));
        assert_eq!(judge(511, 60, 511), Some(Severity::Critical));
        assert_eq!(judge(6, 5, 5), Some(Severity::Critical));
        assert_eq!(judge(6, 4, 5), None);
        assert_eq!(judge(2, 2, 1), None, "two clients that have gone silent");
    }
}
