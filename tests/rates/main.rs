//! What the detector finds, how soon, and how often it is wrong: counts of whole service-days
//! through [`synwatch_core::testing::Detector`], without packets.
//!
//! The long runs print Markdown tables and check the goals:
//!
//! ```text
//! cargo test --release --test rates -- --ignored --nocapture false_pages
//! cargo test --release --test rates -- --ignored --nocapture minimum_rate
//! ```
//!
//! The short ones, with the same checks, belong to every `cargo test`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic, in its helpers too")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small")]

mod false_pages;
mod minimum_rate;
mod random;
mod service;
mod traffic;
