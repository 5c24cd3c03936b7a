//! The decoder from outside: against the labelled captures, against another decoder, and against
//! everything that the fuzzer ever found.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic, in its helpers too")]

// Elsewhere pcap-parser takes no pcapng block for what it is.
#[cfg(target_endian = "little")]
mod captures;
mod check;
mod differential;
mod regressions;
