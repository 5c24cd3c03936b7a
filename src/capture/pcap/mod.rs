//! Capture files: pcap and pcapng, plain or compressed with gzip, zstd, xz or lz4, one or several
//! at once.
//!
//! A cut file gives all that comes before the cut, then one record that could not be read, then its
//! end. Behind a damaged record reading goes on where records or a file's header are found again;
//! what was left out is told. Memory is bounded by the largest record allowed, whatever a file
//! claims.

mod classic;
mod clock;
mod compression;
mod input;
mod ng;
mod order;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use classic::Classic;
use clock::Clock;
use input::Input;
use ng::{Block, Ng};
use order::ByteOrder;
use synwatch_core::observe::CaptureStats;
use synwatch_core::time::Timestamp;
use synwatch_core::wire::LinkType;

use crate::capture::{Batch, Direction, Error, Frame, Frames, Source};

/// Records visited in one batch: often enough for a prompt stop.
const BATCH: usize = 4096;

/// The largest record that is read, in octets: twice the largest that Linux makes (a BIG TCP packet
/// of 512 KiB). A length beyond it is damage.
const MAX_RECORD: usize = 1 << 20;

/// Octets of the window while the next record behind a damage is looked for, and how many at its
/// end are left for the next time, since what follows them tells.
const SEARCH: usize = 512 << 10;
const MARGIN: usize = 64 << 10;

/// Frames from capture files. Of several files always the one with the oldest next frame goes on;
/// within a file the order is the file's own.
pub struct Pcap {
    files: Vec<File>,
    /// The file whose turn it is; none where all have ended.
    current: Option<usize>,
    /// The others that have not ended, by the time of their next frame.
    waiting: BinaryHeap<Reverse<(Timestamp, usize)>>,
    received: u64,
}

impl Pcap {
    /// Opens all `paths`; `-` is standard input.
    ///
    /// # Errors
    /// A file that does not exist, may not be read, is empty, or is not a capture file.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Self, Error> {
        let files: Vec<File> =
            paths.iter().map(|path| File::open(path.as_ref())).collect::<Result<_, _>>()?;
        // The first read of a file finds the time of its first frame.
        let mut waiting: BinaryHeap<_> =
            (0..files.len()).map(|index| Reverse((Timestamp::EPOCH, index))).collect();
        let current = waiting.pop().map(|Reverse((_, index))| index);
        Ok(Self { files, current, waiting, received: 0 })
    }

    /// Octets of all files together as they lie on disk; none where one of them has no end that is
    /// known, as standard input and pipes.
    pub fn length(&self) -> Option<u64> {
        self.files.iter().map(|file| file.length).sum()
    }

    /// Whether the time stamps of a file stepped, so that its times are not all as stamped.
    pub fn has_stepped(&self) -> bool {
        self.files.iter().any(|file| file.clock.has_stepped())
    }

    /// What could not be read or decoded, and why, in one sentence for each.
    pub fn unread(&self) -> Vec<String> {
        self.files.iter().flat_map(File::unread).collect()
    }

    /// Whether so much was not read that nothing is known of what it was: all behind a damage, or a
    /// hundredth of a file. A last record that is cut is no such thing.
    pub fn has_gaps(&self) -> bool {
        self.files.iter().any(File::has_gaps)
    }

    /// How many of them have been read. Costs a system call for each file.
    pub fn position(&self) -> u64 {
        self.files.iter().map(|file| file.input.position()).sum()
    }
}

impl Source for Pcap {
    fn name(&self) -> &'static str {
        "pcap"
    }

    fn interfaces(&self) -> Vec<String> {
        self.files.iter().map(|file| file.path.display().to_string()).collect()
    }

    fn read_batch(
        &mut self,
        timeout: Duration,
        visit: &mut dyn FnMut(Frame<'_>),
    ) -> Result<Batch, Error> {
        self.visit(timeout, visit)
    }

    fn stats(&mut self) -> CaptureStats {
        CaptureStats { received: self.received, dropped: 0 }
    }
}

impl Frames for Pcap {
    /// Visits up to 4,096 records; standard input is waited for without a timeout.
    fn visit(
        &mut self,
        _timeout: Duration,
        mut visit: impl FnMut(Frame<'_>),
    ) -> Result<Batch, Error> {
        let mut visited = 0;
        while visited < BATCH {
            let Some(index) = self.current else {
                return Ok(if visited == 0 { Batch::End } else { Batch::Frames });
            };
            let file = &mut self.files[index];
            let Some(next) = &file.next else {
                match file.advance()? {
                    Step::Record => {}
                    Step::Bad => return Ok(Batch::Damaged),
                    Step::End => self.current = self.waiting.pop().map(|Reverse((_, index))| index),
                }
                continue;
            };
            let turn = (next.at, index);
            match self.waiting.peek_mut() {
                Some(mut other) if other.0 < turn => {
                    self.current = Some(other.0.1);
                    other.0 = turn;
                }
                other => {
                    let until = other.map(|other| other.0);
                    let run = file.run(
                        |at| until.is_none_or(|until| (at, index) < until),
                        BATCH - visited,
                        &mut visit,
                    );
                    visited += run;
                    self.received += run as u64;
                }
            }
        }
        Ok(Batch::Frames)
    }
}

/// What comes next in a file.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The file's next one.
    Record,
    /// A record that could not be read.
    Bad,
    End,
}

/// A frame whose octets lie in its file's window, until that moves on.
#[derive(Clone, Copy, Debug)]
struct Record {
    at: Timestamp,
    link: LinkType,
    /// Tells the interfaces of a file apart; 0 where it says nothing of them.
    interface: u32,
    /// Where its octets begin in the window.
    start: usize,
    captured_len: usize,
    original_len: u32,
    /// Where the next record begins in the window.
    end: usize,
}

impl Record {
    /// The frame with the octets `data`.
    fn frame<'a>(&self, data: &'a [u8]) -> Frame<'a> {
        let interface = match (self.link, data) {
            // A cooked header of version 2 says where the packet was seen, after protocol and
            // reserved octets.
            (LinkType::LinuxSll2, &[_, _, _, _, a, b, c, d, ..]) => {
                u32::from_be_bytes([a, b, c, d])
            }
            _ => self.interface,
        };
        Frame {
            at: self.at,
            link: self.link,
            data,
            original_len: self.original_len,
            interface,
            direction: Direction::Unknown,
        }
    }
}

/// A record and its octets.
type Located<'a> = (Record, &'a [u8]);

enum Format {
    Classic(Classic),
    Ng(Ng),
}

/// One capture file.
struct File {
    path: PathBuf,
    input: Input,
    format: Format,
    /// Octets in it when it was opened; none where that is not known.
    length: Option<u64>,
    /// The frame to deliver next.
    next: Option<Record>,
    clock: Clock,
    damage: Damage,
    /// Numbers of link types that are not known, of formats that were left.
    unknown_links: BTreeSet<u32>,
}

/// What could not be read of a file.
#[derive(Debug, Default)]
struct Damage {
    /// Damaged places behind which reading went on, and octets left out there.
    places: u64,
    octets: u64,
    /// The last record is cut.
    cut: bool,
    /// Nothing was found behind a damage.
    stopped: bool,
}

impl File {
    fn open(path: &Path) -> Result<Self, Error> {
        let (path, input, length) = if path == Path::new("-") {
            (PathBuf::from("standard input"), Input::read(io::stdin()), None)
        } else {
            let file =
                fs::File::open(path).map_err(|source| Error::Open { path: path.into(), source })?;
            let length = file.metadata().ok().filter(Metadata::is_file).map(|file| file.len());
            (path.to_path_buf(), Input::open(file), length)
        };
        let opened = input.and_then(|mut input| {
            let format = Format::detect(&mut input)?;
            Ok((input, format))
        });
        let (input, format) = match opened {
            Ok(opened) => opened,
            Err(unknown) => return Err(unknown.into_error(path)),
        };
        Ok(Self {
            path,
            input,
            format,
            length,
            next: None,
            clock: Clock::default(),
            damage: Damage::default(),
            unknown_links: BTreeSet::new(),
        })
    }

    /// Visits the next frame and those after it, as long as they are `due` and lie in the window,
    /// but no more than `limit`; says how many.
    #[inline]
    fn run(
        &mut self,
        due: impl Fn(Timestamp) -> bool,
        limit: usize,
        visit: &mut impl FnMut(Frame<'_>),
    ) -> usize {
        let Some(mut record) = self.next else { return 0 };
        let (window, _) = self.input.window();
        let mut data = &window[record.start..record.start + record.captured_len];
        let mut visited = 0;
        self.next = loop {
            if visited == limit || !due(record.at) {
                break Some(record);
            }
            visit(record.frame(data));
            visited += 1;
            let next = match &mut self.format {
                Format::Classic(classic) => classic.record(window, record.end),
                Format::Ng(ng) => ng.record(window, record.end),
            };
            let Some((mut next, octets)) = next else { break None };
            let sound = next.captured_len <= next.original_len as usize;
            if !sound || !self.clock.follow(&mut next.at) {
                break None;
            }
            (record, data) = (next, octets);
        };
        self.input.move_to(record.end);
        visited
    }

    /// Goes on to the next record, in the next window where need be.
    fn advance(&mut self) -> Result<Step, Error> {
        self.step().map_err(|source| Error::Read { path: self.path.clone(), source })
    }

    fn step(&mut self) -> io::Result<Step> {
        self.change_format()?;
        let expected = self.clock.expected();
        let found = match &mut self.format {
            Format::Classic(classic) => {
                let record = classic.advance(&mut self.input, expected)?;
                if record.is_none() && self.input.is_at_end() {
                    return Ok(Step::End);
                }
                record
            }
            Format::Ng(ng) => match ng.advance(&mut self.input)? {
                Block::Packet(record) => Some(record),
                Block::BadPacket(length) => {
                    self.damage.places += 1;
                    self.damage.octets += length as u64;
                    return Ok(Step::Bad);
                }
                Block::End => return Ok(Step::End),
                Block::Lost | Block::Other => None,
            },
        };
        let Some(mut record) = found else { return self.seek() };
        if !self.clock.follow(&mut record.at) {
            let next = self.look_ahead(&mut record)?;
            record.at = self.clock.judge(record.at, next);
        }
        self.next = Some(record);
        self.input.move_to(record.end);
        Ok(Step::Record)
    }

    /// Goes on with another file's header in the middle of this one, as `cat` leaves it.
    fn change_format(&mut self) -> io::Result<()> {
        self.input.fill(FILE_HEADER)?;
        let octets = self.input.available();
        let changes = match self.format {
            Format::Classic(_) => is_file_header(octets),
            // A section's header is a block like any other.
            Format::Ng(_) => !Ng::begins(octets) && is_file_header(octets),
        };
        if changes && let Ok(format) = Format::detect(&mut self.input) {
            let before = std::mem::replace(&mut self.format, format);
            self.unknown_links.extend(before.unknown_links());
        }
        Ok(())
    }

    /// The stamp of the record behind `record`, which keeps its place in the window.
    fn look_ahead(&mut self, record: &mut Record) -> io::Result<Option<Timestamp>> {
        self.input.move_to(record.start);
        self.input.fill(record.end - record.start + FILE_HEADER)?;
        let (window, start) = self.input.window();
        record.end = record.end - record.start + start;
        record.start = start;
        Ok(match &self.format {
            Format::Classic(classic) => classic.time(window, record.end),
            Format::Ng(ng) => ng.time(window, record.end),
        })
    }

    /// Looks for the next record behind a damage.
    fn seek(&mut self) -> io::Result<Step> {
        let begin = self.input.consumed();
        let expected = self.clock.expected();
        let (cut, found) = match &self.format {
            Format::Classic(classic) => {
                let cut = classic.is_cut(self.input.available(), expected);
                (cut, classic.search(&mut self.input, expected)?)
            }
            Format::Ng(ng) => {
                let cut = ng.is_cut(self.input.available());
                (cut, ng.search(&mut self.input)?)
            }
        };
        if found {
            self.damage.places += 1;
            self.damage.octets += self.input.consumed() - begin;
        } else {
            // More compressed data may follow what is wrong in it.
            let cut = cut && !self.input.is_wrong();
            self.damage.cut |= cut;
            self.damage.stopped |= !cut;
            self.input.close();
        }
        Ok(Step::Bad)
    }

    fn has_gaps(&self) -> bool {
        self.damage.stopped || self.damage.octets * 100 > self.input.total()
    }

    fn unread(&self) -> Vec<String> {
        let Damage { places, octets, cut, stopped } = self.damage;
        let mut reasons = Vec::new();
        if stopped {
            reasons.push("reading stopped at a damaged record, the rest was not read".into());
        }
        if places > 0 {
            reasons.push(format!("damaged records in {places} places, {octets} octets left out"));
        }
        if cut {
            reasons.push("the last record is cut off".into());
        }
        let unknown: BTreeSet<u32> =
            self.unknown_links.iter().copied().chain(self.format.unknown_links()).collect();
        if !unknown.is_empty() {
            let numbers: Vec<_> = unknown.iter().map(u32::to_string).collect();
            reasons.push(format!("link type {} is not known", numbers.join(", ")));
        }
        reasons.iter().map(|reason| format!("{}: {reason}", self.path.display())).collect()
    }
}

/// Octets that tell a file's header, and more than those that hold a record's time.
const FILE_HEADER: usize = 24;

/// Whether a file's header lies at the beginning of `octets`.
fn is_file_header(octets: &[u8]) -> bool {
    // All that there are, in both byte orders; few octets get further.
    let may_be = octets.first_chunk().is_some_and(|magic| {
        matches!(
            u32::from_le_bytes(*magic),
            0xa1b2_c3d4 | 0xd4c3_b2a1 | 0xa1b2_3c4d | 0x4d3c_b2a1 | 0xa1b2_cd34 | 0x34cd_b2a1
        ) || *magic == ng::SECTION_HEADER.to_le_bytes()
    });
    may_be && (Ng::begins(octets) || Classic::begins(octets))
}

/// Why a file is not read.
enum Unknown {
    Io(io::Error),
    Empty,
    NotACapture,
    Version(u16, u16),
    /// A compression that is not read, by its name.
    Compression(&'static str),
}

impl Unknown {
    fn into_error(self, path: PathBuf) -> Error {
        match self {
            Self::Io(source) => Error::Read { path, source },
            Self::Empty => Error::Empty { path },
            Self::NotACapture => Error::NotACapture { path },
            Self::Version(major, minor) => Error::UnsupportedVersion { path, major, minor },
            Self::Compression(name) => Error::Compressed { path, name },
        }
    }
}

impl From<io::Error> for Unknown {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Format {
    fn detect(input: &mut Input) -> Result<Self, Unknown> {
        if !input.fill(1)? {
            // Compressed data that is cut or wrong from its beginning is not nothing.
            return Err(if input.is_at_end() { Unknown::Empty } else { Unknown::NotACapture });
        }
        if let Some(ng) = Ng::detect(input)? {
            return Ok(Self::Ng(ng));
        }
        Classic::detect(input).map(Self::Classic)
    }

    /// Numbers of link types that are not known.
    fn unknown_links(&self) -> Vec<u32> {
        match self {
            Self::Classic(classic) => match classic.link() {
                LinkType::Unknown(number) => vec![number],
                _ => Vec::new(),
            },
            Self::Ng(ng) => ng.unknown_links().iter().copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests;
