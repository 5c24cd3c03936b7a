//! What a finding is told by: how grave it is, whom it hits, and the figures behind it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::figures;
use crate::wire::OptionLayout;

/// The overall verdict; its order is its gravity, and the number of a variant is the exit code.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing at warning or above.
    #[default]
    Ok = 0,
    /// A warning is active.
    Warning = 1,
    /// A critical detection is active.
    Critical = 2,
    /// There is no alarm, but a reason why there might be ([`Unknown`]).
    ///
    /// [`Unknown`]: crate::document::Unknown
    Unknown = 3,
}

impl Status {
    /// The word of the first output line of a Nagios plugin.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The process exit code of `--once` and `replay`.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        self as u8
    }
}

/// The kind of a SYN flood, by the sources of the attempts that fail, or of a scan, by its targets.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Forged at random from the whole address space.
    SpoofedRandom,
    /// Forged inside one prefix.
    SpoofedSubnet,
    /// Many addresses that come back: probably real ones.
    Distributed,
    /// One address sends most of them.
    SingleSource,
    /// Fills the queue at a rate that is low for it.
    Slow,
    /// Many targets or ports, each of which gets little.
    Carpet,
    /// A scan of many ports of one host.
    Vertical,
    /// A scan of one port of many hosts.
    Horizontal,
    /// A scan of many ports of many hosts.
    Block,
}

impl Variant {
    /// The value of the field and label `variant`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SpoofedRandom => "spoofed_random",
            Self::SpoofedSubnet => "spoofed_subnet",
            Self::Distributed => "distributed",
            Self::SingleSource => "single_source",
            Self::Slow => "slow",
            Self::Carpet => "carpet",
            Self::Vertical => "vertical",
            Self::Horizontal => "horizontal",
            Self::Block => "block",
        }
    }
}

/// How grave a detection is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; never changes an exit code.
    Info,
    /// Somebody should look.
    Warning,
    /// Clients are being turned away, or soon will be.
    Critical,
}

impl Severity {
    /// All severities, rising.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// The value of the field and label `severity`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// The verdict that a detection of this severity leads to.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Info => Status::Ok,
            Self::Warning => Status::Warning,
            Self::Critical => Status::Critical,
        }
    }
}

/// What is under attack.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Target {
    /// The address that was hit; null where none stands out.
    pub address: Option<IpAddr>,
    /// The port; null where there are many.
    pub port: Option<u16>,
}

figures! {
    /// The figures behind a detection.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Evidence {
        /// SYNs per second over the matured window.
        pub syn_rate with syn_rate_stderr: Estimate<f64>,
        /// Share of the attempts in the matured window that completed.
        pub completion_ratio with completion_ratio_stderr: Estimate<f64>,
        /// The most half-open connections during the incident.
        pub half_open_peak with half_open_peak_stderr: Estimate<u64>,
        /// Limit of the SYN queue, where known or assumed.
        pub backlog: Option<u32>,
        /// Half-open connections in proportion to the limit.
        pub occupancy_ratio: Option<f64>,
        /// Requests a second that the kernel dropped because a SYN queue was full, of all
        /// listeners; null where it was not asked.
        pub kernel_drop_rate: Option<f64>,
        /// Requests a second that it answered by a SYN cookie instead.
        pub kernel_cookie_rate: Option<f64>,
        /// Distinct source addresses of the service's SYNs (estimate); of the kernel alone, those
        /// of the SYN_RECV rows that it gave.
        pub sources: u64,
        /// Their entropy over the highest that their number allows.
        pub source_entropy_ratio: f64,
        /// The prefixes that most failing attempts come from.
        pub top_prefixes: Vec<PrefixShare>,
        /// The commonest SYN among the failing attempts.
        pub fingerprint: Option<Fingerprint>,
    }
}

/// A prefix and its share of the failing attempts.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct PrefixShare {
    /// The prefix.
    pub prefix: IpNet,
    /// From 0 to 1.
    pub share: f64,
}

/// What a SYN looks like: supporting evidence only, its sender sets it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Fingerprint {
    /// Share of the failing attempts that look like this.
    pub share: f64,
    /// Share of the handshakes that complete, now and in the minutes before, that look like this;
    /// null where none was seen.
    pub completed_share: Option<f64>,
    /// Time to live or hop limit on arrival.
    pub ttl: u8,
    /// Window field.
    pub window: u16,
    /// Maximum segment size option.
    pub mss: Option<u16>,
    /// Option kinds in order.
    pub options: OptionLayout,
}
