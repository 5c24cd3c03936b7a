//! The faces of the program.

pub mod range;
pub mod render;
