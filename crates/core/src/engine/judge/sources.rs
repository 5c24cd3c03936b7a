//! What is told of hosts and sources rather than services: one source at full tilt, scans, backscatter.

use crate::detect::{Circumstances, Detail, Onset, Reason, Scan, Subject};
use crate::engine::Engine;
use crate::engine::judge::{CALM, Judged};
use crate::flow::ServiceId;
use crate::observe::{Class, Evidence, PrefixShare, Severity, Target, Variant};
use crate::stats::{Attempt, Backscatter, FullTilt, LastSteps, STEP, source_of};
use crate::time::Timestamp;

/// One source above this rate at one host is a flood whatever the ports, per second.
const FULL_TILT: u32 = 5_000;
/// Segments that answer nothing, per second.
const BACKSCATTER: u32 = 100;
/// Where any host may be ours, answers of fewer servers may be those to requests that are not captured.
const BACKSCATTER_SENDERS: u32 = 8;
/// More scanners than this at once act in concert: what they do together is judged, not each.
const SCANS: usize = 16;

impl Engine {
    /// Takes in how first contacts ended. Those with a service under attack say nothing of their source.
    pub(super) fn note_contacts(&mut self, id: ServiceId, judged: &Judged) {
        let service = self.services.get(id);
        let subject = Subject::Service(service.address, service.port);
        if self.incidents.is_active(Class::SynFlood, subject) {
            return;
        }
        let failures = judged.failed.iter().chain(&judged.unanswered);
        let failed = failures.map(|failure| (&failure.attempt, false));
        let refused = judged.refused.iter().map(|attempt| (attempt, false));
        let completed = judged.completed.iter().map(|attempt| (attempt, true));
        for (attempt, success) in failed.chain(refused).chain(completed) {
            if self.services.is_watched(attempt.destination) {
                let Attempt { at, destination, port, .. } = *attempt;
                self.scanners.observe(at, attempt.source, (destination, port), success);
            }
        }
    }

    /// What a scanner does is told as a scan and counts for nothing else.
    pub(super) fn discount_scanners(&self, judged: &mut Judged) {
        for failure in judged.failed.iter_mut().chain(&mut judged.unanswered) {
            let subject = Subject::Source(source_of(failure.attempt.source));
            if self.incidents.is_active(Class::PortScan, subject) {
                failure.weight = 0.0;
            }
        }
    }

    pub(super) fn judge_scans(&mut self, at: Timestamp) {
        // A contact is judged when it has matured.
        let since = at.before(STEP * 12);
        let scans: Vec<Scan> = self.scanners.since(since).collect();
        for scan in scans {
            let flooded = scan.target.address.is_some_and(|host| {
                self.incidents.is_active(Class::SynFlood, Subject::Host(host.into()))
            });
            let subject = Subject::Source(scan.source);
            let told = self.incidents.is_active(Class::PortScan, subject);
            let active = self.incidents.all_active();
            let room = active.filter(|active| active.class == Class::PortScan).count() < SCANS;
            if told || (room && !flooded) {
                let onset = self.scan(&scan);
                self.tell(at, Class::PortScan, subject, Some(onset));
            }
        }
        self.lapse(at, Class::PortScan, CALM, |_| true);
    }

    fn scan(&self, scan: &Scan) -> Onset {
        let seconds = (scan.last - scan.first).as_secs_f64().max(1.0);
        let evidence = Evidence {
            syn_rate: f64::from(scan.attempts) / seconds,
            completion_ratio: f64::from(scan.attempts - scan.failed) / f64::from(scan.attempts),
            half_open_peak: 0,
            sources: 1,
            ..Evidence::default()
        };
        Onset {
            class: Class::PortScan,
            variant: Some(scan.variant),
            severity: Severity::Warning,
            target: scan.target,
            target_prefix: scan.prefix,
            attacker: Some(scan.attacker.into()),
            first_packet_at: scan.first,
            evidence,
            circumstances: Circumstances {
                level: 2.0,
                failures: scan.failed as usize,
                sampled_sources: 1,
                dropping: self.capture.is_dropping(),
                detail: Detail::Scan(*scan),
                ..Circumstances::default()
            },
        }
    }

    /// One source that floods a host over all of its ports, and answers to what nobody asked.
    pub(super) fn judge_hosts(&mut self, at: Timestamp) {
        let hosts = LastSteps::before(self.step, self.shards.iter().map(|shard| &shard.hosts));
        for tilt in hosts.full_tilt(FULL_TILT / 4) {
            let address = std::net::IpAddr::from(tilt.host);
            let named = self.incidents.all_active().any(|detection| {
                detection.class == Class::SynFlood
                    && detection.target.address == Some(address)
                    && detection.target.port.is_some()
            });
            if !named {
                let onset = self.full_tilt(at, &tilt);
                self.tell(at, Class::SynFlood, Subject::Host(tilt.host), Some(onset));
            }
        }
        self.lapse(at, Class::SynFlood, CALM, |subject| matches!(subject, Subject::Host(_)));
        let selective = self.services.directory().is_selective();
        for stray in hosts.backscatter(BACKSCATTER / 4) {
            if stray.senders >= BACKSCATTER_SENDERS || selective {
                let onset = self.backscatter(at, stray);
                self.tell(at, Class::Backscatter, Subject::Host(stray.host), Some(onset));
            }
        }
        self.lapse(at, Class::Backscatter, CALM, |_| true);
    }

    fn full_tilt(&self, at: Timestamp, tilt: &FullTilt) -> Onset {
        let prefix = std::net::IpAddr::from(tilt.source).into();
        Onset {
            class: Class::SynFlood,
            variant: Some(Variant::SingleSource),
            severity: Severity::Critical,
            target: Target { address: Some(tilt.host.into()), port: None },
            target_prefix: None,
            attacker: None,
            first_packet_at: at.before(STEP * 3),
            evidence: Evidence {
                syn_rate: tilt.rate,
                completion_ratio: tilt.completed,
                half_open_peak: self.shards.half_open_total(),
                sources: 1,
                top_prefixes: vec![PrefixShare { prefix, share: tilt.share }],
                ..Evidence::default()
            },
            circumstances: Circumstances {
                excess_rate: tilt.rate * (1.0 - tilt.completed),
                reason: Reason::FullTilt,
                level: tilt.rate / f64::from(FULL_TILT),
                sysctls: self.sysctls(),
                dropping: self.capture.is_dropping(),
                ..Circumstances::default()
            },
        }
    }

    fn backscatter(&self, at: Timestamp, stray: Backscatter) -> Onset {
        Onset {
            class: Class::Backscatter,
            variant: None,
            severity: Severity::Warning,
            target: Target { address: Some(stray.host.into()), port: None },
            target_prefix: None,
            attacker: None,
            first_packet_at: at.before(STEP * 3),
            evidence: Evidence {
                syn_rate: stray.rate,
                sources: u64::from(stray.senders),
                ..Evidence::default()
            },
            circumstances: Circumstances {
                level: stray.rate / f64::from(BACKSCATTER),
                dropping: self.capture.is_dropping(),
                detail: Detail::Backscatter(stray),
                ..Circumstances::default()
            },
        }
    }
}
