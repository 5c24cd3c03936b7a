//! `synwatch replay`: the same engine over capture files, with packet time as the clock.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use synwatch_core::engine::{Engine, Settings};
use synwatch_core::observe::{Document, Limit, Snapshot, Status, Unknown};
use synwatch_core::sampling::HashKey;
use synwatch_core::wire::{Fragments, Skip};

use crate::app::once::{Error, limits, print};
use crate::app::progress::Progress;
use crate::app::render;
use crate::app::replay_workers::ReplayWorkers;
use crate::app::session::{Correction, Host, Intake, feed};
use crate::app::{networks, threads};
use crate::capture::pcap::Pcap;
use crate::capture::{self, Batch, Source};
use crate::cli::Output;
use crate::config::Config;

/// Replays `files` and prints the verdict.
///
/// # Errors
/// A file that cannot be read, wrong ranges, or an output that is closed.
pub fn run(config: &Config, files: &[PathBuf], output: &Output) -> Result<Status, Error> {
    let limits = limits(output)?;
    let (snapshot, unseen) = replay(config, files)?;
    print(&snapshot, &limits, &unseen, output)?;
    Ok(render::status(&snapshot.document, &limits))
}

/// The report on `files`: totals over all of them, flows as of the last packet, and the verdict
/// once all attempts have had their time. Its status is the worst that was reached. With it comes
/// what could not be seen, in one sentence for each cause.
///
/// # Errors
/// A file that cannot be read.
pub fn replay<P: AsRef<Path>>(
    config: &Config,
    files: &[P],
) -> Result<(Snapshot, Vec<String>), Error> {
    let mut source = Pcap::open(files)?;
    let settings = Settings {
        networks: networks(config),
        // Nobody who made a file can know what comes of it: a fixed key makes replays repeatable.
        key: HashKey(*b"synwatch replay."),
        ..crate::app::fixed_settings(config)
    };
    let mut engine = Engine::sharded(settings, threads(config));
    // One store, since one thread decodes for all.
    let fragments = Fragments::new(engine.hasher().state());
    if engine.shards() == NonZeroUsize::MIN {
        read(&mut engine, &mut source, fragments)?;
    } else {
        let outcome;
        (engine, outcome) =
            ReplayWorkers::with(engine, |workers| read(workers, &mut source, fragments));
        outcome?;
    }
    engine.handle_capture(source.stats());
    let Snapshot { document: mut report, mut internals } = engine.snapshot(engine.now());
    engine.finish();
    let end = engine.snapshot(engine.now());
    for (service, hidden) in report.services.iter().zip(&mut internals.services) {
        let name = (service.address, service.port);
        let same = end.services().find(|(other, _)| (other.address, other.port) == name);
        hidden.verdict = same.and_then(|(_, hidden)| hidden.verdict);
    }
    report.detections = end.document.detections;
    report.status = report
        .detections
        .iter()
        .map(|detection| detection.severity.status())
        .max()
        .unwrap_or_default();
    report.capture.source = source.name().into();
    report.capture.interfaces = source.interfaces();
    if source.has_stepped() {
        report.capture.limits.push(Limit::Clock);
    }
    let capture = &report.capture;
    let incomplete = if capture.packets == 0 {
        Some(Unknown::NoPacket)
    } else if !is_understood(&report) {
        Some(Unknown::NothingDecoded)
    } else {
        source.has_gaps().then_some(Unknown::Incomplete)
    };
    for why in std::mem::take(&mut report.unknown).into_iter().chain(incomplete) {
        report.doubt(why);
    }
    let mut unseen = source.unread();
    unseen.extend(skipped(&report));
    Ok((Snapshot { document: report, internals }, unseen))
}

/// Reasons for which a packet may have been a TCP segment all the same.
const HIDING: [(Skip, &str); 7] = [
    (Skip::UnknownLinkType, "whose link type is not known"),
    (Skip::Truncated, "cut off within their headers"),
    (Skip::Fragment, "that are fragments"),
    (Skip::BadIpHeader, "with an inconsistent IP header"),
    (Skip::BadTcpHeader, "with an inconsistent TCP header"),
    (Skip::TooDeep, "with too many nested headers"),
    (Skip::BadCaptureRecord, "in records that could not be read"),
];

/// Whether there was a packet, and at least one of them was known for what it is.
fn is_understood(report: &Document) -> bool {
    let hidden: u64 = hidden(report).map(|(count, _)| count).sum();
    report.capture.packets > hidden
}

/// Packets that were skipped though they may have been segments, and why.
fn skipped(report: &Document) -> impl Iterator<Item = String> {
    hidden(report).map(|(count, why)| match count {
        1 => format!("1 packet {why}"),
        _ => format!("{count} packets {why}"),
    })
}

fn hidden(report: &Document) -> impl Iterator<Item = (u64, &'static str)> {
    HIDING.into_iter().filter_map(|(skip, why)| {
        report.capture.skipped.get(skip.name()).map(|count| (*count, why))
    })
}

/// Hands all of `source` to `intake`.
fn read(
    intake: &mut impl Intake,
    source: &mut Pcap,
    mut fragments: Fragments,
) -> Result<(), capture::Error> {
    let mut progress = Progress::new(source);
    let host = Host::default();
    let correction = || Correction::NONE;
    while feed(intake, source, Duration::ZERO, correction, &host, &mut fragments)? != Batch::End {
        progress.show(source);
    }
    Ok(())
}
