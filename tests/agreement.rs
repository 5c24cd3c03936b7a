//! The wire agrees with the kernel: what synwatch counts from packets is what the kernel holds in
//! SYN_RECV, at every moment of a flood and until the last request has timed out.
#![cfg(feature = "host")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use support::flood::Flood;
use support::lab::{Family, Lab, Settings, service};
use support::program::{Daemon, seconds_between, service_in, time};
use support::traffic::Service;
use support::truth::{Count, KernelTruth};

/// The port of the flooded service.
const PORT: u16 = 4431;
/// How often the kernel is asked.
const KERNEL_PERIOD: Duration = Duration::from_millis(100);
/// How often synwatch is asked.
const REPORT_PERIOD: Duration = Duration::from_millis(500);
/// A request lives at most 63 s, and up to 2.1 s and 0.6 s of timer granularity on top.
const GIVE_UP: Duration = Duration::from_secs(100);
/// When the first requests have had all their retransmissions, after the first SYN.
const FIRST_TIMEOUT: f64 = 62.0;

/// A flood and the kernel settings under which it is counted.
#[derive(Clone, Copy, Debug)]
struct Case {
    backlog: i32,
    syncookies: u8,
    family: Family,
    rate: u32,
}

/// What synwatch said of the service at a moment.
#[derive(Clone, Copy, Debug)]
struct Said {
    at: SystemTime,
    half_open: u64,
    unconfirmed: u64,
}

#[test]
fn wire_agrees_with_the_kernel() {
    if !support::requires_root() {
        return;
    }
    let cases = [
        Case { backlog: 4096, syncookies: 0, family: Family::V4, rate: 1_000 },
        Case { backlog: 511, syncookies: 1, family: Family::V6, rate: 1_000 },
        Case { backlog: 128, syncookies: 0, family: Family::V6, rate: 1_000 },
        // Stays below half of the backlog: nothing is pruned, every request lives its full 63 s.
        Case { backlog: 4096, syncookies: 1, family: Family::V4, rate: 20 },
    ];
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || compare(case));
        }
    });
}

/// The yardstick itself: two ways to ask the kernel give one number.
#[test]
fn kernel_count_is_what_ss_shows() {
    if !support::requires_root() {
        return;
    }
    for family in Family::ALL {
        let lab = Lab::new(Settings::default());
        let target = service(family, PORT);
        let _service = Service::start(&lab, target, 511);
        let sent = Flood::random(target, 1_000, Duration::from_millis(200)).start(&lab).join();
        let count = KernelTruth::of(&lab).count(PORT).half_open;
        let filter = format!("( sport = :{PORT} )");
        let listing =
            lab.victim.command("ss").args(["-Htn", "state", "syn-recv", &filter]).output();
        let listing = String::from_utf8(listing.expect("ss").stdout).expect("UTF-8");
        assert_eq!(count, listing.lines().count() as u64, "{listing}");
        assert_eq!(count, sent.count);
    }
}

fn compare(case: Case) {
    let lab = Lab::new(Settings { syncookies: case.syncookies, ..Settings::default() });
    let target = service(case.family, PORT);
    let _service = Service::start(&lab, target, case.backlog);
    let daemon = Daemon::start(&lab);
    let truth = KernelTruth::of(&lab);

    let flood = Flood::random(target, case.rate, Duration::from_secs(20)).start(&lab);
    let over = AtomicBool::new(false);
    let (kernel, said) = thread::scope(|scope| {
        let kernel = scope.spawn(|| {
            let mut counts = Vec::new();
            while !over.load(Ordering::Relaxed) {
                counts.push(truth.count(PORT));
                thread::sleep(KERNEL_PERIOD);
            }
            counts
        });
        let said = listen(&daemon, &truth, case.family);
        over.store(true, Ordering::Relaxed);
        (kernel.join().expect("the kernel's counts"), said)
    });
    let sent = flood.join();
    assert_eq!(truth.count(PORT).half_open, 0, "{case:?}: requests are left after {GIVE_UP:?}");

    let mut worst = (0, 0.0);
    for said in &said {
        let after = seconds_between(sent.first, said.at);
        // The last step of the timer, 32 s, has a granularity of 2.048 s at 250 Hz; all steps
        // before it together stay below 0.3 s where a request is pruned.
        let slack = if after < FIRST_TIMEOUT { 0.3 } else { 2.1 };
        let near = kernel.iter().filter(|count| seconds_between(count.at, said.at).abs() <= slack);
        let near: Vec<u64> = near.map(|count| count.half_open).collect();
        let (Some(low), Some(high)) = (near.iter().min(), near.iter().max()) else { continue };
        let (low, high) = (*low, *high);
        // With cookies, the wire cannot tell a request that is held from one that was answered by
        // a cookie, until the first retransmission is due.
        assert!(said.unconfirmed <= said.half_open, "{case:?}: {said:?}");
        let unsure = if case.syncookies == 0 { 0 } else { said.unconfirmed };
        let tolerance = (high / 20).max(5);
        let fits = said.half_open - unsure <= high + tolerance && said.half_open + tolerance >= low;
        let difference = distance(said, unsure, nearest(&kernel, said.at).half_open);
        if difference > worst.0 {
            worst = (difference, after);
        }
        assert!(
            fits,
            "{case:?}: {after:.1} s after the first SYN the kernel held {low} to {high}, synwatch \
             said {} ({} unconfirmed)",
            said.half_open, said.unconfirmed
        );
    }
    eprintln!(
        "{case:?}: {} reports agree, largest difference {} at {:.1} s",
        said.len(),
        worst.0,
        worst.1
    );
    assert!(said.len() >= 50, "{case:?}: only {} reports", said.len());
}

/// Collects reports until the kernel and synwatch both count nothing any more.
fn listen(daemon: &Daemon, truth: &KernelTruth, family: Family) -> Vec<Said> {
    let started = Instant::now();
    let mut all: Vec<Said> = Vec::new();
    while started.elapsed() < GIVE_UP {
        thread::sleep(REPORT_PERIOD);
        let report = daemon.status();
        let count = |name: &str| {
            service_in(&report, family, PORT)
                .and_then(|service| service[name].as_u64())
                .unwrap_or(0)
        };
        let said = Said {
            at: time(&report["observed"]["to"]),
            half_open: count("half_open"),
            unconfirmed: count("half_open_unconfirmed"),
        };
        if all.last().is_none_or(|last| last.at < said.at) {
            all.push(said);
        }
        let begun = all.iter().any(|said| said.half_open > 0);
        if begun && said.half_open == 0 && truth.count(PORT).half_open == 0 {
            break;
        }
    }
    all
}

/// How far the kernel's count is from what synwatch allows for.
fn distance(said: &Said, unsure: u64, kernel: u64) -> u64 {
    let (low, high) = (said.half_open - unsure, said.half_open);
    low.saturating_sub(kernel).max(kernel.saturating_sub(high))
}

fn nearest(kernel: &[Count], at: SystemTime) -> Count {
    let key = |count: &&Count| (seconds_between(count.at, at).abs() * 1e6) as u64;
    *kernel.iter().min_by_key(key).expect("counts of the kernel")
}
