//! However many threads replay a capture, the report is the same.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use etherparse::PacketBuilder;
use serde_json::Value;

use crate::files::{DAY, ETHERNET, File, Folder, anonymous, gzip, packet_block, section};
use crate::labels::captures;
use crate::program::replay;

/// One more than one, and a number that is no power of two.
const THREADS: [&str; 2] = ["2", "3"];

/// A frame and its time in microseconds.
pub type Timed = (u64, Vec<u8>);

/// A segment from one end to the other.
#[derive(Clone, Copy)]
pub struct Tcp {
    pub from: (Ipv4Addr, u16),
    pub to: (Ipv4Addr, u16),
    pub seq: u32,
    pub ack: u32,
}

impl Tcp {
    pub fn frame(self, flags: &str, payload: &[u8]) -> Vec<u8> {
        let ip = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = ip.ipv4(self.from.0.octets(), self.to.0.octets(), 64);
        let mut tcp = ip.tcp(self.from.1, self.to.1, self.seq, 512);
        if flags.contains('A') {
            tcp = tcp.ack(self.ack);
        }
        if flags.contains('S') {
            tcp = tcp.syn();
        }
        if flags.contains('F') {
            tcp = tcp.fin();
        }
        let mut frame = Vec::new();
        tcp.write(&mut frame, payload).unwrap();
        frame
    }

    /// The other end, which has taken in all that this one has sent, and sent `sent` octets itself.
    pub const fn answer(self, octets: u32, sent: u32) -> Self {
        let Self { from, to, seq, ack } = self;
        Self { from: to, to: from, seq: ack.wrapping_add(sent), ack: seq.wrapping_add(octets) }
    }
}

/// Evenly spread.
pub const fn mixed(number: u32) -> u32 {
    (number ^ number >> 15).wrapping_mul(0x9e37_79b1)
}

/// Whole connections, 500 a second for 4 s, with four services of two hosts.
fn clients() -> Vec<Timed> {
    let mut frames = Vec::new();
    for number in 0..2_000_u32 {
        let host = Ipv4Addr::new(192, 0, 2, 10 + (number / 2 % 2) as u8);
        let client = Tcp {
            from: (Ipv4Addr::from(0xc633_6400 + number % 200), 20_000 + (number / 200) as u16),
            to: (host, [80, 443][number as usize % 2]),
            seq: mixed(number),
            ack: mixed(number + 1_000_000),
        };
        let server = client.answer(1, 0);
        let acked = server.answer(1, 0);
        let served = acked.answer(100, 0);
        let done = served.answer(600, 0);
        let begin = u64::from(number) * 2_000;
        let steps = [
            (0, client.frame("S", &[])),
            (103, server.frame("SA", &[])),
            (20_103, acked.frame("A", &[])),
            (20_205, acked.frame("A", &[b'?'; 100])),
            (20_307, served.frame("A", &[b'!'; 600])),
            (40_309, done.frame("FA", &[])),
            (40_411, done.answer(1, 600).frame("FA", &[])),
        ];
        frames.extend(steps.map(|(after, frame)| (begin + after, frame)));
    }
    frames
}

/// After 2 s a flood of 20,000 SYNs a second for 1.2 s, each answered twice: 10,000 and more
/// segments a step.
fn flood() -> Vec<Timed> {
    let mut frames = Vec::new();
    for number in 0..24_000_u32 {
        let client = Tcp {
            from: (Ipv4Addr::from(mixed(number) | 0x0100_0000), number as u16),
            to: (Ipv4Addr::new(192, 0, 2, 10), 443),
            seq: mixed(number + 2_000_000),
            ack: mixed(number + 3_000_000),
        };
        let at = 2_000_001 + u64::from(number) * 50;
        let answer = client.answer(1, 0).frame("SA", &[]);
        frames.push((at, client.frame("S", &[])));
        frames.push((at + 29, answer.clone()));
        frames.push((at + 1_000_037, answer));
    }
    frames
}

/// What is no TCP, 1,000 times a second, before the first segment and after the last.
fn others() -> Vec<Timed> {
    let mut udp = Vec::new();
    let ip = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 1], [192, 0, 2, 10], 64);
    ip.udp(53, 53).write(&mut udp, &[0; 30]).unwrap();
    let arp = [&[2; 6][..], &[4; 6], &[8, 6], &[0; 28]].concat();
    let frame = |number: u64| if number.is_multiple_of(3) { arp.clone() } else { udp.clone() };
    (0..4_600).map(|number| (number * 1_000 + 13, frame(number))).collect()
}

pub fn in_order(parts: &[Vec<Timed>]) -> Vec<Timed> {
    let mut all = parts.concat();
    all.sort_by_key(|(at, _)| *at);
    all
}

pub fn pcap(frames: &[Timed]) -> Vec<u8> {
    let file = frames.iter().fold(File::new(ETHERNET), |file, (at, frame)| {
        let (seconds, micros) = (at / 1_000_000 + 1, at % 1_000_000);
        file.record(DAY + u32::try_from(seconds).unwrap(), u32::try_from(micros).unwrap(), frame)
    });
    file.0
}

fn pcapng(frames: &[Timed]) -> Vec<u8> {
    let begin = u64::from(DAY) * 1_000_000;
    let mut file = section(6, begin);
    for (at, frame) in frames {
        file.extend(packet_block(begin + 1_000_000 + at, frame));
    }
    file
}

/// The report of so many threads, without what names the files.
fn report(threads: &str, files: &[&OsStr], stdin: Stdio) -> Value {
    let options = ["--threads", threads].map(OsStr::new);
    anonymous(&[&options, files].concat(), stdin)
}

/// Takes out of a report what of several shards only approximates a whole, and gives the most
/// half-open connections at once.
fn approximations(report: &mut Value) -> u64 {
    for detection in report["detections"].as_array_mut().unwrap() {
        if detection["variant"] == "single_source" && detection["target"]["port"].is_null() {
            detection["evidence"]["top_prefixes"].take();
        }
    }
    report["totals"]["half_open_peak"].take().as_u64().unwrap()
}

/// Asserts that the report does not depend on the threads, and gives it.
fn same(name: &str, replay: impl Fn(&str) -> Value) -> Value {
    let mut one = replay("1");
    let peak = approximations(&mut one);
    for threads in THREADS {
        let mut many = replay(threads);
        let bound = approximations(&mut many);
        assert!((peak..=peak + peak / 10 + 3).contains(&bound), "{name}: {bound}, not {peak}");
        let mut differences = Vec::new();
        compare("", &one, &many, &mut differences);
        assert!(differences.is_empty(), "{name} with {threads} threads: {differences:#?}");
    }
    one
}

/// Where two documents differ.
fn compare(path: &str, one: &Value, other: &Value, differences: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(fields), Value::Object(others)) if fields.keys().eq(others.keys()) => {
            for (name, value) in fields {
                compare(&format!("{path}/{name}"), value, &others[name], differences);
            }
        }
        (Value::Array(list), Value::Array(others)) if list.len() == others.len() => {
            for (index, (value, other)) in list.iter().zip(others).enumerate() {
                compare(&format!("{path}/{index}"), value, other, differences);
            }
        }
        _ if one != other => differences.push(format!("{path}: {one}, {other}")),
        _ => {}
    }
}

/// The report on a file, which does not depend on the threads.
pub fn of_file(name: &str, content: &[u8]) -> Value {
    let folder = Folder::new();
    let path = folder.write(content);
    same(name, |threads| report(threads, &[path.as_os_str()], Stdio::null()))
}

/// Asserts that a report tells of a flood beside honest clients.
fn assert_flood(report: &Value) {
    let totals = &report["totals"];
    assert_eq!(totals["syn"], 26_000, "{totals:#}");
    assert_eq!(totals["syn_ack"], 50_000, "{totals:#}");
    assert_eq!(totals["handshakes_completed"], 2_000, "{totals:#}");
    assert_eq!(report["services"].as_array().unwrap().len(), 4);
    let detections = report["detections"].as_array().unwrap();
    assert_eq!(detections.len(), 1, "{detections:#?}");
    let flood = &detections[0];
    assert_eq!(
        (&flood["class"], &flood["variant"]),
        (&"syn_flood".into(), &"spoofed_random".into())
    );
    assert_eq!((&flood["severity"], &flood["target"]["port"]), (&"critical".into(), &443.into()));
}

#[test]
fn flood_beside_clients() {
    let frames = in_order(&[clients(), flood()]);
    assert_flood(&of_file("pcap", &pcap(&frames)));
    assert_flood(&of_file("gzip", &gzip(&pcap(&frames))));
}

#[test]
fn what_is_no_segment_moves_time_the_same() {
    let frames = in_order(&[clients(), flood(), others()]);
    let report = of_file("skips", &pcap(&frames));
    assert_flood(&report);
    assert_eq!(report["capture"]["packets"], frames.len());
    let begin = |end: usize| of_file("a part", &pcap(&frames[..end]));
    // It ends with either.
    let last = |tcp: bool| frames[..60_000].iter().rposition(|(_, frame)| (frame[23] == 6) == tcp);
    begin(last(true).unwrap() + 1);
    begin(last(false).unwrap() + 1);
    assert_eq!(of_file("others alone", &pcap(&others()))["totals"]["syn"], 0);
}

#[test]
fn pcapng_and_standard_input() {
    let frames = in_order(&[clients(), flood()]);
    let of_ng = of_file("pcapng", &pcapng(&frames));
    assert_eq!(of_ng["totals"]["syn"], 26_001);
    let content = pcap(&frames);
    let piped = same("standard input", |threads| {
        let (reader, mut writer) = io::pipe().unwrap();
        let content = &content;
        thread::scope(|scope| {
            scope.spawn(move || writer.write_all(content).unwrap());
            report(threads, &[OsStr::new("-")], reader.into())
        })
    });
    assert_flood(&piped);
}

#[test]
fn several_files_at_once() {
    let folders = [clients(), flood(), others()].map(|mut frames| {
        frames.sort_by_key(|(at, _)| *at);
        let folder = Folder::new();
        (folder.write(pcap(&frames)), folder)
    });
    let files = folders.each_ref().map(|(path, _)| path.as_os_str());
    let merged = same("several files", |threads| report(threads, &files, Stdio::null()));
    assert_flood(&merged);
    let whole = in_order(&[clients(), flood(), others()]);
    let mut whole = of_file("one file", &pcap(&whole));
    whole["totals"]["half_open_peak"].take();
    let mut differences = Vec::new();
    compare("", &whole, &merged, &mut differences);
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn frames_out_of_order() {
    let mut frames = in_order(&[clients(), flood()]);
    for (number, (at, _)) in (0..).zip(&mut frames) {
        // As several queues of a network card leave them.
        *at += u64::from(mixed(number) >> 16) % 3_000;
    }
    of_file("out of order", &pcap(&frames));
}

#[test]
fn times_that_leap() {
    let mut frames = in_order(&[clients(), flood()]);
    let count = frames.len();
    for (at, _) in &mut frames[count / 2..] {
        *at += 7_200_000_000;
    }
    for (at, _) in &mut frames[count * 3 / 4..] {
        *at -= 3_600_000_000;
    }
    of_file("leaps", &pcap(&frames));
}

#[test]
fn a_file_that_breaks_off() {
    let whole = pcap(&in_order(&[clients(), flood()]));
    of_file("broken off", &whole[..whole.len() / 2 + 7]);
    let folder = Folder::new();
    let path = folder.write(&whole);
    let none = folder.0.path().join("none");
    for threads in ["1", "2", "3"] {
        let files =
            [OsStr::new("--threads"), OsStr::new(threads), path.as_os_str(), none.as_os_str()];
        assert!(replay(&files).refusal().contains("none"));
    }
}

/// Who has a place when there are more services than places is left to chance: captures whose
/// report has no room for all of them are left out.
#[test]
fn captures_of_the_collection() {
    const SHOWN: usize = 64;
    for capture in captures() {
        if capture.report().is_some() {
            let path: &Path = &capture.path;
            let name = path.display().to_string();
            let one = report("1", &[path.as_os_str()], Stdio::null());
            if one["services"].as_array().is_some_and(|services| services.len() >= SHOWN) {
                println!("skipped: {name} has too many services");
                continue;
            }
            same(&name, |threads| report(threads, &[path.as_os_str()], Stdio::null()));
        }
    }
}
