//! A real listener under a real flood: what synwatch says, where it says it, and how soon.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support;
use crate::support::flood::{Flood, Sources};
use crate::support::lab::{Family, Lab, Settings, service};
use crate::support::program::{Daemon, document, seconds_between, service_in, synwatch, time};
use crate::support::traffic::Service;
use crate::support::turn::Turn;

/// The port of the flooded service.
const PORT: u16 = 4430;
/// SYNs per second.
const RATE: u32 = 1_000;
/// How long the flood lasts: until the daemon and `--once` have been asked.
const DURATION: Duration = Duration::from_secs(8);

/// One way to be flooded.
#[derive(Clone, Copy, Debug)]
struct Case {
    backlog: u16,
    syncookies: u8,
    family: Family,
    /// Whether to wait until the incident is over.
    until_clear: bool,
}

#[test]
fn flood_of_a_listener_with_backlog_128() {
    flood_listeners(128);
}

#[test]
fn flood_of_a_listener_with_backlog_511() {
    flood_listeners(511);
}

#[test]
fn flood_of_a_listener_with_backlog_4096() {
    flood_listeners(4096);
}

/// A critical incident ends after 60 s of calm: named to start first, while the others run.
#[test]
fn a_minute_after_the_flood_all_is_clear() {
    let case =
        |backlog, syncookies, family| Case { backlog, syncookies, family, until_clear: true };
    flood_side_by_side(&[
        case(128, 0, Family::V4),
        case(511, 1, Family::V6),
        case(4096, 2, Family::V4),
    ]);
}

/// Who seems to send decides what an operator can do.
#[test]
fn variant_follows_the_sources() {
    if !support::requires_root() {
        return;
    }
    let subnet = |address: &str| Sources::Prefix(address.parse().expect("an address"));
    let (v4, v6) = (Family::V4, Family::V6);
    let cases = [
        ("spoofed_subnet", v4, 500, subnet("198.51.100.0")),
        ("spoofed_subnet", v6, 500, subnet("2001:db8:5ca1::")),
        ("single_source", v4, 200, Sources::fixed(1, v4.victim())),
        ("single_source", v6, 200, Sources::fixed(1, v6.victim())),
        ("distributed", v4, 300, Sources::fixed(2_000, v4.victim())),
    ];
    thread::scope(|scope| {
        for (variant, family, rate, sources) in cases {
            scope.spawn(move || {
                let _turn = Turn::wait(rate);
                let lab = Lab::new(Settings::default());
                let target = service(family, PORT);
                let _service = Service::start(&lab, target, 4096);
                let daemon = Daemon::start(&lab);
                let flood = Flood::random(target, rate, Duration::from_secs(15)).from(sources);
                let flood = flood.start(&lab);
                let found = daemon.wait_for(Duration::from_secs(15), |daemon| {
                    daemon.detections().into_iter().find(|found| found["variant"] == variant)
                });
                flood.join();
                let found = found.unwrap_or_else(|| panic!("no {variant}: {:#}", daemon.status()));
                assert_eq!(found["class"], "syn_flood", "{variant} over {family:?}");
                assert_eq!(daemon.detections().len(), 1, "{variant} over {family:?}");
            });
        }
    });
}

/// Floods listeners of one backlog over both IP versions, with SYN cookies off, on demand, always.
fn flood_listeners(backlog: u16) {
    let mut cases = Vec::new();
    for family in Family::ALL {
        for syncookies in 0..=2 {
            cases.push(Case { backlog, syncookies, family, until_clear: false });
        }
    }
    flood_side_by_side(&cases);
}

fn flood_side_by_side(cases: &[Case]) {
    if !support::requires_root() {
        return;
    }
    thread::scope(|scope| {
        for case in cases {
            let name = format!("{case:?}");
            let run = thread::Builder::new().name(name).spawn_scoped(scope, || flood(*case));
            run.expect("a thread");
        }
    });
}

fn flood(case: Case) {
    let turn = Turn::wait(RATE);
    let settings = Settings { syncookies: case.syncookies, ..Settings::default() };
    let lab = Lab::new(settings);
    let target = service(case.family, PORT);
    let _service = Service::start(&lab, target, i32::from(case.backlog));
    let daemon = Daemon::start(&lab);
    assert!(daemon.detections().is_empty(), "{case:?}: a detection without an attack");

    let flood = Flood::random(target, RATE, DURATION).start(&lab);
    let critical = daemon.wait_for(DURATION, |daemon| {
        daemon.detections().into_iter().find(|found| found["severity"] == "critical")
    });
    let critical = critical.unwrap_or_else(|| {
        panic!("{case:?}: nothing critical: {:#}\n{}", daemon.status(), daemon.log())
    });
    let once = synwatch(&lab, &["--once", "--format", "json"]);
    let active =
        daemon.metric("synwatch_detection_active{class=\"syn_flood\",severity=\"critical\"}");
    let sent = flood.join();
    drop(turn);
    assert!(sent.count > u64::from(RATE) * 7, "{case:?}: only {} SYNs were sent", sent.count);

    // The variant may take a few more samples than the alarm.
    let id = critical["id"].as_str().expect("an id").to_owned();
    let spoofed = daemon.wait_for(Duration::from_secs(5), |daemon| {
        daemon.detections().into_iter().find(|found| found["variant"] == "spoofed_random")
    });
    let found = spoofed
        .unwrap_or_else(|| panic!("{case:?}: not spoofed_random: {:#}", daemon.detections()[0]));
    assert_eq!(found["id"], *id, "{case:?}: the incident changed its id");
    assert_eq!(daemon.detections().len(), 1, "{case:?}: one flood is one incident");
    assert_eq!(found["class"], "syn_flood", "{case:?}");
    assert_eq!(found["target"]["address"], *target.ip().to_string(), "{case:?}");
    assert_eq!(found["target"]["port"], PORT, "{case:?}");

    let reached = |severities: &[&str]| {
        let history = found["severity_history"].as_array().expect("a history");
        let change = history
            .iter()
            .find(|change| severities.iter().any(|severity| change["severity"] == **severity));
        let change = change.unwrap_or_else(|| panic!("{case:?}: never {severities:?}: {found:#}"));
        seconds_between(sent.first, time(&change["at"]))
    };
    let (warning, is_critical) = (reached(&["warning", "critical"]), reached(&["critical"]));
    eprintln!("{case:?}: warning after {warning:.2} s, critical after {is_critical:.2} s");
    assert!(warning <= 2.0, "{case:?}: paged after {warning:.2} s");
    let deadline = if case.backlog == 4096 { 6.0 } else { 4.0 };
    assert!(is_critical <= deadline, "{case:?}: critical after {is_critical:.2} s");

    assert_eq!(active, Some(1.0), "{case:?}: synwatch_detection_active");
    assert_once_agrees(case, &once);
    assert_log_and_events_agree(case, &daemon, &found);
    if case.until_clear {
        assert_clears(case, &daemon, &id);
    }
}

/// One look from outside: exit code 2, the service, its backlog and its process by name.
fn assert_once_agrees(case: Case, once: &std::process::Output) {
    let report = document(once);
    assert_eq!(once.status.code(), Some(2), "{case:?}: --once: {report:#}");
    assert_eq!(report["status"], "critical", "{case:?}: --once");
    let service = service_in(&report, case.family, PORT)
        .unwrap_or_else(|| panic!("{case:?}: --once does not show the service: {report:#}"));
    assert_eq!(service["backlog"], case.backlog, "{case:?}: --once");
    assert_eq!(service["process"]["pid"], std::process::id(), "{case:?}: --once: {service:#}");
    let name = fs::read_to_string("/proc/self/comm").expect("own name");
    assert_eq!(service["process"]["name"], *name.trim_end(), "{case:?}: --once: {service:#}");
    let detections = report["detections"].as_array().expect("a list");
    let target = &detections.first().unwrap_or_else(|| panic!("{case:?}: {report:#}"))["target"];
    assert_eq!(target["address"], *case.family.victim().to_string(), "{case:?}: --once");
    assert_eq!(target["port"], PORT, "{case:?}: --once");
}

/// The log and the events file tell of the same incident as the API.
fn assert_log_and_events_agree(case: Case, daemon: &Daemon, found: &Value) {
    let id = found["id"].as_str().expect("an id");
    let address = case.family.victim().to_string();
    let log = daemon.log();
    let told = log.lines().any(|line| {
        [id, "syn_flood", &address, &PORT.to_string()].iter().all(|word| line.contains(word))
    });
    assert!(told, "{case:?}: the log does not tell of {id}:\n{log}");

    let events = daemon.events();
    let event = events.iter().find(|event| event["synwatch"]["id"] == *id);
    let event = event.unwrap_or_else(|| panic!("{case:?}: no event of {id}: {events:#?}"));
    assert_eq!(event["event_type"], "alert", "{case:?}");
    assert_eq!(event["proto"], "TCP", "{case:?}");
    assert_eq!(event["dest_ip"], *address, "{case:?}");
    assert_eq!(event["dest_port"], PORT, "{case:?}");
    for field in ["class", "target", "raised_at", "first_packet_at"] {
        assert_eq!(event["synwatch"][field], found[field], "{case:?}: {field} of the event");
    }
}

/// After the flood, and 60 s of calm, the incident is over everywhere.
fn assert_clears(case: Case, daemon: &Daemon, id: &str) {
    let cleared = daemon.wait_for(Duration::from_secs(80), |daemon| {
        daemon.detections().into_iter().find(|found| !found["cleared_at"].is_null())
    });
    let cleared =
        cleared.unwrap_or_else(|| panic!("{case:?}: never cleared: {:#}", daemon.status()));
    assert_eq!(cleared["id"], *id, "{case:?}");
    let event = daemon.wait_for(Duration::from_secs(2), |daemon| {
        let last = daemon.events().pop()?;
        (!last["synwatch"]["cleared_at"].is_null()).then_some(last)
    });
    assert_eq!(event.map(|event| event["synwatch"]["id"].clone()), Some(id.into()), "{case:?}");

    // And it stays over: nothing of the old flood may reopen it.
    thread::sleep(Duration::from_secs(2));
    let all = daemon.detections();
    assert!(all.iter().all(|found| !found["cleared_at"].is_null()), "{case:?}: {all:#?}");
    let active =
        daemon.metric("synwatch_detection_active{class=\"syn_flood\",severity=\"critical\"}");
    assert!(matches!(active, None | Some(0.0)), "{case:?}: still active in /metrics");
    assert_eq!(daemon.status()["status"], "ok", "{case:?}");
}
