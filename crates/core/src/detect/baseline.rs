//! A clamped CUSUM of excess failures over a learned baseline.

use std::ops::RangeInclusive;

use crate::detect::saved::SavedSeries;
use crate::stats::STEP;

/// Seconds of a step.
pub(crate) const D: f64 = STEP.as_millis() as f64 / 1_000.0;
/// Mean time between false alarms that the limit h is set for: ten years, in steps.
const ARL0_STEPS: f64 = 10.0 * 365.25 * 86_400.0 / D;
/// Steps of the baseline's time constant: 10 minutes.
const LEARNING: f64 = 600.0 / D;
/// Steps of the time constant of what is known of the noise: an hour. It has to outlive quiet
/// minutes.
const NOISE: f64 = 3_600.0 / D;
/// Steps over which noise is measured: 10 s. Failures come in clumps and their share wanders; both
/// show over many steps, not in the variance of single ones.
const SPAN: f64 = 10.0 / D;
/// Noise is learned from what is clear and winsorised, and its tail is heavier than a normal one:
/// it is taken twice. (With less, 100/s that vary five-fold page once in a few days at a backlog of
/// 128.)
const MARGIN: f64 = 2.0;
/// Steps of the time constant of the excess rate: 5 s.
const RATE: f64 = 5.0 / D;
/// Steps of the time constant of the excess that ends an incident: 2 s.
const CALM: f64 = 2.0 / D;
/// Steps with an excess that make a change more than a burst: together a second.
const SUSTAINED: u32 = 4;
/// Part of a change that is enough where the queue fills at the same time.
const PROBABLE: f64 = 0.8;
/// Steps to learn from before what they teach counts: 120 s.
const SETTLED: u32 = 120 * 4;

/// rho, the share of the attempts that fail while all is well.
const RHO: RangeInclusive<f64> = 0.005..=0.30;
/// kappa, the allowance for noise in units of the expected failures.
const KAPPA: RangeInclusive<f64> = 1.0..=4.0;
/// The upper semi-deviations of the relative excess that make one kappa.
const DEVIATIONS: f64 = 3.5;
/// phi, variance over mean of the failures.
const PHI: RangeInclusive<f64> = 1.0..=15.0;
/// lambda, failures per second without completions: what keeps a queue of `backlog` less than half
/// full, since each stays for up to 63 s.
fn lambda_range(backlog: f64) -> RangeInclusive<f64> {
    0.2..=(backlog / 126.0).max(1.0)
}

/// A mean that forgets exponentially, unbiased from its first value on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ewma {
    sum: f64,
    weight: f64,
    keep: f64,
}

impl Ewma {
    pub(crate) fn new(steps: f64) -> Self {
        Self { sum: 0.0, weight: 0.0, keep: (-1.0 / steps).exp() }
    }

    pub(crate) fn add(&mut self, value: f64) {
        self.sum = self.sum * self.keep + value * (1.0 - self.keep);
        self.weight = self.weight * self.keep + 1.0 - self.keep;
    }

    pub(crate) fn mean(&self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight } else { 0.0 }
    }

    /// Takes up `mean` as what `values` values have given.
    pub(crate) fn resume(&mut self, mean: f64, values: u32) {
        self.weight = 1.0 - self.keep.powf(f64::from(values));
        self.sum = mean * self.weight;
    }
}

fn clamp(value: f64, range: &RangeInclusive<f64>) -> f64 {
    value.clamp(*range.start(), *range.end())
}

/// What is normal for a service, and how far it is from that.
#[derive(Clone, Debug)]
pub(crate) struct Baseline {
    /// Share of the attempts that fail while all is well.
    rho: f64,
    /// Failures per second that come without completions.
    lambda: f64,
    /// Allowance for noise, in units of the expected failures.
    kappa: f64,
    /// Variance over mean of the failures.
    phi: f64,
    completed: Ewma,
    failed: Ewma,
    /// What was expected, and what came beyond it, over the last 10 s.
    expected: Ewma,
    residual: Ewma,
    /// Mean square of its positive part, in proportion to the variance that independent failures
    /// would have, and in proportion to what was expected.
    spread: Ewma,
    upper: Ewma,
    /// The CUSUM, and in how many steps it has risen since it was last empty.
    sum: f64,
    rises: u32,
    limit: f64,
    excess: Ewma,
    present: Ewma,
    /// The excess beyond what is allowed for.
    beyond: Ewma,
    /// Steps that were learned from.
    learned: u32,
    /// Flows that each one counted stands for: 1 unless they are sampled.
    weight: f64,
}

impl Baseline {
    pub(crate) fn new() -> Self {
        Self {
            // What is usual at a service that does well. Twice that is allowed for as long as
            // nothing has been learned, which 5 % would make too much to see 10/s on top of 100/s.
            rho: 0.02,
            lambda: 0.5,
            kappa: 1.0,
            phi: 1.0,
            completed: Ewma::new(LEARNING),
            failed: Ewma::new(LEARNING),
            expected: Ewma::new(SPAN),
            residual: Ewma::new(SPAN),
            spread: Ewma::new(NOISE),
            upper: Ewma::new(NOISE),
            sum: 0.0,
            rises: 0,
            limit: 50.0,
            excess: Ewma::new(RATE),
            present: Ewma::new(CALM),
            beyond: Ewma::new(CALM),
            learned: 0,
            weight: 1.0,
        }
    }

    /// From now on each attempt stands for `weight` of them: a count then varies as much more,
    /// about the same mean (a compound Poisson count).
    pub(crate) fn weigh(&mut self, weight: u32) {
        self.weight = f64::from(weight.max(1));
    }

    /// Takes in a matured step with `completed` and (weighted) `failed` attempts of a service with
    /// a listen backlog of `backlog`; `learns` from it or not.
    pub(crate) fn step(&mut self, completed: f64, failed: f64, backlog: f64, learns: bool) {
        if self.learned >= SETTLED {
            self.fit(backlog);
        }
        // However long it lasts, no more is normal, noise included, than one failure for two
        // completions or, where that is more, two of the highest lambda: else who grows slowly
        // would hide a flood.
        let most = (completed / 2.0).max(2.0 * lambda_range(backlog).end() * D);
        let usual = self.rho / (1.0 - self.rho) * completed + self.lambda * D;
        let expected = usual.min(most / 2.0);
        let kappa = self.kappa.min(most / expected - 1.0);
        let absolute = (backlog / 252.0).clamp(0.5, 20.0);
        let allowance = kappa * expected + absolute * D;
        let phi = self.phi + self.weight - 1.0;
        self.limit = (phi * ARL0_STEPS.ln() / theta(kappa)).max(0.05 * backlog).max(50.0);
        let excess = failed - expected;
        self.sum = (self.sum + excess - allowance).clamp(0.0, 4.0 * self.limit);
        self.rises = match self.sum {
            0.0 => 0,
            _ => self.rises + u32::from(excess > allowance),
        };
        self.excess.add(excess / D);
        self.present.add(excess / D);
        self.beyond.add(excess - allowance);
        if learns {
            self.learn(completed, failed, usual);
        }
    }

    fn learn(&mut self, completed: f64, failed: f64, expected: f64) {
        // Winsorised: one bad step is not a new normal.
        let weight = self.weight;
        let failed = failed.min(expected + 3.0 * (weight * expected).sqrt() + weight);
        self.completed.add(completed);
        self.failed.add(failed);
        self.expected.add(expected);
        self.residual.add(failed - expected);
        let (usual, above) = (self.expected.mean(), self.residual.mean().max(0.0));
        // The mean of independent counts over this span has a 2 SPAN-th of their variance, and half
        // of that comes from what is above it.
        self.spread.add(4.0 * SPAN * above.powi(2) / (weight * usual));
        self.upper.add((above / usual.max(D)).powi(2));
        self.learned = self.learned.saturating_add(1);
    }

    /// Turns what was learned into what is normal.
    fn fit(&mut self, backlog: f64) {
        let (completed, failed) = (self.completed.mean(), self.failed.mean());
        self.rho = clamp(failed / (failed + completed).max(f64::MIN_POSITIVE), &RHO);
        let unexplained = (failed - self.rho / (1.0 - self.rho) * completed) / D;
        self.lambda = clamp(unexplained, &lambda_range(backlog));
        // A few minutes tell little of noise: it is believed as far as its time constant has
        // passed.
        let believed = |noise: f64| 1.0 + self.spread.weight * (MARGIN * noise - 1.0).max(0.0);
        self.phi = clamp(believed(self.spread.mean()), &PHI);
        let kappa = clamp(believed(DEVIATIONS * self.upper.mean().sqrt()), &KAPPA);
        self.kappa = kappa.min(0.6 / self.rho - 1.0).max(*KAPPA.start());
    }

    /// What was learned so far.
    pub(crate) fn saved(&self) -> SavedSeries {
        SavedSeries {
            steps: self.learned,
            completed: self.completed.mean(),
            failed: self.failed.mean(),
            spread: self.spread.mean(),
            noise: self.upper.mean(),
        }
    }

    /// Goes on from what was learned before. Each moment is cut to what the limits above can be
    /// made of, so that a wrong one is forgotten as fast as it would have been learned.
    pub(crate) fn restore(&mut self, saved: &SavedSeries) {
        const MOST_COMPLETED: f64 = 1e7 * D;
        const HIGHEST_BACKLOG: f64 = 65_535.0;
        let completed = saved.completed.min(MOST_COMPLETED);
        let lambda = *lambda_range(HIGHEST_BACKLOG).end();
        let failed = saved.failed.min(RHO.end() / (1.0 - RHO.end()) * completed + lambda * D);
        self.learned = saved.steps;
        self.completed.resume(completed, saved.steps);
        self.failed.resume(failed, saved.steps);
        self.spread.resume(saved.spread.min(PHI.end() / MARGIN), saved.steps);
        self.upper
            .resume(saved.noise.min((KAPPA.end() / (MARGIN * DEVIATIONS)).powi(2)), saved.steps);
    }

    /// Empties the CUSUM, at the end of an incident.
    pub(crate) fn restart(&mut self) {
        self.sum = 0.0;
        self.rises = 0;
    }

    /// The CUSUM in units of its limit: above 1 there is a change.
    pub(crate) fn level(&self) -> f64 {
        self.sum / self.limit
    }

    /// Failures per second beyond what is normal.
    pub(crate) fn excess_rate(&self) -> f64 {
        self.excess.mean()
    }

    /// The same over the last two seconds.
    pub(crate) fn present_rate(&self) -> f64 {
        self.present.mean()
    }

    /// Whether there is a change that one burst cannot have made, and that is still going on.
    pub(crate) fn is_sustained(&self) -> bool {
        self.sum > self.limit && self.is_rising()
    }

    /// Whether there is more than one burst can have made, and it is still going on.
    fn is_rising(&self) -> bool {
        self.rises >= SUSTAINED && !self.is_calm()
    }

    /// Whether most of a change is there: enough where something else bears it out.
    pub(crate) fn is_probable(&self) -> bool {
        self.sum > PROBABLE * self.limit && self.is_rising()
    }

    /// Whether the last two seconds or so were normal.
    pub(crate) fn is_calm(&self) -> bool {
        self.beyond.mean() <= 0.0
    }

    /// Whether nothing beyond the normal has come since the CUSUM was last empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.sum <= 0.0
    }
}

/// The positive root of e^theta - 1 = (1 + kappa) theta: the rate at which the chance falls that a
/// Poisson stream of mean mu exceeds its allowance kappa mu (Lorden 1971).
fn theta(kappa: f64) -> f64 {
    let mut theta = 1.0 + kappa.ln_1p();
    for _ in 0..6 {
        let value = theta.exp() - 1.0 - (1.0 + kappa) * theta;
        theta -= value / (theta.exp() - 1.0 - kappa);
    }
    theta
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn theta_is_the_root() {
        for kappa in [1.0, 1.7, 2.5, 4.0] {
            let theta = theta(kappa);
            assert!(theta > 0.5);
            assert!((theta.exp() - 1.0 - (1.0 + kappa) * theta).abs() < 1e-9);
        }
    }

    #[test]
    fn a_steady_service_never_comes_near_its_limit() {
        let mut baseline = Baseline::new();
        for n in 0..40_000_u32 {
            // 100/s, 2 % of them fail, in lumps.
            let failed = if n % 4 == 0 { 2.0 } else { 0.0 };
            baseline.step(25.0, failed, 4096.0, true);
            assert!(baseline.level() < 0.5);
        }
        assert!((0.015..0.03).contains(&baseline.rho), "{}", baseline.rho);
    }

    #[test]
    fn a_change_is_seen_from_the_first_second() {
        let mut baseline = Baseline::new();
        let steps = (1..).find(|_| {
            baseline.step(25.0, 250.0, 4096.0, true);
            baseline.level() > 1.0
        });
        assert_eq!(steps, Some(1));
    }

    #[test]
    fn a_restored_baseline_is_what_it_was() {
        let mut taught = Baseline::new();
        for n in 0..4_000_u32 {
            taught.step(25.0, if n % 4 == 0 { 8.0 } else { 0.0 }, 4096.0, true);
        }
        let mut restored = Baseline::new();
        restored.restore(&taught.saved());
        for baseline in [&mut taught, &mut restored] {
            baseline.fit(4096.0);
        }
        let parameters = |b: &Baseline| [b.rho, b.lambda, b.kappa, b.phi];
        assert_ne!(parameters(&taught), parameters(&Baseline::new()));
        for (one, other) in parameters(&taught).into_iter().zip(parameters(&restored)) {
            assert!((one - other).abs() < 1e-9, "{taught:?} and {restored:?}");
        }
        // It goes on learning where it stood, too.
        restored.step(25.0, 2.0, 4096.0, true);
        taught.step(25.0, 2.0, 4096.0, true);
        assert!((restored.rho - taught.rho).abs() < 1e-9);
    }

    #[test]
    fn a_restored_baseline_keeps_to_the_limits() {
        let numbers = [0.0, 1e-300, 1.0, 1e9, f64::MAX];
        for (completed, failed) in numbers.iter().flat_map(|c| numbers.map(|f| (*c, f))) {
            for (spread, noise) in numbers.iter().flat_map(|v| numbers.map(|n| (*v, n))) {
                for steps in [0, 1, SETTLED, u32::MAX] {
                    let saved = SavedSeries { steps, completed, failed, spread, noise };
                    let mut baseline = Baseline::new();
                    baseline.restore(&saved);
                    baseline.step(25.0, 250.0, 4096.0, true);
                    assert!(RHO.contains(&baseline.rho), "{saved:?}");
                    assert!(KAPPA.contains(&baseline.kappa), "{saved:?}");
                    assert!(PHI.contains(&baseline.phi), "{saved:?}");
                    assert!(lambda_range(4096.0).contains(&baseline.lambda), "{saved:?}");
                    // And a flood is still seen.
                    (0..8).for_each(|_| baseline.step(25.0, 250.0, 4096.0, true));
                    assert!(baseline.level() > 1.0, "{saved:?}");
                }
            }
        }
    }
}
