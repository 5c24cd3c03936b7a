//! The shards of an engine as one: what they know together.

use std::num::NonZeroUsize;

use crate::engine::directory::Shared;
use crate::engine::settings::Settings;
use crate::engine::shard::{ALL_SOURCES_LG_K, Completed, Queued, Shard, Sums};
use crate::engine::tally::SOURCES_LG_K;
use crate::flow::{Fate, Fill, FlowHash, HalfOpen, ServiceId, StateName};
use crate::stats::distinct;
use crate::time::Timestamp;
use crate::wire::SeqNumber;

/// All shards of an engine; none while it is [parted](super::Parted).
pub struct Shards {
    list: Vec<Shard>,
    count: NonZeroUsize,
}

impl Shards {
    /// `count` empty shards.
    pub fn new(
        settings: &Settings,
        count: NonZeroUsize,
        directory: &Shared,
        completed: &Completed,
    ) -> Self {
        let shard = |_| Shard::new(settings, count, directory.clone(), completed.clone());
        Self { list: (0..count.get()).map(shard).collect(), count }
    }

    /// How many there are, wherever they are.
    pub const fn count(&self) -> NonZeroUsize {
        self.count
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Shard> + Clone {
        self.list.iter()
    }

    /// One after the other.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Shard> {
        self.list.iter_mut()
    }

    /// Takes all, in their order, for an engine that is [parted](super::Parted).
    pub fn take(&mut self) -> Vec<Shard> {
        std::mem::take(&mut self.list)
    }

    /// Puts all back, in their order.
    pub fn put(&mut self, shards: Vec<Shard>) {
        debug_assert_eq!(shards.len(), self.count.get());
        self.list = shards;
    }

    /// The first, which counts what is of no flow.
    pub fn first(&mut self) -> &mut Shard {
        &mut self.list[0]
    }

    /// Queues what was written to the [next place](Shard::next_queued) of the first with the shard
    /// that keeps its flow; whether the queues are to be taken in.
    // Always: see `wire::fast_path`.
    #[inline(always)]
    pub fn queue_next(&mut self) -> bool {
        if self.count == NonZeroUsize::MIN {
            return self.first().queue_next();
        }
        let Queued { at, interface, flow, segment, .. } = *self.first().next_queued();
        let shard = flow.hash.sampling_hash().shard(self.count);
        self.list[shard].queue_segment(at, interface, flow, &segment)
    }

    fn get(&self, flow: FlowHash) -> &Shard {
        &self.list[flow.sampling_hash().shard(self.count)]
    }

    /// Has all take in what they have queued, up to what arrived at `end` or later; when the first
    /// of that did.
    pub fn handle_queues_until(&mut self, end: Timestamp) -> Option<Timestamp> {
        self.iter_mut().filter_map(|shard| shard.handle_queue_until(end)).min()
    }

    /// The time that all have come to: to others than the farthest, segments of before that may
    /// still come.
    pub fn now(&self) -> Timestamp {
        self.iter().map(Shard::now).min().unwrap_or_default()
    }

    /// Has the processor begin to fetch what is known of a flow.
    pub fn prefetch(&self, flow: FlowHash) {
        self.get(flow).tracker.prefetch(flow);
    }

    /// What became of an attempt; see [`Tracker::fate`](crate::flow::Tracker::fate).
    pub fn fate(&self, flow: FlowHash, isn: SeqNumber) -> (Fate, bool) {
        self.get(flow).tracker.fate(flow, isn)
    }

    /// Half-open connections of a service.
    pub fn half_open(&self, service: ServiceId) -> HalfOpen {
        self.iter().map(|shard| shard.tracker.half_open(service)).sum()
    }

    /// Half-open connections of all services.
    pub fn half_open_total(&self) -> u64 {
        self.iter().map(|shard| shard.tracker.half_open_total()).sum()
    }

    /// Attempts that nobody answered, since the start. May fall by those that are answered after
    /// all.
    pub fn unanswered(&self) -> i64 {
        self.iter().map(|shard| shard.tracker.unanswered()).sum()
    }

    /// Half-open connections that the server gave up. May fall by those that turn out to be kept.
    pub fn timed_out(&self) -> i64 {
        self.iter().map(|shard| shard.tracker.timed_out()).sum()
    }

    /// Live flows that had to leave for others, since the start.
    pub fn evicted(&self) -> u64 {
        self.iter().map(|shard| shard.tracker.evicted()).sum()
    }

    /// The most flows that can be held.
    pub fn capacity(&self) -> u64 {
        self.iter().map(|shard| shard.tracker.capacity() as u64).sum()
    }

    /// Flows in the tables; where some stand for others, by a sample of them.
    pub fn entries(&self, sampled: bool) -> u64 {
        self.iter().map(|shard| shard.tracker.entries(sampled)).sum()
    }

    /// What fills the table that is fullest.
    pub fn fill(&self) -> Fill {
        self.iter().map(|shard| shard.tracker.fill()).fold(Fill::default(), Fill::max)
    }

    /// Live flows in a state.
    pub fn in_state(&self, name: StateName) -> u64 {
        self.iter().map(|shard| shard.tracker.in_state(name)).sum()
    }

    /// What was counted over all services.
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        self.iter().for_each(|shard| sums.merge(&shard.sums));
        sums
    }

    /// Distinct sources of all SYNs that were looked at (estimate, exact while small).
    pub fn all_sources(&self) -> f64 {
        distinct(ALL_SOURCES_LG_K, self.iter().map(|shard| &shard.sources))
    }

    /// The same of the attempts at a service.
    pub fn sources(&self, service: ServiceId) -> f64 {
        let tallies = self.iter().filter_map(|shard| shard.tallies.get(service));
        distinct(SOURCES_LG_K, tallies.map(|tally| tally.sources()))
    }
}
