//! The ring's memory, shared with the kernel: whoever is named in a block's status owns the block.

use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libc::{tpacket_block_desc, tpacket_hdr_v1};

use crate::capture::Error;
use crate::sys::packet::PacketSocket;

pub(super) const STATUS: usize =
    offset_of!(tpacket_block_desc, hdr) + offset_of!(tpacket_hdr_v1, block_status);

/// The blocks of a ring. Unmapped when dropped; the socket may be closed before or after.
pub(super) struct Map {
    start: NonNull<u8>,
    block_size: usize,
    blocks: usize,
}

// SAFETY: the mapping belongs to the process, not to the thread that made it, and `Map` is its only
// owner.
unsafe impl Send for Map {}

impl Map {
    /// Asks the kernel for a ring on `socket` and maps it.
    pub(super) fn new(
        socket: &PacketSocket,
        block_size: usize,
        blocks: usize,
        retire_timeout: Duration,
    ) -> Result<Self, Error> {
        socket.create_ring(block_size, blocks, retire_timeout)?;
        let start = socket.map(block_size * blocks)?;
        Ok(Self { start, block_size, blocks })
    }

    /// How many there are.
    pub(super) const fn blocks(&self) -> usize {
        self.blocks
    }

    /// The octets of a block that the kernel has handed over.
    pub(super) fn block(&self, index: usize) -> Option<&[u8]> {
        // Acquire: what the kernel wrote before it handed the block over is seen after this.
        (self.status(index).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0).then(|| {
            // SAFETY: the block lies in the mapping (`at` checks the index), which lives as long as
            // `self`. The kernel does not write to it until `release`, which takes `&mut self` and
            // so cannot be called while this borrow lives.
            unsafe { std::slice::from_raw_parts(self.at(index), self.block_size) }
        })
    }

    /// Gives the block back to the kernel.
    pub(super) fn release(&mut self, index: usize) {
        // Release: our reads of the block are done before the kernel may write to it.
        self.status(index).store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }

    fn status(&self, index: usize) -> &AtomicU32 {
        // SAFETY: inside the block, aligned to 4 (blocks are aligned to pages), and only ever
        // accessed atomically, here as in the kernel.
        unsafe { AtomicU32::from_ptr(self.at(index).add(STATUS).cast()) }
    }

    fn at(&self, index: usize) -> *mut u8 {
        assert!(index < self.blocks, "block {index} of {}", self.blocks);
        // SAFETY: the mapping is `blocks * block_size` octets long.
        unsafe { self.start.as_ptr().add(index * self.block_size) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: exactly what `mmap` returned, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.block_size * self.blocks) };
    }
}
