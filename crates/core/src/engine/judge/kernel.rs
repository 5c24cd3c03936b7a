//! What the kernel says by itself: of a queue that is full, and by its SYN_RECV rows where there is
//! no wire.

use crate::detect::{FULL, OVERFLOWING, Reason};
use crate::engine::judge::fates::Past;
use crate::engine::judge::moment::{Moment, SECOND, completion, sources_evidence};
use crate::engine::services::Service;
use crate::engine::witnesses::KernelView;
use crate::findings::{
    Basis, Configured, Finding, Grounds, Onset, QueueState, Sources, SynFlood, variant,
};
use crate::flow::ServiceId;
use crate::model::{Evidence, KernelHalfOpen, Severity, Target};
use crate::stats::{Attempt, Failures, Step};

/// Of the requests in a queue that honest clients fill fewer than this share is so old that its
/// SYN-ACK was sent again.
const RESENT_SHARE: f64 = 0.1;

impl Moment<'_> {
    /// Whether the queue of a service is full by the kernel's last count of a listener.
    pub(in crate::engine) fn is_full(&self, service: &Service) -> bool {
        let count = service.kernel_half_open.filter(|_| service.listener.is_some());
        let limit = FULL * f64::from(self.queue_limit(service));
        count.is_some_and(|count| f64::from(count) >= limit)
    }

    /// Whether the kernel turns requests away from a queue that is full, though neither an accept
    /// queue that is full explains that nor what the wire shows.
    pub(in crate::engine) fn overflows(&self, id: ServiceId, service: &Service) -> bool {
        let turned_away = self.kernel.is_some_and(KernelView::is_queue_full);
        turned_away && !self.is_accept_queue_full(service) && !self.is_visible(id, service)
    }

    /// Whether the accept queue of a service is full by the kernel's last count: a client's ACK
    /// finds no place there, so its request stays, and further SYNs are dropped
    /// (`tcp_conn_request`).
    pub(super) fn is_accept_queue_full(&self, service: &Service) -> bool {
        let listener = service.listener.as_ref().filter(|_| self.fresh_kernel().is_some());
        listener.is_some_and(|listener| listener.accept_queue >= listener.backlog.max(1))
    }

    /// Whether the wire shows the better part of the requests that the kernel holds, so that they
    /// are judged by what becomes of them; or, without a wire, whether they come and go.
    fn is_visible(&self, id: ServiceId, service: &Service) -> bool {
        let count = service.kernel_half_open.unwrap_or_default();
        if self.settings.kernel_only {
            let resent = f64::from(service.kernel_resent) >= RESENT_SHARE * f64::from(count);
            return !resent && self.sysctls().synack_retries != Some(0);
        }
        self.half_open(id, service).total * 2 >= u64::from(count)
    }

    /// Whether the queue of a service is full, in more than one look where there was more than one,
    /// and not of clients that complete.
    pub(in crate::engine) fn is_full_of_unknowns(&self, id: ServiceId, service: &Service) -> bool {
        let looks = self.fresh_kernel().map_or(u32::MAX, |kernel| if kernel.first { 1 } else { 2 });
        let aged = service.windows.sum(Step::MATURE - SECOND, Step::MATURE);
        let complete = self.settings.kernel_only || completion(&aged, 1, false).value >= 0.5;
        service.full_looks >= looks && !(complete && self.is_visible(id, service))
    }

    /// Whether that has lasted.
    pub(super) fn is_overflowing(&self, service: &Service) -> bool {
        self.fresh_kernel().is_some_and(|kernel| service.overflow.lasts(kernel.sample.at))
    }

    /// The flood that the rows of a service show, if they show one.
    pub(super) fn flood_of_rows(
        &self,
        id: ServiceId,
        service: &Service,
        rows: &[&KernelHalfOpen],
        past: &Past,
    ) -> Option<Onset> {
        let (at, port) = (self.now, service.port);
        let backlog = self.queue_limit(service);
        let count: u32 = rows.iter().map(|row| row.count).sum();
        let old: u32 = rows.iter().map(|row| row.retransmitted).sum();
        let wire = (!self.settings.kernel_only).then(|| self.half_open(id, service).total);
        let (severity, basis) = if self.is_overflowing(service) {
            let basis = Basis::Overflow { reason: Reason::Overflow { lasting: OVERFLOWING }, wire };
            (Severity::Critical, basis)
        } else {
            let severity = SynFlood::judge_rows(count, old, backlog)?;
            (severity, Basis::KernelRows { resent: u64::from(old) })
        };
        let occupancy = f64::from(count) / f64::from(backlog);
        let mut failures = Failures::default();
        let completed = past.completed.look();
        for (row, source) in rows.iter().flat_map(|row| row.sources.iter().map(move |s| (row, s))) {
            let to = (row.address.into(), port);
            let attempt = Attempt::known_by_kernel(at, (*source).into(), to);
            failures.keep(past.failure(attempt, &completed, false, None));
        }
        drop(completed);
        let profile = failures.profile(&[]);
        let busiest = rows.iter().max_by_key(|row| row.count);
        let address = busiest
            .filter(|row| row.count * 2 >= count)
            .map_or(service.address.into(), |row| row.address);
        let found = SynFlood {
            basis,
            queue: QueueState {
                half_open: u64::from(count),
                seconds_to_full: None,
                sysctls: self.sysctls(),
                listen_backlog: self.listen_backlog(service),
            },
            sources: Sources { sampled: profile.sources, ..Sources::default() },
        };
        Some(Onset {
            variant: variant(&profile),
            severity,
            target: Target { address: Some(address), port: Some(port) },
            target_prefix: None,
            attacker: None,
            first_packet_at: at,
            evidence: Evidence {
                half_open_peak: u64::from(count).into(),
                backlog: Some(backlog),
                occupancy_ratio: Some(occupancy),
                kernel_drop_rate: self.kernel.map(|kernel| kernel.drop_rate),
                kernel_cookie_rate: self.kernel.map(|kernel| kernel.cookie_rate),
                fingerprint: None,
                ..match basis {
                    Basis::Overflow { wire: Some(_), .. } => {
                        self.evidence(id, service, u64::from(count), &profile)
                    }
                    _ => sources_evidence(&profile),
                }
            },
            grounds: Grounds {
                level: 1.0 + occupancy,
                failures: profile.failures,
                kernel_agrees: true,
                cold: true,
                ..Grounds::default()
            },
            configured: Configured::default(),
            finding: Finding::SynFlood(found),
        })
    }
}
