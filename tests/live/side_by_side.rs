//! For a binary of tests that wait for most of their time: 16 of them run at once, where nothing
//! else is asked for, and not one for each processor.

/// The test harness reads the variable when it starts.
#[used]
#[unsafe(link_section = ".init_array")]
static SIDE_BY_SIDE: extern "C" fn() = {
    extern "C" fn set() {
        // SAFETY: the strings end with NUL, and before main there is no other thread.
        unsafe { libc::setenv(c"RUST_TEST_THREADS".as_ptr(), c"16".as_ptr(), 0) };
    }
    set
};
