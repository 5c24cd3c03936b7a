//! A verdict in words: one sentence with the figures.

use std::net::{IpAddr, SocketAddr};

use crate::detect::change::Reason;
use crate::detect::configured::Configured;
use crate::detect::filter::Filter;
use crate::detect::incident::Onset;
use crate::detect::scan::Scan;
use crate::observe::{Class, Severity, Sysctls, Variant};
use crate::stats::Backscatter;

/// What surrounds a detection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// Excess failures per second.
    pub excess_rate: f64,
    /// Which limit the severity comes from.
    pub reason: Reason,
    /// Failures per second that fill the queue in the end.
    pub filling_rate: f64,
    /// Failures that sources were judged on.
    pub failures: usize,
    /// How many sources these had.
    pub sampled_sources: usize,
    /// CUSUM in units of its limit.
    pub level: f64,
    /// Half-open connections now, by the better witness.
    pub half_open: u64,
    /// Seconds until the queue is full, where it fills.
    pub seconds_to_full: Option<f64>,
    /// Whether the kernel's word supports it: SYN_RECV counts, drops or cookies.
    pub kernel_agrees: bool,
    /// Half-open connections as the wire shows them and as the kernel counts them, where these cannot be
    /// the same.
    pub disagreement: Option<(u64, u64)>,
    /// Only one direction is seen.
    pub one_way: bool,
    /// The capture loses packets.
    pub dropping: bool,
    /// The usual is not known yet.
    pub cold: bool,
    /// Kernel settings, where known.
    pub sysctls: Sysctls,
    /// What the configuration says of the service.
    pub configured: Configured,
    /// What a listening socket has as its backlog, where the kernel was asked (`sk_max_ack_backlog`).
    pub listen_backlog: Option<u32>,
    /// What a packet filter could do.
    pub filter: Option<Filter>,
    /// Whether the sources are probably those that they say.
    pub real_sources: bool,
    /// SYNs per second of a source, where all send as much.
    pub rate_per_source: f64,
    /// The figures that only some verdicts have.
    pub detail: Detail,
}

/// What a verdict was drawn from, where it was not the attempts to one service.
#[derive(Clone, Copy, Debug, Default)]
pub enum Detail {
    /// It was.
    #[default]
    Attempts,
    /// The kernel's SYN_RECV rows alone, of which so many had their SYN-ACK re-sent.
    KernelRows {
        /// Requests whose SYN-ACK was re-sent.
        resent: u64,
    },
    /// Attempts to many services.
    Targets {
        /// How many, among the sampled failures.
        services: usize,
        /// Share that the client's side reset.
        reset: f64,
    },
    /// First contacts of one source.
    Scan(Scan),
    /// Segments that answer nothing.
    Backscatter(Backscatter),
    /// An accept queue.
    AcceptQueue {
        /// Connections that wait for accept(), where the kernel was asked.
        waiting: Option<u32>,
        /// SYN-ACKs that were sent again after the client's ACK, in the last seconds.
        resent: u32,
    },
}

impl Onset {
    /// How sure the verdict is, 0 to 1: one half where the evidence just reaches its limit.
    #[must_use]
    pub fn confidence(&self) -> f64 {
        let around = &self.circumstances;
        let page = (f64::from(self.evidence.backlog.unwrap_or(u32::MAX)) / 20.0).min(40.0);
        let mut confidence = 0.5 + 0.15 * (around.level - 1.0).clamp(0.0, 1.0);
        if around.excess_rate >= 2.0 * page {
            confidence += 0.15;
        }
        if around.failures >= 200 {
            confidence += 0.1;
        }
        if around.kernel_agrees {
            confidence += 0.1;
        }
        if around.disagreement.is_some() {
            confidence -= 0.1;
        }
        if around.cold {
            confidence -= 0.02;
        }
        if around.dropping {
            confidence -= 0.1;
        }
        let limit = if around.one_way { 0.75 } else { 1.0 };
        (confidence.clamp(0.0, limit) * 100.0).round() / 100.0
    }

    fn place(&self) -> String {
        match (self.target.address, self.target_prefix, self.target.port) {
            (Some(address), _, Some(port)) => SocketAddr::new(address, port).to_string(),
            (Some(address), ..) => address.to_string(),
            (None, Some(prefix), Some(port)) => format!("port {port} of {prefix}"),
            (None, Some(prefix), None) => prefix.to_string(),
            (None, None, Some(port)) => format!("port {port}"),
            (None, None, None) => "many networks".to_owned(),
        }
    }

    /// One sentence: what was measured, over which window, against which limit.
    #[must_use]
    pub fn explanation(&self) -> String {
        self.circumstances.configured.annotate(&self.sentence(), &self.evidence)
    }

    fn sentence(&self) -> String {
        let place = self.place();
        let rate = self.evidence.syn_rate;
        let completed = 100.0 * self.evidence.completion_ratio;
        match (self.class, self.circumstances.detail) {
            (Class::FlashCrowd, _) => format!(
                "{rate:.0} SYN/s arrive at {place}, far more than usual, and {completed:.0} % of \
                 the handshakes complete: many clients, not an attack."
            ),
            (_, Detail::KernelRows { resent }) => format!(
                "The kernel holds {} half-open connections to {place} of {} that fit in the SYN \
                 queue, and has re-sent the SYN-ACK of {resent} of them in vain{}.",
                self.circumstances.half_open,
                self.evidence.backlog.unwrap_or_default(),
                self.sources_in_words()
            ),
            (_, Detail::Scan(scan)) => format!(
                "{} tried {:.0} services on {place} in {:.0} s, and {} of {} attempts looked at \
                 failed: whoever knows its services succeeds with most first contacts.",
                IpAddr::from(scan.attacker),
                scan.services,
                (scan.last - scan.first).as_secs_f64().max(1.0),
                scan.failed,
                scan.attempts
            ),
            (_, Detail::Backscatter(stray)) => format!(
                "{:.0} SYN-ACKs and RSTs a second from {} senders arrive at {place} that answer \
                 nothing it sent (limit: 100/s): somebody uses its address as a forged source.",
                stray.rate,
                // The bitmap of senders is full at 64.
                if stray.senders >= 40 { "many".to_owned() } else { stray.senders.to_string() }
            ),
            (_, Detail::AcceptQueue { waiting, resent }) => {
                let limit = self.evidence.backlog.unwrap_or_default();
                let signs = [
                    waiting.map(|waiting| {
                        format!("{waiting} of {limit} places in its accept queue are taken")
                    }),
                    (resent > 0).then(|| {
                        format!("{resent} SYN-ACKs were sent again although they were acknowledged")
                    }),
                ];
                format!(
                    "The application behind {place} does not call accept() fast enough: {}; its \
                     clients are real.",
                    signs.into_iter().flatten().collect::<Vec<_>>().join(", and ")
                )
            }
            (Class::SynAckReflection, Detail::Targets { services, reset }) => format!(
                "{rate:.0} SYN/s from {} arrive at {services} services of {place}, and {:.0} % of \
                 the SYN-ACKs are answered by a RST: the source did not ask, it is the victim of \
                 a reflection.",
                self.top_source(),
                100.0 * reset
            ),
            (_, Detail::Targets { services, .. }) => format!(
                "{rate:.0} SYN/s arrive at {place} and {completed:.0} % of the attempts complete, \
                 {:.0}/s more fail than usual (limit: 40/s and a quarter of those that complete), \
                 spread over {services} services among the {} sampled failures{}.",
                self.circumstances.excess_rate,
                self.circumstances.failures,
                self.sources_in_words()
            ),
            (_, Detail::Attempts) => format!(
                "{rate:.0} SYN/s arrive at {place} and {completed:.0} % of the attempts complete, \
                 {:.0}/s more fail than usual{}{}{}{}.",
                self.circumstances.excess_rate,
                self.limit_in_words(),
                self.queue_in_words(),
                self.kernel_in_words(),
                self.sources_in_words()
            ),
        }
    }

    fn limit_in_words(&self) -> String {
        let backlog = f64::from(self.evidence.backlog.unwrap_or_default());
        let Circumstances { reason, filling_rate, configured, .. } = self.circumstances;
        let severity = self.severity;
        if let Some(limit) = configured.limit(reason, severity, filling_rate) {
            return limit;
        }
        match (reason, severity) {
            (Reason::Rate, Severity::Critical) => {
                format!(" (limit: what fills the queue in the end, {filling_rate:.0}/s)")
            }
            (Reason::Rate, _) => format!(" (limit: {:.0}/s)", (filling_rate / 2.0).min(40.0)),
            (Reason::Young, Severity::Critical) => {
                format!(" (limit within the first seconds: {:.0}/s)", 2.0 * filling_rate)
            }
            (Reason::Young, _) => {
                format!(" (limit within the first seconds: {:.0}/s)", (backlog / 10.0).max(200.0))
            }
            (Reason::Occupancy, Severity::Critical) => {
                " (the queue is full: limit 95 %)".to_owned()
            }
            (Reason::Occupancy, Severity::Warning) => {
                " (three quarters of the queue are taken)".to_owned()
            }
            (Reason::Occupancy, _) => " (a quarter of the queue is taken for 10 s)".to_owned(),
            (Reason::QueueFull, _) => " (and the kernel found the queue full)".to_owned(),
            (Reason::FullTilt, _) => " (limit: 5000/s from one source)".to_owned(),
            (Reason::Change, _) => " (a change, but below the rates that page)".to_owned(),
        }
    }

    fn queue_in_words(&self) -> String {
        let (Some(backlog), Some(_)) = (self.evidence.backlog, self.target.port) else {
            return String::new();
        };
        let full = match self.circumstances.seconds_to_full {
            Some(seconds) if seconds < 600.0 => format!(" (full in {seconds:.0} s)"),
            _ => String::new(),
        };
        let half_open = self.circumstances.half_open;
        format!("; {half_open} of {backlog} places in the SYN queue are half-open{full}")
    }

    /// What the kernel did about it, and where its count is another than that of the wire.
    fn kernel_in_words(&self) -> String {
        let mut words = String::new();
        let rate = |rate: Option<f64>| rate.unwrap_or(0.0).round();
        let dropped = rate(self.evidence.kernel_drop_rate);
        let cookies = rate(self.evidence.kernel_cookie_rate);
        if dropped > 0.0 {
            words += &format!("; the kernel drops {dropped}/s since the queue is full");
        }
        if cookies > 0.0 {
            words += &format!("; the kernel answers {cookies}/s by SYN cookies");
        }
        if let Some((wire, kernel)) = self.circumstances.disagreement {
            let why = if self.circumstances.dropping {
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

    fn top_source(&self) -> String {
        let top = self.evidence.top_prefixes.last();
        top.map_or_else(|| "few sources".to_owned(), |top| top.prefix.to_string())
    }

    fn sources_in_words(&self) -> String {
        let Circumstances { failures, sampled_sources, .. } = self.circumstances;
        let forged = format!(
            "; {failures} sampled failures come from {sampled_sources} sources spread like random \
             numbers: forged"
        );
        match self.variant {
            Some(Variant::SpoofedRandom) => forged,
            Some(Variant::SpoofedSubnet) => {
                self.evidence.top_prefixes.last().map_or_else(String::new, |top| {
                    let share = 100.0 * top.share;
                    format!("; {share:.0} % of the failing sources lie in {}", top.prefix)
                })
            }
            Some(Variant::SingleSource) => {
                "; most failing attempts come from one source".to_owned()
            }
            Some(Variant::Distributed) => format!(
                "; {failures} sampled failures come from {sampled_sources} sources that return: \
                 probably real hosts"
            ),
            Some(_) => format!("; {failures} sampled failures come from {sampled_sources} sources"),
            None => "; too few failures so far to judge their sources".to_owned(),
        }
    }
}
