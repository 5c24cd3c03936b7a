//! What is said of one service: a flood, a crowd, an application that does not accept.

use crate::engine::judge::filter;
use crate::engine::judge::moment::{Moment, SECOND, completion};
use crate::engine::services::Service;
use crate::engine::witnesses::KernelView;
use crate::findings::{
    AcceptQueueOverflow, BacklogSmall, Basis, Burst, Configured, Finding, FlashCrowd, Grounds,
    Onset, PathOutage, QueueState, Signs, Sources, SynFiltered, SynFlood, are_real, variant,
};
use crate::flow::{HalfOpen, ServiceId};
use crate::model::{Evidence, Severity, Target, Variant};
use crate::stats::{Failure, STEP, SourceProfile, Step};
use crate::time::Timestamp;

/// Steps over which answers that were repeated in spite of the client's ACK are counted: 4 s.
const ACCEPT_STEPS: u32 = 15;
/// Steps whose SYNs are held against the places of a queue: 1.5 s, a little more than passes
/// between two looks at the kernel.
const BURST_STEPS: u32 = 6;

/// The steps whose attempts are about to be judged: those of the second before, oldest last.
pub(super) fn young_steps(service: &Service) -> std::ops::Range<u32> {
    service.maturity() - SECOND..service.maturity()
}

impl Moment<'_> {
    /// The flood of a service. `young`: failures of attempts that are not judged yet, `sources`:
    /// how many it has had.
    pub(super) fn flood(
        &self,
        id: ServiceId,
        service: &Service,
        severity: Severity,
        young: &[Failure],
        sources: u64,
    ) -> Onset {
        let detector = &service.detector;
        let profile = service.failures.profile(young);
        let since = self.begin_of(detector.onset().unwrap_or(self.step));
        let first_packet_at = young
            .iter()
            .map(|failure| failure.attempt.at)
            .chain(service.failures.first_since(since))
            .filter(|at| *at >= since)
            .min()
            .unwrap_or(since);
        let (half_open, backlog) = self.queue(id, service);
        let wire = self.half_open(id, service);
        let kernel = self.fresh_kernel();
        let address = match profile.top_destination {
            (Some(address), share) if share >= 0.5 => address,
            _ => service.address,
        };
        // What a SYN looked like is only known where SYNs are seen.
        let sees_syns = !service.sees_answers_only();
        let evidence = Evidence {
            fingerprint: profile.fingerprint.clone().filter(|_| sees_syns),
            backlog: Some(backlog),
            occupancy_ratio: Some(detector.occupancy(backlog)),
            kernel_drop_rate: kernel.map(|kernel| kernel.drop_rate),
            kernel_cookie_rate: kernel.map(|kernel| kernel.cookie_rate),
            sources: sources.max(profile.sources as u64),
            ..self.evidence(id, service, half_open.max(wire.total), &profile)
        };
        let found = SynFlood {
            basis: Basis::Attempts(detector.reason()),
            queue: QueueState {
                // The kernel was last asked up to a second ago; a queue holds one more than its
                // limit.
                half_open: match self.sysctls().syncookies {
                    Some(2) => half_open,
                    _ => half_open.max(wire.total.min(u64::from(backlog) + 1)),
                },
                seconds_to_full: detector.seconds_to_full(backlog),
                sysctls: self.sysctls(),
                listen_backlog: self.listen_backlog(service),
            },
            sources: Sources {
                sampled: profile.sources,
                real: are_real(&profile),
                rate_each: evidence.syn_rate.value * profile.collision,
                filter: filter(&service.failures, young, &profile).filter(|_| sees_syns),
            },
        };
        let kernel_agrees = self.kernel_agrees(service, half_open, backlog);
        Onset {
            variant: if detector.is_slow() { Some(Variant::Slow) } else { variant(&profile) },
            severity,
            target: Target { address: Some(address.into()), port: Some(service.port) },
            target_prefix: None,
            attacker: None,
            first_packet_at,
            evidence,
            grounds: Grounds {
                level: detector.evidence_level(),
                excess_rate: detector.excess_rate(),
                failures: profile.failures,
                kernel_agrees,
                disagreement: self.disagreement(service, wire),
                one_way: service.is_one_way() || service.counts.syn == 0,
                dropping: self.capture.is_dropping(),
                cold: detector.is_cold(),
            },
            configured: Configured::default(),
            finding: Finding::SynFlood(found),
        }
    }

    fn kernel_agrees(&self, service: &Service, half_open: u64, backlog: u32) -> bool {
        service.listener.is_some()
            && self.fresh_kernel().is_some_and(|kernel| {
                half_open >= 50 || half_open * 4 >= u64::from(backlog) || kernel.is_queue_full()
            })
    }

    /// What the wire shows and what the kernel holds, where the one cannot be the other: beyond
    /// what changes within the second since the kernel was asked.
    fn disagreement(&self, service: &Service, wire: HalfOpen) -> Option<(u64, u64)> {
        self.fresh_kernel()?;
        let kernel = u64::from(service.kernel_half_open?);
        let second = u64::from(service.windows.sum(0, 4).syn) + 50;
        let (least, most) = (wire.total - wire.unconfirmed, wire.total);
        let agree = kernel + kernel / 4 + second >= least && kernel <= most + most / 4 + second;
        (!agree).then_some((if kernel < least { least } else { most }, kernel))
    }

    /// The crowd at a service.
    pub(super) fn crowd(&self, id: ServiceId, service: &Service, at: Timestamp) -> Onset {
        let (_, backlog) = self.queue(id, service);
        self.innocent(id, service, at, backlog, Severity::Info, FlashCrowd)
    }

    /// The clients of a service, of whom `usual` complete per second, do not get through.
    pub(super) fn path_outage(
        &self,
        id: ServiceId,
        service: &Service,
        at: Timestamp,
        usual_rate: f64,
    ) -> Onset {
        let known = 1.0 - service.failures.profile(&[]).new;
        self.hampered(id, service, at, PathOutage { usual_rate, known })
    }

    /// SYNs to a service are dropped before its queue: so many a second, and the limit for that.
    pub(super) fn syn_filtered(
        &self,
        id: ServiceId,
        service: &Service,
        at: Timestamp,
        (rate, limit): (f64, f64),
    ) -> Onset {
        self.hampered(id, service, at, SynFiltered { rate, limit })
    }

    fn hampered(
        &self,
        id: ServiceId,
        service: &Service,
        at: Timestamp,
        finding: impl Into<Finding>,
    ) -> Onset {
        let (_, backlog) = self.queue(id, service);
        let onset = self.innocent(id, service, at, backlog, Severity::Warning, finding);
        Onset { grounds: Grounds { level: 2.0, ..onset.grounds }, ..onset }
    }

    /// The full accept queue of a service, if it is full; `told`: it was a moment ago.
    pub(super) fn accept_overflow(
        &self,
        id: ServiceId,
        service: &Service,
        at: Timestamp,
        told: bool,
    ) -> Option<Onset> {
        let recent = service.windows.sum(0, ACCEPT_STEPS);
        let kernel = self.fresh_kernel();
        let found = AcceptQueueOverflow::judge(Signs {
            kernel: service.listener.as_ref().zip(kernel).map(|(listener, kernel)| {
                (listener.accept_queue, listener.backlog, kernel.overflow_rate > 0.0)
            }),
            resent: recent.resent_after_ack,
            completed: recent.completed,
            // Not those whose answer may still be on its way from a distant server.
            unanswered: service.windows.sum(Step::MATURE, ACCEPT_STEPS).unanswered,
            answered: service.windows.sum(1, Step::MATURE).answered,
            weight: self.weight(id),
            told,
        })?;
        let backlog = self.backlog(service);
        let onset = self.innocent(id, service, at, backlog, Severity::Warning, found);
        let kernel_agrees = found.waiting.is_some();
        let grounds = Grounds { level: 2.0, kernel_agrees, ..onset.grounds };
        Some(Onset { grounds, ..onset })
    }

    /// What a look at the kernel shows of the burst that a service may have had.
    pub(in crate::engine) fn burst(&self, service: &Service) -> Burst {
        let aged = service.windows.sum(2, Step::MATURE_BY_DATA);
        Burst {
            turned_away: self.kernel.is_some_and(KernelView::is_queue_full),
            arrivals: service.windows.sum(0, BURST_STEPS - 1).syn,
            room: self.queue_limit(service),
            completed: completion(&aged, 1, false).value,
        }
    }

    /// The queue of a service that is too short for its clients, if it is.
    pub(super) fn backlog_small(
        &self,
        id: ServiceId,
        service: &Service,
        at: Timestamp,
    ) -> Option<Onset> {
        let (arrivals, looks) = service.overruns.enough(at)?;
        let found = BacklogSmall {
            arrivals,
            span: STEP * BURST_STEPS,
            looks,
            listen: self.listen_backlog(service),
            somaxconn: self.sysctls().somaxconn,
        };
        let room = self.queue_limit(service);
        let onset = self.innocent(id, service, at, room, Severity::Info, found);
        let grounds = Grounds { level: 2.0, kernel_agrees: true, ..onset.grounds };
        Some(Onset { grounds, ..onset })
    }

    /// A finding on a service that is not attacked.
    fn innocent(
        &self,
        id: ServiceId,
        service: &Service,
        at: Timestamp,
        backlog: u32,
        severity: Severity,
        finding: impl Into<Finding>,
    ) -> Onset {
        let (half_open, _) = self.queue(id, service);
        Onset {
            variant: None,
            severity,
            target: Target { address: Some(service.address.into()), port: Some(service.port) },
            target_prefix: None,
            attacker: None,
            first_packet_at: at,
            evidence: Evidence {
                backlog: Some(backlog),
                occupancy_ratio: Some(service.detector.occupancy(backlog)),
                ..self.evidence(id, service, half_open, &SourceProfile::default())
            },
            grounds: Grounds::default(),
            configured: Configured::default(),
            finding: finding.into(),
        }
    }

    /// Whether requests found their queue full, and it was the one of this service: the kernel does
    /// not say whose it was.
    pub(super) fn is_queue_full(&self, service: &Service, half_open: u64, backlog: u32) -> bool {
        self.kernel.is_some_and(KernelView::is_queue_full)
            && service.listener.is_some()
            && half_open * 2 >= u64::from(backlog)
    }
}
