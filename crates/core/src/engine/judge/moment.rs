//! The end of a step, as far as the judge only reads it: what the shards counted, what the
//! witnesses said, and the time.

use std::time::Duration;

use crate::engine::sampling::Sampler;
use crate::engine::services::Service;
use crate::engine::settings::Settings;
use crate::engine::shards::Shards;
use crate::engine::witnesses::{CaptureView, KernelView};
use crate::flow::{HalfOpen, ServiceId};
use crate::model::{Estimate, Evidence, Sysctls, stderr};
use crate::stats::{STEP, SourceProfile, Step, Window};
use crate::time::Timestamp;

/// Steps in a second.
pub(super) const SECOND: u32 = 4;
/// A kernel sample older than this, or than three intervals, says nothing of now.
const KERNEL_FRESH: Duration = Duration::from_secs(4);

/// What is read at one moment.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Moment<'a> {
    /// The engine's current time.
    pub now: Timestamp,
    /// The present step.
    pub step: Step,
    /// When it began.
    pub step_began: Timestamp,
    /// At the end of a file, the time of its last packet.
    pub last_packet: Option<Timestamp>,
    pub settings: &'a Settings,
    pub shards: &'a Shards,
    pub sampler: &'a Sampler,
    pub kernel: Option<&'a KernelView>,
    pub capture: &'a CaptureView,
}

impl Moment<'_> {
    /// When a step began.
    pub fn begin_of(&self, step: Step) -> Timestamp {
        self.step_began.before(STEP * self.step.0.saturating_sub(step.0))
    }

    /// The step of a service that matures now. Before there is one only young attempts can speak.
    pub fn matured(&self, service: &Service) -> Option<Step> {
        self.step.before(service.maturity())
    }

    /// What the kernel said, as long as that holds.
    pub fn fresh_kernel(&self) -> Option<&KernelView> {
        let fresh = self.kernel_patience();
        self.kernel.filter(|kernel| self.now - kernel.sample.at < fresh)
    }

    /// Whether the kernel is asked and has not answered for longer than that, after a start at
    /// `start`.
    pub fn is_kernel_silent(&self, start: Timestamp) -> bool {
        let asked = self.kernel.is_some() || self.settings.asks_kernel;
        asked && self.fresh_kernel().is_none() && self.now - start >= self.kernel_patience()
    }

    fn kernel_patience(&self) -> Duration {
        KERNEL_FRESH.max(self.settings.kernel_interval * 3)
    }

    /// The kernel's settings, as far as they are known.
    pub fn sysctls(&self) -> Sysctls {
        self.kernel.map(|kernel| kernel.sample.sysctls).unwrap_or_default()
    }

    /// Half-open connections of a service by the better witness, and the limit of their queue.
    pub fn queue(&self, id: ServiceId, service: &Service) -> (u64, u32) {
        let half_open = self.half_open(id, service);
        let half_open = match service.kernel_half_open.filter(|_| self.fresh_kernel().is_some()) {
            Some(count) => u64::from(count),
            // Any of the unconfirmed may be the answer of a cookie, which holds no place.
            None => half_open.total - half_open.unconfirmed,
        };
        (half_open, self.queue_limit(service))
    }

    /// The listen backlog of a service: set, or from the kernel, or assumed.
    pub fn backlog(&self, service: &Service) -> u32 {
        let set = service.settings.as_ref().and_then(|settings| settings.backlog);
        let listens = || service.listener.as_ref().map(|listener| listener.backlog);
        set.or_else(listens).unwrap_or(self.settings.backlog).max(1)
    }

    /// The backlog of one listening socket of a service, where the kernel was asked.
    pub fn listen_backlog(&self, service: &Service) -> Option<u32> {
        self.fresh_kernel()?;
        let listener = service.listener.as_ref()?;
        Some(listener.backlog / listener.sockets.max(1))
    }

    /// The limit of a service's SYN queue: the backlog, or with cookies off three quarters of
    /// `tcp_max_syn_backlog` where that is lower (`tcp_conn_request`).
    pub fn queue_limit(&self, service: &Service) -> u32 {
        let backlog = self.backlog(service);
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
    pub fn half_open(&self, id: ServiceId, service: &Service) -> HalfOpen {
        let wire = self.shards.half_open(id);
        let Some(listener) = &service.listener else { return wire };
        let room = u64::from(self.queue_limit(service)) + u64::from(listener.sockets);
        if self.sysctls().syncookies == Some(0) {
            let total = wire.total.min(room);
            return HalfOpen { total, unconfirmed: wire.unconfirmed.min(total) };
        }
        let confirmed = (wire.total - wire.unconfirmed).min(room);
        HalfOpen { total: confirmed + wire.unconfirmed, unconfirmed: wire.unconfirmed }
    }

    /// Attempts that each one counted of a service stands for.
    pub fn weight(&self, id: ServiceId) -> u32 {
        self.sampler.level(id).weight()
    }

    /// The part of the evidence that comes from the wire: SYNs of the last second or of the last
    /// that matured, and completions of attempts that had half a second for it.
    pub(super) fn evidence(
        &self,
        id: ServiceId,
        service: &Service,
        half_open_peak: u64,
        profile: &SourceProfile,
    ) -> Evidence {
        let (windows, maturity) = (&service.windows, service.maturity());
        let syn = windows.sum(1, 4).syn.max(windows.sum(maturity, maturity + 3).syn);
        let aged = windows.sum(maturity - SECOND, maturity + 2);
        wire_evidence(syn, &aged, half_open_peak, self.weight(id), profile)
    }
}

/// The evidence of so many SYNs in a second, and of attempts that each stand for `weight` of them.
pub(super) fn wire_evidence(
    syn: u32,
    aged: &Window,
    half_open_peak: u64,
    weight: u32,
    profile: &SourceProfile,
) -> Evidence {
    let sampled = weight > 1;
    Evidence {
        syn_rate: Estimate::new(syn.into(), stderr(syn.into(), weight), sampled),
        completion_ratio: completion(aged, weight, sampled),
        half_open_peak: Estimate::weighted(half_open_peak, weight, sampled),
        ..sources_evidence(profile)
    }
}

/// The part of the evidence that the sources give.
pub(super) fn sources_evidence(profile: &SourceProfile) -> Evidence {
    Evidence {
        sources: profile.sources as u64,
        source_entropy_ratio: profile.entropy_ratio,
        top_prefixes: profile.top_prefixes.clone(),
        fingerprint: profile.fingerprint.clone(),
        ..Evidence::default()
    }
}

/// Share of the attempts that completed, each of which stands for `weight`; 1 without attempts.
pub(in crate::engine) fn completion(window: &Window, weight: u32, sampled: bool) -> Estimate<f64> {
    let attempts = f64::from(window.answered + window.unanswered);
    if attempts == 0.0 {
        return Estimate::new(1.0, 0.0, sampled);
    }
    let share = f64::from(window.completed) / attempts;
    if weight == 1 {
        return Estimate::new(share, 0.0, sampled);
    }
    // Without a single one of the other kind there may still be one too few to be looked at
    // (Laplace).
    let looked_at = attempts / f64::from(weight);
    let likely = (share.min(1.0) * looked_at + 1.0) / (looked_at + 2.0);
    Estimate::new(share, (likely * (1.0 - likely) / looked_at).sqrt(), sampled)
}
