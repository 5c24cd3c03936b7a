//! What can be found: a room for each class, with its rule, its evidence, its sentence, its advice,
//! the number of its event and its tests.
//!
//! A class is added by a file here, a line in the list below, and a call where the engine judges.

mod accept_queue_overflow;
mod backlog_small;
mod backscatter;
mod configured;
mod conntrack_full;
mod flash_crowd;
mod path_outage;
mod port_scan;
mod syn_ack_reflection;
mod syn_filtered;
mod syn_flood;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{Evidence, Severity, Target, Variant};
use crate::time::Timestamp;

pub use accept_queue_overflow::AcceptQueueOverflow;
pub(crate) use accept_queue_overflow::Signs;
pub use backlog_small::BacklogSmall;
pub(crate) use backlog_small::{Burst, Overruns};
pub use backscatter::Backscatter;
pub use configured::Configured;
pub use conntrack_full::ConntrackFull;
pub use flash_crowd::FlashCrowd;
pub use path_outage::PathOutage;
pub use port_scan::PortScan;
pub(crate) use port_scan::Scanners;
pub(crate) use syn_ack_reflection::Reflections;
pub use syn_ack_reflection::SynAckReflection;
pub use syn_filtered::SynFiltered;
pub use syn_flood::{Basis, Filter, QueueState, Sources, SynFlood};
pub(crate) use syn_flood::{are_real, variant};

/// What every class has to say of itself.
trait Room {
    /// What it is, for a headline.
    const TITLE: &'static str;
    /// Its number among the signatures of EVE events, promised to users: no number is ever given to
    /// another class.
    const EVENT: u32;
    /// One of the descriptions in Suricata's `classification.config`.
    const CATEGORY: &'static str;

    /// One sentence: what was measured, over which time, against which limit.
    fn sentence(&self, onset: &Onset) -> String;

    /// What an operator can do: one sentence each, with the figures and the command. Nothing is
    /// applied.
    fn advice(&self, onset: &Onset) -> Vec<String>;
}

macro_rules! classes {
    ($($(#[$doc:meta])* $class:ident = $name:literal,)*) => {
        /// What was detected.
        #[derive(
            Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
        )]
        pub enum Class {
            $($(#[$doc])* #[serde(rename = $name)] $class,)*
        }

        impl Class {
            /// All classes.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$class,)*];

            /// The value of the field and label `class`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$class => $name,)* }
            }

            /// What it is, for a headline.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$class => $class::TITLE,)* }
            }

            /// Its number among the signatures of EVE events.
            #[must_use]
            pub const fn event(self) -> u32 {
                match self { $(Self::$class => $class::EVENT,)* }
            }

            /// Its category among those of Suricata.
            #[must_use]
            pub const fn category(self) -> &'static str {
                match self { $(Self::$class => $class::CATEGORY,)* }
            }
        }

        /// What was found, with the figures of its class.
        #[derive(Clone, Debug)]
        pub enum Finding {
            $($(#[$doc])* $class($class),)*
        }

        impl Finding {
            /// Its class.
            #[must_use]
            pub const fn class(&self) -> Class {
                match self { $(Self::$class(_) => Class::$class,)* }
            }

            fn sentence(&self, onset: &Onset) -> String {
                match self { $(Self::$class(found) => found.sentence(onset),)* }
            }

            fn advice(&self, onset: &Onset) -> Vec<String> {
                match self { $(Self::$class(found) => found.advice(onset),)* }
            }
        }

        $(impl From<$class> for Finding {
            fn from(found: $class) -> Self {
                Self::$class(found)
            }
        })*
    };
}

classes! {
    /// Half-open connections pile up, or SYNs arrive that nobody completes.
    SynFlood = "syn_flood",
    /// One source tries service after service.
    PortScan = "port_scan",
    /// SYNs in a victim's name make us send it SYN-ACKs.
    SynAckReflection = "syn_ack_reflection",
    /// SYN-ACKs or RSTs arrive that answer nothing we sent.
    Backscatter = "backscatter",
    /// The application does not call accept() fast enough: not an attack.
    AcceptQueueOverflow = "accept_queue_overflow",
    /// Many new clients that do complete: not an attack.
    FlashCrowd = "flash_crowd",
    /// The answers to the clients do not arrive: not an attack.
    PathOutage = "path_outage",
    /// SYNs are dropped before they reach the queue: not an attack.
    SynFiltered = "syn_filtered",
    /// Netfilter's table of connections is full.
    ConntrackFull = "conntrack_full",
    /// Honest bursts overflow a short SYN queue: not an attack.
    BacklogSmall = "backlog_small",
}

/// What is found of one subject now. The words come from it when they are needed.
#[derive(Clone, Debug)]
pub struct Onset {
    /// What it is, with the figures that only its class has.
    pub finding: Finding,
    /// Its kind, where known.
    pub variant: Option<Variant>,
    /// How grave it is now.
    pub severity: Severity,
    /// What is under attack.
    pub target: Target,
    /// The prefix under attack, where it is more than one address.
    pub target_prefix: Option<IpNet>,
    /// Who attacks, where that is known to be real.
    pub attacker: Option<IpAddr>,
    /// The first attempt that belongs to it.
    pub first_packet_at: Timestamp,
    /// The figures that are shown.
    pub evidence: Evidence,
    /// What its confidence is drawn from.
    pub grounds: Grounds,
    /// What the configuration says of the service.
    pub configured: Configured,
}

/// What speaks for a finding, and what weakens it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grounds {
    /// The evidence in units of its limit.
    pub level: f64,
    /// Excess failures per second.
    pub excess_rate: f64,
    /// Failures that were looked at.
    pub failures: usize,
    /// Whether the kernel's word supports it: SYN_RECV counts, drops or cookies.
    pub kernel_agrees: bool,
    /// Half-open connections as the wire shows them and as the kernel counts them, where these
    /// cannot be the same.
    pub disagreement: Option<(u64, u64)>,
    /// Only one direction is seen.
    pub one_way: bool,
    /// The capture loses packets.
    pub dropping: bool,
    /// The usual is not known yet.
    pub cold: bool,
}

impl Onset {
    /// Its class.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.finding.class()
    }

    /// How sure it is, 0 to 1: one half where the evidence just reaches its limit.
    #[must_use]
    pub fn confidence(&self) -> f64 {
        let grounds = &self.grounds;
        let page = (f64::from(self.evidence.backlog.unwrap_or(u32::MAX)) / 20.0).min(40.0);
        let mut confidence = 0.5 + 0.15 * (grounds.level - 1.0).clamp(0.0, 1.0);
        if grounds.excess_rate >= 2.0 * page {
            confidence += 0.15;
        }
        if grounds.failures >= 200 {
            confidence += 0.1;
        }
        if grounds.kernel_agrees {
            confidence += 0.1;
        }
        if grounds.disagreement.is_some() {
            confidence -= 0.1;
        }
        if grounds.cold {
            confidence -= 0.02;
        }
        if grounds.dropping {
            confidence -= 0.1;
        }
        let limit = if grounds.one_way { 0.75 } else { 1.0 };
        (confidence.clamp(0.0, limit) * 100.0).round() / 100.0
    }

    /// One sentence: what was measured, over which time, against which limit.
    #[must_use]
    pub fn explanation(&self) -> String {
        self.configured.annotate(&self.finding.sentence(self), &self.evidence)
    }

    /// What an operator can do.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        self.finding.advice(self)
    }

    /// What is under attack, in words.
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

    /// The share of the attempts that complete, in percent.
    fn completed(&self) -> f64 {
        100.0 * self.evidence.completion_ratio.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_number_belongs_to_one_class() {
        let mut numbers: Vec<u32> = Class::ALL.iter().map(|class| class.event()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), Class::ALL.len());
        assert!(!numbers.contains(&0));
    }
}
