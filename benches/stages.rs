//! What each stage of the way from a frame to a metric costs, in memory and on one core.
//!
//! `cargo bench --bench stages` has criterion measure them, compare them with the run before, and
//! prints the table of docs/performance.md in about a minute. An argument selects stages by a part
//! of their names.

#[path = "../tests/support/mod.rs"]
mod support;

mod common;

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use common::frames::{ACK, BARE, SYN, Segment};
use common::measure::thread_cpu;
use common::table::{self, figure, thousands};
use common::traffic::{Flood, Mixed, Time};
use criterion::{BenchmarkId, Criterion, Throughput};
use support::flood::Random;
use support::lab::VICTIM_V4;
use synwatch::sys::memory::use_huge_pages;
use synwatch_core::engine::{Engine, Settings};
use synwatch_core::metrics::{self, Exporter};
use synwatch_core::time::Timestamp;
use synwatch_core::wire::{self, LinkType};

/// Frames that are made before they are measured: about what one block of the ring holds.
const BATCH: usize = 16 * 1024;
/// The stages by the names of criterion's groups, and what they are measured in.
const STAGES: [(&str, &str); 3] =
    [("segment", "ns per segment"), ("packet", "ns per packet"), ("second", "µs each")];
/// Attempts per second of the floods.
const FLOOD_RATE: u32 = 100_000;
/// Connections that begin per second in the mixed traffic.
const CONNECTION_RATE: u32 = 10_000;
/// Live flows where there are many.
const LIVE_FLOWS: usize = 1_000_000;
/// The services that they are with.
const SERVICES: u64 = 64;
/// How often the engine is told of time.
const TICK: Duration = Duration::from_millis(250);
/// Ticks after which a full engine is made anew: ten minutes in which no established flow expires.
const TICKS: u64 = 4 * 600;

fn main() -> Result<(), Box<dyn Error>> {
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stages");
    let started = SystemTime::now();
    let mut criterion = Criterion::default()
        .output_directory(&results)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    segments(&mut criterion);
    packets(&mut criterion);
    seconds(&mut criterion);
    criterion.final_summary();
    print(&results, started)
}

/// A frame with its time.
#[derive(Clone, Copy)]
struct Frame {
    at: Timestamp,
    octets: [u8; BARE + 20],
    length: usize,
    original: u32,
}

impl Frame {
    fn of((at, segment): (Time, Segment)) -> Self {
        let mut octets = [0; BARE + 20];
        let length = segment.write(&mut octets);
        Self { at: Timestamp::from_nanos(at), octets, length, original: segment.length() as u32 }
    }

    fn decode(&self) -> wire::Segment {
        let mut segment = wire::Segment::default();
        self.decode_into(&mut segment).expect("a frame of our own");
        segment
    }

    fn decode_into(&self, segment: &mut wire::Segment) -> Result<(), wire::Skip> {
        let octets = &self.octets[..self.length];
        wire::decode_into(LinkType::Ethernet, octets, self.original, segment)
    }
}

/// A segment with its time.
type Arrived = (Timestamp, wire::Segment);

fn decoded(item: (Time, Segment)) -> Arrived {
    let frame = Frame::of(item);
    (frame.at, frame.decode())
}

/// An engine, and the calls that the packet path is made of.
struct Pipeline(Engine);

impl Pipeline {
    fn new(flows: usize) -> Self {
        Self(Engine::idle(Settings { flows, prepare: use_huge_pages, ..Settings::default() }))
    }

    /// As `app::session::feed` does for what a capture gives at once.
    fn frames(&mut self, frames: &[Frame]) {
        for frame in frames {
            self.0.queue_frame(frame.at, 1, |segment| frame.decode_into(segment));
        }
        self.0.handle_queue();
    }

    fn segments(&mut self, segments: &[Arrived]) {
        for (at, segment) in segments {
            self.0.queue_segment(*at, segment, 1);
        }
        self.0.handle_queue();
    }
}

/// Measures `work` on batches of what `source` gives, made while the clock stands. The clock is CPU
/// time: others may be at work on the same core.
fn measure<T>(
    criterion: &mut Criterion,
    (group, name): (&str, &str),
    mut source: impl FnMut(usize) -> Vec<T>,
    mut work: impl FnMut(&[T]),
) {
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
        bencher.iter_custom(|iterations| {
            let (mut left, mut spent) = (iterations as usize, Duration::ZERO);
            while left > 0 {
                let batch = source(left.min(BATCH));
                let begun = thread_cpu();
                work(&batch);
                spent += thread_cpu() - begun;
                left -= batch.len();
            }
            spent
        });
    });
    group.finish();
}

/// Parts of the packet path.
fn segments(criterion: &mut Criterion) {
    let mut flood = Flood::new(FLOOD_RATE).map(Frame::of);
    measure(
        criterion,
        ("segment", "decode"),
        |count| flood.by_ref().take(count).collect(),
        |frames| {
            for frame in frames {
                black_box(frame.decode());
            }
        },
    );

    let mut path = full();
    let now = path.0.now();
    let mut random = Random(1);
    measure(
        criterion,
        ("segment", "track known flow"),
        |count| {
            let known = |_| {
                let connection = random.next() % LIVE_FLOWS as u64;
                (now, decoded((0, handshake(connection)[2])).1)
            };
            (0..count).map(known).collect()
        },
        |segments| path.segments(segments),
    );

    let mut path = Pipeline::new(Settings::default().flows);
    let mut syns = Flood::new(FLOOD_RATE).filter(|(_, segment)| segment.flags == SYN).map(decoded);
    measure(
        criterion,
        ("segment", "track new flow"),
        |count| syns.by_ref().take(count).collect(),
        |segments| path.segments(segments),
    );
}

/// The whole packet path: decode, track, count, judge.
fn packets(criterion: &mut Criterion) {
    let flood = || Flood::new(FLOOD_RATE);
    let unanswered = flood().filter(|(_, segment)| segment.flags == SYN);
    whole_path(criterion, "flood of new flows, unanswered", unanswered);
    whole_path(criterion, "flood of new flows, answered", flood());
    whole_path(criterion, "mixed traffic", Mixed::new(u64::MAX, CONNECTION_RATE));
}

fn whole_path(
    criterion: &mut Criterion,
    name: &str,
    traffic: impl Iterator<Item = (Time, Segment)>,
) {
    let mut traffic = traffic.map(Frame::of);
    let mut path = Pipeline::new(Settings::default().flows);
    measure(
        criterion,
        ("packet", name),
        |count| traffic.by_ref().take(count).collect(),
        |frames| path.frames(frames),
    );
}

/// What is done every step or every second, with a million live flows.
fn seconds(criterion: &mut Criterion) {
    let mut path = full();
    let report = path.0.snapshot(path.0.now());
    let mut ticks = 0;
    let mut group = criterion.benchmark_group("second");
    group.bench_function("tick, 1 M live flows", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for _ in 0..iterations {
                ticks += 1;
                if ticks % TICKS == 0 {
                    path = full();
                }
                let now = path.0.now() + TICK;
                let begun = Instant::now();
                black_box(path.0.tick(now));
                spent += begun.elapsed();
            }
            spent
        });
    });
    let mut path = full();
    let now = path.0.now();
    group.bench_function("snapshot, 1 M live flows", |bencher| {
        bencher.iter(|| black_box(path.0.snapshot(now)));
    });
    let exporter = Exporter::default();
    group.bench_function("render metrics", |bencher| {
        bencher.iter(|| black_box(metrics::render(&report, &exporter)));
    });
    group.finish();
}

/// An engine with [`LIVE_FLOWS`] established flows.
fn full() -> Pipeline {
    // Twice as many places: with as many places as flows some sets would have more than they hold.
    let mut path = Pipeline::new(2 * LIVE_FLOWS);
    for connection in 0..LIVE_FLOWS as u64 {
        let at = connection * 10_000;
        let segments = handshake(connection).map(|segment| decoded((at, segment)));
        path.segments(&segments);
    }
    path
}

/// The handshake of a connection with a number.
fn handshake(connection: u64) -> [Segment; 3] {
    let mut random = Random((connection + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let port = 8_000 + (connection % SERVICES) as u16;
    let syn = Segment::forged(SocketAddrV4::new(VICTIM_V4, port), &mut random);
    let answer = syn.answer(!syn.sequence);
    let acknowledgement = Segment {
        sequence: answer.acknowledgement,
        acknowledgement: answer.sequence.wrapping_add(1),
        flags: ACK,
        ..syn
    };
    [syn, answer, acknowledgement]
}

/// Prints what criterion measured since `started`.
fn print(results: &Path, started: SystemTime) -> Result<(), Box<dyn Error>> {
    println!("\n{}; median, and the 95 % confidence interval of the median\n", table::machine());
    table::head(&["stage", "unit", "median", "from", "to", "per second"]);
    for (group, unit) in STAGES {
        let scale = if unit.starts_with("ns") { 1.0 } else { 1e-3 };
        let Ok(entries) = fs::read_dir(results.join(group)) else { continue };
        let mut stages: Vec<_> = entries.collect::<Result<_, _>>()?;
        stages.sort_by_key(fs::DirEntry::file_name);
        for stage in stages {
            let read = |name: &str| fs::read_to_string(stage.path().join("new").join(name));
            let file = stage.path().join("new/estimates.json");
            if fs::metadata(&file).and_then(|file| file.modified()).is_ok_and(|at| at < started) {
                continue;
            }
            let (Ok(estimates), Ok(about)) = (read("estimates.json"), read("benchmark.json"))
            else {
                continue;
            };
            let estimates: serde_json::Value = serde_json::from_str(&estimates)?;
            let about: serde_json::Value = serde_json::from_str(&about)?;
            let median = &estimates["median"];
            let nanos = |value: &serde_json::Value| value.as_f64().unwrap_or(f64::NAN);
            let interval = &median["confidence_interval"];
            let name = about["value_str"].as_str().or(about["function_id"].as_str());
            table::row(&[
                name.unwrap_or_default().to_owned(),
                unit.to_owned(),
                figure(nanos(&median["point_estimate"]) * scale),
                figure(nanos(&interval["lower_bound"]) * scale),
                figure(nanos(&interval["upper_bound"]) * scale),
                thousands((1e9 / nanos(&median["point_estimate"])) as i64),
            ]);
        }
    }
    Ok(())
}
