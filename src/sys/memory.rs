//! Large pages for large tables, and one heap for all threads.

use std::ops::Range;

/// Asks the kernel to back memory that nothing was written to so far with huge pages, so that a
/// look-up in a table of many megabytes does not also have to wait for the page tables. Whether it
/// does makes no difference but in speed.
pub fn use_huge_pages(memory: &Range<*const u8>) {
    const HUGE: usize = 2 << 20;
    let start = (memory.start as usize).next_multiple_of(HUGE);
    let length = (memory.end as usize / HUGE * HUGE).saturating_sub(start);
    if length > 0 {
        let address = memory.start.wrapping_add(start - memory.start as usize).cast_mut().cast();
        // SAFETY: the advice changes neither the contents nor the addresses of the memory, so it is
        // harmless whatever the range is.
        unsafe { libc::madvise(address, length, libc::MADV_HUGEPAGE) };
    }
}

/// Has all threads allocate from one heap: by default glibc gives each its own, of which what one
/// frees is of no use to another. None of them allocates where it matters.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a parameter of the allocator; it takes any number.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_its_contents() {
        for length in [0, 100, 5 << 20] {
            let memory: Vec<u8> = (0..length).map(|n: u32| n as u8).collect();
            use_huge_pages(&memory.as_ptr_range());
            assert!(memory.iter().zip(0_u32..).all(|(octet, n)| *octet == n as u8));
        }
    }
}
