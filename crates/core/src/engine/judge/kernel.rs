//! What the kernel's SYN_RECV rows say by themselves, where there is no wire.

use crate::engine::judge::fates::Past;
use crate::engine::judge::moment::{Moment, sources_evidence};
use crate::engine::services::Service;
use crate::findings::{
    Basis, Configured, Finding, Grounds, Onset, QueueState, Sources, SynFlood, variant,
};
use crate::model::{Evidence, KernelHalfOpen, Target};
use crate::stats::{Attempt, Failures};

impl Moment<'_> {
    /// The flood that the rows of a service show, if they show one.
    pub(super) fn flood_of_rows(
        &self,
        service: &Service,
        rows: &[&KernelHalfOpen],
        past: &Past,
    ) -> Option<Onset> {
        let (at, port) = (self.now, service.port);
        let backlog = self.queue_limit(service);
        let count: u32 = rows.iter().map(|row| row.count).sum();
        let old: u32 = rows.iter().map(|row| row.retransmitted).sum();
        let severity = SynFlood::judge_rows(count, old, backlog)?;
        let occupancy = f64::from(count) / f64::from(backlog);
        let mut failures = Failures::default();
        let completed = past.completed.look();
        for (row, source) in rows.iter().flat_map(|row| row.sources.iter().map(move |s| (row, s))) {
            let to = (row.address.into(), port);
            let attempt = Attempt::known_by_kernel(at, (*source).into(), to);
            failures.keep(past.failure(attempt, &completed, false, false));
        }
        drop(completed);
        let profile = failures.profile(&[]);
        let busiest = rows.iter().max_by_key(|row| row.count);
        let address = busiest
            .filter(|row| row.count * 2 >= count)
            .map_or(service.address.into(), |row| row.address);
        let found = SynFlood {
            basis: Basis::KernelRows { resent: u64::from(old) },
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
                ..sources_evidence(&profile)
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
