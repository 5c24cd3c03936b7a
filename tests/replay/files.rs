//! Capture files as the tests make them.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::program::replay_with;

/// LINKTYPE_ETHERNET.
pub const ETHERNET: u32 = 1;
/// LINKTYPE_USER0: no decoder can know what it is.
pub const USER0: u32 = 147;
/// 2023-11-14.
pub const DAY: u32 = 1_700_000_000;
/// Attempts of the flood that the tests break.
pub const FLOOD: u32 = 3_000;

/// A classic pcap file.
pub struct File(pub Vec<u8>);

impl File {
    pub fn new(link: u32) -> Self {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
        for word in [0, 0, 262_144, link] {
            file.extend(word.to_le_bytes());
        }
        Self(file)
    }

    pub fn record(mut self, seconds: u32, micros: u32, frame: &[u8]) -> Self {
        let length = u32::try_from(frame.len()).unwrap();
        for word in [seconds, micros, length, length] {
            self.0.extend(word.to_le_bytes());
        }
        self.0.extend(frame);
        self
    }

    /// 3,000 SYNs within a second, none of them answered; those with the numbers `attempts`.
    pub fn flood(attempts: impl IntoIterator<Item = u32>) -> Self {
        attempts
            .into_iter()
            .fold(Self::new(ETHERNET), |file, number| file.record(DAY, number * 300, &syn(number)))
    }
}

/// An Ethernet frame with a SYN to 192.0.2.10:443 of a source that `number` tells from others.
pub fn syn(number: u32) -> Vec<u8> {
    let source = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
    let mut frame = Vec::new();
    let tcp = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(source, [192, 0, 2, 10], 64)
        .tcp(40_000, 443, number, 512);
    tcp.syn().write(&mut frame, &[]).unwrap();
    frame
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut zipped = GzEncoder::new(Vec::new(), Compression::default());
    zipped.write_all(content).unwrap();
    zipped.finish().unwrap()
}

/// A folder for one test's files.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn write(&self, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join("input");
        fs::write(&path, content).unwrap();
        path
    }
}

/// A pcapng block that claims to be `length` octets long.
pub fn block(kind: u32, length: u32, body: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), &length.to_le_bytes(), body, &length.to_le_bytes()].concat()
}

/// A section with an Ethernet interface, its time in `unit`s, and one SYN at `time`.
pub fn section(unit: u8, time: u64) -> Vec<u8> {
    let mut file = block(
        0x0a0d_0d0a,
        28,
        &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    );
    // LINKTYPE_ETHERNET, no limit, option 9 (if_tsresol), end of options.
    let interface = [1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, unit, 0, 0, 0, 0, 0, 0, 0];
    file.extend(block(1, 32, &interface));
    file.extend(packet_block(time, &syn(0)));
    file
}

pub fn packet_block(time: u64, frame: &[u8]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).unwrap();
    let (high, low) = ((time >> 32).to_le_bytes(), time.to_le_bytes());
    let lengths = [length.to_le_bytes(), length.to_le_bytes()].concat();
    let padding = vec![0; frame.len().next_multiple_of(4) - frame.len()];
    let body = [&[0; 4], &high[..4], &low[..4], &lengths, frame, &padding].concat();
    block(6, 12 + u32::try_from(body.len()).unwrap(), &body)
}

/// A report without what names the files.
pub fn anonymous(files: &[impl AsRef<OsStr>], stdin: Stdio) -> Value {
    let answer = replay_with(files, stdin, None);
    answer.report();
    let mut report: Value = serde_json::from_str(&answer.stdout).unwrap();
    report["capture"]["interfaces"].take();
    report
}
