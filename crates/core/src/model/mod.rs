//! Plain values that others share: what the witnesses say, what findings are told by, counts with
//! their errors.

mod counts;
mod estimate;
mod evidence;
mod sample;

pub use counts::FlowCounts;
pub use estimate::Estimate;
pub(crate) use estimate::{figures, stderr};
pub use evidence::{Evidence, Fingerprint, PrefixShare, Severity, Status, Target, Variant};
pub use sample::{
    CaptureStats, Conntrack, KernelHalfOpen, KernelSample, Listener, Process, Sysctls,
};
