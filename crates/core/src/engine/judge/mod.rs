//! The end of a step: every service is judged, then what the services have in common, and incidents
//! are raised, updated and cleared.
//!
//! All that changes here is the state of the [`Judge`], which only this file touches, and that of
//! the detectors and failures of the [`Services`]. What is read is a [`Moment`].

mod fates;
mod flood;
mod groups;
mod kernel;
mod moment;
mod reflection;

use std::collections::BTreeMap;
use std::time::Duration;

pub(super) use moment::{Moment, completion};

use crate::detect::{Observation, Reason, YOUNG_RATE};
use crate::engine::judge::fates::{Fates, Past};
use crate::engine::judge::flood::young_steps;
use crate::engine::judge::groups::{Groups, is_present};
use crate::engine::judge::moment::SECOND;
use crate::engine::services::{Service, Services};
use crate::engine::shard::Completed;
use crate::findings::{
    Backscatter, Class, Configured, ConntrackFull, Filter, Onset, Reflections, Scanners, SynFlood,
    variant,
};
use crate::flow::{Hasher, ServiceId};
use crate::incident::{Action, Incidents, Subject};
use crate::model::{KernelHalfOpen, Severity, Target, Variant};
use crate::stats::{
    Attempt, Failure, Failures, LastSteps, Recent, STEP, Share, SourceProfile, Step, Window,
    source_of,
};
use crate::time::Timestamp;

/// What is judged by the moment (one source's flood, a scan, the kernel's rows) is over after so
/// much calm.
const CALM: Duration = Duration::from_secs(60);
/// An accept queue has recovered after so long without a sign of trouble.
const ACCEPT_CALM: Duration = Duration::from_secs(30);
/// With so many incidents at once further floods of single services are told only as what they have
/// in common.
const MANY: u32 = 64;
/// An outage or a filter is over after so long without a sign of it.
const PATH_CALM: Duration = Duration::from_secs(30);
/// Half-open connections that show that the queue of a service takes SYNs, where its limit is only
/// assumed.
const TAKES: u64 = 64;

/// Decides at the end of each step, and keeps what it decided.
pub(super) struct Judge {
    past: Past,
    scanners: Scanners,
    reflections: Reflections,
    groups: Groups,
    incidents: Incidents,
    /// How many of them are active.
    told: u32,
    actions: Vec<Action>,
}

impl Judge {
    /// One who has judged nothing yet.
    pub fn new(hasher: Hasher, completed: Completed, start: Timestamp) -> Self {
        let of_a_minute = |lg_bits| Recent::new(lg_bits, Duration::from_secs(60), start);
        let (failed_sources, scanned) = (of_a_minute(22), of_a_minute(18));
        Self {
            past: Past { hasher, completed, failed_sources, scanned },
            scanners: Scanners::new(hasher),
            reflections: Reflections::default(),
            groups: Groups::new(hasher),
            incidents: Incidents::default(),
            told: 0,
            actions: Vec::new(),
        }
    }

    /// What was found so far.
    pub const fn incidents(&self) -> &Incidents {
        &self.incidents
    }

    /// Whether there is a SYN flood, however weak.
    pub fn is_flooded(&self) -> bool {
        self.incidents.all_active().any(|detection| detection.class == Class::SynFlood)
    }

    /// Groups that had to leave for others, as [`Groups::evicted`].
    pub const fn groups_evicted(&self) -> u64 {
        self.groups.evicted()
    }

    /// What was told of one subject is told of another from now on.
    pub fn rename(&mut self, before: Subject, after: Subject) {
        self.incidents.rename(before, after);
    }

    /// What there is to tell since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Judges everything at the end of the present step, which is `at`, in this order:
    ///
    /// 1. Who was seen long ago is forgotten, so that nothing older counts.
    /// 2. What became of the attempts that mature now is looked up once, for all that follows.
    /// 3. Scans are found first: what a scanner does is told as a scan and counts for nothing else.
    /// 4. Each service takes in its step, and adds it to the groups that it belongs to.
    /// 5. Hosts and reflections are judged, then accept queues and outages lapse: all may explain
    ///    what a service shows.
    /// 6. Groups are judged, the widest first; last the services, unless something wider is told
    ///    already.
    pub fn end_step(&mut self, at: Timestamp, services: &mut Services, moment: &Moment) {
        self.past.advance(at);
        if moment.settings.kernel_only {
            return;
        }
        self.scanners.forget(at);
        let fates = |id| self.matured(services.get(id), moment);
        let mut judged: Vec<(ServiceId, Fates)> =
            services.judged().map(|id| (id, fates(id))).collect();
        let mut others = fates(ServiceId::OTHER);
        for (id, fates) in &judged {
            self.note_contacts(services, *id, fates);
        }
        self.note_contacts(services, ServiceId::OTHER, &others);
        self.judge_scans(at, services, moment);
        let one_way = services.ids().all(|id| services.get(id).is_one_way());
        for (id, fates) in &mut judged {
            self.note_reflected(at, services, services.get(*id), moment, fates);
            self.discount_scanners(fates);
            self.observe(*id, at, services, moment, fates, one_way);
        }
        self.note_reflected(at, services, services.get(ServiceId::OTHER), moment, &others);
        self.discount_scanners(&mut others);
        self.observe_others(at, services, moment, &others, one_way);
        self.judge_hosts(at, services, moment);
        self.judge_reflection(at, services, moment);
        self.lapse(at, Class::AcceptQueueOverflow, ACCEPT_CALM, |_| true);
        self.lapse(at, Class::PathOutage, PATH_CALM, |_| true);
        self.lapse(at, Class::SynFiltered, PATH_CALM, |_| true);
        self.lapse(at, Class::BacklogSmall, CALM, |_| true);
        self.judge_conntrack(at, services, moment);
        self.judge_groups(at, services, moment);
        self.told = u32::try_from(self.incidents.all_active().count()).unwrap_or(u32::MAX);
        for id in services.ids() {
            self.tell_service(id, at, services, moment);
        }
    }

    /// Judges by the kernel alone: its SYN_RECV rows, accept queues and table of connections.
    pub fn judge_kernel(&mut self, services: &mut Services, moment: &Moment) {
        let Some(kernel) = moment.kernel else { return };
        let at = moment.now;
        let mut by_service: BTreeMap<ServiceId, Vec<&KernelHalfOpen>> = BTreeMap::new();
        for row in &kernel.sample.half_open {
            let id = services.service(row.address.into(), row.port);
            by_service.entry(id).or_default().push(row);
        }
        by_service.remove(&ServiceId::OTHER);
        for (id, rows) in by_service {
            let service = services.get(id);
            let onset = moment.flood_of_rows(id, service, &rows, &self.past);
            if let Some(onset) = onset {
                self.tell(at, services, moment, service.subject(), Class::SynFlood, Some(onset));
            }
        }
        self.judge_conntrack(at, services, moment);
        for id in services.ids() {
            self.tell_accept_queue(id, at, services, moment);
        }
        // Where there is a wire, its word on the end of an incident counts.
        if moment.settings.kernel_only {
            self.lapse(at, Class::SynFlood, CALM, |_| true);
            self.lapse(at, Class::AcceptQueueOverflow, ACCEPT_CALM, |_| true);
        }
    }

    /// What became of the attempts of a service that mature now.
    fn matured(&self, service: &Service, moment: &Moment) -> Fates {
        let step = moment.matured(service);
        step.map_or_else(Fates::default, |step| self.fates(service, step, moment))
    }

    /// What became of the attempts that were drawn in `step`.
    fn fates(&self, service: &Service, step: Step, moment: &Moment) -> Fates {
        self.past.fates(service.samples.of(step), moment.shards)
    }

    /// Takes in how first contacts ended. Those with a service under attack say nothing of their
    /// source.
    fn note_contacts(&mut self, services: &Services, id: ServiceId, fates: &Fates) {
        if self.incidents.is_active(Class::SynFlood, services.get(id).subject()) {
            return;
        }
        let failures = fates.failed.iter().chain(&fates.unanswered);
        let failed = failures.map(|failure| (&failure.attempt, false));
        let refused = fates.refused.iter().map(|attempt| (attempt, false));
        let completed = fates.completed.iter().map(|attempt| (attempt, true));
        for (attempt, success) in failed.chain(refused).chain(completed) {
            if services.is_watched(attempt.destination) {
                let Attempt { at, destination, port, .. } = *attempt;
                self.scanners.observe(at, attempt.source, (destination, port), success);
            }
        }
    }

    /// What a scanner does is told as a scan, and its first contact with a service counts for
    /// nothing else.
    fn discount_scanners(&mut self, fates: &mut Fates) {
        for failure in fates.failed.iter_mut().chain(&mut fates.unanswered) {
            let subject = Subject::Source(source_of(failure.attempt.source));
            if self.incidents.is_active(Class::PortScan, subject) {
                self.past.note_scan(failure);
            }
        }
    }

    fn judge_scans(&mut self, at: Timestamp, services: &Services, moment: &Moment) {
        // A contact is judged when it has matured.
        let since = at.before(STEP * 12);
        let scans: Vec<_> = self.scanners.since(since).collect();
        for scan in scans {
            let flooded = scan.target.address.is_some_and(|host| {
                self.incidents.is_active(Class::SynFlood, Subject::Host(host.into()))
            });
            let subject = Subject::Source(scan.source);
            let told = self.incidents.is_active(Class::PortScan, subject);
            let active = self.incidents.all_active();
            let active = active.filter(|active| active.class == Class::PortScan).count();
            if told || (Scanners::has_room(active) && !flooded) {
                let onset = scan.onset(moment.capture.is_dropping());
                self.tell(at, services, moment, subject, Class::PortScan, Some(onset));
            }
        }
        self.lapse(at, Class::PortScan, CALM, |_| true);
    }

    /// Lets the detector of a service take in the step.
    fn observe(
        &mut self,
        id: ServiceId,
        at: Timestamp,
        services: &mut Services,
        moment: &Moment,
        fates: &Fates,
        one_way: bool,
    ) {
        let service = services.get(id);
        let matured = moment.matured(service);
        let (half_open, backlog) = moment.queue(id, service);
        let queue_full = moment.is_queue_full(service, half_open, backlog);
        // Where clients do not get through, it is they who fill the queue.
        let cut_off = self.incidents.is_active(Class::PathOutage, service.subject());
        let overflows = moment.is_overflowing(service) && !cut_off;
        let cookies_off = moment.sysctls().syncookies == Some(0);
        let unpruned = cookies_off && backlog <= moment.backlog(service) / 2;
        let accept_queue_full =
            self.is_accept_queue_full(service) || moment.is_accept_queue_full(service);
        let taken = half_open.max(moment.half_open(id, service).total);
        let room = if service.is_backlog_known() { u64::from(backlog) / 2 } else { TAKES };
        // Whoever never answers is not there, unless answers are never seen.
        let answers = service.counts.syn_ack > 0 || service.listener.is_some() || one_way;
        let ignored = service.failures.share(&fates.unanswered);
        let few_ask_again = ignored.excused * 2.0 < ignored.weight;
        // Where the kernel is not asked, only clients that ask again show a filter.
        let shows = service.listener.is_some() || !few_ask_again;
        let has_room = !one_way && taken < room.max(1) && shows;
        let silent = answers && !has_room && few_ask_again;
        let (young, incomplete) = self.young(id, service, moment, silent);
        let weight = moment.weight(id);
        let is_turn = self.is_turn(service, moment);
        let service = services.get_mut(id);
        let window = matured.map_or_else(Window::default, |step| service.windows.get(step));
        let share = service.failures.share(&fates.failed);
        // The answers of a distant server have their time. Where none is ever seen, nobody waits
        // for those who do not ask again.
        let waited = moment.step.before(Step::MATURE_BY_DATA);
        let waited = waited.map_or_else(Window::default, |step| service.windows.get(step));
        let dropped = if has_room { waited.syn.saturating_sub(waited.syn_ack) } else { 0 };
        let filtered = dropped.min(waited.unanswered);
        let gave_up = if one_way && few_ask_again { ignored.weight } else { 0.0 };
        let unanswered = f64::from(waited.unanswered - filtered) * ignored.weight;
        let unanswered = unanswered.max(f64::from(window.unanswered) * gave_up);
        let counts = if answers && !accept_queue_full { 1.0 } else { 0.0 };
        for failure in fates.failures() {
            self.past.note_failure(failure);
            service.failures.keep(*failure);
        }
        service.failures.contrast(&fates.completed);
        service.failures.forget(at);
        if is_turn {
            service.entropy_ratio = service.failures.entropy_ratio();
            let kind = variant(&service.failures.profile(&[]));
            service.forged = kind == Some(Variant::SpoofedRandom);
        }
        let idle = window == Window::default()
            && !service.detector.is_active()
            && service.windows.sum(0, 6) == Window::default();
        if idle && half_open == 0 && service.detector.is_at_rest() {
            return;
        }
        let failed = f64::from(window.failed());
        let excuse = if service.forged { 0.0 } else { 1.0 };
        let observation = Observation {
            at,
            matured: matured.unwrap_or_default(),
            immature: matured.is_none(),
            completed: f64::from(window.completed),
            failed: failed * share.weight,
            excused: failed * share.excused * excuse,
            unanswered: unanswered * counts,
            unanswered_excused: unanswered * counts * ignored.excused * excuse,
            young,
            young_incomplete: incomplete.weight,
            young_excused: incomplete.excused * excuse,
            completed_late: f64::from(waited.completed),
            filtered: f64::from(filtered) * counts,
            half_open,
            backlog,
            limits: service.settings.as_ref().map(|set| set.limits).unwrap_or_default(),
            unpruned,
            queue_full,
            overflows,
            weight,
        };
        service.detector.observe(&observation);
        // Attempts to a service that is told of are accounted for; of one whose SYNs are never seen
        // the answers may be to anybody.
        let known = !service.sees_answers_only() && !service.is_muted();
        if known && !self.incidents.is_active(Class::SynFlood, service.subject()) {
            let address = service.address;
            self.groups.add(address, &observation, &window, &fates.failures(), &fates.completed);
        }
    }

    /// How many attempts of the last second before they mature there are, and what those count for
    /// that are not complete: with those that nobody answered where `silent` ones count.
    fn young(
        &self,
        id: ServiceId,
        service: &Service,
        moment: &Moment,
        silent: bool,
    ) -> (u32, Share) {
        let steps = young_steps(service);
        let young = service.windows.sum(steps.start, steps.end - 1);
        let silent = silent && self.stay_silent(id, service, moment);
        let unanswered = if silent { young.unanswered } else { 0 };
        let incomplete = f64::from(young.failed() + unanswered);
        let mut share = Share { weight: 1.0, excused: 0.0 };
        // What each counts for matters only where there are enough to give the alarm.
        if incomplete >= YOUNG_RATE {
            let failures = self.young_failures(service, moment);
            share = service.failures.share(&failures);
        }
        let Share { weight, excused } = share;
        let incomplete = Share { weight: incomplete * weight, excused: incomplete * excused };
        (young.answered + unanswered, incomplete)
    }

    /// The sampled failures of attempts that are about to be judged.
    fn young_failures(&self, service: &Service, moment: &Moment) -> Vec<Failure> {
        let steps = young_steps(service).filter_map(|ago| moment.step.before(ago));
        let failures = steps.flat_map(|step| {
            self.fates(service, step, moment).failures().copied().collect::<Vec<_>>()
        });
        failures.collect()
    }

    /// Adds the attempts to services that have no place of their own to the groups.
    fn observe_others(
        &mut self,
        at: Timestamp,
        services: &Services,
        moment: &Moment,
        fates: &Fates,
        one_way: bool,
    ) {
        let others = services.get(ServiceId::OTHER);
        let Some(matured) = moment.matured(others) else { return };
        let window = others.windows.get(matured);
        let attempts = window.answered + window.unanswered + window.refused;
        let sampled = fates.failed.len() + fates.unanswered.len() + fates.completed.len();
        #[expect(clippy::cast_precision_loss, reason = "at most 64")]
        let each = f64::from(attempts) / (sampled + fates.refused.len()).max(1) as f64;
        let weight = moment.weight(ServiceId::OTHER);
        let seen = Observation { at, matured, weight, ..Observation::default() };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive")]
        let window = Window { syn: each.round() as u32, ..Window::default() };
        let is_watched = |host| services.is_watched(host);
        self.groups.add_others(&seen, &window, each, fates, one_way, is_watched);
    }

    /// One source that floods a host over all of its ports, and answers to what nobody asked.
    fn judge_hosts(&mut self, at: Timestamp, services: &Services, moment: &Moment) {
        let hosts = moment.shards.iter().map(|shard| &shard.hosts);
        let hosts = LastSteps::before(moment.step, hosts);
        let dropping = moment.capture.is_dropping();
        for flood in hosts.single_source_floods(SynFlood::SINGLE_SOURCE_PER_STEP) {
            let address = std::net::IpAddr::from(flood.host);
            let named = self.incidents.all_active().any(|detection| {
                detection.class == Class::SynFlood
                    && detection.target.address == Some(address)
                    && detection.target.port.is_some()
            });
            if !named {
                let (peak, sysctls) = (moment.shards.half_open_total(), moment.sysctls());
                let onset = SynFlood::single_source(&flood, at, peak, sysctls, dropping);
                let subject = Subject::Host(flood.host);
                self.tell(at, services, moment, subject, Class::SynFlood, Some(onset));
            }
        }
        let hosts_only = |subject: &Subject| matches!(subject, Subject::Host(_));
        self.lapse(at, Class::SynFlood, CALM, hosts_only);
        let selective = services.directory().is_selective();
        for stray in hosts.stray_answers(Backscatter::PER_STEP) {
            if let Some(found) = Backscatter::judge(&stray, selective) {
                let target = Target { address: Some(stray.host.into()), port: None };
                let onset = found.onset(target, at, dropping);
                let subject = Subject::Host(stray.host);
                self.tell(at, services, moment, subject, Class::Backscatter, Some(onset));
            }
        }
        self.lapse(at, Class::Backscatter, CALM, |_| true);
    }

    /// The host's table of connections, where the kernel tells of one.
    fn judge_conntrack(&mut self, at: Timestamp, services: &Services, moment: &Moment) {
        let found = moment.fresh_kernel().and_then(|kernel| {
            ConntrackFull::judge(kernel.sample.conntrack?, kernel.conntrack_drop_rate)
        });
        if let Some(found) = found {
            let onset = Some(found.onset(at));
            self.tell(at, services, moment, Subject::ThisHost, Class::ConntrackFull, onset);
        }
        self.lapse(at, Class::ConntrackFull, CALM, |_| true);
    }

    /// Judges the groups, the widest first: what is told of one is not told of its parts.
    fn judge_groups(&mut self, at: Timestamp, services: &Services, moment: &Moment) {
        for subject in self.groups.subjects(at) {
            let ended = self.groups.end_step(subject, moment, at);
            match ended.severity {
                Some(severity) if ended.told && !self.is_group_due(subject, severity, moment) => {}
                Some(severity) if !ended.told && self.is_group_reflected(subject, severity) => {}
                Some(severity) => {
                    if let Some(onset) = self.groups.onset(subject, severity, moment) {
                        self.tell(at, services, moment, subject, Class::SynFlood, Some(onset));
                        self.groups.set_told(subject, true);
                    }
                }
                None if ended.told => {
                    self.tell(at, services, moment, subject, Class::SynFlood, None);
                    self.groups.set_told(subject, false);
                }
                None => {}
            }
        }
    }

    /// Whether what is told of a group is to be brought up to date: when it becomes graver, and
    /// else once a second.
    fn is_group_due(&self, subject: Subject, severity: Severity, moment: &Moment) -> bool {
        let told = self.incidents.active(Class::SynFlood, subject);
        moment.step.0.is_multiple_of(SECOND)
            || told.is_none_or(|told| Some(severity) > told.current_severity())
    }

    /// Tells of one service what there is to tell.
    fn tell_service(&mut self, id: ServiceId, at: Timestamp, services: &Services, moment: &Moment) {
        let service = services.get(id);
        let subject = service.subject();
        let severity = service.detector.severity().filter(|_| !service.taken_over);
        // Once a queue has room again nothing is left to say of how it was full.
        let by_kernel = matches!(service.detector.reason(), Reason::Overflow { .. });
        let is_over = by_kernel && !moment.is_overflowing(service);
        let told = |class| self.incidents.is_active(class, subject);
        let (flood, crowd) = (told(Class::SynFlood), told(Class::FlashCrowd));
        let crowded = service.detector.is_crowded();
        let telling = (by_kernel || is_present(&service.detector))
            && severity.is_some_and(|severity| flood || !self.is_covered(service, severity));
        let telling = telling && !is_over && self.is_due(service, severity, moment);
        if telling || (flood && severity.is_none()) {
            let young = self.young_alarm(service, moment);
            let full = service.detector.is_queue_full() && severity == Some(Severity::Critical);
            if flood || full || !self.is_reflected(at, services, service, &young, moment) {
                let onset = severity.map(|severity| {
                    let overflow = || self.overflow(id, services, moment);
                    let sources = moment.sources(id, service);
                    let onset = by_kernel.then(overflow).flatten();
                    onset.unwrap_or_else(|| moment.flood(id, service, severity, &young, sources))
                });
                self.tell(at, services, moment, subject, Class::SynFlood, onset);
            }
        }
        if crowded || crowd {
            let onset = crowded.then(|| moment.crowd(id, service, at));
            self.tell(at, services, moment, subject, Class::FlashCrowd, onset);
        }
        self.tell_path(id, at, services, moment);
        self.tell_accept_queue(id, at, services, moment);
        if severity.is_none()
            && self.is_turn(service, moment)
            && let Some(onset) = moment.backlog_small(id, service, at)
        {
            self.tell(at, services, moment, subject, Class::BacklogSmall, Some(onset));
        }
    }

    /// Tells of answers or SYNs that are lost on the way: not where the capture loses them, and
    /// not where something else is told that accounts for this.
    fn tell_path(&mut self, id: ServiceId, at: Timestamp, services: &Services, moment: &Moment) {
        let service = services.get(id);
        let subject = service.subject();
        if moment.capture.is_dropping() || self.is_accept_queue_full(service) {
            return;
        }
        let flooded = self.incidents.is_active(Class::SynFlood, subject);
        if let Some(usual) = service.detector.outage().filter(|_| !flooded) {
            let onset = moment.path_outage(id, service, at, usual);
            self.tell(at, services, moment, subject, Class::PathOutage, Some(onset));
        }
        if let Some(found) = service.detector.filtered() {
            let onset = moment.syn_filtered(id, service, at, found);
            self.tell(at, services, moment, subject, Class::SynFiltered, Some(onset));
        }
    }

    fn tell_accept_queue(
        &mut self,
        id: ServiceId,
        at: Timestamp,
        services: &Services,
        moment: &Moment,
    ) {
        let service = services.get(id);
        if let Some(onset) =
            moment.accept_overflow(id, service, at, self.is_accept_queue_full(service))
        {
            let class = Class::AcceptQueueOverflow;
            self.tell(at, services, moment, service.subject(), class, Some(onset));
        }
    }

    /// The flood of a service whose queue is full by the kernel's word.
    fn overflow(&self, id: ServiceId, services: &Services, moment: &Moment) -> Option<Onset> {
        let directory = services.directory();
        let is_its = |row: &&KernelHalfOpen| {
            directory.known(row.address.into(), row.port).is_some_and(|of| of == id)
        };
        let rows: Vec<_> = moment.kernel?.sample.half_open.iter().filter(is_its).collect();
        moment.flood_of_rows(id, services.get(id), &rows, &self.past)
    }

    /// Failures of the young attempts of a service, where these gave the alarm.
    fn young_alarm(&self, service: &Service, moment: &Moment) -> Vec<Failure> {
        let fast = service.detector.is_fast();
        if fast { self.young_failures(service, moment) } else { Vec::new() }
    }

    /// Whether what is told of a flood is to be brought up to date: when it becomes graver, and
    /// else once a second; where there are many, as often as a few of them in every step allow.
    fn is_due(&self, service: &Service, severity: Option<Severity>, moment: &Moment) -> bool {
        let told = self.incidents.active(Class::SynFlood, service.subject());
        let Some(told) = told else { return true };
        severity > told.current_severity() || self.is_turn(service, moment)
    }

    /// Whether something else is told that accounts for this. What happens to many services at once
    /// is told once, and of each only where its queue is full, or where it is graver or most of it;
    /// a crowd and clients that wait for accept() take room.
    fn is_covered(&self, service: &Service, severity: Severity) -> bool {
        let critical = severity == Severity::Critical && service.detector.is_queue_full();
        let excess = service.detector.excess_rate();
        // A list of hundreds says no more than what they have in common.
        self.told >= MANY
            || (!critical && self.groups.accounts_for(service.address, severity, excess))
            || (severity == Severity::Info
                && (service.detector.is_crowded()
                    || self.is_accept_queue_full(service)
                    || self.incidents.is_active(Class::PathOutage, service.subject())))
    }

    /// Whether the accept queue of a service has been found full of late: SYNs without an answer
    /// are due to that (`tcp_conn_request` drops them before it looks at the SYN queue).
    fn is_accept_queue_full(&self, service: &Service) -> bool {
        self.incidents.is_active(Class::AcceptQueueOverflow, service.subject())
    }

    /// Whether those that a server left without an answer do not ask again, as honest clients do
    /// after a second: then it is not the server that is stuck.
    fn stay_silent(&self, id: ServiceId, service: &Service, moment: &Moment) -> bool {
        const OLDEST_YOUNG: u32 = Step::MATURE - 1;
        const ENOUGH: usize = 16;
        let unanswered = service.windows.sum(OLDEST_YOUNG, OLDEST_YOUNG).unanswered;
        let enough = unanswered / moment.weight(id) >= ENOUGH as u32;
        let Some(step) = moment.step.before(OLDEST_YOUNG).filter(|_| enough) else {
            return false;
        };
        let sample = self.fates(service, step, moment).unanswered;
        let again = sample.iter().filter(|failure| failure.retransmitted).count();
        sample.len() >= ENOUGH && again * 2 < sample.len()
    }

    /// Whether it is a service's turn, once in a second, or more rarely where much is told: what is
    /// done in turns makes no step long, however many services there are.
    fn is_turn(&self, service: &Service, moment: &Moment) -> bool {
        const AT_ONCE: u32 = 2;
        let turns = (self.told / AT_ONCE).max(SECOND);
        moment.step.0.wrapping_add(service.turn).is_multiple_of(turns)
    }

    /// Tells of one subject what there is to tell, or that there is nothing (any more).
    fn tell(
        &mut self,
        at: Timestamp,
        services: &Services,
        moment: &Moment,
        subject: Subject,
        class: Class,
        onset: Option<Onset>,
    ) {
        let at = moment.last_packet.map_or(at, |last| last.min(at));
        let onset = onset.map(|onset| configure(services, subject, onset));
        let action = self.incidents.update(at, class, subject, onset);
        self.told += u32::from(matches!(action, Some(Action::Raised(_))));
        self.actions.extend(action);
    }

    /// Clears those of a class that were not told again for `calm` and whose subject is
    /// `concerned`.
    fn lapse(
        &mut self,
        at: Timestamp,
        class: Class,
        calm: Duration,
        concerned: impl Fn(&Subject) -> bool,
    ) {
        self.actions.extend(self.incidents.lapse(at, class, calm, concerned));
    }
}

/// Lets what is set for a service have its part in a verdict.
fn configure(services: &Services, subject: Subject, mut onset: Onset) -> Onset {
    let Subject::Service(address, port) = subject else { return onset };
    let Some(service) = services.find(address, port) else { return onset };
    let Some(set) = &service.settings else { return onset };
    let muted = service.is_muted() && onset.severity > Severity::Info;
    onset.configured = Configured {
        backlog: set.backlog.is_some() && onset.class() != Class::FlashCrowd,
        muted: muted.then_some(onset.severity),
        ignored: service.windows.sum(1, 4).ignored,
    };
    if muted {
        onset.severity = Severity::Info;
    }
    onset
}

/// What a packet filter could do against the kept failures and `younger` ones.
fn filter(failures: &Failures, younger: &[Failure], profile: &SourceProfile) -> Option<Filter> {
    let forged_inside = variant(profile) == Some(Variant::SpoofedSubnet);
    let prefix = profile.top_prefix.0.filter(|_| forged_inside);
    Filter::find(failures.failing(younger), failures.completed().iter(), prefix)
}
