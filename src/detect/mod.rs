//! Windows become a verdict: change detection, severity from impact, class, and words.

mod baseline;
mod change;
mod classify;
mod configured;
mod explain;
mod incident;
#[cfg(test)]
mod poisoning;
mod saved;
mod scan;

pub use change::{Detector, Observation, Reason};
pub use classify::variant;
pub use configured::{Configured, RateLimits};
pub use explain::{Circumstances, Detail};
pub use incident::{Action, Incidents, Onset, Subject};
pub use saved::{SavedBaseline, SavedSeries};
pub use scan::{Scan, Scanners};
