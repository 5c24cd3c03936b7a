//! The core from end to end, on traffic that is generated: the same on every run, without any I/O.

mod baselines;
mod groups;
mod law;
mod reflection;
mod sampling;
mod settings;
mod shards;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::document::{Detection, Document};
use crate::findings::Class;
use crate::flow::{HashKey, state_test_segment};
use crate::model::{FlowCounts, KernelHalfOpen, Listener, Severity, Status, Variant};
use crate::wire::{Address, Flags, OptionLayout, SeqNumber};

const SYN: Flags = Flags::SYN;
const ACK: Flags = Flags::ACK;
const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);
const FIN_ACK: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);
const RST_ACK: Flags = Flags(Flags::RST.0 | Flags::ACK.0);

/// 2026-01-01.
const START: Timestamp = Timestamp::from_nanos(1_767_225_600_000_000_000);
const VICTIM: Address = Address::v4([192, 0, 2, 10]);

fn settings() -> Settings {
    Settings { flows: 1 << 15, services: 64, key: HashKey([3; 16]), ..Settings::default() }
}

/// A generator of numbers that look random (SplitMix64).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// An address of the unicast space, like those that flooding tools forge.
    fn address(&mut self) -> Address {
        let host = self.next() as u32;
        Address::v4([1 + self.below(223) as u8, (host >> 16) as u8, (host >> 8) as u8, host as u8])
    }
}

/// Traffic that is still to come, an engine, and what it said so far.
struct World {
    engine: Engine,
    random: Random,
    /// Nanoseconds since [`START`], a number that keeps the order, and the segment with its
    /// interface.
    traffic: BinaryHeap<Reverse<(u64, usize)>>,
    segments: Vec<Segment>,
    /// Every segment is seen on these interfaces.
    interfaces: Vec<u32>,
    ticks: u64,
    said: Vec<(f64, Action)>,
}

/// Seconds as nanoseconds.
fn nanos(seconds: f64) -> u64 {
    Duration::from_secs_f64(seconds).as_nanos() as u64
}

fn at(seconds: f64) -> Timestamp {
    START + Duration::from_secs_f64(seconds)
}

/// Seconds since [`START`].
fn seconds(at: Timestamp) -> f64 {
    (at - START).as_secs_f64()
}

impl World {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: Settings) -> Self {
        Self {
            engine: Engine::new(settings, START),
            random: Random(1),
            traffic: BinaryHeap::new(),
            segments: Vec::new(),
            interfaces: vec![0],
            ticks: 0,
            said: Vec::new(),
        }
    }

    fn send(&mut self, seconds: f64, segment: Segment) {
        self.traffic.push(Reverse((nanos(seconds), self.segments.len())));
        self.segments.push(segment);
    }

    /// A SYN and its answer.
    fn attempt(&mut self, source: Address, victim: Address) -> (Segment, Segment) {
        let syn = Segment {
            source,
            destination: victim,
            source_port: 1_024 + self.random.below(60_000) as u16,
            window: 512,
            seq: SeqNumber(self.random.next() as u32),
            ..state_test_segment(SYN, 0, 0)
        };
        let answer = Segment {
            source: syn.destination,
            destination: syn.source,
            source_port: syn.destination_port,
            destination_port: syn.source_port,
            seq: SeqNumber(self.random.next() as u32),
            ack: syn.seq + 1,
            ..state_test_segment(SYN_ACK, 0, 0)
        };
        (syn, answer)
    }

    /// A SYN at `start` seconds and its answer; returns both for more to follow.
    fn request(&mut self, start: f64, source: Address, victim: Address) -> (Segment, Segment) {
        let (syn, answer) = self.attempt(source, victim);
        self.send(start, syn);
        self.send(start + 0.000_1, answer);
        (syn, answer)
    }

    /// Attempts that never complete, `rate` a second; every eighth is kept by the server and its
    /// answer repeated twice, the others get cookies.
    fn flood(
        &mut self,
        from: f64,
        to: f64,
        rate: f64,
        source: impl Fn(&mut Random) -> Address,
    ) -> &mut Self {
        for n in 0..((to - from) * rate) as u32 {
            let source = source(&mut self.random);
            let start = from + f64::from(n) / rate;
            let (_, answer) = self.request(start, source, VICTIM);
            if n % 8 == 0 {
                self.send(start + 1.0, answer);
                self.send(start + 3.0, answer);
            }
        }
        self
    }

    /// Clients with some data and a close, `rate` a second; `failing` of a hundred never complete.
    fn clients(&mut self, from: f64, to: f64, rate: f64, failing: u64) -> &mut Self {
        for n in 0..((to - from) * rate) as u32 {
            let start = from + f64::from(n) / rate;
            let home = self.random.below(3_000) as u16;
            let host = self.random.next() as u16;
            let source =
                Address::v4([20 + (home >> 8) as u8, home as u8, (host >> 8) as u8, host as u8]);
            let (syn, answer) = self.request(start, source, VICTIM);
            if self.random.below(100) < failing {
                for repeat in [1.0, 3.0, 7.0, 15.0, 31.0] {
                    self.send(start + repeat, answer);
                }
                continue;
            }
            let round_trip = 0.01 + self.random.below(100) as f64 / 1_000.0;
            let options = OptionLayout::default();
            let ack = Segment { flags: ACK, seq: syn.seq + 1, ack: answer.seq + 1, options, ..syn };
            let request = Segment { payload_len: 300, ..ack };
            let reply = Segment {
                flags: FIN_ACK,
                seq: answer.seq + 1,
                ack: syn.seq + 301,
                payload_len: 1_000,
                ..answer
            };
            let fin = Segment { flags: FIN_ACK, seq: syn.seq + 301, ack: reply.end(), ..ack };
            let last =
                Segment { flags: ACK, seq: reply.end(), ack: fin.end(), payload_len: 0, ..reply };
            self.send(start + round_trip, ack);
            self.send(start + round_trip, request);
            self.send(start + round_trip + 0.01, reply);
            self.send(start + 2.0 * round_trip + 0.01, fin);
            self.send(start + 2.0 * round_trip + 0.02, last);
        }
        self
    }

    /// Plays the traffic up to so many seconds after the start, with a tick every 250 ms.
    fn until(&mut self, end: f64) -> &mut Self {
        while (self.ticks + 1) * nanos(0.25) <= nanos(end) {
            self.ticks += 1;
            let tick = self.ticks * nanos(0.25);
            while let Some(&Reverse((time, number))) = self.traffic.peek()
                && time <= tick
            {
                self.traffic.pop();
                for interface in &self.interfaces {
                    let now = START + Duration::from_nanos(time);
                    self.engine.handle_segment(now, &self.segments[number], *interface);
                }
            }
            let now = START + Duration::from_nanos(tick);
            let actions = self.engine.tick(now);
            self.said.extend(actions.into_iter().map(|action| (seconds(now), action)));
        }
        self
    }

    fn report(&mut self) -> Document {
        self.snapshot().document
    }

    fn snapshot(&mut self) -> Snapshot {
        let Snapshot { document, internals } = self.engine.snapshot(self.engine.now());
        let services = self.engine.services.ids().chain([ServiceId::OTHER]);
        let half_open = services.map(|id| self.engine.shards.half_open(id).total).sum::<u64>();
        assert_eq!(document.totals.half_open.value, half_open);
        assert_eq!(document.flows.syn_recv.value, half_open);
        assert!(internals.flow_table_entries <= internals.flow_table_capacity);
        assert_eq!(internals.services.len(), document.services.len());
        Snapshot { document, internals }
    }

    /// When a SYN flood of at least this severity was first told of.
    fn told(&self, least: Severity) -> Option<f64> {
        self.said.iter().find_map(|(when, action)| match action {
            Action::Raised(detection) | Action::Updated(detection)
                if detection.class == Class::SynFlood && detection.severity >= least =>
            {
                Some(*when)
            }
            _ => None,
        })
    }

    /// The only detection that there was.
    #[track_caller]
    fn detection(&mut self) -> Detection {
        let detections = self.report().detections;
        assert_eq!(detections.len(), 1, "{detections:#?}");
        detections[0].clone()
    }

    /// Requires that the flood that began at `onset` was told of as a warning within so many
    /// seconds.
    #[track_caller]
    fn warned(&self, onset: f64, within: f64) {
        let told = self.told(Severity::Warning).expect("a warning");
        assert!((onset..=onset + within).contains(&told), "{:.2} s", told - onset);
    }
}

// What is an attack

#[test]
fn spoofed_flood_pages_at_once_and_is_named() {
    let mut world = World::new();
    world.clients(0.0, 60.0, 100.0, 2).flood(30.0, 60.0, 1_000.0, Random::address);
    assert!(world.until(29.9).said.is_empty());
    world.until(60.0).warned(30.0, 2.0);
    let critical = world.told(Severity::Critical).expect("critical");
    assert!(critical <= 36.0, "critical at {critical} s");

    let detection = world.detection();
    assert_eq!(detection.variant, Some(Variant::SpoofedRandom));
    assert_eq!(detection.target.address, Some(IpAddr::from(VICTIM)));
    assert_eq!(detection.target.port, Some(443));
    let first = seconds(detection.first_packet_at);
    assert!((29.0..31.0).contains(&first), "first packet at {first} s");
    assert!(detection.confidence > 0.5);
    assert!((900.0..1_300.0).contains(&detection.evidence.syn_rate.value));
    assert!(detection.evidence.source_entropy_ratio > 0.9);
    let report = world.report();
    assert_eq!(report.status, Status::Critical);
    assert_eq!(report.services.len(), 1);
    assert!(report.totals.half_open_peak.value >= 1_000);
}

#[test]
fn spoofed_flood_from_the_very_first_packet() {
    let mut world = World::new();
    world.flood(0.0, 10.0, 1_000.0, Random::address).until(10.0).warned(0.0, 2.0);
}

#[test]
fn flood_of_one_source() {
    let mut world = World::new();
    let source = |_: &mut Random| Address::v4([198, 51, 100, 66]);
    world.clients(0.0, 45.0, 100.0, 2).flood(30.0, 45.0, 200.0, source);
    world.until(45.0).warned(30.0, 5.0);
    assert_eq!(world.detection().variant, Some(Variant::SingleSource));
}

#[test]
fn flood_of_one_subnet() {
    let mut world = World::new();
    let source = |random: &mut Random| Address::v4([203, 0, 113, random.next() as u8]);
    world.clients(0.0, 45.0, 100.0, 2).flood(30.0, 45.0, 500.0, source);
    world.until(45.0).warned(30.0, 3.0);
    let detection = world.detection();
    assert_eq!(detection.variant, Some(Variant::SpoofedSubnet));
    let top = detection.evidence.top_prefixes.last().expect("a prefix");
    assert_eq!(top.prefix.to_string(), "203.0.113.0/24");
    assert!(top.share > 0.9);
}

#[test]
fn flood_of_many_sources_that_return() {
    let mut world = World::new();
    let bots: Vec<Address> = (0..2_000).map(|_| world.random.address()).collect();
    let source = |random: &mut Random| bots[random.below(2_000) as usize];
    world.clients(0.0, 45.0, 100.0, 2).flood(30.0, 45.0, 300.0, source);
    world.until(45.0).warned(30.0, 5.0);
    assert_eq!(world.detection().variant, Some(Variant::Distributed));
}

/// Each SYN of another number on the same ports is an attempt of its own, and each fails.
#[test]
fn flood_on_the_same_ports_with_other_numbers() {
    let cases = [(3, 1_500_u32, Variant::SpoofedSubnet), (1, 6_000, Variant::SingleSource)];
    for (sources, rate, variant) in cases {
        for answer_after in [0.000_05, 0.000_4] {
            let mut world = World::new();
            world.clients(0.0, 20.0, 20.0, 2);
            for n in 0..rate * 10 {
                let source = Address::v4([198, 51, 100, 1 + (n % sources) as u8]);
                let (syn, answer) = world.attempt(source, VICTIM);
                let start = 5.0 + f64::from(n) / f64::from(rate);
                world.send(start, Segment { source_port: 4_000, ..syn });
                let answer = Segment { destination_port: 4_000, ..answer };
                world.send(start + answer_after, answer);
            }
            world.until(20.0).warned(5.0, 5.0);
            for detection in world.report().detections {
                assert_eq!(detection.class, Class::SynFlood);
                assert_eq!(detection.variant, Some(variant));
            }
        }
    }
}

#[test]
fn flood_that_nobody_answers() {
    let mut world = World::new();
    for n in 0..10_000 {
        let source = world.random.address();
        let syn = Segment { source, seq: SeqNumber(n), ..state_test_segment(SYN, 0, 0) };
        world.send(f64::from(n) / 1_000.0, syn);
    }
    world.until(15.0).warned(0.0, 3.0);
    let report = world.report();
    assert_eq!(report.totals.half_open.value, 0);
    // But for the few whose place in the table others took.
    assert!((9_980..=10_000).contains(&report.totals.syn_unanswered.value));
}

// What is none

#[test]
fn ten_minutes_of_clients_are_no_attack() {
    let mut world = World::new();
    world.clients(0.0, 600.0, 100.0, 2).until(640.0);
    assert_eq!(world.said, []);
    let report = world.report();
    assert_eq!((report.status, report.totals.syn.value), (Status::Ok, 60_000));
    let totals = report.totals;
    assert!(totals.handshakes_completed.value > 58_500);
    let failed = totals.handshakes_timed_out.value + totals.half_open.value;
    assert_eq!(totals.handshakes_completed.value + failed, 60_000);
    assert_eq!(totals.syn_unanswered.value, 0);
    // Two a second fail and are held for 63 s.
    let peak = totals.half_open_peak.value;
    assert!((100..400).contains(&peak), "{peak}");
}

#[test]
fn flash_crowd_is_told_of_and_never_pages() {
    let mut world = World::new();
    world.clients(0.0, 150.0, 30.0, 2).clients(150.0, 200.0, 600.0, 2).until(200.0);
    let crowds = world.said.iter().filter(|(_, action)| {
        matches!(action, Action::Raised(detection) if detection.class == Class::FlashCrowd)
    });
    assert_eq!(crowds.count(), 1);
    assert_eq!(world.told(Severity::Info), None, "{:?}", world.said);
    assert_eq!(world.report().status, Status::Ok);
    assert_eq!(world.detection().severity, Severity::Info);
}

// The life of an incident

#[test]
fn the_same_incident_until_ten_minutes_have_passed() {
    let mut world = World::new();
    for onset in [10.0, 300.0, 1_200.0] {
        world.flood(onset, onset + 10.0, 1_000.0, Random::address);
    }
    world.until(2_000.0);
    let mut raised = Vec::new();
    let mut cleared = Vec::new();
    for (when, action) in &world.said {
        match action {
            Action::Raised(detection) => raised.push((*when, detection.id.clone())),
            Action::Cleared(detection) => cleared.push((*when, detection.id.clone())),
            Action::Updated(_) => {}
        }
    }
    assert_eq!((raised.len(), cleared.len()), (3, 3));
    for ((begun, id), (ended, same)) in raised.iter().zip(&cleared) {
        assert_eq!(id, same);
        assert!((50.0..100.0).contains(&(ended - begun)), "over after {}", ended - begun);
    }
    assert_eq!(raised[0].1, raised[1].1, "a pulse is no new attack");
    assert_ne!(raised[1].1, raised[2].1);
    let report = world.report();
    assert_eq!((report.status, report.flows), (Status::Ok, FlowCounts::default()));
    assert_eq!(report.detections.len(), 2);
}

// Time

#[test]
fn a_jump_of_fifteen_years_ends_everything_at_once() {
    let mut world = World::new();
    world.flood(0.0, 10.0, 1_000.0, Random::address).until(10.0);
    assert_eq!(world.report().status, Status::Critical);
    let later = START + Duration::from_secs(15 * 365 * 86_400);
    let cleared = world.engine.tick(later);
    assert!(matches!(cleared.last(), Some(Action::Cleared(_))), "{cleared:?}");
    let report = world.report();
    assert_eq!((report.status, report.flows), (Status::Ok, FlowCounts::default()));
    assert_eq!(report.observed.to, later);
    // It goes on as if it had just begun.
    let mut raised = false;
    for n in 0..5_000_u32 {
        let now = later + Duration::from_millis(u64::from(n));
        let syn = Segment { source: world.random.address(), ..state_test_segment(SYN, n, 0) };
        world.engine.handle_segment(now, &syn, 0);
        raised |= world.engine.tick(now).iter().any(|a| matches!(a, Action::Raised(_)));
    }
    assert!(raised);
}

#[test]
fn time_that_runs_backwards_stands_still() {
    let mut world = World::new();
    world.flood(0.0, 5.0, 100.0, Random::address).until(5.0);
    let before = world.report();
    assert_eq!(world.engine.tick(Timestamp::EPOCH), []);
    world.engine.handle_segment(at(0.0), &state_test_segment(SYN, 1, 0), 0);
    world.engine.handle_segment(Timestamp::EPOCH, &state_test_segment(SYN_ACK, 1, 0), 0);
    let after = world.report();
    assert_eq!(after.observed, before.observed);
    assert_eq!(after.totals.syn.value, before.totals.syn.value + 1);
}

#[test]
fn a_late_answer_makes_no_counter_fall_within_a_step() {
    let mut world = World::new();
    let (first, answer) = world.attempt(Address::v4([198, 51, 100, 7]), VICTIM);
    let next = Segment { seq: first.seq + 10_000, ..first };
    let late = Segment { seq: answer.seq + 20_000, ack: next.seq + 1, ..answer };
    let mut unanswered = |segments: &[Segment]| {
        for segment in segments {
            world.engine.handle_segment(at(0.0), segment, 0);
        }
        let Snapshot { document, internals } = world.snapshot();
        (document.totals.syn_unanswered.value, internals.handshakes.unanswered)
    };
    assert_eq!(unanswered(&[first, answer, next]), (1, 1), "the server keeps the first");
    assert_eq!(unanswered(&[late]), (0, 1), "it has forgotten the first");
}

#[test]
fn the_end_of_time_is_survived() {
    let mut world = World::new();
    world.flood(0.0, 5.0, 100.0, Random::address).until(5.0);
    let end = Timestamp::from_nanos(u64::MAX);
    for n in 0..100 {
        world.engine.handle_segment(end, &state_test_segment(SYN, n, 0), 0);
        world.engine.tick(end);
    }
    world.engine.finish();
    assert!(world.report().observed.to <= end);
}

// The kernel

fn listener(address: &str) -> Listener {
    Listener {
        address: address.parse().expect("an address"),
        port: 443,
        dual_stack: address == "::",
        accept_queue: 0,
        backlog: 128,
        sockets: 1,
        process: None,
    }
}

/// A look at a kernel that has one listener and holds nothing, before anything arrives.
fn listening(listener: Listener) -> KernelSample {
    KernelSample { at: START, listeners: vec![listener], ..Default::default() }
}

/// A look at a kernel that holds so many requests for [`VICTIM`], of which some were answered in
/// vain, from sources all over the world.
fn kernel(at: Timestamp, count: u32, retransmitted: u32) -> KernelSample {
    let mut random = Random(7);
    let row = KernelHalfOpen {
        address: IpAddr::from(VICTIM),
        port: 443,
        count,
        retransmitted,
        sources: (0..retransmitted).map(|_| random.address().into()).collect(),
    };
    let half_open = if count > 0 { vec![row] } else { Vec::new() };
    KernelSample { at, listeners: vec![listener("0.0.0.0")], half_open, ..Default::default() }
}

#[test]
fn the_kernel_alone_can_tell() {
    let mut engine = Engine::new(Settings { kernel_only: true, ..settings() }, START);
    let mut look = |second: f64, count, retransmitted| {
        engine.tick(at(second));
        engine.handle_kernel(kernel(at(second), count, retransmitted));
        (engine.tick(at(second)), engine.snapshot(at(second)).document)
    };
    let (actions, report) = look(1.0, 15, 15);
    assert_eq!((actions, report.kernel.syn_recv), (vec![], Some(15)), "less than a quarter");

    let (actions, report) = look(2.0, 60, 55);
    let [Action::Raised(raised)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(raised.severity, Severity::Warning);
    assert_eq!(raised.target.address, Some(IpAddr::from(VICTIM)), "the address that was hit");
    assert_eq!(raised.variant, Some(Variant::SpoofedRandom));
    assert_eq!(raised.evidence.backlog, Some(128));
    assert_eq!(report.status, Status::Warning);

    let (actions, _) = look(3.0, 128, 90);
    let [Action::Updated(updated)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((updated.severity, &updated.id), (Severity::Critical, &raised.id));

    let (actions, report) = look(4.0, 0, 0);
    assert_eq!((actions, report.status), (vec![], Status::Critical), "a pause is no end");
    let (actions, report) = look(64.0, 0, 0);
    assert!(matches!(&actions[..], [Action::Cleared(cleared)] if cleared.id == raised.id));
    assert_eq!((report.status, report.kernel.syn_recv), (Status::Ok, Some(0)));
}

/// What is said of a queue of 128 that the kernel finds full for `looks` seconds while it turns
/// requests away, beside clients that complete on the wire.
fn full_by_the_kernel(looks: u32, accept_queue: u32) -> Vec<(f64, Action)> {
    let mut world = World::new();
    world.engine.handle_kernel(listening(listener("0.0.0.0")));
    world.clients(0.0, 40.0, 20.0, 2);
    for second in 1..=40_u32 {
        world.until(f64::from(second));
        let full = (20..20 + looks).contains(&second);
        let mut sample = kernel(world.engine.now(), if full { 129 } else { 1 }, 0);
        sample.listeners[0].accept_queue = accept_queue;
        sample.counters = [("TCPReqQFullDoCookies", u64::from(second) * 200)].into();
        world.engine.handle_kernel(sample);
    }
    world.said
}

#[test]
fn the_kernel_alone_pages_for_a_queue_that_stays_full() {
    let said = full_by_the_kernel(20, 0);
    let [(second, Action::Raised(raised))] = &said[..] else { panic!("{said:?}") };
    assert_eq!((raised.class, raised.severity), (Class::SynFlood, Severity::Critical));
    assert!((25.0..26.0).contains(second), "after {second} s");
    let words = &raised.explanation;
    for part in [
        "full by the kernel's own count, 129 of 128 places",
        "limit: 5 s without a free place",
        "the kernel answers 200/s by SYN cookies",
        "what fills it is not visible on the wire",
    ] {
        assert!(words.contains(part), "{words}");
    }
    assert!(full_by_the_kernel(5, 0).is_empty(), "a burst");
    let said = full_by_the_kernel(20, 128);
    let pages = |(_, action): &(f64, Action)| matches!(action, Action::Raised(it) | Action::Updated(it) if it.severity > Severity::Info);
    assert!(!said.iter().any(pages), "an accept queue that is full: {said:?}");
}

/// Floods three addresses of one host, most of it the first.
fn flood_behind(bound: &str, victims: [Address; 3]) -> World {
    let mut world = World::new();
    world.engine.handle_kernel(listening(listener(bound)));
    for n in 0..10_000_u32 {
        let source = world.random.address();
        let victim = victims[if n % 10 < 8 { 0 } else { n as usize % 2 + 1 }];
        world.request(f64::from(n) / 1_000.0, source, victim);
    }
    world.until(10.0);
    world
}

#[test]
fn a_wildcard_listener_is_one_service_and_the_target_is_what_was_hit() {
    let others = [Address::v4([192, 0, 2, 11]), Address::v4([192, 0, 2, 12])];
    for bound in ["0.0.0.0", "::"] {
        let mut world = flood_behind(bound, [VICTIM, others[0], others[1]]);
        let report = world.report();
        assert_eq!(report.services.len(), 1, "{:?}", report.services);
        assert_eq!(report.services[0].address.to_string(), bound);
        assert_eq!((report.services[0].syn.value, report.services[0].backlog), (10_000, 128));
        assert_eq!(world.detection().target.address, Some(IpAddr::from(VICTIM)));
    }
}

#[test]
fn a_flood_stays_one_incident_when_its_listener_is_named() {
    for bound in ["0.0.0.0", "::"] {
        let mut world = World::new();
        world.flood(0.0, 40.0, 1_000.0, Random::address);
        world.until(10.0).warned(0.0, 2.0);
        let before = world.detection();
        world.engine.handle_kernel(KernelSample { at: at(10.0), ..listening(listener(bound)) });
        world.until(60.0);
        let raised = world.said.iter().filter(|(_, action)| matches!(action, Action::Raised(_)));
        assert_eq!(raised.count(), 1, "{:?}", world.said);
        let after = world.detection();
        assert_eq!((after.id, after.cleared_at), (before.id, None));
        assert_eq!(after.target.address, Some(IpAddr::from(VICTIM)));
    }
}

#[test]
fn a_listener_for_ipv6_takes_no_ipv4_where_it_must_not() {
    let mut world = World::new();
    world.engine.handle_kernel(listening(Listener { dual_stack: false, ..listener("::") }));
    let source = world.random.address();
    world.request(1.0, source, VICTIM);
    let v6 = |last: u128| Address::from_bits(0x2001_0db8 << 96 | last);
    world.request(1.0, v6(99), v6(1));
    world.until(2.0);
    let report = world.report();
    let addresses: Vec<_> = report.services.iter().map(|s| s.address.to_string()).collect();
    assert_eq!(addresses.len(), 2);
    assert!(addresses.contains(&"::".to_owned()) && addresses.contains(&"192.0.2.10".to_owned()));
}

// One packet, seen more than once; one input, two runs

#[test]
fn what_two_interfaces_see_counts_once() {
    let run = |interfaces: &[u32]| {
        let mut world = World::new();
        world.interfaces = interfaces.to_vec();
        world.clients(0.0, 20.0, 50.0, 2).flood(10.0, 20.0, 300.0, Random::address).until(30.0);
        world.report()
    };
    let (one, two) = (run(&[2]), run(&[2, 3]));
    assert_eq!(two.capture.packets, 2 * one.capture.packets);
    assert_eq!(two.capture.tcp_segments, one.capture.tcp_segments);
    assert_eq!(two.capture.skipped["duplicate"], one.capture.packets);
    assert_eq!(two.totals, one.totals);
    assert_eq!(two.flows, one.flows);
    assert_eq!(two.detections.len(), 1);
}

#[test]
fn equal_inputs_give_equal_reports() {
    let run = || {
        let mut world = World::new();
        world.clients(0.0, 20.0, 50.0, 2).flood(5.0, 15.0, 1_000.0, Random::address).until(20.0);
        (world.report(), world.said)
    };
    let (first, second) = (run(), run());
    assert_eq!(first.0, second.0);
    assert_eq!(first.1, second.1);
    assert!(!first.1.is_empty());
}

// Properties

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any segments at any times: no panic, no count that falls, and nothing is left after silence.
    #[test]
    fn any_segments_at_any_times(
        steps in proptest::collection::vec(
            (
                prop_oneof![6 => 0_u64..2_000, 2 => 0..100_000_u64, 1 => any::<u64>()],
                any::<u8>(),
                (0_u32..4, 0_u32..4),
                (0_u16..6, 0_u16..6),
                0_u32..3,
            ),
            0..120,
        ),
    ) {
        let mut engine = Engine::new(Settings { flows: 8, services: 3, ..settings() }, START);
        let mut now = START;
        for (wait, flags, (seq, ack), (from, to), interface) in steps {
            now = now + Duration::from_millis(wait);
            let segment = Segment {
                source_port: 440 + from,
                destination_port: 440 + to,
                ..state_test_segment(Flags(flags), seq, ack)
            };
            let segment = if from % 2 == 0 { segment } else {
                Segment { source: segment.destination, destination: segment.source, ..segment }
            };
            // What a step counted at its end stays counted, though the segment may take it back.
            let said = outcomes(&engine.shards, &engine.shards.sums());
            engine.reach(now);
            let before = engine.snapshot(now);
            let counters = before.internals.handshakes;
            prop_assert_eq!(counters.max(said), counters);
            engine.handle_segment(now, &segment, interface);
            engine.tick(now);
            let after = engine.snapshot(now);
            let (totals, earlier) = (&after.document.totals, &before.document.totals);
            prop_assert!(totals.syn.value >= earlier.syn.value);
            let said = outcomes(&engine.shards, &engine.shards.sums());
            let counters = after.internals.handshakes;
            prop_assert_eq!(counters, before.internals.handshakes.max(said));
            let peak = totals.half_open_peak.value;
            prop_assert!(peak >= earlier.half_open_peak.value);
            prop_assert!(totals.half_open.value <= peak);
        }
        engine.tick(now + LONG_SILENCE);
        let report = engine.snapshot(now).document;
        if now < LATEST {
            prop_assert_eq!(report.flows, FlowCounts::default());
        }
    }
}
