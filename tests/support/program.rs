//! The synwatch binary inside a namespace of the lab.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

use super::lab::{Family, Lab};
use super::netns::Namespace;

/// The program under test.
pub const SYNWATCH: &str = env!("CARGO_BIN_EXE_synwatch");
/// The port where a daemon serves its API, inside its namespace.
const API: u16 = 10_197;
/// How long to wait for what should take moments.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running daemon. Dropping it kills it.
pub struct Daemon<'a> {
    host: &'a Namespace,
    api: SocketAddr,
    child: Child,
    files: TempDir,
}

impl<'a> Daemon<'a> {
    /// Starts the daemon in the victim's namespace and waits until it is ready.
    pub fn start(lab: &'a Lab) -> Self {
        Self::start_with(lab, "", &[])
    }

    /// The same with more configuration and arguments.
    pub fn start_with(lab: &'a Lab, settings: &str, arguments: &[&str]) -> Self {
        Self::start_at(&lab.victim, API, settings, arguments)
    }

    /// The same of another host.
    pub fn start_on(host: &'a Namespace, arguments: &[&str]) -> Self {
        Self::start_at(host, API, "", arguments)
    }

    /// The same where another daemon has the usual port of the API.
    pub fn start_at(host: &'a Namespace, port: u16, settings: &str, arguments: &[&str]) -> Self {
        let api = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let files = tempfile::tempdir().expect("a temporary directory");
        let config = files.path().join("synwatch.toml");
        let events = files.path().join("events.json");
        let text = format!("[events]\npath = \"{}\"\n{settings}", events.display());
        fs::write(&config, text).expect("config");
        let log = fs::File::create(files.path().join("log")).expect("log file");
        let child = host
            .command(SYNWATCH)
            .arg("--config")
            .arg(&config)
            .args(["--web.listen-address", &api.to_string(), "--log.format", "text"])
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start synwatch");
        let mut daemon = Self { host, api, child, files };
        daemon.wait_until_ready();
        daemon
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to end, as a service manager does; its exit code and what it logged.
    pub fn stop(mut self) -> (Option<i32>, String) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: kill takes numbers only; the child is ours and not waited for, so the number is
        // its.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for synwatch") {
                return (status.code(), self.log());
            }
            assert!(Instant::now() < give_up, "synwatch does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Has it not run for `time`.
    pub fn interrupt(&self, time: Duration) {
        interrupt(self.pid(), time);
    }

    fn wait_until_ready(&mut self) {
        let give_up = Instant::now() + PATIENCE;
        while self.get("/-/ready").is_none() {
            let exited = self.child.try_wait().expect("wait for synwatch");
            assert!(exited.is_none(), "synwatch ended with {exited:?}:\n{}", self.log());
            assert!(Instant::now() < give_up, "synwatch is not ready:\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The body of a page; `None` where there is no answer or not 200.
    pub fn get(&self, path: &str) -> Option<String> {
        self.host.run(|| {
            let mut stream = TcpStream::connect(self.api).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: synwatch\r\nConnection: close\r\n\r\n")
                .ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let ok = head.starts_with("HTTP/1.1 200");
            assert!(!head.to_lowercase().contains("chunked"), "a body without a length: {head}");
            ok.then(|| body.to_owned())
        })
    }

    /// A page of the API as JSON.
    pub fn json(&self, path: &str) -> Value {
        let body = self.get(path).unwrap_or_else(|| panic!("no {path}:\n{}", self.log()));
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}:\n{body}"))
    }

    /// `GET /api/v1/status`.
    pub fn status(&self) -> Value {
        self.json("/api/v1/status")
    }

    /// The detections of `GET /api/v1/detections`, newest first.
    pub fn detections(&self) -> Vec<Value> {
        let document = self.json("/api/v1/detections");
        let list = document.get("detections").unwrap_or(&document);
        list.as_array().unwrap_or_else(|| panic!("no list of detections: {document}")).clone()
    }

    /// The value of a series of `/metrics`, named as it is printed there.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let metrics = self.get("/metrics").expect("/metrics");
        let line = metrics
            .lines()
            .find(|line| line.strip_prefix(series).is_some_and(|value| value.starts_with(' ')))?;
        line[series.len()..].trim().parse().ok()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }

    /// The lines of its events file so far.
    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.files.path().join("events.json")).unwrap_or_default();
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        text.lines().map(parse).collect()
    }

    /// Asks `look` every 50 ms until it finds something; `None` after `limit`.
    pub fn wait_for<T>(&self, limit: Duration, look: impl Fn(&Self) -> Option<T>) -> Option<T> {
        let give_up = Instant::now() + limit;
        loop {
            let found = look(self);
            if found.is_some() || Instant::now() >= give_up {
                return found;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `synwatch` with `arguments` inside the victim's namespace.
pub fn synwatch(lab: &Lab, arguments: &[&str]) -> Output {
    finish(lab.victim.command(SYNWATCH).args(arguments))
}

/// Runs a command that ends by itself, without colour and standard input.
pub fn finish(command: &mut Command) -> Output {
    command.env("NO_COLOR", "1").stdin(Stdio::null()).output().expect("run synwatch")
}

/// Has a process that was started here, and not waited for, not run for `time`.
pub fn interrupt(pid: u32, time: Duration) {
    let pid = i32::try_from(pid).expect("a process id");
    for (signal, pause) in [(libc::SIGSTOP, time), (libc::SIGCONT, Duration::ZERO)] {
        // SAFETY: kill takes numbers only; nobody waited for the child, so the number is its.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        thread::sleep(pause);
    }
}

/// The JSON document on standard output, which must hold nothing else.
pub fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "not one JSON document: {error}\nstdout: {}\nstderr: {}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// The entry of a list of a report that is about the service at `target`; `place` has its address
/// and port.
pub fn entry_of(target: SocketAddr, list: &Value, place: impl Fn(&Value) -> &Value) -> &Value {
    let mut all = list.as_array().expect("a list").iter();
    let found = all.find(|entry| {
        let place = place(entry);
        place["address"] == target.ip().to_string() && place["port"] == target.port()
    });
    found.unwrap_or_else(|| panic!("no {target}: {list:#}"))
}

/// When a detection became critical, in seconds after its first packet.
pub fn critical_after(found: &Value, first: SystemTime) -> f64 {
    let mut history = found["severity_history"].as_array().expect("a history").iter();
    let critical = history.find(|change| change["severity"] == "critical");
    let critical = critical.unwrap_or_else(|| panic!("never critical: {found:#}"));
    seconds_between(first, time(&critical["at"]))
}

/// The service of a report at the victim's address (or a wildcard) and `port`.
pub fn service_in(report: &Value, family: Family, port: u16) -> Option<&Value> {
    let address = family.victim().to_string();
    report["services"].as_array()?.iter().find(|service| {
        let listens = service["address"].as_str();
        service["port"] == port
            && matches!(listens, Some(a) if a == address || a == "0.0.0.0" || a == "::")
    })
}

/// The wall-clock time of an RFC 3339 string of a report.
pub fn time(value: &Value) -> SystemTime {
    let text = value.as_str().unwrap_or_else(|| panic!("not a time: {value}"));
    let time: jiff::Timestamp = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    time.into()
}

/// `later - earlier` in seconds, negative where it is the other way round.
pub fn seconds_between(earlier: SystemTime, later: SystemTime) -> f64 {
    match later.duration_since(earlier) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// A copy of the program that everybody may run, in a directory that everybody may enter.
pub fn copy_for_everybody(directory: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let copy = directory.join("synwatch");
    fs::copy(SYNWATCH, &copy).expect("copy of the program");
    for path in [directory, &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    copy
}
