//! The ways into the program: a file that is mapped, the same through a pipe and compressed, in
//! whole pages, and while it grows.

use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::process::Stdio;
use std::thread;

use serde_json::Value;

use crate::files::{DAY, ETHERNET, File, Folder, anonymous, gzip, packet_block, section, syn};
use crate::program::replay;

/// A page, and what is mapped at once.
const SIZES: [usize; 2] = [4 << 10, 4 << 20];

/// Where the source address lies in an Ethernet frame.
const SOURCE: Range<usize> = 26..30;

/// The report on standard input.
fn piped(content: &[u8]) -> Value {
    let (reader, mut writer) = io::pipe().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(content).unwrap());
        anonymous(&["-"], reader.into())
    })
}

/// Asserts that a file is the same whichever way it comes, and gives the report on it.
fn every_way(content: &[u8]) -> Value {
    let [plain, zipped] = [Folder::new(), Folder::new()];
    let mapped = anonymous(&[plain.write(content)], Stdio::null());
    assert_eq!(anonymous(&[zipped.write(gzip(content))], Stdio::null()), mapped, "compressed");
    assert_eq!(piped(content), mapped, "through a pipe");
    mapped
}

/// SYNs until the file would be longer than `size`.
fn flood_of(size: usize) -> Vec<u8> {
    let mut frame = syn(0);
    let records = u32::try_from((size - 24) / (16 + frame.len())).unwrap();
    let flood = (0..records).fold(File::new(ETHERNET), |file, number| {
        frame[SOURCE].copy_from_slice(&number.to_be_bytes());
        file.record(DAY, number, &frame)
    });
    flood.0
}

#[test]
fn every_way_gives_the_same_report() {
    // Records lie across the ends of the parts that are mapped, and in each part there are some.
    let classic = flood_of(2 * SIZES[1] + 1000);
    let report = every_way(&classic);
    assert_eq!(report["totals"]["syn"], (classic.len() - 24) / (16 + syn(0).len()));

    let micros = u64::from(DAY) * 1_000_000;
    let mut ng = section(6, micros);
    let packet = packet_block(micros, &syn(0));
    while ng.len() < 2 * SIZES[1] {
        ng.extend(&packet);
    }
    let report = every_way(&ng);
    assert_eq!(report["capture"]["packets"], (ng.len() - 60) / packet.len());
}

#[test]
fn a_file_of_whole_pages_has_no_end_of_its_own() {
    for size in SIZES {
        let mut file = File(flood_of(size - 200));
        let packets = (file.0.len() - 24) / (16 + syn(0).len());
        let room = size - file.0.len() - 16;
        let mut last = syn(u32::MAX);
        last.resize(room, 0);
        file = file.record(DAY + 1, 0, &last);
        assert_eq!(file.0.len(), size);
        let report = every_way(&file.0);
        assert_eq!(report["totals"]["syn"], packets + 1);
        // One octet less, and one more, are a record that is cut.
        every_way(&file.0[..size - 1]);
        file.0.push(0);
        assert_eq!(every_way(&file.0)["capture"]["skipped"]["bad_capture_record"], 1);
    }
}

#[test]
fn a_file_that_grows_is_a_file() {
    let folder = Folder::new();
    let whole = flood_of(3 * SIZES[1]);
    let record = 16 + syn(0).len();
    let begun = SIZES[1] + 10;
    let path = folder.write(&whole[..begun]);
    let mut file = fs::File::options().append(true).open(&path).unwrap();
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            for piece in whole[begun..].chunks(1_000) {
                file.write_all(piece).unwrap();
            }
        });
        replay(&[&path]).report()
    });
    let at_least = (begun - 24) / record;
    let all = (whole.len() - 24) / record;
    assert!((at_least..=all).contains(&(report.totals.syn as usize)), "{}", report.totals.syn);
    // The last record may have been there in part.
    assert!(report.skipped("bad_capture_record") <= 1);
    assert_eq!(replay(&[&path]).report().totals.syn, all as u64);
}

#[test]
fn a_file_with_nothing_but_its_header_is_no_traffic() {
    assert_eq!(every_way(&File::new(ETHERNET).0)["totals"]["syn"], 0);
}
