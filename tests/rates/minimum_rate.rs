//! Floods on top of 100 honest connections per second: how slow a flood is still found, and how
//! soon.

use synwatch_core::observe::Severity;

use crate::random::Random;
use crate::service::{Listener, Service, duration};
use crate::traffic::{Kind, PER_SECOND, Traffic};

/// Steps before the attack of a detector that knows the service: 300 s.
const WARM: u32 = 1_200;
/// Steps before it of one that was just started: 2 s.
const COLD: u32 = 8;
/// Seconds within which a flood is to be found.
const WITHIN: f64 = 30.0;

/// Seconds from the first packet of the attack to each severity; infinite where it was not reached.
#[derive(Clone, Copy, Debug)]
struct Times {
    info: f64,
    warning: f64,
    critical: f64,
}

/// One run of an attack of `rate` SYNs per second.
fn attack(listener: Listener, before: u32, rate: f64, seed: u64) -> Times {
    let mut traffic = Traffic::new(Kind::Steady, seed);
    let mut service = Service::new(listener, seed ^ 0x5eed);
    let mut random = Random::new(seed ^ 0xa77ac);
    for _ in 0..before {
        service.step(traffic.next(), 0.0);
    }
    // The attack begins somewhere within a step.
    let begin = random.uniform();
    let mut times = Times { info: f64::INFINITY, warning: f64::INFINITY, critical: f64::INFINITY };
    for step in 1..=160 {
        let share = if step == 1 { 1.0 - begin } else { 1.0 };
        let severity = service.step(traffic.next(), random.poisson(rate * share / PER_SECOND));
        let now = duration(step).as_secs_f64() - begin / PER_SECOND;
        for (time, level) in [
            (&mut times.info, Severity::Info),
            (&mut times.warning, Severity::Warning),
            (&mut times.critical, Severity::Critical),
        ] {
            if severity >= Some(level) {
                *time = time.min(now);
            }
        }
    }
    times
}

/// Runs of one attack.
struct Runs(Vec<Times>);

impl Runs {
    fn of(listener: Listener, before: u32, rate: f64, runs: u64) -> Self {
        Self((1..=runs).map(|seed| attack(listener, before, rate, seed)).collect())
    }

    /// The time within which a share of the runs reached a severity.
    fn quantile(&self, share: f64, time: fn(&Times) -> f64) -> f64 {
        let mut times: Vec<f64> = self.0.iter().map(time).collect();
        times.sort_by(f64::total_cmp);
        let place = (share * times.len() as f64).ceil() as usize;
        times[place.clamp(1, times.len()) - 1]
    }

    fn warned(&self) -> f64 {
        self.quantile(0.95, |times| times.warning)
    }
}

/// The smallest rate from which on all rates of the grid are found in time.
fn smallest(backlog: u32, before: u32, grid: &[f64], runs: u64) -> f64 {
    let found = |rate: &f64| {
        Runs::of(Listener::with_cookies(backlog), before, *rate, runs).warned() <= WITHIN
    };
    let missed = grid.iter().rposition(|rate| !found(rate));
    grid.get(missed.map_or(0, |place| place + 1)).copied().unwrap_or(f64::INFINITY)
}

#[test]
#[ignore = "thousands of runs: a minute in the release profile"]
fn minimum_rate() {
    smallest_rates(200);
    deadlines(200);
    quoted(200);
}

#[test]
fn the_goals_hold_in_a_few_runs() {
    for (backlog, goal) in GOALS {
        for before in [WARM, COLD] {
            let time = Runs::of(Listener::with_cookies(backlog), before, goal, 20).warned();
            assert!(time <= WITHIN, "{goal}/s at backlog {backlog}: {time:.1} s");
        }
    }
    deadlines(20);
}

/// The rates that must be found, by backlog.
const GOALS: [(u32, f64); 3] = [(128, 10.0), (511, 30.0), (4_096, 50.0)];

fn smallest_rates(runs: u64) {
    let mut missed = Vec::new();
    println!(
        "\nSmallest rate of which 95 % of {runs} runs are paged within {WITHIN} s, legitimate 100/s"
    );
    println!("\n| backlog | warm (300 s) | cold (2 s) | goal |\n|---|---|---|---|");
    for (backlog, goal) in GOALS {
        let grid: Vec<f64> = (0..=10).map(|n| goal * (0.5 + 0.1 * f64::from(n))).collect();
        let [warm, cold] = [WARM, COLD].map(|before| smallest(backlog, before, &grid, runs));
        println!("| {backlog} | {warm:.1}/s | {cold:.1}/s | {goal}/s |");
        if warm > goal || cold > goal {
            missed.push(backlog);
        }
    }
    assert!(missed.is_empty(), "missed at backlogs {missed:?}");
}

/// Five and a hundred times the legitimate rate.
fn deadlines(runs: u64) {
    let mut missed = Vec::new();
    println!("\n| backlog | rate | start | median | 95 % | goal |\n|---|---|---|---|---|---|");
    for (backlog, _) in GOALS {
        for (rate, goal) in [(500.0, 2.0), (10_000.0, 1.0)] {
            for (start, before) in [("warm", WARM), ("cold", COLD)] {
                let times = Runs::of(Listener::with_cookies(backlog), before, rate, runs);
                let median = times.quantile(0.5, |times| times.warning);
                let late = times.warned();
                println!("| {backlog} | {rate}/s | {start} | {median:.2} | {late:.2} | {goal} |");
                if late > goal {
                    missed.push((backlog, rate, start));
                }
            }
        }
    }
    assert!(missed.is_empty(), "missed: {missed:?}");
}

/// The rates that the design quotes its simulation for, and rows of the scenario matrix.
fn quoted(runs: u64) {
    println!(
        "\n| backlog | rate | warm: median / 95 % | cold: median / 95 % | critical, warm | quoted |"
    );
    println!("|---|---|---|---|---|---|");
    for (backlog, rate, figures) in [
        (128, 10.0, "8.5 / 12"),
        (128, 20.0, "4.5 / 5.6"),
        (511, 50.0, "5.2 / 6"),
        (4_096, 50.0, "19 / 28"),
        (4_096, 100.0, "5 / 5.8"),
        (4_096, 1_000.0, "1 / 1.1"),
        (4_096, 10_000.0, "0.8"),
    ] {
        let [warm, cold] = [WARM, COLD]
            .map(|before| Runs::of(Listener::with_cookies(backlog), before, rate, runs));
        let pair = |runs: &Runs, time: fn(&Times) -> f64| {
            format!("{:.1} / {:.1}", runs.quantile(0.5, time), runs.quantile(0.95, time))
        };
        println!(
            "| {backlog} | {rate}/s | {} | {} | {} | {figures} |",
            pair(&warm, |times| times.warning),
            pair(&cold, |times| times.warning),
            pair(&warm, |times| times.critical),
        );
    }
    println!("\n| row | start | info | warning | critical | wanted |\n|---|---|---|---|---|---|");
    let no_cookies = Listener { backlog: 4_096, without_cookies: Some(1_024) };
    let mut missed = Vec::new();
    for (start, before) in [("warm", WARM), ("cold", COLD)] {
        let row = |row: &str, listener, rate, wanted: &str| {
            let runs = Runs::of(listener, before, rate, runs);
            let [info, warning, critical]: [f64; 3] = [
                runs.quantile(0.95, |times| times.info),
                runs.quantile(0.95, |times| times.warning),
                runs.quantile(0.95, |times| times.critical),
            ];
            println!("| {row} | {start} | {info:.1} | {warning:.1} | {critical:.1} | {wanted} |");
            (info, runs.quantile(0.0, |times| times.warning), critical)
        };
        let six = row("6", Listener::with_cookies(511), 10.0, "info 20, no page");
        let seven = row("7", no_cookies, 30.0, "critical 26");
        if six.0 > 20.0 || six.1.is_finite() {
            missed.push((6, start));
        }
        if seven.2 > 26.0 {
            missed.push((7, start));
        }
    }
    assert!(missed.is_empty(), "missed rows: {missed:?}");
}
