//! Any octets as a frame of any link type.

#![no_main]

#[path = "../../tests/decode/check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|input: &[u8]| check::check(input));
