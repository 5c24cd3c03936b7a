//! Attackers who teach the detector: whatever they do to the baseline for hours, a flood is paged
//! in time.
//!
//! A listener with a backlog of 4,096 and 100 honest connections a second, 2 % of which fail. The
//! queue is taken to be empty throughout, as with `tcp_syncookies` = 2: else its occupancy would
//! freeze the baseline long before.

use std::time::Duration;

use crate::detect::baseline::D;
use crate::detect::{Detector, Observation};
use crate::model::Severity;
use crate::stats::Step;
use crate::time::Timestamp;

const BACKLOG: u32 = 4_096;
/// Steps in 8 hours.
const NIGHT: u32 = 8 * 3_600 * 4;
/// Steps that pass until an attempt is judged.
const MATURE: u32 = Step::MATURE + 1;

/// A service on which only counts are played.
#[derive(Clone, Default)]
struct Game {
    detector: Detector,
    step: u32,
    /// What is left of a failure that is not whole yet.
    rest: f64,
    severity: Option<Severity>,
}

impl Game {
    /// One step in which `rate` attempts a second fail beside the honest ones.
    fn step(&mut self, rate: f64) {
        let whole = |value: f64| value.floor();
        self.rest += (2.0 + rate) * D;
        let failed = whole(self.rest);
        self.rest -= failed;
        let second = (2.0 + rate).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let young_incomplete = second as u32;
        let seen = Observation {
            at: Timestamp::EPOCH + Duration::from_millis(250) * (self.step + 1),
            matured: Step(self.step),
            // Honest arrivals come in lumps.
            completed: [20.0, 27.0, 24.0, 27.0][self.step as usize % 4],
            failed,
            young: 98 + young_incomplete,
            young_incomplete: young_incomplete.into(),
            backlog: BACKLOG,
            ..Observation::default()
        };
        self.step += 1;
        self.severity = self.detector.observe(&seen);
    }

    fn pages(&self) -> bool {
        self.severity >= Some(Severity::Warning)
    }

    /// Seconds from the first packet of a flood of `rate` a second to the page.
    fn seconds_to_page(mut self, rate: f64) -> f64 {
        let mut steps = 0;
        while !self.pages() {
            self.step(rate);
            steps += 1;
            assert!(steps < 400, "{rate}/s is never paged: {:?}", self.detector);
        }
        // The fast path sees attempts that are half a second old.
        let delay = if self.detector.is_fast() { 4 } else { MATURE };
        f64::from(steps + delay) * D
    }

    /// Lets a minute and a half pass without the attacker.
    fn rest(&mut self) {
        (0..360).for_each(|_| self.step(0.0));
    }

    fn judge(&self) {
        assert!(self.clone().seconds_to_page(1_000.0) <= 2.0);
        let slow = self.clone().seconds_to_page(100.0);
        assert!(slow <= 15.0, "100/s is paged after {slow} s: {:?}", self.detector);
    }
}

#[test]
fn a_service_that_nobody_taught() {
    let mut game = Game::default();
    (0..4 * 600).for_each(|_| game.step(0.0));
    assert_eq!(game.severity, None);
    game.judge();
}

#[test]
fn a_ramp_over_the_night() {
    for top in [10.0, 40.0, 80.0] {
        let mut game = Game::default();
        for step in 0..NIGHT {
            game.step(1.0 + (top - 1.0) * f64::from(step) / f64::from(NIGHT));
        }
        // The flood takes the place of the ramp.
        game.judge();
        game.rest();
        game.judge();
    }
}

#[test]
fn somebody_who_keeps_just_below_the_threshold() {
    let mut game = Game::default();
    for step in 0..NIGHT {
        // He knows the detector better than we do: the highest rate that it still learns from.
        let quiet = game.detector.evidence_level() < 0.45;
        game.step(if quiet { 16.0 + 80.0 * f64::from(step) / f64::from(NIGHT) } else { 0.0 });
        assert!(!game.pages());
    }
    game.judge();
    game.rest();
    game.judge();
}

#[test]
fn pulses_that_look_like_noise() {
    // Waves of 10 s raise kappa, single steps raise phi.
    for (period, on) in [(160, 40), (80, 40), (16, 1), (8, 2), (3, 1)] {
        for height in [20.0, 80.0, 200.0] {
            let mut game = Game::default();
            for step in 0..NIGHT / 4 {
                let quiet = game.detector.evidence_level() < 0.45;
                game.step(if quiet && step % period < on { height } else { 0.0 });
            }
            game.judge();
            game.rest();
            game.judge();
        }
    }
}
