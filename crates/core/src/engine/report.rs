//! The engine's state as a document.

use std::borrow::Cow;
use std::cmp::Reverse;

use crate::document::{
    CaptureReport, Document, Handshakes, Internals, KernelReport, Limit, Observed, SCHEMA_VERSION,
    ServiceInternals, ServiceReport, Snapshot, Totals, Unknown,
};
use crate::engine::judge::{Moment, completion_ratio, completion_stderr};
use crate::engine::services::{Service, Services};
use crate::engine::shard::Sums;
use crate::engine::shards::Shards;
use crate::engine::tally::Counts;
use crate::findings::Class;
use crate::flow::{HalfOpen, SamplingLevel, ServiceId};
use crate::incident::Incidents;
use crate::model::{
    FlowCounts, FlowCountsStderr, ServiceStderr, Severity, Status, TotalsStderr, Variant,
    rounded_up, stderr,
};
use crate::stats::{STEP, Step, Window, rounded, scaled_up};
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
        let totals = Totals {
            half_open: shards.half_open_total(),
            half_open_peak: self.half_open_peak,
            sources: rounded(scaled_up(
                shards.all_sources(),
                sums.attempts,
                sums.weighted_attempts,
            ))
            .min(sums.totals.syn),
            ..totals(shards, &sums)
        };
        let totals = Totals {
            stderr: self.was_sampled(&sums).then(|| self.totals_stderr(&totals, &sums.squares)),
            ..totals
        };
        *handshakes = handshakes.max(&totals);
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
        let silent = sums.from_servers == 0 && totals.syn >= ONE_WAY;
        if silent || (totals.syn_ack == 0 && totals.handshakes_presumed >= 3) {
            limits.push(Limit::OneWayIngress);
        }
        let answers_only = || {
            self.services.ids().map(|id| self.services.get(id)).filter(|s| s.sees_answers_only())
        };
        if totals.syn == 0 && answers_only().map(|s| s.counts.syn_ack).sum::<u64>() >= ONE_WAY {
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
        let report = ServiceReport {
            address: service.address.into(),
            port: service.port,
            process: service.listener.as_ref().and_then(|listener| listener.process.clone()),
            half_open: half_open.total,
            half_open_unconfirmed: half_open.unconfirmed,
            half_open_kernel: kernel,
            backlog: self.moment.backlog(service),
            occupancy_ratio,
            seconds_to_full: service.detector.seconds_to_full(limit),
            syn: service.counts.syn,
            syn_rate: f64::from(second.syn) / self.seconds_of(4),
            completion_ratio: completion_ratio(&aged),
            sources: self.moment.sources(id, service),
            source_entropy_ratio: service.entropy_ratio,
            stderr: self.service_stderr(id, &half_open, &second, &aged),
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

    fn totals_stderr(&self, totals: &Totals, squares: &Totals) -> TotalsStderr {
        #[expect(clippy::cast_precision_loss, reason = "an error need not be exact")]
        let root = |square: u64| rounded_up((square as f64).sqrt());
        // Of what expires no more is known than the highest weight that it may have had.
        let weight = self.heaviest.weight();
        let most = |count: u64| rounded_up(stderr(count, weight));
        TotalsStderr {
            syn_stderr: root(squares.syn),
            syn_retransmitted_stderr: root(squares.syn_retransmitted),
            syn_ack_stderr: root(squares.syn_ack),
            handshakes_completed_stderr: root(squares.handshakes_completed),
            handshakes_reset_stderr: root(squares.handshakes_reset),
            handshakes_timed_out_stderr: most(totals.handshakes_timed_out),
            handshakes_presumed_stderr: root(squares.handshakes_presumed),
            syn_unanswered_stderr: most(totals.syn_unanswered),
            half_open_stderr: rounded_up(stderr(
                totals.half_open,
                self.moment.sampler.highest_settled().weight(),
            )),
            half_open_peak_stderr: most(totals.half_open_peak),
            fin_stderr: root(squares.fin),
            rst_stderr: root(squares.rst),
        }
    }

    /// Live flows by state.
    fn flows(&self) -> FlowCounts {
        let flows = self.moment.shards.flows();
        let weight = self.moment.sampler.highest_settled().weight();
        let error = |count| rounded_up(stderr(count, weight));
        let errors = FlowCountsStderr {
            syn_sent: error(flows.syn_sent),
            syn_recv: error(flows.syn_recv),
            established: error(flows.established),
            fin_wait_1: error(flows.fin_wait_1),
            fin_wait_2: error(flows.fin_wait_2),
            closing: error(flows.closing),
            close_wait: error(flows.close_wait),
            last_ack: error(flows.last_ack),
            time_wait: error(flows.time_wait),
        };
        FlowCounts { stderr: (weight > 1).then_some(errors), ..flows }
    }

    fn service_stderr(
        &self,
        id: ServiceId,
        half_open: &HalfOpen,
        second: &Window,
        aged: &Window,
    ) -> Option<ServiceStderr> {
        let service = self.services.get(id);
        let weight = self.moment.weight(id);
        #[expect(clippy::cast_precision_loss, reason = "an error need not be exact")]
        let syn_stderr = rounded_up((service.counts.syn_squares as f64).sqrt());
        (weight > 1 || service.counts.syn_squares > 0).then(|| ServiceStderr {
            half_open_stderr: rounded_up(stderr(half_open.total, weight)),
            half_open_unconfirmed_stderr: rounded_up(stderr(half_open.unconfirmed, weight)),
            syn_stderr,
            syn_rate_stderr: stderr(second.syn.into(), weight) / self.seconds_of(4),
            completion_ratio_stderr: completion_stderr(aged, weight),
        })
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

/// Counts of segments, and attempts by their outcome. Only while flows are sampled can a number
/// come out below zero.
pub(super) fn totals(shards: &Shards, sums: &Sums) -> Totals {
    let count = |number: i64| number.max(0).cast_unsigned();
    let outcomes = sums.outcomes();
    Totals {
        handshakes_completed: count(outcomes.completed),
        handshakes_presumed: count(outcomes.presumed),
        handshakes_reset: count(outcomes.reset),
        handshakes_timed_out: count(shards.timed_out()),
        syn_unanswered: count(shards.unanswered()),
        ..sums.totals
    }
}
