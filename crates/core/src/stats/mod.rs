//! Handshakes fill windows: what is counted per service, and who the failing attempts come from.
//!
//! Counts are kept in steps of 250 ms by the step in which the attempt began, so a step can be judged once
//! all of its attempts are old enough, without a timer for any of them. Sources are
//! judged on a bounded sample of the attempts that failed, not on all SYNs: legitimate clients do
//! not dilute it and its cost does not grow with the attack.

mod draw;
mod failures;
mod hosts;
mod looks;
mod memory;
mod sketch;
mod window;

pub use draw::{Attempt, Draw, Drawn, Lot};
pub use failures::{Failure, Failures, SourceProfile, TargetProfile};
pub(crate) use failures::{common_prefix, network_of, source_of, subnet_of};
pub use hosts::{Hosts, LastSteps, SingleSourceFlood, StrayAnswers};
pub use looks::{Completions, Look, Sighting};
pub use memory::Recent;
pub(crate) use sketch::{Keyed, distinct, rounded, scaled_up, sketch};
pub(crate) use window::BINS;
pub use window::{Changes, STEP, Step, Window, Windows};
