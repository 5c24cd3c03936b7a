//! The decoder from outside: against the labelled captures, against another decoder, and against
//! everything that the fuzzer ever found.

#[cfg(feature = "host")]
mod captures;
mod differential;
mod regressions;
