//! Whether a service is under attack, step by step: change detection, the queue, crowds, and the
//! severity that comes of them.

mod baseline;
mod change;
mod crowd;
mod detector;
mod episode;
mod limits;
mod observation;
mod outage;
#[cfg(test)]
mod poisoning;
mod queue;
mod saved;

pub use detector::Detector;
pub(crate) use detector::YOUNG_RATE;
pub use limits::{RateLimits, Reason};
pub(crate) use observation::LIFETIME;
pub use observation::Observation;
pub(crate) use queue::{FULL, OVERFLOWING, Overflow};
pub use saved::{SavedBaseline, SavedSeries};
