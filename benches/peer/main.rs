//! synwatch beside FastNetMon Community on the same floods: who notices, and how soon.
//!
//! `cargo bench --bench peer` prints the table of docs/peers.md. Needs root and Debian's package
//! `fastnetmon`. An argument is the number of rounds, 3 without one.

#[path = "../../tests/support/mod.rs"]
mod support;

mod fastnetmon;

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fastnetmon::FastNetMon;
use support::flood::Flood;
use support::lab::{Family, Lab, Settings, service};
use support::program::{Daemon, seconds_between, time};
use support::traffic::{Clients, Service};
use support::truth::KernelTruth;

/// The port of the flooded service.
const PORT: u16 = 4433;
/// Honest connections per second, from before the start to the end of each flood.
const CLIENT_RATE: u32 = 50;
/// Client addresses.
const CLIENTS: u8 = 20;
/// Honest traffic before the flood: twice the average that FastNetMon takes by default.
const WARM_UP: Duration = Duration::from_secs(10);
/// How often all of them are asked.
const PERIOD: Duration = Duration::from_millis(20);
/// How often the kernel is asked.
const KERNEL_PERIOD: Duration = Duration::from_millis(200);
/// From this rate on, a flood has the machine to itself.
const FAST: u32 = 5_000;
/// How long a flood lasts at most.
const DURATION: Duration = Duration::from_secs(30);
/// The backlogs and the floods against each, in SYNs per second. 0 is no flood, but twice as many
/// clients as before.
const CASES: [(u16, &[u32]); 2] = [
    (128, &[0, 20, 50, 100, 500]),
    (4096, &[0, 20, 50, 100, 500, 1_000, 5_000, 20_000, 50_000, 100_000]),
];

/// FastNetMon's thresholds as low as is fair. The clients make 50 connections, and so 250 packets,
/// per second in either direction; half as much again is less than the margin that any real site
/// needs.
const PACKETS_THRESHOLD: u32 = 375;
/// The same for flows, see [`PACKETS_THRESHOLD`].
const FLOWS_THRESHOLD: u32 = 75;

/// What one flood led to; all times in seconds since its first SYN, `None` where it never was.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    /// Bans of FastNetMon at its lowest before the flood.
    false_bans: u32,
    sent_rate: f64,
    queue_full: Option<f64>,
    defaults: Option<f64>,
    lowest: Option<f64>,
    raised: Option<f64>,
    visible: Option<f64>,
}

fn main() {
    if !support::requires_root() {
        return;
    }
    let Some(version) = fastnetmon::version() else {
        eprintln!("skipped: FastNetMon is not installed (apt-get install fastnetmon)");
        return;
    };
    let rounds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(3);
    println!("FastNetMon Community {version}, synwatch {}\n", env!("CARGO_PKG_VERSION"));
    println!(
        "| backlog | flood, SYN/s | sent, SYN/s | queue full after | FastNetMon, defaults \
              | FastNetMon, lowest | synwatch raised | synwatch visible |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|");
    let (mut runs, mut false_bans) = (0, 0);
    for (backlog, rates) in CASES {
        for &rate in rates {
            let outcomes = repeat(backlog, rate, rounds);
            runs += outcomes.len();
            false_bans += outcomes.iter().map(|outcome| outcome.false_bans).sum::<u32>();
            let column = |of: fn(&Outcome) -> Option<f64>| match median(&outcomes, of) {
                Some(seconds) => format!("{seconds:.1} s"),
                None => "never".to_owned(),
            };
            println!(
                "| {backlog} | {rate} | {:.0} | {} | {} | {} | {} | {} |",
                median(&outcomes, |outcome| Some(outcome.sent_rate)).unwrap_or_default(),
                column(|outcome| outcome.queue_full),
                column(|outcome| outcome.defaults),
                column(|outcome| outcome.lowest),
                column(|outcome| outcome.raised),
                column(|outcome| outcome.visible),
            );
        }
    }
    println!(
        "\nFalse bans of FastNetMon at its lowest in the {} s before the {runs} floods: {false_bans}",
        WARM_UP.as_secs()
    );
}

/// The same flood several times: side by side where that leaves the machine idle.
fn repeat(backlog: u16, rate: u32, rounds: usize) -> Vec<Outcome> {
    if rate >= FAST {
        return (0..rounds).map(|round| flood(backlog, rate, round)).collect();
    }
    thread::scope(|scope| {
        let run = |round| scope.spawn(move || flood(backlog, rate, round));
        let runs: Vec<_> = (0..rounds).map(run).collect();
        runs.into_iter().map(|run| run.join().expect("a round")).collect()
    })
}

fn flood(backlog: u16, rate: u32, round: usize) -> Outcome {
    let lab = Lab::new(Settings::default());
    let target = service(Family::V4, PORT);
    let _service = Service::start(&lab, target, i32::from(backlog));
    let addresses = lab.add_clients(Family::V4, CLIENTS);
    let clients = Clients::start(&lab, target, &addresses, CLIENT_RATE);
    let defaults = FastNetMon::start(&lab, &[]);
    let mut lowest = FastNetMon::start(&lab, &lowest_settings());
    let daemon = Daemon::start(&lab);
    let mut truth = KernelTruth::of(&lab);
    thread::sleep(WARM_UP);
    // A hiccup of the clients is over a threshold this low, and a ban would stand for half an hour.
    let mut false_bans = 0;
    while lowest.has_banned() {
        false_bans += 1;
        assert!(false_bans < 10, "FastNetMon cannot bear the clients: {}", lowest.log());
        lowest = FastNetMon::start(&lab, &lowest_settings());
        thread::sleep(WARM_UP);
    }
    for peer in [&defaults, &lowest] {
        assert!(peer.stats().contains(&target.ip().to_string()), "it is blind: {}", peer.log());
    }
    assert!(!defaults.has_banned(), "a ban without a flood: {}", defaults.log());
    assert!(daemon.events().is_empty(), "synwatch: a detection without a flood");

    let flood = Flood { seed: round as u64, ..Flood::random(target, rate, DURATION) };
    let flood = flood.start(&lab);
    let crowd = (rate == 0).then(|| Clients::start(&lab, target, &addresses, CLIENT_RATE));
    let started = Instant::now();
    let mut next_count = started;
    let (mut full, mut banned, mut banned_low) = (None, None, None);
    let (mut raised, mut visible) = (None, None);
    while started.elapsed() < DURATION {
        thread::sleep(PERIOD);
        let now = SystemTime::now();
        banned = banned.or_else(|| defaults.has_banned().then_some(now));
        banned_low = banned_low.or_else(|| lowest.has_banned().then_some(now));
        if visible.is_none() {
            raised = daemon.events().iter().find_map(paged_at);
            visible = raised.map(|_| now);
        }
        if full.is_none() && Instant::now() >= next_count {
            let count = truth.count(PORT);
            full = (count.half_open >= u64::from(backlog)).then_some(count.at);
            next_count = Instant::now() + KERNEL_PERIOD;
        }
        if [full, banned, banned_low, visible].iter().all(Option::is_some) {
            break;
        }
    }
    let sent = flood.stop();
    for clients in [Some(clients), crowd].into_iter().flatten() {
        clients.stop();
    }
    let after = |at: Option<SystemTime>| at.map(|at| seconds_between(sent.first, at));
    let outcome = Outcome {
        false_bans,
        sent_rate: sent.count as f64 / sent.took.as_secs_f64().max(1.0),
        queue_full: after(full),
        defaults: after(banned),
        lowest: after(banned_low),
        raised: after(raised),
        visible: after(visible),
    };
    eprintln!("backlog {backlog}, {rate}/s, round {}: {outcome:.1?}", round + 1);
    outcome
}

/// Every way that FastNetMon Community has to notice many small TCP packets, each at its lowest.
fn lowest_settings() -> Vec<(&'static str, String)> {
    vec![
        ("threshold_pps", PACKETS_THRESHOLD.to_string()),
        ("ban_for_tcp_pps", "on".to_owned()),
        ("threshold_tcp_pps", PACKETS_THRESHOLD.to_string()),
        ("ban_for_flows", "on".to_owned()),
        ("threshold_flows", FLOWS_THRESHOLD.to_string()),
        ("average_calculation_time", "1".to_owned()),
        ("speed_calculation_delay", "1".to_owned()),
    ]
}

/// When an event tells of a flood that is worth to wake somebody.
fn paged_at(event: &serde_json::Value) -> Option<SystemTime> {
    let found = &event["synwatch"];
    let history = found["severity_history"].as_array()?;
    let change = history.iter().find(|change| change["severity"] != "info")?;
    (found["class"] == "syn_flood").then(|| time(&change["at"]))
}

/// The median, `None` counting as later than everything.
fn median(outcomes: &[Outcome], of: fn(&Outcome) -> Option<f64>) -> Option<f64> {
    let mut values: Vec<f64> =
        outcomes.iter().map(|outcome| of(outcome).unwrap_or(f64::INFINITY)).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().filter(|value| value.is_finite())
}
