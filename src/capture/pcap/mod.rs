//! Capture files: pcap and pcapng, plain or compressed with gzip, one or several at once.
//!
//! A damaged or cut file gives all that comes before the damage, then one record that could not be
//! read, then its end. Memory is bounded by the largest record allowed, whatever a file claims.

mod classic;
mod input;
mod ng;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::capture::{Batch, Direction, Error, Frame, Source};
use crate::observe::CaptureStats;
use crate::time::Timestamp;
use crate::wire::{LinkType, Skip};

use classic::Classic;
use input::Input;
use ng::Ng;

/// Records visited in one batch: often enough for a prompt stop.
const BATCH: usize = 4096;

/// The largest record that is read, in octets: twice the largest that Linux makes (a BIG TCP packet
/// of 512 KiB). A length beyond it is damage.
const MAX_RECORD: usize = 1 << 20;

/// Frames from capture files. Of several files always the one with the oldest next frame goes on; within
/// a file the order is the file's own.
pub struct Pcap {
    files: Vec<File>,
    /// The files that have not ended, by the time of their next frame.
    queue: BinaryHeap<Reverse<(Timestamp, usize)>>,
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
        let queue = (0..files.len()).map(|index| Reverse((Timestamp::EPOCH, index))).collect();
        Ok(Self { files, queue, received: 0 })
    }
}

impl Source for Pcap {
    fn name(&self) -> &'static str {
        "pcap"
    }

    fn interfaces(&self) -> Vec<String> {
        self.files.iter().map(|file| file.path.display().to_string()).collect()
    }

    /// Visits up to 4,096 records; standard input is waited for without a timeout.
    fn read_batch(
        &mut self,
        _timeout: Duration,
        visit: &mut dyn FnMut(Result<Frame<'_>, Skip>),
    ) -> Result<Batch, Error> {
        for visited in 0..BATCH {
            let Some(mut oldest) = self.queue.peek_mut() else {
                return Ok(if visited == 0 { Batch::End } else { Batch::Frames });
            };
            let Reverse((time, index)) = &mut *oldest;
            let file = &mut self.files[*index];
            if let Some(frame) = file.frame() {
                self.received += 1;
                visit(Ok(frame));
            }
            match file.advance()? {
                Step::Record(record) => *time = record.at,
                Step::Bad => visit(Err(Skip::BadCaptureRecord)),
                Step::End => {
                    PeekMut::pop(oldest);
                }
            }
        }
        Ok(Batch::Frames)
    }

    fn stats(&mut self) -> CaptureStats {
        CaptureStats { received: self.received, dropped: 0 }
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

/// A frame whose octets lie in its file's buffer, until the file is read on.
#[derive(Clone, Copy, Debug)]
struct Record {
    at: Timestamp,
    link: LinkType,
    /// Where its octets begin in the buffer.
    start: usize,
    captured_len: usize,
    original_len: u32,
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
    /// The frame to deliver next.
    next: Option<Record>,
}

impl File {
    fn open(path: &Path) -> Result<Self, Error> {
        let (path, input) = if path == Path::new("-") {
            (PathBuf::from("standard input"), Input::new(io::stdin()))
        } else {
            let file = std::fs::File::open(path)
                .map_err(|source| Error::Open { path: path.into(), source })?;
            (path.to_path_buf(), Input::new(file))
        };
        let mut input = input.map_err(|source| Error::Read { path: path.clone(), source })?;
        let format = match Format::detect(&mut input) {
            Ok(format) => format,
            Err(unknown) => return Err(unknown.into_error(path)),
        };
        Ok(Self { path, input, format, next: None })
    }

    fn frame(&self) -> Option<Frame<'_>> {
        let record = self.next.as_ref()?;
        Some(Frame {
            at: record.at,
            link: record.link,
            data: self.input.slice(record.start, record.captured_len),
            original_len: record.original_len,
            interface: 0,
            direction: Direction::Unknown,
        })
    }

    fn advance(&mut self) -> Result<Step, Error> {
        let step = match &mut self.format {
            Format::Classic(classic) => classic.advance(&mut self.input),
            Format::Ng(ng) => ng.advance(&mut self.input),
        };
        let step = step.map_err(|source| Error::Read { path: self.path.clone(), source })?;
        self.next = match step {
            Step::Record(record) => Some(record),
            Step::Bad | Step::End => None,
        };
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
