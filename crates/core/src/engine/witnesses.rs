//! What the witnesses said last: the kernel of its queues, and the capture of itself.

use std::time::Duration;

use crate::engine::shard::Sums;
use crate::engine::tally::Counts;
use crate::model::{CaptureStats, KernelSample};
use crate::time::Timestamp;

/// Capture losses are judged over so long.
const LOSS_WINDOW: Duration = Duration::from_secs(10);
/// More than this share lost, and counts are too low.
const LOSS_LIMIT: f64 = 0.05;
/// A handshake is seen whole only if its three segments are, so a loss of 5 % leaves gaps in 14 %
/// of them.
const GAPS_LIMIT: f64 = 0.14;
/// More than this share lost, and what is missing may be an attack of its own.
const LOSS_BLIND: f64 = 0.2;
/// The gaps of that.
const GAPS_BLIND: f64 = 0.49;
/// The same for frames that cannot be decoded and may hold handshakes, of which there must be so
/// many.
const HIDDEN_BLIND: f64 = 0.1;
const HIDDEN_ENOUGH: u64 = 100;
/// Answers to one SYN that is seen: the first, and `tcp_synack_retries` repeats, of which the
/// default is 5. More by so many per window answer others.
const ANSWERS: u64 = 6;
const ANSWERS_ENOUGH: u64 = 100;
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
    /// Whether it is the first look.
    pub first: bool,
    /// Requests to services that are watched and have no place.
    pub unplaced: u32,
    /// Packets a second that found no place in netfilter's connection table.
    pub conntrack_drop_rate: f64,
}

impl KernelView {
    pub fn new(sample: KernelSample, before: Option<&KernelSample>, unplaced: u32) -> Self {
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
            first: before.is_none(),
            unplaced,
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
    /// What its own counter says was lost.
    lost: RecentShare,
    /// Frames that may hold handshakes and could not be decoded.
    hidden: RecentShare,
    /// Handshakes (completed, presumed) as of the last look, when that was, and the share of those
    /// since the one before that had a part that was not shown.
    handshakes: (i64, i64),
    looked_at: Timestamp,
    gaps: f64,
}

/// A share of what was counted in the present window or in the one before, whichever is higher.
#[derive(Default)]
struct RecentShare {
    /// Both counts as of the beginning of the window.
    before: (u64, u64),
    since: Timestamp,
    share: f64,
}

impl RecentShare {
    /// Takes in the counts as of `now`: a part, of which more than `least` mean something, and the
    /// whole.
    fn look(&mut self, now: Timestamp, (part, whole): (u64, u64), least: u64) {
        let more = part.saturating_sub(self.before.0);
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = more as f64 / whole.saturating_sub(self.before.1).max(1) as f64;
        let share = if more > least { share } else { 0.0 };
        self.share = self.share.max(share);
        if now - self.since >= LOSS_WINDOW {
            *self = Self { before: (part, whole), since: now, share };
        }
    }
}

/// SYNs and SYN-ACKs of a service in the present window, and whether SYNs were missing in it or in
/// the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answers {
    before: (u64, u64),
    since: Timestamp,
    pub exceed: bool,
}

impl Answers {
    /// Takes in the counts as of `now`.
    pub fn look(&mut self, now: Timestamp, counts: &Counts) {
        let syn = counts.syn.saturating_sub(self.before.0);
        let syn_ack = counts.syn_ack.saturating_sub(self.before.1);
        // Where no client is seen at all, it is a capture of one direction, which is judged as such.
        let exceed = counts.from_clients > 0 && syn_ack > ANSWERS * syn + ANSWERS_ENOUGH;
        self.exceed |= exceed;
        if now - self.since >= LOSS_WINDOW {
            *self = Self { before: (counts.syn, counts.syn_ack), since: now, exceed };
        }
    }
}

impl CaptureView {
    /// Begins at `start`.
    pub const fn begin(&mut self, start: Timestamp) {
        self.lost.since = start;
        self.hidden.since = start;
        self.looked_at = start;
    }

    /// Takes in what the capture says of itself at `now`.
    pub fn take_in(&mut self, stats: CaptureStats, now: Timestamp) {
        self.stats = stats;
        self.lost.look(now, (stats.dropped, stats.received), 0);
    }

    /// Takes in what could be decoded up to `at`.
    pub fn look_for_hidden(&mut self, at: Timestamp, sums: &Sums) {
        self.hidden.look(at, (sums.hidden(), sums.packets), HIDDEN_ENOUGH);
    }

    /// Looks for losses that the capture does not count: connections that go on though a part of
    /// their handshake was never shown. Where that is true of nearly all, one direction is not
    /// captured.
    pub fn look_for_gaps(&mut self, at: Timestamp, sums: &Sums) {
        if at - self.looked_at < LOSS_WINDOW {
            return;
        }
        let outcomes = sums.outcomes();
        let whole = outcomes.completed;
        let partly = outcomes.presumed + sums.completed_midway.cast_signed();
        let presumed = partly - self.handshakes.1;
        let all = whole - self.handshakes.0 + presumed;
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = presumed as f64 / all.max(1) as f64;
        if all >= GAPS_ENOUGH {
            self.gaps = if share < 0.95 { share } else { 0.0 };
        }
        self.handshakes = (whole, partly);
        self.looked_at = at;
    }

    /// Whether the capture loses packets: by its own counter, or by what connections show that it
    /// missed.
    pub fn is_dropping(&self) -> bool {
        self.lost.share > LOSS_LIMIT || self.gaps >= GAPS_LIMIT
    }

    /// Whether it loses so many that an attack may be among them.
    pub fn is_blind(&self) -> bool {
        self.lost.share > LOSS_BLIND || self.gaps >= GAPS_BLIND
    }

    /// Whether so much cannot be decoded that an attack may be in it.
    pub fn is_undecoded(&self) -> bool {
        self.hidden.share > HIDDEN_BLIND
    }
}
