//! Frames from a source into the engine.

use std::time::Duration;

use crate::app::Correction;
use crate::capture::{Batch, Error, Source};
use crate::engine::Engine;
use crate::wire;

/// Hands the source's next frames to the engine; waits for them up to `timeout`. Their times are those
/// of another clock, which `correction` reckons with.
///
/// # Errors
/// The source is of no use any more.
pub fn feed(
    engine: &mut Engine,
    source: &mut dyn Source,
    timeout: Duration,
    correction: Correction,
) -> Result<Batch, Error> {
    source.read_batch(timeout, &mut |record| {
        let decoded = record.and_then(|frame| {
            let segment = wire::decode(frame.link, frame.data, frame.original_len)?;
            Ok((correction.apply(frame.at), segment, frame.interface))
        });
        match decoded {
            Ok((at, segment, interface)) => engine.handle_segment(at, &segment, interface),
            Err(skip) => engine.handle_skip(skip),
        }
    })
}
