//! Plain values that cross the boundary between the core and its surroundings: what the kernel and
//! the capture say ([`KernelSample`], [`CaptureStats`]), and what synwatch has found ([`Snapshot`],
//! and in it the JSON document, [`Document`]).

pub use crate::document::{
    CaptureReport, Detection, Document, Durations, Handshakes, Internals, KernelReport, Limit,
    Observed, SCHEMA_VERSION, ServiceInternals, ServiceReport, SeverityChange, Snapshot, Totals,
    Unknown,
};
pub use crate::findings::Class;
pub use crate::model::{
    CaptureStats, Conntrack, Estimate, Evidence, Fingerprint, FlowCounts, KernelHalfOpen,
    KernelSample, Listener, PrefixShare, Process, Severity, Status, Sysctls, Target, Variant,
};
