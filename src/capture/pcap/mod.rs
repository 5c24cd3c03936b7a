//! Capture files: pcap and pcapng, plain or compressed with gzip, one or several at once.
//!
//! A damaged or cut file gives all that comes before the damage, then one record that could not be
//! read, then its end. Memory is bounded by the largest record allowed, whatever a file claims.

mod classic;
mod input;
mod ng;
mod order;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::capture::{Batch, Direction, Error, Frame, Frames, Source};
use crate::observe::CaptureStats;
use crate::time::Timestamp;
use crate::wire::LinkType;

use classic::Classic;
use input::Input;
use ng::Ng;
use order::ByteOrder;

/// Records visited in one batch: often enough for a prompt stop.
const BATCH: usize = 4096;

/// The largest record that is read, in octets: twice the largest that Linux makes (a BIG TCP packet
/// of 512 KiB). A length beyond it is damage.
const MAX_RECORD: usize = 1 << 20;

/// Frames from capture files. Of several files always the one with the oldest next frame goes on; within
/// a file the order is the file's own.
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

    /// Octets of all files together as they lie on disk; none where one of them has no end that is known,
    /// as standard input and pipes.
    pub fn length(&self) -> Option<u64> {
        self.files.iter().map(|file| file.length).sum()
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
                    Step::Record(_) => {}
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
    Record(Record),
    /// A record that could not be read.
    Bad,
    End,
}

/// A frame whose octets lie in its file's window, until that moves on.
#[derive(Clone, Copy, Debug)]
struct Record {
    at: Timestamp,
    link: LinkType,
    /// Where its octets begin in the window.
    start: usize,
    captured_len: usize,
    original_len: u32,
    /// Where the next record begins in the window.
    end: usize,
}

impl Record {
    fn frame<'a>(&self, window: &'a [u8]) -> Frame<'a> {
        Frame {
            at: self.at,
            link: self.link,
            data: &window[self.start..self.start + self.captured_len],
            original_len: self.original_len,
            interface: 0,
            direction: Direction::Unknown,
        }
    }
}

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
        let mut input = input.map_err(|source| Error::Read { path: path.clone(), source })?;
        let format = match Format::detect(&mut input) {
            Ok(format) => format,
            Err(unknown) => return Err(unknown.into_error(path)),
        };
        Ok(Self { path, input, format, length, next: None })
    }

    /// Visits the next frame and those after it, as long as they are `due` and lie in the window, but
    /// no more than `limit`; says how many.
    #[inline]
    fn run(
        &mut self,
        due: impl Fn(Timestamp) -> bool,
        limit: usize,
        visit: &mut impl FnMut(Frame<'_>),
    ) -> usize {
        let (window, _) = self.input.window();
        let (mut next, mut visited) = (self.next, 0);
        let mut end = None;
        while visited < limit
            && let Some(record) = next
            && due(record.at)
        {
            visit(record.frame(window));
            visited += 1;
            next = match &mut self.format {
                Format::Classic(classic) => classic.record(window, record.end),
                Format::Ng(ng) => ng.record(window, record.end),
            };
            end = Some(next.map_or(record.end, |next| next.end));
        }
        self.next = next;
        if let Some(end) = end {
            self.input.move_to(end);
        }
        visited
    }

    /// Goes on to the next record, in the next window where need be.
    fn advance(&mut self) -> Result<Step, Error> {
        let step = match &mut self.format {
            Format::Classic(classic) => classic.advance(&mut self.input),
            Format::Ng(ng) => ng.advance(&mut self.input),
        };
        let step = step.map_err(|source| Error::Read { path: self.path.clone(), source })?;
        if let Step::Record(record) = step {
            self.next = Some(record);
            self.input.move_to(record.end);
        }
        Ok(step)
    }
}

/// Why a file is not read.
enum Unknown {
    Io(io::Error),
    Empty,
    NotACapture,
    Version(u16, u16),
}

impl Unknown {
    fn into_error(self, path: PathBuf) -> Error {
        match self {
            Self::Io(source) => Error::Read { path, source },
            Self::Empty => Error::Empty { path },
            Self::NotACapture => Error::NotACapture { path },
            Self::Version(major, minor) => Error::UnsupportedVersion { path, major, minor },
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
}

#[cfg(test)]
mod tests;
