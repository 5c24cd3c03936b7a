//! Parts of files as memory, read from the page cache without a copy.

use std::fs::File;
use std::io;
use std::ops::Deref;

use memmap2::{Advice, Mmap, MmapOptions};

/// A part of a file, mapped for reading. Unmapped when dropped.
///
/// What others do to the file meanwhile is seen. Where they write, octets change. Where they cut the file
/// short before an octet that is read after that, the kernel ends the process by SIGBUS: so map little at
/// a time, and ask for the file's length before each part.
pub struct Map(Mmap);

impl Map {
    /// Maps `length` octets of `file` from `offset` on, all of which lie in the file, and reads into the
    /// page cache those that are not there: an error of the disk becomes an error here.
    ///
    /// # Errors
    /// The file cannot be mapped, or a part of it cannot be read.
    pub fn new(file: &File, offset: u64, length: usize) -> io::Result<Self> {
        // SAFETY: the memory is the mapping's own, is never written to by this process, and stays
        // until `self` is dropped, which no borrow of it outlives. What cannot be promised is that
        // nobody else changes the file, which Rust asks of memory behind a shared reference; no
        // mapping of a file can promise it, and no lock can force it on others. What comes of it:
        // octets that change are other octets of an input that is not trusted anyway, and everything that
        // reads them checks the values that it has loaded. A file that is cut short costs the
        // process its life (SIGBUS), not its memory safety. The callers' part is to keep the time
        // between asking for the length and the last read short.
        let map = unsafe { MmapOptions::new().offset(offset).len(length).map(file)? };
        match map.advise(Advice::PopulateRead) {
            // Older than Linux 5.14: the pages come one by one as they are read.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            populated => populated?,
        }
        Ok(Self(map))
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
