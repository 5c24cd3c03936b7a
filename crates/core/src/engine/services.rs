//! The services that are watched: what is known of each.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::MutexGuard;
use std::time::Duration;

use crate::detect::{Detector, Overflow, SavedBaseline};
use crate::engine::directory::{Directory, Shared, Slot};
use crate::engine::settings::{Mute, ServiceSettings, Settings};
use crate::engine::tally::{Counts, Tally};
use crate::engine::witnesses::Answers;
use crate::findings::Overruns;
use crate::flow::{Hasher, Learner, Patience, ServiceId};
use crate::incident::Subject;
use crate::model::Listener;
use crate::stats::{Failures, Keyed, Samples, Step, Windows};
use crate::time::Timestamp;
use crate::wire::Address;

/// A service without any traffic for so long gives its place to another: no flow refers to it any
/// more (a client gives up after 127 s).
const IDLE: Duration = Duration::from_secs(135);
/// The same for one that had hardly any: what a scanner leaves behind. At most three flows may
/// still refer to it.
const IDLE_FEW: Duration = Duration::from_secs(10);
/// A baseline that is older says nothing of today.
const MAX_AGE: Duration = Duration::from_secs(30 * 86_400);

/// One watched service.
pub struct Service {
    /// Its address; unspecified for a wildcard listener.
    pub address: Address,
    /// Its port.
    pub port: u16,
    /// Last time that an attempt or an answer was seen.
    pub last_seen: Timestamp,
    /// Counts by step.
    pub windows: Windows,
    /// Some of its attempts, until it is known what became of them.
    pub samples: Samples,
    /// Who fails.
    pub failures: Failures,
    /// Entropy of their sources over the highest that their number allows, as of its last turn.
    pub entropy_ratio: f64,
    /// Whether they were spread like random numbers then.
    pub forged: bool,
    /// What was counted since the start; packets since the beginning of the step.
    pub counts: Counts,
    /// The listening socket as of the last look at the kernel.
    pub listener: Option<Listener>,
    /// Learns how long it waits before it repeats an answer.
    pub learner: Learner,
    /// Requests in SYN_RECV as of the last look at the kernel.
    pub kernel_half_open: Option<u32>,
    /// Those of them whose SYN-ACK was sent again.
    pub kernel_resent: u32,
    /// Whether the kernel finds its queue at its limit, and nothing else shows why.
    pub overflow: Overflow,
    /// Looks at the kernel in a row that found its queue full.
    pub full_looks: u32,
    /// How often honest clients have overrun its queue.
    pub overruns: Overruns,
    /// Whether it answers more than the SYNs that are seen.
    pub answers: Answers,
    /// Change detection.
    pub detector: Detector,
    /// A listener on all addresses takes what is sent to it from now on: it is judged there.
    pub taken_over: bool,
    /// What is set for it.
    pub settings: Option<ServiceSettings>,
    /// How many were admitted up to it: what is done in turns goes by that.
    pub turn: u32,
}

impl Service {
    fn new(address: Address, port: u16, now: Timestamp, step: Step) -> Self {
        let mut windows = Windows::default();
        windows.begin(step);
        Self {
            address,
            port,
            last_seen: now,
            windows,
            samples: Samples::default(),
            failures: Failures::default(),
            entropy_ratio: 0.0,
            forged: false,
            counts: Counts::default(),
            listener: None,
            learner: Learner::default(),
            kernel_half_open: None,
            kernel_resent: 0,
            overflow: Overflow::default(),
            full_looks: 0,
            overruns: Overruns::default(),
            answers: Answers::default(),
            detector: Detector::default(),
            taken_over: false,
            settings: None,
            turn: 0,
        }
    }

    /// Takes in what a shard has counted up to the present step.
    pub fn collect(&mut self, tally: &mut Tally) {
        self.counts.add(&std::mem::take(&mut tally.counts));
        self.last_seen = self.last_seen.max(tally.last_seen);
        self.learner.take_in(&std::mem::take(&mut tally.first_repeats));
        tally.collect(&mut self.windows);
    }

    /// What its incidents are about.
    #[must_use]
    pub const fn subject(&self) -> Subject {
        Subject::Service(self.address, self.port)
    }

    /// Whether only segments towards the service are seen: many SYNs and no answer at all.
    #[must_use]
    pub const fn is_one_way(&self) -> bool {
        self.counts.syn_ack == 0
    }

    /// Whether only segments from the service are seen. Both directions of a listener of this host
    /// are; answers without a SYN are then repeats for requests older than the capture. One answer
    /// shows nothing: it may be thrown at a host that has not asked.
    #[must_use]
    pub const fn sees_answers_only(&self) -> bool {
        const ENOUGH: u64 = 8;
        self.counts.from_clients == 0 && self.counts.syn_ack >= ENOUGH && self.listener.is_none()
    }

    /// Attempts are judged so many steps after their own. Where only answers are seen, a handshake
    /// shows as complete with the server's first data, a round trip after the answer.
    #[must_use]
    pub const fn maturity(&self) -> u32 {
        if self.sees_answers_only() { Step::MATURE_BY_DATA } else { Step::MATURE }
    }

    /// How long it waits before it repeats an answer, as all show that came since `since` and
    /// before: a listener of this host as Linux does.
    pub fn patience(&mut self, since: Timestamp) -> Patience {
        let learned = self.learner.learn(since);
        if self.listener.is_some() { Patience::LINUX } else { learned }
    }

    /// Whether the limit of its queue is known, and not assumed.
    #[must_use]
    pub fn is_backlog_known(&self) -> bool {
        self.listener.is_some() || self.settings.as_ref().is_some_and(|set| set.backlog.is_some())
    }

    /// Whether whatever happens to it is worth info at most.
    #[must_use]
    pub fn is_muted(&self) -> bool {
        self.settings.as_ref().is_some_and(|settings| settings.mute == Mute::Service)
    }

    /// What was learned of it.
    #[must_use]
    pub fn baseline(&self) -> Option<SavedBaseline> {
        self.detector.saved(self.address.into(), self.port)
    }

    fn is_idle(&self, now: Timestamp) -> bool {
        let idle = now - self.last_seen;
        self.listener.is_none()
            && !self.detector.is_active()
            && (idle > IDLE || (self.counts.attempts <= 3 && idle > IDLE_FEW))
    }
}

/// The list.
pub struct Services {
    list: Vec<Service>,
    directory: Shared,
    limit: usize,
    each: Vec<ServiceSettings>,
    /// Baselines of services that have no place now.
    baselines: HashMap<(Address, u16), SavedBaseline, Keyed>,
    now: Timestamp,
    step: Step,
    /// Attempts to draw for each service in this step.
    sample: usize,
    /// Services that ever took a place, modulo 2^32.
    admitted: u32,
}

impl Services {
    /// An empty list.
    #[must_use]
    pub fn new(settings: &Settings, hasher: Hasher, directory: Shared, now: Timestamp) -> Self {
        Self {
            list: vec![Service::new(Address::from_bits(0), 0, now, Step(0))],
            directory,
            limit: usize::from(settings.services.max(2)),
            each: settings.each.clone(),
            baselines: HashMap::with_hasher(Keyed(hasher)),
            now,
            step: Step(0),
            sample: Samples::size(std::iter::empty()),
            admitted: 0,
        }
    }

    /// Where the services are.
    pub fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.look()
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Timestamp, step: Step) {
        self.now = now;
        if step > self.step {
            self.step = step;
            self.sample = Samples::size(self.list.iter().map(|service| &service.samples));
            let kept = Failures::limit(self.list.iter().map(|service| &service.failures));
            let mut directory = self.directory.look();
            for (service, id) in self.list.iter_mut().zip(0..) {
                service.windows.begin(step);
                service.failures.resize(kept);
                service.counts.packets = 0;
                directory.slot_mut(ServiceId(id)).may_go = service.is_idle(now);
            }
        }
    }

    /// Attempts to draw for each service in this step.
    #[must_use]
    pub const fn sample(&self) -> usize {
        self.sample
    }

    /// Takes in those that took a place since the last call, with what is set for them and what is
    /// known of them from before.
    pub fn admit(&mut self) {
        let mut directory = self.directory.look();
        let newcomers = directory.newcomers().into_iter().map(|id| (id, *directory.slot(id)));
        let mut newcomers: Vec<_> = newcomers.collect();
        drop(directory);
        for &(id, Slot { address, port, .. }) in &newcomers {
            let mut service = Service::new(address, port, self.now, self.step);
            service.settings = ServiceSettings::find(&self.each, address, port).cloned();
            if let Some(baseline) = self.baselines.remove(&(address, port)) {
                service.detector.restore(&baseline);
            }
            match self.list.get_mut(usize::from(id.0)) {
                Some(place) => {
                    let old = std::mem::replace(place, service);
                    if let Some(baseline) = old.baseline() {
                        self.keep(baseline);
                    }
                }
                None => self.list.push(service),
            }
        }
        // By their names: which of several shards met its service first, and so their numbers, is
        // left to chance.
        newcomers.sort_unstable_by_key(|(_, slot)| (slot.address, slot.port));
        for (id, _) in newcomers {
            self.admitted = self.admitted.wrapping_add(1);
            self.list[usize::from(id.0)].turn = self.admitted;
        }
    }

    /// The service that takes what is sent to an address and port; a place for it where it has none
    /// yet.
    pub fn service(&mut self, address: Address, port: u16) -> ServiceId {
        let id = self.directory().service(address, port);
        self.admit();
        id
    }

    /// Packets that were handled in this step, of all services.
    #[must_use]
    pub fn packets(&self) -> u32 {
        self.list.iter().map(|service| service.counts.packets).sum()
    }

    /// The numbers of all services, without the place for all others.
    pub fn ids(&self) -> impl Iterator<Item = ServiceId> + use<> {
        (1..u16::try_from(self.list.len()).unwrap_or(u16::MAX)).map(ServiceId)
    }

    /// Those of them that are judged under their own names.
    pub fn judged(&self) -> impl Iterator<Item = ServiceId> {
        self.ids().filter(|id| !self.get(*id).taken_over)
    }

    /// One service.
    #[must_use]
    pub fn get(&self, id: ServiceId) -> &Service {
        &self.list[usize::from(id.0)]
    }

    /// One service.
    pub fn get_mut(&mut self, id: ServiceId) -> &mut Service {
        &mut self.list[usize::from(id.0)]
    }

    /// Takes in the listening sockets of the host; whose incidents are another's from now on.
    pub fn listen(&mut self, listeners: &[Listener]) -> Vec<(Subject, Subject)> {
        let ids = self.directory().listen(listeners);
        self.admit();
        for service in &mut self.list {
            service.listener = None;
        }
        for (listener, id) in listeners.iter().zip(ids) {
            if id != ServiceId::OTHER {
                self.get_mut(id).listener = Some(listener.clone());
            }
        }
        self.hand_over(listeners)
    }

    /// Hands what was judged by the destination address to the listener that takes it: one service,
    /// whether the kernel has named it or not. Of several the one goes on that is attacked, or was
    /// asked most.
    fn hand_over(&mut self, listeners: &[Listener]) -> Vec<(Subject, Subject)> {
        let mut handed: Vec<(ServiceId, ServiceId)> = Vec::new();
        for id in self.ids() {
            let Service { address, port, taken_over: before, .. } = *self.get(id);
            let bound = Listener::taking(listeners, address.into(), port);
            let bound = bound.map(|listener| Address::from(listener.address));
            let heir = bound.filter(|bound| *bound != address);
            self.get_mut(id).taken_over = heir.is_some();
            let heir =
                heir.filter(|_| !before).and_then(|bound| self.directory().find(bound, port));
            handed.extend(heir.map(|heir| (id, heir)));
        }
        let weight = |id| {
            let Service { detector, counts, .. } = self.get(id);
            (detector.severity(), counts.attempts)
        };
        handed.sort_by_key(|(id, _)| Reverse(weight(*id)));
        let mut subjects = Vec::new();
        for (id, heir) in handed {
            let (active, there) = (self.get(id).detector.is_active(), &self.get(heir).detector);
            if there.is_new() || (active && !there.is_active()) {
                let Service { detector, failures, .. } = self.get_mut(id);
                let known = (std::mem::take(detector), std::mem::take(failures));
                let heir = self.get_mut(heir);
                (heir.detector, heir.failures) = known;
                let subject = heir.subject();
                subjects.push((self.get(id).subject(), subject));
            }
        }
        subjects
    }

    /// Compares what each answers with the SYNs that are seen.
    pub fn look_at_answers(&mut self, at: Timestamp) {
        for service in self.list.iter_mut().skip(1) {
            service.answers.look(at, &service.counts);
        }
    }

    /// Whether the services of an address are watched.
    #[must_use]
    pub fn is_watched(&self, address: Address) -> bool {
        self.directory().is_watched(address)
    }

    /// Gives a baseline to its service, or keeps it until that has a place; false where it is of no
    /// use.
    fn keep(&mut self, baseline: SavedBaseline) -> bool {
        let key = (Address::from(baseline.address), baseline.port);
        let place = self.directory().find(key.0, key.1);
        match place {
            Some(id) => {
                let detector = &mut self.list[usize::from(id.0)].detector;
                let new = detector.is_new();
                if new {
                    detector.restore(&baseline);
                }
                new
            }
            None => {
                let room = self.baselines.len() < self.limit;
                if room {
                    self.baselines.insert(key, baseline);
                }
                room
            }
        }
    }

    /// What was learned of every service, those included that have no place now.
    pub fn baselines(&self) -> Vec<SavedBaseline> {
        let learned = self.ids().filter_map(|id| self.get(id).baseline());
        learned.chain(self.baselines.values().cloned()).collect()
    }

    /// Takes in what was learned before `now`, newest first; how many will be used.
    pub fn restore(&mut self, mut saved: Vec<SavedBaseline>, now: Timestamp) -> usize {
        saved.retain(|one| one.is_sound() && now - one.learned_at <= MAX_AGE);
        saved.sort_by_key(|one| Reverse(one.learned_at));
        saved.truncate(self.limit);
        saved
            .into_iter()
            .map(|one| SavedBaseline { learned_at: one.learned_at.min(now), ..one })
            .filter_map(|one| self.keep(one).then_some(()))
            .count()
    }

    /// The service at an address and port, where it has a place.
    #[must_use]
    pub fn find(&self, address: Address, port: u16) -> Option<&Service> {
        let id = self.directory().find(address, port);
        id.map(|id| self.get(id))
    }
}
