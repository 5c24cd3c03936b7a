//! Frames from a source into the engine, and back what the engine wants of them.

use std::time::Duration;

use synwatch_core::engine::Engine;
use synwatch_core::observe::Document;
use synwatch_core::time::Timestamp;
use synwatch_core::wire::{self, Fragments, Segment, Skip};

use super::{Clock, Correction, Host};
use crate::capture::{Batch, Error, Frames, Selection, Source};

/// Who takes in what a source gives.
pub trait Intake {
    /// Takes in the segment that `decode` writes, no later than at the next [`Self::flush`], or the
    /// reason why there is none.
    fn frame(
        &mut self,
        at: Timestamp,
        interface: u32,
        decode: impl FnOnce(&mut Segment) -> Result<(), Skip>,
    );

    /// Takes in what gave no frame, or no segment.
    fn skip(&mut self, at: Option<Timestamp>, skip: Skip);

    /// There is no more for now.
    fn flush(&mut self);
}

impl Intake for Engine {
    #[inline]
    fn frame(
        &mut self,
        at: Timestamp,
        interface: u32,
        decode: impl FnOnce(&mut Segment) -> Result<(), Skip>,
    ) {
        self.queue_frame(at, interface, decode);
    }

    fn skip(&mut self, at: Option<Timestamp>, skip: Skip) {
        self.handle_skip(at, skip);
    }

    fn flush(&mut self) {
        self.handle_queue();
    }
}

/// Hands the source's next frames to `intake`; waits for them up to `timeout`. Their times are
/// those of another clock, which `correction` reckons with, `host` is who captures, and `fragments`
/// joins what came in several frames.
///
/// # Errors
/// The source is of no use any more.
pub fn feed<I: Intake, S: Frames + ?Sized>(
    intake: &mut I,
    source: &mut S,
    timeout: Duration,
    correction: impl Fn() -> Correction,
    host: &Host,
    fragments: &mut Fragments,
) -> Result<Batch, Error> {
    // Asked for at the first frame: the clock may have been set while none came.
    let mut reckoned = None;
    let batch = source.visit(timeout, |frame| {
        let correction = *reckoned.get_or_insert_with(&correction);
        let at = correction.apply(frame.at);
        intake.frame(at, frame.interface, |segment| {
            match wire::decode_into(frame.link, frame.data, frame.original_len, segment) {
                Err(Skip::Fragment) => {
                    let (link, interface) = (frame.link, frame.interface);
                    fragments.join(at, interface, link, frame.data, frame.original_len, segment)?;
                }
                outcome => outcome?,
            }
            if host.is_forged(&frame, segment) { Err(Skip::ForgedSource) } else { Ok(()) }
        });
    });
    if let Ok(Batch::Damaged) = batch {
        intake.skip(None, Skip::BadCaptureRecord);
    }
    intake.flush();
    batch
}

/// Hands `engine` the frames that came before now, so that time may pass there. After this thread
/// was not run for a while, time would run ahead of them. The handshakes that they complete would
/// seem to have failed.
///
/// # Errors
/// The source is of no use any more.
pub fn catch_up<S: Frames + ?Sized>(
    engine: &mut Engine,
    source: &mut S,
    clock: &Clock,
    host: &Host,
    fragments: &mut Fragments,
) -> Result<(), Error> {
    let now = clock.now();
    let correction = || clock.correction();
    // Under load the source may never be empty.
    while engine.now() < now
        && feed(engine, source, Duration::ZERO, correction, host, fragments)? == Batch::Frames
    {}
    Ok(())
}

/// What `engine` looks at, as of `report`.
#[must_use]
pub fn selection(engine: &Engine, report: &Document) -> Selection {
    let (sampling, sampling_key) = engine.sampling();
    let flows = (!sampling.is_exact()).then(|| (*sampling_key, sampling.clone()));
    Selection { data: report.capture.is_one_way(), flows }
}

/// Keeps a source to what the engine looks at.
#[derive(Debug, Default)]
pub struct Selector {
    /// Whether the source did not take the last selection.
    failing: bool,
}

impl Selector {
    /// Has `source` pass what is selected.
    ///
    /// The kernel may be short of memory for another filter. That is no reason to end: it is told
    /// once, and tried again each time. Of what comes up too much the engine leaves out by itself;
    /// of what does not come up its counts are too low until then.
    pub fn select(&mut self, source: &mut dyn Source, selection: &Selection) {
        let selected = source.select(selection);
        let was_failing = std::mem::replace(&mut self.failing, selected.is_err());
        match selected {
            Err(error) if !was_failing => {
                tracing::warn!(%error, "cannot update the packet filter in the kernel, the old one stays in force");
            }
            Ok(()) if was_failing => {
                tracing::info!("the packet filter in the kernel is updated again");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use synwatch_core::engine::Settings;
    use synwatch_core::observe::CaptureStats;
    use synwatch_core::wire::LinkType;

    use crate::capture::{Direction, Frame};

    use super::*;

    /// A source that takes a selection only where it is told to.
    #[derive(Default)]
    struct Stubborn {
        willing: bool,
        asked: u32,
    }

    impl Source for Stubborn {
        fn name(&self) -> &'static str {
            "stubborn"
        }

        fn interfaces(&self) -> Vec<String> {
            Vec::new()
        }

        fn read_batch(
            &mut self,
            _timeout: Duration,
            _visit: &mut dyn FnMut(Frame<'_>),
        ) -> Result<Batch, Error> {
            Ok(Batch::Idle)
        }

        fn stats(&mut self) -> CaptureStats {
            CaptureStats::default()
        }

        fn select(&mut self, _selection: &Selection) -> Result<(), Error> {
            self.asked += 1;
            let source = || io::ErrorKind::OutOfMemory.into();
            self.willing
                .then_some(())
                .ok_or_else(|| Error::Socket { call: "SO_ATTACH_FILTER", source: source() })
        }
    }

    /// A source in which frames wait, one a millisecond, that are no packets.
    struct Waiting {
        next: Timestamp,
        left: u32,
    }

    impl Frames for Waiting {
        fn visit(
            &mut self,
            timeout: Duration,
            mut visitor: impl FnMut(Frame<'_>),
        ) -> Result<Batch, Error> {
            assert_eq!(timeout, Duration::ZERO);
            let Some(left) = self.left.checked_sub(1) else { return Ok(Batch::Idle) };
            visitor(Frame {
                at: self.next,
                link: LinkType::Ethernet,
                data: &[],
                original_len: 0,
                interface: 0,
                direction: Direction::Unknown,
            });
            *self = Self { next: self.next + Duration::from_millis(1), left };
            Ok(Batch::Frames)
        }
    }

    #[test]
    fn frames_up_to_now_are_taken_in_before_time_passes() {
        let clock = Clock::start();
        let start = clock.now().before(Duration::from_millis(100));
        let left_of = |left| {
            let mut engine = Engine::new(Settings::default(), start);
            let mut fragments = Fragments::new(engine.hasher().state());
            let mut source = Waiting { next: start, left };
            catch_up(&mut engine, &mut source, &clock, &Host::default(), &mut fragments).unwrap();
            source.left
        };
        assert_eq!(left_of(90), 0);
        // Of a source that is never empty all that came before.
        assert!(left_of(u32::MAX) <= u32::MAX - 100);
    }

    /// What is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(octets)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_selection_that_is_not_taken_is_told_once_and_tried_again() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .finish();
        let mut source = Stubborn::default();
        let mut selector = Selector::default();
        tracing::subscriber::with_default(subscriber, || {
            for willing in [false, false, false, true, true, false, false] {
                source.willing = willing;
                selector.select(&mut source, &Selection::default());
            }
        });
        assert_eq!(source.asked, 7);
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let levels: Vec<_> =
            log.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(levels, ["WARN", "INFO", "WARN"], "{log}");
    }
}
