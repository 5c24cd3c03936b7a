//! The verdict on the real kernel: slow floods are paged in time and named, what only looks like a
//! flood is named for what it is.

use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::support;
use crate::support::flood::{Flood, syn_scan};
use crate::support::lab::{Family, Lab, Settings, service};
use crate::support::program::{Daemon, seconds_between, time};
use crate::support::traffic::{Clients, Service};
use crate::support::truth::KernelTruth;
use crate::support::turn::{CONNECTION, Turn};

/// The port of the service that a test is about.
const PORT: u16 = 4432;
/// Client addresses of the honest load.
const CLIENTS: u8 = 20;
/// Ports with a listener during a scan.
const OPEN_PORTS: [u16; 3] = [22, 80, 443];
/// Ports or connections a second during a scan.
const SCAN_RATE: u32 = 300;

/// B/10 is the lowest rate that fills a SYN queue of B: the page must not come after the damage.
#[test]
fn slowest_harmful_flood_pages_before_the_queue_is_full() {
    if !support::requires_root() {
        return;
    }
    thread::scope(|scope| {
        for backlog in [128, 511, 4096] {
            // An idle listener, and one with clients among the forged.
            for (family, clients) in [(Family::V6, 0), (Family::V4, 50)] {
                scope.spawn(move || flood_slowly(backlog, family, clients));
            }
        }
    });
}

/// The commonest tool of the trade. Some of its sources are addresses that no kernel answers.
#[test]
fn hping3_with_random_sources_is_spoofed_random() {
    if !support::requires_root() {
        return;
    }
    let _turn = Turn::wait(1_000);
    let lab = Lab::new(Settings::default());
    let target = service(Family::V4, PORT);
    let _service = Service::start(&lab, target, 511);
    let daemon = Daemon::start(&lab);

    let (port, address) = (PORT.to_string(), target.ip().to_string());
    let mut hping3 = lab.attacker.command("hping3");
    hping3.args(["-q", "-S", "-p", &port, "--rand-source", "-i", "u1000", "-c", "8000", &address]);
    let hping3 = hping3.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let first = SystemTime::now();
    let mut hping3 = hping3.spawn().expect("ip netns exec");
    let found = daemon.wait_for(Duration::from_secs(10), |daemon| {
        daemon.detections().into_iter().find(|found| found["variant"] == "spoofed_random")
    });
    let seen = daemon.status()["totals"]["syn"].as_u64();
    let ended = hping3.try_wait().expect("wait for hping3");
    // Every SYN is sent by now, or soon; it would wait on for answers that cannot come.
    let _ = hping3.kill();
    let _ = hping3.wait();
    if seen == Some(0) && ended.is_some_and(|status| !status.success()) {
        eprintln!("skipped: hping3 is not installed, or cannot send");
        return;
    }
    let found = found.unwrap_or_else(|| panic!("no spoofed_random: {:#}", daemon.status()));
    assert_eq!(found["class"], "syn_flood", "{found:#}");
    assert_eq!(found["target"]["address"], address.as_str(), "{found:#}");
    assert_eq!(found["target"]["port"], PORT, "{found:#}");
    let after = seconds_between(first, paged_at(&found).expect("a page"));
    eprintln!("hping3 at 1,000/s: paged after {after:.2} s");
    assert!(after <= 3.0, "paged after {after:.2} s, the start of hping3 included");
}

/// While accept() is not called Linux answers no SYN at all, so clients repeat theirs, five times
/// the load; and in the moment when it is called again the SYN queue is full of them.
#[test]
fn application_that_stops_accepting_is_no_flood() {
    if !support::requires_root() {
        return;
    }
    thread::scope(|scope| {
        for (family, backlog) in [(Family::V4, 128), (Family::V6, 64)] {
            scope.spawn(move || stall(family, backlog));
        }
    });
}

/// `nmap -sS`: a SYN to each port, a RST to whoever answers.
#[test]
fn syn_scan_is_a_vertical_port_scan() {
    scan(|lab, family| {
        // Neither sorted nor repeated: multiples modulo a prime.
        let ports = (1..=1_000).map(|index: u32| (index * 379 % 1_009) as u16).collect();
        syn_scan(lab, family.attacker(), family.victim(), ports, SCAN_RATE).join();
    });
}

/// `nmap -sT`: whole connections, as anybody may open them.
#[test]
fn connect_scan_is_a_vertical_port_scan() {
    scan(|lab, family| {
        lab.attacker.run(|| {
            for index in 1..=500 {
                let port = (index * 190 % 503) as u16;
                let target = SocketAddr::new(family.victim(), port);
                // Refused by most; who answers is hung up on.
                let _ = TcpStream::connect_timeout(&target, Duration::from_secs(1));
                thread::sleep(Duration::from_secs(1) / SCAN_RATE);
            }
        });
    });
}

/// A flood at a tenth of the backlog a second, until it is paged and named.
fn flood_slowly(backlog: u16, family: Family, clients: u32) {
    /// By then, whether the queue ever is full or not.
    const DEADLINE: f64 = 15.0;
    let case = format!("backlog {backlog}, {family:?}, {clients} clients/s");
    let rate = u32::from(backlog).div_ceil(10);
    let _turn = Turn::wait(rate + clients * CONNECTION);
    let lab = Lab::new(Settings::default());
    let target = service(family, PORT);
    let _service = Service::start(&lab, target, i32::from(backlog));
    let daemon = Daemon::start(&lab);
    let mut truth = KernelTruth::of(&lab);
    let clients = Clients::start(&lab, target, &lab.add_clients(family, CLIENTS), clients);
    thread::sleep(Duration::from_secs(2));

    let flood = Flood::random(target, rate, Duration::from_secs(30)).start(&lab);
    let started = Instant::now();
    let mut full_at = None;
    let found = loop {
        let count = truth.count(PORT);
        if full_at.is_none() && count.half_open >= u64::from(backlog) {
            full_at = Some(count.at);
        }
        let named = daemon.detections().into_iter().find(|found| {
            let variant = found["variant"].as_str();
            paged_at(found).is_some() && matches!(variant, Some("spoofed_random" | "slow"))
        });
        if named.is_some() || started.elapsed() > Duration::from_secs(25) {
            break named;
        }
        thread::sleep(Duration::from_millis(100));
    };
    let first = flood.stop().first;
    let served = clients.stop();
    let found = found.unwrap_or_else(|| panic!("{case}: not named: {:#}", daemon.status()));
    let paged = seconds_between(first, paged_at(&found).expect("a page"));
    let full = full_at.map(|at| seconds_between(first, at));
    eprintln!(
        "{case}: {} paged after {paged:.2} s, queue full after {full:.2?} s, {served:?}",
        found["variant"]
    );
    let deadline = full.map_or(DEADLINE, |full| DEADLINE.min(full + 2.0));
    assert!(
        paged <= deadline,
        "{case}: paged after {paged:.2} s, full after {full:?} s: {found:#}"
    );
    assert_eq!(found["class"], "syn_flood", "{case}: {found:#}");
    assert_eq!(found["target"]["address"], target.ip().to_string().as_str(), "{case}: {found:#}");
    assert_eq!(found["target"]["port"], PORT, "{case}: {found:#}");
    assert_eq!(daemon.detections().len(), 1, "{case}: {:#?}", daemon.detections());
    assert_eq!(served.failed, 0, "{case}: clients failed");
}

/// An application that is stuck for a while under honest load, and recovers.
fn stall(family: Family, backlog: i32) {
    let case = format!("backlog {backlog}, {family:?}");
    let _turn = Turn::wait(200 * CONNECTION);
    let lab = Lab::new(Settings::default());
    let target = service(family, PORT);
    let service = Service::start(&lab, target, backlog);
    let daemon = Daemon::start(&lab);
    let clients = Clients::start(&lab, target, &lab.add_clients(family, CLIENTS), 200);
    thread::sleep(Duration::from_secs(3));
    assert!(daemon.detections().is_empty(), "{case}: {:#?}", daemon.detections());

    let stalled = SystemTime::now();
    service.stall();
    let found = daemon.wait_for(Duration::from_secs(12), |daemon| {
        let overflow = |found: &Value| found["class"] == "accept_queue_overflow";
        daemon.detections().into_iter().find(overflow)
    });
    // Clients have gone through all of their repeats by then.
    let rest = Duration::from_secs(12).saturating_sub(stalled.elapsed().unwrap_or_default());
    thread::sleep(rest);
    service.resume();
    thread::sleep(Duration::from_secs(5));
    let served = clients.stop();
    let all = daemon.detections();
    eprintln!("{case}: {served:?}, {} detections", all.len());
    assert!(served.failed > 1_000, "{case}: the application was not stuck: {served:?}");
    assert!(
        all.iter().all(|found| found["class"] != "syn_flood"),
        "{case}: called a flood: {all:#?}"
    );
    let found = found.unwrap_or_else(|| panic!("{case}: not named: {:#}", daemon.status()));
    let after = seconds_between(stalled, time(&found["raised_at"]));
    eprintln!("{case}: named after {after:.2} s");
    assert_eq!(found["target"]["port"], PORT, "{case}: {found:#}");
    assert_eq!(all.len(), 1, "{case}: one trouble is one incident: {all:#?}");
}

/// Scans a host with a few open ports over both IP versions.
fn scan(run: impl Fn(&Lab, Family) + Sync) {
    if !support::requires_root() {
        return;
    }
    thread::scope(|scope| {
        for family in Family::ALL {
            let run = &run;
            scope.spawn(move || {
                let _turn = Turn::wait(SCAN_RATE * CONNECTION);
                let lab = Lab::new(Settings::default());
                let open = |port| Service::start(&lab, service(family, port), 128);
                let _services = OPEN_PORTS.map(open);
                let daemon = Daemon::start(&lab);
                run(&lab, family);
                thread::sleep(Duration::from_secs(4));

                let all = daemon.detections();
                let [found] = &all[..] else {
                    panic!("{family:?}: one scan is one incident: {all:#?}");
                };
                assert_eq!(found["class"], "port_scan", "{family:?}: {found:#}");
                assert_eq!(found["variant"], "vertical", "{family:?}: {found:#}");
                let (scanner, victim) = (family.attacker(), family.victim());
                assert_eq!(
                    found["attacker"],
                    scanner.to_string().as_str(),
                    "{family:?}: {found:#}"
                );
                let target = &found["target"];
                assert_eq!(target["address"], victim.to_string().as_str(), "{family:?}: {found:#}");
                assert_eq!(target["port"], Value::Null, "{family:?}: {found:#}");
            });
        }
    });
}

/// When a detection became worth to wake somebody.
fn paged_at(found: &Value) -> Option<SystemTime> {
    let pages = |change: &&Value| change["severity"] != "info";
    let change = found["severity_history"].as_array()?.iter().find(pages)?;
    Some(time(&change["at"]))
}
