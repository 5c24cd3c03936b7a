//! A service, its SYN queue, and what the engine tells the detector of them at the end of a step.

use std::collections::VecDeque;
use std::time::Duration;

use synwatch_core::engine::STEP;
use synwatch_core::observe::Severity;
use synwatch_core::testing::Step;
use synwatch_core::testing::{Detector, Observation};
use synwatch_core::time::Timestamp;

use crate::random::Random;
use crate::traffic::Arrivals;

/// A listener's settings.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// What `listen()` and `net.core.somaxconn` allow.
    pub backlog: u32,
    /// `net.ipv4.tcp_max_syn_backlog` where SYN cookies are off.
    pub without_cookies: Option<u32>,
}

impl Listener {
    pub const fn with_cookies(backlog: u32) -> Self {
        Self { backlog, without_cookies: None }
    }

    /// The requests that the queue takes.
    fn limit(self) -> u32 {
        self.without_cookies.map_or(self.backlog, |max| self.backlog.min(max - max / 4))
    }
}

/// A detector, and the service that it watches.
pub struct Service {
    listener: Listener,
    pub detector: Detector,
    queue: Queue,
    random: Random,
    step: u32,
    /// The steps that are not judged yet, the latest first.
    recent: VecDeque<Cohort>,
    /// What the kernel was last seen to hold, and whether it had to turn requests away before.
    sample: Sample,
}

/// What the kernel told.
#[derive(Clone, Copy, Default)]
struct Sample {
    half_open: u64,
    overflowed: bool,
}

/// The attempts of a step.
#[derive(Clone, Copy, Default)]
struct Cohort {
    honest: Arrivals,
    /// SYNs of the attack that were answered.
    attack: f64,
    /// SYNs of anybody that were not.
    unanswered: f64,
}

impl Cohort {
    fn failed(&self) -> f64 {
        let honest = &self.honest;
        self.attack + honest.too_late + honest.strangers + honest.known + honest.repeated
    }

    fn completed(&self) -> f64 {
        self.honest.prompt + self.honest.medium + self.honest.late
    }

    fn attempts(&self) -> f64 {
        self.failed() + self.completed() + self.unanswered
    }
}

impl Service {
    pub fn new(listener: Listener, seed: u64) -> Self {
        Self {
            listener,
            detector: Detector::default(),
            queue: Queue::new(listener),
            random: Random::new(seed),
            step: 0,
            recent: VecDeque::new(),
            sample: Sample::default(),
        }
    }

    /// Lets a step pass in which honest clients and `attack` other SYNs came.
    pub fn step(&mut self, honest: Arrivals, attack: f64) -> Option<Severity> {
        let cohort = self.admit(honest, attack);
        self.recent.push_front(cohort);
        let matured = (self.recent.len() > Step::MATURE as usize).then(|| self.recent.pop_back());
        let matured = matured.flatten();
        if self.step.is_multiple_of(4) {
            // The kernel is asked once a second.
            self.sample = self.queue.sample();
        }
        let seen = self.observation(matured);
        self.step += 1;
        self.detector.observe(&seen)
    }

    fn admit(&mut self, honest: Arrivals, attack: f64) -> Cohort {
        let lasting = honest.strangers + honest.known + honest.repeated + honest.too_late + attack;
        let refused = self.queue.step(&honest, lasting);
        if self.listener.without_cookies.is_none() {
            return Cohort { honest, attack, unanswered: 0.0 };
        }
        let answered = 1.0 - refused;
        let part = |count: f64| (count * answered).round();
        let honest_answered = Arrivals {
            prompt: part(honest.prompt),
            medium: part(honest.medium),
            late: part(honest.late),
            too_late: part(honest.too_late),
            strangers: part(honest.strangers),
            known: part(honest.known),
            repeated: part(honest.repeated),
        };
        let whole = Cohort { honest, attack, unanswered: 0.0 };
        let mut cohort = Cohort { honest: honest_answered, attack: part(attack), unanswered: 0.0 };
        cohort.unanswered = whole.attempts() - cohort.attempts();
        cohort
    }

    fn observation(&mut self, matured: Option<Cohort>) -> Observation {
        let cohort = matured.unwrap_or_default();
        let failed = cohort.failed();
        let excused = failed * self.excused(&cohort);
        let young = self.recent.iter().skip(2).take(4);
        let (mut attempts, mut incomplete, mut young_excused) = (0.0, 0.0, 0.0);
        for (age, cohort) in young.enumerate() {
            attempts += cohort.attempts();
            incomplete += cohort.failed() + cohort.unanswered;
            young_excused += cohort.honest.known + cohort.honest.repeated;
            incomplete += if age < 1 { cohort.honest.medium } else { 0.0 };
            incomplete += if age < 3 { cohort.honest.late } else { 0.0 };
        }
        let Sample { half_open, overflowed } = self.sample;
        let backlog = self.listener.limit();
        Observation {
            at: Timestamp::EPOCH + STEP * (self.step + 1),
            matured: Step(self.step.saturating_sub(Step::MATURE)),
            immature: matured.is_none(),
            completed: cohort.completed(),
            failed,
            excused,
            unanswered: cohort.unanswered,
            completed_late: cohort.completed(),
            young: attempts as u32,
            young_incomplete: incomplete,
            young_excused,
            half_open,
            backlog,
            unpruned: self.listener.without_cookies.is_some()
                && backlog <= self.listener.backlog / 2,
            queue_full: overflowed && half_open * 2 >= u64::from(backlog),
            weight: 1,
            ..Observation::default()
        }
    }

    /// The share of the failures among the 64 attempts that the engine draws from a step which an
    /// outage would explain.
    fn excused(&mut self, cohort: &Cohort) -> f64 {
        let honest = &cohort.honest;
        let share = (64.0 / cohort.attempts().max(1.0)).min(1.0);
        let mut drawn = |count: f64| match share {
            1.0 => count,
            share => self.random.poisson(count * share).min(count),
        };
        let full = drawn(cohort.attack + honest.too_late + honest.strangers);
        let excused = drawn(honest.known + honest.repeated);
        if excused == 0.0 { 0.0 } else { excused / (full + excused) }
    }
}

/// Requests of a listener, as Linux keeps and prunes them (`reqsk_timer_handler`).
struct Queue {
    listener: Listener,
    /// Those that nothing but their timer ends, by age in steps.
    lasting: VecDeque<f64>,
    held: f64,
    /// Those that the next second or so completes.
    passing: VecDeque<(f64, f64)>,
    brief: f64,
    overflowed: bool,
}

/// Ages in steps at which the timer of a request fires: 1, 3, 7, 15, 31 and 63 s.
const TIMERS: [usize; 6] = [4, 12, 28, 60, 124, 252];
/// `net.ipv4.tcp_synack_retries`.
const RETRIES: usize = 5;

impl Queue {
    fn new(listener: Listener) -> Self {
        let (lasting, passing) = (VecDeque::new(), VecDeque::new());
        Self { listener, lasting, held: 0.0, passing, brief: 0.0, overflowed: false }
    }

    /// Takes in a step's requests, of which `lasting` never complete; the share that it had no room
    /// for.
    fn step(&mut self, honest: &Arrivals, lasting: f64) -> f64 {
        self.prune();
        self.passing.push_front((honest.medium, honest.late));
        self.passing.truncate(5);
        // A mean round trip of 90 ms is a good third of a step.
        self.brief = 0.36 * honest.prompt
            + self.passing.iter().take(3).map(|(medium, _)| medium).sum::<f64>()
            + self.passing.iter().map(|(_, late)| late).sum::<f64>();
        let room = (f64::from(self.listener.limit()) - self.held - self.brief).max(0.0);
        let admitted = lasting.min(room.floor());
        self.overflowed |= admitted < lasting || room == 0.0;
        self.lasting.push_front(admitted);
        self.held += admitted;
        if let Some(over) = (self.lasting.len() > 253).then(|| self.lasting.pop_back()).flatten() {
            self.held -= over;
        }
        if lasting > 0.0 { 1.0 - admitted / lasting } else { 0.0 }
    }

    fn prune(&mut self) {
        let length = self.held + self.brief;
        let mut retries = RETRIES;
        // Above half of the backlog: fewer, until the young are half, a quarter, ... of all.
        if length * 2.0 > f64::from(self.listener.backlog.max(8)) {
            let mut young = 2.0 * (self.lasting.iter().take(4).sum::<f64>() + self.brief);
            while retries > 2 && length >= young {
                retries -= 1;
                young *= 2.0;
            }
        }
        for (fired, age) in TIMERS.iter().enumerate() {
            if fired >= retries
                && let Some(requests) = self.lasting.get_mut(*age)
            {
                self.held -= std::mem::take(requests);
            }
        }
    }

    fn sample(&mut self) -> Sample {
        let held = (self.held + self.brief).min(f64::from(self.listener.limit()) + 1.0);
        let overflowed = std::mem::take(&mut self.overflowed);
        Sample { half_open: held as u64, overflowed }
    }
}

/// The time of so many steps.
pub const fn duration(steps: u32) -> Duration {
    Duration::from_millis(250 * steps as u64)
}
