//! XDP on a real kernel: on a veth in a namespace of its own, which plays the mirror port. `cargo
//! test --features ebpf --test xdp`, as root.

#![cfg(feature = "ebpf")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod daemon;
mod live;
mod mirror;
mod object;
mod sampling;
#[path = "../support/mod.rs"]
mod support;
