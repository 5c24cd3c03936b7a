//! The services that are watched: a bounded list, and the way from an address and port to its place in it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use datasketches::hll::{Coupon, HllSketch};
use ipnet::IpNet;

use crate::detect::{Detector, SavedBaseline};
use crate::engine::settings::{Mute, ServiceSettings, Settings};
use crate::flow::{End, Endpoint, Hasher, Lookup, ServiceId};
use crate::observe::Listener;
use crate::stats::{Failures, Keyed, Step, Windows, rounded, scaled_up, sketch};
use crate::time::Timestamp;
use crate::wire::Address;

/// log2 of the registers of a source count: 2,048, a standard error of 2.3 %.
const SOURCES_LG_K: u8 = 11;
/// A service without any traffic for so long gives its place to another: no flow refers to it any more (a
/// client gives up after 127 s).
const IDLE: Duration = Duration::from_secs(135);
/// The same for one that had hardly any: what a scanner leaves behind. At most three flows may still
/// refer to it.
const IDLE_FEW: Duration = Duration::from_secs(10);
/// Addresses of wildcard listeners that are remembered; each of the host's own is one per port.
const MAX_ALIASES: usize = 8_192;

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
    /// Who fails.
    pub failures: Failures,
    /// Entropy of their sources over the highest that their number allows, as of the last second.
    pub entropy_ratio: f64,
    /// SYNs since the start, repeats included.
    pub syn: u64,
    /// SYN-ACKs since the start.
    pub syn_ack: u64,
    /// The variance of `syn`, as far as it comes from sampling.
    pub syn_squares: u64,
    /// Attempts since the start that were looked at.
    pub attempts: u64,
    /// Those that they stand for.
    pub weighted_attempts: u64,
    /// Packets that were handled in this step.
    pub packets: u32,
    /// The listening socket as of the last look at the kernel.
    pub listener: Option<Listener>,
    /// Requests in SYN_RECV as of the last look at the kernel.
    pub kernel_half_open: Option<u32>,
    /// Change detection.
    pub detector: Detector,
    /// What is set for it.
    pub settings: Option<ServiceSettings>,
    sources: HllSketch,
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
            failures: Failures::default(),
            entropy_ratio: 0.0,
            syn: 0,
            syn_ack: 0,
            syn_squares: 0,
            attempts: 0,
            weighted_attempts: 0,
            packets: 0,
            listener: None,
            kernel_half_open: None,
            detector: Detector::default(),
            settings: None,
            sources: sketch(SOURCES_LG_K),
        }
    }

    /// Counts a source.
    #[inline]
    pub fn count_source(&mut self, source: Coupon) {
        self.sources.update_with_coupon(source);
    }

    /// Distinct sources since the start (estimate, exact while small).
    #[must_use]
    pub fn sources(&self) -> u64 {
        let seen = self.sources.estimate();
        rounded(scaled_up(seen, self.attempts, self.weighted_attempts)).min(self.syn)
    }

    /// Whether only segments towards the service are seen: many SYNs and no answer at all.
    #[must_use]
    pub const fn is_one_way(&self) -> bool {
        self.syn_ack == 0
    }

    /// Whether only segments from the service are seen. Both directions of a listener of this host are;
    /// answers without a SYN are then repeats for requests older than the capture.
    #[must_use]
    pub const fn sees_answers_only(&self) -> bool {
        self.syn == 0 && self.listener.is_none()
    }

    /// Whether attempts of a client do not count.
    #[must_use]
    pub fn ignores(&self, client: Address) -> bool {
        self.settings.as_ref().is_some_and(|settings| settings.ignores(client))
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
            && (idle > IDLE || (self.attempts <= 3 && idle > IDLE_FEW))
    }
}

/// The list.
pub struct Services {
    list: Vec<Service>,
    limit: usize,
    places: HashMap<(Address, u16), ServiceId, Keyed>,
    /// Destinations that belong to a wildcard listener.
    aliases: HashMap<(Address, u16), ServiceId, Keyed>,
    listeners: Vec<Listener>,
    networks: Vec<IpNet>,
    each: Vec<ServiceSettings>,
    /// Baselines of services that have no place now.
    baselines: HashMap<(Address, u16), SavedBaseline, Keyed>,
    asked: Box<Asked>,
    hand: usize,
    now: Timestamp,
    step: Step,
}

impl Services {
    /// An empty list.
    #[must_use]
    pub fn new(settings: &Settings, hasher: Hasher, now: Timestamp) -> Self {
        let other = Service::new(Address::from_bits(0), 0, now, Step(0));
        Self {
            list: vec![other],
            limit: usize::from(settings.services.max(2)),
            places: HashMap::with_hasher(Keyed(hasher)),
            aliases: HashMap::with_hasher(Keyed(hasher)),
            listeners: Vec::new(),
            networks: settings.networks.clone(),
            each: settings.each.clone(),
            baselines: HashMap::with_hasher(Keyed(hasher)),
            asked: Box::new(Asked::empty()),
            hand: 0,
            now,
            step: Step(0),
        }
    }

    /// The networks whose services are watched.
    pub fn watch(&mut self, networks: Vec<IpNet>) {
        if networks != self.networks {
            self.networks = networks;
            self.aliases.clear();
            *self.asked = Asked::empty();
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Timestamp, step: Step) {
        self.now = now;
        if step > self.step {
            let size = Failures::size(self.list.iter().map(|service| &service.failures), self.step);
            self.step = step;
            for service in &mut self.list {
                service.windows.begin(step);
                service.failures.begin(step, size);
                service.packets = 0;
            }
        }
    }

    /// Packets that were handled in this step, of all services.
    #[must_use]
    pub fn packets(&self) -> u32 {
        self.list.iter().map(|service| service.packets).sum()
    }

    /// The ends of flows that belong to a service: of one on a wildcard address as many as were seen.
    pub fn ends(&self, id: ServiceId, hasher: &Hasher) -> impl Iterator<Item = End> {
        let service = self.get(id);
        let own = (service.address, service.port);
        let own = (!IpAddr::from(own.0).is_unspecified()).then_some(own);
        let aliases = self.aliases.iter().filter(move |(_, of)| **of == id).map(|(at, _)| *at);
        own.into_iter().chain(aliases).map(|(address, port)| hasher.ranks().end(address, port))
    }

    /// How many places are in use.
    #[must_use]
    pub const fn in_use(&self) -> usize {
        self.list.len()
    }

    /// The numbers of all services, without the place for all others.
    pub fn ids(&self) -> impl Iterator<Item = ServiceId> + use<> {
        (1..u16::try_from(self.list.len()).unwrap_or(u16::MAX)).map(ServiceId)
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

    /// Takes in the listening sockets of the host. Each has a place before its first SYN comes.
    pub fn listen(&mut self, listeners: Vec<Listener>) {
        let same = |a: &Listener, b: &Listener| (a.address, a.port) == (b.address, b.port);
        let moved = listeners.len() != self.listeners.len()
            || listeners.iter().zip(&self.listeners).any(|(new, old)| !same(new, old));
        for service in &mut self.list {
            service.listener = None;
        }
        for listener in &listeners {
            let id = self.place(Address::from(listener.address), listener.port, self.limit);
            if id != ServiceId::OTHER {
                self.get_mut(id).listener = Some(listener.clone());
            }
        }
        self.listeners = listeners;
        if moved {
            self.aliases.clear();
            *self.asked = Asked::empty();
            // What was seen before its wildcard listener was known belongs to that from now on.
            let (listeners, places) = (&self.listeners, &self.places);
            self.aliases.extend(places.keys().filter_map(|(address, port)| {
                let bound = Address::from(listener_for(listeners, *address, *port)?.address);
                let id = places.get(&(bound, *port))?;
                (bound != *address).then_some(((*address, *port), *id))
            }));
        }
    }

    /// Whether only some addresses are watched.
    #[must_use]
    pub const fn is_selective(&self) -> bool {
        !self.networks.is_empty()
    }

    /// Whether the services of an address are watched.
    #[must_use]
    pub fn is_watched(&self, address: Address) -> bool {
        let ip = IpAddr::from(address);
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(&ip))
    }

    /// The place of a service by its own address, a new one where there is room.
    /// No more than `limit` may be in use, so that traffic to anywhere leaves room for listeners.
    fn place(&mut self, address: Address, port: u16, limit: usize) -> ServiceId {
        if let Some(id) = self.places.get(&(address, port)) {
            return *id;
        }
        let place = if self.list.len() < limit {
            let service = self.begin(address, port);
            self.list.push(service);
            self.list.len() - 1
        } else {
            let Some(place) = self.idle_place() else { return ServiceId::OTHER };
            let service = self.begin(address, port);
            let old = std::mem::replace(&mut self.list[place], service);
            self.places.remove(&(old.address, old.port));
            if let Some(baseline) = old.baseline() {
                self.keep(baseline);
            }
            self.aliases.retain(|_, id| usize::from(id.0) != place);
            *self.asked = Asked::empty();
            place
        };
        let id = u16::try_from(place).map_or(ServiceId::OTHER, ServiceId);
        self.places.insert((address, port), id);
        id
    }

    /// A service with what is set for it and what is known of it from before.
    fn begin(&mut self, address: Address, port: u16) -> Service {
        let mut service = Service::new(address, port, self.now, self.step);
        service.settings = ServiceSettings::find(&self.each, address, port).cloned();
        if let Some(baseline) = self.baselines.remove(&(address, port)) {
            service.detector.restore(&baseline);
        }
        service
    }

    /// Gives a baseline to its service, or keeps it until that has a place; false where it is of no use.
    pub fn keep(&mut self, baseline: SavedBaseline) -> bool {
        let key = (Address::from(baseline.address), baseline.port);
        match self.places.get(&key) {
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

    /// The baselines of services that have no place now.
    pub fn kept(&self) -> impl Iterator<Item = &SavedBaseline> {
        self.baselines.values()
    }

    /// The service at an address and port, where it has a place.
    #[must_use]
    pub fn find(&self, address: Address, port: u16) -> Option<&Service> {
        self.places.get(&(address, port)).map(|id| self.get(*id))
    }

    /// A place whose service may go, among the next few in turn: the search takes constant time.
    fn idle_place(&mut self) -> Option<usize> {
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            self.hand = self.hand % (self.list.len() - 1) + 1;
            if self.list[self.hand].is_idle(self.now) {
                return Some(self.hand);
            }
        }
        None
    }
}

impl Lookup for Services {
    #[inline]
    fn service(&mut self, at: Endpoint) -> ServiceId {
        match self.asked.get(at) {
            Some(id) => id,
            None => self.look_up(at),
        }
    }

    #[inline]
    fn is_known(&self, at: Endpoint) -> bool {
        self.asked.get(at).is_some() || self.known(at.address, at.port).is_some()
    }

    #[inline]
    fn is_one_way(&self, service: ServiceId) -> bool {
        self.get(service).is_one_way()
    }
}

impl Services {
    fn look_up(&mut self, at: Endpoint) -> ServiceId {
        let id = self.find_or_place(at.address, at.port);
        // Whoever has no place may have one the next time.
        if id != ServiceId::OTHER {
            self.asked.keep(at, id);
        }
        id
    }

    /// The service that has a place for an address and port.
    fn known(&self, address: Address, port: u16) -> Option<ServiceId> {
        let key = (address, port);
        self.aliases.get(&key).or_else(|| self.places.get(&key)).copied()
    }

    fn find_or_place(&mut self, address: Address, port: u16) -> ServiceId {
        if let Some(id) = self.known(address, port) {
            return id;
        }
        if !self.is_watched(address) {
            return ServiceId::OTHER;
        }
        let Some(bound) =
            listener_for(&self.listeners, address, port).map(|listener| listener.address)
        else {
            return self.place(address, port, self.limit - self.limit / 4);
        };
        let id = self.place(Address::from(bound), port, self.limit);
        if id != ServiceId::OTHER && self.aliases.len() < MAX_ALIASES {
            self.aliases.insert((address, port), id);
        }
        id
    }
}

/// The services that were asked for last, by the hash of their end: a cache in front of the maps, whose own
/// hash costs more than all else that a segment of a known service needs.
struct Asked([Option<(Address, u16, ServiceId)>; Self::PLACES]);

impl Asked {
    const PLACES: usize = 256;

    const fn empty() -> Self {
        Self([None; Self::PLACES])
    }

    fn get(&self, at: Endpoint) -> Option<ServiceId> {
        let (address, port, id) = self.0[at.hash as usize % Self::PLACES]?;
        (address == at.address && port == at.port).then_some(id)
    }

    fn keep(&mut self, at: Endpoint, id: ServiceId) {
        self.0[at.hash as usize % Self::PLACES] = Some((at.address, at.port, id));
    }
}

/// The listener that takes connections to an address and port.
fn listener_for(listeners: &[Listener], address: Address, port: u16) -> Option<&Listener> {
    let ip = IpAddr::from(address);
    let on_port = || listeners.iter().filter(|listener| listener.port == port);
    on_port().find(|listener| listener.address == ip).or_else(|| {
        on_port().find(|listener| {
            listener.address.is_unspecified()
                && (listener.address.is_ipv4() == ip.is_ipv4()
                    || (ip.is_ipv4() && listener.dual_stack))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::HashKey;

    fn listener(address: &str, dual_stack: bool) -> Listener {
        let address = address.parse().expect("an address");
        let (accept_queue, backlog, sockets) = (0, 128, 1);
        Listener { address, port: 443, dual_stack, accept_queue, backlog, sockets, process: None }
    }

    fn services() -> Services {
        let hasher = Hasher::new(HashKey([9; 16]));
        let settings = Settings { services: 16, ..Settings::default() };
        Services::new(&settings, hasher, Timestamp::EPOCH)
    }

    fn of(services: &mut Services, address: Address, port: u16) -> ServiceId {
        services.service(Hasher::new(HashKey([9; 16])).endpoint(address, port))
    }

    #[test]
    fn traffic_before_its_wildcard_listener_moves_to_it() {
        let mut services = services();
        let host = Address::v4([192, 0, 2, 10]);
        let before = of(&mut services, host, 443);
        services.listen(vec![listener("::", true)]);
        let after = of(&mut services, host, 443);
        assert_ne!(before, after);
        assert!(IpAddr::from(services.get(after).address).is_unspecified());
        services.listen(vec![listener("::", true), listener("192.0.2.10", false)]);
        let own = of(&mut services, host, 443);
        assert_eq!(services.get(own).address, host);
    }

    #[test]
    fn a_wildcard_takes_its_own_version_and_both_only_when_dual() {
        let listeners = [listener("::", false)];
        assert!(listener_for(&listeners, Address::v4([192, 0, 2, 10]), 443).is_none());
        assert!(listener_for(&listeners, Address::v6([1; 16]), 443).is_some());
        assert!(listener_for(&listeners, Address::v6([1; 16]), 80).is_none());
        let dual = [listener("::", true)];
        assert!(listener_for(&dual, Address::v4([192, 0, 2, 10]), 443).is_some());
    }

    #[test]
    fn when_all_places_are_busy_further_services_count_as_other() {
        let mut services = services();
        let ids: Vec<_> =
            (0..20).map(|n| of(&mut services, Address::v4([192, 0, 2, n]), 80)).collect();
        // A quarter of the 16 places is kept for listeners, and one is that of all others.
        assert_eq!(ids.iter().filter(|id| **id == ServiceId::OTHER).count(), 9);
        // Those of a scanner are idle soon.
        services.advance(Timestamp::EPOCH + IDLE_FEW * 2, Step(80));
        let next = of(&mut services, Address::v4([192, 0, 2, 99]), 80);
        assert_ne!(next, ServiceId::OTHER);
    }
}
