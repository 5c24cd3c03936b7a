//! Many performances at once, and what to print of them.

use std::collections::BTreeMap;
use std::env;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use synwatch_core::engine::Action;

use crate::scenario::Scenario;
use crate::verdict::{Outcome, judge};
use crate::wire::{Columns, Wire};
use crate::world::{World, seconds};

/// A row of the matrix, warm or cold, and the seed to play it with.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub scenario: &'a Scenario,
    pub cold: bool,
    pub seed: u64,
    /// Seconds of legitimate traffic before the events.
    pub warm_up: f64,
    pub wire: Wire,
    /// Whether rivals watch too.
    pub rivals: bool,
}

impl<'a> Job<'a> {
    /// A row as it is in the table.
    pub fn plain(scenario: &'a Scenario, cold: bool, seed: u64) -> Self {
        let wire = Wire::default();
        Self { scenario, cold, seed, warm_up: scenario.warm_up, wire, rivals: false }
    }

    /// The same after a shorter time of legitimate traffic, where that is longer.
    pub fn shorter(self) -> Self {
        /// The detector learns from 120 s on.
        const WARM_UP: f64 = 130.0;
        Self { warm_up: self.warm_up.min(WARM_UP), ..self }
    }

    /// About how many packets it takes.
    pub fn packets(&self) -> f64 {
        self.scenario.packets(if self.cold { 0.0 } else { self.warm_up })
    }

    /// The name of the row.
    pub fn name(&self) -> String {
        let variant = if self.cold { " cold" } else { "" };
        let wire =
            if self.wire == Wire::default() { String::new() } else { format!(", {:?}", self.wire) };
        format!("{}{variant}{wire}", self.scenario.name)
    }
}

/// Every row that the variable `MATRIX_ROW` (part of a name, or a number) lets through, warm and
/// cold.
pub fn rows(scenarios: &[Scenario]) -> Vec<(&Scenario, bool)> {
    let filter = env::var("MATRIX_ROW").unwrap_or_default();
    scenarios
        .iter()
        .flat_map(|scenario| {
            let cold = scenario.cold.then_some((scenario, true));
            [Some((scenario, false)), cold].into_iter().flatten()
        })
        .filter(|(scenario, cold)| {
            let name = Job::plain(scenario, *cold, 0).name();
            match filter.parse::<u32>() {
                Ok(row) => scenario.row == row,
                Err(_) => name.contains(&filter),
            }
        })
        .collect()
}

/// The rows among them that are played on every wire, with the wires by column.
pub fn rows_by_wire(scenarios: &[Scenario]) -> Vec<(&Scenario, Columns)> {
    rows(scenarios)
        .into_iter()
        .filter(|(scenario, cold)| scenario.wires && !cold)
        .map(|(scenario, _)| (scenario, Wire::all(scenario.victim.address.is_ipv4())))
        .collect()
}

/// The seeds to play: that of the variable `MATRIX_SEED` or those from one number to another
/// (`1-3`), or these.
pub fn seeds(default: RangeInclusive<u64>) -> Vec<u64> {
    let Ok(wanted) = env::var("MATRIX_SEED") else { return default.collect() };
    let (first, last) = wanted.split_once('-').unwrap_or((&wanted, &wanted));
    let number = |text: &str| text.parse::<u64>().expect("MATRIX_SEED is a number, or two");
    (number(first)..=number(last)).collect()
}

/// Plays all jobs on all processors; the outcomes are in the order of the jobs.
pub fn play(jobs: &[Job<'_>]) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(number) else { return };
                    let played = World::new(*job).play();
                    let outcome = judge(job.scenario, &played);
                    outcomes.lock().expect("no job panics").insert(number, outcome);
                }
            });
        }
    });
    outcomes.into_inner().expect("no job panics").into_values().collect()
}

/// Prints what the engine says of one row, and what is wrong with it.
pub fn trace(job: Job<'_>) {
    println!("{}, seed {}: {}", job.name(), job.seed, job.scenario.title);
    let started = std::time::Instant::now();
    let played = World::new(job).play();
    let took = started.elapsed();
    let zero = played.first_packet;
    for (at, action) in &played.said {
        let at = seconds(*at) - seconds(zero);
        let (what, detection) = match action {
            Action::Raised(detection) => ("raised", detection),
            Action::Updated(detection) => ("updated", detection),
            Action::Cleared(detection) => ("cleared", detection),
        };
        println!(
            "{at:9.2} s {what:8} {} ({}, {}, confidence {:.2}, first packet at {:.2} s, attacker \
             {:?}, prefix {:?})\n            {}",
            detection,
            detection.variant.map_or("no variant", |variant| variant.name()),
            detection
                .severity_history
                .last()
                .map_or("no severity", |change| change.severity.name()),
            detection.confidence,
            (detection.first_packet_at - crate::world::START).as_secs_f64() - seconds(zero),
            detection.attacker,
            detection.target_prefix,
            detection.explanation,
        );
    }
    let outcome = judge(job.scenario, &played);
    println!("limits at the height: {:?}", played.height.capture.limits);
    println!("totals at the height: {:?}", played.height.totals);
    println!("SYN_RECV at the height: {:?}", played.height.kernel.syn_recv);
    println!(
        "{} packets in {took:.1?}, {:.0} ns each",
        outcome.packets,
        took.as_nanos() as f64 / outcome.packets.max(1) as f64
    );
    match &outcome.problems[..] {
        [] => println!("right\n"),
        problems => println!("wrong: {}\n", problems.join("; ")),
    }
}
