//! A hundred million connections that never end, one after the other: memory and speed must stay
//! what they were.
//!
//! `cargo bench --bench soak` feeds the engine an answered flood of distinct flows and prints a
//! line for each tenth of it: resident memory, time per packet, and for how long the packet path
//! stood still at the end of a step for detector, alerts and report. An argument is the number of
//! flows, in millions; 100 without one.

#[path = "../tests/support/mod.rs"]
mod support;

mod common;

use std::error::Error;
use std::time::{Duration, Instant};

use common::measure::{resident, thread_cpu};
use common::table::{self, figure, mebibytes, median, range, thousands};
use synwatch::sys::memory::use_huge_pages;
use synwatch_core::engine::{Engine, Settings};
use synwatch_core::time::Timestamp;
use synwatch_core::wire::{Address, Flags, OptionLayout, Segment, SeqNumber};

/// Flows that begin per second.
const RATE: u32 = 1_000_000;
/// How often the engine is told of time and asked for a report.
const TICK: Duration = Duration::from_millis(250);
/// Flows between two looks at the clock.
const BATCH: u32 = 1_000;
/// The services that are flooded: enough to keep the detector busy.
const SERVICES: u16 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let flows = common::rounds(100) as u64 * 1_000_000;
    let mut soak = Soak::new();
    println!("{} flows, {}\n", thousands(flows as i64), table::machine());
    table::head(&[
        "flows",
        "resident, MiB",
        "ns per packet",
        "end of a step, ms",
        "longest, ms",
        "SYN, estimated",
        "ratio",
    ]);
    let mut tenths = Vec::new();
    for _ in 0..10 {
        let tenth = soak.run(flows / 10)?;
        let report = soak.engine.snapshot(soak.now).document;
        table::row(&[
            thousands(soak.begun as i64),
            figure(mebibytes(tenth.resident)),
            figure(tenth.per_packet),
            figure(tenth.stop),
            figure(tenth.longest),
            thousands(report.totals.syn.value as i64),
            report.capture.sampling_ratio.to_string(),
        ]);
        tenths.push(tenth);
    }
    let (first, last) = (&tenths[0], &tenths[9]);
    let percent = |last: f64, first: f64| (last / first - 1.0) * 100.0;
    println!(
        "\nLast tenth against first: resident memory {:+.2} %, time per packet {:+.1} %",
        percent(last.resident as f64, first.resident as f64),
        percent(last.per_packet, first.per_packet),
    );
    Ok(())
}

struct Tenth {
    resident: u64,
    per_packet: f64,
    /// What the end of a step took, at the median and at the most, in milliseconds.
    stop: f64,
    longest: f64,
}

struct Soak {
    engine: Engine,
    now: Timestamp,
    next_tick: Timestamp,
    begun: u64,
    random: u64,
}

impl Soak {
    fn new() -> Self {
        let now = Timestamp::from_nanos(1_700_000_000_000_000_000);
        let engine = Engine::new(Settings { prepare: use_huge_pages, ..Settings::default() }, now);
        Self { engine, now, next_tick: now + TICK, begun: 0, random: 1 }
    }

    /// splitmix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn run(&mut self, flows: u64) -> Result<Tenth, Box<dyn Error>> {
        let mut batch = Vec::with_capacity(2 * BATCH as usize);
        let mut used = Duration::ZERO;
        let (mut plain, mut stops) = (Vec::new(), Vec::new());
        for _ in 0..flows / u64::from(BATCH) {
            batch.clear();
            for _ in 0..BATCH {
                let (syn, answer) = self.flow();
                batch.extend([syn, answer]);
            }
            let (begin, clock) = (thread_cpu(), Instant::now());
            for segment in &batch {
                self.engine.queue_segment(self.now, segment, 0);
                self.now = self.now + Duration::from_secs(1) / (2 * RATE);
            }
            self.engine.handle_queue();
            if self.now >= self.next_tick {
                self.next_tick = self.next_tick + TICK;
                self.engine.tick(self.now);
                drop(self.engine.snapshot(self.now));
                stops.push(clock.elapsed().as_secs_f64());
            } else {
                plain.push(clock.elapsed().as_secs_f64());
            }
            used += thread_cpu() - begin;
        }
        self.begun += flows;
        let per_packet = used.as_secs_f64() * 1e9 / (2.0 * flows as f64);
        // What a step's end adds to the batch that it falls into.
        let usual = median(plain);
        let stop = (median(stops.iter().copied()) - usual) * 1e3;
        let longest = (range(stops).1 - usual) * 1e3;
        Ok(Tenth { resident: resident()?, per_packet, stop, longest })
    }

    /// A SYN that no other had the source of, and the answer to it.
    fn flow(&mut self) -> (Segment, Segment) {
        let random = self.draw();
        let port = 1_024 + (self.draw() % u64::from(SERVICES)) as u16;
        let syn = Segment {
            source: Address::v4((random as u32).to_be_bytes()),
            destination: Address::v4([192, 0, 2, 10]),
            source_port: (random >> 48) as u16 | 1_024,
            destination_port: port,
            seq: SeqNumber((random >> 16) as u32),
            ack: SeqNumber(0),
            flags: Flags::SYN,
            window: 512,
            payload_len: 0,
            ttl: 64,
            mss: None,
            options: OptionLayout::default(),
        };
        let answer = Segment {
            source: syn.destination,
            destination: syn.source,
            source_port: syn.destination_port,
            destination_port: syn.source_port,
            seq: SeqNumber((random >> 24) as u32),
            ack: syn.seq + 1,
            flags: Flags::SYN | Flags::ACK,
            ..syn
        };
        (syn, answer)
    }
}
