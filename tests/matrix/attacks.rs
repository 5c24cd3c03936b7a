//! What attackers do, and others who are no clients.

use std::collections::{HashMap, HashSet};

use synwatch_core::wire::{Address, Flags, OptionLayout, Segment, SeqNumber};

use crate::conn::{self, Conn, Next, Plan};
use crate::population::{Look, hping, linux, random_in, random_v4};
use crate::random::Random;
use crate::scenario::{self, Closed, Hidden, Only, Scenario, Sources, Targets};
use crate::world::{Event, World, nanos};

/// Round-trip time of attackers and health checkers, in nanoseconds.
const ATTACKER_RTT: u64 = 40_000_000;
const CHECKER_RTT: u64 = 500_000;

/// What the events need beyond their description.
pub struct Attacks {
    /// The hosts that floods come from, and the servers of each backscatter.
    flood_hosts: Vec<Address>,
    backscatter_hosts: Vec<Vec<Address>>,
    /// What the SYNs of each flood look like, and the sequence number where it is one.
    looks: Vec<Look>,
    isn: u32,
    /// What each scan has still to probe.
    probes: Vec<Vec<Probe>>,
    /// The peers of each client that has some, and its address.
    peers: Vec<Vec<Target>>,
    peer_client: Address,
    /// Senders of which the monitor does not see everything.
    hidden: HashMap<Address, Hidden>,
    /// The one host that the events come from.
    pub attacker: Option<Address>,
    /// Where there are hosts: the network's first address, its size and share, and the seed.
    live: f64,
    victim: Address,
    seed: u64,
    source_port: u16,
}

/// A port to connect to.
#[derive(Clone, Copy)]
struct Target {
    address: Address,
    port: u16,
    elsewhere: Option<conn::Elsewhere>,
}

/// One of a scanner's.
#[derive(Clone, Copy)]
struct Probe {
    scanner: Address,
    target: Target,
}

impl Attacks {
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut random = Random::new(seed, 5);
        let mut hosts = |count| (0..count).map(|_| random_v4(&mut random)).collect::<Vec<_>>();
        let scanners = scenario.scan.iter().map(|scan| scan.scanners).max().unwrap_or(1);
        let scanners = hosts(scanners);
        let flood_hosts = scenario.flood.iter().map(|flood| match flood.from {
            Sources::Hosts(count) => count,
            Sources::Random | Sources::Served | Sources::Prefix(_) => 0,
        });
        let flood_hosts = hosts(flood_hosts.max().unwrap_or(0));
        let backscatter_hosts =
            scenario.backscatter.iter().map(|event| hosts(event.servers)).collect();
        let attacker = match &flood_hosts[..] {
            _ if !scenario.scan.is_empty() => (scanners.len() == 1).then_some(scanners[0]),
            [host] => Some(*host),
            _ => None,
        };
        let looks = scenario.flood.iter().map(|flood| match flood.look {
            scenario::Look::Hping => hping(flood.ttl),
            scenario::Look::Linux => linux(flood.ttl),
        });
        let looks = looks.collect();
        let isn = random.next() as u32;
        let probes =
            scenario.scan.iter().map(|scan| probes(scenario, scan, &scanners, &mut random));
        let probes = probes.collect();
        let peers = scenario.peers.iter().map(|event| elsewhere(event.at, &mut random)).collect();
        Self {
            flood_hosts,
            backscatter_hosts,
            looks,
            isn,
            probes,
            peers,
            peer_client: random_v4(&mut random),
            hidden: HashMap::new(),
            attacker,
            live: scenario.victim.live,
            victim: scenario.victim.address.into(),
            seed,
            source_port: 1_024,
        }
    }

    /// Whether there is a host at an address of ours.
    pub fn is_live(&self, address: Address) -> bool {
        self.live >= 1.0
            || address == self.victim
            || Random::new(self.seed, address.to_bits() as u64).chance(self.live)
    }

    /// Whether a segment passes where the monitor does not see it.
    pub fn hides(&self, segment: &Segment, direction: Only) -> bool {
        let sender = match direction {
            Only::Ingress => segment.source,
            Only::Egress => segment.destination,
        };
        match self.hidden.get(&sender) {
            Some(Hidden::All) => true,
            Some(Hidden::Syns) => direction == Only::Ingress,
            None => false,
        }
    }

    fn next_port(&mut self) -> u16 {
        self.source_port = self.source_port.wrapping_add(1).max(1_024);
        self.source_port
    }
}

fn any_port(random: &mut Random) -> u16 {
    1 + random.below(65_535) as u16
}

/// What a scan probes, in a random order, the last first.
fn probes(
    scenario: &Scenario,
    scan: &scenario::Scan,
    scanners: &[Address],
    random: &mut Random,
) -> Vec<Probe> {
    let victim = &scenario.victim;
    let ours = |address, port| Target { address, port, elsewhere: None };
    let targets: Vec<Target> = match (scan.ports, scan.elsewhere, victim.network) {
        (Some(ports), ..) => {
            // The well-known ones and the first others, as nmap's list has them.
            (1..=ports.max(1)).map(|port| ours(victim.address.into(), port)).collect()
        }
        (None, Some(hosts), _) => elsewhere(hosts, random),
        (None, None, Some(network)) => {
            network.hosts().map(|host| ours(host.into(), victim.ports[0])).collect()
        }
        (None, None, None) => vec![ours(victim.address.into(), victim.ports[0])],
    };
    let scanners = scanners.iter().take(scan.scanners as usize);
    let mut probes: Vec<Probe> = scanners
        .flat_map(|scanner| {
            targets.iter().map(|target| Probe { scanner: *scanner, target: *target })
        })
        .collect();
    for n in (1..probes.len()).rev() {
        probes.swap(n, random.below(n as u32 + 1) as usize);
    }
    // Where there may be no answer, nmap tries a second time.
    if victim.closed == Closed::Drop {
        probes.extend_from_within(..);
    }
    probes
}

/// Hosts of which no two are in one /16.
fn elsewhere(hosts: scenario::Elsewhere, random: &mut Random) -> Vec<Target> {
    let mut networks = HashSet::new();
    let mut targets = Vec::new();
    while targets.len() < hosts.hosts as usize {
        let address = random_v4(random);
        if !networks.insert(address.prefix(16).to_bits()) {
            continue;
        }
        let does = match random.unit() {
            drawn if drawn < hosts.answer => conn::Elsewhere::Answers,
            drawn if drawn < hosts.answer + hosts.refuse => conn::Elsewhere::Refuses,
            _ => conn::Elsewhere::Absent,
        };
        let port = hosts.port.unwrap_or(1_024 + random.below(64_000) as u16);
        targets.push(Target { address, port, elsewhere: Some(does) });
    }
    targets
}

impl World<'_> {
    /// Enters the beginnings of all events.
    pub fn begin_attacks(&mut self) {
        let scenario = self.scenario;
        let at = |after: f64, origin: u64| origin + nanos(after);
        let origin = self.origin;
        for (n, flood) in (0..).zip(&scenario.flood) {
            let wait = self.attack_random.exponential(1.0 / flood.rate);
            self.schedule(at(flood.span.after + wait, origin), Event::Flood(n));
        }
        for (n, event) in (0..).zip(&scenario.backscatter) {
            self.schedule(at(event.span.after, origin), Event::Backscatter(n));
        }
        for (n, scan) in (0..).zip(&scenario.scan) {
            self.schedule(at(scan.after, origin), Event::Scan(n));
        }
        for (n, event) in (0..).zip(&scenario.peers) {
            self.schedule(at(event.span.after, origin), Event::Peers(n));
        }
        for (n, event) in (0..).zip(&scenario.undecoded) {
            self.schedule(at(event.span.after, origin), Event::Undecoded(n));
        }
        for (n, event) in (0..).zip(&scenario.bursts) {
            // Not at a full second, when the kernel is asked.
            self.schedule(at(event.span.after + 0.4, origin), Event::Burst(n));
        }
        for event in &scenario.restart {
            self.schedule(at(event.span.after, origin), Event::Stop(true));
            self.schedule(at(event.span.end(), origin), Event::Stop(false));
        }
        for (n, checks) in (0..).zip(&scenario.health_checks) {
            for checker in 0..checks.checkers {
                let wait = self.attack_random.unit() / checks.rate;
                let begin = at(checks.span.after + wait, origin);
                self.schedule(begin, Event::HealthCheck(n, checker as u16));
            }
        }
        for stall in &scenario.stall {
            self.schedule(at(stall.span.after, origin), Event::Stall(true));
            let end = stall.span.after + stall.span.lasts;
            self.schedule(at(end, origin), Event::Stall(false));
        }
    }

    /// One SYN of a flood.
    pub fn flood(&mut self, number: u16) {
        let scenario = self.scenario;
        let flood = &scenario.flood[usize::from(number)];
        let begin = self.origin + nanos(flood.span.after);
        let into = self.now - begin;
        if into >= nanos(flood.span.lasts) {
            return;
        }
        let wait = nanos(self.attack_random.exponential(1.0 / flood.rate));
        let mut next = self.now + wait;
        if let Some(pulse) = flood.pulse {
            let period = nanos(pulse.on + pulse.off);
            // The time between two pulses does not count.
            if (next - begin) % period >= nanos(pulse.on) {
                next += nanos(pulse.off);
            }
        }
        self.schedule(next, Event::Flood(number));
        if !flood.prelude {
            self.note_attack();
        }

        let legitimate = &scenario.legitimate;
        let random = &mut self.attack_random;
        let source = match flood.from {
            Sources::Random => random_v4(random),
            Sources::Served => {
                let client = self.population.client(legitimate.one_network, random).address;
                Address::from_bits(client.prefix(24).to_bits() | u128::from(random.below(256)))
            }
            Sources::Prefix(prefix) => random_in(prefix, random),
            Sources::Hosts(count) => self.attacks.flood_hosts[random.below(count) as usize],
        };
        let victim = &scenario.victim;
        let address: Address = victim.address.into();
        let any =
            |random: &mut Random| victim.ports[random.below(victim.ports.len() as u32) as usize];
        let (destination, port) = match (flood.to, victim.network) {
            _ if random.chance(flood.strays) => (address, any_port(random)),
            (Targets::Service, _) => (address, victim.ports[0]),
            (Targets::AnyPort, _) => (address, any_port(random)),
            (Targets::Port(port), _) => (address, port),
            (Targets::Internet, _) => (random_v4(random), any(random)),
            (Targets::Ports, _) | (Targets::Network, None) => (address, any(random)),
            (Targets::Network, Some(network)) | (Targets::Prefix(network), _) => {
                (random_in(network, random), any(random))
            }
        };
        // hping3 counts its source port up; others draw it.
        let source_port = match flood.look {
            scenario::Look::Hping => self.attacks.next_port(),
            scenario::Look::Linux => 1_024 + random.below(64_000) as u16,
        };
        let isn = if flood.constant_isn { self.attacks.isn } else { random.next() as u32 };
        let look = self.attacks.looks[usize::from(number)];
        if let Some(hidden) = flood.hidden {
            self.attacks.hidden.insert(source, hidden);
        }
        let listener = self.listener(destination, port);
        let internet = matches!(flood.to, Targets::Internet);
        let elsewhere = internet.then_some(conn::Elsewhere::Answers);
        let random = &mut self.attack_random;
        let (plan, answers) = if random.chance(flood.resets) {
            (Plan::Reset, nanos(flood.reset_after))
        } else if random.chance(flood.repeats) {
            (Plan::Insist, 0)
        } else {
            (Plan::Vanish, 0)
        };
        let conn = Conn {
            server: destination,
            server_port: port,
            listener,
            elsewhere,
            ..self.new_conn(source, source_port, look, plan, answers, SeqNumber(isn))
        };
        if plan == Plan::Vanish && elsewhere.is_none() {
            // Nobody waits for what becomes of it.
            self.deliver_syn(&conn.syn(), listener, None);
        } else {
            let conn = self.open(conn);
            self.schedule_conn(self.now, conn, Next::Syn(0));
        }
    }

    /// One SYN-ACK that answers nothing of ours.
    pub fn backscatter(&mut self, number: u16) {
        let event = &self.scenario.backscatter[usize::from(number)];
        if self.now >= self.origin + nanos(event.span.after + event.span.lasts) {
            return;
        }
        let wait = self.attack_random.exponential(1.0 / event.rate);
        self.schedule(self.now + nanos(wait), Event::Backscatter(number));
        self.note_attack();
        let random = &mut self.attack_random;
        let server = random.below(event.servers) as usize;
        let answer = Segment {
            source: self.attacks.backscatter_hosts[usize::from(number)][server],
            destination: self.scenario.victim.address.into(),
            source_port: event.port,
            destination_port: 1_024 + random.below(64_000) as u16,
            seq: SeqNumber(random.next() as u32),
            ack: SeqNumber(random.next() as u32),
            flags: Flags::SYN | Flags::ACK,
            window: 65_160,
            payload_len: 0,
            ttl: 40 + (server % 20) as u8,
            mss: Some(1_460),
            options: OptionLayout::default().with(0, 2),
        };
        self.emit(self.now, answer, Only::Ingress);
        self.refuse(&answer);
    }

    /// One probe of a scan.
    pub fn scan(&mut self, number: u16) {
        let scan = &self.scenario.scan[usize::from(number)];
        let Some(probe) = self.attacks.probes[usize::from(number)].pop() else { return };
        let wait = self.attack_random.exponential(1.0 / scan.rate);
        self.schedule(self.now + nanos(wait), Event::Scan(number));
        self.note_attack();
        let plan = if scan.connect { Plan::Touch } else { Plan::Reset };
        let look = if scan.connect { linux(52) } else { Look { window: 1_024, ..hping(44) } };
        let isn = SeqNumber(self.attack_random.next() as u32);
        let source_port = self.attacks.next_port();
        let conn = self.new_conn(probe.scanner, source_port, look, plan, ATTACKER_RTT, isn);
        self.connect(conn, probe.target);
    }

    /// A client connects to one of its peers, as far as it is still there.
    pub fn connect_to_peer(&mut self, number: u16) {
        let event = &self.scenario.peers[usize::from(number)];
        if event.span.is_over(self.elapsed()) {
            return;
        }
        let wait = self.attack_random.exponential(1.0 / event.rate);
        self.schedule(self.now + nanos(wait), Event::Peers(number));
        self.note_attack();
        let peers = &self.attacks.peers[usize::from(number)];
        let peer = peers[self.attack_random.below(peers.len() as u32) as usize];
        let (client, port) = (self.attacks.peer_client, self.attacks.next_port());
        let isn = SeqNumber(self.attack_random.next() as u32);
        let conn = self.new_conn(client, port, linux(64), Plan::Talk, ATTACKER_RTT, isn);
        self.connect(conn, peer);
    }

    fn connect(&mut self, conn: Conn, Target { address, port, elsewhere }: Target) {
        let listener = if elsewhere.is_some() { None } else { self.listener(address, port) };
        let conn = Conn { server: address, server_port: port, listener, elsewhere, ..conn };
        let conn = self.open(conn);
        self.schedule_conn(self.now, conn, Next::Syn(0));
    }

    /// A health checker opens a connection, to reset it.
    pub fn health_check(&mut self, number: u16, checker: u16) {
        let event = &self.scenario.health_checks[usize::from(number)];
        if self.now >= self.origin + nanos(event.span.after + event.span.lasts) {
            return;
        }
        let pause = nanos(1.0 / event.rate);
        self.schedule(self.now + pause, Event::HealthCheck(number, checker));
        self.note_attack();
        let [high, low] = checker.to_be_bytes();
        let address = Address::v4([198, 18, high, low]);
        let port = 32_768 + self.attack_random.below(28_232) as u16;
        let isn = SeqNumber(self.attack_random.next() as u32);
        let conn = self.new_conn(address, port, linux(63), Plan::Reset, CHECKER_RTT, isn);
        let conn = self.open(conn);
        self.schedule_conn(self.now, conn, Next::Syn(0));
    }
}
