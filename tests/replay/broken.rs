//! Broken input: a report or one line that names the cause, at once, never a panic.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::files::{
    DAY, ETHERNET, FLOOD, File, Folder, USER0, anonymous, block, gzip, packet_block, section, syn,
};
use crate::program::{Document, replay, replay_with};

/// The report on a file of this content.
fn report(content: impl AsRef<[u8]>) -> Document {
    replay(&[Folder::new().write(content)]).report()
}

/// Asserts that the file is refused with its name and with `cause`.
fn refused(path: &Path, cause: &str) {
    let answer = replay(&[path]);
    let line = answer.refusal();
    assert!(line.contains(&*path.to_string_lossy()) && line.contains(cause), "{line}");
}

#[test]
fn what_is_no_capture_file_is_refused_by_name() {
    let folder = Folder::new();
    refused(&folder.write([]), "empty");
    for garbage in [&b"garbage"[..], &[0; 4096], &[0xff; 4096], b"\n\r\r\n", &[0x1f, 0x8b]] {
        refused(&folder.write(garbage), "not a pcap or pcapng file");
    }
    refused(&folder.write(gzip(b"garbage, compressed")), "not a pcap or pcapng file");
    refused(&folder.write(&File::new(ETHERNET).0[..23]), "not a pcap or pcapng file");
    refused(folder.0.path(), "directory");
    refused(&folder.0.path().join("missing"), "No such file");
    refused(Path::new("/dev/zero"), "not a pcap or pcapng file");
}

#[test]
fn what_may_not_or_cannot_be_read_is_refused_by_name() {
    // Nothing is mapped at the address 0 of a process: the read fails, not the opening.
    refused(Path::new("/proc/self/mem"), "error");
    let folder = Folder::new();
    let path = folder.write(File::flood(0..1).0);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    if fs::File::open(&path).is_ok() {
        eprintln!("skipped: a file without permissions, which this user may read all the same");
        return;
    }
    refused(&path, "ermission denied");
}

#[test]
fn a_name_that_is_no_utf8_is_a_name() {
    let folder = Folder::new();
    let path = folder.0.path().join(OsStr::from_bytes(b"\xff"));
    fs::copy(folder.write(File::flood(0..1).0), &path).unwrap();
    assert_eq!(replay(&[path]).report().totals.syn, 1);
}

#[test]
fn one_bad_file_among_good_ones_is_named() {
    let folder = Folder::new();
    let missing = folder.0.path().join("missing");
    let answer = replay(&[folder.write(File::flood(0..1).0), missing]);
    assert!(answer.refusal().contains("missing"));
}

#[test]
fn a_cut_file_is_reported_as_far_as_it_goes() {
    let whole = File::flood(0..FLOOD).0;
    let record = 16 + syn(0).len();
    assert_eq!(report(&whole).status, "critical");
    for (cut, records) in [(1, FLOOD - 1), (record - 16, FLOOD - 1), (record - 1, FLOOD - 1)] {
        let report = report(&whole[..whole.len() - cut]);
        assert_eq!((&*report.status, report.totals.syn), ("critical", u64::from(records)));
        assert_eq!(report.skipped("bad_capture_record"), 1);
    }
    // Cut between two records it is a whole file.
    assert_eq!(report(&whole[..whole.len() - record]).skipped("bad_capture_record"), 0);
}

#[test]
fn compressed_files_are_read_and_cut_ones_as_far_as_they_go() {
    let whole = File::flood(0..FLOOD).0;
    let zipped = gzip(&whole);
    let report_zipped = report(&zipped);
    assert_eq!((&*report_zipped.status, report_zipped.totals.syn), ("critical", FLOOD.into()));
    assert_eq!(report_zipped.skipped("bad_capture_record"), 0);
    for cut in [1, 7, zipped.len() / 2] {
        let report = report(&zipped[..zipped.len() - cut]);
        assert_eq!(report.skipped("bad_capture_record"), 1, "{cut} octets cut off");
        assert!(report.totals.syn > 0, "{cut} octets cut off");
    }
    let mut damaged = zipped;
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0);
    // What is decompressed may be damaged before that is noticed.
    assert!(report(&damaged).skipped("bad_capture_record") >= 1);
}

#[test]
fn unknown_link_types_are_counted() {
    let report = report(File::new(USER0).record(DAY, 0, &syn(0)).record(DAY, 1, &syn(1)).0);
    assert_eq!((report.capture.packets, report.skipped("unknown_link_type")), (2, 2));
    assert_eq!((report.capture.tcp_segments, &*report.status), (0, "unknown"));
    // One known packet is enough for a verdict, which says what it leaves out.
    let folder = Folder::new();
    let path =
        folder.write([File::flood(0..1).0, File::new(USER0).record(DAY, 0, &syn(0)).0].concat());
    let text = text(&path);
    assert!(text.starts_with("SYNWATCH OK"), "{text}");
    assert!(text.contains("link type 147 is not known"), "{text}");
    assert!(text.contains("Not seen: 1 packet whose link type is not known"), "{text}");
}

/// The report as people read it.
fn text(path: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_synwatch"));
    let output = command.args(["--config", "/dev/null", "replay"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_says_nothing_is_unknown() {
    let cut = (0..50).fold(File::new(ETHERNET), |mut file, number| {
        let frame = syn(number);
        for word in [DAY, number, 20, 54] {
            file.0.extend(word.to_le_bytes());
        }
        file.0.extend(&frame[..20]);
        file
    });
    for (content, why) in [
        (File::new(ETHERNET).0, "there is no packet in the capture"),
        (cut.0, "no packet of the capture could be decoded"),
        (File::new(USER0).record(DAY, 0, &syn(0)).0, "no packet of the capture could be decoded"),
    ] {
        assert_eq!(report(&content).status, "unknown");
        let text = text(&Folder::new().write(content));
        assert!(text.starts_with(&format!("SYNWATCH UNKNOWN: {why}")), "{text}");
    }
    // What was understood and is no TCP is no reason.
    let mut arp = syn(0);
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(report(File::new(ETHERNET).record(DAY, 0, &arp).0).status, "ok");
}

#[test]
fn files_in_one_are_read_one_after_another() {
    let few = File::flood(0..3).0;
    let flood = File::flood(3..FLOOD).0;
    let mut section = section(6, u64::from(DAY) * 1_000_000);
    for number in 0..FLOOD {
        section.extend(packet_block(
            u64::from(DAY) * 1_000_000 + u64::from(number) * 300,
            &syn(number),
        ));
    }
    for (content, syns) in [
        ([&few[..], &flood].concat(), FLOOD),
        ([gzip(&few), gzip(&flood)].concat(), FLOOD),
        ([&few[..], &section].concat(), FLOOD + 4),
        ([&section[..], &flood].concat(), 2 * FLOOD - 2),
    ] {
        let report = report(content);
        assert_eq!((&*report.status, report.totals.syn), ("critical", syns.into()));
        assert_eq!(report.skipped("bad_capture_record"), 0);
    }
}

#[test]
fn behind_a_damaged_record_reading_goes_on() {
    let record = 16 + syn(0).len();
    let whole = File::flood(0..FLOOD).0;
    for (at, damage) in [
        // Lengths, one of which is beyond all that there can be; the header; all of it; an end that
        // is missing.
        (8, &[0xff, 0xff, 0x00, 0x00][..]),
        (8, &[0xff, 0xff, 0xff, 0xff]),
        (0, &[0xff; 16]),
        (0, &[0; 70]),
        (0, &[]),
    ] {
        let mut content = whole.clone();
        let begin = 24 + 5 * record;
        if damage.is_empty() {
            content.drain(begin + 40..begin + record);
        }
        content[begin + at..begin + at + damage.len()].copy_from_slice(damage);
        let report = report(content);
        assert_eq!(&*report.status, "critical", "{damage:?}");
        assert!(
            (FLOOD - 3..FLOOD).contains(&u32::try_from(report.totals.syn).unwrap()),
            "{damage:?}"
        );
        assert_eq!(report.skipped("bad_capture_record"), 1, "{damage:?}");
    }
    let mut section = section(6, u64::from(DAY) * 1_000_000);
    let begin = section.len();
    for number in 0..FLOOD {
        section.extend(packet_block(
            u64::from(DAY) * 1_000_000 + u64::from(number) * 300,
            &syn(number),
        ));
    }
    for damage in [&[0xff; 4][..], &[6, 0, 0, 0, 3, 0, 0, 0], &[0x77, 0, 0, 0, 0, 0, 1, 0]] {
        let mut content = section.clone();
        content[begin..begin + damage.len()].copy_from_slice(damage);
        let report = report(content);
        assert_eq!(&*report.status, "critical", "{damage:?}");
    }
}

#[test]
fn where_reading_stops_nothing_is_known() {
    let folder = Folder::new();
    let content = [File::flood(0..3).0, vec![0xff; 300_000]].concat();
    assert_eq!(report(&content).status, "unknown");
    let text = text(&folder.write(content));
    assert!(text.starts_with("SYNWATCH UNKNOWN: not all of the capture could be read"), "{text}");
    assert!(text.contains("reading stopped at a damaged record"), "{text}");
}

#[test]
fn wrong_clocks_hide_no_flood() {
    let flood = |stamp: &dyn Fn(u32) -> u32| {
        (0..FLOOD).fold(File::new(ETHERNET), |file, number| {
            let micros = number * 2_000;
            file.record(stamp(number) + micros / 1_000_000, micros % 1_000_000, &syn(number))
        })
    };
    let right = report(flood(&|_| DAY).0);
    assert_eq!(&*right.status, "critical");
    assert!(!right.capture.limits.contains(&"clock".to_owned()));
    for (name, stamp) in [
        (
            "set back",
            &(|number: u32| if number < 500 { DAY } else { DAY - 3_600 }) as &dyn Fn(u32) -> u32,
        ),
        ("one ahead", &|number| if number == 100 { DAY + 7_200 } else { DAY }),
        ("the first ahead", &|number| if number == 0 { DAY + 7_200 } else { DAY }),
        ("one behind", &|number| if number == 100 { 0 } else { DAY }),
        ("every tenth of another clock", &|number| {
            if number % 10 == 0 { DAY + 5_000 } else { DAY }
        }),
        ("half of another clock", &|number| DAY + (number / 2 % 2) * 4_000),
    ] {
        let report = report(flood(stamp).0);
        assert_eq!((&*report.status, report.totals.syn), ("critical", FLOOD.into()), "{name}");
        assert!(report.capture.limits.contains(&"clock".to_owned()), "{name}");
    }
    // Hours of silence are hours.
    let silence = report(flood(&|number| if number < 500 { DAY } else { DAY + 7_200 }).0);
    assert_eq!(&*silence.status, "critical");
    assert!(!silence.capture.limits.contains(&"clock".to_owned()));
}

#[test]
fn the_shortest_and_the_longest_frame_are_counted() {
    let mut long = syn(0);
    long.resize(65_535, 0);
    let file =
        File::new(ETHERNET).record(DAY, 0, &[]).record(DAY, 1, &long).record(DAY, 2, &syn(1));
    let report = report(file.0);
    assert_eq!((report.capture.packets, report.capture.tcp_segments, report.totals.syn), (3, 2, 2));
    assert_eq!(report.skipped("truncated") + report.skipped("not_ip"), 1);
}

#[test]
fn a_record_that_claims_too_much_ends_the_file() {
    for claim in [u32::MAX, 1 << 31, (1 << 20) + 1] {
        let mut file = File::flood(0..2);
        let second = 24 + 16 + syn(0).len();
        file.0[second + 8..second + 12].copy_from_slice(&claim.to_le_bytes());
        let report = report(file.0);
        assert_eq!((report.totals.syn, report.skipped("bad_capture_record")), (1, 1), "{claim}");
    }
}

#[test]
fn nonsense_block_lengths_end_a_pcapng_file() {
    let good = section(6, u64::from(DAY) * 1_000_000);
    assert_eq!(report(&good).totals.syn, 1);
    for kind in [1, 2, 3, 5, 6, 0x0a0d_0d0a, 0x7777] {
        for length in [0, 4, 8, 11, 12, 13, 16, 0x7fff_fffc, u32::MAX - 3, u32::MAX] {
            let file = [&good[..], &block(kind, length, &[0xff; 64]), &good].concat();
            let report = report(&file);
            let name = format!("block type {kind:#x} of length {length}");
            assert!(report.totals.syn >= 1, "{name}");
            // A block of an unknown type may be long and hold anything.
            let sound = matches!((kind, length), (5 | 0x7777, 12 | 16));
            assert!(sound || report.skipped("bad_capture_record") > 0, "{name}");
        }
    }
    // Lengths of a packet inside a block that is sound by itself.
    for claim in [u32::MAX, 1 << 20, 61] {
        let mut file = good.clone();
        let captured = 28 + 32 + 20;
        file[captured..captured + 4].copy_from_slice(&claim.to_le_bytes());
        let report = report(&file);
        assert_eq!((report.totals.syn, report.skipped("bad_capture_record")), (0, 1), "{claim}");
    }
    // The very first block.
    let folder = Folder::new();
    for length in [0_u32, 12, 27, u32::MAX] {
        let mut file = good.clone();
        file[4..8].copy_from_slice(&length.to_le_bytes());
        let answer = replay(&[folder.write(&file)]);
        assert!(answer.report_or_refusal().is_none_or(|report| report.totals.syn == 0));
    }
}

#[test]
fn files_are_merged_by_time_whatever_their_order() {
    let [first, second, odd, even, whole] = std::array::from_fn(|_| Folder::new());
    let middle = FLOOD / 2;
    let first = first.write(File::flood(0..middle).0);
    let second = second.write(File::flood(middle..FLOOD).0);
    let even = even.write(File::flood((0..FLOOD).step_by(2)).0);
    let odd = odd.write(File::flood((1..FLOOD).step_by(2)).0);
    let whole = anonymous(&[whole.write(File::flood(0..FLOOD).0)], Stdio::null());
    assert_eq!(whole["totals"]["syn"], FLOOD);
    for files in [[&first, &second], [&second, &first], [&even, &odd], [&odd, &even]] {
        assert_eq!(anonymous(&files, Stdio::null()), whole, "{files:?}");
    }
}

#[test]
fn standard_input_is_a_file() {
    let folder = Folder::new();
    let content = File::flood(0..FLOOD).0;
    let path = folder.write(&content);
    let whole = anonymous(&[&path], Stdio::null());
    assert_eq!(anonymous(&["-"], fs::File::open(&path).unwrap().into()), whole);
    for content in [content.clone(), gzip(&content)] {
        let (reader, mut writer) = io::pipe().unwrap();
        let feeder = thread::spawn(move || {
            // In pieces that end within records.
            content.chunks(1_000).for_each(|piece| writer.write_all(piece).unwrap());
        });
        assert_eq!(anonymous(&["-"], reader.into()), whole);
        feeder.join().unwrap();
    }
    let answer = replay(&["-"]);
    assert!(answer.refusal().contains("standard input"), "{}", answer.stderr);
}

#[test]
fn an_output_that_is_closed_is_one_line() {
    let folder = Folder::new();
    let path = folder.write(File::flood(0..FLOOD).0);
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let answer = replay_with(&[&path], Stdio::null(), Some(writer.into()));
    assert!(answer.refusal().contains("cannot write the report"), "{}", answer.stderr);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let answer = replay_with(&[&path], Stdio::null(), Some(full.into()));
    assert!(answer.refusal().contains("No space left"), "{}", answer.stderr);
}

#[test]
fn extreme_times_are_times() {
    let times = [0, 1, DAY, u32::MAX];
    let fractions = [0, 999_999, 1_000_000, u32::MAX];
    let every = || times.into_iter().flat_map(|s| fractions.map(|fraction| (s, fraction)));
    // Alone, forwards, backwards, and to and fro.
    for (seconds, fraction) in every() {
        let report = report(File::new(ETHERNET).record(seconds, fraction, &syn(0)).0);
        assert_eq!(report.totals.syn, 1, "{seconds} s {fraction}");
    }
    let mut orders: Vec<Vec<(u32, u32)>> = vec![every().collect(), every().collect()];
    orders[1].reverse();
    orders.push([(DAY, 0), (0, 0)].repeat(500));
    orders.push([(u32::MAX, u32::MAX), (0, 0)].repeat(500));
    for order in orders {
        let file = order.iter().zip(0..).fold(File::new(ETHERNET), |file, (time, number)| {
            file.record(time.0, time.1, &syn(number))
        });
        assert_eq!(report(file.0).totals.syn, order.len() as u64);
    }
    // pcapng: 64 bits of seconds, of microseconds, of nanoseconds, of 2^-127 s.
    for unit in [0, 6, 9, 0xff] {
        for time in [0, 1, u64::from(DAY), u64::MAX / 2, u64::MAX] {
            let file = [section(unit, time), packet_block(u64::MAX - time, &syn(0))].concat();
            assert_eq!(report(&file).totals.syn, 2, "{time} of unit {unit}");
        }
    }
}
