//! The scenario matrix: every attack is named in time, and what only looks like one is not.
//!
//! The rows are the files under `tests/scenarios`. Each is played by generated clients and
//! attackers against a server that keeps its queues as Linux does, through the engine, with the
//! packets' time as the clock.
//!
//! The table over seeds 1 to 20: `cargo test --release --test matrix -- --ignored --nocapture
//! table`. One row in all its detail: `MATRIX_ROW=04 MATRIX_SEED=3 cargo test --release --test
//! matrix -- --ignored --nocapture trace`. `MATRIX_ROW` is a part of the name, or a number, and
//! `MATRIX_SEED` a number, or two (`1-3`); both narrow the tables too.
//!
//! In place of `table`: `wires` plays the main rows with the server far away, and with segments in
//! fragments and behind options; `rivals` plays simple detectors on the same rows; `day` plays a
//! whole day, packet by packet.

mod agreement;
mod attacks;
mod clients;
mod conn;
mod population;
mod random;
mod rivals;
mod scenario;
mod server;
mod stage;
mod table;
mod verdict;
mod wire;
mod world;

use stage::Job;

/// Two seeds of every row, after a shorter time of legitimate traffic than in the table; of rows
/// with very many packets one seed.
#[test]
fn matrix_rows_hold() {
    const MANY_PACKETS: f64 = 300_000.0;
    let scenarios = scenario::all();
    let rows = stage::rows(&scenarios).into_iter();
    hold(rows.flat_map(|(scenario, cold)| {
        let job = Job::plain(scenario, cold, 0).shorter();
        let seeds = if job.packets() > MANY_PACKETS { 1..=1 } else { 1..=2 };
        stage::seeds(seeds).into_iter().map(move |seed| Job { seed, ..job })
    }));
}

/// One seed of the main rows on other wires: each on every third of its wires, and the next on
/// others; of rows with very many packets on one.
#[test]
fn matrix_rows_hold_on_other_wires() {
    const MANY_PACKETS: f64 = 1_000_000.0;
    let scenarios = scenario::all();
    let seed = stage::seeds(2..=2)[0];
    let rows = stage::rows_by_wire(&scenarios).into_iter().enumerate();
    hold(rows.flat_map(|(row, (scenario, wires))| {
        let wires = wires.into_iter().flatten().skip((row + 2) % 3).step_by(3);
        let job = Job::plain(scenario, scenario.cold, seed).shorter();
        let most = if job.packets() > MANY_PACKETS { 1 } else { usize::MAX };
        wires.take(most).map(move |wire| Job { wire, ..job })
    }));
}

/// Plays the jobs; all must be right but those of pending rows.
fn hold<'a>(jobs: impl Iterator<Item = Job<'a>>) {
    let jobs: Vec<_> = jobs.collect();
    let outcomes = stage::play(&jobs);
    let played = || jobs.iter().zip(&outcomes);
    let wrong: Vec<String> = played()
        .filter(|(job, outcome)| job.scenario.pending.is_none() && !outcome.is_right())
        .map(|(job, outcome)| {
            format!("{}, seed {}: {}", job.name(), job.seed, outcome.problems.join("; "))
        })
        .collect();
    table::report_pending(played());
    assert!(wrong.is_empty(), "not right:\n{}", wrong.join("\n"));
}

/// The table of the documentation, over the seeds that were fixed beforehand.
#[test]
#[ignore = "takes minutes, and a release build"]
fn table() {
    table::print(&scenario::all());
}

/// The same of the main rows on every wire, after the shorter time of legitimate traffic.
#[test]
#[ignore = "takes minutes, and a release build"]
fn wires() {
    table::print_wires(&scenario::all());
}

/// Simple detectors on the same rows.
#[test]
#[ignore = "takes minutes, and a release build"]
fn rivals() {
    table::print_rivals(&scenario::all());
}

/// A day of bursty traffic that swings from 10 to 190 connections a second, packet by packet:
/// nothing is said.
#[test]
#[ignore = "takes a minute of a release build"]
fn day() {
    const DAY: f64 = 86_400.0;
    let mut scenarios = scenario::all();
    scenarios.retain(|scenario| scenario.name == "34-diurnal");
    for scenario in &mut scenarios {
        scenario.length = DAY;
        scenario.legitimate.period = DAY;
        scenario.legitimate.burst = 0.3;
    }
    for scenario in &scenarios {
        stage::trace(Job::plain(scenario, false, 1));
        let job = Job::plain(scenario, false, 2);
        assert_eq!(stage::play(&[job])[0].problems, Vec::<String>::new());
    }
    assert_eq!(scenarios.len(), 1);
}

/// What is said of one row.
#[test]
#[ignore = "prints"]
fn trace() {
    let scenarios = scenario::all();
    for (scenario, cold) in stage::rows(&scenarios) {
        for seed in stage::seeds(1..=1) {
            stage::trace(Job::plain(scenario, cold, seed));
        }
    }
}

#[test]
fn server_keeps_its_queue_as_the_kernel_does() {
    agreement::check();
}
