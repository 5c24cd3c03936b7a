//! What one shard counts of each service between two steps.

use std::net::IpAddr;

use datasketches::hll::{Coupon, HllSketch};
use ipnet::IpNet;

use crate::engine::directory::{Shared, Slot};
use crate::engine::settings::{Mute, ServiceSettings};
use crate::flow::{Bins, Endpoint, FirstRepeats, Lookup, Patience, ServiceId};
use crate::stats::{Attempt, BottomK, Changes, Priority, Step, Windows, sketch};
use crate::time::Timestamp;
use crate::wire::Address;

/// log2 of the registers of a source count: 2,048, a standard error of 2.3 %.
pub(super) const SOURCES_LG_K: u8 = 11;

/// Counts that only grow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Packets that were handled.
    pub packets: u32,
    /// SYNs, repeats included.
    pub syn: u64,
    /// The variance of `syn`, as far as it comes from sampling.
    pub syn_squares: u64,
    /// SYN-ACKs.
    pub syn_ack: u64,
    /// Segments of its clients that open, complete or reset.
    pub from_clients: u64,
    /// Attempts that were looked at.
    pub attempts: u64,
    /// Those that they stand for.
    pub weighted_attempts: u64,
}

impl Counts {
    /// Adds the counts of another.
    pub const fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.syn += other.syn;
        self.syn_squares += other.syn_squares;
        self.syn_ack += other.syn_ack;
        self.from_clients += other.from_clients;
        self.attempts += other.attempts;
        self.weighted_attempts += other.weighted_attempts;
    }
}

/// What was counted of one service since it was last collected. What every packet needs stands in
/// its first cache line.
#[repr(C, align(64))]
pub struct Tally {
    /// Since it was collected.
    pub counts: Counts,
    /// Whether it waits to be collected.
    touched: bool,
    /// A bit for each window that is not empty.
    filled: u32,
    /// Last time that an attempt or an answer was seen.
    pub last_seen: Timestamp,
    /// By step.
    windows: [Changes; Windows::KEPT],
    /// Who has the place that this is of.
    slot: Slot,
    /// Sources whose attempts do not count.
    muted: Vec<IpNet>,
    /// First repeats of answers since it was collected.
    pub first_repeats: FirstRepeats,
    /// Samples of the present step and of the one before or after it.
    draws: [BottomK; 2],
    /// Distinct sources since the start.
    sources: HllSketch,
}

impl Tally {
    fn new(slot: Slot, each: &[ServiceSettings]) -> Self {
        let settings = ServiceSettings::find(each, slot.address, slot.port);
        let muted = match settings.map(|settings| &settings.mute) {
            Some(Mute::Sources(networks)) => networks.clone(),
            _ => Vec::new(),
        };
        Self {
            counts: Counts::default(),
            last_seen: Timestamp::EPOCH,
            slot,
            muted,
            windows: [Changes::default(); Windows::KEPT],
            filled: 0,
            first_repeats: FirstRepeats::default(),
            draws: Default::default(),
            sources: sketch(SOURCES_LG_K),
            touched: false,
        }
    }

    /// Whether attempts of a client do not count.
    #[inline]
    pub fn ignores(&self, client: Address) -> bool {
        !self.muted.is_empty() && {
            let client = IpAddr::from(client);
            self.muted.iter().any(|network| network.contains(&client))
        }
    }

    /// The window of `step`, which is not after `now`, where it is still kept.
    #[inline]
    pub fn window(&mut self, step: Step, now: Step) -> Option<&mut Changes> {
        (now.0 - step.0 < Windows::KEPT as u32 - 1).then(|| {
            let place = step.0 as usize % Windows::KEPT;
            self.filled |= 1 << place;
            &mut self.windows[place]
        })
    }

    /// Offers an attempt of `step` to its sample of `size`.
    #[inline]
    pub fn offer(
        &mut self,
        step: Step,
        size: usize,
        priority: Priority,
        attempt: impl FnOnce() -> Attempt,
    ) {
        self.draws[step.0 as usize % 2].offer(size, priority, attempt);
    }

    /// Counts a source.
    #[inline]
    pub fn count_source(&mut self, source: Coupon) {
        self.sources.update_with_coupon(source);
    }

    /// Its distinct sources.
    pub const fn sources(&self) -> &HllSketch {
        &self.sources
    }

    /// Moves what was counted to the windows of all, up to their present step.
    pub fn collect(&mut self, windows: &mut Windows) {
        let mut filled = std::mem::take(&mut self.filled);
        while filled != 0 {
            let place = filled.trailing_zeros() as usize;
            filled &= filled - 1;
            match windows.in_place(place) {
                Some(window) => window.add(&std::mem::take(&mut self.windows[place]).window()),
                // It belongs to the step that begins.
                None => self.filled |= 1 << place,
            }
        }
    }
}

/// The tallies of one shard.
pub struct Tallies {
    /// By the numbers of the services.
    list: Vec<Tally>,
    /// Those that wait to be collected.
    touched: Vec<ServiceId>,
    asked: Box<Asked>,
    /// The directory's version that `asked` holds answers of.
    version: u32,
    directory: Shared,
    each: Vec<ServiceSettings>,
}

impl Tallies {
    /// None yet, but that of all services without a place.
    pub fn new(directory: Shared, each: Vec<ServiceSettings>) -> Self {
        let mut tallies = Self {
            list: Vec::new(),
            touched: Vec::new(),
            asked: Box::new(Asked::empty()),
            version: 0,
            directory,
            each,
        };
        let nobody = *tallies.directory.look().slot(ServiceId::OTHER);
        tallies.prepare(ServiceId::OTHER, nobody);
        tallies
    }

    /// The tally of a service that was looked up.
    #[inline]
    pub fn of(&mut self, id: ServiceId) -> &mut Tally {
        // Whoever has the number of a service has it from `service`, which made the tally.
        let tally = &mut self.list[usize::from(id.0)];
        if !tally.touched {
            tally.touched = true;
            self.touched.push(id);
        }
        tally
    }

    /// The tally of a service whose counts are taken.
    pub fn of_collected(&mut self, id: ServiceId) -> &mut Tally {
        &mut self.list[usize::from(id.0)]
    }

    /// The sample of a service of `step`, where it has any here.
    pub fn draw(&mut self, id: ServiceId, step: Step) -> Option<&mut BottomK> {
        self.list.get_mut(usize::from(id.0)).map(|tally| &mut tally.draws[step.0 as usize % 2])
    }

    /// The tally of a service, where it has any here.
    pub fn get(&self, id: ServiceId) -> Option<&Tally> {
        self.list.get(usize::from(id.0))
    }

    /// How many there are: every service has a lower number.
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// Those that have counted anything since the last call.
    pub fn take_touched(&mut self) -> Vec<ServiceId> {
        let touched = std::mem::take(&mut self.touched);
        for id in &touched {
            self.list[usize::from(id.0)].touched = false;
        }
        touched
    }

    /// Takes in what is known now of who has a place.
    pub fn update(&mut self, id: ServiceId, slot: Slot) {
        if let Some(tally) = self.list.get_mut(usize::from(id.0))
            && tally.slot.generation == slot.generation
        {
            tally.slot = slot;
        }
    }

    /// Whether the services of an address are watched.
    pub fn is_watched(&self, address: Address) -> bool {
        self.directory.look().is_watched(address)
    }

    /// Has a tally for who has a place now.
    fn prepare(&mut self, id: ServiceId, slot: Slot) {
        let place = usize::from(id.0);
        while place >= self.list.len() {
            self.list.push(Tally::new(Slot::NOBODY, &[]));
        }
        let tally = &mut self.list[place];
        if tally.slot.generation != slot.generation {
            *tally = Tally { touched: tally.touched, ..Tally::new(slot, &self.each) };
        }
    }

    fn look_up(&mut self, at: Endpoint) -> ServiceId {
        let mut directory = self.directory.look();
        let id = directory.service(at.address, at.port);
        let (slot, version) = (*directory.slot(id), directory.version());
        drop(directory);
        self.forget_before(version);
        self.prepare(id, slot);
        // Whoever has no place may have one the next time.
        if id != ServiceId::OTHER {
            self.asked.keep(at, id);
        }
        id
    }

    /// Forgets what an earlier version of the directory said.
    pub fn forget_before(&mut self, version: u32) {
        if version != self.version {
            self.version = version;
            *self.asked = Asked::empty();
        }
    }
}

impl Lookup for Tallies {
    #[inline]
    fn service(&mut self, at: Endpoint) -> ServiceId {
        match self.asked.get(at) {
            Some(id) => id,
            None => self.look_up(at),
        }
    }

    #[inline]
    fn is_known(&self, at: Endpoint) -> bool {
        self.asked.get(at).is_some() || self.directory.look().known(at.address, at.port).is_some()
    }

    #[inline]
    fn sees_answers_only(&self, service: ServiceId) -> bool {
        self.get(service).is_some_and(|tally| tally.slot.answers_only)
    }

    #[inline]
    fn is_one_way(&self, service: ServiceId) -> bool {
        self.get(service).is_some_and(|tally| tally.slot.one_way)
    }

    #[inline]
    fn patience(&self, service: ServiceId) -> Patience {
        self.get(service).map_or(Patience::LINUX, |tally| tally.slot.patience)
    }

    fn first_repeat(&mut self, service: ServiceId, after: Bins) {
        self.of(service).first_repeats.note(after);
    }
}

/// The services that were asked for last, by the hash of their end: a cache in front of the
/// directory, which costs more than all else that a segment of a known service needs.
struct Asked([Option<(Address, u16, ServiceId)>; Self::PLACES]);

impl Asked {
    const PLACES: usize = 1_024;

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
