//! `synwatch replay` beside other programs that read captures, most of which track connections too.
//!
//! `cargo bench --bench replay` prints the tables of docs/performance.md in about a quarter of an
//! hour. Everything runs on one core, from the page cache. An argument is the number of rounds, 5
//! without one. Needs 2 GB for files, and tracks with what is installed of Debian's packages
//! tcpdump, argus-server, tcptrace, nfdump, softflowd and tshark.

#[path = "../../tests/support/mod.rs"]
mod support;

#[path = "../common/mod.rs"]
mod common;

mod programs;

use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::frames::{BARE, Segment};
use common::measure::{self, Run};
use common::table::{self, figure, mebibytes, median, range, thousands};
use common::traffic::{Flood, Mixed, Time};
use programs::{PROGRAMS, Program};
use serde_json::Value;
use support::program::SYNWATCH;

/// Packets of the flood.
const FLOOD_PACKETS: usize = 2_000_000;
/// Its SYNs per second.
const FLOOD_RATE: u32 = 100_000;
/// Connections of the mixed traffic.
const CONNECTIONS: u64 = 1_000_000;
/// How many begin per second.
const CONNECTION_RATE: u32 = 50_000;
/// Octets kept of each frame.
const SNAP_LENGTH: usize = 96;
/// No program may take longer for a file.
const LIMIT: Duration = Duration::from_secs(120);
/// No program may take more memory, in octets.
const MEMORY: u64 = 16 << 30;
/// A program that has taken so long for a file in all its rounds does no more of them.
const ENOUGH: Duration = Duration::from_secs(30);

/// A capture file, and what is in it.
struct Capture {
    name: &'static str,
    path: PathBuf,
    packets: u64,
    octets: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = common::rounds(5);
    let directory = tempfile::tempdir()?;
    let programs: Vec<&Program> = PROGRAMS.iter().filter(|program| program.is_usable()).collect();
    // The kernel numbers the cores from 0; the first has most of the interrupts.
    let core = std::thread::available_parallelism()?.get() - 1;
    println!("{}, one of the cores; median of up to {rounds} rounds", table::machine());
    let flood = Flood::new(FLOOD_RATE).take(FLOOD_PACKETS);
    let captures = [
        write("answered flood", directory.path().join("flood.pcap"), flood)?,
        write(
            "mixed traffic",
            directory.path().join("mixed.pcap"),
            Mixed::new(CONNECTIONS, CONNECTION_RATE),
        )?,
    ];
    for capture in &captures {
        warm(&capture.path)?;
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); programs.len()];
        for round in 0..rounds {
            for turn in 0..programs.len() {
                let index = (round + turn) % programs.len();
                let spent: Duration = runs[index].iter().map(|run| run.wall).sum();
                if spent < ENOUGH {
                    runs[index].push(run(programs[index], capture, core)?);
                }
            }
        }
        print(capture, &programs, &runs)?;
    }
    Ok(())
}

/// Writes a capture file of the classic format.
fn write(
    name: &'static str,
    path: PathBuf,
    traffic: impl Iterator<Item = (Time, Segment)>,
) -> io::Result<Capture> {
    /// 2026-01-01, in seconds since 1970.
    const BEGIN: u64 = 1_767_225_600;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
    // Magic number of microseconds, version 2.4, UTC, snap length, Ethernet.
    let words = [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, SNAP_LENGTH as u32, 1];
    for word in words {
        file.write_all(&u32::to_ne_bytes(word))?;
    }
    let (mut frame, mut packets, mut octets) = ([0; SNAP_LENGTH], 0, 24);
    for (at, segment) in traffic {
        let mut head = [0; BARE + 20];
        let written = segment.write(&mut head);
        frame[..written].copy_from_slice(&head[..written]);
        frame[written..].fill(0);
        let kept = segment.length().min(SNAP_LENGTH);
        let micros = BEGIN * 1_000_000 + at / 1_000;
        for word in [
            (micros / 1_000_000) as u32,
            (micros % 1_000_000) as u32,
            kept as u32,
            segment.length() as u32,
        ] {
            file.write_all(&word.to_ne_bytes())?;
        }
        file.write_all(&frame[..kept])?;
        packets += 1;
        octets += 16 + kept as u64;
    }
    // Nothing is to be written back while others are measured.
    file.into_inner()?.sync_all()?;
    Ok(Capture { name, path, packets, octets })
}

/// Has the whole file in the page cache.
fn warm(path: &Path) -> io::Result<()> {
    let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// One run on one core.
fn run(program: &Program, capture: &Capture, core: usize) -> io::Result<Run> {
    let scratch = tempfile::tempdir()?;
    let mut command = Command::new("prlimit");
    command.arg(format!("--as={MEMORY}")).stderr(Stdio::null());
    command.args(["taskset", "-c", &core.to_string()]);
    command.args(program.command(&capture.path, scratch.path()));
    measure::run_silently(command.current_dir(scratch.path()), LIMIT)
}

fn print(
    capture: &Capture,
    programs: &[&Program],
    runs: &[Vec<Run>],
) -> Result<(), Box<dyn Error>> {
    let report = report(&capture.path)?;
    println!(
        "\n{}: {} packets, {} MB. synwatch read {} packets of {}, `sampling_ratio` {}, status {}.\n",
        capture.name,
        thousands(capture.packets.cast_signed()),
        thousands((capture.octets / 1_000_000).cast_signed()),
        thousands(report["capture"]["packets"].as_i64().unwrap_or_default()),
        thousands(capture.packets.cast_signed()),
        report["capture"]["sampling_ratio"],
        report["status"],
    );
    table::head(&[
        "program",
        "s",
        "from",
        "to",
        "CPU, s",
        "packets/s",
        "memory, MiB",
        "times synwatch",
        "times its CPU",
        "rounds",
    ]);
    let wall = |runs: &[Run]| median(runs.iter().map(|run| run.wall.as_secs_f64()));
    let cpu = |runs: &[Run]| median(runs.iter().map(|run| run.cpu.as_secs_f64()));
    for (program, of_program) in programs.iter().zip(runs) {
        let (low, high) = range(of_program.iter().map(|run| run.wall.as_secs_f64()));
        table::row(&[
            program.shown(of_program),
            figure(wall(of_program)),
            figure(low),
            figure(high),
            figure(cpu(of_program)),
            thousands((capture.packets as f64 / wall(of_program)) as i64),
            figure(median(of_program.iter().map(|run| mebibytes(run.memory)))),
            figure(wall(of_program) / wall(&runs[0])),
            figure(cpu(of_program) / cpu(&runs[0])),
            of_program.len().to_string(),
        ]);
    }
    Ok(())
}

/// What synwatch says of a file.
fn report(path: &Path) -> Result<Value, Box<dyn Error>> {
    let mut command = Command::new(SYNWATCH);
    let run = measure::run(command.args(["replay", "--format", "json"]).arg(path), LIMIT)?;
    Ok(serde_json::from_str(&run.output)?)
}
