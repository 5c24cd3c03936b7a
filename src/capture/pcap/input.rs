//! A file's octets through a buffer that grows with the records, decompressed where need be.

use std::io::{self, Cursor, ErrorKind, Read};

use flate2::read::MultiGzDecoder;

/// Octets asked of the file at once: fits in a core's second-level cache.
const BUFFER: usize = 256 << 10;

/// RFC 1952, section 2.3.1.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A buffered reader whose buffer the caller sees.
pub(super) struct Input {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    /// The part of the buffer that is filled and not consumed.
    start: usize,
    end: usize,
    /// The reader has no more.
    exhausted: bool,
    /// The compressed data is cut or wrong.
    damaged: bool,
}

impl Input {
    /// Reads the first octets, to see whether they are compressed.
    pub(super) fn new(mut file: impl Read + Send + 'static) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(GZIP_MAGIC.len());
        file.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic)?;
        let compressed = magic == GZIP_MAGIC;
        let whole = Cursor::new(magic).chain(file);
        let reader: Box<dyn Read + Send> =
            if compressed { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
        Ok(Self {
            reader,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            exhausted: false,
            damaged: false,
        })
    }

    /// What has been read and not consumed.
    pub(super) fn available(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Octets of the buffer by their place in it; those consumed stay until the next `fill`.
    pub(super) fn slice(&self, start: usize, length: usize) -> &[u8] {
        &self.buffer[start..start + length]
    }

    /// Steps over `length` available octets and says where in the buffer they begin.
    pub(super) fn consume(&mut self, length: usize) -> usize {
        let start = self.start;
        self.start = (start + length).min(self.end);
        start
    }

    /// Reads on until `length` octets are available; false where the input ends before that. No
    /// more is waited for, so that a slow pipe is followed promptly.
    #[inline]
    pub(super) fn fill(&mut self, length: usize) -> io::Result<bool> {
        if self.end - self.start >= length { Ok(true) } else { self.refill(length) }
    }

    #[cold]
    fn refill(&mut self, length: usize) -> io::Result<bool> {
        while self.end - self.start < length {
            if self.exhausted {
                return Ok(false);
            }
            self.make_room(length);
            match self.reader.read(&mut self.buffer[self.end..]) {
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
        Ok(true)
    }

    fn make_room(&mut self, length: usize) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < length {
            self.buffer.resize(length.next_power_of_two(), 0);
        }
    }

    /// Steps over `length` octets that need not fit in the buffer; false where the input ends before that.
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
        self.reader = Box::new(io::empty());
        self.start = self.end;
        self.exhausted = true;
        self.damaged = false;
    }
}
