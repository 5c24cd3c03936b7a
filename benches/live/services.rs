//! The daemon's memory while twice as many services are flooded at once as it has places for.

use std::error::Error;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::common::table::{self, figure, mebibytes, median, thousands};
use crate::generator::Flood;
use crate::monitor::Monitor;
use crate::{DRAIN, SENDER, Site, WATCHER, flood, quiet_lab, sampling_ratio};

/// Twice as many services as a daemon at defaults has places for (`watch.max_services`).
const SERVICES: u32 = 1_024;
/// The floods of all of them together, in SYNs per second; `None` for as many as the sender's core
/// can.
const RATES: [Option<u32>; 3] = [Some(25_000), Some(100_000), None];
/// How long each lasts.
const DURATION: Duration = Duration::from_secs(12);

/// A run.
struct Outcome {
    offered: f64,
    /// Share of a core.
    share: f64,
    memory: f64,
    report: Value,
}

/// Prints the table.
pub fn series(rounds: usize) -> Result<(), Box<dyn Error>> {
    println!("\nmirror, {} services at once, defaults\n", thousands(SERVICES.into()));
    table::head(&[
        "verdict",
        "offered, SYN/s",
        "sampling ratio",
        "own CPU, % of a core",
        "memory, MiB",
    ]);
    for rate in RATES {
        let outcomes: Vec<Outcome> =
            (0..rounds).map(|round| run(rate, round as u64)).collect::<Result<_, _>>()?;
        let of = |figure: fn(&Outcome) -> f64| median(outcomes.iter().map(figure));
        table::row(&[
            outcomes.iter().map(Outcome::verdict).max().unwrap_or_default(),
            thousands(of(|outcome| outcome.offered).round() as i64),
            figure(of(|outcome| sampling_ratio(&outcome.report).unwrap_or(f64::NAN))),
            figure(of(|outcome| outcome.share)),
            figure(of(|outcome| outcome.memory)),
        ]);
    }
    Ok(())
}

impl Outcome {
    /// What is detected, and how often.
    fn verdict(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        for detection in self.report["detections"].as_array().into_iter().flatten() {
            let word = |key: &str| detection[key].as_str().unwrap_or_default();
            let name = format!("{} {} {}", word("severity"), word("class"), word("variant"));
            names.push(name.trim_end().to_owned());
        }
        names.sort();
        let count = names.len();
        names.dedup();
        format!("{count} x {}", names.join(", "))
    }
}

fn run(rate: Option<u32>, seed: u64) -> Result<Outcome, Box<dyn Error>> {
    let lab = quiet_lab();
    let running = Monitor::Ring.start(&lab, "", WATCHER)?;
    let flood = Flood { services: SERVICES, duration: DURATION, ..flood(Site::Mirror, rate, seed) };
    let before = running.cpu();
    let sent = flood.send(&lab, SENDER)?;
    let cpu = running.cpu() - before;
    thread::sleep(DRAIN);
    let took = sent.took.as_secs_f64();
    Ok(Outcome {
        offered: sent.count as f64 / took,
        share: 100.0 * cpu.as_secs_f64() / took,
        memory: mebibytes(running.memory().unwrap_or_default()),
        report: running.daemon().map(|daemon| daemon.status()).unwrap_or_default(),
    })
}
