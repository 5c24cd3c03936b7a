//! A real listener under a flood of ten times the packet budget: what is looked at is a sample,
//! chosen in the kernel, and what is said is as true as it claims to be.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support;
use crate::support::flood::Flood;
use crate::support::lab::{Family, Lab, Settings, service};
use crate::support::program::{Daemon, service_in};
use crate::support::traffic::{Clients, Service};
use crate::support::turn::Turn;

/// Packets per second.
const BUDGET: u32 = 1_000;
/// SYNs per second; there are as many SYN-ACKs.
const RATE: u32 = 5_000;
const DURATION: Duration = Duration::from_secs(12);
const FLOODED: u16 = 4_440;
const BESIDE: u16 = 4_441;

#[test]
fn flood_of_ten_times_the_budget_over_ipv4() {
    flood(Family::V4);
}

#[test]
fn flood_of_ten_times_the_budget_over_ipv6() {
    flood(Family::V6);
}

fn flood(family: Family) {
    if !support::requires_root() {
        return;
    }
    let _turn = Turn::wait(RATE);
    let lab = Lab::new(Settings::default());
    let target = service(family, FLOODED);
    let _flooded = Service::start(&lab, target, 4_096);
    let beside = service(family, BESIDE);
    let _beside = Service::start(&lab, beside, 128);
    let daemon = Daemon::start_with(&lab, "", &["--packet-budget", &BUDGET.to_string()]);
    let addresses = lab.add_clients(family, 8);
    let clients = Clients::start(&lab, beside, &addresses, 20);
    let sender = Flood::random(target, RATE, DURATION).start(&lab);

    // The flood is seen, by sample, as what it is.
    let found = daemon.wait_for(Duration::from_secs(8), |daemon| {
        daemon.detections().into_iter().find(|found| found["severity"] == "critical")
    });
    let found = found.unwrap_or_else(|| panic!("nothing critical: {:#}", daemon.status()));
    assert_eq!((&found["class"], &found["target"]["port"]), (&"syn_flood".into(), &FLOODED.into()));
    let sampled = daemon.wait_for(Duration::from_secs(4), |daemon| {
        let capture = &daemon.status()["capture"];
        (capture["sampling_ratio"].as_f64()? < 1.0).then(|| capture.clone())
    });
    let sampled = sampled.unwrap_or_else(|| panic!("all is looked at: {:#}", daemon.status()));
    assert!(sampled["limits"].as_array().is_some_and(|limits| limits.contains(&"sampled".into())));
    thread::sleep(Duration::from_secs(1));
    let before = number(&daemon.status()["capture"], "packets");
    thread::sleep(Duration::from_secs(4));
    let status = daemon.status();
    let packets = (number(&status["capture"], "packets") - before) / 4.0;
    assert!(packets <= f64::from(BUDGET) * 1.3, "{packets} packets/s came up");
    assert_eq!(daemon.detections().len(), 1, "{status:#}");

    // The estimate is within four of its standard errors of what was sent.
    let sent = sender.join();
    let served = clients.stop();
    thread::sleep(Duration::from_secs(1));
    let status = daemon.status();
    let flooded = service_in(&status, family, FLOODED).expect("the flooded service");
    let (syn, error) = (number(flooded, "syn"), number(flooded, "syn_stderr"));
    let off = (syn - sent.count as f64).abs();
    assert!(error > 0.0 && off <= 4.0 * error, "{syn} +- {error} SYNs, {} were sent", sent.count);

    // Who is not attacked is looked at whole, and its clients are all seen.
    let beside = service_in(&status, family, BESIDE).expect("the service beside it");
    assert!(beside.get("syn_stderr").is_none(), "{beside:#}");
    assert!(number(beside, "syn") >= served.answered as f64, "{beside:#}");

    let exact = daemon.wait_for(Duration::from_secs(10), |daemon| {
        (daemon.status()["capture"]["sampling_ratio"] == 1.0).then_some(())
    });
    assert!(exact.is_some(), "still sampling: {:#}", daemon.status());
}

fn number(object: &Value, name: &str) -> f64 {
    object[name].as_f64().unwrap_or_else(|| panic!("no {name} in {object:#}"))
}
