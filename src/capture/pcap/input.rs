//! A file's octets in a window that moves on: mapped memory for plain files, a buffer for what must be
//! read (pipes) or decompressed.
//!
//! A window ends where the file ended when the window was opened, so a file that grows is followed to
//! where it ends when its end is reached, and one that was cut short ends where it was cut. In between
//! lies the one case that a mapping handles worse than a read: a file that is cut within the window at
//! hand ends the process (SIGBUS). That window is replayed within milliseconds, programs that capture
//! append, and the daemon, which must not die, reads no files; catching the signal would be a handler for
//! the whole process with a jump out of it. `cat FILE | synwatch replay -` maps nothing.

use std::fs::File;
use std::io::{self, Cursor, ErrorKind, Read, Seek, SeekFrom};

use flate2::read::MultiGzDecoder;

use crate::sys::map::Map;

/// Octets mapped at once: far more than a record, so that system calls do not count, and little enough
/// for many files at a time.
const WINDOW: usize = 4 << 20;

/// Octets asked of a reader at once: fits in a core's second-level cache.
const BUFFER: usize = 256 << 10;

/// RFC 1952, section 2.3.1.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The octets of a file, of which the caller sees a window.
pub(super) struct Input {
    window: Window,
    /// The part of the window that is filled and not consumed.
    start: usize,
    end: usize,
    /// Nothing more comes into the window.
    exhausted: bool,
    /// The compressed data is cut or wrong.
    damaged: bool,
}

enum Window {
    /// The part of the file that begins at `offset`.
    Mapped { map: Map, file: File, offset: u64 },
    /// What `reader` gave; where it reads a file, `file` shares its position.
    Buffered { buffer: Vec<u8>, reader: Box<dyn Read + Send>, file: Option<File> },
}

impl Window {
    /// The octets that `reader` gives, which are decompressed where the first of them say so.
    fn buffered(mut reader: impl Read + Send + 'static, file: Option<File>) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(GZIP_MAGIC.len());
        reader.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic)?;
        let compressed = magic == GZIP_MAGIC;
        let whole = Cursor::new(magic).chain(reader);
        let reader: Box<dyn Read + Send> =
            if compressed { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
        Ok(Self::Buffered { buffer: vec![0; BUFFER], reader, file })
    }

    #[inline]
    fn octets(&self) -> &[u8] {
        match self {
            Self::Mapped { map, .. } => map,
            Self::Buffered { buffer, .. } => buffer,
        }
    }
}

impl Input {
    /// Opens a file, mapped where that is possible.
    pub(super) fn open(file: File) -> io::Result<Self> {
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        // Pipes and the files of /proc have no length.
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(WINDOW);
        if length > 0
            && let Ok(map) = Map::new(&file, 0, length)
            && !map.starts_with(&GZIP_MAGIC)
        {
            return Ok(Self::new(Window::Mapped { map, file, offset: 0 }, length));
        }
        let position = file.try_clone()?;
        Ok(Self::new(Window::buffered(file, Some(position))?, 0))
    }

    /// Reads what can only be read.
    pub(super) fn read(stream: impl Read + Send + 'static) -> io::Result<Self> {
        Ok(Self::new(Window::buffered(stream, None)?, 0))
    }

    fn new(window: Window, end: usize) -> Self {
        Self { window, start: 0, end, exhausted: false, damaged: false }
    }

    /// How far the file has been read, in octets; of compressed files, compressed ones.
    pub(super) fn position(&self) -> u64 {
        match &self.window {
            Window::Mapped { offset, .. } => offset + self.start as u64,
            Window::Buffered { file: Some(file), .. } => {
                (&*file).stream_position().unwrap_or_default()
            }
            Window::Buffered { file: None, .. } => 0,
        }
    }

    /// What is in the window and not consumed.
    #[inline]
    pub(super) fn available(&self) -> &[u8] {
        &self.window.octets()[self.start..self.end]
    }

    /// The window, and the place in it up to which it is consumed. What comes before stays until the
    /// next `fill`.
    pub(super) fn window(&self) -> (&[u8], usize) {
        (&self.window.octets()[..self.end], self.start)
    }

    /// Consumes the window up to a place in it.
    pub(super) fn move_to(&mut self, position: usize) {
        self.start = position.min(self.end);
    }

    /// Steps over `length` available octets.
    pub(super) fn consume(&mut self, length: usize) {
        self.move_to(self.start + length);
    }

    /// Moves on until `length` octets are available; false where the input ends before that. No
    /// more is waited for, so that a slow pipe is followed promptly.
    #[inline]
    pub(super) fn fill(&mut self, length: usize) -> io::Result<bool> {
        if self.end - self.start >= length { Ok(true) } else { self.refill(length) }
    }

    #[cold]
    fn refill(&mut self, length: usize) -> io::Result<bool> {
        if !self.exhausted {
            match self.window {
                Window::Mapped { .. } => self.map_on(length)?,
                Window::Buffered { .. } => self.read_on(length)?,
            }
        }
        Ok(self.end - self.start >= length)
    }

    /// Maps the part of the file that begins with what is not consumed.
    fn map_on(&mut self, length: usize) -> io::Result<()> {
        let Window::Mapped { map, file, offset } = &mut self.window else { return Ok(()) };
        let begin = *offset + self.start as u64;
        let rest = file.metadata()?.len().saturating_sub(begin);
        let rest = usize::try_from(rest).unwrap_or(usize::MAX);
        self.exhausted = rest < length;
        if rest <= self.end - self.start {
            return Ok(());
        }
        let mapped = rest.min(WINDOW.max(length));
        if let Ok(next) = Map::new(file, begin, mapped) {
            (*map, *offset) = (next, begin);
            (self.start, self.end) = (0, mapped);
            return Ok(());
        }
        // A read says best what is wrong.
        file.seek(SeekFrom::Start(begin))?;
        let (reader, file) = (Box::new(file.try_clone()?), Some(file.try_clone()?));
        *self = Self::new(Window::Buffered { buffer: vec![0; BUFFER], reader, file }, 0);
        self.read_on(length)
    }

    fn read_on(&mut self, length: usize) -> io::Result<()> {
        let Window::Buffered { buffer, reader, .. } = &mut self.window else { return Ok(()) };
        while !self.exhausted && self.end - self.start < length {
            // Make room.
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if buffer.len() < length {
                buffer.resize(length.next_power_of_two(), 0);
            }
            match reader.read(&mut buffer[self.end..]) {
                Ok(0) => self.exhausted = true,
                Ok(octets) => self.end += octets,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    // What the decompressor says of data that is cut or wrong.
                    ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput => {
                        self.exhausted = true;
                        self.damaged = true;
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Steps over `length` octets that need not fit in the window; false where the input ends before that.
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

    /// Gives up the rest of the input: from here on it is at its end.
    pub(super) fn close(&mut self) {
        self.start = self.end;
        self.exhausted = true;
        self.damaged = false;
    }
}
