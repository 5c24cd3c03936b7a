//! The stage: time, what is still to happen, the wire with its faults, the victim, and the engine
//! that watches.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use synwatch_core::engine::STEP;
use synwatch_core::engine::{self, Action, Engine};
use synwatch_core::observe::{
    CaptureStats, Document, KernelHalfOpen, KernelSample, Listener, Sysctls,
};
use synwatch_core::sampling::HashKey;
use synwatch_core::time::Timestamp;
use synwatch_core::wire::{
    Address, Flags, Fragments, LinkType, OptionLayout, Segment, SeqNumber, Skip, decode_into,
};

use crate::attacks::Attacks;
use crate::conn::{Conn, Next, RST_ACK};
use crate::population::Population;
use crate::random::Random;
use crate::scenario::{Closed, Only, Scenario};
use crate::server::{Fired, SECOND, Server, Settings, defer_in_repeats};
use crate::stage::Job;
use crate::wire::Form;

/// 2026-01-01.
pub const START: Timestamp = Timestamp::from_nanos(1_767_225_600_000_000_000);
/// When the events of a cold variant begin.
const COLD: f64 = 2.0;
/// What the server takes to answer.
const SERVER_TIME: u64 = 15_000;
/// Sources of SYN_RECV rows that a kernel sample holds, as the reader of the real kernel bounds
/// them.
const SAMPLE_SOURCES: usize = 512;
const INTERFACE: u32 = 2;

/// Seconds as nanoseconds.
pub fn nanos(seconds: f64) -> u64 {
    (seconds * SECOND as f64) as u64
}

/// Nanoseconds as seconds.
pub fn seconds(nanos: u64) -> f64 {
    nanos as f64 / SECOND as f64
}

/// What happens next, apart from the server's timers.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A client opens a connection.
    Arrival,
    Conn(u32, Next),
    /// The next packet of the event of this number of its kind.
    Flood(u16),
    Backscatter(u16),
    Scan(u16),
    HealthCheck(u16, u16),
    /// accept() is called no more, or again.
    Stall(bool),
}

struct Due {
    at: u64,
    /// Of events at the same time the first that was entered comes first.
    order: u32,
    event: Event,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

/// A performance of a scenario.
pub struct World<'a> {
    pub scenario: &'a Scenario,
    /// When the events' times count from.
    pub origin: u64,
    pub now: u64,
    due: BinaryHeap<Due>,
    order: u32,
    pub conns: Vec<Conn>,
    pub free: Vec<u32>,
    pub server: Server,
    pub population: Population,
    pub attacks: Attacks,
    /// What the clients do, and what the attackers do.
    pub random: Random,
    pub attack_random: Random,
    capture_random: Random,
    /// Addresses that completed a connection, where the server asks.
    pub proven: HashSet<Address>,
    /// Connections that the server accepted as soon as it is awake again.
    pub waiting: Vec<u32>,
    /// The logarithm of the present burst of legitimate traffic, and since when.
    pub burst: (f64, u64),
    pub nat_port: u16,
    /// From the monitor to the server and back, in nanoseconds. What goes to the server is timed as
    /// it passes the monitor, so the server's clock is late by half of this, and what it sends
    /// passes after all of it.
    pub distance: u64,
    form: Option<Form>,
    /// What it has sent that has not passed yet, and when it will.
    on_the_way: VecDeque<(u64, Segment)>,
    frame: Vec<u8>,
    datagrams: u64,
    fragments: Fragments,
    engine: Engine,
    asks_kernel: bool,
    stats: CaptureStats,
    pub packets: u64,
    /// The first packet of an event.
    pub first_packet: Option<u64>,
    said: Vec<(u64, Action)>,
}

/// What came of a performance.
pub struct Played {
    /// Nanoseconds since the start, and what was said.
    pub said: Vec<(u64, Action)>,
    /// The first packet of the events, or their beginning.
    pub first_packet: u64,
    /// The host that the event came from.
    pub attacker: Option<IpAddr>,
    /// As of the end of the events, and of the whole.
    pub height: Document,
    pub end: Document,
    pub packets: u64,
}

impl<'a> World<'a> {
    pub fn new(job: Job<'a>) -> Self {
        let Job { scenario, cold, seed, warm_up, wire } = job;
        let victim = &scenario.victim;
        let hosts = victim
            .network
            .map_or(1, |network| 1 << u32::from(network.max_prefix_len() - network.prefix_len()));
        let settings = Settings {
            backlog: victim.backlog,
            syncookies: victim.syncookies,
            max_syn_backlog: victim.max_syn_backlog,
            synack_retries: victim.synack_retries,
            defer_accept: defer_in_repeats(victim.defer_accept),
        };
        let mut key = Random::new(seed, 1);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&key.next().to_le_bytes());
        bytes[8..].copy_from_slice(&key.next().to_le_bytes());
        let engine = engine::Settings {
            key: HashKey(bytes),
            backlog: victim.backlog,
            ..engine::Settings::default()
        };
        let engine = Engine::new(engine, START);
        let origin = if cold { COLD } else { warm_up };
        let mut world = Self {
            scenario,
            origin: nanos(origin),
            now: 0,
            due: BinaryHeap::new(),
            order: 0,
            conns: Vec::new(),
            free: Vec::new(),
            server: Server::new(settings, hosts * victim.ports.len(), key.next()),
            population: Population::new(seed, victim.address),
            attacks: Attacks::new(scenario, seed),
            random: Random::new(seed, 2),
            attack_random: Random::new(seed, 3),
            capture_random: Random::new(seed, 4),
            proven: HashSet::new(),
            waiting: Vec::new(),
            burst: (0.0, 0),
            nat_port: 0,
            distance: wire.distance * 1_000_000,
            form: wire.form,
            on_the_way: VecDeque::new(),
            frame: Vec::new(),
            datagrams: 0,
            fragments: Fragments::new(engine.hasher().state()),
            engine,
            // A monitor elsewhere cannot.
            asks_kernel: wire.distance == 0 && victim.kernel.unwrap_or(seed % 2 == 1),
            stats: CaptureStats::default(),
            packets: 0,
            first_packet: None,
            said: Vec::new(),
        };
        if scenario.legitimate.rate > 0.0 {
            world.arrive();
        }
        world.begin_attacks();
        world
    }

    /// Plays it to the end.
    pub fn play(mut self) -> Played {
        let length = nanos(self.scenario.length());
        self.until(self.origin + length);
        let height = self.engine.snapshot(START + Duration::from_nanos(self.now)).document;
        self.until(self.origin + length + nanos(self.scenario.cool_down));
        let end = self.engine.snapshot(START + Duration::from_nanos(self.now)).document;
        if self.form.is_some() && self.stats.dropped == 0 {
            assert_eq!(end.capture.tcp_segments, self.datagrams);
        }
        Played {
            said: self.said,
            first_packet: self.first_packet.unwrap_or(self.origin),
            attacker: self.attacks.attacker.map(IpAddr::from),
            height,
            end,
            packets: self.packets,
        }
    }

    fn until(&mut self, end: u64) {
        let step = STEP.as_nanos() as u64;
        let mut tick = (self.now / step + 1) * step;
        while tick <= end {
            self.let_pass(tick);
            self.pass_until(tick);
            self.now = tick;
            if tick.is_multiple_of(SECOND) {
                if self.asks_kernel {
                    let sample = self.kernel_sample();
                    self.engine.handle_kernel(sample);
                }
                let capture = self.scenario.capture;
                let dropped = if capture.uncounted { 0 } else { self.stats.dropped };
                let received = self.stats.received - (self.stats.dropped - dropped);
                self.engine.handle_capture(CaptureStats { received, dropped });
            }
            let actions = self.engine.tick(START + Duration::from_nanos(tick));
            self.said.extend(actions.into_iter().map(|action| (tick, action)));
            tick += step;
        }
    }

    /// Everything that happens before `end`.
    fn let_pass(&mut self, end: u64) {
        loop {
            let event = self.due.peek().map_or(u64::MAX, |due| due.at);
            let timer = self.server.next_timer().unwrap_or(u64::MAX);
            if event.min(timer) >= end {
                return;
            }
            if timer < event {
                self.now = timer;
                match self.server.fire() {
                    Fired::Resent { answer, peer } => {
                        self.emit(timer, answer, Only::Egress);
                        self.answered(peer, &answer, None);
                    }
                    Fired::Expired { peer: Some(conn) } => {
                        self.conns[conn as usize].request = None;
                        self.release(conn);
                    }
                    Fired::Expired { peer: None } | Fired::Nothing => {}
                }
            } else if let Some(due) = self.due.pop() {
                self.now = due.at;
                self.happen(due.event);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival => self.arrive_now(),
            Event::Conn(conn, next) => {
                self.conns[conn as usize].events -= 1;
                self.proceed(conn, next);
                self.release(conn);
            }
            Event::Flood(number) => self.flood(number),
            Event::Backscatter(number) => self.backscatter(number),
            Event::Scan(number) => self.scan(number),
            Event::HealthCheck(number, checker) => self.health_check(number, checker),
            Event::Stall(true) => {
                self.note_attack();
                self.server.stalled = true;
            }
            Event::Stall(false) => {
                self.server.resume();
                for (conn, n) in std::mem::take(&mut self.waiting).into_iter().zip(0..) {
                    self.conns[conn as usize].events -= 1;
                    self.schedule_conn(self.now + n * 20_000, conn, Next::Reply);
                }
            }
        }
    }

    pub fn schedule(&mut self, at: u64, event: Event) {
        self.order = self.order.wrapping_add(1);
        self.due.push(Due { at, order: self.order, event });
    }

    pub fn schedule_conn(&mut self, at: u64, conn: u32, next: Next) {
        self.conns[conn as usize].events += 1;
        self.schedule(at, Event::Conn(conn, next));
    }

    pub fn open(&mut self, conn: Conn) -> u32 {
        if let Some(place) = self.free.pop() {
            self.conns[place as usize] = conn;
            place
        } else {
            self.conns.push(conn);
            self.conns.len() as u32 - 1
        }
    }

    /// Gives the place of a connection to another once nothing refers to it any more.
    fn release(&mut self, place: u32) {
        let conn = &self.conns[place as usize];
        if conn.events == 0 && conn.request.is_none() {
            self.free.push(place);
        }
    }

    /// The place of the listener at an address and port of ours.
    pub fn listener(&self, address: Address, port: u16) -> Option<u32> {
        let victim = &self.scenario.victim;
        let place = victim.ports.iter().position(|open| *open == port)? as u32;
        let host = match victim.network {
            Some(network) => {
                let first = Address::from(network.network()).to_bits();
                u32::try_from(address.to_bits().checked_sub(first)?).ok()?
            }
            None => u32::from(address != victim.address.into()),
        };
        let listener = host * victim.ports.len() as u32 + place;
        ((listener as usize) < self.server.listeners.len()).then_some(listener)
    }

    /// A SYN arrives at the victim, who may answer it; `peer` is to be told what becomes of it.
    pub fn deliver_syn(&mut self, syn: &Segment, listener: Option<u32>, peer: Option<u32>) {
        self.emit(self.now, *syn, Only::Ingress);
        if !self.attacks.is_live(syn.destination) {
            return;
        }
        let Some(listener) = listener else {
            if self.scenario.victim.closed == Closed::Reset {
                self.refuse(syn);
            }
            return;
        };
        let proven = self.scenario.victim.syncookies == 0 && self.proven.contains(&syn.source);
        let Some(answer) = self.server.syn(self.now, listener, syn, proven, peer) else { return };
        self.emit(self.now + SERVER_TIME, answer.segment, Only::Egress);
        if let Some(conn) = peer {
            self.conns[conn as usize].request = answer.request;
        }
        self.answered(peer, &answer.segment, Some(answer.request.is_none()));
    }

    /// A closed port answers.
    pub fn refuse(&mut self, segment: &Segment) {
        let reset = Segment {
            source: segment.destination,
            destination: segment.source,
            source_port: segment.destination_port,
            destination_port: segment.source_port,
            seq: SeqNumber(0),
            ack: segment.end(),
            flags: RST_ACK,
            window: 0,
            payload_len: 0,
            ttl: 64,
            mss: None,
            options: OptionLayout::default(),
        };
        let reset = if segment.flags.intersects(Flags::ACK) {
            Segment { seq: segment.ack, ack: SeqNumber(0), flags: Flags::RST, ..reset }
        } else {
            reset
        };
        self.emit(self.now + SERVER_TIME, reset, Only::Egress);
    }

    /// A segment arrives, or leaves the server, and passes the monitor.
    pub fn emit(&mut self, at: u64, segment: Segment, direction: Only) {
        let capture = self.scenario.capture;
        if capture.only.is_some_and(|only| only != direction) {
            return;
        }
        if direction == Only::Egress {
            self.on_the_way.push_back((at + self.distance, segment));
        }
        self.pass_until(at);
        if direction == Only::Ingress {
            self.pass(at, &segment);
        }
    }

    /// What the server has sent passes the monitor, as far as its time has come.
    fn pass_until(&mut self, end: u64) {
        while let Some((at, segment)) = self.on_the_way.pop_front_if(|(at, _)| *at <= end) {
            self.pass(at, &segment);
        }
    }

    /// A segment passes the monitor: its frames are captured, and decoded as the program does it.
    fn pass(&mut self, at: u64, segment: &Segment) {
        const LINK: LinkType = LinkType::Ethernet;
        self.datagrams += 1;
        let at = START + Duration::from_nanos(at);
        let mut capture = |frame: &[u8], length| {
            self.stats.received += 1;
            if self.capture_random.chance(self.scenario.capture.drop) {
                self.stats.dropped += 1;
                return;
            }
            self.packets += 1;
            if self.form.is_none() {
                return self.engine.handle_segment(at, segment, INTERFACE);
            }
            self.engine.queue_frame(at, INTERFACE, |found| {
                match decode_into(LINK, frame, length, found) {
                    Err(Skip::Fragment) => {
                        self.fragments.join(at, INTERFACE, LINK, frame, length, found)?;
                    }
                    outcome => outcome.expect("a segment"),
                }
                // Options may have been added to fill a fragment; they are read of a SYN only.
                let mss = segment.mss.filter(|_| segment.flags.is_syn());
                assert_eq!(*found, Segment { mss, options: found.options, ..*segment });
                Ok(())
            });
            self.engine.handle_queue();
        };
        match self.form {
            Some(form) => form.pack(segment, self.datagrams as u32, &mut self.frame, capture),
            None => capture(&[], 0),
        }
    }

    /// Deadlines count from the first packet of an event.
    pub fn note_attack(&mut self) {
        self.first_packet.get_or_insert(self.now);
    }

    fn kernel_sample(&self) -> KernelSample {
        let victim = &self.scenario.victim;
        let counters = self.server.counters;
        let first =
            Address::from(victim.network.map_or(victim.address, |network| network.network()));
        let places = (0..).zip(&self.server.listeners);
        let named = places.map(|(place, listener)| {
            let (host, port) = (place / victim.ports.len(), place % victim.ports.len());
            let address = Address::from_bits(first.to_bits() + host as u128);
            (place as u32, IpAddr::from(address), victim.ports[port], listener)
        });
        let mut sample = KernelSample {
            at: START + Duration::from_nanos(self.now),
            listeners: Vec::with_capacity(self.server.listeners.len()),
            half_open: Vec::new(),
            counters: [
                ("TCPReqQFullDrop", counters.queue_full_drop),
                ("TCPReqQFullDoCookies", counters.queue_full_cookies),
                ("ListenOverflows", counters.listen_overflows),
                ("ListenDrops", counters.listen_drops),
                ("SyncookiesSent", counters.cookies_sent),
            ]
            .into(),
            sysctls: Sysctls {
                syncookies: Some(victim.syncookies),
                synack_retries: Some(victim.synack_retries),
                max_syn_backlog: Some(victim.max_syn_backlog),
                somaxconn: Some(4_096),
            },
            conntrack: None,
            addresses: Vec::new(),
        };
        for (place, address, port, listener) in named {
            sample.listeners.push(Listener {
                address,
                port,
                dual_stack: false,
                accept_queue: listener.accept_queue,
                backlog: victim.backlog,
                sockets: 1,
                process: None,
            });
            if listener.queued > 0 {
                let resent = self.server.resent(place).take(SAMPLE_SOURCES);
                sample.half_open.push(KernelHalfOpen {
                    address,
                    port,
                    count: listener.queued,
                    retransmitted: listener.resent,
                    sources: resent.map(|answer| answer.destination.into()).collect(),
                });
            }
            if sample.addresses.last() != Some(&address) {
                sample.addresses.push(address);
            }
        }
        sample
    }
}
