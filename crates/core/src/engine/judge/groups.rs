//! What services have in common: hosts, networks and the whole capture go through the same change detection,
//! for an attack that gives each service too little to be seen there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::detect::{
    Circumstances, Detail, Detector, Observation, Onset, Subject, are_real, variant,
};
use crate::engine::Engine;
use crate::engine::judge::{
    Judged, SECOND, completion_ratio, evidence_stderr, filter, sources_evidence,
};
use crate::flow::{Hasher, ServiceId};
use crate::observe::{Class, Evidence, Severity, Target, Variant};
use crate::stats::{
    Attempt, Failure, Failures, Keyed, SourceProfile, Step, TargetProfile, Window, Windows,
    subnet_of,
};
use crate::time::Timestamp;
use crate::wire::Address;

/// The most groups at once.
const LIMIT: usize = 512;
/// A group without a failure for so long is forgotten.
const IDLE: Duration = Duration::from_secs(120);
/// Services from which on an attack is spread like a carpet, where none of them has a quarter of it.
const CARPET_SERVICES: usize = 16;
const CARPET_SHARE: f64 = 0.25;
/// Services that a reflection, or any flood of a host, has to touch: fewer are judged one by one.
const FEW_SERVICES: usize = 3;
/// Excess failures per second from which on a carpet is critical, though it fills no queue: as for one
/// source, it is a flood by its rate alone.
const CRITICAL: f64 = 5_000.0;

/// Services that are judged together.
struct Group {
    /// What this step has brought so far.
    now: Observation,
    window: Window,
    windows: Windows,
    failures: Failures,
    detector: Detector,
    last_failure: Timestamp,
    /// Whether an incident comes from here.
    told: bool,
}

/// The groups that have failures.
pub struct Groups {
    map: HashMap<Subject, Group, Keyed>,
}

impl Groups {
    /// None yet.
    pub fn new(hasher: Hasher) -> Self {
        Self { map: HashMap::with_hasher(Keyed(hasher)) }
    }

    /// Adds what a service on `host` has seen in a step, its sampled failures and the `completed` of its
    /// sample, to all groups that it belongs to.
    pub fn add<'a>(
        &mut self,
        host: Address,
        seen: &Observation,
        window: &Window,
        failures: &(impl Iterator<Item = &'a Failure> + Clone),
        completed: &[Attempt],
    ) {
        let fails = seen.failed + seen.unanswered > 0.0;
        for subject in [Subject::Host(host), Subject::Network(subnet_of(host)), Subject::Capture] {
            let room = fails && self.map.len() < LIMIT;
            let group = match self.map.get_mut(&subject) {
                Some(group) => group,
                None if room => self.map.entry(subject).or_insert_with(|| Group::new(seen.at)),
                None => continue,
            };
            group.add(seen, window, failures.clone());
            group.failures.contrast(completed);
        }
    }

    fn is_told(&self, subject: Subject) -> bool {
        self.map.get(&subject).is_some_and(|group| group.told)
    }
}

impl Group {
    fn new(at: Timestamp) -> Self {
        Self {
            now: Observation::default(),
            window: Window::default(),
            windows: Windows::default(),
            failures: Failures::default(),
            detector: Detector::default(),
            last_failure: at,
            told: false,
        }
    }

    fn add<'a>(
        &mut self,
        seen: &Observation,
        window: &Window,
        failures: impl Iterator<Item = &'a Failure>,
    ) {
        self.now.matured = seen.matured;
        self.now.immature = seen.immature;
        if seen.failed + seen.unanswered > 0.0 {
            self.now.weight = self.now.weight.max(seen.weight);
        }
        self.now.completed += seen.completed;
        self.now.failed += seen.failed;
        self.now.undiscounted += seen.undiscounted;
        self.now.unanswered += seen.unanswered;
        self.window.add(window);
        for failure in failures {
            self.failures.keep(*failure);
            self.last_failure = seen.at;
        }
    }

    /// Ends the step.
    fn observe(&mut self, at: Timestamp, step: Step, backlog: u32) {
        self.failures.forget(at);
        self.windows.begin(step);
        if let Some(window) = self.windows.at(step) {
            *window = std::mem::take(&mut self.window);
        }
        let path_outage = self.failures.are_retransmitted();
        let seen = Observation { at, backlog, path_outage, ..std::mem::take(&mut self.now) };
        self.detector.observe(&seen);
    }

    /// The severity that is worth telling of a group.
    fn severity(&self) -> Option<Severity> {
        let severity =
            self.detector.severity().filter(|severity| *severity >= Severity::Warning)?;
        let critical = self.detector.excess_rate() >= CRITICAL;
        Some(if critical { severity } else { Severity::Warning })
    }
}

impl Engine {
    /// Adds the attempts to services that have no place of their own: what the sample of them shows, in
    /// proportion.
    pub(super) fn observe_others(&mut self, at: Timestamp, judged: &Judged) {
        let Some(matured) = self.matured(ServiceId::OTHER) else { return };
        let window = self.services.get(ServiceId::OTHER).windows.get(matured);
        let attempts = window.answered + window.unanswered + window.refused;
        let sampled = judged.failed.len() + judged.unanswered.len() + judged.completed.len();
        #[expect(clippy::cast_precision_loss, reason = "at most 64")]
        let each = f64::from(attempts) / (sampled + judged.refused.len()).max(1) as f64;
        let weight = self.sampler.level(ServiceId::OTHER).weight();
        let seen = Observation { at, matured, weight, ..Observation::default() };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive")]
        let count = each.round() as u32;
        let window = Window { syn: count, ..Window::default() };
        for failure in judged.failures() {
            let host = failure.attempt.destination;
            if self.services.is_watched(host) {
                let seen =
                    Observation { failed: each * failure.weight, undiscounted: each, ..seen };
                let window = Window { answered: count, ..window };
                self.groups.add(host, &seen, &window, &std::iter::once(failure), &[]);
            }
        }
        for attempt in &judged.completed {
            if self.services.is_watched(attempt.destination) {
                let seen = Observation { completed: each, ..seen };
                let window = Window { answered: count, completed: count, ..window };
                let (host, attempt) = (attempt.destination, std::slice::from_ref(attempt));
                self.groups.add(host, &seen, &window, &std::iter::empty(), attempt);
            }
        }
    }

    /// Judges the groups, the widest first: what is told of one is not told of its parts.
    pub(super) fn judge_groups(&mut self, at: Timestamp) {
        let (step, backlog) = (self.step, self.settings.backlog);
        self.groups.map.retain(|_, group| at - group.last_failure < IDLE || group.told);
        let mut subjects: Vec<Subject> = self.groups.map.keys().copied().collect();
        subjects.sort_unstable_by(|a, b| b.cmp(a));
        for subject in subjects {
            let Some(group) = self.groups.map.get_mut(&subject) else { continue };
            group.observe(at, step, backlog);
            let (told, severity) = (group.told, group.severity());
            match severity {
                Some(severity) if told && !self.is_group_due(subject, severity) => {}
                Some(severity) => {
                    if let Some(onset) = self.group_onset(subject, severity) {
                        let class = onset.class;
                        self.tell(at, class, subject, Some(onset));
                        self.set_told(subject, true);
                    }
                }
                None if told => {
                    self.tell(at, Class::SynFlood, subject, None);
                    self.tell(at, Class::SynAckReflection, subject, None);
                    self.set_told(subject, false);
                }
                None => {}
            }
        }
    }

    /// Whether what is told of a group is to be brought up to date: when it becomes graver, and else once a second.
    fn is_group_due(&self, subject: Subject, severity: Severity) -> bool {
        let told = |class| self.incidents.active(class, subject);
        let told = told(Class::SynFlood).or_else(|| told(Class::SynAckReflection));
        self.step.0.is_multiple_of(SECOND)
            || told.is_none_or(|told| Some(severity) > told.current_severity())
    }

    fn set_told(&mut self, subject: Subject, told: bool) {
        if let Some(group) = self.groups.map.get_mut(&subject) {
            group.told = told;
        }
    }

    /// Whether something is told of a group that holds a service of this host.
    pub(super) fn is_group_told(&self, host: Address) -> bool {
        let groups = [Subject::Capture, Subject::Network(subnet_of(host)), Subject::Host(host)];
        groups.into_iter().any(|subject| self.groups.is_told(subject))
    }

    /// What a group that has changed is told as; `None` where it is the business of a wider or narrower
    /// one.
    fn group_onset(&self, subject: Subject, severity: Severity) -> Option<Onset> {
        let group = self.groups.map.get(&subject)?;
        let targets = group.failures.targets();
        let carpet = targets.services >= CARPET_SERVICES && targets.top_service < CARPET_SHARE;
        let told = |subject| self.groups.is_told(subject);
        let few = targets.services >= FEW_SERVICES && targets.top_service < 0.5;
        let own = group.told
            || match subject {
                Subject::Capture => carpet && targets.top_network < 0.5,
                Subject::Network(_) => {
                    carpet && targets.top_host.1 < 0.5 && !told(Subject::Capture)
                }
                Subject::Host(host) => {
                    few && !told(Subject::Capture) && !told(Subject::Network(subnet_of(host)))
                }
                Subject::Service(..) | Subject::Source(_) => false,
            };
        own.then(|| self.onset_of_group(subject, group, severity, &targets, carpet))
    }

    fn onset_of_group(
        &self,
        subject: Subject,
        group: &Group,
        severity: Severity,
        targets: &TargetProfile,
        carpet: bool,
    ) -> Onset {
        let profile = group.failures.profile(&[]);
        let host = matches!(subject, Subject::Host(_));
        let reflection = host && is_reflection(&profile);
        let by_sources = variant(&profile);
        let second = group.windows.sum(0, 3);
        let since = self.begin_of(group.detector.onset().unwrap_or(self.step));
        let half_open_peak = self.shards.half_open_total();
        let weight = self.sampler.highest_settled().weight();
        Onset {
            class: if reflection { Class::SynAckReflection } else { Class::SynFlood },
            variant: match by_sources {
                _ if reflection => None,
                Some(Variant::SingleSource) => by_sources,
                _ if carpet => Some(Variant::Carpet),
                _ => by_sources,
            },
            severity: if reflection { Severity::Warning } else { severity },
            target: Target {
                address: match (subject, targets.top_host) {
                    (Subject::Host(_), (Some(address), share)) if share >= 0.5 => {
                        Some(address.into())
                    }
                    (Subject::Host(address), _) => Some(address.into()),
                    _ => None,
                },
                port: None,
            },
            target_prefix: match subject {
                // Listeners on all addresses have none of their own.
                Subject::Network(network) if IpAddr::from(network).is_unspecified() => {
                    targets.prefix
                }
                Subject::Network(network) => prefix_of(network),
                Subject::Capture => targets.prefix.filter(|prefix| prefix.prefix_len() >= 8),
                _ => None,
            },
            attacker: None,
            first_packet_at: group.failures.first_since(since).unwrap_or(since),
            evidence: Evidence {
                syn_rate: f64::from(second.syn),
                completion_ratio: completion_ratio(&second),
                half_open_peak,
                stderr: evidence_stderr(second.syn, &second, half_open_peak, weight),
                ..sources_evidence(&profile)
            },
            circumstances: Circumstances {
                excess_rate: group.detector.excess_rate(),
                reason: group.detector.reason(),
                failures: profile.failures,
                sampled_sources: profile.sources,
                level: group.detector.evidence_level(),
                dropping: self.capture.is_dropping(),
                cold: group.detector.is_cold(),
                sysctls: self.sysctls(),
                filter: filter(&group.failures, &[], &profile),
                real_sources: are_real(&profile),
                rate_per_source: f64::from(second.syn) * profile.collision,
                detail: Detail::Targets { services: targets.services, reset: profile.reset },
                ..Circumstances::default()
            },
        }
    }
}

/// The failing attempts come from one network and its hosts reset the answers, which they did not ask for.
fn is_reflection(profile: &SourceProfile) -> bool {
    let longest = profile
        .top_prefixes
        .iter()
        .map(|top| (top.prefix.prefix_len(), top.share))
        .max_by_key(|top| top.0);
    profile.reset >= 0.5 && longest.is_some_and(|(length, share)| length >= 24 && share >= 0.5)
}

fn prefix_of(network: Address) -> Option<IpNet> {
    let length = if network.is_ipv4() { 24 } else { 64 };
    IpNet::new(network.into(), length).ok()
}
