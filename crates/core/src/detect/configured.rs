//! What the configuration says of a service, where it has a part in the verdict.

use crate::detect::change::Reason;
use crate::observe::{Evidence, Severity};

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
    /// The limits of warning and critical for a queue that a rate of `filling` fills in the end: as set, or
    /// else one half of it and all of it; critical is never below warning.
    #[must_use]
    pub fn rates(self, filling: f64) -> (f64, f64) {
        let least = self.critical.unwrap_or(f64::INFINITY);
        let warning = self.warning.unwrap_or((filling / 2.0).min(least));
        (warning, self.critical.unwrap_or(filling).max(warning))
    }
}

/// The settings that acted on one verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Configured {
    /// The backlog is a setting.
    pub backlog: bool,
    /// Limits that are settings.
    pub limits: RateLimits,
    /// The service is muted, and this is how grave it would be otherwise.
    pub muted: Option<Severity>,
    /// Attempts per second from muted sources, which are not counted.
    pub ignored: u32,
}

impl Configured {
    /// The limit that a severity comes from, in words, where it is a setting; `filling` is the rate that the
    /// others are derived from.
    #[must_use]
    pub fn limit(&self, reason: Reason, severity: Severity, filling: f64) -> Option<String> {
        if self.limits == RateLimits::default() {
            return None;
        }
        let (warning, critical) = self.limits.rates(filling);
        let (limit, derived) = match self.muted.unwrap_or(severity) {
            Severity::Critical => (critical, filling),
            Severity::Warning | Severity::Info => (warning, filling / 2.0),
        };
        let (limit, derived, when) = match reason {
            Reason::Rate => (limit, derived, ""),
            Reason::Young => {
                ((2.0 * limit).max(200.0), (2.0 * derived).max(200.0), " for the first seconds")
            }
            _ => return None,
        };
        (limit.to_bits() != derived.to_bits())
            .then(|| format!(" (limit set in the configuration{when}: {limit}/s)"))
    }

    /// The sentence of a verdict, with the other settings that acted on it.
    #[must_use]
    pub fn annotate(&self, sentence: &str, evidence: &Evidence) -> String {
        let mut text = sentence.trim_end_matches('.').to_owned();
        if let (true, Some(backlog)) = (self.backlog, evidence.backlog) {
            text += &format!("; the backlog of {backlog} is set in the configuration");
        }
        if self.ignored > 0 {
            text += &format!(
                "; {}/s more come from sources muted by the configuration and are not counted",
                self.ignored
            );
        }
        if let Some(severity) = self.muted {
            text += &format!("; muted by the configuration, else {}", severity.name());
        }
        text + "."
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
    fn only_a_limit_that_acted_is_told() {
        let limits = RateLimits { warning: Some(20.0), critical: None };
        let configured = Configured { limits, ..Configured::default() };
        let words = |reason, severity| configured.limit(reason, severity, 400.0);
        let told = Some(" (limit set in the configuration: 20/s)".to_owned());
        assert_eq!(words(Reason::Rate, Severity::Warning), told);
        assert_eq!(words(Reason::Rate, Severity::Critical), None);
        assert_eq!(words(Reason::Occupancy, Severity::Warning), None);
        assert_eq!(Configured::default().limit(Reason::Rate, Severity::Warning, 400.0), None);
    }

    #[test]
    fn settings_are_told_at_the_end_of_the_sentence() {
        let evidence = Evidence { backlog: Some(511), ..Evidence::default() };
        assert_eq!(Configured::default().annotate("It is.", &evidence), "It is.");
        let configured = Configured {
            backlog: true,
            muted: Some(Severity::Critical),
            ignored: 7,
            ..Configured::default()
        };
        assert_eq!(
            configured.annotate("It is.", &evidence),
            "It is; the backlog of 511 is set in the configuration; 7/s more come from sources muted \
             by the configuration and are not counted; muted by the configuration, else critical."
        );
    }
}
