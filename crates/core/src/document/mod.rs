//! What synwatch has found, as it is shown to others: [`Document`], the JSON document of `--once`,
//! `replay` and `/api/v1/status`. Its field names are a promise to users and change only with
//! [`SCHEMA_VERSION`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::findings::Class;
use crate::model::{Evidence, FlowCounts, Process, Severity, Status, Target, Variant, figures};
use crate::time::Timestamp;

mod snapshot;

pub use snapshot::{Durations, Handshakes, Internals, ServiceInternals, Snapshot};

/// Version of the JSON document's schema.
pub const SCHEMA_VERSION: u32 = 1;

/// The state of the world as far as synwatch sees it: one JSON document.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Document {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of synwatch.
    pub version: Cow<'static, str>,
    /// The worst severity among the detections that count; `unknown` where there is none, but a
    /// reason why there might be.
    pub status: Status,
    /// Why `ok` cannot be said.
    #[serde(default)]
    pub unknown: Vec<Unknown>,
    /// The time span that the report covers.
    pub observed: Observed,
    /// What the wire gave.
    pub capture: CaptureReport,
    /// What the kernel gave.
    pub kernel: KernelReport,
    /// Counts over the whole span, all services.
    pub totals: Totals,
    /// Tracked connections by state of RFC 9293, as of `observed.to`.
    pub flows: FlowCounts,
    /// The busiest services.
    pub services: Vec<ServiceReport>,
    /// Detections, active and cleared ones, newest first.
    pub detections: Vec<Detection>,
}

impl Document {
    /// Takes in a reason why `ok` cannot be said. An alarm stays one.
    pub fn doubt(&mut self, why: Unknown) {
        if !self.unknown.contains(&why) {
            self.unknown.push(why);
        }
        if self.status == Status::Ok {
            self.status = Status::Unknown;
        }
    }
}

/// Why `ok` cannot be said: a witness is silent, something hides handshakes, or what is seen is not
/// understood.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// No witness could be asked.
    NoWitness,
    /// The kernel is asked and does not answer (any more).
    KernelSilent,
    /// The capture loses so many packets that it may miss an attack.
    Dropping,
    /// Many frames may hold handshakes and cannot be decoded.
    Undecoded,
    /// A service sends SYN-ACKs that cannot all belong to the SYNs that are seen.
    AnswersWithoutSyns,
    /// The kernel holds half-open connections to a service that has no place among those watched.
    RowsNotJudged,
    /// A SYN queue is full by the kernel's count, and nothing that is told explains it.
    QueueFull,
    /// There is no packet in the capture.
    NoPacket,
    /// No packet of the capture could be decoded.
    NothingDecoded,
    /// Not all of the capture could be read.
    Incomplete,
}

impl Unknown {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::NoWitness,
        Self::KernelSilent,
        Self::Dropping,
        Self::Undecoded,
        Self::AnswersWithoutSyns,
        Self::RowsNotJudged,
        Self::QueueFull,
        Self::NoPacket,
        Self::NothingDecoded,
        Self::Incomplete,
    ];

    /// The value of the label `reason`, as in the document.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoWitness => "no_witness",
            Self::KernelSilent => "kernel_silent",
            Self::Dropping => "dropping",
            Self::Undecoded => "undecoded",
            Self::AnswersWithoutSyns => "answers_without_syns",
            Self::RowsNotJudged => "rows_not_judged",
            Self::QueueFull => "queue_full",
            Self::NoPacket => "no_packet",
            Self::NothingDecoded => "nothing_decoded",
            Self::Incomplete => "incomplete",
        }
    }
}

impl fmt::Display for Unknown {
    /// In words, short enough for the first line of a report.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoWitness => "neither packets nor the kernel could be read",
            Self::KernelSilent => "the kernel does not answer",
            Self::Dropping => "the capture loses too many packets",
            Self::Undecoded => "too many packets cannot be decoded",
            Self::AnswersWithoutSyns => "SYN-ACKs answer SYNs that are not seen",
            Self::RowsNotJudged => "the kernel holds requests of services not watched",
            Self::QueueFull => "a SYN queue is full, and nothing shows why",
            Self::NoPacket => "there is no packet in the capture",
            Self::NothingDecoded => "no packet of the capture could be decoded",
            Self::Incomplete => "not all of the capture could be read",
        })
    }
}

/// A span of time.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Observed {
    /// First packet, or the start of the daemon.
    pub from: Timestamp,
    /// Last packet, or now.
    pub to: Timestamp,
    /// The length of the span in seconds.
    pub seconds: f64,
}

/// What the capture gave.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct CaptureReport {
    /// `afpacket`, `pnet`, `pcap` or `none`.
    pub source: Cow<'static, str>,
    /// Interfaces that are captured on.
    pub interfaces: Vec<String>,
    /// Frames that came up.
    pub packets: u64,
    /// Frames that were TCP segments.
    pub tcp_segments: u64,
    /// Frames that the kernel dropped before they came up.
    pub dropped: u64,
    /// Share of the flows that is tracked, 1.0 for all; where services are sampled each by itself,
    /// the lowest.
    pub sampling_ratio: f64,
    /// What limits the view, of [`Limit`].
    pub limits: Vec<Limit>,
    /// Frames that gave no segment, by reason; only reasons that occurred.
    pub skipped: BTreeMap<Cow<'static, str>, u64>,
}

impl CaptureReport {
    /// Whether only one direction is seen.
    #[must_use]
    pub fn is_one_way(&self) -> bool {
        let one_way = [Limit::OneWayIngress, Limit::OneWayEgress];
        self.limits.iter().any(|limit| one_way.contains(limit))
    }
}

/// A flag that says what could not be seen.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Only segments towards the services are seen.
    OneWayIngress,
    /// Only segments from the services are seen.
    OneWayEgress,
    /// The capture loses packets.
    Dropping,
    /// Of the flows of at least one service only a sample was looked at.
    Sampled,
    /// Packets are cut off within their headers.
    Truncated,
    /// Fragments came that could not be put together.
    Fragments,
    /// More than 1 % of the frames, or 100 of them, could not be decoded and may have been
    /// handshakes.
    Undecoded,
    /// The kernel could not be asked.
    NoKernel,
    /// Time stamps of a file stepped: from there on times are not all as stamped.
    Clock,
}

/// What the kernel gave.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct KernelReport {
    /// Whether the kernel was asked and answered.
    pub available: bool,
    /// Requests in SYN_RECV, all listeners; null where the kernel was not asked.
    pub syn_recv: Option<u64>,
    /// `net.ipv4.tcp_syncookies`.
    pub syncookies: Option<u8>,
    /// Counters as they stand in the kernel.
    pub counters: BTreeMap<Cow<'static, str>, u64>,
}

figures! {
    /// Counts over all services since the start, repeats included where a field does not say
    /// otherwise.
    ///
    /// Every attempt has one outcome: `syn - syn_retransmitted = handshakes_completed +
    /// handshakes_presumed + handshakes_reset + syn_unanswered + handshakes_timed_out + half_open +
    /// SYN_SENT` of the flows. A late word replaces the earlier one, so a number may fall. Two
    /// things part the sides: sampling whose level changes, and services of which only answers are
    /// seen, where each first answer counts as an attempt without a SYN.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub struct Totals {
        /// Segments with SYN and without ACK, FIN, RST.
        pub syn with syn_stderr: Estimate<u64>,
        /// Those of them that begin no attempt: repeats (same 4-tuple and sequence number), and the
        /// second SYN of two that crossed.
        pub syn_retransmitted with syn_retransmitted_stderr: Estimate<u64>,
        /// Segments with SYN and ACK, without FIN, RST.
        pub syn_ack with syn_ack_stderr: Estimate<u64>,
        /// Attempts acknowledged with the server's number + 1.
        pub handshakes_completed with handshakes_completed_stderr: Estimate<u64>,
        /// Attempts ended by a RST of either end before they completed.
        pub handshakes_reset with handshakes_reset_stderr: Estimate<u64>,
        /// Answered attempts that the server gave up.
        pub handshakes_timed_out with handshakes_timed_out_stderr: Estimate<u64>,
        /// Attempts that completed as far as what was seen shows: the answer or its
        /// acknowledgement was not.
        pub handshakes_presumed with handshakes_presumed_stderr: Estimate<u64>,
        /// Attempts that nobody answered.
        pub syn_unanswered with syn_unanswered_stderr: Estimate<u64>,
        /// Connections in SYN_RECV as of now, as the handshakes show them. (Those of a service are
        /// also held to what its queue has room for.)
        pub half_open with half_open_stderr: Estimate<u64>,
        /// The highest value that `half_open` had.
        pub half_open_peak with half_open_peak_stderr: Estimate<u64>,
        /// Segments with FIN.
        pub fin with fin_stderr: Estimate<u64>,
        /// Segments with RST.
        pub rst with rst_stderr: Estimate<u64>,
        /// Distinct source addresses of SYNs (HyperLogLog estimate, exact while small).
        pub sources: u64,
    }
}

figures! {
    /// One watched service.
    #[derive(Clone, Debug, PartialEq)]
    pub struct ServiceReport {
        /// Address; unspecified for a wildcard listener.
        pub address: IpAddr,
        /// Port.
        pub port: u16,
        /// Owner of the listening socket, where known.
        pub process: Option<Process>,
        /// Half-open connections as the wire shows them.
        pub half_open with half_open_stderr: Estimate<u64>,
        /// The part of `half_open` that is too young for a first SYN-ACK retransmission: held by
        /// the server, or answered by a SYN cookie.
        pub half_open_unconfirmed with half_open_unconfirmed_stderr: Estimate<u64>,
        /// Half-open connections as the kernel counts them.
        pub half_open_kernel: Option<u64>,
        /// Limit of the SYN queue: from the kernel, or assumed.
        pub backlog: u32,
        /// Half-open connections in proportion to the limit.
        pub occupancy_ratio: f64,
        /// Seconds until the queue is full at the present rate; null where it does not fill.
        pub seconds_to_full: Option<f64>,
        /// SYNs, repeats included, since the start.
        pub syn with syn_stderr: Estimate<u64>,
        /// SYNs per second, over the last matured window.
        pub syn_rate with syn_rate_stderr: Estimate<f64>,
        /// Share of the attempts of the last seconds, of those that had half a second for it, that
        /// completed; 1 without attempts.
        pub completion_ratio with completion_ratio_stderr: Estimate<f64>,
        /// Distinct source addresses since the start (estimate).
        pub sources: u64,
        /// Entropy of the source addresses of failing attempts over the highest that their number
        /// allows.
        pub source_entropy_ratio: f64,
    }
}

/// A change of severity.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SeverityChange {
    /// When.
    pub at: Timestamp,
    /// To what.
    pub severity: Severity,
}

/// One incident, from its onset to its end.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Detection {
    /// Stable for the life of the incident.
    pub id: String,
    /// What it is.
    pub class: Class,
    /// Its kind, where known yet.
    pub variant: Option<Variant>,
    /// The highest severity that it reached.
    pub severity: Severity,
    /// From 0 to 1.
    pub confidence: f64,
    /// Every change of severity, the first is the onset.
    pub severity_history: Vec<SeverityChange>,
    /// What is under attack.
    pub target: Target,
    /// The prefix under attack, where it is more than one address.
    pub target_prefix: Option<IpNet>,
    /// Who attacks, where that is known to be real.
    pub attacker: Option<IpAddr>,
    /// Capture time of the first attempt that belongs to it.
    pub first_packet_at: Timestamp,
    /// When it was raised.
    pub raised_at: Timestamp,
    /// When it was over; null while it is active.
    pub cleared_at: Option<Timestamp>,
    /// What was measured.
    pub evidence: Evidence,
    /// One sentence with the figures.
    pub explanation: String,
    /// What an operator can do.
    pub advice: Vec<String>,
}

impl Detection {
    /// The severity as of now; `None` once it is cleared.
    #[must_use]
    pub fn current_severity(&self) -> Option<Severity> {
        if self.cleared_at.is_some() {
            return None;
        }
        self.severity_history.last().map(|change| change.severity)
    }
}

impl fmt::Display for Detection {
    /// What it is and whom it hits, for a headline: `SYN flood on 192.0.2.10:443`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class.title())?;
        match (self.target.address, self.target_prefix, self.target.port) {
            (Some(address), _, Some(port)) => write!(f, " on {}", SocketAddr::new(address, port)),
            (Some(address), _, None) => write!(f, " on {address}"),
            (None, Some(prefix), Some(port)) => write!(f, " on {prefix}, port {port}"),
            (None, Some(prefix), None) => write!(f, " on {prefix}"),
            (None, None, Some(port)) => write!(f, " on port {port}"),
            (None, None, None) => Ok(()),
        }?;
        match self.attacker {
            Some(attacker) => write!(f, " from {attacker}"),
            None => Ok(()),
        }
    }
}
