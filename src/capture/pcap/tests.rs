use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::ng::{
    BLOCK_FRAME, ENHANCED_PACKET, INTERFACE_DESCRIPTION, PACKET, SECTION_HEADER, SIMPLE_PACKET,
};
use super::*;

/// What a file gives: time in nanoseconds, octets, original length; `None` for a record not read.
type Read = Vec<Option<(u64, Vec<u8>, u32)>>;

fn file(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

fn read_all(source: &mut Pcap) -> Read {
    let mut read = Read::new();
    loop {
        let batch = source
            .read_batch(Duration::ZERO, &mut |frame| {
                read.push(Some((frame.at.as_nanos(), frame.data.to_vec(), frame.original_len)));
            })
            .unwrap();
        match batch {
            Batch::Damaged => read.push(None),
            Batch::End => return read,
            Batch::Frames | Batch::Idle => {}
        }
    }
}

/// Reads a file, plain and decompressed.
fn read(content: &[u8]) -> Read {
    let plain = read_all(&mut Pcap::open(&[file(content).path()]).unwrap());
    let zipped = file(&gzip(content));
    assert_eq!(read_all(&mut Pcap::open(&[zipped.path()]).unwrap()), plain);
    plain
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    zipped.write_all(content).unwrap();
    zipped.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
}

fn lz4(content: &[u8]) -> Vec<u8> {
    let mut zipped = lz4_flex::frame::FrameEncoder::new(Vec::new());
    zipped.write_all(content).unwrap();
    zipped.finish().unwrap()
}

fn xz(content: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut zipped = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    zipped.write_all(content).unwrap();
    zipped.finish().unwrap()
}

#[test]
fn compressed_files_are_files() {
    let whole = large();
    let plain = read(&whole);
    let (first, second) = whole.split_at(5_000_500);
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&whole)].concat();
    for (name, content) in [
        ("zstd", zstd(&whole)),
        ("a frame to be skipped", skipped),
        ("lz4", lz4(&whole)),
        ("xz", xz(&whole)),
        ("two frames of zstd", [zstd(first), zstd(second)].concat()),
        ("two frames of lz4", [lz4(first), lz4(second)].concat()),
        ("two streams of xz", [xz(first), xz(second)].concat()),
        ("two members of gzip", [gzip(first), gzip(second)].concat()),
    ] {
        let mut source = Pcap::open(&[file(&content).path()]).unwrap();
        assert!(read_all(&mut source) == plain, "{name}");
        assert!(!source.has_gaps() && source.unread().is_empty(), "{name}");
        // Cut, or wrong in its middle.
        let mut wrong = content.clone();
        wrong[content.len() - 40..].fill(0xa5);
        for broken in [&content[..content.len() - 40], &wrong] {
            let file = file(broken);
            let Ok(mut source) = Pcap::open(&[file.path()]) else { continue };
            let read = read_all(&mut source);
            assert!(read.iter().any(Option::is_none), "{name}");
            assert!(source.has_gaps() || name.ends_with("gzip"), "{name}");
        }
    }
}

#[test]
fn other_compressions_are_named() {
    for (magic, name) in [
        (&b"BZh91AY&SY"[..], "bzip2"),
        (b"PK\x03\x04....", "zip"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
        (b"LZIP\x01\x0c", "lzip"),
        (b"\x1f\x9d\x90...", "compress"),
    ] {
        let message =
            format!("F: compressed with {name}, which is not supported: decompress it first");
        assert_eq!(refusal(magic), message);
    }
}

#[test]
fn before_2_3_the_lengths_are_the_other_way_around() {
    for (minor, first, second) in [(2, 64, 60), (3, 64, 60), (3, 60, 64), (4, 60, 64)] {
        let mut content = little(&[]);
        content[6] = minor;
        for second_record in 0..2 {
            for value in [second_record, 0, first, second] {
                content.extend(u32::to_le_bytes(value));
            }
            content.extend([7; 60]);
        }
        let expected: Read =
            (0..2).map(|time| Some((time * 1_000_000_000, vec![7; 60], 64))).collect();
        assert_eq!(read(&content), expected, "2.{minor}");
    }
}

#[test]
fn interfaces_are_told_apart() {
    let numbers = |content: &[u8]| {
        let mut source = Pcap::open(&[file(content).path()]).unwrap();
        let mut numbers = Vec::new();
        while source.read_batch(Duration::ZERO, &mut |frame| numbers.push(frame.interface)).unwrap()
            != Batch::End
        {}
        numbers
    };
    let mut blocks = Blocks::section(ByteOrder::Little);
    blocks.interface(0, None, None);
    blocks.interface(0, None, None);
    for interface in [0, 1, 0] {
        blocks.packet(interface, 5, b"abcd");
    }
    blocks.block(SIMPLE_PACKET, &[&blocks.word(4)[..], b"abcd"].concat());
    assert_eq!(numbers(&blocks.content), [1, 2, 1, 1]);
    let mut cooked = little(&[(1, 0, &[8, 0, 0, 0, 0, 0, 1, 3, 0]), (1, 0, &[8, 0, 0, 0, 0])]);
    assert_eq!(numbers(&cooked), [0, 0]);
    // LINKTYPE_LINUX_SLL2, whose third field is an interface's index.
    cooked[20..22].copy_from_slice(&276u16.to_le_bytes());
    assert_eq!(numbers(&cooked), [259, 0]);
}

fn refusal(content: &[u8]) -> String {
    let file = file(content);
    let error = Pcap::open(&[file.path()]).err().unwrap().to_string();
    error.replace(&file.path().display().to_string(), "F")
}

fn classic(magic: [u8; 4], word: fn(u32) -> [u8; 4], records: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut content = magic.to_vec();
    let half = |value: u32| {
        if word(1)[0] == 1 { word(value)[..2].to_vec() } else { word(value)[2..].to_vec() }
    };
    content.extend(half(2));
    content.extend(half(4));
    for value in [0, 0, 65535, 1] {
        content.extend(word(value));
    }
    for (seconds, fraction, data) in records {
        let length = u32::try_from(data.len()).unwrap();
        for value in [*seconds, *fraction, length, length + 4] {
            content.extend(word(value));
        }
        content.extend(*data);
    }
    content
}

fn little(records: &[(u32, u32, &[u8])]) -> Vec<u8> {
    classic(0xa1b2_c3d4u32.to_le_bytes(), u32::to_le_bytes, records)
}

#[test]
fn classic_in_all_byte_orders_and_resolutions() {
    let records = [(1, 2, &[7u8; 60][..]), (3, 4, &[])];
    let expected = |unit: u64| {
        vec![
            Some((1_000_000_000 + 2 * unit, vec![7; 60], 64)),
            Some((3_000_000_000 + 4 * unit, vec![], 4)),
        ]
    };
    for (magic, unit) in [(0xa1b2_c3d4u32, 1000), (0xa1b2_3c4d, 1)] {
        assert_eq!(read(&classic(magic.to_le_bytes(), u32::to_le_bytes, &records)), expected(unit));
        assert_eq!(read(&classic(magic.to_be_bytes(), u32::to_be_bytes, &records)), expected(unit));
    }
}

#[test]
fn a_header_without_records_is_a_file() {
    assert_eq!(read(&little(&[])), vec![]);
}

#[test]
fn a_cut_file_gives_what_comes_before_the_cut() {
    let whole = little(&[(1, 0, &[1; 60]), (2, 0, &[2; 60])]);
    let zipped = gzip(&whole);
    for length in 24..whole.len() {
        let read = read(&whole[..length]);
        let (records, rest) = ((length - 24) / 76, (length - 24) % 76);
        assert_eq!(read.iter().flatten().count(), records, "{length}");
        assert_eq!(read.len(), records + usize::from(rest != 0), "{length}");
    }
    let cut = read_all(&mut Pcap::open(&[file(&zipped[..zipped.len() - 4]).path()]).unwrap());
    assert_eq!(cut.last(), Some(&None));
    assert_eq!(cut.iter().filter(|record| record.is_none()).count(), 1);
}

#[test]
fn a_large_record_is_read_and_an_absurd_one_ends_the_file() {
    let large = vec![9; 262_144];
    let mut content = little(&[(1, 0, &large), (2, 0, &[1; 60])]);
    assert_eq!(
        read(&content).iter().flatten().map(|r| r.1.len()).collect::<Vec<_>>(),
        [262_144, 60]
    );
    content.extend([0xff; 16]);
    content.extend([0; 4096]);
    let read = read(&content);
    assert_eq!(read.len(), 3);
    assert_eq!(read[2], None);
}

#[test]
fn what_is_no_capture_is_refused_in_one_line() {
    assert_eq!(refusal(b""), "F: the file is empty");
    assert_eq!(refusal(b"\x1f\x8b"), "F: not a pcap or pcapng file");
    assert_eq!(refusal(b"#!/bin/sh\nexit 0\n# not a capture\n"), "F: not a pcap or pcapng file");
    assert_eq!(refusal(&little(&[])[..20]), "F: not a pcap or pcapng file");
    let mut version = little(&[]);
    version[4] = 9;
    assert_eq!(refusal(&version), "F: version 9.4 of the file format is not supported");
    let mut version = Blocks::section(ByteOrder::Little).content;
    version[12] = 7;
    assert_eq!(refusal(&version), "F: version 7.0 of the file format is not supported");
    let missing = Pcap::open(&["/no/such/file"]).err().unwrap().to_string();
    assert!(missing.starts_with("cannot open /no/such/file: No such file"), "{missing}");
    let directory = Pcap::open(&["/"]).err().unwrap().to_string();
    assert!(directory.starts_with("cannot read /: Is a directory"), "{directory}");
}

#[test]
fn of_several_files_the_oldest_packet_comes_first() {
    let first = file(&little(&[(1, 0, b"a"), (4, 0, b"d"), (9, 0, b"f")]));
    let second = file(&little(&[(2, 0, b"b"), (3, 0, b"c"), (8, 0, b"e")]));
    let empty = file(&little(&[]));
    let mut source = Pcap::open(&[second.path(), empty.path(), first.path()]).unwrap();
    let order: Vec<u8> = read_all(&mut source).into_iter().flatten().map(|r| r.1[0]).collect();
    assert_eq!(order, b"abcdef");
    assert_eq!(source.stats(), CaptureStats { received: 6, dropped: 0 });
}

/// A file larger than what is mapped at once, of records of 1,000 octets.
fn large() -> Vec<u8> {
    let records: Vec<(u32, u32, &[u8])> = (0..6_000).map(|n| (n, 0, &[7; 984][..])).collect();
    little(&records)
}

#[test]
fn a_file_that_grows_is_followed_to_its_end() {
    let whole = large();
    for begun in [24, 30, 1_024, 1_500, 4 << 20, 5_000_000] {
        let mut file = file(&whole[..begun]);
        let mut source = Pcap::open(&[file.path()]).unwrap();
        file.write_all(&whole[begun..]).unwrap();
        assert_eq!(read_all(&mut source), read(&whole), "{begun}");
        assert_eq!(source.position(), whole.len() as u64);
    }
}

#[test]
fn a_file_that_is_cut_while_it_is_read_ends_there() {
    let whole = large();
    // Behind what is mapped at the beginning, which ends within a record.
    for (length, cut) in [(5_000_024, false), (5_000_030, true), (4 << 20, true)] {
        let file = file(&whole);
        let mut source = Pcap::open(&[file.path()]).unwrap();
        file.as_file().set_len(length).unwrap();
        let read = read_all(&mut source);
        let records = usize::try_from(length - 24).unwrap() / 1_000;
        assert_eq!(read.iter().flatten().count(), records, "{length}");
        assert_eq!(read.len(), records + usize::from(cut), "{length}");
    }
}

#[test]
fn the_position_goes_from_the_beginning_to_the_length() {
    let whole = large();
    for content in [gzip(&whole), whole] {
        let file = file(&content);
        let mut source = Pcap::open(&[file.path(), file.path()]).unwrap();
        let length = 2 * content.len() as u64;
        assert_eq!(source.length(), Some(length));
        let mut last = 0;
        while source.read_batch(Duration::ZERO, &mut |_| {}).unwrap() != Batch::End {
            assert!((last..=length).contains(&source.position()));
            last = source.position();
        }
        assert_eq!(source.position(), length);
    }
    assert_eq!(
        Pcap::open(&["/dev/null"]).err().map(|error| error.to_string()).as_deref(),
        Some("/dev/null: the file is empty")
    );
}

/// A pcapng file in the making.
struct Blocks {
    order: ByteOrder,
    content: Vec<u8>,
}

impl Blocks {
    fn section(order: ByteOrder) -> Self {
        let mut blocks = Self { order, content: Vec::new() };
        blocks.begin_section(order);
        blocks
    }

    fn begin_section(&mut self, order: ByteOrder) {
        self.order = order;
        let body = [self.word(0x1a2b_3c4d), self.halves(1, 0), [0xff; 4], [0xff; 4]].concat();
        self.block(SECTION_HEADER, &body);
    }

    fn word(&self, value: u32) -> [u8; 4] {
        if self.order == ByteOrder::Big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    fn halves(&self, first: u16, second: u16) -> [u8; 4] {
        let (first, second) = (u32::from(first), u32::from(second));
        self.word(if self.order == ByteOrder::Big {
            first << 16 | second
        } else {
            second << 16 | first
        })
    }

    fn block(&mut self, kind: u32, body: &[u8]) {
        let padded = body.len().next_multiple_of(4);
        let length = self.word(u32::try_from(padded + BLOCK_FRAME).unwrap());
        self.content.extend(self.word(kind));
        self.content.extend(length);
        self.content.extend(body);
        self.content.resize(self.content.len() + padded - body.len(), 0);
        self.content.extend(length);
    }

    fn interface(&mut self, snap_length: u32, resolution: Option<u8>, offset: Option<i64>) {
        let mut body = [self.halves(1, 0), self.word(snap_length)].concat();
        if let Some(resolution) = resolution {
            body.extend(self.halves(9, 1));
            body.extend([resolution, 0, 0, 0]);
        }
        if let Some(offset) = offset {
            body.extend(self.halves(14, 8));
            let big = self.order == ByteOrder::Big;
            body.extend(if big { offset.to_be_bytes() } else { offset.to_le_bytes() });
        }
        self.block(INTERFACE_DESCRIPTION, &body);
    }

    fn packet(&mut self, interface: u32, time: u64, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        let (high, low) = (u32::try_from(time >> 32).unwrap(), time as u32);
        let fields = [interface, high, low, length, length].map(|field| self.word(field));
        self.block(ENHANCED_PACKET, &[fields.concat(), data.to_vec()].concat());
    }
}

#[test]
fn pcapng_times_follow_their_interface() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        for (interface, time, expected) in [
            (0, 1_500_000, 1_500_000_000),
            (1, 7, 100_000_000_007),
            (2, 1536, 1_500_000_000),
            (3, 2_500, 2),
            (4, 1, 0),
            // Later than any clock says.
            (5, u64::MAX, 0),
        ] {
            let mut blocks = Blocks::section(order);
            blocks.interface(0, None, None);
            blocks.interface(0, Some(9), Some(100));
            blocks.interface(0, Some(0x80 | 10), None);
            blocks.interface(0, Some(12), None);
            blocks.interface(0, None, Some(-1000));
            blocks.interface(0, Some(0), Some(i64::MAX));
            blocks.packet(interface, time, b"x");
            let times: Vec<u64> =
                read(&blocks.content).into_iter().flatten().map(|r| r.0).collect();
            assert_eq!(times, [expected], "{order:?} {interface}");
        }
    }
}

#[test]
fn pcapng_blocks_of_all_kinds() {
    let mut blocks = Blocks::section(ByteOrder::Little);
    blocks.interface(3, None, None);
    blocks.packet(0, 5, b"abc");
    blocks.block(0x0bad_cafe, &vec![0; 3 << 20]);
    blocks.block(SIMPLE_PACKET, &[blocks.word(9).to_vec(), b"defg".to_vec()].concat());
    blocks.packet(1, 6, b"of no interface");
    let (two, time) = (blocks.word(2), blocks.word(7));
    blocks.block(PACKET, &[[0; 4], [0; 4], time, two, two, *b"hi\0\0"].concat());
    blocks.begin_section(ByteOrder::Big);
    blocks.interface(0, None, None);
    blocks.packet(0, 8, b"jkl");
    assert_eq!(
        read(&blocks.content),
        vec![
            Some((5_000, b"abc".to_vec(), 3)),
            Some((5_000, b"def".to_vec(), 9)),
            None,
            Some((7_000, b"hi".to_vec(), 2)),
            Some((8_000, b"jkl".to_vec(), 3)),
        ]
    );
}

#[test]
fn pcapng_that_is_cut_or_wrong_ends_with_one_record_not_read() {
    let mut blocks = Blocks::section(ByteOrder::Little);
    blocks.interface(0, None, None);
    let start = blocks.content.len();
    blocks.packet(0, 5, b"abcd");
    for length in start + 1..blocks.content.len() {
        assert_eq!(read(&blocks.content[..length]), vec![None], "{length}");
    }
    for (at, value) in [(start + 4, 0xff), (start + 4, 0x29), (start + 7, 0xff), (start + 32, 1)] {
        let mut wrong = blocks.content.clone();
        wrong[at] = value;
        assert_eq!(read(&wrong), vec![None], "{at}");
    }
}

#[test]
fn no_input_makes_it_panic() {
    let mut blocks = Blocks::section(ByteOrder::Little);
    blocks.interface(0, Some(6), Some(3));
    blocks.packet(0, 5, b"abcd");
    blocks.block(SIMPLE_PACKET, &blocks.word(0));
    blocks.block(SIMPLE_PACKET, &[]);
    blocks.block(ENHANCED_PACKET, &[]);
    blocks.block(INTERFACE_DESCRIPTION, &[]);
    for content in [blocks.content, little(&[(1, 0, b"abc"), (2, 0, b"def")])] {
        for at in 0..content.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut wrong = content.clone();
                wrong[at] = value;
                if let Ok(mut source) = Pcap::open(&[file(&wrong).path()]) {
                    assert!(read_all(&mut source).len() <= 5);
                }
            }
        }
    }
}
