//! Alerts on their way out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sample;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use synwatch::alert::{Alert, Alerts, Change, Counters, Events, Log, Sink, Worker};
use synwatch::sys::threads::Unconfined;
use synwatch_core::observe::{Class, Severity, SeverityChange};

fn raised() -> Alert {
    let detection = sample::flood();
    let at = detection.severity_history.last().expect("an onset").at;
    Alert { change: Change::Raised, detection, at }
}

fn cleared() -> Alert {
    let mut detection = sample::flood();
    detection.cleared_at = Some(sample::at(400));
    let at = detection.cleared_at.expect("an end");
    Alert { change: Change::Cleared, detection, at }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn open(path: &Path) -> (Events, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    (Events::open(path, Arc::clone(&counters)).unwrap(), counters)
}

#[test]
fn event_is_eve() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.json");
    let (mut events, _) = open(&path);
    events.deliver(&raised());
    insta::assert_json_snapshot!("raised", lines(&path)[0]);
}

#[test]
fn event_names_attacker_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.json");
    let (mut events, _) = open(&path);
    let mut alert = cleared();
    alert.detection.attacker = Some("2001:db8::bad".parse().unwrap());
    alert.detection.target.address = None;
    alert.detection.target.port = None;
    events.deliver(&alert);
    let event = &lines(&path)[0];
    assert_eq!(event["timestamp"], "2026-01-01T00:06:40.000000+0000");
    assert_eq!(event["src_ip"], "2001:db8::bad");
    assert_eq!(event["dest_ip"], "::");
    assert_eq!(event["dest_port"], 0);
    assert_eq!(event["alert"]["severity"], 3);
    assert_eq!(event["synwatch_event"], "cleared");
    assert_eq!(event["synwatch"]["severity"], "critical");
    assert_eq!(event["synwatch"]["target"]["address"], Value::Null);
}

#[test]
fn events_file_is_appended_to_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.json");
    for _ in 0..2 {
        open(&path).0.deliver(&raised());
    }
    assert_eq!(lines(&path).len(), 2);
    // The umask may take away more, never give more.
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777 & !0o640, 0);
}

#[test]
fn missing_directory_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/events.json");
    let error = Events::open(&path, Arc::default()).unwrap_err().to_string();
    let expected = format!("cannot open events file {}: No such file", path.display());
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn rotation_moves_on_to_the_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("events.json"), folder.path().join("events.json.1"));
    let (mut events, counters) = open(&path);
    events.deliver(&raised());
    fs::rename(&path, &old).unwrap();
    events.deliver(&raised());
    events.reopen();
    events.deliver(&cleared());
    assert_eq!(lines(&old).len(), 2);
    assert_eq!(lines(&path).len(), 1);
    assert_eq!(counters.write_errors.load(Relaxed), 0);
}

/// `/dev/full` is a disk without room.
#[test]
fn full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.json");
    symlink("/dev/full", &path).unwrap();
    let (mut events, counters) = open(&path);
    events.deliver(&raised());
    events.deliver(&cleared());
    assert_eq!(counters.write_errors.load(Relaxed), 2);
    fs::remove_file(&path).unwrap();
    events.retry();
    let kinds: Vec<_> = lines(&path).iter().map(|line| line["synwatch_event"].clone()).collect();
    assert_eq!(kinds, ["raised", "cleared"]);
    assert_eq!(counters.lost.load(Relaxed), 0);
}

#[test]
fn full_disk_for_long_counts_what_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.json");
    symlink("/dev/full", &path).unwrap();
    let (mut events, counters) = open(&path);
    for _ in 0..1030 {
        events.deliver(&raised());
    }
    assert_eq!(counters.lost.load(Relaxed), 6);
}

#[test]
fn severity_of_the_news_falls_with_the_incident() {
    let mut alert = raised();
    assert_eq!((alert.severity(), alert.at), (Severity::Critical, sample::at(303)));
    alert.change = Change::Updated;
    let down = SeverityChange { at: sample::at(350), severity: Severity::Warning };
    alert.detection.severity_history.push(down);
    assert_eq!(alert.severity(), Severity::Warning);
    assert_eq!((cleared().severity(), cleared().at), (Severity::Info, sample::at(400)));
}

/// Waits before each alert until the test lets it go on.
struct Slow {
    go: Receiver<()>,
    delivered: Arc<Mutex<Vec<Change>>>,
}

impl Slow {
    fn new() -> (Self, SyncSender<()>, Arc<Mutex<Vec<Change>>>) {
        let (sender, go) = sync_channel(0);
        let delivered = Arc::default();
        (Self { go, delivered: Arc::clone(&delivered) }, sender, delivered)
    }
}

impl Sink for Slow {
    fn deliver(&mut self, alert: &Alert) {
        // Fails once the test has dropped the sender: no more waiting then.
        let _ = self.go.recv();
        self.delivered.lock().unwrap().push(alert.change);
    }
}

/// Starts the worker as the daemon does: in a sandbox that is made for its sinks.
fn start(sinks: Vec<Box<dyn Sink>>, counters: Arc<Counters>) -> (Alerts, Worker) {
    let started = thread::spawn(move || {
        let needs = sinks.iter().map(|sink| sink.needs()).sum();
        let confined = Unconfined::of_this_thread().confine(&needs).unwrap();
        synwatch::alert::start(&confined, sinks, counters).unwrap()
    });
    started.join().unwrap()
}

#[test]
fn full_queue_drops_and_never_waits() {
    let (sink, go, delivered) = Slow::new();
    let counters = Arc::new(Counters::default());
    let (alerts, worker) = start(vec![Box::new(sink)], Arc::clone(&counters));
    let begin = Instant::now();
    for _ in 0..1500 {
        alerts.send(raised());
    }
    assert!(begin.elapsed() < Duration::from_secs(2));
    let dropped = counters.dropped.load(Relaxed);
    assert!((475..=476).contains(&dropped), "{dropped}");
    drop(go);
    assert!(worker.stop(Duration::from_secs(5)));
    assert_eq!(delivered.lock().unwrap().len() as u64, 1500 - dropped);
}

#[test]
fn stop_gives_up_on_a_sink_that_hangs() {
    let (sink, go, _) = Slow::new();
    let (alerts, worker) = start(vec![Box::new(sink)], Arc::default());
    alerts.send(raised());
    assert!(!worker.stop(Duration::from_millis(50)));
    drop(go);
}

#[test]
fn worker_delivers_to_every_sink_and_reopens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.json");
    let counters = Arc::new(Counters::default());
    let events = Events::open(&path, Arc::clone(&counters)).unwrap();
    let (alerts, worker) = start(vec![Box::new(Log), Box::new(events)], counters);
    alerts.send(raised());
    let deadline = Instant::now() + Duration::from_secs(5);
    while lines(&path).is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    fs::rename(&path, folder.path().join("old")).unwrap();
    alerts.reopen();
    while !path.exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    alerts.send(cleared());
    assert!(worker.stop(Duration::from_secs(5)));
    assert_eq!(lines(&path).len(), 1);
}

/// Collects log lines.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Buffer {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn log_has_levels_and_fields() {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        Log.deliver(&raised());
        Log.deliver(&cleared());
        let mut crowd = raised();
        crowd.detection.class = Class::FlashCrowd;
        crowd.detection.severity_history[1].severity = Severity::Warning;
        Log.deliver(&crowd);
    });
    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    insta::assert_snapshot!("log", text);
}
