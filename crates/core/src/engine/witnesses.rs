//! What the witnesses said last: the kernel of its queues, and the capture of itself.

use std::time::Duration;

use crate::engine::shard::Sums;
use crate::model::{CaptureStats, KernelSample};
use crate::time::Timestamp;

/// Capture losses are judged over so long.
const LOSS_WINDOW: Duration = Duration::from_secs(10);
/// More than this share lost, and counts are too low.
const LOSS_LIMIT: f64 = 0.05;
/// A handshake is seen whole only if its three segments are, so a loss of 5 % leaves gaps in 14 %
/// of them.
const GAPS_LIMIT: f64 = 0.14;
/// Handshakes that are needed to say so.
const GAPS_ENOUGH: i64 = 30;

/// What the kernel said last, and what has changed since the time before.
pub(super) struct KernelView {
    pub sample: KernelSample,
    /// Requests a second that were dropped because their queue was full.
    pub drop_rate: f64,
    /// Requests a second that were answered by a cookie because their queue was full.
    pub cookie_rate: f64,
    /// Connections a second that found an accept queue full.
    pub overflow_rate: f64,
    /// Packets a second that found no place in netfilter's connection table.
    pub conntrack_drop_rate: f64,
}

impl KernelView {
    pub fn new(sample: KernelSample, before: Option<&KernelSample>) -> Self {
        let rate_of = |count: &dyn Fn(&KernelSample) -> Option<u64>| {
            let before = before?;
            let more = count(&sample)?.saturating_sub(count(before)?);
            let seconds = (sample.at - before.at).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            (seconds > 0.0).then(|| more as f64 / seconds)
        };
        let rate = |name| rate_of(&|sample| sample.counters.get(name).copied());
        let conntrack_drops = |sample: &KernelSample| Some(sample.conntrack?.dropped);
        Self {
            drop_rate: rate("TCPReqQFullDrop").unwrap_or(0.0),
            // With cookies at 2 every request is answered by one, and counted as if the queue were
            // full.
            cookie_rate: rate("TCPReqQFullDoCookies")
                .filter(|_| sample.sysctls.syncookies != Some(2))
                .unwrap_or(0.0),
            // Not `ListenDrops`, which a flood raises too.
            overflow_rate: rate("ListenOverflows").unwrap_or(0.0),
            conntrack_drop_rate: rate_of(&conntrack_drops).unwrap_or(0.0),
            sample,
        }
    }

    /// Whether requests found their queue full.
    pub fn is_queue_full(&self) -> bool {
        self.drop_rate + self.cookie_rate > 0.0
    }
}

/// What the capture said, over the last seconds.
#[derive(Default)]
pub(super) struct CaptureView {
    pub stats: CaptureStats,
    /// Received and dropped in the seconds before.
    recent: CaptureStats,
    since: Timestamp,
    /// Its own counter says so.
    dropping: bool,
    /// Handshakes (completed, presumed) as of the last look, when that was, and whether of those
    /// since the one before too many had a part that was not shown.
    handshakes: (i64, i64),
    looked_at: Timestamp,
    gaps: bool,
}

impl CaptureView {
    /// Begins at `start`.
    pub const fn begin(&mut self, start: Timestamp) {
        self.since = start;
        self.looked_at = start;
    }

    /// Takes in what the capture says of itself at `now`.
    pub fn take_in(&mut self, stats: CaptureStats, now: Timestamp) {
        self.stats = stats;
        let lost = stats.dropped.saturating_sub(self.recent.dropped);
        let received = stats.received.saturating_sub(self.recent.received);
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = lost as f64 / received.max(1) as f64;
        self.dropping = self.dropping || share > LOSS_LIMIT;
        if now - self.since >= LOSS_WINDOW {
            self.dropping = share > LOSS_LIMIT;
            self.recent = stats;
            self.since = now;
        }
    }

    /// Looks for losses that the capture does not count: connections that go on though a part of
    /// their handshake was never shown. Where that is true of nearly all, one direction is not
    /// captured.
    pub fn look_for_gaps(&mut self, at: Timestamp, sums: impl FnOnce() -> Sums) {
        if at - self.looked_at < LOSS_WINDOW {
            return;
        }
        let sums = sums();
        let outcomes = sums.outcomes();
        let whole = outcomes.completed;
        let partly = outcomes.presumed + sums.completed_midway.cast_signed();
        let presumed = partly - self.handshakes.1;
        let all = whole - self.handshakes.0 + presumed;
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = presumed as f64 / all.max(1) as f64;
        if all >= GAPS_ENOUGH {
            self.gaps = (GAPS_LIMIT..0.95).contains(&share);
        }
        self.handshakes = (whole, partly);
        self.looked_at = at;
    }

    /// Whether the capture loses packets: by its own counter, or by what connections show that it
    /// missed.
    pub const fn is_dropping(&self) -> bool {
        self.dropping || self.gaps
    }
}
