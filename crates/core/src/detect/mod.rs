//! Windows become a verdict: change detection, severity from impact, class, and words.

mod advice;
mod baseline;
mod change;
mod classify;
mod configured;
mod explain;
mod filter;
mod incident;
#[cfg(test)]
mod poisoning;
mod saved;
mod scan;

pub use change::{Detector, Observation, Reason};
pub use classify::{are_real, variant};
pub use configured::{Configured, RateLimits};
pub use explain::{Circumstances, Detail};
pub use filter::Filter;
pub use incident::{Action, Incidents, Onset, Subject};
pub use saved::{SavedBaseline, SavedSeries};
pub use scan::{Scan, Scanners};
