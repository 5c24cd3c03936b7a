//! The end of a step: every service is judged, then what the services have in common, and incidents are
//! raised, updated and cleared.

mod flood;
mod groups;
mod kernel;
mod sources;

use std::time::Duration;

pub(super) use groups::Groups;

use crate::detect::{Action, Configured, Filter, Observation, Onset, Subject, variant};
use crate::engine::shard::Known;
use crate::engine::{Engine, KernelView};
use crate::flow::{Fate, ServiceId};
use crate::observe::{Class, Evidence, EvidenceStderr, Severity, Variant, rounded_up, stderr};
use crate::stats::{
    Attempt, Failure, Failures, SourceProfile, Step, Window, network_of, source_of,
};
use crate::time::Timestamp;

/// What is judged by the moment (one host at full tilt, a scan, the kernel's rows) is over after so much
/// calm.
const CALM: Duration = Duration::from_secs(60);
/// Steps in a second.
const SECOND: u32 = 4;
/// What a failure counts for whose SYN was repeated as honest clients do.
const WEIGHT_RETRANSMITTED: f64 = 0.1;
/// What a health check counts for: a source that comes back, at most about once a second, and resets what
/// is answered. Other resets count fully, since a flood may reset.
const WEIGHT_HEALTH_CHECK: f64 = 0.1;
const HEALTH_CHECK_RATE: f64 = 1.5;
/// What one counts for from a network that completed a handshake within the hour. (Both discounts can be
/// gamed: the detector follows the failures without them too.)
const WEIGHT_KNOWN: f64 = 0.2;

/// What became of one step's sample.
#[derive(Default)]
struct Judged {
    failed: Vec<Failure>,
    unanswered: Vec<Failure>,
    completed: Vec<Attempt>,
    refused: Vec<Attempt>,
}

impl Engine {
    /// Judges everything at the end of the present step, which is `at`.
    pub(super) fn end_step(&mut self, at: Timestamp) {
        let mut known = self.completed.look();
        known.sources.advance(at);
        known.networks.advance(at);
        drop(known);
        self.failed_sources.advance(at);
        if self.settings.kernel_only {
            return;
        }
        self.scanners.forget(at);
        let mut judged: Vec<(ServiceId, Judged)> =
            self.services.ids().map(|id| (id, self.judge_matured(id))).collect();
        let mut others = self.judge_matured(ServiceId::OTHER);
        for (id, judged) in &judged {
            self.note_contacts(*id, judged);
        }
        self.note_contacts(ServiceId::OTHER, &others);
        self.judge_scans(at);
        for (id, judged) in &mut judged {
            self.discount_scanners(judged);
            self.discount_health_checks(*id, at, judged);
            self.observe(*id, at, judged);
        }
        self.discount_scanners(&mut others);
        self.observe_others(at, &others);
        self.judge_hosts(at);
        self.lapse_accept_queues(at);
        // What is told of many services at once is not told of each.
        self.judge_groups(at);
        self.told = u32::try_from(self.incidents.all_active().count()).unwrap_or(u32::MAX);
        for id in self.services.ids() {
            self.tell_service(id, at);
        }
    }

    /// The step of a service that matures now. Before there is one only young attempts can speak.
    fn matured(&self, id: ServiceId) -> Option<Step> {
        self.step.before(self.services.get(id).maturity())
    }

    /// Looks up what became of the attempts that were drawn in the step that matures now.
    fn judge_matured(&self, id: ServiceId) -> Judged {
        self.matured(id).map_or_else(Judged::default, |step| self.judge_sample(id, step))
    }

    /// Looks up what became of the attempts that were drawn in `step`.
    fn judge_sample(&self, id: ServiceId, step: Step) -> Judged {
        let service = self.services.get(id);
        let completed = self.completed.look();
        // All that is random access is fetched before it is looked at.
        for attempt in service.drawn.of(step) {
            self.shards.prefetch(attempt.flow);
            let (source, network) = self.origin(attempt);
            completed.networks.prefetch(network);
            completed.sources.prefetch(source);
            self.failed_sources.prefetch(source);
        }
        let mut judged = Judged::default();
        for attempt in service.drawn.of(step) {
            let (fate, retransmitted) = self.shards.fate(attempt.flow, attempt.isn);
            let failure = |reset| self.failure(*attempt, &completed, retransmitted, reset);
            match fate {
                Fate::HalfOpen => judged.failed.push(failure(false)),
                Fate::Reset => judged.failed.push(failure(true)),
                Fate::Unanswered => judged.unanswered.push(failure(false)),
                Fate::Completed => judged.completed.push(*attempt),
                Fate::Refused => judged.refused.push(*attempt),
                Fate::Unknown => {}
            }
        }
        judged
    }

    /// Hashes of the source of an attempt, and of its network.
    fn origin(&self, attempt: &Attempt) -> (u64, u64) {
        let hash = |address| self.hasher.address(address);
        (hash(source_of(attempt.source)), hash(network_of(attempt.source)))
    }

    fn failure(
        &self,
        attempt: Attempt,
        completed: &Known,
        retransmitted: bool,
        reset: bool,
    ) -> Failure {
        let (source, network) = self.origin(&attempt);
        let weight = match (retransmitted, completed.networks.contains(network)) {
            (true, _) => WEIGHT_RETRANSMITTED,
            (false, true) => WEIGHT_KNOWN,
            (false, false) => 1.0,
        };
        let new = !completed.sources.contains(source);
        let returning = self.failed_sources.contains(source);
        Failure { attempt, retransmitted, reset, new, returning, weight }
    }

    fn discount_health_checks(&self, id: ServiceId, at: Timestamp, judged: &mut Judged) {
        let service = self.services.get(id);
        for failure in judged.failed.iter_mut().filter(|failure| failure.reset && failure.returning)
        {
            let source = source_of(failure.attempt.source);
            if service.failures.reset_rate(source, at) <= HEALTH_CHECK_RATE {
                failure.weight = failure.weight.min(WEIGHT_HEALTH_CHECK);
            }
        }
    }

    /// Whether those that a server left without an answer do not ask again, as honest clients do after a
    /// second: then it is not the server that is stuck.
    fn stay_silent(&self, id: ServiceId) -> bool {
        const OLDEST_YOUNG: u32 = Step::MATURE - 1;
        const ENOUGH: usize = 16;
        let service = self.services.get(id);
        let unanswered = service.windows.sum(OLDEST_YOUNG, OLDEST_YOUNG).unanswered;
        let enough = unanswered / self.sampler.level(id).weight() >= ENOUGH as u32;
        let Some(step) = self.step.before(OLDEST_YOUNG).filter(|_| enough) else {
            return false;
        };
        let sample = self.judge_sample(id, step).unanswered;
        let again = sample.iter().filter(|failure| failure.retransmitted).count();
        sample.len() >= ENOUGH && again * 2 < sample.len()
    }

    /// In so many steps everything has its turn that is looked at closely: a second, or more where much is told.
    fn turns(&self) -> u32 {
        const AT_ONCE: u32 = 2;
        (self.told / AT_ONCE).max(SECOND)
    }

    /// Whether it is a service's turn, once in so many steps: what is done in turns makes no step long, however
    /// many services there are.
    fn is_turn(&self, id: ServiceId, steps: u32) -> bool {
        self.step.0.wrapping_add(self.services.get(id).turn).is_multiple_of(steps)
    }

    fn observe(&mut self, id: ServiceId, at: Timestamp, judged: &Judged) {
        let matured = self.matured(id);
        let (half_open, backlog) = self.queue(id);
        // The kernel does not say whose queue was full.
        let queue_full = self.kernel.as_ref().is_some_and(KernelView::is_queue_full)
            && self.services.get(id).listener.is_some()
            && half_open * 2 >= u64::from(backlog);
        let wire = self.half_open(id);
        let old = wire.total - wire.unconfirmed;
        let unpruned = self.sysctls().syncookies == Some(0) && backlog <= self.backlog(id) / 2;
        let accept_queue_full = self.is_accept_queue_full(id);
        let silent = self.stay_silent(id);
        let weight = self.sampler.level(id).weight();
        let is_turn = self.is_turn(id, self.turns());
        let service = self.services.get_mut(id);
        let window = matured.map_or_else(Window::default, |step| service.windows.get(step));
        let failed = f64::from(window.failed()) * service.failures.mean_weight(&judged.failed);
        let unanswered = if accept_queue_full {
            0.0
        } else {
            f64::from(window.unanswered) * service.failures.mean_weight(&judged.unanswered)
        };
        for failure in judged.failures() {
            let source = source_of(failure.attempt.source);
            self.failed_sources.insert(self.hasher.address(source));
            service.failures.keep(*failure);
        }
        service.failures.contrast(&judged.completed);
        service.failures.forget(at);
        if is_turn {
            service.entropy_ratio = service.failures.entropy_ratio();
        }
        let idle = window == Window::default()
            && !service.detector.is_active()
            && service.windows.sum(0, 6) == Window::default();
        if idle && half_open == 0 && service.detector.is_at_rest() {
            return;
        }
        // Attempts of the last second before they mature.
        let maturity = service.maturity();
        let young = service.windows.sum(maturity - SECOND, maturity - 1);
        let young_unanswered = if silent { young.unanswered } else { 0 };
        let observation = Observation {
            at,
            matured: matured.unwrap_or_default(),
            immature: matured.is_none(),
            completed: f64::from(window.completed),
            failed,
            undiscounted: f64::from(window.failed()) * judged.unexplained(),
            unanswered,
            young: young.answered + young_unanswered,
            young_incomplete: young.failed() + young_unanswered,
            path_outage: service.failures.are_retransmitted(),
            half_open,
            old: half_open.min(old),
            backlog,
            limits: service.settings.as_ref().map(|set| set.limits).unwrap_or_default(),
            unpruned,
            queue_full,
            weight,
        };
        service.detector.observe(&observation);
        // Attempts to a service that is told of are accounted for; of one whose SYNs are never seen the
        // answers may be to anybody.
        let (address, subject) = (service.address, Subject::Service(service.address, service.port));
        let known = !service.sees_answers_only() && !service.is_muted();
        if known && !self.incidents.is_active(Class::SynFlood, subject) {
            self.groups.add(address, &observation, &window, &judged.failures(), &judged.completed);
        }
    }

    /// Tells of one subject what there is to tell, or that there is nothing (any more).
    fn tell(&mut self, at: Timestamp, class: Class, subject: Subject, onset: Option<Onset>) {
        let at = self.last_packet.map_or(at, |last| last.min(at));
        let onset = onset.map(|onset| self.configure(subject, onset));
        let action = self.incidents.update(at, class, subject, onset);
        self.told += u32::from(matches!(action, Some(Action::Raised(_))));
        self.actions.extend(action);
    }

    /// Lets what is set for a service have its part in a verdict.
    fn configure(&self, subject: Subject, mut onset: Onset) -> Onset {
        let Subject::Service(address, port) = subject else { return onset };
        let Some(service) = self.services.find(address, port) else { return onset };
        let Some(set) = &service.settings else { return onset };
        let muted = service.is_muted() && onset.severity > Severity::Info;
        onset.circumstances.configured = Configured {
            backlog: set.backlog.is_some() && onset.class != Class::FlashCrowd,
            limits: set.limits,
            muted: muted.then_some(onset.severity),
            ignored: service.windows.sum(1, 4).ignored,
        };
        if muted {
            onset.severity = Severity::Info;
        }
        onset
    }

    /// Clears those of a class that were not told again for `calm` and whose subject is `concerned`.
    fn lapse(
        &mut self,
        at: Timestamp,
        class: Class,
        calm: Duration,
        concerned: impl Fn(&Subject) -> bool,
    ) {
        self.actions.extend(self.incidents.lapse(at, class, calm, concerned));
    }

    /// The part of the evidence that comes from the wire: SYNs of the last second or of the last that
    /// matured, and completions of attempts that had half a second for it.
    fn evidence(&self, id: ServiceId, half_open_peak: u64, profile: &SourceProfile) -> Evidence {
        let service = self.services.get(id);
        let (windows, maturity) = (&service.windows, service.maturity());
        let weight = self.sampler.level(id).weight();
        let syn = windows.sum(1, 4).syn.max(windows.sum(maturity, maturity + 3).syn);
        let aged = windows.sum(maturity - SECOND, maturity + 2);
        Evidence {
            syn_rate: f64::from(syn),
            completion_ratio: completion_ratio(&aged),
            half_open_peak,
            stderr: evidence_stderr(syn, &aged, half_open_peak, weight),
            ..sources_evidence(profile)
        }
    }
}

impl Judged {
    /// Share of the failures that no scanner made: what that does is told as a scan.
    #[expect(clippy::cast_precision_loss, reason = "at most a few dozen")]
    fn unexplained(&self) -> f64 {
        let scanned = self.failed.iter().filter(|failure| failure.weight == 0.0).count();
        1.0 - scanned as f64 / self.failed.len().max(1) as f64
    }

    fn failures(&self) -> impl Iterator<Item = &Failure> + Clone {
        self.failed.iter().chain(&self.unanswered).filter(|failure| failure.weight > 0.0)
    }
}

/// What sampling makes of the evidence's precision.
fn evidence_stderr(syn: u32, aged: &Window, half_open: u64, weight: u32) -> Option<EvidenceStderr> {
    (weight > 1).then(|| EvidenceStderr {
        syn_rate_stderr: stderr(syn.into(), weight),
        completion_ratio_stderr: completion_stderr(aged, weight),
        half_open_peak_stderr: rounded_up(stderr(half_open, weight)),
    })
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

/// What a packet filter could do against the kept failures and `younger` ones.
fn filter(failures: &Failures, younger: &[Failure], profile: &SourceProfile) -> Option<Filter> {
    let forged_inside = variant(profile) == Some(Variant::SpoofedSubnet);
    let prefix = profile.top_prefix.0.filter(|_| forged_inside);
    Filter::find(failures.failing(younger), failures.completed().iter(), prefix)
}

/// The standard error of that share where each attempt stands for `weight` of them.
pub(super) fn completion_stderr(window: &Window, weight: u32) -> f64 {
    let attempts = f64::from(window.answered + window.unanswered);
    if weight == 1 || attempts == 0.0 {
        return 0.0;
    }
    // Without a single one of the other kind there may still be one too few to be looked at (Laplace).
    let looked_at = attempts / f64::from(weight);
    let share = (completion_ratio(window).min(1.0) * looked_at + 1.0) / (looked_at + 2.0);
    (share * (1.0 - share) / looked_at).sqrt()
}

/// Share of the attempts that completed; 1 without attempts.
pub(super) fn completion_ratio(window: &Window) -> f64 {
    let attempts = window.answered + window.unanswered;
    if attempts == 0 { 1.0 } else { f64::from(window.completed) / f64::from(attempts) }
}
