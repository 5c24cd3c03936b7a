//! Plain values that cross the boundary between the core and its surroundings: what the kernel and
//! the capture say ([`KernelSample`], [`CaptureStats`]), and what synwatch has found ([`Report`]).

mod evidence;
mod internals;
mod report;
mod sample;
mod stderr;

pub use crate::findings::Class;
pub use evidence::{Evidence, Fingerprint, PrefixShare, Severity, Status, Target, Variant};
pub use internals::{Durations, Handshakes, Internals};
pub use report::{
    CaptureReport, Detection, FlowCounts, KernelReport, Limit, Observed, Report, SCHEMA_VERSION,
    ServiceReport, SeverityChange, Totals,
};
pub use sample::{
    CaptureStats, Conntrack, KernelHalfOpen, KernelSample, Listener, Process, Sysctls,
};
pub use stderr::{
    EvidenceStderr, FlowCountsStderr, ServiceStderr, TotalsStderr, rounded_up, stderr,
};
