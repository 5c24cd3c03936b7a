//! What the daemon learns outlives it; and what is set for a service shows in its verdict.
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support;
use crate::support::flood::Flood;
use crate::support::lab::{Family, Lab, Settings, service};
use crate::support::program::Daemon;
use crate::support::traffic::{Service, connections};
use crate::support::turn::{CONNECTION, Turn};

/// The port of the service.
const PORT: u16 = 8443;
/// Its backlog.
const BACKLOG: i32 = 511;

/// The steps that were learned of the service, by the state file.
fn learned(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let document: Value = serde_json::from_str(&text).expect("a whole document");
    assert_eq!(document["format"], "synwatch-baselines");
    let baselines = document["baselines"].as_array().unwrap();
    let one = baselines.iter().find(|one| one["port"] == PORT)?;
    assert_eq!(one["address"], Family::V4.victim().to_string());
    one["failing"]["steps"].as_u64()
}

/// Runs a daemon on ordinary traffic for some 15 s; what it logged.
fn run(lab: &Lab, arguments: &[&str]) -> String {
    let _turn = Turn::wait(100 * CONNECTION);
    let clients = lab.add_clients(Family::V4, 4);
    let daemon = Daemon::start_with(lab, "", arguments);
    let made = connections(lab, service(Family::V4, PORT), &clients, 1_400, 100);
    assert_eq!(made, 1_400, "connections that failed");
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    log
}

#[test]
fn what_is_learned_outlives_the_daemon() {
    if !support::requires_root() {
        return;
    }
    let lab = Lab::new(Settings::default());
    let _server = Service::start(&lab, service(Family::V4, PORT), BACKLOG);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("baselines.json");
    let arguments = ["--state-file", file.to_str().unwrap()];

    let log = run(&lab, &arguments);
    assert!(!log.contains("WARN"), "{log}");
    let first = learned(&file).expect("a baseline of the service");
    assert!(first >= 40, "{first}");

    // It goes on from there. An end without any traffic loses nothing.
    let daemon = Daemon::start_with(&lab, "", &arguments);
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("services=1"), "{log}");
    assert!(learned(&file) >= Some(first), "{:?} < {first}", learned(&file));

    // A broken file is set aside with a word, and a new one begun.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    let daemon = Daemon::start_with(&lab, "", &arguments);
    let written = daemon.wait_for(Duration::from_secs(5), |_| file.exists().then_some(()));
    assert!(written.is_some(), "written soon after the start, to know that it can be");
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("set aside as"), "{log}");
    assert!(directory.path().join("baselines.json.bad").exists());
    assert_eq!(learned(&file), None);
}

#[test]
fn a_directory_that_is_not_there_costs_one_warning() {
    if !support::requires_root() {
        return;
    }
    let lab = Lab::new(Settings::default());
    let daemon = Daemon::start_with(&lab, "", &["--state-file", "/nonexistent/baselines.json"]);
    daemon.wait_for(Duration::from_secs(5), |daemon| daemon.log().contains("WARN").then_some(()));
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("cannot write the state file /nonexistent/"), "{log}");
}

#[test]
fn settings_of_a_service_show_in_its_verdict() {
    if !support::requires_root() {
        return;
    }
    let _turn = Turn::wait(500);
    let lab = Lab::new(Settings::default());
    let target = service(Family::V4, PORT);
    let _server = Service::start(&lab, target, BACKLOG);
    let settings = format!("[[service]]\nport = {PORT}\nbacklog = 300\nmute = true\n");
    let daemon = Daemon::start_with(&lab, &settings, &[]);
    let flood = Flood::random(target, 500, Duration::from_secs(12)).start(&lab);
    let explained = daemon.wait_for(Duration::from_secs(10), |daemon| {
        let detection = daemon.detections().first().cloned()?;
        assert_eq!(detection["severity"], "info", "{detection:#}");
        let text = detection["explanation"].as_str()?.to_owned();
        text.contains("muted by the configuration, else").then_some(text)
    });
    flood.join();
    let text = explained.unwrap_or_else(|| panic!("{:#?}", daemon.detections()));
    assert!(text.contains("the backlog of 300 is set in the configuration"), "{text}");
}
