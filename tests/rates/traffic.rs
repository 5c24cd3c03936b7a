//! Kinds of honest traffic, as counts per step.

use std::f64::consts::TAU;

use crate::random::{Random, Wander};

/// Steps of a second.
pub const PER_SECOND: f64 = 4.0;
/// Steps of a day.
pub const DAY: u32 = 86_400 * 4;

/// What of the failures has completed a handshake in the same /24 within the hour, at the most.
const KNOWN: f64 = 0.3;
/// What of them has a SYN that the client repeated.
const REPEATED: f64 = 0.1;
/// Share of handshakes that need more than half a second (round trips are lognormal: 60 ms, sigma
/// 0.9).
const MEDIUM: f64 = 0.009;
/// Share whose SYN-ACK is lost once, so that they need a second and more.
const LATE: f64 = 0.005;
/// Share that needs more than the 1.5 s after which an attempt has failed.
const TOO_LATE: f64 = 0.000_2;

/// Honest traffic of one kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// 100/s and 2 % failures, neither of which varies.
    Steady,
    /// 100/s in the mean that varies over seconds, half minutes and ten minutes; failures come in
    /// threes.
    Bursty,
    /// Rate and share of failures wander over hours.
    Drifting,
    /// 10/s to 190/s and back within a day.
    Diurnal,
    /// 2,000/s.
    Busy,
    /// 0.5/s, and scanners come by alone and in clumps.
    Idle,
    /// Crowds of twenty times the usual rate, 60 s after they begin.
    Crowds,
    /// Times when 30 % of SYN-ACKs are lost for 20 s.
    Outages,
    /// The share of failures swings 8-fold over minutes.
    Stress,
}

impl Kind {
    /// The kinds that must never page.
    pub const QUIET: [Self; 7] = [
        Self::Bursty,
        Self::Drifting,
        Self::Diurnal,
        Self::Busy,
        Self::Idle,
        Self::Crowds,
        Self::Outages,
    ];
}

/// The attempts of honest clients that begin in a step, by what becomes of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrivals {
    /// They complete within half a second,
    pub prompt: f64,
    /// within three quarters,
    pub medium: f64,
    /// between one and one and a half,
    pub late: f64,
    /// after they were judged.
    pub too_late: f64,
    /// They never complete: strangers,
    pub strangers: f64,
    /// known networks,
    pub known: f64,
    /// clients whose SYN was repeated.
    pub repeated: f64,
}

/// A source of honest traffic.
pub struct Traffic {
    kind: Kind,
    random: Random,
    step: u32,
    fast: Wander,
    medium: Wander,
    slow: Wander,
    ratio: Wander,
    /// The present or next event (crowd, clump, outage), from and to a step.
    event: (f64, f64),
    /// How strong it is.
    strength: f64,
}

impl Traffic {
    pub fn new(kind: Kind, seed: u64) -> Self {
        let mut random = Random::new(seed);
        // Standard deviations of the logarithms of rate (three time scales) and share of failures.
        let (fast, medium, slow, ratio, ratio_seconds) = match kind {
            Kind::Steady => (0.0, 0.0, 0.0, 0.0, 60.0),
            Kind::Bursty => (0.4, 0.4, 0.4, 0.3, 60.0),
            Kind::Drifting => (0.1, 0.1, 0.0, 0.7, 3.0 * 3_600.0),
            Kind::Stress => (0.2, 0.2, 0.2, 0.8, 180.0),
            _ => (0.15, 0.15, 0.15, 0.2, 300.0),
        };
        let slow_seconds = if kind == Kind::Drifting { 2.0 * 3_600.0 } else { 600.0 };
        let slow = if kind == Kind::Drifting { 0.7 } else { slow };
        let mut traffic = Self {
            kind,
            step: 0,
            fast: Wander::new(&mut random, fast, PER_SECOND),
            medium: Wander::new(&mut random, medium, 30.0 * PER_SECOND),
            slow: Wander::new(&mut random, slow, slow_seconds * PER_SECOND),
            ratio: Wander::new(&mut random, ratio, ratio_seconds * PER_SECOND),
            event: (0.0, 0.0),
            strength: 0.0,
            random,
        };
        traffic.plan_event();
        traffic
    }

    /// The next step.
    pub fn next(&mut self) -> Arrivals {
        let step = f64::from(self.step);
        self.step += 1;
        if step >= self.event.1 {
            self.plan_event();
        }
        let wander = self.fast.next(&mut self.random)
            + self.medium.next(&mut self.random)
            + self.slow.next(&mut self.random);
        let ratio = self.ratio.next(&mut self.random);
        let in_event = (self.event.0..self.event.1).contains(&step);
        let base = match self.kind {
            Kind::Busy => 2_000.0,
            Kind::Idle => 0.5,
            Kind::Diurnal => 100.0 - 90.0 * (TAU * step / f64::from(DAY)).cos(),
            _ => 100.0,
        };
        let crowd = if self.kind == Kind::Crowds && in_event {
            let ramp = (step - self.event.0).min(self.event.1 - step) / (60.0 * PER_SECOND);
            1.0 + 19.0 * ramp.min(1.0)
        } else {
            1.0
        };
        let rate = base * crowd * wander.clamp(-3.0, 2.0).exp() / PER_SECOND;
        // Eight-fold: from one to the other end of the range.
        let swing = 8.0_f64.ln() / 2.0;
        let share = 0.02 * ratio.clamp(-swing, swing).exp();
        let lost = if self.kind == Kind::Outages && in_event { 0.3 } else { 0.0 };
        self.draw(rate, share, lost, in_event)
    }

    fn draw(&mut self, rate: f64, share: f64, lost: f64, in_event: bool) -> Arrivals {
        let known = KNOWN * -(-f64::from(self.step) / (300.0 * PER_SECOND)).exp_m1();
        let random = &mut self.random;
        let mut failures = random.poisson(rate * share);
        if self.kind == Kind::Bursty && failures > 0.0 {
            // A client with several connections loses all of them: clumps, as many in the mean.
            failures = (0..failures as u32)
                .map(|_| if random.uniform() < 1.0 / 3.0 { 3.0 } else { 0.0 })
                .sum();
        }
        let mut arrivals = Arrivals {
            prompt: random.poisson(rate * (1.0 - share - MEDIUM - LATE - TOO_LATE) * (1.0 - lost)),
            medium: random.poisson(rate * MEDIUM),
            late: random.poisson(rate * (LATE + lost * (1.0 - lost))),
            too_late: random.poisson(rate * TOO_LATE),
            // The answer is lost, and the one to the repeated SYN again.
            repeated: random.poisson(rate * lost * lost),
            ..Arrivals::default()
        };
        for _ in 0..failures as u32 {
            let who = random.uniform();
            if who < REPEATED {
                arrivals.repeated += 1.0;
            } else if who < REPEATED + known {
                arrivals.known += 1.0;
            } else {
                arrivals.strangers += 1.0;
            }
        }
        if self.kind == Kind::Idle {
            let clump = if in_event { self.strength } else { 0.0 };
            arrivals.strangers += random.poisson(0.1 / PER_SECOND + clump);
        }
        arrivals
    }

    fn plan_event(&mut self) {
        let random = &mut self.random;
        let (pause, length) = match self.kind {
            Kind::Crowds => (3.0 * 3_600.0, 120.0 + random.exponential(900.0)),
            Kind::Outages => (4.0 * 3_600.0, 20.0),
            Kind::Idle => (300.0, 2.0),
            _ => (1e9, 1.0),
        };
        let begin = self.event.1 + PER_SECOND * random.exponential(pause);
        self.event = (begin, begin + PER_SECOND * length);
        // 3 to 30 probes of the one port that is open.
        self.strength = (3.0 + 27.0 * random.uniform()) / (2.0 * PER_SECOND);
    }
}
