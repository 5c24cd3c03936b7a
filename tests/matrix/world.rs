//! The stage: time, what is still to happen, the wire with its faults, the victim, and the engine
//! that watches.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use synwatch_core::engine::STEP;
use synwatch_core::engine::{self, Action, Engine};
use synwatch_core::observe::{
    CaptureStats, Conntrack, Document, KernelHalfOpen, KernelSample, Listener, Sysctls,
};
use synwatch_core::sampling::HashKey;
use synwatch_core::time::Timestamp;
use synwatch_core::wire::{
    Address, Flags, Fragments, LinkType, OptionLayout, Segment, SeqNumber, Skip, decode_into,
};

use crate::attacks::Attacks;
use crate::conn::{Conn, Elsewhere, Next, RST_ACK, State};
use crate::population::Population;
use crate::random::Random;
use crate::rivals::{self, Alarms, Rivals};
use crate::scenario::{Closed, Only, Scenario};
use crate::server::{Answer, Fired, SECOND, Server, Settings, defer_in_repeats};
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
const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// `nf_conntrack_max`, where connections are tracked.
const CONNTRACK_LIMIT: u64 = 65_536;

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
    Peers(u16),
    /// A frame that cannot be decoded.
    Undecoded(u16),
    /// The next burst of clients, and one of them.
    Burst(u16),
    Client,
    /// accept() is called no more, or again.
    Stall(bool),
    /// The server listens no more, or again.
    Stop(bool),
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
    pub seed: u64,
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
    rivals: Option<Rivals>,
    /// When the engine begins to watch.
    begin: u64,
    asks_kernel: bool,
    /// Whether the server listens on no port for now.
    stopped: bool,
    conntrack_drops: u64,
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
    /// When the events' times count from.
    pub origin: u64,
    /// What rivals said, where there are any.
    pub alarms: Alarms,
    /// The host that the event came from.
    pub attacker: Option<IpAddr>,
    /// As of the end of the events, and of the whole.
    pub height: Document,
    pub end: Document,
    pub packets: u64,
}

impl<'a> World<'a> {
    pub fn new(job: Job<'a>) -> Self {
        let Job { scenario, cold, seed, warm_up, wire, rivals } = job;
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
        let secret = key.next();
        let engine = engine::Settings {
            key: HashKey(bytes),
            backlog: victim.backlog,
            kernel_only: scenario.once.is_some_and(|once| once.lasts == 0.0),
            ..engine::Settings::default()
        };
        let origin = if cold { COLD } else { warm_up };
        let begin = scenario.once.map_or(0, |once| {
            let into = once.from + (once.to - once.from) * key.unit();
            nanos(origin + into).next_multiple_of(STEP.as_nanos() as u64)
        });
        let engine = Engine::new(engine, START + Duration::from_nanos(begin));
        let mut world = Self {
            scenario,
            seed,
            origin: nanos(origin),
            now: 0,
            due: BinaryHeap::new(),
            order: 0,
            conns: Vec::new(),
            free: Vec::new(),
            server: Server::new(settings, hosts * victim.ports.len(), secret),
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
            rivals: rivals.then(Rivals::new),
            begin,
            stopped: false,
            conntrack_drops: 0,
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
        let (height, end) = match self.scenario.once {
            Some(once) => {
                let seen = self.look(nanos(once.lasts));
                (seen.clone(), seen)
            }
            None => {
                let length = nanos(self.scenario.length());
                self.until(self.origin + length);
                let height = self.document();
                self.until(self.origin + length + nanos(self.scenario.cool_down));
                (height, self.document())
            }
        };
        if self.form.is_some() && self.stats.dropped == 0 {
            assert_eq!(end.capture.tcp_segments, self.datagrams);
        }
        let said = std::mem::take(&mut self.said);
        if self.rivals.is_some() {
            // The last of their periods ends too.
            self.until(self.now + rivals::PERIOD * SECOND);
        }
        Played {
            said,
            origin: self.origin,
            alarms: self.rivals.map(Rivals::alarms).unwrap_or_default(),
            first_packet: self.first_packet.unwrap_or(self.origin),
            attacker: self.attacks.attacker.map(IpAddr::from),
            height,
            end,
            packets: self.packets,
        }
    }

    /// Looks once, for so long, as `--once` does.
    fn look(&mut self, lasts: u64) -> Document {
        self.until(self.begin);
        self.ask_kernel();
        if lasts > 0 {
            self.until(self.begin + lasts);
            self.ask_kernel();
            self.engine.consult_kernel();
        }
        self.tick();
        self.document()
    }

    fn document(&mut self) -> Document {
        self.engine.snapshot(START + Duration::from_nanos(self.now)).document
    }

    fn until(&mut self, end: u64) {
        let step = STEP.as_nanos() as u64;
        let mut tick = (self.now / step + 1) * step;
        while tick <= end {
            self.let_pass(tick);
            self.pass_until(tick);
            self.now = tick;
            tick += step;
            if self.now < self.begin {
                continue;
            }
            if self.now.is_multiple_of(SECOND) && self.scenario.once.is_none() {
                self.ask_kernel();
                if let Some(rivals) = &mut self.rivals {
                    let queued = self.server.listeners.iter().map(|listener| listener.queued);
                    rivals.end_second(queued.sum());
                }
                let capture = self.scenario.capture;
                let dropped = if capture.uncounted { 0 } else { self.stats.dropped };
                let received = self.stats.received - (self.stats.dropped - dropped);
                self.engine.handle_capture(CaptureStats { received, dropped });
            }
            self.tick();
        }
    }

    fn ask_kernel(&mut self) {
        let answers = self.scenario.victim.kernel_span;
        if self.asks_kernel && answers.is_none_or(|span| span.contains(self.elapsed())) {
            let sample = self.kernel_sample();
            self.engine.handle_kernel(sample);
        }
    }

    fn tick(&mut self) {
        let actions = self.engine.tick(START + Duration::from_nanos(self.now));
        self.said.extend(actions.into_iter().map(|action| (self.now, action)));
    }

    /// Seconds since the warm-up, negative in it.
    pub fn elapsed(&self) -> f64 {
        seconds(self.now) - seconds(self.origin)
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
            Event::Arrival => {
                self.arrive();
                self.open_connection();
            }
            Event::Client => self.open_connection(),
            Event::Burst(number) => self.burst(number),
            Event::Conn(conn, next) => {
                self.conns[conn as usize].events -= 1;
                self.proceed(conn, next);
                self.release(conn);
            }
            Event::Flood(number) => self.flood(number),
            Event::Backscatter(number) => self.backscatter(number),
            Event::Scan(number) => self.scan(number),
            Event::HealthCheck(number, checker) => self.health_check(number, checker),
            Event::Peers(number) => self.connect_to_peer(number),
            Event::Undecoded(number) => self.undecoded(number),
            Event::Stop(stopped) => {
                self.stopped = stopped;
                for conn in self.server.close() {
                    self.conns[conn as usize].request = None;
                    self.release(conn);
                }
            }
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

    /// A SYN arrives at the victim, or at a host elsewhere, who may answer it; `peer` is to be told
    /// what becomes of it.
    pub fn deliver_syn(&mut self, syn: &Segment, listener: Option<u32>, peer: Option<u32>) {
        self.emit(self.now, *syn, Only::Ingress);
        let victim = &self.scenario.victim;
        let answer = match (peer.and_then(|conn| self.conns[conn as usize].elsewhere), listener) {
            (Some(Elsewhere::Absent), _) => None,
            (Some(Elsewhere::Refuses), _) => self.turn_away(syn, peer),
            (Some(Elsewhere::Answers), _) => Some(self.server.stateless(syn)),
            (None, _) if !self.attacks.is_live(syn.destination) || self.is_filtered(syn) => None,
            (None, Some(_)) if self.stopped => self.turn_away(syn, peer),
            (None, Some(_)) if victim.syn_proxy => Some(self.server.stateless(syn)),
            (None, Some(listener)) => {
                let proven = victim.syncookies == 0 && self.proven.contains(&syn.source);
                self.server.syn(self.now, listener, syn, proven, peer)
            }
            (None, None) if victim.closed == Closed::Reset => self.turn_away(syn, peer),
            (None, None) => None,
        };
        let Some(answer) = answer else { return };
        self.emit(self.now + SERVER_TIME, answer.segment, Only::Egress);
        if let Some(conn) = peer {
            self.conns[conn as usize].request = answer.request;
        }
        self.answered(peer, &answer.segment, Some(answer.request.is_none()));
    }

    /// Whether a SYN is dropped before it reaches a queue.
    fn is_filtered(&mut self, syn: &Segment) -> bool {
        let (now, scenario) = (self.elapsed(), self.scenario);
        let random = &mut self.random;
        let dropped = scenario
            .conntrack
            .iter()
            .any(|conntrack| conntrack.span.contains(now) && random.chance(conntrack.drops));
        self.conntrack_drops += u64::from(dropped);
        let mut filters = scenario.filter.iter();
        dropped
            || filters.any(|filter| {
                filter.span.contains(now)
                    && filter.port.is_none_or(|port| port == syn.destination_port)
                    && random.chance(filter.share)
            })
    }

    /// A closed port answers, and the client gives up.
    fn turn_away(&mut self, syn: &Segment, peer: Option<u32>) -> Option<Answer> {
        self.refuse(syn);
        if let Some(conn) = peer {
            self.conns[conn as usize].state = State::Done;
        }
        None
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
        if capture.only.is_some_and(|only| only != direction)
            || self.attacks.hides(&segment, direction)
        {
            return;
        }
        if direction == Only::Egress {
            self.on_the_way.push_back((at + self.distance, segment));
        }
        self.pass_until(at);
        if direction == Only::Ingress {
            self.pass(at, &segment, direction);
        }
    }

    /// What the server has sent passes the monitor, as far as its time has come.
    fn pass_until(&mut self, end: u64) {
        while let Some((at, segment)) = self.on_the_way.pop_front_if(|(at, _)| *at <= end) {
            self.pass(at, &segment, Only::Egress);
        }
    }

    /// A segment passes the monitor: its frames are captured, and decoded as the program does it.
    fn pass(&mut self, at: u64, segment: &Segment, direction: Only) {
        const LINK: LinkType = LinkType::Ethernet;
        if at < self.begin {
            return;
        }
        self.datagrams += 1;
        let at = START + Duration::from_nanos(at);
        let mut capture = |frame: &[u8], length| {
            self.stats.received += 1;
            if self.capture_random.chance(self.scenario.capture.drop) {
                self.stats.dropped += 1;
                return;
            }
            self.packets += 1;
            if let Some(rivals) = &mut self.rivals {
                rivals.take(segment, direction);
            }
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

    /// A frame arrives that the decoder makes no segment of.
    fn undecoded(&mut self, number: u16) {
        let event = &self.scenario.undecoded[usize::from(number)];
        if event.span.is_over(self.elapsed()) {
            return;
        }
        let wait = self.capture_random.exponential(1.0 / event.rate);
        self.schedule(self.now + nanos(wait), Event::Undecoded(number));
        let reason = Skip::ALL.into_iter().find(|reason| reason.name() == event.reason);
        self.stats.received += 1;
        let at = START + Duration::from_nanos(self.now);
        self.engine.handle_skip(Some(at), reason.expect("the name of a reason"));
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
            conntrack: self.conntrack(),
            addresses: Vec::new(),
        };
        for (place, address, port, listener) in named {
            if self.stopped {
                continue;
            }
            let any = if address.is_ipv4() { ANY_V4 } else { ANY_V6 };
            sample.listeners.push(Listener {
                address: if victim.wildcard { any } else { address },
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

    /// What the kernel says of the connections that it tracks.
    fn conntrack(&self) -> Option<Conntrack> {
        const USUALLY: f64 = 0.1;
        let events = &self.scenario.conntrack;
        events.first()?;
        let now = self.elapsed();
        let active = events.iter().filter(|event| event.span.contains(now));
        let fill = active.map(|event| event.fill).fold(USUALLY, f64::max);
        Some(Conntrack {
            entries: (CONNTRACK_LIMIT as f64 * fill) as u64,
            limit: CONNTRACK_LIMIT,
            dropped: self.conntrack_drops,
        })
    }
}
