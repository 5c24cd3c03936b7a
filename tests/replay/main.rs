//! `synwatch replay` from outside: the program itself over the labelled captures and over broken
//! input.
//!
//! The captures are not part of the repository: they lie in `../shared/captures`, or where
//! `SYNWATCH_CAPTURES` says. Their `labels.toml` begins with the definitions of its fields.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic, in its helpers too")]

mod broken;
mod counts;
mod files;
mod labels;
mod patience;
mod program;
mod progress;
mod reference;
mod segments;
mod threads;
mod verdicts;
mod ways;
