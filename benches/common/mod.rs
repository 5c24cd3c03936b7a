//! What the benchmarks share: programs run and measured ([`measure`]), figures as Markdown
//! ([`table`]), TCP segments made to order ([`frames`]) and whole traffic of them ([`traffic`]).
#![allow(dead_code, reason = "each benchmark uses its own part of this module")]

pub mod frames;
pub mod measure;
pub mod table;
pub mod traffic;

/// The number among the arguments, `default` without one. (Cargo adds arguments of its own.)
pub fn rounds(default: usize) -> usize {
    std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(default)
}
