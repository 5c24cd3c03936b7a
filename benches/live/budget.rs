//! The daemon's cost under floods far beyond its packet budget, and what it still knows of them.

use std::error::Error;
use std::fs;
use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use synwatch_core::engine::STEP;

use crate::common::table::{self, figure, median, range, thousands};
use crate::monitor::Monitor;
use crate::support::lab::{Family, VICTIM_LINK, VICTIM_V4, service};
use crate::support::program::{SYNWATCH, seconds_between, service_in, time};
use crate::support::traffic::Service;
use crate::{
    BACKLOG, DRAIN, PORT, SENDER, Site, WATCHER, flood, generator, quiet_lab, sampling_ratio,
};

/// The budget, in packets per second.
const BUDGET: u32 = 2_000;
/// What leaves the daemon unbounded, to know what it would say then.
const UNBOUNDED: &str = "packet_budget = 1000000000\ncpu_percent = 100\n";
/// The floods, in SYNs per second; none is as many as can be.
const RATES: [Option<u32>; 4] = [Some(2_000), Some(20_000), Some(200_000), None];
/// How long each lasts.
const DURATION: Duration = Duration::from_secs(12);
/// From when on the cost counts: until then the daemon may look for the right share of the flows.
const SETTLED: Duration = Duration::from_secs(4);
/// What the daemon calls a rate is that of its last whole steps, which together last so long.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// How often the interface's counter is read.
const INTERVAL: Duration = Duration::from_millis(5);

/// A run under the budget.
struct Outcome {
    /// SYNs that arrived on the interface in the second that the daemon's rate is of.
    rate: f64,
    /// Share of a core.
    share: f64,
    report: Value,
}

/// Prints the table, where the program has such a setting.
pub fn series(site: Site, rounds: usize) -> Result<(), Box<dyn Error>> {
    let capture = format!("packet_budget = {BUDGET}\n");
    if !is_known(&format!("[capture]\n{capture}"))? {
        eprintln!("skipped: this synwatch has no capture.packet_budget");
        return Ok(());
    }
    println!("\n{}, `capture.packet_budget = {BUDGET}`\n", site.name());
    let mut columns = vec![
        "flood, SYN/s",
        "arrived, SYN/s",
        "CPU, % of a core",
        "times the first",
        "CPU, %, unbounded",
        "dropped",
        "sampling ratio",
        "verdict",
        "SYN/s",
        "stderr",
        "errors off",
    ];
    if site == Site::Victim {
        columns.extend(["half-open", "stderr", "half-open, unbounded"]);
    }
    table::head(&columns);
    let mut outcomes: Vec<Vec<Outcome>> = RATES.map(|_| Vec::new()).into();
    let mut unbounded: Vec<Vec<Outcome>> = RATES.map(|_| Vec::new()).into();
    for round in 0..rounds {
        for turn in 0..RATES.len() {
            let index = (round + turn) % RATES.len();
            outcomes[index].push(run(site, RATES[index], &capture, round as u64)?);
            unbounded[index].push(run(site, RATES[index], UNBOUNDED, round as u64)?);
        }
    }
    let share = |of: &[Outcome]| median(of.iter().map(|outcome| outcome.share));
    for ((rate, of_rate), of_unbounded) in RATES.iter().zip(&outcomes).zip(&unbounded) {
        let number_of = |outcomes: &[Outcome], key: &str| {
            median(outcomes.iter().filter_map(|outcome| outcome.number(key)))
        };
        let number = |key: &str| number_of(of_rate, key);
        let errors = of_rate.iter().filter_map(|outcome| {
            let off = (outcome.number("syn_rate")? - outcome.rate).abs();
            Some(off / outcome.number("syn_rate_stderr")?)
        });
        let dropped = |outcome: &Outcome| outcome.report["capture"]["dropped"].as_f64();
        let dropped = of_rate.iter().chain(of_unbounded).filter_map(dropped);
        let ratios = of_rate.iter().filter_map(|outcome| sampling_ratio(&outcome.report));
        let mut cells = vec![
            rate.map_or_else(|| "flat out".to_owned(), |rate| thousands(i64::from(rate))),
            thousands(median(of_rate.iter().map(|outcome| outcome.rate)).round() as i64),
            figure(share(of_rate)),
            figure(share(of_rate) / share(&outcomes[0])),
            figure(share(of_unbounded)),
            thousands(dropped.sum::<f64>() as i64),
            format!("{:.4}", median(ratios)),
            verdicts(of_rate),
            figure(number("syn_rate")),
            figure(number("syn_rate_stderr")),
            figure(range(errors).1),
        ];
        if site == Site::Victim {
            cells.extend([
                figure(number("half_open")),
                figure(number("half_open_stderr")),
                figure(number_of(of_unbounded, "half_open")),
            ]);
        }
        table::row(&cells);
    }
    Ok(())
}

impl Outcome {
    /// A figure of the flooded service.
    fn number(&self, key: &str) -> Option<f64> {
        service_in(&self.report, Family::V4, PORT)?[key].as_f64()
    }

    /// Class and target of what is detected.
    fn verdict(&self) -> String {
        let active = self.report["detections"].as_array().into_iter().flatten();
        let names = active.map(|detection| {
            let target = &detection["target"];
            let right = target["port"] == PORT && target["address"] == VICTIM_V4.to_string();
            let class = detection["class"].as_str().unwrap_or("?");
            let severity = detection["severity"].as_str().unwrap_or("?");
            format!("{severity} {class}{}", if right { "" } else { " of another target" })
        });
        let names: Vec<String> = names.collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

/// The verdicts of some runs, each once.
fn verdicts(outcomes: &[Outcome]) -> String {
    let mut verdicts: Vec<String> = outcomes.iter().map(Outcome::verdict).collect();
    verdicts.sort();
    verdicts.dedup();
    verdicts.join("; ")
}

/// Whether the program knows these settings.
fn is_known(settings: &str) -> Result<bool, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("synwatch.toml");
    fs::write(&path, settings)?;
    let output = Command::new(SYNWATCH).arg("check-config").arg(&path).output()?;
    Ok(output.status.success())
}

fn run(site: Site, rate: Option<u32>, capture: &str, seed: u64) -> Result<Outcome, Box<dyn Error>> {
    let lab = quiet_lab();
    let target = service(Family::V4, PORT);
    let _service = (site == Site::Victim).then(|| Service::start(&lab, target, BACKLOG.into()));
    let running = Monitor::Ring.start(&lab, capture, WATCHER)?;
    // Flat out a victim's stack keeps both cores busy.
    let cores: &[usize] = match (site, rate) {
        (Site::Victim, None) => &[SENDER, WATCHER],
        _ => &[SENDER],
    };
    let send = |core: usize| {
        let flood = flood(site, rate, seed + ((core as u64) << 32));
        let flood = generator::Flood { duration: DURATION, ..flood };
        match (site, rate) {
            (Site::Mirror, None) => flood.storm(&lab, core),
            _ => flood.send(&lab, core).map(drop),
        }
    };
    thread::scope(|scope| {
        let senders: Vec<_> = cores.iter().map(|core| scope.spawn(|| send(*core))).collect();
        thread::sleep(SETTLED);
        let (begun, before) = (Instant::now(), running.cpu());
        let left = DURATION - SETTLED - DRAIN;
        let arrivals = lab.victim.run(|| arrivals(left))?;
        let share = 100.0 * (running.cpu() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
        // While the flood still runs.
        let report = running.daemon().map(|daemon| daemon.status()).unwrap_or_default();
        for sender in senders {
            sender.join().map_err(|_| "the sender has failed")??;
        }
        let [from, to] = rate_window(&report);
        let rate =
            (count_at(&arrivals, to) - count_at(&arrivals, from)) / RATE_WINDOW.as_secs_f64();
        Ok(Outcome { rate, share, report })
    })
}

/// Packets received on the victim's interface by time; to be called in its namespace.
fn arrivals(duration: Duration) -> io::Result<Vec<(SystemTime, u64)>> {
    let mut arrivals = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < duration {
        arrivals.push((SystemTime::now(), received()?));
        thread::sleep(INTERVAL);
    }
    Ok(arrivals)
}

/// Packets that the victim's interface has received; to be called in its namespace.
fn received() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line =
        text.lines().find_map(|line| line.trim().strip_prefix(VICTIM_LINK)?.strip_prefix(':'));
    // Octets, then packets.
    let count = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    count.ok_or_else(|| io::Error::other("no counter of the interface"))
}

/// Begin and end of the whole steps that the rates of a report are of.
fn rate_window(report: &Value) -> [SystemTime; 2] {
    let [from, to] = ["from", "to"].map(|end| time(&report["observed"][end]));
    let steps = to.duration_since(from).unwrap_or_default().as_nanos() / STEP.as_nanos();
    let end = from + STEP * u32::try_from(steps).unwrap_or(u32::MAX);
    [end - RATE_WINDOW, end]
}

/// The count at a time, in proportion between those before and after.
fn count_at(arrivals: &[(SystemTime, u64)], at: SystemTime) -> f64 {
    let after = arrivals.partition_point(|(time, _)| *time < at);
    let around = after.checked_sub(1).and_then(|before| arrivals.get(before..=after));
    let Some([(earlier, few), (later, many)]) = around else { return f64::NAN };
    let part = seconds_between(*earlier, at) / seconds_between(*earlier, *later);
    *few as f64 + part * (many - few) as f64
}
