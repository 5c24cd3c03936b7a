//! Random numbers that are the same everywhere for the same seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Exp1, Poisson, StandardNormal, StandardUniform};

/// A stream of random numbers.
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number from 0 to 1.
    pub fn uniform(&mut self) -> f64 {
        StandardUniform.sample(&mut self.0)
    }

    pub fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    /// A waiting time of mean `mean`.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        let sample: f64 = Exp1.sample(&mut self.0);
        mean * sample
    }

    /// A count of mean `mean`.
    pub fn poisson(&mut self, mean: f64) -> f64 {
        if mean <= 0.0 {
            return 0.0;
        }
        // Most steps have none of what is rare.
        if mean < 1.0 && self.uniform() < (-mean).exp() {
            return 0.0;
        }
        loop {
            let count = Poisson::new(mean).unwrap().sample(&mut self.0);
            if mean >= 1.0 || count > 0.0 {
                return count;
            }
        }
    }
}

/// A normal process of mean 0 that is correlated over time (AR(1), Ornstein-Uhlenbeck).
pub struct Wander {
    value: f64,
    keep: f64,
    kick: f64,
}

impl Wander {
    /// One of standard deviation `deviation` that forgets within `steps`.
    pub fn new(random: &mut Random, deviation: f64, steps: f64) -> Self {
        let keep = (-1.0 / steps).exp();
        let kick = deviation * (1.0 - keep * keep).sqrt();
        Self { value: deviation * random.normal(), keep, kick }
    }

    pub fn next(&mut self, random: &mut Random) -> f64 {
        self.value = self.keep * self.value + self.kick * random.normal();
        self.value
    }
}
