//! What is told of one service: a flood, a crowd, an application that does not accept.

use std::time::Duration;

use crate::detect::{Circumstances, Configured, Detail, Onset, Subject, are_real, variant};
use crate::engine::judge::{SECOND, filter};
use crate::engine::services::Service;
use crate::engine::{Engine, KernelView};
use crate::flow::{HalfOpen, ServiceId};
use crate::observe::{Class, Evidence, Severity, Sysctls, Target, Variant};
use crate::stats::{Failure, SourceProfile, Step};
use crate::time::Timestamp;

/// With so many incidents at once further floods of single services are told only as what they have in common.
const MANY: u32 = 64;
/// An accept queue has recovered after so long without a sign of trouble.
const ACCEPT_CALM: Duration = Duration::from_secs(30);
/// Steps over which answers that were repeated in spite of the client's ACK are counted: 4 s.
const ACCEPT_STEPS: u32 = 15;
/// So many of them, and this share of the handshakes, show an accept queue that is full.
const ACCEPT_RESENT: u32 = 10;
const ACCEPT_SHARE: f64 = 0.05;

impl Engine {
    pub(super) fn tell_service(&mut self, id: ServiceId, at: Timestamp) {
        let service = self.services.get(id);
        let subject = Subject::Service(service.address, service.port);
        let severity = service.detector.severity();
        let told = |class| self.incidents.is_active(class, subject);
        let (flood, crowd) = (told(Class::SynFlood), told(Class::FlashCrowd));
        let crowded = service.detector.is_crowded();
        let telling = severity.is_some_and(|severity| flood || !self.is_covered(id, severity));
        if (telling && self.is_due(id, subject, severity)) || (flood && severity.is_none()) {
            let onset = severity.map(|severity| self.flood(id, severity));
            self.tell(at, Class::SynFlood, subject, onset);
        }
        if crowded || crowd {
            let onset = crowded.then(|| self.crowd(id, at));
            self.tell(at, Class::FlashCrowd, subject, onset);
        }
        if let Some(detail) = self.accept_overflow(id) {
            let onset = self.overflow(id, at, detail);
            self.tell(at, Class::AcceptQueueOverflow, subject, Some(onset));
        }
    }

    /// Whether what is told of a flood is to be brought up to date: when it becomes graver, and else once a
    /// second; where there are many, as often as a few of them in every step allow.
    fn is_due(&self, id: ServiceId, subject: Subject, severity: Option<Severity>) -> bool {
        let Some(told) = self.incidents.active(Class::SynFlood, subject) else { return true };
        severity > told.current_severity() || self.is_turn(id, self.turns())
    }

    /// Whether something else is told that accounts for this. What happens to many services at once is told
    /// once, and of each only where its queue is full; a crowd and clients that wait for accept() take room.
    fn is_covered(&self, id: ServiceId, severity: Severity) -> bool {
        let service = self.services.get(id);
        let critical = severity == Severity::Critical && service.detector.is_queue_full();
        // A list of hundreds says no more than what they have in common.
        self.told >= MANY
            || (self.is_group_told(service.address) && !critical)
            || (severity == Severity::Info
                && (service.detector.is_crowded() || self.is_accept_queue_full(id)))
    }

    fn flood(&self, id: ServiceId, severity: Severity) -> Onset {
        let service = self.services.get(id);
        let mut failures_of_young: Vec<Failure> = Vec::new();
        if service.detector.is_fast() {
            for ago in service.maturity() - SECOND..service.maturity() {
                if let Some(step) = self.step.before(ago) {
                    let judged = self.judge_sample(id, step);
                    failures_of_young.extend(judged.failures());
                }
            }
        }
        let profile = service.failures.profile(&failures_of_young);
        let since = self.begin_of(service.detector.onset().unwrap_or(self.step));
        let first_packet_at = failures_of_young
            .iter()
            .map(|failure| failure.attempt.at)
            .chain(service.failures.first_since(since))
            .filter(|at| *at >= since)
            .min()
            .unwrap_or(since);
        let (half_open, backlog) = self.queue(id);
        let wire = self.half_open(id);
        let kernel = self.kernel.as_ref().filter(|_| self.fresh_kernel());
        let address = match profile.top_destination {
            (Some(address), share) if share >= 0.5 => address,
            _ => service.address,
        };
        // What a SYN looked like is only known where SYNs are seen.
        let sees_syns = !service.sees_answers_only();
        let evidence = Evidence {
            fingerprint: profile.fingerprint.clone().filter(|_| sees_syns),
            backlog: Some(backlog),
            occupancy_ratio: Some(service.detector.occupancy(backlog)),
            kernel_drop_rate: kernel.map(|kernel| kernel.drop_rate),
            kernel_cookie_rate: kernel.map(|kernel| kernel.cookie_rate),
            sources: self.sources(id).max(profile.sources as u64),
            ..self.evidence(id, half_open.max(wire.total), &profile)
        };
        let circumstances = Circumstances {
            excess_rate: service.detector.excess_rate(),
            sampled_sources: profile.sources,
            reason: service.detector.reason(),
            filling_rate: service.detector.filling_rate(),
            failures: profile.failures,
            level: service.detector.evidence_level(),
            // The kernel was last asked up to a second ago; a queue holds one more than its limit.
            half_open: match self.sysctls().syncookies {
                Some(2) => half_open,
                _ => half_open.max(wire.total.min(u64::from(backlog) + 1)),
            },
            seconds_to_full: service.detector.seconds_to_full(backlog),
            kernel_agrees: self.kernel_agrees(service, half_open, backlog),
            disagreement: self.disagreement(service, wire),
            one_way: service.is_one_way() || service.counts.syn == 0,
            dropping: self.capture.is_dropping(),
            cold: service.detector.is_cold(),
            sysctls: self.sysctls(),
            configured: Configured::default(),
            listen_backlog: self.listen_backlog(id),
            filter: filter(&service.failures, &failures_of_young, &profile).filter(|_| sees_syns),
            real_sources: are_real(&profile),
            rate_per_source: evidence.syn_rate * profile.collision,
            detail: Detail::Attempts,
        };
        Onset {
            class: Class::SynFlood,
            variant: if service.detector.is_slow() {
                Some(Variant::Slow)
            } else {
                variant(&profile)
            },
            severity,
            target: Target { address: Some(address.into()), port: Some(service.port) },
            target_prefix: None,
            attacker: None,
            first_packet_at,
            evidence,
            circumstances,
        }
    }

    fn kernel_agrees(&self, service: &Service, half_open: u64, backlog: u32) -> bool {
        self.fresh_kernel()
            && service.listener.is_some()
            && (half_open >= 50
                || half_open * 4 >= u64::from(backlog)
                || self.kernel.as_ref().is_some_and(KernelView::is_queue_full))
    }

    /// What the wire shows and what the kernel holds, where the one cannot be the other: beyond what
    /// changes within the second since the kernel was asked.
    fn disagreement(&self, service: &Service, wire: HalfOpen) -> Option<(u64, u64)> {
        let kernel = u64::from(service.kernel_half_open.filter(|_| self.fresh_kernel())?);
        let second = u64::from(service.windows.sum(0, 4).syn) + 50;
        let (least, most) = (wire.total - wire.unconfirmed, wire.total);
        let agree = kernel + kernel / 4 + second >= least && kernel <= most + most / 4 + second;
        (!agree).then_some((if kernel < least { least } else { most }, kernel))
    }

    fn crowd(&self, id: ServiceId, at: Timestamp) -> Onset {
        let (half_open, backlog) = self.queue(id);
        let circumstances = Circumstances { half_open, ..Circumstances::default() };
        self.innocent(id, at, Class::FlashCrowd, (half_open, backlog), circumstances)
    }

    fn overflow(&self, id: ServiceId, at: Timestamp, detail: Detail) -> Onset {
        let (half_open, _) = self.queue(id);
        let circumstances = Circumstances {
            half_open,
            detail,
            level: 2.0,
            kernel_agrees: matches!(detail, Detail::AcceptQueue { waiting: Some(_), .. }),
            sysctls: Sysctls::default(),
            ..Circumstances::default()
        };
        let queue = (half_open, self.backlog(id));
        self.innocent(id, at, Class::AcceptQueueOverflow, queue, circumstances)
    }

    /// A verdict on a service that is not attacked.
    fn innocent(
        &self,
        id: ServiceId,
        at: Timestamp,
        class: Class,
        (half_open, backlog): (u64, u32),
        circumstances: Circumstances,
    ) -> Onset {
        let service = self.services.get(id);
        Onset {
            class,
            variant: None,
            severity: match class {
                Class::AcceptQueueOverflow => Severity::Warning,
                _ => Severity::Info,
            },
            target: Target { address: Some(service.address.into()), port: Some(service.port) },
            target_prefix: None,
            attacker: None,
            first_packet_at: at,
            evidence: Evidence {
                backlog: Some(backlog),
                occupancy_ratio: Some(service.detector.occupancy(backlog)),
                ..self.evidence(id, half_open, &SourceProfile::default())
            },
            circumstances,
        }
    }

    /// Whether an accept queue is full now: the kernel holds as many connections as fit
    /// (`sk_acceptq_is_full`) and turns others away. Where it cannot be asked: answers are repeated that
    /// were acknowledged, since their ACK had to be ignored (`tcp_check_req`), and further SYNs are not
    /// answered. (The first alone is also what `TCP_DEFER_ACCEPT` looks like.)
    fn accept_overflow(&self, id: ServiceId) -> Option<Detail> {
        let service = self.services.get(id);
        let listener = service.listener.as_ref().filter(|_| self.fresh_kernel());
        let waiting = listener.map(|listener| listener.accept_queue);
        let recent = service.windows.sum(0, ACCEPT_STEPS);
        let resent = recent.resent_after_ack;
        // Not those whose answer may still be on its way from a distant server.
        let unanswered = service.windows.sum(Step::MATURE, ACCEPT_STEPS).unanswered;
        let enough = ACCEPT_RESENT.saturating_mul(self.sampler.level(id).weight());
        let full = match listener {
            Some(listener) => {
                listener.accept_queue >= listener.backlog
                    && self.kernel.as_ref().is_some_and(|kernel| kernel.overflow_rate > 0.0)
            }
            None => {
                resent >= enough
                    && f64::from(resent) >= ACCEPT_SHARE * f64::from(recent.completed)
                    && unanswered >= resent
            }
        };
        full.then_some(Detail::AcceptQueue { waiting, resent })
    }

    /// Whether the accept queue of a service has been found full of late: SYNs without an answer are due to
    /// that (`tcp_conn_request` drops them before it looks at the SYN queue).
    pub(super) fn is_accept_queue_full(&self, id: ServiceId) -> bool {
        let service = self.services.get(id);
        let subject = Subject::Service(service.address, service.port);
        self.incidents.is_active(Class::AcceptQueueOverflow, subject)
    }

    pub(super) fn lapse_accept_queues(&mut self, at: Timestamp) {
        self.lapse(at, Class::AcceptQueueOverflow, ACCEPT_CALM, |_| true);
    }
}
