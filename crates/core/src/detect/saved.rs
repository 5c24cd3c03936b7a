//! What a service has taught its detector, in a form that outlives the engine.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// The baseline of one service, as plain values. Whoever keeps it may hand back anything: what is
/// no number is refused, and what is out of range is cut to it, when it is restored.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedBaseline {
    /// The address of the service; unspecified for a wildcard listener.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// When something was last learned of it.
    pub learned_at: Timestamp,
    /// Completions per second over the last 10 minutes without an incident or a crowd.
    pub usual_completion_rate: f64,
    /// Of attempts that were answered and failed.
    pub failing: SavedSeries,
    /// Of attempts that nobody answered.
    pub unanswered: SavedSeries,
}

/// What one of the series of failures has taught: the moments that rho, lambda, kappa and phi are
/// made of, exponential means over 10 minutes and, of the noise, an hour.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSeries {
    /// Steps of 250 ms that were learned from.
    pub steps: u32,
    /// Completions per step.
    pub completed: f64,
    /// Failures per step.
    pub failed: f64,
    /// Variance over mean of the failures, over 10 s.
    pub spread: f64,
    /// Mean square of the upper part of the relative excess over 10 s.
    pub noise: f64,
}

impl SavedBaseline {
    /// Whether all of it is finite and nothing is negative.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let series =
            |series: &SavedSeries| [series.completed, series.failed, series.spread, series.noise];
        let numbers = [&self.failing, &self.unanswered].map(series);
        let mut numbers = numbers.iter().flatten().chain([&self.usual_completion_rate]);
        numbers.all(|number| number.is_finite() && *number >= 0.0)
    }
}
