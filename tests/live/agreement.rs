//! The wire agrees with the kernel: what synwatch counts from packets is what the kernel holds in
//! SYN_RECV, at every moment of a flood and until the last request has timed out.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use synwatch::capture::pcap::Pcap;
use synwatch::capture::{Batch, Source};
use synwatch_core::engine::{self, Engine};
use synwatch_core::observe::{KernelSample, Listener, Sysctls};
use synwatch_core::time::Timestamp;
use synwatch_core::wire::{Segment, decode};

use crate::support;
use crate::support::flood::Flood;
use crate::support::lab::{Family, Lab, Settings, service};
use crate::support::program::Daemon;
use crate::support::traffic::Service;
use crate::support::truth::{Count, KernelTruth, Said, compare};
use crate::support::turn::Turn;

/// The port of the flooded service.
const PORT: u16 = 4431;
/// How often the kernel is asked.
const KERNEL_PERIOD: Duration = Duration::from_millis(100);
/// How often synwatch is asked.
const REPORT_PERIOD: Duration = Duration::from_millis(500);
/// A request lives at most 63 s, and up to 2.1 s and 0.6 s of timer granularity on top.
const GIVE_UP: Duration = Duration::from_secs(100);

/// A flood and the kernel settings under which it is counted.
#[derive(Clone, Copy, Debug)]
struct Case {
    backlog: u16,
    syncookies: u8,
    family: Family,
    rate: u32,
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
            scope.spawn(move || flood_and_compare(case));
        }
    });
}

/// The same with floods that were recorded on the victim's interface, with the kernel's counts (on
/// Linux 6.18 at 250 Hz) beside them: needs no privilege and no time.
#[test]
fn recorded_wire_agrees_with_the_kernel() {
    for case in [
        Case { backlog: 128, syncookies: 0, family: Family::V6, rate: 100 },
        Case { backlog: 128, syncookies: 1, family: Family::V4, rate: 100 },
        Case { backlog: 4096, syncookies: 1, family: Family::V4, rate: 10 },
    ] {
        let (frames, kernel) = read_recorded(case);
        let said = replay(case, &frames, &kernel);
        let first = wall_clock(frames[0].0);
        compare(&format!("{case:?}"), case.syncookies, first, &kernel, &said);
    }
}

/// The yardstick itself: two ways to ask the kernel give one number.
#[test]
fn kernel_count_is_what_ss_shows() {
    if !support::requires_root() {
        return;
    }
    for family in Family::ALL {
        let _turn = Turn::wait(1_000);
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

fn flood_and_compare(case: Case) {
    let turn = Turn::wait(case.rate);
    let lab = Lab::new(Settings { syncookies: case.syncookies, ..Settings::default() });
    let target = service(case.family, PORT);
    let _service = Service::start(&lab, target, i32::from(case.backlog));
    let daemon = Daemon::start(&lab);
    let mut truth = KernelTruth::of(&lab);

    let flood = Flood::random(target, case.rate, Duration::from_secs(20)).start(&lab);
    let over = AtomicBool::new(false);
    let (sent, kernel, said) = thread::scope(|scope| {
        let sent = scope.spawn(|| {
            let sent = flood.join();
            // What follows is silence.
            drop(turn);
            sent
        });
        let kernel = scope.spawn(|| {
            let mut truth = KernelTruth::of(&lab);
            let mut counts = Vec::new();
            loop {
                // Once more when the other is done, or the zero that it ended on might be missing
                // here.
                let last = over.load(Ordering::Relaxed);
                counts.push(truth.count(PORT));
                if last {
                    return counts;
                }
                thread::sleep(KERNEL_PERIOD);
            }
        });
        let said = listen(&daemon, &mut truth, case.family);
        over.store(true, Ordering::Relaxed);
        let kernel = kernel.join().expect("the kernel's counts");
        (sent.join().expect("a flood"), kernel, said)
    });
    assert_eq!(truth.count(PORT).half_open, 0, "{case:?}: requests are left after {GIVE_UP:?}");
    assert!(said.len() >= 50, "{case:?}: only {} reports", said.len());
    compare(&format!("{case:?}"), case.syncookies, sent.first, &kernel, &said);
}

/// Collects reports until the kernel and synwatch both count nothing any more.
fn listen(daemon: &Daemon, truth: &mut KernelTruth, family: Family) -> Vec<Said> {
    let started = Instant::now();
    let mut all: Vec<Said> = Vec::new();
    while started.elapsed() < GIVE_UP {
        thread::sleep(REPORT_PERIOD);
        let said = Said::of(&daemon.status(), service(family, PORT));
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

/// The segments of a recorded flood, and the kernel's counts of the same time.
fn read_recorded(case: Case) -> (Vec<(Timestamp, Segment)>, Vec<Count>) {
    let name = format!("backlog-{}-cookies-{}", case.backlog, case.syncookies);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agreement").join(name);
    let mut source = Pcap::open(&[path.with_extension("pcap.gz")]).expect("a capture");
    let mut segments = Vec::new();
    let mut batch = Batch::Frames;
    while batch != Batch::End {
        let visit = &mut |frame: synwatch::capture::Frame<'_>| {
            let segment = decode(frame.link, frame.data, frame.original_len);
            segments.push((frame.at, segment.expect("a segment")));
        };
        batch = source.read_batch(Duration::ZERO, visit).expect("a batch");
        assert_ne!(batch, Batch::Damaged);
    }
    let counts = fs::read_to_string(path.with_extension("csv")).expect("counts");
    let count = |line: &str| {
        let (seconds, half_open) = line.split_once(',').expect("two columns");
        let since_epoch = Duration::from_secs_f64(seconds.parse().expect("seconds"));
        let half_open = half_open.parse().expect("a count");
        Count { at: SystemTime::UNIX_EPOCH + since_epoch, within: Duration::ZERO, half_open }
    };
    (segments, counts.lines().skip(1).map(count).collect())
}

/// What the engine says every [`REPORT_PERIOD`] of the recorded time.
fn replay(case: Case, segments: &[(Timestamp, Segment)], kernel: &[Count]) -> Vec<Said> {
    let address = case.family.victim();
    let start = segments[0].0.before(Duration::from_secs(1));
    let end = kernel.last().expect("counts of the kernel").at;
    let mut engine = Engine::new(engine::Settings::default(), start);
    engine.handle_kernel(listener(case, address, start));
    let mut segments = segments.iter().peekable();
    let mut said = Vec::new();
    let mut now = start;
    while wall_clock(now) < end {
        now = now + REPORT_PERIOD;
        while let Some((at, segment)) = segments.next_if(|(at, _)| *at <= now) {
            engine.handle_segment(*at, segment, 0);
        }
        engine.tick(now);
        let report = engine.snapshot(now).document;
        let service = report.services.iter().find(|service| service.port == PORT);
        let (half_open, unconfirmed) = service.map_or((0, 0), |service| {
            (service.half_open.value, service.half_open_unconfirmed.value)
        });
        said.push(Said { at: wall_clock(now), half_open, unconfirmed });
    }
    said
}

fn wall_clock(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(at.as_nanos())
}

/// What the kernel says of the flooded service but for its half-open requests.
fn listener(case: Case, address: IpAddr, at: Timestamp) -> KernelSample {
    let backlog = u32::from(case.backlog);
    KernelSample {
        at,
        listeners: vec![Listener {
            address,
            port: PORT,
            dual_stack: false,
            accept_queue: 0,
            backlog,
            sockets: 1,
            process: None,
        }],
        sysctls: Sysctls {
            syncookies: Some(case.syncookies),
            synack_retries: Some(5),
            max_syn_backlog: Some(65_536),
            somaxconn: Some(4_096),
        },
        addresses: vec![address],
        ..KernelSample::default()
    }
}
