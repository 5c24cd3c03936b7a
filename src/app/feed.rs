//! Frames from a source into the engine.

use std::time::Duration;

use crate::app::{Correction, Host};
use crate::capture::{Batch, Error, Source};
use crate::engine::Engine;
use crate::wire::{self, Skip};

/// Hands the source's next frames to the engine; waits for them up to `timeout`. Their times are those
/// of another clock, which `correction` reckons with, and `host` is who captures.
///
/// # Errors
/// The source is of no use any more.
pub fn feed<S: Source + ?Sized>(
    engine: &mut Engine,
    source: &mut S,
    timeout: Duration,
    correction: impl Fn() -> Correction,
    host: &Host,
) -> Result<Batch, Error> {
    // Asked for at the first frame: the clock may have been set while none came.
    let mut reckoned = None;
    let batch = source.read_batch(timeout, &mut |record| {
        let (frame, at) = match record {
            Ok(frame) => {
                let correction = *reckoned.get_or_insert_with(&correction);
                (frame, correction.apply(frame.at))
            }
            Err(skip) => return engine.handle_skip(None, skip),
        };
        match &wire::decode(frame.link, frame.data, frame.original_len) {
            Ok(segment) if host.is_forged(&frame, segment) => {
                engine.handle_skip(Some(at), Skip::ForgedSource);
            }
            Ok(segment) => engine.queue_segment(at, segment, frame.interface),
            Err(skip) => engine.handle_skip(Some(at), *skip),
        }
    });
    engine.handle_queue();
    batch
}
