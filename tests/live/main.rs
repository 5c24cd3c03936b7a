//! Tests against a real kernel, on real clocks. They wait for most of their time, so they are one
//! binary and wait side by side; [`support::turn`] bounds what they send meanwhile. `cargo test
//! --test live forms` runs those of `forms.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agreement;
mod capture;
mod filter;
mod flood;
mod forms;
mod once;
mod ordinary;
mod router;
mod sampling;
mod side_by_side;
mod state;
#[path = "../support/mod.rs"]
mod support;
mod threads;
mod verdict;
