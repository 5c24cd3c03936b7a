//! Many more clients than usual, and they do complete.

use crate::detect::baseline::{D, Ewma};

/// Completions per second that are no crowd, however few are usual.
const NOISE: f64 = 20.0;
/// A crowd begins at so many times the usual, and ends at so many.
const BEGINS: f64 = 4.0;
const ENDS: f64 = 2.0;

/// The completions of one service.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    rate: Ewma,
    usual_rate: Ewma,
    crowded: bool,
}

impl Crowd {
    pub(crate) fn new() -> Self {
        Self { rate: Ewma::new(10.0 / D), usual_rate: Ewma::new(600.0 / D), crowded: false }
    }

    /// Takes in the completions of a step.
    pub(crate) fn add(&mut self, completed: f64) {
        self.rate.add(completed / D);
    }

    /// Judges at the end of a step, where each completion counted stands for `weight`. `cold`: the
    /// usual is not known yet. `learns`: no incident is going on.
    pub(crate) fn judge(&mut self, weight: u32, cold: bool, learns: bool) {
        let (now, usual) = (self.rate.mean(), self.usual_rate.mean());
        let noise = NOISE * f64::from(weight.max(1));
        let limit = if self.crowded { ENDS } else { BEGINS } * usual + noise;
        self.crowded = !cold && now > limit;
        // While a crowd is there the usual is not learned, or it would be the crowd.
        if !self.crowded && learns {
            self.usual_rate.add(now);
        }
    }

    /// Whether there is a crowd.
    pub(crate) const fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// Completions per second, over 10 s.
    pub(crate) fn rate(&self) -> f64 {
        self.rate.mean()
    }

    /// The same over 10 minutes without an incident or a crowd.
    pub(crate) fn usual_rate(&self) -> f64 {
        self.usual_rate.mean()
    }

    /// Goes on from a usual rate that was learned over so many steps.
    pub(crate) fn restore(&mut self, usual: f64, steps: u32) {
        self.usual_rate.resume(usual.min(1e7), steps);
    }
}
