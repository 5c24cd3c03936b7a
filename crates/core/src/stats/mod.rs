//! Handshakes fill windows: what is counted per service, and who the failing attempts come from.
//!
//! Counts are kept in steps of 250 ms by the step in which the attempt began, so a step can be
//! judged once all of its attempts are old enough, without a timer for any of them. Sources are
//! judged on a bounded sample of the attempts that failed, not on all SYNs: legitimate clients do
//! not dilute it and its cost does not grow with the attack.

mod completions;
mod failures;
mod fingerprint;
mod hosts;
mod memory;
mod sample;
mod sketch;
mod window;

pub use failures::{Failure, Failures, Share, SourceProfile, TargetProfile};
pub(crate) use failures::{common_prefix, network_of, source_of, subnet_of};
pub use fingerprint::{SeenSyn, SynFingerprint};
pub use hosts::{Hosts, LastSteps, SingleSourceFlood, StrayAnswers};
pub use memory::Recent;
pub use sample::{Attempt, BottomK, Priority, Samples};
pub(crate) use sketch::{Keyed, distinct, rounded, scaled_up, sketch};
pub(crate) use window::BINS;
pub use window::{Changes, STEP, Step, Window, Windows};
