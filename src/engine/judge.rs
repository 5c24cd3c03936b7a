//! The end of a step: every service is judged, and incidents are raised, updated and cleared.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::detect::{
    Circumstances, Observation, Onset, Reason, Subject, advice, confidence, explanation, variant,
};
use crate::engine::Engine;
use crate::flow::{Fate, HalfOpen, Lookup, ServiceId};
use crate::observe::{Class, Evidence, KernelHalfOpen, Severity, Sysctls, Target, Variant};
use crate::stats::{
    Attempt, Failure, FullTilt, STEP, SourceProfile, Step, Window, Windows, network_of, source_of,
};
use crate::time::Timestamp;

/// A kernel sample older than this, or than three intervals, says nothing of now.
const KERNEL_FRESH: Duration = Duration::from_secs(4);
/// One source above this rate at one host is a flood whatever the ports.
const FULL_TILT: u32 = 5_000;
/// A flood that is judged by the moment (one host at full tilt, the kernel's rows) is over after so
/// much calm.
const CALM: Duration = Duration::from_secs(60);
/// What a failure counts for whose SYN was repeated as honest clients do.
const WEIGHT_RETRANSMITTED: f64 = 0.1;
/// What one counts for from a network that completed a handshake within the hour. (Both discounts can be
/// gamed: the detector follows the failures without them too.)
const WEIGHT_KNOWN: f64 = 0.2;

/// The failures of one step's sample.
#[derive(Default)]
struct Judged {
    failed: Vec<Failure>,
    unanswered: Vec<Failure>,
}

impl Engine {
    /// Judges all services at the end of the present step, which is `at`.
    pub(super) fn end_step(&mut self, at: Timestamp) {
        self.completed_sources.advance(at);
        self.completed_networks.advance(at);
        self.failed_sources.advance(at);
        if self.settings.kernel_only {
            return;
        }
        for id in self.services.ids() {
            self.judge_service(id, at);
        }
        self.judge_hosts(at);
    }

    fn judge_service(&mut self, id: ServiceId, at: Timestamp) {
        // Before any step has matured only the young attempts can speak.
        let matured = self.step.before(Step::MATURE);
        let judged = matured.map_or_else(Judged::default, |step| self.judge_sample(id, step));
        self.observe(id, at, matured, judged);
    }

    /// Looks up what became of the attempts that were drawn in `step`.
    fn judge_sample(&self, id: ServiceId, step: Step) -> Judged {
        let service = self.services.get(id);
        let mut judged = Judged::default();
        for attempt in service.failures.drawn(step) {
            let (fate, retransmitted) = self.tracker.fate(attempt.flow, attempt.isn);
            let failure = |reset| self.failure(*attempt, retransmitted, reset);
            match fate {
                Fate::HalfOpen => judged.failed.push(failure(false)),
                Fate::Reset => judged.failed.push(failure(true)),
                Fate::Unanswered => judged.unanswered.push(failure(false)),
                Fate::Completed | Fate::Refused | Fate::Unknown => {}
            }
        }
        judged
    }

    fn failure(&self, attempt: Attempt, retransmitted: bool, reset: bool) -> Failure {
        let hash = |address| self.tracker.hasher().address(address);
        let known = self.completed_networks.contains(hash(network_of(attempt.source)));
        let weight = match (retransmitted, known) {
            (true, _) => WEIGHT_RETRANSMITTED,
            (false, true) => WEIGHT_KNOWN,
            (false, false) => 1.0,
        };
        let new = !self.completed_sources.contains(hash(source_of(attempt.source)));
        let returning = self.failed_sources.contains(hash(source_of(attempt.source)));
        Failure { attempt, retransmitted, reset, new, returning, weight }
    }

    fn observe(&mut self, id: ServiceId, at: Timestamp, matured: Option<Step>, judged: Judged) {
        let (half_open, backlog) = self.queue(id);
        // The kernel does not say whose queue was full.
        let queue_full = self.kernel.as_ref().is_some_and(|kernel| kernel.queue_full)
            && self.services.get(id).listener.is_some()
            && half_open * 2 >= u64::from(backlog);
        let wire = self.half_open(id);
        let old = wire.total - wire.unconfirmed;
        let unpruned = self.sysctls().syncookies == Some(0) && backlog <= self.backlog(id) / 2;
        let service = self.services.get_mut(id);
        let window = matured.map_or_else(Window::default, |step| service.windows.get(step));
        let failed = f64::from(window.failed()) * mean_weight(&judged.failed);
        let unanswered = f64::from(window.unanswered) * mean_weight(&judged.unanswered);
        for failure in judged.failed.into_iter().chain(judged.unanswered) {
            let source = source_of(failure.attempt.source);
            self.failed_sources.insert(self.tracker.hasher().address(source));
            service.failures.keep(failure);
        }
        service.failures.forget(at);
        let idle = window == Window::default()
            && !service.detector.is_active()
            && service.windows.sum(0, 6) == Window::default();
        if idle && half_open == 0 && service.detector.is_at_rest() {
            return;
        }
        // Attempts of 0.5 to 1.5 s.
        let young = service.windows.sum(2, 5);
        let observation = Observation {
            at,
            matured: matured.unwrap_or_default(),
            immature: matured.is_none(),
            completed: f64::from(window.completed),
            failed,
            undiscounted: f64::from(window.failed()),
            unanswered,
            young: young.answered + young.unanswered,
            young_incomplete: young.failed() + young.unanswered,
            path_outage: service.failures.are_retransmitted(),
            half_open,
            old: half_open.min(old),
            backlog,
            unpruned,
            queue_full,
        };
        let severity = service.detector.observe(&observation);
        let crowded = service.detector.is_crowded();
        self.tell_flood(id, at, severity);
        self.tell_crowd(id, at, crowded);
    }

    /// Half-open connections by the better witness, and the limit of their queue.
    fn queue(&self, id: ServiceId) -> (u64, u32) {
        let service = self.services.get(id);
        let backlog = self.queue_limit(id);
        let half_open = self.half_open(id);
        let half_open = match (self.fresh_kernel(), service.kernel_half_open) {
            (true, Some(count)) => u64::from(count),
            // Any of the unconfirmed may be the answer of a cookie, which holds no place.
            _ => half_open.total - half_open.unconfirmed,
        };
        (half_open, backlog)
    }

    /// The listen backlog of a service: from the kernel, or assumed.
    pub(super) fn backlog(&self, id: ServiceId) -> u32 {
        let listener = self.services.get(id).listener.as_ref();
        listener.map_or(self.settings.backlog, |listener| listener.backlog).max(1)
    }

    /// The limit of a service's SYN queue: the backlog, or with cookies off three quarters of
    /// `tcp_max_syn_backlog` where that is lower (`tcp_conn_request`).
    pub(super) fn queue_limit(&self, id: ServiceId) -> u32 {
        let backlog = self.backlog(id);
        let sysctls = self.sysctls();
        match (sysctls.syncookies, sysctls.max_syn_backlog) {
            (Some(0), Some(max)) => backlog.min((max - max / 4).max(1)),
            _ => backlog,
        }
    }

    /// Half-open connections as the wire shows them, within what the listener can hold.
    ///
    /// A SYN queue holds one request more than its limit (`inet_csk_reqsk_queue_is_full`). Of
    /// requests that the server gives up under pressure the wire shows the end only when the next
    /// SYN-ACK is overdue; where newer ones have taken their places, they are gone before that.
    pub(super) fn half_open(&self, id: ServiceId) -> HalfOpen {
        let wire = self.tracker.half_open(id);
        let Some(listener) = &self.services.get(id).listener else { return wire };
        let room = u64::from(self.queue_limit(id)) + u64::from(listener.sockets);
        if self.sysctls().syncookies == Some(0) {
            let total = wire.total.min(room);
            return HalfOpen { total, unconfirmed: wire.unconfirmed.min(total) };
        }
        let confirmed = (wire.total - wire.unconfirmed).min(room);
        HalfOpen { total: confirmed + wire.unconfirmed, unconfirmed: wire.unconfirmed }
    }

    pub(super) fn fresh_kernel(&self) -> bool {
        let fresh = KERNEL_FRESH.max(self.settings.kernel_interval * 3);
        self.kernel.as_ref().is_some_and(|kernel| self.now - kernel.sample.at < fresh)
    }

    pub(super) fn sysctls(&self) -> Sysctls {
        self.kernel.as_ref().map(|kernel| kernel.sample.sysctls).unwrap_or_default()
    }

    fn tell_flood(&mut self, id: ServiceId, at: Timestamp, severity: Option<Severity>) {
        let service = self.services.get(id);
        let subject = (service.address, Some(service.port));
        let active = self.incidents.is_active(Class::SynFlood, subject);
        let Some(severity) = severity else {
            if active {
                let action = self.incidents.update(at, Class::SynFlood, subject, None);
                self.actions.extend(action);
            }
            return;
        };
        let mut failures_of_young = Vec::new();
        if service.detector.is_fast() {
            for ago in 2..Step::MATURE {
                if let Some(step) = self.step.before(ago) {
                    let judged = self.judge_sample(id, step);
                    failures_of_young.extend(judged.failed.into_iter().chain(judged.unanswered));
                }
            }
        }
        let profile = service.failures.profile(&failures_of_young);
        let onset_step = service.detector.onset().unwrap_or(self.step);
        let since = self.begin_of(onset_step);
        let first_packet_at = failures_of_young
            .iter()
            .map(|failure| failure.attempt.at)
            .chain(service.failures.first_since(since))
            .filter(|at| *at >= since)
            .min()
            .unwrap_or(since);
        let (half_open, backlog) = self.queue(id);
        let wire = self.half_open(id);
        let listener = service.listener.is_some();
        let address = match profile.top_destination {
            (Some(address), share) if share >= 0.5 => address,
            _ => service.address,
        };
        let evidence = Evidence {
            half_open_peak: half_open.max(wire.total),
            backlog: Some(backlog),
            occupancy_ratio: Some(service.detector.occupancy(backlog)),
            sources: service.sources().max(profile.sources as u64),
            ..self.evidence(&service.windows, &profile)
        };
        let circumstances = Circumstances {
            excess_rate: service.detector.excess_rate(),
            sampled_sources: profile.sources,
            reason: service.detector.reason(),
            failures: profile.failures,
            level: service.detector.evidence_level(),
            // The kernel was last asked up to a second ago; a queue holds one more than its limit.
            half_open: match self.sysctls().syncookies {
                Some(2) => half_open,
                _ => half_open.max(wire.total.min(u64::from(backlog) + 1)),
            },
            resent: None,
            seconds_to_full: service.detector.seconds_to_full(backlog),
            kernel_agrees: self.fresh_kernel()
                && listener
                && (half_open >= 50
                    || half_open * 4 >= u64::from(backlog)
                    || self.kernel.as_ref().is_some_and(|kernel| kernel.queue_full)),
            one_way: service.is_one_way() || service.syn == 0,
            dropping: self.capture.dropping,
            cold: service.detector.is_cold(),
            sysctls: self.sysctls(),
        };
        let target = Target { address: Some(address.into()), port: Some(service.port) };
        self.tell(
            at,
            Class::SynFlood,
            subject,
            severity,
            variant(&profile),
            target,
            evidence,
            &circumstances,
            first_packet_at,
        );
    }

    fn tell_crowd(&mut self, id: ServiceId, at: Timestamp, crowded: bool) {
        let service = self.services.get(id);
        let subject = (service.address, Some(service.port));
        if !crowded {
            if self.incidents.is_active(Class::FlashCrowd, subject) {
                let action = self.incidents.update(at, Class::FlashCrowd, subject, None);
                self.actions.extend(action);
            }
            return;
        }
        let (half_open, backlog) = self.queue(id);
        let evidence = Evidence {
            half_open_peak: half_open,
            backlog: Some(backlog),
            occupancy_ratio: Some(service.detector.occupancy(backlog)),
            ..self.evidence(&service.windows, &SourceProfile::default())
        };
        let target = Target { address: Some(service.address.into()), port: Some(service.port) };
        let circumstances = Circumstances { half_open, ..Circumstances::default() };
        self.tell(
            at,
            Class::FlashCrowd,
            subject,
            Severity::Info,
            None,
            target,
            evidence,
            &circumstances,
            at,
        );
    }

    #[expect(clippy::too_many_arguments, reason = "an onset has that many parts")]
    fn tell(
        &mut self,
        at: Timestamp,
        class: Class,
        subject: Subject,
        severity: Severity,
        variant: Option<Variant>,
        target: Target,
        evidence: Evidence,
        circumstances: &Circumstances,
        first_packet_at: Timestamp,
    ) {
        let onset = Onset {
            class,
            variant,
            severity,
            confidence: confidence(
                circumstances,
                evidence.backlog.unwrap_or(self.settings.backlog),
            ),
            target,
            first_packet_at,
            explanation: explanation(class, variant, severity, target, &evidence, circumstances),
            advice: advice(class, variant, &evidence, circumstances),
            evidence,
        };
        let at = self.last_packet.map_or(at, |last| last.min(at));
        let action = self.incidents.update(at, class, subject, Some(onset));
        self.actions.extend(action);
    }

    /// The part of the evidence that comes from the wire: SYNs of the last second or of the last that
    /// matured, and completions of attempts that had half a second for it.
    fn evidence(&self, windows: &Windows, profile: &SourceProfile) -> Evidence {
        let syn = windows.sum(1, 4).syn.max(windows.sum(Step::MATURE, Step::MATURE + 3).syn);
        Evidence {
            syn_rate: f64::from(syn),
            completion_ratio: completion_ratio(&windows.sum(2, 8)),
            ..sources_evidence(profile)
        }
    }

    /// One source that floods a host over all of its ports.
    fn judge_hosts(&mut self, at: Timestamp) {
        let per_step = FULL_TILT / 4;
        for tilt in self.hosts.full_tilt(per_step) {
            let address = std::net::IpAddr::from(tilt.host);
            let named = self.incidents.all_active().any(|detection| {
                detection.class == Class::SynFlood
                    && detection.target.address == Some(address)
                    && detection.target.port.is_some()
            });
            if !named {
                self.tell_full_tilt(at, tilt);
            }
        }
        let over = self
            .incidents
            .lapse(at, Class::SynFlood, CALM, |detection| detection.target.port.is_none());
        self.actions.extend(over);
    }

    fn tell_full_tilt(&mut self, at: Timestamp, tilt: FullTilt) {
        let subject = (tilt.host, None);
        let prefix = std::net::IpAddr::from(tilt.source);
        let evidence = Evidence {
            syn_rate: tilt.rate,
            completion_ratio: tilt.completed,
            half_open_peak: self.tracker.half_open_total(),
            sources: 1,
            top_prefixes: vec![crate::observe::PrefixShare {
                prefix: prefix.into(),
                share: tilt.share,
            }],
            ..Evidence::default()
        };
        let circumstances = Circumstances {
            excess_rate: tilt.rate * (1.0 - tilt.completed),
            reason: Reason::FullTilt,
            level: tilt.rate / f64::from(FULL_TILT),
            sysctls: self.sysctls(),
            dropping: self.capture.dropping,
            ..Circumstances::default()
        };
        let target = Target { address: Some(tilt.host.into()), port: None };
        let first = at.before(STEP * 3);
        self.tell(
            at,
            Class::SynFlood,
            subject,
            Severity::Critical,
            Some(Variant::SingleSource),
            target,
            evidence,
            &circumstances,
            first,
        );
    }

    /// Judges by the kernel's SYN_RECV rows alone.
    pub(super) fn judge_kernel(&mut self) {
        let Some(kernel) = &self.kernel else { return };
        let at = self.now;
        let rows = kernel.sample.half_open.clone();
        let mut by_service: BTreeMap<ServiceId, Vec<&KernelHalfOpen>> = BTreeMap::new();
        for row in &rows {
            let id = self.services.service(row.address.into(), row.port);
            by_service.entry(id).or_default().push(row);
        }
        by_service.remove(&ServiceId::OTHER);
        for (id, rows) in by_service {
            self.judge_rows(id, at, &rows);
        }
        // Where there is a wire, its word on the end of an incident counts.
        if self.settings.kernel_only {
            let over = self.incidents.lapse(at, Class::SynFlood, CALM, |_| true);
            self.actions.extend(over);
        }
    }

    fn judge_rows(&mut self, id: ServiceId, at: Timestamp, rows: &[&KernelHalfOpen]) {
        let service = self.services.get(id);
        let backlog = self.queue_limit(id);
        let count: u32 = rows.iter().map(|row| row.count).sum();
        let old: u32 = rows.iter().map(|row| row.retransmitted).sum();
        let occupancy = f64::from(count) / f64::from(backlog);
        let stale = f64::from(old) / f64::from(count.max(1));
        // A quarter of the queue held by requests whose answer was in vain; and of a full queue a tenth
        // is enough, since pruning spares the young.
        let severity = if old >= 16 && occupancy >= 0.75 && stale >= 0.1 {
            Some(Severity::Critical)
        } else if old >= 16 && f64::from(old) >= 0.25 * f64::from(backlog) {
            Some(Severity::Warning)
        } else {
            None
        };
        let subject = (service.address, Some(service.port));
        let Some(severity) = severity else { return };
        let mut failures = crate::stats::Failures::default();
        for (row, source) in rows.iter().flat_map(|row| row.sources.iter().map(move |s| (row, s))) {
            let attempt = Attempt::known_by_kernel(at, (*source).into(), row.address.into());
            failures.keep(self.failure(attempt, false, false));
        }
        let profile = failures.profile(&[]);
        let busiest = rows.iter().max_by_key(|row| row.count);
        let address = busiest
            .filter(|row| row.count * 2 >= count)
            .map_or(service.address.into(), |row| row.address);
        let evidence = Evidence {
            half_open_peak: u64::from(count),
            backlog: Some(backlog),
            occupancy_ratio: Some(occupancy),
            fingerprint: None,
            ..sources_evidence(&profile)
        };
        let circumstances = Circumstances {
            failures: profile.failures,
            sampled_sources: profile.sources,
            level: 1.0 + occupancy,
            half_open: u64::from(count),
            resent: Some(u64::from(old)),
            kernel_agrees: true,
            cold: true,
            sysctls: self.sysctls(),
            ..Circumstances::default()
        };
        let target = Target { address: Some(address), port: Some(service.port) };
        self.tell(
            at,
            Class::SynFlood,
            subject,
            severity,
            variant(&profile),
            target,
            evidence,
            &circumstances,
            at,
        );
    }
}

/// The part of the evidence that the sources give.
fn sources_evidence(profile: &SourceProfile) -> Evidence {
    Evidence {
        sources: profile.sources as u64,
        source_entropy_ratio: profile.entropy_ratio,
        top_prefixes: profile.top_prefixes.clone(),
        fingerprint: profile.fingerprint.clone(),
        ..Evidence::default()
    }
}

/// Share of the attempts that completed; 1 without attempts.
pub(super) fn completion_ratio(window: &Window) -> f64 {
    let attempts = window.answered + window.unanswered;
    if attempts == 0 { 1.0 } else { f64::from(window.completed) / f64::from(attempts) }
}

fn mean_weight(failures: &[Failure]) -> f64 {
    if failures.is_empty() {
        return 1.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "at most a few dozen")]
    let count = failures.len() as f64;
    failures.iter().map(|failure| failure.weight).sum::<f64>() / count
}
