//! What the engine hands out: the document, and the figures that only metrics, tables and pages
//! show.

use std::collections::BTreeMap;

use crate::document::{Document, ServiceReport};
use crate::findings::Class;
use crate::model::{Conntrack, Severity, Variant};

/// The engine's state at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// What is shown to others.
    pub document: Document,
    /// The rest.
    pub internals: Internals,
}

impl Snapshot {
    /// The services of the document, with what it does not say of them.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceReport, &ServiceInternals)> {
        self.document.services.iter().zip(&self.internals.services)
    }
}

/// What the document does not say of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServiceInternals {
    /// Connections waiting for accept(), where the kernel was asked.
    pub accept_queue: Option<u32>,
    /// Whether the backlog comes from the kernel or the configuration.
    pub backlog_known: bool,
    /// The gravest active detection on it.
    pub verdict: Option<(Class, Option<Variant>, Severity)>,
}

/// Figures that are not part of the document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Internals {
    /// Entries in the flow table.
    pub flow_table_entries: u64,
    /// Limit of the flow table.
    pub flow_table_capacity: u64,
    /// Live flows that had to leave the table for others, since the start.
    pub flows_evicted: u64,
    /// Hosts and networks that failed more than usual and had to leave for others that failed more,
    /// since the start.
    pub groups_evicted: u64,
    /// Attempts by their outcome, as counters.
    pub handshakes: Handshakes,
    /// Durations of completed handshakes, from the SYN to the final ACK.
    pub handshake_durations: Durations,
    /// Detections raised since the start, by class and highest severity.
    pub detections_total: BTreeMap<(Class, Severity), u64>,
    /// Connection tracking, where it runs.
    pub conntrack: Option<Conntrack>,
    /// The services of the document, in its order.
    pub services: Vec<ServiceInternals>,
}

/// Attempts by their outcome, the most that each was at the end of any step and in any report: a
/// counter must not fall, though a late word replaces the earlier one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Handshakes {
    /// See [`super::Totals::handshakes_completed`].
    pub completed: u64,
    /// See [`super::Totals::handshakes_reset`].
    pub reset: u64,
    /// See [`super::Totals::handshakes_timed_out`].
    pub timed_out: u64,
    /// See [`super::Totals::handshakes_presumed`].
    pub presumed: u64,
    /// See [`super::Totals::syn_unanswered`].
    pub unanswered: u64,
}

impl Handshakes {
    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            completed: self.completed.max(other.completed),
            reset: self.reset.max(other.reset),
            timed_out: self.timed_out.max(other.timed_out),
            presumed: self.presumed.max(other.presumed),
            unanswered: self.unanswered.max(other.unanswered),
        }
    }
}

/// A histogram of durations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Durations {
    /// Observations not above the bound of the same index in [`Durations::BOUNDS`] and above the
    /// one before; the last are those above all bounds.
    pub counts: [u64; Durations::BOUNDS.len() + 1],
    /// Sum of the observations in seconds.
    pub sum: f64,
}

impl Durations {
    /// Upper bounds in seconds: from a local network to a client that retransmitted twice.
    pub const BOUNDS: [f64; 12] =
        [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0];

    /// Counts one observation, in seconds, that stands for `weight`.
    pub fn observe(&mut self, seconds: f64, weight: u32) {
        let bucket = Self::BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += u64::from(weight);
        self.sum += seconds * f64::from(weight);
    }

    /// Adds the observations of another.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, more)| *sum += more);
        self.sum += other.sum;
    }
}
