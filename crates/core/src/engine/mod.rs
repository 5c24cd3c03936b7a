//! The engine: segments, kernel samples and time go in, detections and a report come out.
//!
//! One engine serves the daemon, `--once` and `replay` alike. It holds all state, performs no I/O
//! and reads no clock: whoever owns it hands in what was seen and when, and carries out the
//! [`Action`]s.

mod directory;
mod judge;
mod report;
mod sampling;
mod services;
mod settings;
mod shard;
mod shards;
mod tally;
mod witnesses;

use std::num::NonZeroUsize;
use std::time::Duration;

use ipnet::IpNet;

pub use crate::detect::{RateLimits, SavedBaseline, SavedSeries};
pub use crate::incident::Action;
pub use crate::stats::STEP;
pub use settings::{Mute, ServiceSettings, Settings};
pub use shard::Shard;

use crate::document::{Handshakes, Snapshot};
use crate::engine::directory::Shared;
use crate::engine::judge::{Judge, Moment};
use crate::engine::report::{View, outcomes};
use crate::engine::sampling::Sampler;
use crate::engine::services::Services;
use crate::engine::shard::Completed;
use crate::engine::shards::Shards;
use crate::engine::witnesses::{CaptureView, KernelView};
use crate::flow::{Hasher, Sampling, SamplingKey, SamplingLevel, ServiceId};
use crate::model::{CaptureStats, KernelSample};
use crate::stats::Step;
use crate::time::Timestamp;
use crate::wire::{Segment, Skip};

/// The engine.
pub struct Engine {
    settings: Settings,
    hasher: Hasher,
    shards: Shards,
    sampler: Sampler,
    /// The highest level that there ever was.
    heaviest: SamplingLevel,
    services: Services,
    judge: Judge,
    kernel: Option<KernelView>,
    capture: CaptureView,
    /// Outcomes as counters, as of the end of the step before.
    handshakes: Handshakes,
    /// The most half-open connections at once.
    half_open_peak: u64,
    start: Timestamp,
    now: Timestamp,
    step: Step,
    step_began: Timestamp,
    /// At the end of a file, the time of its last packet.
    last_packet: Option<Timestamp>,
    /// Whether `start` is known: in a file it is the time of the first segment.
    anchored: bool,
}

/// An engine whose shards others work on. Without them it can neither take segments nor let time
/// pass, so it is only reached [with all of them](Self::assemble).
pub struct Parted(Engine);

impl Parted {
    /// How many shards there are.
    #[must_use]
    pub const fn shards(&self) -> NonZeroUsize {
        self.0.shards()
    }

    /// As [`Engine::hasher`].
    #[must_use]
    pub const fn hasher(&self) -> &Hasher {
        self.0.hasher()
    }

    /// As [`Engine::step_end`].
    #[must_use]
    pub fn step_end(&self) -> Timestamp {
        self.0.step_end()
    }

    /// Runs `work` on the whole engine; takes all of its shards, in their order, and gives them
    /// back so.
    pub fn assemble<T>(
        &mut self,
        shards: Vec<Shard>,
        work: impl FnOnce(&mut Engine) -> T,
    ) -> (Vec<Shard>, T) {
        self.0.shards.put(shards);
        let outcome = work(&mut self.0);
        (self.0.shards.take(), outcome)
    }

    /// Joins it with its shards, in their order.
    #[must_use]
    pub fn join(mut self, shards: Vec<Shard>) -> Engine {
        self.0.shards.put(shards);
        self.0
    }
}

/// Time that may pass without a segment before everything is known to have expired.
const LONG_SILENCE: Duration = Duration::from_secs(1_200);
/// The latest time that counts, in the year 2554: only a damaged file says so, and time must be
/// able to go on.
pub const LATEST: Timestamp = Timestamp::from_nanos(u64::MAX - 3_600_000_000_000);
const STEP_NANOS: u64 = STEP.as_nanos() as u64;
impl Engine {
    /// An engine of one shard whose time begins at `start`.
    #[must_use]
    pub fn new(settings: Settings, start: Timestamp) -> Self {
        let mut engine = Self::idle(settings);
        engine.anchor(start);
        engine
    }

    /// An engine of one shard whose time begins with its first segment.
    #[must_use]
    pub fn idle(settings: Settings) -> Self {
        Self::sharded(settings, NonZeroUsize::MIN)
    }

    /// The same with its flows divided among so many shards.
    #[must_use]
    pub fn sharded(settings: Settings, shards: NonZeroUsize) -> Self {
        let start = Timestamp::EPOCH;
        let hasher = Hasher::new(settings.key);
        let directory = Shared::new(&settings, hasher);
        let completed = Completed::new(start);
        let mut engine = Self {
            shards: Shards::new(&settings, shards, &directory, &completed),
            sampler: Sampler::new(settings.packet_budget),
            heaviest: SamplingLevel::ALL,
            services: Services::new(&settings, hasher, directory, start),
            judge: Judge::new(hasher, completed, start),
            kernel: None,
            capture: CaptureView::default(),
            handshakes: Handshakes::default(),
            half_open_peak: 0,
            start,
            now: start,
            step: Step(0),
            step_began: start,
            last_packet: None,
            anchored: false,
            hasher,
            settings,
        };
        engine.instruct();
        engine
    }

    fn anchor(&mut self, start: Timestamp) {
        let start = start.min(LATEST);
        self.anchored = true;
        self.start = start;
        self.now = start;
        self.step_began = start;
        self.capture.begin(start);
        self.services.advance(start, self.step);
        for shard in self.shards.iter_mut() {
            shard.anchor(start);
        }
        self.instruct();
    }

    /// The time that the engine has come to.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// How many shards there are.
    #[must_use]
    pub const fn shards(&self) -> NonZeroUsize {
        self.shards.count()
    }

    /// The keyed hasher: it tells the flow of a segment, and so its shard.
    #[must_use]
    pub const fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// Parts it from its shards, for others to work on these. They are in their order.
    #[must_use]
    pub fn part(mut self) -> (Parted, Vec<Shard>) {
        let shards = self.shards.take();
        (Parted(self), shards)
    }

    /// Takes in a segment that arrived at `now` on the interface number `interface` (0 where copies
    /// on several interfaces cannot be). Time never runs backwards: an earlier `now` counts as the
    /// latest.
    pub fn handle_segment(&mut self, now: Timestamp, segment: &Segment, interface: u32) {
        self.queue_segment(now, segment, interface);
        self.handle_queue();
    }

    /// The same, but not before [`Self::handle_queue`], or 32 segments later: by then the processor
    /// has fetched what is known of the flow.
    pub fn queue_segment(&mut self, at: Timestamp, segment: &Segment, interface: u32) {
        self.queue_frame(at, interface, |queued| {
            *queued = *segment;
            Ok(())
        });
    }

    /// The same of a frame whose segment `decode` writes to where it will wait, or says why there
    /// is none.
    #[inline]
    pub fn queue_frame(
        &mut self,
        at: Timestamp,
        interface: u32,
        decode: impl FnOnce(&mut Segment) -> Result<(), Skip>,
    ) {
        let next = self.shards.first().next_queued();
        if let Err(skip) = decode(&mut next.segment) {
            return self.handle_skip(Some(at), skip);
        }
        next.at = at.min(LATEST);
        next.interface = interface;
        next.flow = self.hasher.flow(&next.segment);
        if self.shards.queue_next() {
            self.handle_queue();
        }
    }

    /// Takes in all segments that are queued.
    pub fn handle_queue(&mut self) {
        let mut end = self.step_end();
        while let Some(next) = self.shards.handle_queues_until(end) {
            self.reach(next);
            end = self.step_end();
        }
        self.now = self.shards.now().max(self.now);
    }

    /// Takes in a frame that gave no segment, and arrived at `at` where that is known.
    pub fn handle_skip(&mut self, at: Option<Timestamp>, skip: Skip) {
        if let Some(at) = at.map(|at| at.min(LATEST)) {
            if at >= self.shards.first().next_bin() {
                self.handle_queue();
                self.reach(at);
            } else {
                // Within a bin nothing is due.
                self.now = self.now.max(at);
            }
        }
        self.shards.first().skip(skip);
    }

    /// Lets time pass up to `at`, from which on it counts where it has not begun yet.
    pub fn reach(&mut self, at: Timestamp) {
        if !self.anchored {
            self.anchor(at);
        }
        self.advance(at);
    }

    /// When the present step ends; before a segment of that time or later [`Self::reach`] it.
    #[must_use]
    pub fn step_end(&self) -> Timestamp {
        if self.anchored { self.step_began + STEP } else { Timestamp::EPOCH }
    }

    /// Takes in what the capture says of itself.
    pub fn handle_capture(&mut self, stats: CaptureStats) {
        self.capture.take_in(stats, self.now);
    }

    /// Takes in a look at the kernel.
    pub fn handle_kernel(&mut self, sample: KernelSample) {
        self.collect();
        for (before, after) in self.services.listen(&sample.listeners) {
            self.judge.rename(before, after);
        }
        for id in self.services.ids() {
            let service = self.services.get_mut(id);
            service.kernel_half_open = service.listener.is_some().then_some(0);
            service.kernel_resent = 0;
            self.inform(id);
        }
        let mut unplaced = 0;
        for row in &sample.half_open {
            let id = self.services.service(row.address.into(), row.port);
            if id == ServiceId::OTHER {
                let watched = self.services.is_watched(row.address.into());
                unplaced += if watched { row.count } else { 0 };
            } else {
                let service = self.services.get_mut(id);
                service.kernel_half_open = Some(service.kernel_half_open.unwrap_or(0) + row.count);
                service.kernel_resent += row.retransmitted;
            }
        }
        self.instruct();
        let before = self.kernel.take();
        let before = before.as_ref().map(|view| &view.sample);
        self.kernel = Some(KernelView::new(sample, before, unplaced));
        let (judge, services, moment) = self.parts();
        // The kernel does not say whose queue was full: while there is a flood, it was that one.
        let flooded = judge.is_flooded();
        for id in services.ids() {
            let service = services.get(id);
            let burst = (!flooded && service.listener.is_some()).then(|| moment.burst(service));
            let full = moment.is_full(service);
            let overflows = full && moment.overflows(id, service);
            let service = services.get_mut(id);
            service.overflow.look(moment.now, overflows);
            if let Some(burst) = burst {
                service.overruns.look(moment.now, burst);
            }
            service.full_looks = if full { service.full_looks.saturating_add(1) } else { 0 };
        }
        if self.settings.kernel_only {
            self.consult_kernel();
        }
    }

    /// Judges by the kernel's word too, where the wire was not watched long enough to see what the
    /// kernel has kept for a minute.
    pub fn consult_kernel(&mut self) {
        let (judge, services, moment) = self.parts();
        judge.judge_kernel(services, &moment);
    }

    /// Those who judge and are judged, and what is read for it.
    const fn parts(&mut self) -> (&mut Judge, &mut Services, Moment<'_>) {
        let moment = Moment {
            now: self.now,
            step: self.step,
            step_began: self.step_began,
            last_packet: self.last_packet,
            settings: &self.settings,
            shards: &self.shards,
            sampler: &self.sampler,
            kernel: self.kernel.as_ref(),
            capture: &self.capture,
        };
        (&mut self.judge, &mut self.services, moment)
    }

    /// The state as of `now`, which is not before the last segment or tick.
    #[must_use]
    pub fn snapshot(&mut self, now: Timestamp) -> Snapshot {
        self.collect();
        let now = now.max(self.now);
        let (heaviest, half_open_peak, start) = (self.heaviest, self.half_open_peak, self.start);
        let mut handshakes = self.handshakes;
        let (judge, services, moment) = self.parts();
        let (incidents, groups_evicted) = (judge.incidents(), judge.groups_evicted());
        let view =
            View { moment, services, incidents, groups_evicted, heaviest, half_open_peak, start };
        let snapshot = view.snapshot(now, &mut handshakes);
        self.handshakes = handshakes;
        snapshot
    }

    /// What was learned of every service, those included that have not been seen since
    /// [`restore`](Self::restore).
    ///
    /// An incident is no reason not to ask: nothing is learned from one that pages, so what is
    /// given out is what was known before it.
    #[must_use]
    pub fn baselines(&self) -> Vec<SavedBaseline> {
        self.services.baselines()
    }

    /// Takes in what was learned before, as much of it as there may be services, newest first;
    /// returns how many baselines will be used. A service that has no place yet takes its baseline
    /// when it gets one. Not used are those that are older than 30 days or hold what is no number,
    /// and those of services that have begun to learn.
    pub fn restore(&mut self, saved: Vec<SavedBaseline>) -> usize {
        self.services.restore(saved, self.now)
    }

    /// Replaces the networks whose services are watched.
    pub fn watch(&mut self, networks: Vec<IpNet>) {
        self.services.directory().watch(networks);
        self.instruct();
    }

    /// Lets time pass up to `now` and returns what there is to tell. To be called at least every
    /// [`STEP`].
    pub fn tick(&mut self, now: Timestamp) -> Vec<Action> {
        self.handle_queue();
        self.advance(now);
        self.judge.take_actions()
    }

    /// Lets the attempts that are underway mature, at the end of a file: their time would have
    /// come. What comes of it is dated to the last packet.
    pub fn finish(&mut self) -> Vec<Action> {
        self.collect();
        self.last_packet = Some(self.now);
        let maturities = self.services.ids().map(|id| self.services.get(id).maturity());
        let longest = maturities.max().unwrap_or(Step::MATURE);
        self.tick(self.now + STEP * (longest + 2))
    }

    /// Lets time pass up to `now`: steps end and are judged.
    fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now.min(LATEST));
        if self.now - self.step_began > LONG_SILENCE * 2 {
            // Within LONG_SILENCE everything expires and every incident clears; of the time after
            // it there is nothing to count.
            self.end_steps_until(self.step_began + LONG_SILENCE);
            self.step_began = self.now;
            for shard in self.shards.iter_mut() {
                shard.jump(self.now);
            }
            self.instruct();
        }
        self.end_steps_until(self.now);
        for shard in self.shards.iter_mut() {
            shard.advance(self.now);
        }
    }

    fn end_steps_until(&mut self, end: Timestamp) {
        while self.step_began + STEP <= end {
            let at = self.step_began + STEP;
            for shard in self.shards.iter_mut() {
                shard.advance(at);
            }
            self.collect();
            self.draw();
            let sums = self.shards.sums();
            self.capture.look_for_gaps(at, &sums);
            self.capture.look_for_hidden(at, &sums);
            self.services.look_at_answers(at);
            let (judge, services, moment) = self.parts();
            judge.end_step(at, services, &moment);
            // A counter must not fall where the first word was not the last.
            self.handshakes = self.handshakes.max(outcomes(&self.shards, &self.shards.sums()));
            self.sample();
            self.step = Step(self.step.0 + 1);
            self.step_began = at;
            self.services.advance(at, self.step);
            self.instruct();
        }
    }

    /// Takes in what the shards have counted since the last call.
    fn collect(&mut self) {
        self.services.admit();
        let (mut touched, mut peak) = (Vec::new(), 0);
        for shard in self.shards.iter_mut() {
            shard.enter_completions();
            peak += shard.take_peak();
            for id in shard.tallies.take_touched() {
                self.services.get_mut(id).collect(shard.tallies.of_collected(id));
                touched.push(id);
            }
        }
        // Of several shards each may have had its most at another time within the step.
        self.half_open_peak = self.half_open_peak.max(peak);
        for id in touched {
            self.inform(id);
        }
    }

    /// Has all shards know what is known of a service by now.
    fn inform(&mut self, id: ServiceId) {
        let service = self.services.get_mut(id);
        let answers_only = id != ServiceId::OTHER && service.sees_answers_only();
        let known = (service.is_one_way(), answers_only, service.patience(self.step_began));
        let mut directory = self.services.directory();
        let slot = directory.slot_mut(id);
        if (slot.one_way, slot.answers_only, slot.patience) != known {
            (slot.one_way, slot.answers_only, slot.patience) = known;
            for shard in self.shards.iter_mut() {
                shard.tallies.update(id, *slot);
            }
        }
    }

    /// Ends the samples of the present step.
    fn draw(&mut self) {
        let (step, size) = (self.step, self.services.sample());
        for id in self.services.ids().chain([ServiceId::OTHER]) {
            let draws = self.shards.iter_mut().filter_map(|shard| shard.tallies.draw(id, step));
            self.services.get_mut(id).samples.end(step, size, draws);
        }
    }

    /// Has all shards know how to go on.
    fn instruct(&mut self) {
        let (levels, sample) = (self.sampler.levels(), self.services.sample());
        let version = self.services.directory().version();
        let limit = (self.step_end() + STEP).before(Duration::from_nanos(1));
        for shard in self.shards.iter_mut() {
            shard.levels = levels.clone();
            shard.sample = sample;
            shard.limit = limit;
            shard.tallies.forget_before(version);
        }
    }

    /// Keeps the next step within the budget.
    fn sample(&mut self) {
        let fill = self.shards.fill();
        if self.sampler.end_step(&self.services, &self.hasher, fill) {
            for shard in self.shards.iter_mut() {
                shard.thinning = Some(0);
            }
            self.heaviest = self.heaviest.max(self.sampler.highest());
        }
    }

    /// Which flows are looked at, and the numbers that this is told by.
    #[must_use]
    pub fn sampling(&self) -> (&Sampling, &SamplingKey) {
        (self.sampler.now(), self.hasher.sampling_key())
    }

    /// Takes in what part of a processor's time was spent since the last step.
    pub fn handle_load(&mut self, share: f64) {
        self.sampler.afford(share, self.settings.cpu_share);
    }
}

#[cfg(test)]
mod tests;
