//! The engine's state as a document.

use std::borrow::Cow;
use std::cmp::Reverse;

use crate::document::{
    CaptureReport, Document, Handshakes, Internals, KernelReport, Limit, Observed, SCHEMA_VERSION,
    ServiceInternals, ServiceReport, Snapshot, Totals, Unknown,
};
use crate::engine::judge::{Moment, completion};
use crate::engine::services::{Service, Services};
use crate::engine::shard::Sums;
use crate::engine::shards::Shards;
use crate::engine::tally::Counts;
use crate::findings::Class;
use crate::flow::{SamplingLevel, ServiceId, flow_counts};
use crate::incident::Incidents;
use crate::model::{Estimate, FlowCounts, Severity, Status, Variant, stderr};
use crate::stats::{STEP, Step, rounded, scaled_up};
use crate::time::Timestamp;
use crate::wire::Skip;

/// Segments of one direction without any of the other that make a capture a one-way one.
const ONE_WAY: u64 = 20;
/// Frames that may hide a handshake, and are too many whatever their share is.
const UNDECODED: u64 = 100;
/// The most services in a report.
const SERVICES: usize = 64;

/// What a report is made from.
pub(super) struct View<'a> {
    pub moment: Moment<'a>,
    pub services: &'a Services,
    pub incidents: &'a Incidents,
    pub groups_evicted: u64,
    /// The highest level of sampling that there ever was.
    pub heaviest: SamplingLevel,
    /// The most half-open connections at once.
    pub half_open_peak: u64,
    pub start: Timestamp,
}

impl View<'_> {
    /// The state as of `now`. `handshakes` are the counters of outcomes, which must not fall.
    pub fn snapshot(&self, now: Timestamp, handshakes: &mut Handshakes) -> Snapshot {
        let shards = self.moment.shards;
        let sums = shards.sums();
        let outcomes = outcomes(shards, &sums);
        *handshakes = handshakes.max(outcomes);
        let totals = self.totals(&sums, outcomes);
        let (services, hidden) = self.services().into_iter().unzip();
        let mut document = Document {
            schema_version: SCHEMA_VERSION,
            version: Cow::Borrowed(env!("CARGO_PKG_VERSION")),
            status: self.status(),
            unknown: Vec::new(),
            observed: Observed {
                from: self.start,
                to: now,
                seconds: (now - self.start).as_secs_f64(),
            },
            capture: self.capture_report(&totals, &sums),
            kernel: self.kernel_report(),
            totals,
            flows: self.flows(),
            services,
            detections: self.incidents.list(),
        };
        for why in self.doubts() {
            document.doubt(why);
        }
        let internals = Internals {
            flow_table_entries: shards.entries(!self.moment.sampler.is_exact()),
            flow_table_capacity: shards.capacity(),
            flows_evicted: shards.evicted(),
            groups_evicted: self.groups_evicted,
            handshakes: *handshakes,
            handshake_durations: sums.durations,
            detections_total: self.incidents.raised().clone(),
            conntrack: self.moment.fresh_kernel().and_then(|kernel| kernel.sample.conntrack),
            services: hidden,
        };
        Snapshot { document, internals }
    }

    fn status(&self) -> Status {
        self.incidents
            .all_active()
            .filter_map(|detection| detection.current_severity())
            .map(crate::model::Severity::status)
            .max()
            .unwrap_or_default()
    }

    /// Why there may be more than what is told.
    fn doubts(&self) -> impl Iterator<Item = Unknown> {
        let Self { moment, services, .. } = self;
        let of_services = |holds: &dyn Fn(ServiceId, &Service) -> bool| {
            services.ids().any(|id| holds(id, services.get(id)))
        };
        let is_full = |id, service: &Service| {
            moment.is_full_of_unknowns(id, service)
                && !self.verdict(service).is_some_and(|(class, _, severity)| {
                    class != Class::SynFlood || severity > Severity::Info
                })
        };
        let unplaced = moment.fresh_kernel().is_some_and(|kernel| kernel.unplaced > 0);
        [
            (Unknown::KernelSilent, moment.is_kernel_silent(self.start)),
            (Unknown::Dropping, moment.capture.is_blind()),
            (Unknown::Undecoded, moment.capture.is_undecoded()),
            (Unknown::AnswersWithoutSyns, of_services(&|_, service| service.answers.exceed)),
            (Unknown::RowsNotJudged, unplaced),
            (Unknown::QueueFull, of_services(&is_full)),
        ]
        .into_iter()
        .filter_map(|(why, holds)| holds.then_some(why))
    }

    fn capture_report(&self, totals: &Totals, sums: &Sums) -> CaptureReport {
        let mut limits = Vec::new();
        let silent = sums.from_servers == 0 && totals.syn.value >= ONE_WAY;
        if silent || (totals.syn_ack.value == 0 && totals.handshakes_presumed.value >= 3) {
            limits.push(Limit::OneWayIngress);
        }
        let answers_only = || {
            self.services.ids().map(|id| self.services.get(id)).filter(|s| s.sees_answers_only())
        };
        if totals.syn.value == 0 && answers_only().map(|s| s.counts.syn_ack).sum::<u64>() >= ONE_WAY
        {
            limits.push(Limit::OneWayEgress);
        }
        if self.moment.capture.is_dropping() {
            limits.push(Limit::Dropping);
        }
        if self.was_sampled(sums) {
            limits.push(Limit::Sampled);
        }
        if sums.skipped[Skip::Truncated as usize] > 0 {
            limits.push(Limit::Truncated);
        }
        if sums.skipped[Skip::Fragment as usize] > 0 {
            limits.push(Limit::Fragments);
        }
        let hidden = sums.hidden();
        if hidden >= UNDECODED || hidden * 100 > sums.packets {
            limits.push(Limit::Undecoded);
        }
        if self.moment.fresh_kernel().is_none() {
            limits.push(Limit::NoKernel);
        }
        CaptureReport {
            source: Cow::Borrowed("none"),
            interfaces: Vec::new(),
            packets: sums.packets,
            tcp_segments: sums.segments,
            dropped: self.moment.capture.stats.dropped,
            sampling_ratio: 1.0 / f64::from(self.moment.sampler.highest().weight()),
            limits,
            skipped: Skip::ALL
                .iter()
                .map(|reason| (Cow::Borrowed(reason.name()), sums.skipped[*reason as usize]))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }

    fn kernel_report(&self) -> KernelReport {
        let Some(kernel) = self.moment.fresh_kernel() else { return KernelReport::default() };
        let rows = &kernel.sample.half_open;
        let counters = kernel.sample.counters.iter();
        KernelReport {
            available: true,
            syn_recv: Some(rows.iter().map(|row| u64::from(row.count)).sum()),
            syncookies: kernel.sample.sysctls.syncookies,
            counters: counters.map(|(name, count)| (Cow::Borrowed(*name), *count)).collect(),
        }
    }

    /// The busiest services, those with a verdict first. Only these are looked at closely.
    fn services(&self) -> Vec<(ServiceReport, ServiceInternals)> {
        let mut ranked: Vec<_> = self
            .services
            .ids()
            .filter_map(|id| {
                let service = self.services.get(id);
                let wire = self.moment.half_open(id, service).total;
                let speaks = service.counts.syn > 0 || service.sees_answers_only();
                let shown = speaks || service.is_backlog_known() || wire > 0;
                let severity = self.verdict(service).map(|(_, _, severity)| severity);
                let kernel = self.kernel_half_open(service);
                let half_open = wire.max(kernel.unwrap_or(0));
                let rank = Reverse((severity, half_open, service.counts.syn));
                // Among equals not by number, which shards give out as they meet services.
                shown.then_some((rank, service.address, service.port, id))
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().take(SERVICES).map(|(.., id)| self.service(id)).collect()
    }

    /// Half-open connections of a service as the kernel counts them, as long as that holds.
    fn kernel_half_open(&self, service: &Service) -> Option<u64> {
        self.moment.fresh_kernel()?;
        service.kernel_half_open.map(u64::from)
    }

    /// The gravest of what is told of a service now.
    fn verdict(&self, service: &Service) -> Option<(Class, Option<Variant>, Severity)> {
        let subject = service.subject();
        [Class::SynFlood, Class::AcceptQueueOverflow, Class::FlashCrowd, Class::BacklogSmall]
            .iter()
            .filter_map(|class| self.incidents.active(*class, subject))
            .filter_map(|detection| {
                Some((detection.class, detection.variant, detection.current_severity()?))
            })
            .max_by_key(|(_, _, severity)| *severity)
    }

    fn service(&self, id: ServiceId) -> (ServiceReport, ServiceInternals) {
        let service = self.services.get(id);
        let half_open = self.moment.half_open(id, service);
        let limit = self.moment.queue_limit(service);
        let kernel = self.kernel_half_open(service);
        // Of answers too young to be told from cookies no more than the queue holds take room.
        let held = kernel.unwrap_or(half_open.total.min(u64::from(limit) + 1));
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let occupancy_ratio = held as f64 / f64::from(limit);
        let windows = &service.windows;
        let second = windows.sum(1, 4);
        // Attempts that had the most time; where there are none yet, younger ones.
        let ages = [(11, Step::MATURE_BY_DATA), (Step::MATURE, 10), (2, Step::MATURE - 1)];
        let sums = ages.map(|(youngest, oldest)| windows.sum(youngest, oldest));
        let any = sums.into_iter().find(|window| window.answered + window.unanswered > 0);
        let aged = any.unwrap_or_default();
        let Counts { syn, syn_squares, .. } = service.counts;
        let weight = self.moment.weight(id);
        let sampled = weight > 1 || syn_squares > 0;
        let seconds = self.seconds_of(4);
        let report = ServiceReport {
            address: service.address.into(),
            port: service.port,
            process: service.listener.as_ref().and_then(|listener| listener.process.clone()),
            half_open: Estimate::weighted(half_open.total, weight, sampled),
            half_open_unconfirmed: Estimate::weighted(half_open.unconfirmed, weight, sampled),
            half_open_kernel: kernel,
            backlog: self.moment.backlog(service),
            occupancy_ratio,
            seconds_to_full: service.detector.seconds_to_full(limit),
            syn: Estimate::summed(syn, syn_squares, sampled),
            syn_rate: Estimate::new(
                f64::from(second.syn) / seconds,
                stderr(second.syn.into(), weight) / seconds,
                sampled,
            ),
            completion_ratio: completion(&aged, weight, sampled),
            sources: self.moment.sources(id, service),
            source_entropy_ratio: service.entropy_ratio,
        };
        let hidden = ServiceInternals {
            accept_queue: service.listener.as_ref().map(|listener| listener.accept_queue),
            backlog_known: service.is_backlog_known(),
            verdict: self.verdict(service),
        };
        (report, hidden)
    }

    /// Whether any of the counts was made on a sample.
    fn was_sampled(&self, sums: &Sums) -> bool {
        !self.moment.sampler.is_exact() || sums.weighted_attempts > sums.attempts
    }

    fn totals(&self, sums: &Sums, ended: Handshakes) -> Totals {
        let shards = self.moment.shards;
        let sampled = self.was_sampled(sums);
        let summed = |count, variance| Estimate::summed(count, variance, sampled);
        let weighted = |count, weight| Estimate::weighted(count, weight, sampled);
        // Of what expires no more is known than the highest weight that it may have had.
        let heaviest = self.heaviest.weight();
        let present = self.moment.sampler.highest_settled().weight();
        let (segments, squares) = (&sums.totals, &sums.squares);
        let ended_squares = &sums.outcome_squares;
        let sources = scaled_up(shards.all_sources(), sums.attempts, sums.weighted_attempts);
        Totals {
            syn: summed(segments.syn, squares.syn),
            syn_retransmitted: summed(segments.syn_retransmitted, squares.syn_retransmitted),
            syn_ack: summed(segments.syn_ack, squares.syn_ack),
            handshakes_completed: summed(ended.completed, ended_squares.completed),
            handshakes_reset: summed(ended.reset, ended_squares.reset),
            handshakes_timed_out: weighted(ended.timed_out, heaviest),
            handshakes_presumed: summed(ended.presumed, ended_squares.presumed),
            syn_unanswered: weighted(ended.unanswered, heaviest),
            half_open: weighted(shards.half_open_total(), present),
            half_open_peak: weighted(self.half_open_peak, heaviest),
            fin: summed(segments.fin, squares.fin),
            rst: summed(segments.rst, squares.rst),
            sources: rounded(sources).min(segments.syn),
        }
    }

    /// Live flows by state.
    fn flows(&self) -> FlowCounts {
        let shards = self.moment.shards;
        let weight = self.moment.sampler.highest_settled().weight();
        let count = |count| Estimate::weighted(count, weight, weight > 1);
        flow_counts(count(shards.half_open_total()), |name| count(shards.in_state(name)))
    }

    /// The length of the last `steps` whole steps, in seconds, as far as there were so many.
    fn seconds_of(&self, steps: u32) -> f64 {
        f64::from(self.moment.step.0.clamp(1, steps)) * STEP.as_secs_f64()
    }
}

impl Moment<'_> {
    /// Distinct sources of a service since the start (estimate, exact while small).
    pub(super) fn sources(&self, id: ServiceId, service: &Service) -> u64 {
        let Counts { syn, attempts, weighted_attempts, .. } = service.counts;
        rounded(scaled_up(self.shards.sources(id), attempts, weighted_attempts)).min(syn)
    }
}

/// Attempts by their outcome. Only while flows are sampled can a number come out below zero.
pub(super) fn outcomes(shards: &Shards, sums: &Sums) -> Handshakes {
    let count = |number: i64| number.max(0).cast_unsigned();
    let outcomes = sums.outcomes();
    Handshakes {
        completed: count(outcomes.completed),
        presumed: count(outcomes.presumed),
        reset: count(outcomes.reset),
        timed_out: count(shards.timed_out()),
        unanswered: count(shards.unanswered()),
    }
}
