//! Plain values that cross the boundary between the core and its surroundings: what the kernel and
//! the capture say ([`KernelSample`], [`CaptureStats`]), and what synwatch has found ([`Snapshot`],
//! and in it the JSON document, [`Document`]).

mod document;
mod evidence;
mod internals;
mod sample;
mod stderr;

pub use crate::findings::Class;
pub use document::{
    CaptureReport, Detection, Document, FlowCounts, KernelReport, Limit, Observed, SCHEMA_VERSION,
    ServiceReport, SeverityChange, Totals,
};
pub use evidence::{Evidence, Fingerprint, PrefixShare, Severity, Status, Target, Variant};
pub use internals::{Durations, Handshakes, Internals, ServiceInternals, Snapshot};
pub use sample::{
    CaptureStats, Conntrack, KernelHalfOpen, KernelSample, Listener, Process, Sysctls,
};
pub use stderr::{
    EvidenceStderr, FlowCountsStderr, ServiceStderr, TotalsStderr, rounded_up, stderr,
};
