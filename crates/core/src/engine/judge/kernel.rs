//! What the kernel adds: the state of a queue, and a verdict without a wire.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::detect::{Circumstances, Detail, Onset, Subject, variant};
use crate::engine::Engine;
use crate::engine::judge::{CALM, sources_evidence};
use crate::flow::{HalfOpen, ServiceId};
use crate::observe::{Class, Evidence, KernelHalfOpen, Severity, Sysctls, Target};
use crate::stats::{Attempt, Failures};
use crate::time::Timestamp;

/// A kernel sample older than this, or than three intervals, says nothing of now.
const KERNEL_FRESH: Duration = Duration::from_secs(4);

impl Engine {
    /// Half-open connections by the better witness, and the limit of their queue.
    pub(super) fn queue(&self, id: ServiceId) -> (u64, u32) {
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

    /// The listen backlog of a service: set, or from the kernel, or assumed.
    pub(in crate::engine) fn backlog(&self, id: ServiceId) -> u32 {
        let service = self.services.get(id);
        let set = service.settings.as_ref().and_then(|settings| settings.backlog);
        let listens = || service.listener.as_ref().map(|listener| listener.backlog);
        set.or_else(listens).unwrap_or(self.settings.backlog).max(1)
    }

    /// The backlog of one listening socket of a service, where the kernel was asked.
    pub(super) fn listen_backlog(&self, id: ServiceId) -> Option<u32> {
        let listener = self.services.get(id).listener.as_ref().filter(|_| self.fresh_kernel())?;
        Some(listener.backlog / listener.sockets.max(1))
    }

    /// The limit of a service's SYN queue: the backlog, or with cookies off three quarters of
    /// `tcp_max_syn_backlog` where that is lower (`tcp_conn_request`).
    pub(in crate::engine) fn queue_limit(&self, id: ServiceId) -> u32 {
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
    pub(in crate::engine) fn half_open(&self, id: ServiceId) -> HalfOpen {
        let wire = self.shards.half_open(id);
        let Some(listener) = &self.services.get(id).listener else { return wire };
        let room = u64::from(self.queue_limit(id)) + u64::from(listener.sockets);
        if self.sysctls().syncookies == Some(0) {
            let total = wire.total.min(room);
            return HalfOpen { total, unconfirmed: wire.unconfirmed.min(total) };
        }
        let confirmed = (wire.total - wire.unconfirmed).min(room);
        HalfOpen { total: confirmed + wire.unconfirmed, unconfirmed: wire.unconfirmed }
    }

    pub(in crate::engine) fn fresh_kernel(&self) -> bool {
        let fresh = KERNEL_FRESH.max(self.settings.kernel_interval * 3);
        self.kernel.as_ref().is_some_and(|kernel| self.now - kernel.sample.at < fresh)
    }

    pub(in crate::engine) fn sysctls(&self) -> Sysctls {
        self.kernel.as_ref().map(|kernel| kernel.sample.sysctls).unwrap_or_default()
    }

    /// Judges by the kernel's SYN_RECV rows alone.
    pub(in crate::engine) fn judge_kernel(&mut self) {
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
            self.lapse(at, Class::SynFlood, CALM, |_| true);
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
        let subject = Subject::Service(service.address, service.port);
        let port = service.port;
        let Some(severity) = severity else { return };
        let mut failures = Failures::default();
        let completed = self.completed.look();
        for (row, source) in rows.iter().flat_map(|row| row.sources.iter().map(move |s| (row, s))) {
            let to = (row.address.into(), port);
            let attempt = Attempt::known_by_kernel(at, (*source).into(), to);
            failures.keep(self.failure(attempt, &completed, false, false));
        }
        drop(completed);
        let profile = failures.profile(&[]);
        let busiest = rows.iter().max_by_key(|row| row.count);
        let address = busiest
            .filter(|row| row.count * 2 >= count)
            .map_or(service.address.into(), |row| row.address);
        let evidence = Evidence {
            half_open_peak: u64::from(count),
            backlog: Some(backlog),
            occupancy_ratio: Some(occupancy),
            kernel_drop_rate: self.kernel.as_ref().map(|kernel| kernel.drop_rate),
            kernel_cookie_rate: self.kernel.as_ref().map(|kernel| kernel.cookie_rate),
            fingerprint: None,
            ..sources_evidence(&profile)
        };
        let circumstances = Circumstances {
            failures: profile.failures,
            sampled_sources: profile.sources,
            level: 1.0 + occupancy,
            half_open: u64::from(count),
            detail: Detail::KernelRows { resent: u64::from(old) },
            kernel_agrees: true,
            cold: true,
            sysctls: self.sysctls(),
            listen_backlog: self.listen_backlog(id),
            ..Circumstances::default()
        };
        let onset = Onset {
            class: Class::SynFlood,
            variant: variant(&profile),
            severity,
            target: Target { address: Some(address), port: Some(port) },
            target_prefix: None,
            attacker: None,
            first_packet_at: at,
            evidence,
            circumstances,
        };
        self.tell(at, Class::SynFlood, subject, Some(onset));
    }
}
