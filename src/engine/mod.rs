//! The engine: segments, kernel samples and time go in, detections and a report come out.
//!
//! One engine serves the daemon, `--once` and `replay` alike. It holds all state, performs no I/O and reads no
//! clock: whoever owns it hands in what was seen and when, and carries out the [`Action`]s.

mod baselines;
mod judge;
mod report;
mod sampling;
mod services;
mod settings;

use std::time::Duration;

use datasketches::hll::{Coupon, HllSketch};
use ipnet::IpNet;

pub use crate::detect::{Action, SavedBaseline};
pub use settings::{Mute, ServiceSettings, Settings};

use crate::detect::{Incidents, Scanners};
use crate::engine::judge::Groups;
use crate::engine::sampling::Sampler;
use crate::engine::services::Services;
use crate::flow::{
    Arrival, BIN, Event, FlowKey, Level, Lookup, Micros, Ranks, Role, Sampling, Seen, ServiceId,
    Tracker,
};
use crate::observe::{CaptureStats, Durations, KernelSample, Totals};
use crate::stats::{Attempt, BINS, Hosts, Recent, STEP, Step, network_of, source_of};
use crate::time::Timestamp;
use crate::wire::{Address, Flags, Segment, Skip};

/// What the kernel said last, and what has changed since the time before.
struct KernelView {
    sample: KernelSample,
    /// Requests a second that were dropped because their queue was full.
    drop_rate: f64,
    /// Requests a second that were answered by a cookie because their queue was full.
    cookie_rate: f64,
    /// Connections a second that found an accept queue full.
    overflow_rate: f64,
}

impl KernelView {
    fn new(sample: KernelSample, before: Option<&KernelSample>) -> Self {
        let rate = |name| {
            let before = before?;
            let more = sample.counters.get(name)?.saturating_sub(*before.counters.get(name)?);
            let seconds = (sample.at - before.at).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            (seconds > 0.0).then(|| more as f64 / seconds)
        };
        Self {
            drop_rate: rate("TCPReqQFullDrop").unwrap_or(0.0),
            // With cookies at 2 every request is answered by one, and counted as if the queue were full.
            cookie_rate: rate("TCPReqQFullDoCookies")
                .filter(|_| sample.sysctls.syncookies != Some(2))
                .unwrap_or(0.0),
            // Not `ListenDrops`, which a flood raises too.
            overflow_rate: rate("ListenOverflows").unwrap_or(0.0),
            sample,
        }
    }

    /// Whether requests found their queue full.
    fn is_queue_full(&self) -> bool {
        self.drop_rate + self.cookie_rate > 0.0
    }
}

/// What the capture said, over the last seconds.
#[derive(Default)]
struct CaptureView {
    stats: CaptureStats,
    /// Received and dropped in the seconds before.
    recent: CaptureStats,
    since: Timestamp,
    /// Its own counter says so.
    dropping: bool,
    /// Handshakes (completed, presumed) as of the last look, when that was, and whether of those since the
    /// one before too many had a part that was not shown.
    handshakes: (u64, u64),
    looked_at: Timestamp,
    gaps: bool,
}

impl CaptureView {
    /// Whether the capture loses packets: by its own counter, or by what connections show that it
    /// missed.
    const fn is_dropping(&self) -> bool {
        self.dropping || self.gaps
    }
}

/// A segment whose flow is being fetched.
struct Queued {
    at: Timestamp,
    interface: u32,
    level: Level,
    settled: Level,
    flow: FlowKey,
    segment: Segment,
}

/// The engine.
pub struct Engine {
    settings: Settings,
    sampler: Sampler,
    /// The part of the table that is thinned out next, while that goes on.
    thinning: Option<usize>,
    /// The highest level that there ever was.
    heaviest: Level,
    queue: Vec<Queued>,
    tracker: Tracker,
    services: Services,
    hosts: Hosts,
    scanners: Scanners,
    groups: Groups,
    /// Sources that completed in the last day, and networks that did in the last hour.
    completed_sources: Recent,
    completed_networks: Recent,
    /// Sources whose attempts failed in the last minute or two.
    failed_sources: Recent,
    incidents: Incidents,
    /// How many of them were active at the end of the last step.
    told: u32,
    actions: Vec<Action>,
    kernel: Option<KernelView>,
    capture: CaptureView,
    totals: Totals,
    /// The variances of the totals, as far as they come from sampling.
    squares: Totals,
    /// SYNs that repeat no attempt and were looked at, and those that they stand for.
    attempts: u64,
    weighted_attempts: u64,
    /// The most handshakes that had timed out, or were presumed complete, at the end of any step:
    /// counters do not fall where the first word was not the last.
    timed_out: u64,
    presumed: u64,
    sources: HllSketch,
    durations: Durations,
    packets: u64,
    segments: u64,
    /// By the numbers of the reasons.
    skipped: [u64; Skip::COUNT],
    /// Segments that servers sent.
    from_servers: u64,
    start: Timestamp,
    now: Timestamp,
    next_bin: Timestamp,
    step: Step,
    step_began: Timestamp,
    draw: u64,
    /// At the end of a file, the time of its last packet.
    last_packet: Option<Timestamp>,
    /// Whether `start` is known: in a file it is the time of the first segment.
    anchored: bool,
}

/// Time that may pass without a segment before everything is known to have expired.
const LONG_SILENCE: Duration = Duration::from_secs(1_200);
/// The latest time that counts, in the year 2554: only a damaged file says so, and time must be able
/// to go on.
const LATEST: Timestamp = Timestamp::from_nanos(u64::MAX - 3_600_000_000_000);
/// What opens or closes a connection.
const CONTROL: Flags = Flags(Flags::SYN.0 | Flags::FIN.0 | Flags::RST.0);
/// Segments that are queued: more than it takes to fetch what is known of a flow.
const QUEUE: usize = 32;
const STEP_NANOS: u64 = STEP.as_nanos() as u64;
/// log2 of the registers of the count of all sources: 16,384, a standard error of 0.8 %.
const ALL_SOURCES_LG_K: u8 = 14;
/// Capture losses are judged over so long.
const LOSS_WINDOW: Duration = Duration::from_secs(10);
/// More than this share lost, and counts are too low.
const LOSS_LIMIT: f64 = 0.05;
/// A handshake is seen whole only if its three segments are, so a loss of 5 % leaves gaps in 14 % of them.
const GAPS_LIMIT: f64 = 0.14;
/// Handshakes that are needed to say so.
const GAPS_ENOUGH: u64 = 30;

impl Engine {
    /// An engine whose time begins at `start`.
    #[must_use]
    pub fn new(settings: Settings, start: Timestamp) -> Self {
        let tracker =
            Tracker::new(settings.flows, settings.services, settings.key, settings.prepare);
        let hasher = *tracker.hasher();
        Self {
            services: Services::new(&settings, hasher, start),
            hosts: Hosts::new(hasher),
            scanners: Scanners::new(hasher),
            groups: Groups::new(hasher),
            completed_sources: Recent::new(24, Duration::from_secs(86_400), start),
            completed_networks: Recent::new(22, Duration::from_secs(3_600), start),
            failed_sources: Recent::new(22, Duration::from_secs(60), start),
            incidents: Incidents::default(),
            told: 0,
            actions: Vec::new(),
            kernel: None,
            capture: CaptureView { since: start, looked_at: start, ..CaptureView::default() },
            totals: Totals::default(),
            squares: Totals::default(),
            attempts: 0,
            weighted_attempts: 0,
            timed_out: 0,
            presumed: 0,
            sources: crate::stats::sketch(ALL_SOURCES_LG_K),
            durations: Durations::default(),
            packets: 0,
            segments: 0,
            skipped: [0; Skip::COUNT],
            from_servers: 0,
            start,
            now: start,
            next_bin: start + BIN,
            step: Step(0),
            step_began: start,
            draw: 0,
            last_packet: None,
            anchored: true,
            sampler: Sampler::new(settings.packet_budget),
            thinning: None,
            heaviest: Level::ALL,
            queue: Vec::with_capacity(QUEUE),
            tracker,
            settings,
        }
    }

    /// An engine whose time begins with its first segment.
    #[must_use]
    pub fn idle(settings: Settings) -> Self {
        Self { anchored: false, ..Self::new(settings, Timestamp::EPOCH) }
    }

    #[inline]
    fn reach(&mut self, now: Timestamp) {
        if now < self.next_bin && self.anchored {
            self.now = self.now.max(now);
        } else {
            self.reach_bin(now);
        }
    }

    fn reach_bin(&mut self, now: Timestamp) {
        if !self.anchored {
            self.anchor(now);
        }
        self.advance(now);
    }

    fn anchor(&mut self, start: Timestamp) {
        let start = start.min(LATEST);
        self.anchored = true;
        self.start = start;
        self.now = start;
        self.next_bin = start + BIN;
        self.step_began = start;
        self.capture.since = start;
        self.capture.looked_at = start;
        self.services.advance(start, self.step);
    }

    /// The time that the engine has come to.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// Takes in a segment that arrived at `now` on the interface number `interface` (0 where copies on
    /// several interfaces cannot be). Time never runs backwards: an earlier `now` counts as the latest.
    pub fn handle_segment(&mut self, now: Timestamp, segment: &Segment, interface: u32) {
        self.queue_segment(now, segment, interface);
        self.handle_queue();
    }

    /// The same, but not before [`Self::handle_queue`], or 32 segments later: by then the processor has fetched
    /// what is known of the flow.
    #[inline]
    pub fn queue_segment(&mut self, at: Timestamp, segment: &Segment, interface: u32) {
        let flow = self.tracker.hasher().flow(segment);
        let (level, settled) = match self.sampler.is_exact() {
            true => (Level::ALL, Level::ALL),
            false => self.sampler.levels(flow.ends),
        };
        if !level.includes(flow.hash.rank()) {
            return self.handle_skip(Some(at), Skip::Unsampled);
        }
        self.tracker.prefetch(flow.hash);
        self.queue.push(Queued { at, interface, level, settled, flow, segment: *segment });
        if self.queue.len() == QUEUE {
            self.handle_queue();
        }
    }

    /// Takes in all segments that are queued.
    pub fn handle_queue(&mut self) {
        let mut queue = std::mem::take(&mut self.queue);
        for queued in &queue {
            self.handle(queued);
        }
        queue.clear();
        self.queue = queue;
    }

    fn handle(&mut self, queued: &Queued) {
        let Queued { at, interface, level, settled, flow, segment } = *queued;
        self.reach(at);
        let micros = self.now.as_nanos().saturating_sub(self.start.as_nanos()) / 1_000;
        #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32 by contract")]
        let arrival = Arrival { micros: micros as u32, interface, level, settled };
        let seen = self.tracker.handle(&segment, &flow, arrival, &mut self.services);
        match seen.event {
            Event::Copy => return self.handle_skip(None, Skip::Duplicate),
            Event::Unsampled => return self.handle_skip(None, Skip::Unsampled),
            _ => {}
        }
        self.packets += 1;
        self.segments += 1;
        if seen.event == Event::None && !segment.flags.intersects(CONTROL) {
            // Data and its acknowledgements, by far the most of them.
            self.from_servers += u64::from(!seen.from_client);
            self.services.get_mut(seen.service).packets += 1;
            return;
        }
        let source = || Coupon::from_value(self.tracker.hasher().address(segment.source));
        let source = segment.flags.is_syn().then(source);
        self.count(&segment, &seen, source);
        self.note(&segment, &seen, source);
    }

    /// Takes in a frame that gave no segment, and arrived at `at` where that is known.
    pub fn handle_skip(&mut self, at: Option<Timestamp>, skip: Skip) {
        if let Some(at) = at.filter(|at| *at >= self.next_bin || !self.anchored) {
            self.handle_queue();
            self.reach(at);
        }
        self.packets += 1;
        self.skipped[skip as usize] += 1;
    }

    /// Takes in what the capture says of itself.
    pub fn handle_capture(&mut self, stats: CaptureStats) {
        let view = &mut self.capture;
        view.stats = stats;
        let lost = stats.dropped.saturating_sub(view.recent.dropped);
        let received = stats.received.saturating_sub(view.recent.received);
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = lost as f64 / received.max(1) as f64;
        view.dropping = view.dropping || share > LOSS_LIMIT;
        if self.now - view.since >= LOSS_WINDOW {
            view.dropping = share > LOSS_LIMIT;
            view.recent = stats;
            view.since = self.now;
        }
    }

    /// Looks for losses that the capture does not count: connections that go on though a part of their
    /// handshake was never shown. Where that is true of nearly all, one direction is not captured.
    fn look_for_gaps(&mut self, at: Timestamp) {
        let view = &mut self.capture;
        if at - view.looked_at < LOSS_WINDOW {
            return;
        }
        let totals = &self.totals;
        let completed = totals.handshakes_completed.saturating_sub(view.handshakes.0);
        let presumed = totals.handshakes_presumed.saturating_sub(view.handshakes.1);
        let all = completed + presumed;
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = presumed as f64 / all.max(1) as f64;
        if all >= GAPS_ENOUGH {
            view.gaps = (GAPS_LIMIT..0.95).contains(&share);
        }
        view.handshakes = (totals.handshakes_completed, totals.handshakes_presumed);
        view.looked_at = at;
    }

    /// Takes in a look at the kernel.
    pub fn handle_kernel(&mut self, sample: KernelSample) {
        self.services.listen(sample.listeners.clone());
        for id in self.services.ids() {
            self.services.get_mut(id).kernel_half_open =
                self.services.get(id).listener.is_some().then_some(0);
        }
        for row in &sample.half_open {
            let at = self.tracker.hasher().endpoint(row.address.into(), row.port);
            let id = self.services.service(at);
            if id != ServiceId::OTHER {
                let service = self.services.get_mut(id);
                service.kernel_half_open = Some(service.kernel_half_open.unwrap_or(0) + row.count);
            }
        }
        let before = self.kernel.take();
        self.kernel = Some(KernelView::new(sample, before.as_ref().map(|view| &view.sample)));
        if self.settings.kernel_only {
            self.judge_kernel();
        }
    }

    /// Judges by the kernel's word too, where the wire was not watched long enough to see what the
    /// kernel has kept for a minute.
    pub fn consult_kernel(&mut self) {
        self.judge_kernel();
    }

    /// Replaces the networks whose services are watched.
    pub fn watch(&mut self, networks: Vec<IpNet>) {
        self.services.watch(networks);
    }

    /// Lets time pass up to `now` and returns what there is to tell. To be called at least every
    /// [`STEP`].
    pub fn tick(&mut self, now: Timestamp) -> Vec<Action> {
        self.handle_queue();
        self.advance(now);
        std::mem::take(&mut self.actions)
    }

    /// Lets the attempts that are underway mature, at the end of a file: their time would have come.
    /// What comes of it is dated to the last packet.
    pub fn finish(&mut self) -> Vec<Action> {
        self.last_packet = Some(self.now);
        self.tick(self.now + STEP * (Step::MATURE + 2))
    }

    fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now.min(LATEST));
        if self.now - self.next_bin > LONG_SILENCE * 2 {
            // Within LONG_SILENCE everything expires and every incident clears; of the time after
            // it there is nothing to count.
            self.close_bins_until(self.next_bin + LONG_SILENCE);
            while !self.tracker.bin().0.is_multiple_of(BINS) {
                self.close_bins_until(self.next_bin);
            }
            self.step_began = self.now;
            self.next_bin = self.now + BIN;
        }
        self.close_bins_until(self.now);
    }

    /// When a step began, or will begin.
    fn begin_of(&self, step: Step) -> Timestamp {
        self.step_began.before(STEP * self.step.0.saturating_sub(step.0))
    }

    /// The step that lies so far back.
    #[inline]
    fn step_of(&self, age: Micros) -> Step {
        let into_step = self.now.as_nanos().saturating_sub(self.step_began.as_nanos());
        let before_step = (u64::from(age.0) * 1_000).saturating_sub(into_step);
        let steps = before_step.div_ceil(STEP_NANOS);
        Step(self.step.0.saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX)))
    }

    fn close_bins_until(&mut self, end: Timestamp) {
        while self.next_bin <= end {
            self.tracker.close_bin(self.services.in_use());
            self.thin_out();
            let at = self.next_bin;
            self.next_bin = at + BIN;
            if self.tracker.bin().0.is_multiple_of(BINS) {
                self.look_for_gaps(at);
                self.end_step(at);
                self.settle();
                self.sample();
                self.step = Step(self.step.0 + 1);
                self.step_began = at;
                self.services.advance(at, self.step);
                self.hosts.begin(self.step);
            }
        }
    }

    /// Goes on to take flows out of the table that are not looked at any more.
    fn thin_out(&mut self) {
        if let Some(part) = self.thinning {
            self.tracker.thin_out(part, |service| self.sampler.level_now(service));
            self.thinning = Some(part + 1).filter(|part| *part < Tracker::PARTS);
        }
    }

    /// Keeps the next step within the budget.
    fn sample(&mut self) {
        let fill = self.tracker.fill();
        if self.sampler.end_step(&self.services, self.tracker.hasher(), fill) {
            self.thinning = Some(0);
            self.heaviest = self.heaviest.max(self.sampler.highest());
        }
    }

    /// Which flows are looked at, and the numbers that this is told by.
    #[must_use]
    pub const fn sampling(&self) -> (&Sampling, &Ranks) {
        (self.sampler.now(), self.tracker.hasher().ranks())
    }

    /// Takes in what part of a processor's time was spent since the last step.
    pub fn handle_load(&mut self, share: f64) {
        self.sampler.afford(share, self.settings.cpu_share);
    }

    /// The totals, over all services. A SYN has a source.
    fn count(&mut self, segment: &Segment, seen: &Seen, source: Option<Coupon>) {
        let flags = segment.flags;
        // A RST for a flow that is not known has no role; it is an answer to something.
        self.from_servers += u64::from(!seen.from_client || flags.intersects(Flags::RST));
        let weight = seen.level.weight();
        let (totals, squares) = (&mut self.totals, &mut self.squares);
        let mut add = |total: fn(&mut Totals) -> &mut u64| {
            *total(totals) += u64::from(weight);
            *total(squares) += u64::from(weight) * u64::from(weight - 1);
        };
        if let Some(source) = source {
            add(|totals| &mut totals.syn);
            if seen.event == Event::SynRepeated {
                add(|totals| &mut totals.syn_retransmitted);
            } else {
                self.sources.update_with_coupon(source);
                self.attempts += 1;
                self.weighted_attempts += u64::from(weight);
            }
        }
        if flags.is_syn_ack() {
            add(|totals| &mut totals.syn_ack);
        }
        if flags.intersects(Flags::FIN) {
            add(|totals| &mut totals.fin);
        }
        if flags.intersects(Flags::RST) {
            add(|totals| &mut totals.rst);
        }
        match seen.event {
            Event::Completed | Event::CompletedLate => {
                add(|totals| &mut totals.handshakes_completed);
                if seen.event == Event::Completed {
                    self.durations.observe(Duration::from(seen.age).as_secs_f64(), weight);
                } else {
                    // It was presumed before.
                    let presumed = &mut totals.handshakes_presumed;
                    *presumed = presumed.saturating_sub(weight.into());
                }
            }
            Event::PresumedByServer | Event::PresumedByClient | Event::CompletedMidway => {
                add(|totals| &mut totals.handshakes_presumed);
            }
            Event::Refused(_) | Event::Reset(_) => add(|totals| &mut totals.handshakes_reset),
            Event::None
            | Event::Copy
            | Event::Unsampled
            | Event::Attempt
            | Event::SynRepeated
            | Event::Answered { .. }
            | Event::AnsweredMidway
            | Event::AnswerRepeated
            | Event::AnswerRepeatedAfterAck
            | Event::StrayReset => {}
        }
        totals.half_open_peak = totals.half_open_peak.max(self.tracker.half_open_total());
    }

    /// The windows of the service.
    fn note(&mut self, segment: &Segment, seen: &Seen, source: Option<Coupon>) {
        let now = self.now;
        let step = self.step;
        let flags = segment.flags;
        let began = self.step_of(seen.age);
        let weight = seen.level.weight();
        let service = self.services.get_mut(seen.service);
        service.packets += 1;
        if flags.is_syn() {
            service.syn += u64::from(weight);
            service.syn_squares += u64::from(weight) * u64::from(weight - 1);
            if let Some(window) = service.windows.at(step) {
                window.syn += weight;
            }
        }
        if flags.is_syn_ack() && !seen.from_client {
            service.syn_ack += u64::from(weight);
        }
        let client = if seen.from_client { segment.source } else { segment.destination };
        let host = if seen.from_client { segment.destination } else { segment.source };
        if service.ignores(client) {
            service.last_seen = now;
            if let (Event::Attempt, Some(window)) = (seen.event, service.windows.at(step)) {
                window.ignored += weight;
            }
            return;
        }
        let answers_only = service.sees_answers_only();
        let window = service.windows.at(began);
        match seen.event {
            Event::Attempt => {
                service.attempts += 1;
                service.weighted_attempts += u64::from(weight);
                service.last_seen = now;
                if let Some(window) = window {
                    window.unanswered += weight;
                }
                if let Some(source) = source {
                    service.count_source(source);
                }
                self.draw = self.draw.wrapping_add(1);
                service.failures.offer(step, seen.flow.0.rotate_left(17) ^ self.draw, || {
                    Attempt::new(seen.flow, now, segment)
                });
                if seen.service != ServiceId::OTHER || self.services.is_watched(host) {
                    self.hosts.attempt(host, client, weight);
                }
            }
            Event::Answered { late } => {
                service.last_seen = now;
                if let Some(window) = window {
                    window.unanswered = window.unanswered.saturating_sub(weight);
                }
                let answered = if late { step } else { began };
                if let Some(window) = service.windows.at(answered) {
                    window.answered += weight;
                }
            }
            Event::AnsweredMidway => {
                // Where no SYN can be seen, answers are all that there is to count.
                if answers_only {
                    service.last_seen = now;
                    if let Some(window) = service.windows.at(step) {
                        window.answered += weight;
                    }
                }
                self.stray(segment, weight);
            }
            Event::StrayReset => self.stray(segment, weight),
            Event::AnswerRepeatedAfterAck => {
                if let Some(window) = service.windows.at(step) {
                    window.resent_after_ack += weight;
                }
            }
            Event::Completed | Event::PresumedByServer => {
                if let Some(window) = window {
                    window.completed += weight;
                }
                self.complete(host, client, began, weight);
            }
            Event::PresumedByClient => {
                if let Some(window) = window {
                    window.unanswered = window.unanswered.saturating_sub(weight);
                    window.answered += weight;
                    window.completed += weight;
                }
                // A source that only claims to go on is not remembered as known.
                self.hosts.complete(host, began, weight);
            }
            Event::CompletedMidway if answers_only => {
                if let Some(window) = window {
                    window.completed += weight;
                }
                self.complete(host, client, began, weight);
            }
            Event::Refused(Role::Server) => {
                if let Some(window) = window {
                    window.unanswered = window.unanswered.saturating_sub(weight);
                    window.refused += weight;
                }
            }
            Event::Reset(Role::Client) => {
                if let Some(window) = window {
                    window.reset += weight;
                }
            }
            Event::Reset(Role::Server) => {
                if let Some(window) = window {
                    window.answered = window.answered.saturating_sub(weight);
                    window.refused += weight;
                }
            }
            Event::Refused(Role::Client)
            | Event::CompletedMidway
            | Event::CompletedLate
            | Event::SynRepeated
            | Event::AnswerRepeated
            | Event::Copy
            | Event::Unsampled
            | Event::None => {}
        }
    }

    /// A SYN-ACK or RST that answers nothing.
    fn stray(&mut self, segment: &Segment, weight: u32) {
        if self.services.is_watched(segment.destination) {
            self.hosts.stray(segment.destination, segment.source, weight);
        }
    }

    fn complete(&mut self, host: Address, client: Address, began: Step, weight: u32) {
        let hasher = self.tracker.hasher();
        self.completed_sources.insert(hasher.address(source_of(client)));
        self.completed_networks.insert(hasher.address(network_of(client)));
        self.hosts.complete(host, began, weight);
    }
}

#[cfg(test)]
mod tests;
