//! The daemon's cost under floods far beyond its packet budget, and what it still knows of them.

use std::error::Error;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::table::{self, figure, median, thousands};
use crate::monitor::{Monitor, passed};
use crate::support::lab::{Family, Lab, VICTIM_V4, service};
use crate::support::program::{SYNWATCH, service_in};
use crate::support::traffic::Service;
use crate::{BACKLOG, DRAIN, PORT, SENDER, Site, WATCHER, flood, quiet_lab, sampling_ratio};

/// The budget, in packets per second.
const BUDGET: u32 = 2_000;
/// What leaves the daemon unbounded, to know what it would say then.
const UNBOUNDED: &str = "packet_budget = 1000000000\ncpu_percent = 100\n";
/// The floods, in SYNs per second.
const RATES: [u32; 4] = [2_000, 20_000, 200_000, 1_000_000];
/// How long each lasts.
const DURATION: Duration = Duration::from_secs(12);
/// From when on the cost counts: until then the daemon may look for the right share of the flows.
const SETTLED: Duration = Duration::from_secs(4);
/// How long before the end the sender's rate is taken: what the daemon says is that of the last seconds.
const LATELY: Duration = Duration::from_secs(4);

/// A run under the budget.
struct Outcome {
    /// SYNs that arrived per second.
    rate: f64,
    /// Share of a core.
    share: f64,
    report: Value,
}

/// Prints the table, where the program has such a setting.
pub fn series(rounds: usize) -> Result<(), Box<dyn Error>> {
    let capture = format!("packet_budget = {BUDGET}\n");
    if !is_known(&format!("[capture]\n{capture}"))? {
        eprintln!("skipped: this synwatch has no capture.packet_budget");
        return Ok(());
    }
    println!("\nvictim, `capture.packet_budget = {BUDGET}`\n");
    table::head(&[
        "flood, SYN/s",
        "offered, SYN/s",
        "CPU, % of a core",
        "times the first",
        "sampling ratio",
        "verdict",
        "SYN/s",
        "stderr",
        "errors off",
        "half-open",
        "stderr",
        "half-open, unbounded",
        "CPU, %, unbounded",
    ]);
    let mut outcomes: Vec<Vec<Outcome>> = RATES.map(|_| Vec::new()).into();
    let mut unbounded: Vec<Vec<Outcome>> = RATES.map(|_| Vec::new()).into();
    for round in 0..rounds {
        for turn in 0..RATES.len() {
            let index = (round + turn) % RATES.len();
            outcomes[index].push(run(RATES[index], &capture, round as u64)?);
            unbounded[index].push(run(RATES[index], UNBOUNDED, round as u64)?);
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
        let ratios = of_rate.iter().filter_map(|outcome| sampling_ratio(&outcome.report));
        table::row(&[
            thousands(i64::from(*rate)),
            thousands(median(of_rate.iter().map(|outcome| outcome.rate)).round() as i64),
            figure(share(of_rate)),
            figure(share(of_rate) / share(&outcomes[0])),
            format!("{:.4}", median(ratios)),
            verdicts(of_rate),
            figure(number("syn_rate")),
            figure(number("syn_rate_stderr")),
            figure(median(errors)),
            figure(number("half_open")),
            figure(number("half_open_stderr")),
            figure(number_of(of_unbounded, "half_open")),
            figure(share(of_unbounded)),
        ]);
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

fn run(rate: u32, capture: &str, seed: u64) -> Result<Outcome, Box<dyn Error>> {
    let lab: Lab = quiet_lab();
    let target = service(Family::V4, PORT);
    let _service = Service::start(&lab, target, i32::from(BACKLOG));
    let running = Monitor::Ring.start(&lab, capture, WATCHER)?;
    let flood =
        crate::generator::Flood { duration: DURATION, ..flood(Site::Victim, Some(rate), seed) };
    let (rate, share, report) = thread::scope(|scope| {
        let sender = scope.spawn(|| flood.send(&lab, SENDER));
        thread::sleep(SETTLED);
        let (begun, before) = (Instant::now(), running.cpu());
        thread::sleep(DURATION - SETTLED - LATELY - DRAIN);
        let (middle, (received, _)) = (Instant::now(), passed(&lab)?);
        thread::sleep(LATELY);
        let used = running.cpu() - before;
        let (end, (all_received, _)) = (Instant::now(), passed(&lab)?);
        // While the flood still runs.
        let report = running.daemon().map(|daemon| daemon.status()).unwrap_or_default();
        sender.join().map_err(|_| "the sender has failed")??;
        let rate = (all_received - received) as f64 / (end - middle).as_secs_f64();
        let share = 100.0 * used.as_secs_f64() / (end - begun).as_secs_f64();
        Ok::<_, Box<dyn Error>>((rate, share, report))
    })?;
    Ok(Outcome { rate, share, report })
}
