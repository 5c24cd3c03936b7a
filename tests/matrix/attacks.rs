//! What attackers do, and others who are no clients.

use synwatch_core::wire::{Address, Flags, OptionLayout, Segment, SeqNumber};

use crate::conn::{Conn, Next, Plan};
use crate::population::{Look, hping, linux, random_in, random_v4};
use crate::random::Random;
use crate::scenario::{self, Closed, Only, Scenario, Sources, Targets};
use crate::server::SECOND;
use crate::world::{Event, World, nanos};

/// Round-trip time of attackers and health checkers, in nanoseconds.
const ATTACKER_RTT: u64 = 40_000_000;
const CHECKER_RTT: u64 = 500_000;

/// What the events need beyond their description.
pub struct Attacks {
    /// The hosts that each flood comes from, and the servers of each backscatter.
    flood_hosts: Vec<Vec<Address>>,
    backscatter_hosts: Vec<Vec<Address>>,
    /// What the SYNs of each flood look like, and the sequence number where it is one.
    looks: Vec<Look>,
    isn: u32,
    /// The targets that each scan has still to probe.
    targets: Vec<Vec<(Address, u16)>>,
    /// The one host that the events come from.
    pub attacker: Option<Address>,
    /// Where there are hosts: the network's first address, its size and share, and the seed.
    live: f64,
    victim: Address,
    seed: u64,
    source_port: u16,
}

impl Attacks {
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut random = Random::new(seed, 5);
        let mut hosts = |count| (0..count).map(|_| random_v4(&mut random)).collect::<Vec<_>>();
        let scanner = hosts(1)[0];
        let flood_hosts: Vec<_> = scenario
            .flood
            .iter()
            .map(|flood| match flood.from {
                Sources::Hosts(count) => hosts(count),
                Sources::Random | Sources::Prefix(_) => Vec::new(),
            })
            .collect();
        let backscatter_hosts =
            scenario.backscatter.iter().map(|event| hosts(event.servers)).collect();
        let attacker = match &flood_hosts[..] {
            _ if !scenario.scan.is_empty() => Some(scanner),
            [hosts] if hosts.len() == 1 => Some(hosts[0]),
            _ => None,
        };
        let looks = scenario.flood.iter().map(|flood| match flood.look {
            scenario::Look::Hping => hping(flood.ttl),
            scenario::Look::Linux => linux(flood.ttl),
        });
        let looks = looks.collect();
        let isn = random.next() as u32;
        let targets = scenario.scan.iter().map(|scan| targets(scenario, scan, &mut random));
        Self {
            flood_hosts,
            backscatter_hosts,
            looks,
            isn,
            targets: targets.collect(),
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

    fn next_port(&mut self) -> u16 {
        self.source_port = self.source_port.wrapping_add(1).max(1_024);
        self.source_port
    }
}

/// What a scan probes, in a random order, the last first.
fn targets(scenario: &Scenario, scan: &scenario::Scan, random: &mut Random) -> Vec<(Address, u16)> {
    let victim = &scenario.victim;
    let mut targets: Vec<(Address, u16)> = match (scan.ports, victim.network) {
        (Some(ports), _) => {
            // The well-known ones and the first others, as nmap's list has them.
            (1..=ports.max(1)).map(|port| (victim.address.into(), port)).collect()
        }
        (None, Some(network)) => {
            network.hosts().map(|host| (host.into(), victim.ports[0])).collect()
        }
        (None, None) => vec![(victim.address.into(), victim.ports[0])],
    };
    for n in (1..targets.len()).rev() {
        targets.swap(n, random.below(n as u32 + 1) as usize);
    }
    // Where there may be no answer, nmap tries a second time.
    if victim.closed == Closed::Drop {
        targets.extend_from_within(..);
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
        for (n, checks) in (0..).zip(&scenario.health_checks) {
            for checker in 0..checks.checkers {
                let wait = self.attack_random.unit();
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
        self.note_attack();

        let random = &mut self.attack_random;
        let source = match flood.from {
            Sources::Random => random_v4(random),
            Sources::Prefix(prefix) => random_in(prefix, random),
            Sources::Hosts(count) => {
                self.attacks.flood_hosts[usize::from(number)][random.below(count) as usize]
            }
        };
        let victim = &scenario.victim;
        let address: Address = victim.address.into();
        let any =
            |random: &mut Random| victim.ports[random.below(victim.ports.len() as u32) as usize];
        let (destination, port) = match (flood.to, victim.network) {
            (Targets::Service, _) => (address, victim.ports[0]),
            (Targets::AnyPort, _) => (address, 1 + random.below(65_535) as u16),
            (Targets::Ports, _) | (Targets::Network, None) => (address, any(random)),
            (Targets::Network, Some(network)) => (random_in(network, random), any(random)),
        };
        // hping3 counts its source port up; others draw it.
        let source_port = match flood.look {
            scenario::Look::Hping => self.attacks.next_port(),
            scenario::Look::Linux => 1_024 + random.below(64_000) as u16,
        };
        let isn = if flood.constant_isn { self.attacks.isn } else { random.next() as u32 };
        let look = self.attacks.looks[usize::from(number)];
        let listener = self.listener(destination, port);
        let conn = Conn {
            server: destination,
            server_port: port,
            listener,
            ..self.new_conn(source, source_port, look, Plan::Reset, ATTACKER_RTT, SeqNumber(isn))
        };
        if self.attack_random.chance(flood.resets) {
            let conn = self.open(conn);
            self.schedule_conn(self.now, conn, Next::Syn(0));
        } else {
            self.deliver_syn(&conn.syn(), listener, None);
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
        let Some((server, port)) = self.attacks.targets[usize::from(number)].pop() else { return };
        let wait = self.attack_random.exponential(1.0 / scan.rate);
        self.schedule(self.now + nanos(wait), Event::Scan(number));
        self.note_attack();
        let plan = if scan.connect { Plan::Touch } else { Plan::Reset };
        let look = if scan.connect { linux(52) } else { Look { window: 1_024, ..hping(44) } };
        let Some(attacker) = self.attacks.attacker else { return };
        let isn = SeqNumber(self.attack_random.next() as u32);
        let listener = self.listener(server, port);
        let source_port = self.attacks.next_port();
        let conn = self.new_conn(attacker, source_port, look, plan, ATTACKER_RTT, isn);
        let conn = self.open(Conn { server, server_port: port, listener, ..conn });
        self.schedule_conn(self.now, conn, Next::Syn(0));
    }

    /// A health checker opens a connection, to reset it.
    pub fn health_check(&mut self, number: u16, checker: u16) {
        let event = &self.scenario.health_checks[usize::from(number)];
        if self.now >= self.origin + nanos(event.span.after + event.span.lasts) {
            return;
        }
        self.schedule(self.now + SECOND, Event::HealthCheck(number, checker));
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
