//! What services have in common: hosts, networks and the whole capture go through the same change
//! detection, for an attack that gives each service too little to be seen there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::detect::{Detector, Observation, Reason};
use crate::engine::judge::fates::Fates;
use crate::engine::judge::filter;
use crate::engine::judge::moment::{Moment, wire_evidence};
use crate::findings::{
    Basis, Configured, Finding, Grounds, Onset, QueueState, Sources, SynFlood, are_real, variant,
};
use crate::flow::Hasher;
use crate::incident::Subject;
use crate::model::{Severity, Target, Variant};
use crate::stats::{
    Attempt, Failure, Failures, Keyed, Step, TargetProfile, Window, Windows, subnet_of,
};
use crate::time::Timestamp;
use crate::wire::Address;

/// The most groups at the end of a step; within one as many may be added.
const LIMIT: usize = 512;
/// A group without a failure for so long is forgotten.
const IDLE: Duration = Duration::from_secs(120);
/// Services from which on an attack is spread like a carpet, where none of them has a quarter of
/// it.
const CARPET_SERVICES: usize = 16;
const CARPET_SHARE: f64 = 0.25;
/// Services that a flood of a host has to touch: fewer are judged one by one.
const FEW_SERVICES: usize = 3;
/// Part of a group's excess from which on one of its services is told beside it.
const WORST: f64 = 0.5;
/// Excess failures per second from which on a carpet is critical, though it fills no queue: as for
/// one source, it is a flood by its rate alone.
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
    evicted: u64,
}

impl Groups {
    /// None yet.
    pub fn new(hasher: Hasher) -> Self {
        Self { map: HashMap::with_hasher(Keyed(hasher)), evicted: 0 }
    }

    /// Adds what a service on `host` has seen in a step, its sampled failures and the `completed`
    /// of its sample, to all groups that it belongs to.
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
            let room = fails && self.map.len() < 2 * LIMIT;
            let group = match self.map.get_mut(&subject) {
                Some(group) => group,
                None if room => self.map.entry(subject).or_insert_with(|| Group::new(seen.at)),
                None => continue,
            };
            group.add(seen, window, failures.clone());
            group.failures.contrast(completed);
        }
    }

    /// Adds the attempts to services that have no place of their own: what the sample of them
    /// shows, in proportion. `seen` and `window` are those of one attempt, which stands for `each`.
    pub fn add_others(
        &mut self,
        seen: &Observation,
        window: &Window,
        each: f64,
        fates: &Fates,
        one_way: bool,
        is_watched: impl Fn(Address) -> bool,
    ) {
        // Of those that nobody answers nothing is known: they may not be there.
        let counted = |failure: &&Failure| one_way || !failure.unanswered;
        for failure in fates.failures().filter(counted) {
            let host = failure.attempt.destination;
            if is_watched(host) {
                let failed = each * failure.weight;
                let excused = if failure.excused { failed } else { 0.0 };
                let seen = Observation { failed, excused, ..*seen };
                let window = Window { answered: window.syn, ..*window };
                self.add(host, &seen, &window, &std::iter::once(failure), &[]);
            }
        }
        for attempt in &fates.completed {
            if is_watched(attempt.destination) {
                let seen = Observation { completed: each, ..*seen };
                let window = Window { answered: window.syn, completed: window.syn, ..*window };
                let (host, attempt) = (attempt.destination, std::slice::from_ref(attempt));
                self.add(host, &seen, &window, &std::iter::empty(), attempt);
            }
        }
    }

    /// The groups that there are, the widest first: what is reported of one is not reported of its
    /// parts.
    pub fn subjects(&mut self, at: Timestamp) -> Vec<Subject> {
        self.map.retain(|_, group| at - group.last_failure < IDLE || group.told);
        self.evict();
        let mut subjects: Vec<Subject> = self.map.keys().copied().collect();
        subjects.sort_unstable_by(|a, b| b.cmp(a));
        subjects
    }

    /// Keeps the groups that fail most, not those that came first: who makes an attempt at each of
    /// many hosts must not keep out what is under attack.
    fn evict(&mut self) {
        let Some(surplus) = self.map.len().checked_sub(LIMIT + 1) else { return };
        let mut ranks: Vec<_> =
            self.map.iter().map(|(subject, group)| (group.rank(), *subject)).collect();
        ranks.select_nth_unstable_by(surplus, |(a, subject), (b, other)| {
            let by_rank = a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2));
            by_rank.then(subject.cmp(other))
        });
        for ((_, level, _), subject) in &ranks[..=surplus] {
            self.map.remove(subject);
            self.evicted += u64::from(*level > 0.0);
        }
    }

    /// How many that failed more than usual had to leave for others that failed more.
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Ends the step of a group: whether it is reported, and the severity that it is worth now.
    pub fn end_step(&mut self, subject: Subject, moment: &Moment, at: Timestamp) -> Ended {
        let Some(group) = self.map.get_mut(&subject) else { return Ended::default() };
        group.observe(at, moment.step, moment.settings.backlog);
        Ended { told: group.told, severity: group.severity() }
    }

    /// Takes note of whether a group is reported.
    pub fn set_told(&mut self, subject: Subject, told: bool) {
        if let Some(group) = self.map.get_mut(&subject) {
            group.told = told;
        }
    }

    /// The failures of a group.
    pub fn failures(&self, subject: Subject) -> Option<&Failures> {
        self.map.get(&subject).map(|group| &group.failures)
    }

    /// Whether a group is reported that accounts for a flood of `severity` at a service of `host`
    /// with `excess` failures per second: it is as grave, or pages, and has most of its excess
    /// elsewhere.
    pub fn accounts_for(&self, host: Address, severity: Severity, excess: f64) -> bool {
        let groups = [Subject::Capture, Subject::Network(subnet_of(host)), Subject::Host(host)];
        let told = groups.iter().filter_map(|subject| self.map.get(subject));
        told.filter(|group| group.told).any(|group| {
            let worst = excess >= WORST * group.detector.excess_rate();
            group.severity() >= Some(severity) && (severity == Severity::Info || !worst)
        })
    }

    fn is_told(&self, subject: Subject) -> bool {
        self.map.get(&subject).is_some_and(|group| group.told)
    }

    /// What a group that has changed is reported as; `None` where it is the business of a wider or
    /// narrower one, or where nothing but the tail of it is left.
    pub fn onset(&self, subject: Subject, severity: Severity, moment: &Moment) -> Option<Onset> {
        let group = self.map.get(&subject).filter(|group| is_present(&group.detector))?;
        let targets = group.failures.targets();
        let carpet = targets.services >= CARPET_SERVICES && targets.top_service < CARPET_SHARE;
        let few = targets.services >= FEW_SERVICES && targets.top_service < 0.5;
        let told = |subject| self.is_told(subject);
        let own = group.told
            || match subject {
                Subject::Capture => carpet && targets.top_network < 0.5,
                Subject::Network(_) => {
                    carpet && targets.top_host.1 < 0.5 && !told(Subject::Capture)
                }
                Subject::Host(host) => {
                    few && !told(Subject::Capture) && !told(Subject::Network(subnet_of(host)))
                }
                Subject::Service(..) | Subject::Source(_) | Subject::ThisHost => false,
            };
        own.then(|| group.onset(subject, severity, moment, &targets, carpet))
    }
}

/// A group at the end of a step.
#[derive(Clone, Copy, Default)]
pub struct Ended {
    /// It is reported.
    pub told: bool,
    /// What it is worth.
    pub severity: Option<Severity>,
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
        self.now.excused += seen.excused;
        self.now.completed_late += seen.completed_late;
        self.now.unanswered += seen.unanswered;
        self.now.unanswered_excused += seen.unanswered_excused;
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
        let seen = Observation { at, backlog, ..std::mem::take(&mut self.now) };
        self.detector.observe(&seen);
    }

    /// What it is kept for, the first most: a report, a change, failures.
    fn rank(&self) -> (bool, f64, usize) {
        (self.told, self.detector.evidence_level(), self.failures.kept().len())
    }

    /// The severity that is worth telling of a group.
    fn severity(&self) -> Option<Severity> {
        let severity =
            self.detector.severity().filter(|severity| *severity >= Severity::Warning)?;
        let critical = self.detector.excess_rate() >= CRITICAL;
        Some(if critical { severity } else { Severity::Warning })
    }

    fn onset(
        &self,
        subject: Subject,
        severity: Severity,
        moment: &Moment,
        targets: &TargetProfile,
        carpet: bool,
    ) -> Onset {
        let profile = self.failures.profile(&[]);
        let by_sources = variant(&profile);
        let second = self.windows.sum(0, 3);
        let since = moment.begin_of(self.detector.onset().unwrap_or(moment.step));
        let half_open_peak = moment.shards.half_open_total();
        let weight = moment.sampler.highest_settled().weight();
        let flood = SynFlood {
            basis: Basis::Group { reason: self.detector.reason(), services: targets.services },
            queue: QueueState { sysctls: moment.sysctls(), ..QueueState::default() },
            sources: Sources {
                sampled: profile.sources,
                real: are_real(&profile),
                rate_each: f64::from(second.syn) * profile.collision,
                filter: filter(&self.failures, &[], &profile),
            },
        };
        Onset {
            variant: match by_sources {
                Some(Variant::SingleSource) => by_sources,
                _ if carpet => Some(Variant::Carpet),
                _ => by_sources,
            },
            severity,
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
            first_packet_at: self.failures.first_since(since).unwrap_or(since),
            evidence: wire_evidence(second.syn, &second, half_open_peak, weight, &profile),
            grounds: Grounds {
                level: self.detector.evidence_level(),
                excess_rate: self.detector.excess_rate(),
                failures: profile.failures,
                dropping: moment.capture.is_dropping(),
                cold: self.detector.is_cold(),
                ..Grounds::default()
            },
            configured: Configured::default(),
            finding: Finding::SynFlood(flood),
        }
    }
}

/// Whether what makes the severity is still there, and it does not only wait to be over: the tail
/// of an attack says nothing of what it was.
pub fn is_present(detector: &Detector) -> bool {
    !detector.is_calm() || matches!(detector.reason(), Reason::Occupancy { .. })
}

fn prefix_of(network: Address) -> Option<IpNet> {
    let length = if network.is_ipv4() { 24 } else { 64 };
    IpNet::new(network.into(), length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::HashKey;

    /// Adds so many failures at a host.
    fn fail(groups: &mut Groups, at: Timestamp, host: Address, times: u32) {
        let attempt = Attempt::known_by_kernel(at, Address::v4([203, 0, 113, 9]), (host, 443));
        let (retransmitted, reset, new, returning) = (false, None, true, false);
        let failure = Failure {
            attempt,
            retransmitted,
            reset,
            new,
            returning,
            weight: 1.0,
            excused: false,
            unanswered: false,
            scanned: false,
        };
        let seen = Observation { at, failed: f64::from(times), ..Observation::default() };
        let failures = vec![failure; times as usize];
        groups.add(host, &seen, &Window::default(), &failures.iter(), &[]);
    }

    #[test]
    fn who_fails_most_has_a_place_whoever_came_first() {
        let mut groups = Groups::new(Hasher::new(HashKey([7; 16])));
        let at = |step: u32| Timestamp::EPOCH + Duration::from_millis(250) * step;
        for step in 0..1_000_u32 {
            let host = Address::from_bits(0xffff_1400_0000 + u128::from(step) * 65_536);
            fail(&mut groups, at(step), host, 1);
            assert!(groups.subjects(at(step)).len() <= LIMIT);
        }
        assert_eq!(groups.map.len(), LIMIT);
        let host = Address::v4([192, 0, 2, 1]);
        fail(&mut groups, at(1_000), host, 64);
        let attacked = [Subject::Host(host), Subject::Network(subnet_of(host)), Subject::Capture];
        for step in 1_000..1_400 {
            let host = Address::from_bits(0xffff_6400_0000 + u128::from(step) * 65_536);
            fail(&mut groups, at(step), host, 1);
            let subjects = groups.subjects(at(step));
            assert!(attacked.iter().all(|subject| subjects.contains(subject)));
        }
    }
}
