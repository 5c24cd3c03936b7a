//! Plain values that others share: what the witnesses say, what findings are told by, counts with
//! their errors.

mod counts;
mod evidence;
mod sample;
mod stderr;

pub use counts::FlowCounts;
pub use evidence::{Evidence, Fingerprint, PrefixShare, Severity, Status, Target, Variant};
pub use sample::{
    CaptureStats, Conntrack, KernelHalfOpen, KernelSample, Listener, Process, Sysctls,
};
pub use stderr::{
    EvidenceStderr, FlowCountsStderr, ServiceStderr, TotalsStderr, rounded_up, stderr,
};
