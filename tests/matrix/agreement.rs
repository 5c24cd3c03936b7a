//! The model of the server against the kernel: the same SYNs, and how many requests are in
//! SYN_RECV.

use std::fs;
use std::path::Path;
use std::time::Duration;

use synwatch::capture::pcap::Pcap;
use synwatch::capture::{Batch, Source};
use synwatch_core::wire::{Segment, decode};

use crate::server::{SECOND, Server, Settings};

/// Timers that were set for 32 s fire up to 2 s late; in what phase is not known.
const LATE: f64 = 2.1;
/// When they begin to fire, in seconds after the first SYN.
const LATE_FROM: f64 = 60.0;
/// How exactly the times of the kernel's counts are known.
const EXACT: f64 = 0.3;

/// Plays the recorded floods of `tests/agreement` into the model.
pub fn check() {
    for (backlog, syncookies) in [(128, 0), (128, 1), (4_096, 1)] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agreement");
        let path = folder.join(format!("backlog-{backlog}-cookies-{syncookies}"));
        let syns = read_syns(&path.with_extension("pcap.gz"));
        let counts = read_counts(&path.with_extension("csv"));
        let settings = Settings {
            backlog,
            syncookies,
            max_syn_backlog: 65_536,
            synack_retries: 5,
            defer_accept: 0,
        };
        let model = play(settings, &syns, counts.last().map_or(0, |count| count.0));
        let mut worst = (0, 0.0);
        for (at, kernel) in &counts {
            let after = (*at as f64 - syns[0].0 as f64) / SECOND as f64;
            let slack = if after < LATE_FROM { EXACT } else { LATE };
            let slack = (slack * SECOND as f64) as u64;
            let near = model.iter().filter(|(time, _)| time.abs_diff(*at) <= slack);
            let (mut low, mut high) = (u32::MAX, 0);
            for (_, count) in near {
                (low, high) = (low.min(*count), high.max(*count));
            }
            if low > high {
                continue;
            }
            let off = low.saturating_sub(*kernel).max(kernel.saturating_sub(high));
            if off > worst.0 {
                worst = (off, after);
            }
        }
        eprintln!(
            "backlog {backlog}, cookies {syncookies}: at most {} off, {:.1} s after the first SYN",
            worst.0, worst.1
        );
        let peak = counts.iter().map(|(_, kernel)| *kernel).max().unwrap_or(0);
        assert!(worst.0 * 10 <= peak.max(50), "{} of {peak} off at {:.1} s", worst.0, worst.1);
    }
}

/// The model's counts after every SYN and every 50 ms.
fn play(settings: Settings, syns: &[(u64, Segment)], end: u64) -> Vec<(u64, u32)> {
    let mut server = Server::new(settings, 1, 1);
    let mut counts = Vec::new();
    let mut syns = syns.iter().peekable();
    let mut now = syns.peek().map_or(0, |(at, _)| at - SECOND);
    while now < end {
        now += SECOND / 20;
        loop {
            let syn = syns.peek().map_or(u64::MAX, |(at, _)| *at);
            let timer = server.next_timer().unwrap_or(u64::MAX);
            if syn.min(timer) > now {
                break;
            }
            if timer < syn {
                server.fire();
            } else if let Some((at, syn)) = syns.next() {
                server.syn(*at, 0, syn, false, None);
            }
        }
        counts.push((now, server.listeners[0].queued));
    }
    counts
}

fn read_syns(path: &Path) -> Vec<(u64, Segment)> {
    let mut source = Pcap::open(&[path]).expect("a capture");
    let mut syns = Vec::new();
    let mut batch = Batch::Frames;
    while batch != Batch::End {
        let visit = &mut |frame: synwatch::capture::Frame<'_>| {
            let segment = decode(frame.link, frame.data, frame.original_len).expect("a segment");
            if segment.flags.is_syn() {
                syns.push((frame.at.as_nanos(), segment));
            }
        };
        batch = source.read_batch(Duration::ZERO, visit).expect("a batch");
        assert_ne!(batch, Batch::Damaged);
    }
    syns
}

/// The kernel's counts by time in nanoseconds.
fn read_counts(path: &Path) -> Vec<(u64, u32)> {
    let text = fs::read_to_string(path).expect("counts");
    let count = |line: &str| {
        let (time, half_open) = line.split_once(',').expect("two columns");
        let time: f64 = time.parse().expect("seconds");
        ((time * SECOND as f64) as u64, half_open.parse().expect("a count"))
    };
    text.lines().skip(1).map(count).collect()
}
