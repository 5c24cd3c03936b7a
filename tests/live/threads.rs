//! A real listener under a flood, watched by several threads: they say what one says.
use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support;
use crate::support::flood::Flood;
use crate::support::lab::{Family, Lab, Settings, service};
use crate::support::program::{Daemon, service_in};
use crate::support::traffic::{Clients, Service};
use crate::support::turn::Turn;

const FLOODED: u16 = 4_450;
const BESIDE: u16 = 4_451;
/// Packets per second where that is limited.
const BUDGET: u32 = 2_000;

/// The names of a process's threads that capture.
fn capturing(daemon: &Daemon<'_>) -> BTreeSet<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap();
    let names = tasks.map(|task| name(task.unwrap()).trim().to_owned());
    names.filter(|name| name.starts_with("capture")).collect()
}

fn number(object: &Value, name: &str) -> f64 {
    object[name].as_f64().unwrap_or_else(|| panic!("no {name} in {object:#}"))
}

/// Asserts that two counts of something that goes on differ by no more than a moment.
fn assert_close(name: &str, one: &Value, many: &Value) {
    let (one, many) = (number(one, name), number(many, name));
    assert!((one - many).abs() <= 0.05 * one + 20.0, "{name}: {one} and {many}");
}

#[test]
fn three_threads_say_what_one_says() {
    for family in Family::ALL {
        if !support::requires_root() {
            return;
        }
        let _turn = Turn::wait(3_000);
        let lab = Lab::new(Settings::default());
        let target = service(family, FLOODED);
        let _flooded = Service::start(&lab, target, 512);
        let beside = service(family, BESIDE);
        let _beside = Service::start(&lab, beside, 128);
        let one = Daemon::start(&lab);
        let many = Daemon::start_at(&lab.victim, 10_198, "", &["--threads", "3"]);
        let names = ["capture", "capture-0", "capture-1", "capture-2"].map(str::to_owned);
        assert_eq!(capturing(&one), BTreeSet::from(["capture".to_owned()]));
        assert_eq!(capturing(&many), BTreeSet::from(names));

        let addresses = lab.add_clients(family, 8);
        let clients = Clients::start(&lab, beside, &addresses, 40);
        thread::sleep(Duration::from_secs(1));
        let sent = Flood::random(target, 3_000, Duration::from_secs(5)).start(&lab).join();
        let served = clients.stop();
        // Cookies have had their time, and what is left is what the server keeps.
        thread::sleep(Duration::from_secs(3));
        let statuses = [&one, &many].map(Daemon::status);
        for daemon in [one, many] {
            let begin = Instant::now();
            let (code, log) = daemon.stop();
            assert_eq!(code, Some(0), "{log}");
            assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        }

        let [one, many] = statuses;
        for status in [&one, &many] {
            assert_eq!(status["capture"]["dropped"], 0);
            assert_eq!(status["capture"]["sampling_ratio"], 1.0);
            let flooded = service_in(status, family, FLOODED).expect("the flooded service");
            assert_eq!(flooded["syn"], sent.count, "{flooded:#}");
            let beside = service_in(status, family, BESIDE).expect("the service beside it");
            assert!(number(beside, "syn") >= served.answered as f64, "{beside:#}");
            assert!(beside["verdict"].is_null(), "{beside:#}");
        }
        let verdicts = [&one, &many].map(|status| {
            let detections = status["detections"].as_array().expect("a list");
            let verdict = |found: &Value| {
                ["class", "variant", "severity", "target"].map(|name| found[name].clone())
            };
            detections.iter().map(verdict).collect::<Vec<_>>()
        });
        assert_eq!(verdicts[0], verdicts[1]);
        assert_eq!(verdicts[0].len(), 1, "{one:#}");
        let [class, variant, severity, target] = &verdicts[0][0];
        assert_eq!((class, variant), (&"syn_flood".into(), &"spoofed_random".into()));
        assert_eq!((severity, &target["port"]), (&"critical".into(), &FLOODED.into()));
        for name in ["syn", "syn_retransmitted", "handshakes_completed", "fin"] {
            assert_eq!(one["totals"][name], many["totals"][name], "{name}");
        }
        // The server goes on to repeat its answers; each daemon estimates sources under a secret of
        // its own.
        for name in ["syn_ack", "half_open", "half_open_peak", "sources"] {
            assert_close(name, &one["totals"], &many["totals"]);
        }
        assert_close("packets", &one["capture"], &many["capture"]);
    }
}

#[test]
fn three_threads_keep_to_the_packet_budget() {
    if !support::requires_root() {
        return;
    }
    let _turn = Turn::wait(5_000);
    let lab = Lab::new(Settings::default());
    let family = Family::V4;
    let target = service(family, FLOODED);
    let _flooded = Service::start(&lab, target, 4_096);
    let beside = service(family, BESIDE);
    let _beside = Service::start(&lab, beside, 128);
    let budget = BUDGET.to_string();
    let daemon = Daemon::start_with(&lab, "", &["--packet-budget", &budget, "--threads", "3"]);
    let addresses = lab.add_clients(family, 8);
    let clients = Clients::start(&lab, beside, &addresses, 20);
    let sender = Flood::random(target, 5_000, Duration::from_secs(10)).start(&lab);

    thread::sleep(Duration::from_secs(5));
    let before = daemon.status();
    thread::sleep(Duration::from_secs(4));
    let status = daemon.status();
    let [came, had] = [&status, &before].map(|status| number(&status["capture"], "packets"));
    assert!((came - had) / 4.0 <= f64::from(BUDGET) * 1.3, "{came} packets, {had} 4 s before");
    assert!(number(&status["capture"], "sampling_ratio") < 1.0, "{status:#}");
    let found = daemon.detections();
    assert_eq!(found.len(), 1, "{found:#?}");
    let verdict = ["class", "variant", "severity"].map(|name| &found[0][name]);
    assert_eq!(verdict, ["syn_flood", "spoofed_random", "critical"]);
    assert_eq!(found[0]["target"]["port"], FLOODED);

    let sent = sender.join();
    let served = clients.stop();
    thread::sleep(Duration::from_secs(1));
    let status = daemon.status();
    assert_eq!(status["capture"]["dropped"], 0);
    let flooded = service_in(&status, family, FLOODED).expect("the flooded service");
    let (syn, error) = (number(flooded, "syn"), number(flooded, "syn_stderr"));
    let off = (syn - sent.count as f64).abs() / error;
    eprintln!("{syn} +- {error} SYNs, {} were sent: {off:.1} standard errors", sent.count);
    assert!(error > 0.0 && off <= 4.0, "{off} standard errors");
    let beside = service_in(&status, family, BESIDE).expect("the service beside it");
    assert!(beside.get("syn_stderr").is_none(), "{beside:#}");
    assert!(number(beside, "syn") >= served.answered as f64, "{beside:#}");
}

#[test]
fn a_backend_without_groups_has_one_thread() {
    if !support::requires_root() {
        return;
    }
    let lab = Lab::new(Settings::default());
    let target = service(Family::V4, FLOODED);
    let _service = Service::start(&lab, target, 128);
    let daemon = Daemon::start_with(&lab, "", &["--threads", "2", "--capture", "pnet"]);
    assert_eq!(capturing(&daemon), BTreeSet::from(["capture".to_owned()]));
    assert!(daemon.log().contains("using one capture thread"), "{}", daemon.log());
    let addresses = lab.add_clients(Family::V4, 2);
    let clients = Clients::start(&lab, target, &addresses, 20);
    thread::sleep(Duration::from_secs(1));
    let served = clients.stop();
    let seen = daemon.wait_for(Duration::from_secs(5), |daemon| {
        let status = daemon.status();
        let completed = number(&status["totals"], "handshakes_completed");
        (completed >= served.answered as f64).then_some(())
    });
    assert!(served.answered > 10 && seen.is_some(), "{served:?}, {:#}", daemon.status());
    assert_eq!(daemon.stop().0, Some(0));
}
