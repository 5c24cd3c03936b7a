//! Where the services are: the way from an address and port to a place in the bounded list of
//! services.
//!
//! One directory serves all shards. It is asked when a shard meets a service that it does not
//! remember, not with every segment.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::engine::settings::Settings;
use crate::flow::{End, Hasher, Patience, ServiceId};
use crate::model::Listener;
use crate::stats::Keyed;
use crate::wire::Address;

/// Addresses of wildcard listeners that are remembered; each of the host's own is one per port.
const MAX_ALIASES: usize = 8_192;

/// Who has a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slot {
    /// The address of the service; unspecified for a wildcard listener.
    pub address: Address,
    /// Its port.
    pub port: u16,
    /// How many had the place before.
    pub generation: u32,
    /// Whether its answers are never seen, as far as is known.
    pub one_way: bool,
    /// Whether nothing but its answers is seen.
    pub answers_only: bool,
    /// How long it waits before it repeats an answer.
    pub patience: Patience,
    /// Whether it may give its place to another.
    pub may_go: bool,
}

impl Slot {
    /// Whose place is not known.
    pub const NOBODY: Self = Self::new(Address::from_bits(0), 0, u32::MAX);

    const fn new(address: Address, port: u16, generation: u32) -> Self {
        let (one_way, answers_only, may_go) = (true, false, false);
        let patience = Patience::LINUX;
        Self { address, port, generation, one_way, answers_only, patience, may_go }
    }
}

/// A directory that shards share.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Directory>>);

impl Shared {
    /// An empty directory.
    #[must_use]
    pub fn new(settings: &Settings, hasher: Hasher) -> Self {
        Self(Arc::new(Mutex::new(Directory::new(settings, hasher))))
    }

    /// The directory, for the time that its guard lives.
    pub fn look(&self) -> MutexGuard<'_, Directory> {
        // Every change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory.
pub struct Directory {
    places: HashMap<(Address, u16), ServiceId, Keyed>,
    /// Destinations that belong to a wildcard listener.
    aliases: HashMap<(Address, u16), ServiceId, Keyed>,
    /// By the numbers of the services; the first is nobody's.
    slots: Vec<Slot>,
    /// Those that took their places since they were last asked for.
    newcomers: Vec<ServiceId>,
    listeners: Vec<Listener>,
    networks: Vec<IpNet>,
    limit: usize,
    hand: usize,
    /// Moves on when answers that were given before may not hold any more.
    version: u32,
}

impl Directory {
    fn new(settings: &Settings, hasher: Hasher) -> Self {
        Self {
            places: HashMap::with_hasher(Keyed(hasher)),
            aliases: HashMap::with_hasher(Keyed(hasher)),
            slots: vec![Slot::new(Address::from_bits(0), 0, 0)],
            newcomers: Vec::new(),
            listeners: Vec::new(),
            networks: settings.networks.clone(),
            limit: usize::from(settings.services.max(2)),
            hand: 0,
            version: 0,
        }
    }

    /// Changes where answers that were given before may not hold any more.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Who has a place.
    #[must_use]
    pub fn slot(&self, id: ServiceId) -> &Slot {
        &self.slots[usize::from(id.0)]
    }

    /// What is known of who has a place.
    pub fn slot_mut(&mut self, id: ServiceId) -> &mut Slot {
        &mut self.slots[usize::from(id.0)]
    }

    /// Those that took their places since the last call.
    pub fn newcomers(&mut self) -> Vec<ServiceId> {
        std::mem::take(&mut self.newcomers)
    }

    /// The networks whose services are watched.
    pub fn watch(&mut self, networks: Vec<IpNet>) {
        if networks != self.networks {
            self.networks = networks;
            self.forget();
        }
    }

    /// Answers that were given before may not hold any more.
    fn forget(&mut self) {
        self.aliases.clear();
        self.version = self.version.wrapping_add(1);
    }

    /// The ends of flows that belong to a service: of one on a wildcard address as many as were
    /// seen.
    pub fn ends(&self, id: ServiceId, hasher: &Hasher) -> impl Iterator<Item = End> {
        let slot = self.slot(id);
        let own = (slot.address, slot.port);
        let own = (!IpAddr::from(own.0).is_unspecified()).then_some(own);
        let aliases = self.aliases.iter().filter(move |(_, of)| **of == id).map(|(at, _)| *at);
        own.into_iter()
            .chain(aliases)
            .map(|(address, port)| hasher.sampling_key().end(address, port))
    }

    /// Takes in the listening sockets of the host, and gives each its place before its first SYN
    /// comes.
    pub fn listen(&mut self, listeners: &[Listener]) -> Vec<ServiceId> {
        let same = |a: &Listener, b: &Listener| (a.address, a.port) == (b.address, b.port);
        let moved = listeners.len() != self.listeners.len()
            || listeners.iter().zip(&self.listeners).any(|(new, old)| !same(new, old));
        let place = |listener: &Listener| {
            self.place(Address::from(listener.address), listener.port, self.limit)
        };
        let ids = listeners.iter().map(place).collect();
        self.listeners = listeners.to_vec();
        if moved {
            self.forget();
            // What was seen before its wildcard listener was known belongs to that from now on.
            let (listeners, places) = (&self.listeners, &self.places);
            self.aliases.extend(places.keys().filter_map(|(address, port)| {
                let bound =
                    Address::from(Listener::taking(listeners, (*address).into(), *port)?.address);
                let id = places.get(&(bound, *port))?;
                (bound != *address).then_some(((*address, *port), *id))
            }));
        }
        ids
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

    /// The service that has a place under an address and port of its own.
    #[must_use]
    pub fn find(&self, address: Address, port: u16) -> Option<ServiceId> {
        self.places.get(&(address, port)).copied()
    }

    /// The service that takes what is sent to an address and port, where it has a place.
    #[must_use]
    pub fn known(&self, address: Address, port: u16) -> Option<ServiceId> {
        self.aliases.get(&(address, port)).copied().or_else(|| self.find(address, port))
    }

    /// The same; a place for it where it has none yet.
    pub fn service(&mut self, address: Address, port: u16) -> ServiceId {
        if let Some(id) = self.known(address, port) {
            return id;
        }
        if !self.is_watched(address) {
            return ServiceId::OTHER;
        }
        let Some(bound) = Listener::taking(&self.listeners, address.into(), port)
            .map(|listener| listener.address)
        else {
            return self.place(address, port, self.limit - self.limit / 4);
        };
        let id = self.place(Address::from(bound), port, self.limit);
        if id != ServiceId::OTHER && self.aliases.len() < MAX_ALIASES {
            self.aliases.insert((address, port), id);
        }
        id
    }

    /// The place of a service by its own address, a new one where there is room.
    /// No more than `limit` may be in use, so that traffic to anywhere leaves room for listeners.
    fn place(&mut self, address: Address, port: u16, limit: usize) -> ServiceId {
        if let Some(id) = self.find(address, port) {
            return id;
        }
        let place = if self.slots.len() < limit {
            self.slots.push(Slot::new(address, port, 0));
            self.slots.len() - 1
        } else {
            let Some(place) = self.idle_place() else { return ServiceId::OTHER };
            let old = self.slots[place];
            self.slots[place] = Slot::new(address, port, old.generation.wrapping_add(1));
            self.places.remove(&(old.address, old.port));
            self.aliases.retain(|_, id| usize::from(id.0) != place);
            self.version = self.version.wrapping_add(1);
            place
        };
        let id = u16::try_from(place).map_or(ServiceId::OTHER, ServiceId);
        self.places.insert((address, port), id);
        self.newcomers.push(id);
        id
    }

    /// A place whose service may go, among the next few in turn: the search takes constant time.
    fn idle_place(&mut self) -> Option<usize> {
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            self.hand = self.hand % (self.slots.len() - 1) + 1;
            if self.slots[self.hand].may_go {
                return Some(self.hand);
            }
        }
        None
    }
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

    fn directory() -> Directory {
        let hasher = Hasher::new(HashKey([9; 16]));
        Directory::new(&Settings { services: 16, ..Settings::default() }, hasher)
    }

    #[test]
    fn traffic_before_its_wildcard_listener_moves_to_it() {
        let mut directory = directory();
        let host = Address::v4([192, 0, 2, 10]);
        let before = directory.service(host, 443);
        let version = directory.version();
        directory.listen(&[listener("::", true)]);
        assert_ne!(directory.version(), version);
        let after = directory.service(host, 443);
        assert_ne!(before, after);
        assert!(IpAddr::from(directory.slot(after).address).is_unspecified());
        directory.listen(&[listener("::", true), listener("192.0.2.10", false)]);
        let own = directory.service(host, 443);
        assert_eq!(directory.slot(own).address, host);
        assert_eq!(directory.newcomers(), [before, after]);
    }

    #[test]
    fn a_wildcard_takes_its_own_version_and_both_only_when_dual() {
        let listeners = [listener("::", false)];
        assert!(Listener::taking(&listeners, Address::v4([192, 0, 2, 10]).into(), 443).is_none());
        assert!(Listener::taking(&listeners, Address::v6([1; 16]).into(), 443).is_some());
        assert!(Listener::taking(&listeners, Address::v6([1; 16]).into(), 80).is_none());
        let dual = [listener("::", true)];
        assert!(Listener::taking(&dual, Address::v4([192, 0, 2, 10]).into(), 443).is_some());
    }

    #[test]
    fn when_all_places_are_busy_further_services_count_as_other() {
        let mut directory = directory();
        let ids: Vec<_> =
            (0..20).map(|n| directory.service(Address::v4([192, 0, 2, n]), 80)).collect();
        // A quarter of the 16 places is kept for listeners, and one is that of all others.
        assert_eq!(ids.iter().filter(|id| **id == ServiceId::OTHER).count(), 9);
        directory.slot_mut(ids[3]).may_go = true;
        // It takes two searches at most to come around.
        let newcomer = |_| directory.service(Address::v4([192, 0, 2, 99]), 80);
        assert!((0..2).map(newcomer).any(|id| id == ids[3]));
        assert_eq!(directory.slot(ids[3]).generation, 1);
        assert_eq!(directory.find(Address::v4([192, 0, 2, 3]), 80), None);
    }
}
