//! A file's octets in a window that moves on: a buffer that is filled by reading, through the
//! decompressor where need be.
//!
//! Files are not mapped. The kernel would enter all pages of a large file in the page tables and
//! remove them again. That takes longer than a copy from the page cache to a buffer that stays in
//! the processor's cache. A process that reads a mapping of a truncated file is also killed
//! (SIGBUS).

use std::fs::File;
use std::io::{self, Cursor, ErrorKind, Read, Seek};

use super::Unknown;
use super::compression::{Compression, MAGIC};

/// Octets read at once: far more than a record, so that system calls do not count, and little
/// enough for a core's second-level cache.
const BUFFER: usize = 128 << 10;

/// The octets of a file, of which the caller sees a window.
pub(super) struct Input {
    buffer: Vec<u8>,
    /// The part of the buffer that is filled and not consumed.
    start: usize,
    end: usize,
    reader: Box<dyn Read + Send>,
    compression: Option<Compression>,
    /// The file that `reader` reads, for its position.
    file: Option<File>,
    /// Nothing more comes.
    exhausted: bool,
    /// The compressed data is cut or wrong.
    damaged: bool,
    /// More than the last record is lost of it.
    wrong: bool,
    /// Octets read, after decompression.
    read: u64,
}

impl Input {
    /// Opens a file.
    pub(super) fn open(file: File) -> Result<Self, Unknown> {
        let position = file.try_clone()?;
        Ok(Self { file: Some(position), ..Self::read(file)? })
    }

    /// The octets that `reader` gives, which are decompressed where the first of them say so.
    pub(super) fn read(mut reader: impl Read + Send + 'static) -> Result<Self, Unknown> {
        let mut magic = Vec::with_capacity(MAGIC);
        reader.by_ref().take(MAGIC as u64).read_to_end(&mut magic)?;
        let compression = Compression::detect(&magic);
        let whole = Cursor::new(magic).chain(reader);
        let reader: Box<dyn Read + Send> = match compression {
            Some(compression) => compression.open(whole).map_err(Unknown::Compression)?,
            None => Box::new(whole),
        };
        let buffer = vec![0; BUFFER];
        Ok(Self {
            buffer,
            start: 0,
            end: 0,
            reader,
            compression,
            file: None,
            exhausted: false,
            damaged: false,
            wrong: false,
            read: 0,
        })
    }

    /// How far the file has been read, in octets; of compressed files, compressed ones.
    pub(super) fn position(&self) -> u64 {
        self.file.as_ref().and_then(|mut file| file.stream_position().ok()).unwrap_or_default()
    }

    /// What is in the window and not consumed.
    #[inline]
    pub(super) fn available(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The window, and the place in it up to which it is consumed. What comes before stays until
    /// the next `fill`.
    pub(super) fn window(&self) -> (&[u8], usize) {
        (&self.buffer[..self.end], self.start)
    }

    /// Consumes the window up to a place in it.
    pub(super) fn move_to(&mut self, position: usize) {
        self.start = position.min(self.end);
    }

    /// Steps over `length` available octets.
    pub(super) fn consume(&mut self, length: usize) {
        self.move_to(self.start + length);
    }

    /// Has the window hold `length` octets at least, so that it need not move on often.
    pub(super) fn widen(&mut self, length: usize) {
        self.buffer.resize(self.buffer.len().max(length), 0);
    }

    /// Moves on until `length` octets are available; false where the input ends before that. No
    /// more is waited for, so that a slow pipe is followed promptly.
    #[inline]
    pub(super) fn fill(&mut self, length: usize) -> io::Result<bool> {
        if self.end - self.start >= length { Ok(true) } else { self.refill(length) }
    }

    #[cold]
    fn refill(&mut self, length: usize) -> io::Result<bool> {
        while !self.exhausted && self.end - self.start < length {
            // Make room.
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.buffer.len() < length {
                self.buffer.resize(length.next_power_of_two(), 0);
            }
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.exhausted = true,
                Ok(octets) => {
                    self.end += octets;
                    self.read += octets as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if self.compression.is_some() && is_damage(&error) => {
                    self.exhausted = true;
                    self.damaged = true;
                    // Others than gzip keep whole blocks back, of up to some MiB.
                    self.wrong = error.kind() != ErrorKind::UnexpectedEof
                        || self.compression != Some(Compression::Gzip);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.end - self.start >= length)
    }

    /// Steps over `length` octets that need not fit in the window; false where the input ends
    /// before that.
    pub(super) fn skip(&mut self, length: u64) -> io::Result<bool> {
        let mut rest = length;
        while rest > 0 {
            if !self.fill(1)? {
                return Ok(false);
            }
            let step = usize::try_from(rest).unwrap_or(usize::MAX).min(self.end - self.start);
            self.consume(step);
            rest -= step as u64;
        }
        Ok(true)
    }

    /// Whether the input ended cleanly: on a record's boundary, and undamaged.
    pub(super) fn is_at_end(&self) -> bool {
        self.exhausted && self.start == self.end && !self.damaged
    }

    /// Whether compressed data is cut or wrong in a way that loses more than a record.
    pub(super) const fn is_wrong(&self) -> bool {
        self.wrong
    }

    /// Whether what is available is all that comes.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Octets read so far, after decompression.
    pub(super) const fn total(&self) -> u64 {
        self.read
    }

    /// Octets consumed so far, after decompression.
    pub(super) const fn consumed(&self) -> u64 {
        self.read - (self.end - self.start) as u64
    }

    /// Gives up the rest of the input: from here on it is at its end.
    pub(super) fn close(&mut self) {
        self.start = self.end;
        self.exhausted = true;
        self.damaged = false;
    }
}

/// What decompressors say of data that is cut or wrong; the operating system has other errors.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::InvalidData
            | ErrorKind::InvalidInput
            | ErrorKind::Unsupported
            | ErrorKind::Other
    ) && error.raw_os_error().is_none()
}
