//! A shard: the packet path. It keeps the flows that fall to it and counts what they do; it judges
//! nothing.
//!
//! Shards share nothing that a packet needs, so each can be worked on by a thread of its own. At
//! the end of a step the engine collects what they have counted: sums, samples and sketches, which
//! come out the same however the flows are divided.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datasketches::hll::{Coupon, HllSketch};

use crate::document::Durations;
use crate::engine::STEP_NANOS;
use crate::engine::directory::Shared;
use crate::engine::sampling::Levels;
use crate::engine::settings::Settings;
use crate::engine::tally::Tallies;
use crate::flow::{
    Arrival, BIN, Event, FlowKey, Hasher, Micros, Role, SamplingLevel, Seen, ServiceId, Standing,
    Tracker,
};
use crate::stats::{Attempt, BINS, Hosts, Priority, Recent, Step, network_of, sketch, source_of};
use crate::time::Timestamp;
use crate::wire::{Address, Flags, Segment, Skip};

/// What opens a connection or resets it.
const OPENS_OR_RESETS: Flags = Flags(Flags::SYN.0 | Flags::RST.0);
/// Segments that are queued: more than it takes to fetch what is known of a flow.
const QUEUE: usize = 32;
/// Completions that are kept until they are entered together.
const COMPLETED: usize = 256;
/// log2 of the registers of the count of all sources: 16,384, a standard error of 0.8 %.
pub(super) const ALL_SOURCES_LG_K: u8 = 14;

/// Who completed a handshake of late: sources in the last day, networks in the last hour.
pub struct Known {
    pub sources: Recent,
    pub networks: Recent,
}

/// What all shards know together.
#[derive(Clone)]
pub struct Completed(Arc<Mutex<Known>>);

impl Completed {
    /// Nobody yet.
    pub fn new(start: Timestamp) -> Self {
        let sources = Recent::new(24, Duration::from_secs(86_400), start);
        let networks = Recent::new(22, Duration::from_secs(3_600), start);
        Self(Arc::new(Mutex::new(Known { sources, networks })))
    }

    /// Who did, for the time that the guard lives.
    pub fn look(&self) -> MutexGuard<'_, Known> {
        // A bit more or less is no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A segment whose flow is being fetched.
#[derive(Clone, Copy, Default)]
pub struct Queued {
    pub at: Timestamp,
    pub interface: u32,
    level: SamplingLevel,
    settled: SamplingLevel,
    pub flow: FlowKey,
    pub segment: Segment,
}

/// Segments by kind.
#[derive(Clone, Default)]
pub struct Segments {
    pub syn: u64,
    pub syn_retransmitted: u64,
    pub syn_ack: u64,
    pub fin: u64,
    pub rst: u64,
}

impl Segments {
    const fn add(&mut self, other: &Self) {
        self.syn += other.syn;
        self.syn_retransmitted += other.syn_retransmitted;
        self.syn_ack += other.syn_ack;
        self.fin += other.fin;
        self.rst += other.rst;
    }
}

/// Attempts that an end, or what was seen, has decided; what time decides the tracker counts. One
/// shard's part may be below zero while flows are sampled.
#[derive(Clone, Default)]
pub struct Outcomes<T> {
    pub completed: T,
    pub presumed: T,
    pub reset: T,
}

/// What is counted over all services.
#[derive(Clone, Default)]
pub struct Sums {
    pub totals: Segments,
    /// Their variances, as far as they come from sampling.
    pub squares: Segments,
    /// Those of the outcomes.
    pub outcome_squares: Outcomes<u64>,
    /// Attempts by where they stand, less those that others counted there.
    standings: [i64; Standing::COUNT],
    /// Connections that completed and whose SYN was not seen: no attempts.
    pub completed_midway: u64,
    /// SYNs that repeat no attempt and were looked at, and those that they stand for.
    pub attempts: u64,
    pub weighted_attempts: u64,
    /// How long handshakes took.
    pub durations: Durations,
    pub packets: u64,
    pub segments: u64,
    /// By the numbers of the reasons.
    pub skipped: [u64; Skip::COUNT],
    /// Segments that servers sent.
    pub from_servers: u64,
}

impl Sums {
    /// Counts one segment or flow in a total, for as many as it stands for.
    #[inline]
    fn add(&mut self, level: SamplingLevel, total: impl Fn(&mut Segments) -> &mut u64) {
        let weight = u64::from(level.weight());
        *total(&mut self.totals) += weight;
        if weight > 1 {
            *total(&mut self.squares) += weight * (weight - 1);
        }
    }

    /// Moves an attempt from one standing to another.
    #[inline]
    fn turn(&mut self, was: Standing, is: Standing, level: SamplingLevel) {
        let weight = i64::from(level.weight());
        self.standings[was as usize] -= weight;
        self.standings[is as usize] += weight;
        if weight > 1 && was != is {
            let square = (weight * (weight - 1)).cast_unsigned();
            let squares = &mut self.outcome_squares;
            match is {
                Standing::Completed => squares.completed += square,
                Standing::Presumed => squares.presumed += square,
                _ if is.is_decided() => squares.reset += square,
                _ => {}
            }
        }
    }

    /// Attempts by their outcome.
    pub fn outcomes(&self) -> Outcomes<i64> {
        let count = |standing: Standing| self.standings[standing as usize];
        Outcomes {
            completed: count(Standing::Completed),
            presumed: count(Standing::Presumed),
            reset: count(Standing::Refused)
                + count(Standing::Withdrawn)
                + count(Standing::ResetByClient)
                + count(Standing::ResetByServer),
        }
    }

    /// Frames that gave no segment and may hold a handshake.
    pub fn hidden(&self) -> u64 {
        let hiding = Skip::ALL.iter().filter(|reason| reason.hides_handshake());
        hiding.map(|reason| self.skipped[*reason as usize]).sum()
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Self) {
        self.totals.add(&other.totals);
        self.squares.add(&other.squares);
        self.standings.iter_mut().zip(other.standings).for_each(|(sum, more)| *sum += more);
        self.completed_midway += other.completed_midway;
        self.attempts += other.attempts;
        self.weighted_attempts += other.weighted_attempts;
        self.durations.add(&other.durations);
        self.packets += other.packets;
        self.segments += other.segments;
        self.skipped.iter_mut().zip(other.skipped).for_each(|(sum, more)| *sum += more);
        self.from_servers += other.from_servers;
    }
}

/// A part of the flows.
pub struct Shard {
    pub(super) tracker: Tracker,
    pub(super) tallies: Tallies,
    pub(super) hosts: Hosts,
    pub(super) sums: Sums,
    pub(super) sources: HllSketch,
    /// The most half-open connections at once since they were last collected.
    pub(super) half_open_peak: u64,
    /// Which flows are looked at.
    pub(super) levels: Arc<Levels>,
    /// The part of the table that is thinned out next, while that goes on.
    pub(super) thinning: Option<usize>,
    /// Attempts to draw for each service in this step.
    pub(super) sample: usize,
    completed: Completed,
    /// Hashes of sources and networks that are not entered there yet.
    completions: Vec<(u64, u64)>,
    /// The first `queued` of these wait.
    queue: Box<[Queued]>,
    queued: usize,
    start: Timestamp,
    now: Timestamp,
    next_bin: Timestamp,
    step: Step,
    /// When the present step began, in microseconds since the start.
    step_began: u64,
    /// Where its time stands still until the engine's has come: the end of the step after the
    /// engine's.
    pub(super) limit: Timestamp,
}

impl Shard {
    /// One of `shards` shards.
    pub(super) fn new(
        settings: &Settings,
        shards: NonZeroUsize,
        directory: Shared,
        completed: Completed,
    ) -> Self {
        let tracker = Tracker::new(
            settings.flows / shards.get().next_power_of_two(),
            settings.services,
            settings.key,
            settings.prepare,
        );
        Self {
            tallies: Tallies::new(directory, settings.each.clone()),
            hosts: Hosts::new(*tracker.hasher()),
            tracker,
            sums: Sums::default(),
            sources: sketch(ALL_SOURCES_LG_K),
            half_open_peak: 0,
            levels: Arc::default(),
            thinning: None,
            sample: 0,
            completed,
            completions: Vec::with_capacity(COMPLETED),
            queue: vec![Queued::default(); QUEUE].into(),
            queued: 0,
            start: Timestamp::EPOCH,
            now: Timestamp::EPOCH,
            next_bin: Timestamp::EPOCH,
            step: Step(0),
            step_began: 0,
            limit: Timestamp::EPOCH,
        }
    }

    /// Begins at `start`.
    pub(super) fn anchor(&mut self, start: Timestamp) {
        self.start = start;
        self.jump(start);
    }

    /// Goes on at `now` with a bin and step that begin then.
    pub(super) fn jump(&mut self, now: Timestamp) {
        self.now = now;
        self.next_bin = now + BIN;
        self.step_began = self.micros(now);
    }

    /// The time that it has come to.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The most half-open connections at once since the last call.
    pub(super) fn take_peak(&mut self) -> u64 {
        std::mem::replace(&mut self.half_open_peak, self.tracker.half_open_total())
    }

    /// When the present bin ends.
    pub(super) const fn next_bin(&self) -> Timestamp {
        self.next_bin
    }

    /// The keyed hasher.
    #[must_use]
    pub const fn hasher(&self) -> &Hasher {
        self.tracker.hasher()
    }

    /// Lets time pass up to `now`, though not beyond the step after the engine's: bins close, and
    /// steps end.
    pub fn advance(&mut self, now: Timestamp) {
        let now = now.min(self.limit);
        while self.next_bin <= now {
            self.tracker.close_bin(self.tallies.len());
            self.thin_out();
            if self.tracker.bin().0.is_multiple_of(BINS) {
                self.step = Step(self.step.0 + 1);
                self.step_began = self.micros(self.next_bin);
                self.hosts.begin(self.step);
            }
            self.next_bin = self.next_bin + BIN;
        }
        self.now = self.now.max(now);
    }

    /// Goes on to take flows out of the table that are not looked at any more.
    fn thin_out(&mut self) {
        if let Some(part) = self.thinning {
            let levels = &self.levels;
            self.tracker.thin_out(part, |service| levels.of_service(service));
            self.thinning = Some(part + 1).filter(|part| *part < Tracker::PARTS);
        }
    }

    /// Queues a segment of `flow` that arrived at `at` on the interface number `interface`; whether
    /// the queue is full then, and [`Self::handle_queue`] to be called before the next. Meanwhile
    /// the processor fetches what is known of the flow.
    pub fn queue_segment(
        &mut self,
        at: Timestamp,
        interface: u32,
        flow: FlowKey,
        segment: &Segment,
    ) -> bool {
        let next = self.next_queued();
        (next.at, next.interface, next.flow, next.segment) = (at, interface, flow, *segment);
        self.queue_next()
    }

    /// What the next segment is written to that is to be queued.
    #[inline]
    pub(super) fn next_queued(&mut self) -> &mut Queued {
        &mut self.queue[self.queued]
    }

    /// Queues what was written there, as [`Self::queue_segment`] does.
    #[inline]
    pub(super) fn queue_next(&mut self) -> bool {
        let next = &mut self.queue[self.queued];
        (next.level, next.settled) = self.levels.of_flow(next.flow.ends);
        let hash = next.flow.hash;
        if !next.level.includes(hash.sampling_hash()) {
            self.skip(Skip::Unsampled);
            return false;
        }
        self.tracker.prefetch(hash);
        self.queued += 1;
        self.queued == QUEUE
    }

    /// Takes in all segments that are queued.
    pub fn handle_queue(&mut self) {
        self.handle_first(self.queued);
    }

    /// Takes in those that are queued, up to the first that arrived at `end` or later; when that
    /// did.
    pub(super) fn handle_queue_until(&mut self, end: Timestamp) -> Option<Timestamp> {
        let next = self.queue[..self.queued].iter().position(|queued| queued.at >= end);
        self.handle_first(next.unwrap_or(self.queued));
        self.queue[..self.queued].first().map(|queued| queued.at)
    }

    fn handle_first(&mut self, count: usize) {
        let mut queue = std::mem::take(&mut self.queue);
        for queued in &queue[..count] {
            self.handle(queued);
        }
        queue.copy_within(count..self.queued, 0);
        self.queued -= count;
        self.queue = queue;
    }

    /// Takes in a frame that gave no segment.
    pub fn skip(&mut self, skip: Skip) {
        self.sums.packets += 1;
        self.sums.skipped[skip as usize] += 1;
    }

    /// Whole microseconds since the start.
    #[inline]
    const fn micros(&self, at: Timestamp) -> u64 {
        at.as_nanos().saturating_sub(self.start.as_nanos()) / 1_000
    }

    /// The step that lies so far back. Ages are whole microseconds since the start, so the step is
    /// told by those too.
    #[inline]
    fn step_of(&self, age: Micros) -> Step {
        let into_step = self.micros(self.now).saturating_sub(self.step_began);
        let before_step = u64::from(age.0).saturating_sub(into_step);
        let steps = before_step.div_ceil(STEP_NANOS / 1_000);
        Step(self.step.0.saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX)))
    }

    #[inline]
    fn handle(&mut self, queued: &Queued) {
        let Queued { at, interface, level, settled, flow, segment } = queued;
        if *at < self.next_bin {
            self.now = self.now.max(*at);
        } else {
            self.advance(*at);
        }
        let arrival =
            Arrival { micros: 0, interface: *interface, level: *level, settled: *settled };
        match self.tracker.carry_on(segment, flow, &arrival) {
            Some((service, sender)) => self.carry_on(service, sender == Role::Server),
            None => self.handle_other(segment, flow, arrival),
        }
    }

    /// Takes in what does not only carry on an open connection. Apart, so that what does has the
    /// registers.
    #[inline(never)]
    fn handle_other(&mut self, segment: &Segment, flow: &FlowKey, arrival: Arrival) {
        #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32 by contract")]
        let micros = self.micros(self.now) as u32;
        let arrival = Arrival { micros, ..arrival };
        let seen = self.tracker.handle(segment, flow, arrival, &mut self.tallies);
        match seen.event {
            Event::Copy => return self.skip(Skip::Duplicate),
            Event::Unsampled => return self.skip(Skip::Unsampled),
            _ => {}
        }
        if seen.event == Event::None && !segment.flags.intersects(OPENS_OR_RESETS) {
            if segment.flags.intersects(Flags::FIN) {
                self.sums.add(seen.level, |totals| &mut totals.fin);
            }
            return self.carry_on(seen.service, !seen.from_client);
        }
        self.sums.packets += 1;
        self.sums.segments += 1;
        let source = || Coupon::from_value(self.tracker.hasher().address(segment.source));
        let source = segment.flags.is_syn().then(source);
        self.count(segment, &seen, source);
        self.note(segment, &seen, source);
    }

    /// Counts a segment that is no part of a handshake.
    #[inline]
    fn carry_on(&mut self, service: ServiceId, from_server: bool) {
        self.sums.packets += 1;
        self.sums.segments += 1;
        self.sums.from_servers += u64::from(from_server);
        self.tallies.of(service).counts.packets += 1;
    }

    /// The totals, over all services. A SYN has a source.
    #[inline]
    fn count(&mut self, segment: &Segment, seen: &Seen, source: Option<Coupon>) {
        let flags = segment.flags;
        let weight = seen.level.weight();
        let sums = &mut self.sums;
        // A RST for a flow that is not known has no role; it is an answer to something.
        sums.from_servers += u64::from(!seen.from_client || flags.intersects(Flags::RST));
        if let Some(source) = source {
            sums.add(seen.level, |totals| &mut totals.syn);
            if seen.event != Event::SynRepeated {
                self.sources.update_with_coupon(source);
                sums.attempts += 1;
                sums.weighted_attempts += u64::from(weight);
            }
            if !matches!(seen.event, Event::Attempt | Event::Answered { .. }) {
                sums.add(seen.level, |totals| &mut totals.syn_retransmitted);
            }
        }
        if flags.is_syn_ack() {
            sums.add(seen.level, |totals| &mut totals.syn_ack);
        }
        if flags.intersects(Flags::FIN) {
            sums.add(seen.level, |totals| &mut totals.fin);
        }
        if flags.intersects(Flags::RST) {
            sums.add(seen.level, |totals| &mut totals.rst);
        }
        sums.turn(seen.was, seen.is, seen.level);
        match seen.event {
            Event::Completed => {
                sums.durations.observe(Duration::from(seen.age).as_secs_f64(), weight);
            }
            Event::CompletedMidway if seen.is == Standing::None => {
                sums.completed_midway += u64::from(weight);
            }
            _ => {}
        }
        self.half_open_peak = self.half_open_peak.max(self.tracker.half_open_total());
    }

    /// The windows of the service.
    #[inline]
    fn note(&mut self, segment: &Segment, seen: &Seen, source: Option<Coupon>) {
        let now = self.now;
        let step = self.step;
        let flags = segment.flags;
        let began = if seen.age == Micros(0) { step } else { self.step_of(seen.age) };
        let weight = seen.level.weight();
        let tally = self.tallies.of(seen.service);
        let counts = &mut tally.counts;
        counts.packets += 1;
        counts.from_clients += u64::from(seen.from_client);
        if flags.is_syn() {
            counts.syn += u64::from(weight);
            counts.syn_squares += u64::from(weight) * u64::from(weight - 1);
            if let Some(window) = tally.window(step, step) {
                window.syn += weight;
            }
        }
        if flags.is_syn_ack() && !seen.from_client {
            tally.counts.syn_ack += u64::from(weight);
            if let Some(window) = tally.window(step, step) {
                window.syn_ack += weight;
            }
        }
        let client = if seen.from_client { segment.source } else { segment.destination };
        let host = if seen.from_client { segment.destination } else { segment.source };
        if tally.ignores(client) {
            tally.last_seen = now;
            if let (Event::Attempt, Some(window)) = (seen.event, tally.window(step, step)) {
                window.ignored += weight;
            }
            return;
        }
        if matches!(seen.event, Event::Attempt | Event::Answered { .. }) {
            tally.last_seen = now;
        }
        if seen.was != seen.is || seen.redated {
            if let Some(window) = tally.window(began, step) {
                window.leave(seen.was, weight);
                if !seen.redated {
                    window.enter(seen.is, weight);
                }
            }
            if seen.redated
                && let Some(window) = tally.window(step, step)
            {
                window.enter(seen.is, weight);
            }
        }
        match seen.event {
            Event::Attempt => {
                tally.counts.attempts += 1;
                tally.counts.weighted_attempts += u64::from(weight);
                if let Some(source) = source {
                    tally.count_source(source);
                }
                let priority = Priority::of(seen.flow, segment.seq);
                let attempt = || Attempt::new(seen.flow, now, segment);
                tally.offer(step, self.sample, priority, attempt);
                if seen.service != ServiceId::OTHER || self.tallies.is_watched(host) {
                    self.hosts.attempt(host, client, weight);
                }
            }
            Event::AnsweredMidway => {
                if seen.is != Standing::None {
                    tally.last_seen = now;
                    let priority = Priority::of(seen.flow, segment.ack);
                    let attempt = || Attempt::answered(seen.flow, now, segment);
                    tally.offer(step, self.sample, priority, attempt);
                }
                self.stray(segment, weight);
            }
            Event::StrayReset => self.stray(segment, weight),
            Event::AnswerRepeatedAfterAck => {
                if let Some(window) = tally.window(step, step) {
                    window.resent_after_ack += weight;
                }
            }
            Event::Completed | Event::PresumedByServer => {
                self.complete(host, client, began, weight);
            }
            // A source that only claims to go on is not remembered as known.
            Event::PresumedByClient => self.hosts.complete(host, began, weight),
            Event::CompletedMidway if seen.is != Standing::None => {
                self.complete(host, client, began, weight);
            }
            Event::Answered { .. }
            | Event::Refused(_)
            | Event::Reset(_)
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
        if self.tallies.is_watched(segment.destination) {
            self.hosts.stray(segment.destination, segment.source, weight);
        }
    }

    fn complete(&mut self, host: Address, client: Address, began: Step, weight: u32) {
        let hash = |address| self.tracker.hasher().address(address);
        self.completions.push((hash(source_of(client)), hash(network_of(client))));
        if self.completions.len() == COMPLETED {
            self.enter_completions();
        }
        self.hosts.complete(host, began, weight);
    }

    /// Has all shards know who completed here.
    pub(super) fn enter_completions(&mut self) {
        if !self.completions.is_empty() {
            let mut known = self.completed.look();
            for (source, network) in self.completions.drain(..) {
                known.sources.insert(source);
                known.networks.insert(network);
            }
        }
    }
}
