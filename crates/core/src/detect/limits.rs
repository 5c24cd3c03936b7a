//! What a severity is judged by: limits that are derived from the queue, or set in the
//! configuration.

use std::fmt;
use std::time::Duration;

/// Failures per second beyond the usual that make a severity, where they are set instead of derived
/// from the backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RateLimits {
    /// A warning.
    pub warning: Option<f64>,
    /// Critical.
    pub critical: Option<f64>,
}

impl RateLimits {
    /// The limits of warning and critical for a queue that a rate of `filling` fills in the end: as
    /// set, or else one half of it and all of it; critical is never below warning.
    #[must_use]
    pub fn rates(self, filling: f64) -> (f64, f64) {
        let least = self.critical.unwrap_or(f64::INFINITY);
        let warning = self.warning.unwrap_or((filling / 2.0).min(least));
        (warning, self.critical.unwrap_or(filling).max(warning))
    }
}

/// A rate that was reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Failures per second.
    pub rate: f64,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a limit comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// It is the rate that fills the queue in the end.
    Filling,
    /// It is derived from that rate, or from what completes.
    Derived,
    /// The configuration sets it.
    Configured,
}

impl RateLimit {
    /// The limit `rate`, which would be `derived` without a setting and come from `origin` then.
    pub(crate) fn new(rate: f64, derived: f64, origin: Origin) -> Self {
        let configured = rate.to_bits() != derived.to_bits();
        Self { rate, origin: if configured { Origin::Configured } else { origin } }
    }

    /// The lower of two.
    pub(crate) fn min(self, other: Self) -> Self {
        if other.rate < self.rate { other } else { self }
    }
}

impl fmt::Display for RateLimit {
    /// With as many digits as mean something.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = usize::from(self.rate < 10.0 && self.rate.fract() != 0.0);
        write!(f, "{:.digits$}/s", self.rate)
    }
}

/// What a severity comes from, with the limit that was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Reason {
    /// The CUSUM alone: a change, not yet of a rate that matters.
    #[default]
    Change,
    /// The rate of failures.
    Rate(RateLimit),
    /// The rate of attempts that are young, but too many of them are not complete.
    Young(RateLimit),
    /// This part of the queue is taken.
    Occupancy {
        /// From 0 to 1.
        part: f64,
        /// It must be taken for so long.
        lasting: Duration,
    },
    /// The kernel turned requests away, or answered them with cookies.
    QueueFull,
    /// The same for so long, by the kernel's own count of the queue, which the wire does not
    /// explain.
    Overflow {
        /// It must be so for this time.
        lasting: Duration,
    },
    /// One source reached this rate, whatever the ports.
    SingleSource {
        /// SYNs per second.
        rate: f64,
    },
}

impl fmt::Display for Reason {
    /// The limit in words, for the sentence that says what reached it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Change => f.write_str("a change, but below the rates that page"),
            Self::Rate(limit @ RateLimit { origin: Origin::Filling, .. }) => {
                write!(f, "limit: what fills the queue in the end, {limit}")
            }
            Self::Rate(limit @ RateLimit { origin: Origin::Derived, .. }) => {
                write!(f, "limit: {limit}")
            }
            Self::Rate(RateLimit { rate, origin: Origin::Configured }) => {
                write!(f, "limit set in the configuration: {rate}/s")
            }
            Self::Young(RateLimit { rate, origin: Origin::Configured }) => {
                write!(f, "limit set in the configuration for the first seconds: {rate}/s")
            }
            Self::Young(RateLimit { rate, .. }) => {
                write!(f, "limit within the first seconds: {rate:.0}/s")
            }
            Self::Occupancy { part, lasting: Duration::ZERO } => {
                write!(f, "limit: {:.0} % of the queue is taken", 100.0 * part)
            }
            Self::Occupancy { part, lasting } => {
                let (part, seconds) = (100.0 * part, lasting.as_secs());
                write!(f, "limit: {part:.0} % of the queue is taken for {seconds} s")
            }
            Self::QueueFull => f.write_str("and the kernel found the queue full"),
            Self::Overflow { lasting } => {
                write!(f, "limit: {} s without a free place", lasting.as_secs())
            }
            Self::SingleSource { rate } => write!(f, "limit: {rate:.0}/s from one source"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DERIVED: RateLimits = RateLimits { warning: None, critical: None };

    #[test]
    fn what_is_not_set_is_derived_and_critical_is_not_below_warning() {
        assert_eq!(DERIVED.rates(400.0), (200.0, 400.0));
        let set = |warning, critical| RateLimits { warning, critical }.rates(400.0);
        assert_eq!(set(Some(20.0), None), (20.0, 400.0));
        assert_eq!(set(Some(1_000.0), None), (1_000.0, 1_000.0));
        assert_eq!(set(None, Some(50.0)), (50.0, 50.0));
        assert_eq!(set(None, Some(5_000.0)), (200.0, 5_000.0));
        assert_eq!(set(Some(20.0), Some(0.5)), (20.0, 20.0));
    }

    #[test]
    fn a_limit_says_where_it_comes_from() {
        let words = |rate, origin| Reason::Rate(RateLimit::new(rate, 400.0, origin)).to_string();
        assert_eq!(words(400.0, Origin::Derived), "limit: 400/s");
        let short = Reason::Rate(RateLimit { rate: 1.6, origin: Origin::Derived });
        assert_eq!(short.to_string(), "limit: 1.6/s");
        assert_eq!(words(400.0, Origin::Filling), "limit: what fills the queue in the end, 400/s");
        assert_eq!(words(20.5, Origin::Filling), "limit set in the configuration: 20.5/s");
        let young = Reason::Young(RateLimit::new(20.0, 200.0, Origin::Derived));
        assert_eq!(young.to_string(), "limit set in the configuration for the first seconds: 20/s");
    }
}
