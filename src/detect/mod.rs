//! Windows become a verdict: change detection, severity from impact, class, and words.

mod baseline;
mod change;
mod classify;
mod explain;
mod incident;
mod scan;

pub use change::{Detector, Observation, Reason};
pub use classify::variant;
pub use explain::{Circumstances, Detail};
pub use incident::{Action, Incidents, Onset, Subject};
pub use scan::{Scan, Scanners};
