//! `synwatch --once` and broken input: one clear line and the right exit code, never a panic; and
//! an answer from the kernel where there is no privilege to look at the wire.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support;
use crate::support::flood::Flood;
use crate::support::lab::{Family, Lab, Settings, VICTIM_LINK, service};
use crate::support::program::{
    SYNWATCH, copy_for_everybody, document, finish, service_in, synwatch,
};
use crate::support::traffic::Service;
use crate::support::turn::Turn;

/// Exit code of a Nagios plugin that could not look.
const UNKNOWN: Option<i32> = Some(3);
/// The port of the service.
const PORT: u16 = 4432;

/// Runs synwatch where it was started: for arguments that it refuses before it looks at anything.
fn run(arguments: &[&str]) -> Output {
    finish(Command::new(SYNWATCH).args(arguments))
}

/// Asserts that synwatch gave up with exit code 3 and a message that holds all of `words`.
fn assert_refused(output: &Output, words: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), UNKNOWN, "{message}");
    assert!(!message.contains("panicked"), "{message}");
    for word in words {
        assert!(message.contains(word), "the message does not name {word}: {message}");
    }
    assert_eq!(message.lines().count(), 1, "more than one line: {message}");
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[test]
fn help_and_version_exit_0() {
    for option in ["--help", "--version"] {
        let output = run(&[option]);
        assert_eq!(output.status.code(), Some(0), "{option}");
        assert!(stdout(&output).contains("synwatch"), "{option}");
        assert!(output.stderr.is_empty(), "{option}");
    }
}

#[test]
fn unknown_option_is_refused() {
    assert_refused(&run(&["--onec"]), &["--onec"]);
    assert_refused(&run(&["--once", "--duration", "soon"]), &["soon", "--duration"]);
    assert_refused(&run(&["--once", "--format", "xml"]), &["xml"]);
    assert_refused(&run(&["replay"]), &["FILE"]);
}

#[test]
fn unknown_configuration_key_is_refused_with_its_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("synwatch.toml");
    fs::write(&path, "[events]\n\npaht = \"/tmp/events.json\"\n").expect("config");
    let path = path.to_str().expect("UTF-8");
    for arguments in
        [&["--config", path][..], &["--once", "--config", path], &["check-config", path]]
    {
        assert_refused(&run(arguments), &["paht", &format!("{path}:3")]);
    }
    assert_refused(&run(&["--once", "--config", "/nonexistent.toml"]), &["/nonexistent.toml"]);
}

#[test]
fn unknown_interface_is_refused() {
    if !support::requires_root() {
        return;
    }
    let lab = Lab::new(Settings::default());
    assert_refused(&synwatch(&lab, &["--once", "-i", "nope0"]), &["nope0"]);
    assert_refused(&synwatch(&lab, &["-i", "nope0"]), &["nope0"]);
}

#[test]
fn busy_port_ends_the_daemon() {
    if !support::requires_root() {
        return;
    }
    let lab = Lab::new(Settings::default());
    let address = "127.0.0.1:10197";
    let _busy = Service::start(&lab, address.parse().expect("an address"), 1);
    assert_refused(&synwatch(&lab, &["--web.listen-address", address]), &[address]);
}

#[test]
fn files_that_are_no_captures_are_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, content).expect("a file");
        path
    };
    let garbage = write("garbage.pcap", b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n");
    let empty = write("empty.pcap", b"");
    let missing = directory.path().join("missing.pcap");
    for path in [garbage.as_path(), &empty, &missing, directory.path()] {
        let path = path.to_str().expect("UTF-8");
        assert_refused(&run(&["replay", path]), &[path]);
        let output = run(&["replay", "--format", "json", path]);
        assert_eq!(output.status.code(), UNKNOWN, "{path}");
    }
}

/// A victim with a flooded listener, for looks that cannot see the wire.
fn flooded_lab(family: Family) -> (Lab, Service) {
    let lab = Lab::new(Settings::default());
    let target = service(family, PORT);
    let server = Service::start(&lab, target, 128);
    let turn = Turn::wait(1_000);
    Flood::random(target, 1_000, Duration::from_millis(500)).start(&lab).join();
    drop(turn);
    // Until SYN-ACKs have been re-sent: without the wire, this is what tells the forged from the
    // slow.
    thread::sleep(Duration::from_millis(1_500));
    (lab, server)
}

fn assert_names_the_flooded_service(report: &Value, family: Family) {
    let service = service_in(report, family, PORT).unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(service["backlog"], 128, "{service:#}");
    // The queue is full at one more than the backlog.
    assert_eq!(service["half_open_kernel"], 129, "{service:#}");
    assert_eq!(report["kernel"]["syn_recv"], 129, "{report:#}");
}

#[test]
fn once_without_duration_answers_from_the_kernel_at_once() {
    if !support::requires_root() {
        return;
    }
    for family in Family::ALL {
        let (lab, _server) = flooded_lab(family);
        let started = Instant::now();
        let output = synwatch(&lab, &["--once", "--duration", "0", "--format", "json"]);
        let took = started.elapsed();
        let report = document(&output);
        assert_eq!(output.status.code(), Some(2), "{report:#}");
        assert!(took < Duration::from_secs(1), "took {took:?}");
        assert_eq!(report["capture"]["source"], "none");
        assert_names_the_flooded_service(&report, family);
        let service = service_in(&report, family, PORT).expect("the service");
        assert_eq!(service["process"]["pid"], std::process::id(), "{service:#}");
    }
}

#[test]
fn once_without_privilege_answers_from_the_kernel_and_says_what_is_missing() {
    if !support::requires_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let program = copy_for_everybody(directory.path());
    let (lab, _server) = flooded_lab(Family::V4);
    let nobody = |program: &Path, arguments: &[&str]| {
        finish(lab.victim.command_as_nobody(program).args(arguments))
    };

    let output = nobody(&program, &["--once", "--duration", "0", "--format", "json"]);
    let report = document(&output);
    assert_eq!(output.status.code(), Some(2), "{report:#}");
    assert_names_the_flooded_service(&report, Family::V4);

    let output = nobody(&program, &["--once", "--format", "json"]);
    let report = document(&output);
    assert_eq!(report["capture"]["source"], "none");
    assert_eq!(output.status.code(), Some(2), "{report:#}");
    assert_names_the_flooded_service(&report, Family::V4);

    let output = nobody(&program, &["--once"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("CAP_NET_RAW"), "does not say what is missing:\n{text}");
    assert!(text.contains(&format!("192.0.2.10:{PORT}")), "{text}");
}

#[test]
fn once_begins_with_one_line_for_monitoring() {
    if !support::requires_root() {
        return;
    }
    let (flooded, _server) = flooded_lab(Family::V4);
    let quiet = Lab::new(Settings::default());
    for (lab, duration, code, word, count) in [
        (&flooded, "0", 2, "CRITICAL", "half_open=129;"),
        (&flooded, "1s", 2, "CRITICAL", "half_open=129;"),
        (&quiet, "0", 0, "OK", "half_open=0;"),
        (&quiet, "1s", 0, "OK", "half_open=0;"),
    ] {
        let output = synwatch(lab, &["--once", "--duration", duration]);
        let text = stdout(&output);
        let line = text.lines().next().unwrap_or_default();
        let (headline, performance) = line.split_once(" | ").unwrap_or_else(|| panic!("{text}"));
        assert!(headline.starts_with(&format!("SYNWATCH {word}: ")), "{line}");
        assert!(headline.chars().count() < 80, "{line}");
        assert!(performance.starts_with(count), "{line}");
        assert!(performance.split(' ').all(|datum| datum.contains('=')), "{line}");
        assert_eq!(output.status.code(), Some(code), "{line}");
    }
}

#[test]
fn once_as_json_is_one_document() {
    if !support::requires_root() {
        return;
    }
    let lab = Lab::new(Settings::default());
    let _server = Service::start(&lab, service(Family::V4, PORT), 128);
    for duration in ["0", "500ms"] {
        let output = synwatch(&lab, &["--once", "--duration", duration, "--format", "json"]);
        let report = document(&output);
        assert_eq!(output.status.code(), Some(0), "{report:#}");
        assert_eq!(report["schema_version"], 1);
        assert_eq!(report["status"], "ok");
        assert_eq!(report["kernel"]["available"], true);
        assert_eq!(report["kernel"]["syn_recv"], 0);
        assert!(service_in(&report, Family::V4, PORT).is_some(), "{report:#}");
    }
}

#[test]
fn netns_looks_into_another_namespace() {
    if !support::requires_root() {
        return;
    }
    let lab = Lab::new(Settings::default());
    let _server = Service::start(&lab, service(Family::V4, PORT), 511);
    let namespace = lab.victim.name();
    // From the root namespace, of which nothing is to be seen; no SYN is sent.
    for arguments in [
        ["--once", "--duration", "200ms", "--format", "json", "--netns", namespace],
        ["--once", "--duration", "0", "--format", "json", "--netns", namespace],
    ] {
        let report = document(&run(&arguments));
        let service = service_in(&report, Family::V4, PORT);
        assert_eq!(service.map(|service| &service["backlog"]), Some(&511.into()), "{report:#}");
        let elsewhere = report["capture"]["interfaces"].as_array().expect("interfaces");
        assert!(elsewhere.iter().all(|name| name == VICTIM_LINK), "{report:#}");
    }
    assert_refused(&run(&["--once", "--netns", "sw-nowhere"]), &["sw-nowhere"]);
}
