//! Prometheus itself has the last word on metrics and rules.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sample;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sample::server::Server;
use serde_json::Value;
use synwatch::http::Settings;
use synwatch_core::metrics::{Exporter, render};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus")
}

/// The program, where it is installed.
fn installed(program: &str) -> Option<Command> {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found.then(|| Command::new(program))
}

/// Runs promtool with `input` on its standard input; panics with what it prints where it complains.
fn promtool(arguments: &[&str], input: &str) {
    let Some(mut promtool) = installed("promtool") else { return };
    let mut child = promtool
        .args(arguments)
        .current_dir(folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
}

#[test]
fn metrics_pass_the_lint() {
    let report = sample::with_services((0..40).map(|port| sample::service("192.0.2.1", port)));
    let exporter = Exporter {
        collectors: [("capture", true), ("kernel", false)].into(),
        ..Exporter::default()
    };
    promtool(&["check", "metrics"], &render(&report, &exporter));
}

#[test]
fn metrics_of_the_server_pass_the_lint() {
    let server = Server::start(sample::quiet(), Settings::default());
    let (_, body) = get(server.address, "/metrics").unwrap();
    assert!(body.contains("process_cpu_seconds_total"));
    promtool(&["check", "metrics"], &body);
}

#[test]
fn rules_and_configuration_are_valid() {
    promtool(&["check", "config", "prometheus.yml"], "");
}

#[test]
fn rules_fire_when_they_should_and_only_then() {
    promtool(&["test", "rules", "synwatch.rules.test.yml"], "");
}

/// Every metric that a rule asks for is one that synwatch exports.
#[test]
fn rules_ask_for_metrics_that_exist() {
    let rules = std::fs::read_to_string(folder().join("synwatch.rules.yml")).unwrap();
    let exporter = Exporter { collectors: [("kernel", true)].into(), ..Exporter::default() };
    let metrics = render(&sample::flooded(), &exporter);
    let names: Vec<_> = rules
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("synwatch_"))
        .collect();
    assert!(names.len() > 10);
    for name in names {
        assert!(metrics.contains(&format!("# TYPE {name} ")), "{name}");
    }
}

/// A flood on our /metrics becomes an alert in a real Prometheus.
#[test]
fn flood_fires_in_prometheus() {
    let Some(mut prometheus) = installed("prometheus") else { return };
    let server = Server::start(sample::flooded(), Settings::default());
    let data = tempfile::tempdir().unwrap();
    let configuration = data.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: ['{}']\n\
         scrape_configs:\n\
         - {{job_name: synwatch, static_configs: [{{targets: ['{}']}}]}}\n",
        folder().join("synwatch.rules.yml").display(),
        server.address
    );
    std::fs::write(&configuration, text).unwrap();
    let address = free_address();
    let child = prometheus
        .arg(format!("--config.file={}", configuration.display()))
        .arg(format!("--storage.tsdb.path={}", data.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _prometheus = Killed(child);

    let deadline = Instant::now() + Duration::from_secs(30);
    let alert = loop {
        assert!(Instant::now() < deadline, "no alert within 30 s");
        thread::sleep(Duration::from_millis(250));
        let Some((200, body)) = get(address, "/api/v1/alerts") else { continue };
        let answer: Value = serde_json::from_str(&body).unwrap();
        let alerts = answer["data"]["alerts"].as_array().unwrap();
        let flood = alerts.iter().find(|a| a["labels"]["alertname"] == "SynFloodCritical");
        if let Some(flood) = flood {
            break flood.clone();
        }
    };
    assert_eq!(alert["state"], "firing");
    assert_eq!(alert["labels"]["instance"], server.address.to_string());
    assert_eq!(alert["labels"]["class"], "syn_flood");
    let (_, body) = get(address, "/api/v1/targets").unwrap();
    let targets: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(targets["data"]["activeTargets"][0]["health"], "up", "{body}");
}

/// A child that does not outlive the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A loopback address that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Status and body, where the server answers.
fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    // HTTP/1.0 knows no chunks and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
}
