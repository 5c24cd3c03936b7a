//! What it costs to watch a flood, and how much of it is seen: synwatch, tcpdump, FastNetMon.
//!
//! `cargo bench --bench live` prints the tables of docs/performance.md in about half an hour. Needs
//! root, two cores, and Debian's packages tcpdump and fastnetmon for the rows of those. Arguments:
//! the number of rounds, 3 without one; `monitors`, `budget` or `services` for only these parts,
//! and `mirror` or `victim` for only one site.

#[path = "../../tests/support/mod.rs"]
mod support;

#[path = "../common/mod.rs"]
mod common;

#[path = "../peer/fastnetmon.rs"]
#[allow(dead_code, reason = "another benchmark asks it for bans too")]
mod fastnetmon;

mod budget;
mod generator;
mod monitor;
mod services;
mod storm;

use std::error::Error;
use std::net::SocketAddrV4;
use std::thread;
use std::time::Duration;

use common::measure::is_installed;
use common::table::{self, figure, mebibytes, median, thousands};
use generator::{Flood, Sent};
use monitor::Monitor;
use serde_json::Value;
use support::lab::{Family, Lab, Settings, VICTIM_MAC, VICTIM_V4, service};
use support::traffic::Service;

/// The port of the flooded service.
const PORT: u16 = 4435;
/// Its backlog, Linux's usual limit.
const BACKLOG: u16 = 4_096;
/// A host that is not there: what is sent to it passes the victim as it passes a mirror port.
const ELSEWHERE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
/// How long each flood lasts.
const DURATION: Duration = Duration::from_secs(4);
/// Until what waits in the ring or in a socket has been read.
const DRAIN: Duration = Duration::from_millis(500);
/// SYNs per second; `None` for as many as the sender's core can.
const RATES: [Option<u32>; 4] = [Some(25_000), Some(100_000), Some(400_000), None];
/// The core of the sender, in whose time a veth also delivers.
const SENDER: usize = 0;
/// The core of the monitors.
const WATCHER: usize = 1;

/// Where a monitor stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Site {
    /// On the host that is attacked, which answers with SYN cookies once its queue is full.
    Victim,
    /// On a host that is sent copies of the frames.
    Mirror,
}

impl Site {
    const fn name(self) -> &'static str {
        match self {
            Self::Victim => "victim",
            Self::Mirror => "mirror",
        }
    }
}

/// What came of a run.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    sent: Sent,
    /// Packets on the victim's interface, in either direction.
    passed: u64,
    /// CPU time of the monitor.
    cpu: Duration,
    lost: Option<u64>,
    /// The share of the flows that synwatch followed in the end.
    ratio: Option<f64>,
    memory: Option<u64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    if !support::requires_root() {
        return Ok(());
    }
    if thread::available_parallelism()?.get() < 2 {
        eprintln!("skipped: needs two cores");
        return Ok(());
    }
    let rounds = common::rounds(3);
    let given = |word: &str| std::env::args().any(|argument| argument == word);
    // All where none is named.
    let asked = |word: &str, of: &[&str]| given(word) || !of.iter().any(|other| given(other));
    let parts = ["monitors", "budget", "services"];
    let mut sites = vec![Site::Mirror, Site::Victim];
    sites.retain(|site| asked(site.name(), &["mirror", "victim"]));
    let version = fastnetmon::version().unwrap_or_else(|| "none".to_owned());
    println!("{}, FastNetMon {version}; median of {rounds} rounds", table::machine());
    if asked("monitors", &parts) {
        let usable = |monitor: &Monitor| {
            let missing = monitor.program().filter(|program| !is_installed(program));
            missing.inspect(|program| eprintln!("skipped: {program} is not installed")).is_none()
        };
        let monitors: Vec<Monitor> = Monitor::ALL.into_iter().filter(usable).collect();
        for site in &sites {
            compare(*site, &monitors, rounds)?;
        }
    }
    if asked("budget", &parts) {
        for site in &sites {
            budget::series(*site, rounds)?;
        }
    }
    if asked("services", &parts) {
        services::series(rounds)?;
    }
    Ok(())
}

/// All monitors at all rates on one site.
fn compare(site: Site, monitors: &[Monitor], rounds: usize) -> Result<(), Box<dyn Error>> {
    println!("\n{}\n", site.name());
    table::head(&[
        "monitor",
        "offered, SYN/s",
        "lost, %",
        "sampling ratio",
        "own CPU, % of a core",
        "own CPU, ns/SYN",
        "kernel, ns/SYN more",
        "both, ns/SYN more",
        "times synwatch",
        "memory, MiB",
    ]);
    for rate in RATES {
        let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); monitors.len()];
        for round in 0..rounds {
            for turn in 0..monitors.len() {
                let index = (round + turn) % monitors.len();
                outcomes[index].push(run(site, monitors[index], rate, round as u64)?);
            }
        }
        print(monitors, rate, &outcomes);
    }
    Ok(())
}

/// One flood under one monitor.
fn run(
    site: Site,
    monitor: Monitor,
    rate: Option<u32>,
    seed: u64,
) -> Result<Outcome, Box<dyn Error>> {
    let lab = quiet_lab();
    let target = service(Family::V4, PORT);
    let _service = (site == Site::Victim).then(|| Service::start(&lab, target, i32::from(BACKLOG)));
    let running = monitor.start(&lab, "", WATCHER)?;
    let before = running.cpu();
    let sent = flood(site, rate, seed).send(&lab, SENDER)?;
    thread::sleep(DRAIN);
    let cpu = running.cpu() - before;
    let memory = running.memory();
    let ratio = running.daemon().and_then(|daemon| sampling_ratio(&daemon.status()));
    // Counters are shown once a second.
    thread::sleep(Duration::from_millis(1_500));
    let (received, answered) = monitor::passed(&lab)?;
    let passed = received + answered;
    Ok(Outcome { sent, passed, cpu, memory, ratio, lost: running.lost(passed) })
}

/// The share of the flows that a report is made of.
fn sampling_ratio(report: &Value) -> Option<f64> {
    report["capture"]["sampling_ratio"].as_f64()
}

/// A lab in which answers to forged addresses cost next to nothing once they are sent.
fn quiet_lab() -> Lab {
    let lab = Lab::new(Settings { somaxconn: BACKLOG.into(), ..Settings::default() });
    lab.victim.ip("neigh replace 192.0.2.1 lladdr 02:00:00:00:00:99 dev veth0 nud permanent");
    lab
}

fn flood(site: Site, rate: Option<u32>, seed: u64) -> Flood {
    let link = if site == Site::Victim { VICTIM_MAC } else { ELSEWHERE };
    let target = SocketAddrV4::new(VICTIM_V4, PORT);
    Flood { target, services: 1, link, rate, duration: DURATION, seed: 1 + seed }
}

fn print(monitors: &[Monitor], rate: Option<u32>, outcomes: &[Vec<Outcome>]) {
    // With pauses in between, what a sender's core does is not what the packets need.
    let kernel =
        |of: &[Outcome]| median(of.iter().map(|outcome| per_syn(outcome, outcome.sent.cpu)));
    let own = |of: &[Outcome]| median(of.iter().map(|outcome| per_syn(outcome, outcome.cpu)));
    let find = |wanted| monitors.iter().position(|monitor| *monitor == wanted);
    let without = find(Monitor::Nothing).map_or(f64::NAN, |index| kernel(&outcomes[index]));
    let synwatch = find(Monitor::Ring).map_or(f64::NAN, |index| own(&outcomes[index]));
    for (monitor, of_monitor) in monitors.iter().zip(outcomes) {
        let sent = of_monitor.iter().map(|outcome| outcome.sent);
        let offered = median(sent.map(|sent| sent.count as f64 / sent.took.as_secs_f64()));
        let lost = of_monitor.iter().filter_map(|outcome| {
            Some(100.0 * outcome.lost? as f64 / outcome.passed.max(1) as f64)
        });
        let share = of_monitor
            .iter()
            .map(|outcome| 100.0 * outcome.cpu.as_secs_f64() / outcome.sent.took.as_secs_f64());
        let memory = of_monitor.iter().filter_map(|outcome| outcome.memory);
        let flat_out = |value: f64| if rate.is_none() { figure(value) } else { String::new() };
        let cells = if *monitor == Monitor::Nothing {
            let all = rate.is_none().then(|| format!("({})", figure(without)));
            [String::new(), String::new(), String::new(), all.unwrap_or_default(), String::new()]
        } else {
            [
                figure(median(lost)),
                figure(median(share)),
                figure(own(of_monitor)),
                flat_out(kernel(of_monitor) - without),
                flat_out(kernel(of_monitor) - without + own(of_monitor)),
            ]
        };
        let [lost, share, of_own, more, both] = cells;
        let (times, memory) = if *monitor == Monitor::Nothing {
            (String::new(), String::new())
        } else {
            let mib = median(memory.map(mebibytes));
            (figure(own(of_monitor) / synwatch), figure(mib))
        };
        let ratios: Vec<f64> = of_monitor.iter().filter_map(|outcome| outcome.ratio).collect();
        let ratio = if ratios.is_empty() { String::new() } else { figure(median(ratios)) };
        let offered = thousands(offered.round() as i64);
        table::row(&[
            monitor.name().to_owned(),
            offered,
            lost,
            ratio,
            share,
            of_own,
            more,
            both,
            times,
            memory,
        ]);
    }
}

fn per_syn(outcome: &Outcome, cpu: Duration) -> f64 {
    cpu.as_secs_f64() * 1e9 / outcome.sent.count.max(1) as f64
}
