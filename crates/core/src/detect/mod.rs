//! Whether a service is under attack, step by step: change detection, the queue, crowds, and the
//! severity that comes of them.

mod baseline;
mod change;
mod crowd;
mod detector;
mod episode;
mod limits;
mod observation;
#[cfg(test)]
mod poisoning;
mod queue;
mod saved;

pub use detector::Detector;
pub use limits::{RateLimits, Reason};
pub use observation::Observation;
pub(crate) use queue::{FULL, OVERFLOWING, Overflow};
pub use saved::{SavedBaseline, SavedSeries};
