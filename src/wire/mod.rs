//! Frames become segments: `decode(link type, bytes) -> Result<Segment, Skip>`.
//!
//! Lengths are checked once; after that the accessors cannot fail. A frame that is not a TCP segment
//! is never an error: it is one [`Skip`] reason, counted by the engine.

mod address;
mod segment;

pub use address::Address;
pub use segment::{Flags, OptionLayout, Segment, SeqNumber, Skip};
