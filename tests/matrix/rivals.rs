//! Simple detectors on the same frames, to compare with: what each of them would have said.

use std::collections::HashMap;

use synwatch_core::wire::{Address, Flags, Segment, SeqNumber};

use crate::scenario::{Expect, Only, Rank};
use crate::server::SECOND;
use crate::world::Played;

/// What a detector is called in the table, and how it begins.
type Entry = (&'static str, fn() -> Box<dyn Rival>);

const RIVALS: [Entry; 5] = [
    ("SYN_RECV above 200", || Box::new(SynRecv)),
    ("SYN-FIN CUSUM", || Box::new(SynFin::default())),
    ("SYN-dog", || Box::new(SynDog::default())),
    ("1,000 SYN/s to an address", || Box::new(SynRate::default())),
    ("20,000 packets/s", || Box::new(PacketRate::default())),
];
/// The seconds in which each alarmed, since the start.
pub type Alarms = [Vec<u64>; RIVALS.len()];
/// How long the slowest of them takes to look again, in seconds.
pub const PERIOD: u64 = 20;

/// A simple detector.
trait Rival {
    /// A segment passes the monitor.
    fn take(&mut self, segment: &Segment, direction: Only);

    /// A second is over, in which the kernel came to so many requests in SYN_RECV. Whether it
    /// alarms.
    fn end_second(&mut self, syn_recv: u32) -> bool;
}

/// All of them.
pub struct Rivals {
    all: Vec<Box<dyn Rival>>,
    alarms: Alarms,
    seconds: u64,
}

impl Rivals {
    pub fn new() -> Self {
        let all = RIVALS.iter().map(|(_, begin)| begin()).collect();
        Self { all, alarms: Default::default(), seconds: 0 }
    }

    pub fn take(&mut self, segment: &Segment, direction: Only) {
        for rival in &mut self.all {
            rival.take(segment, direction);
        }
    }

    pub fn end_second(&mut self, syn_recv: u32) {
        self.seconds += 1;
        for (rival, alarms) in self.all.iter_mut().zip(&mut self.alarms) {
            if rival.end_second(syn_recv) {
                alarms.push(self.seconds);
            }
        }
    }

    pub fn alarms(self) -> Alarms {
        self.alarms
    }
}

/// What they are called.
pub fn names() -> [&'static str; RIVALS.len()] {
    RIVALS.map(|(name, _)| name)
}

/// What is right for a detector that can only alarm, or not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    Alarm,
    Silence,
    Either,
}

impl Wanted {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Silence => "silence",
            Self::Either => "either",
        }
    }
}

/// It is to alarm of what is an attack, and worth a page.
pub fn wanted(expect: &Expect) -> Wanted {
    const ATTACKS: [&str; 4] = ["syn_flood", "port_scan", "syn_ack_reflection", "backscatter"];
    let attack = expect.class.as_deref().is_some_and(|class| ATTACKS.contains(&class));
    match (attack && expect.at_most > Rank::Info, expect.optional) {
        (true, false) => Wanted::Alarm,
        (true, true) => Wanted::Either,
        (false, _) => Wanted::Silence,
    }
}

/// Which of them are right: they have all the time that there is, but in the warm-up silence is
/// right.
pub fn judge(expect: &Expect, played: &Played) -> [bool; RIVALS.len()] {
    let [begin, event] = [played.origin, played.first_packet].map(|nanos| nanos / SECOND);
    let wanted = wanted(expect);
    played.alarms.each_ref().map(|alarms| {
        let early = alarms.iter().any(|at| *at <= begin);
        let alarmed = alarms.iter().any(|at| *at > event);
        !early && (wanted == Wanted::Either || alarmed == (wanted == Wanted::Alarm))
    })
}

/// `netstat -nap | grep -c SYN_RECV` against a limit, each second.
struct SynRecv;

impl Rival for SynRecv {
    fn take(&mut self, _: &Segment, _: Only) {}

    fn end_second(&mut self, syn_recv: u32) -> bool {
        const LIMIT: u32 = 200;
        syn_recv > LIMIT
    }
}

/// The change detection of both papers: by how much more begins than ends in a period, in units of
/// what usually ends; what is above `allowance` adds up, until it is above `limit`.
struct Cusum {
    allowance: f64,
    limit: f64,
    usual: Option<f64>,
    sum: f64,
    seconds: u64,
    begun: f64,
    ended: f64,
}

impl Cusum {
    /// The limit is that of three periods at twice the allowance. Limit, allowance and period have
    /// not been checked against the papers.
    fn new(allowance: f64) -> Self {
        let limit = 3.0 * allowance;
        Self { allowance, limit, usual: None, sum: 0.0, seconds: 0, begun: 0.0, ended: 0.0 }
    }

    fn end_second(&mut self) -> bool {
        /// The weight of the past: our choice.
        const MEMORY: f64 = 0.9;
        self.seconds += 1;
        if self.seconds.is_multiple_of(PERIOD) {
            let (begun, ended) = (self.begun, self.ended);
            let usual = self.usual.unwrap_or(ended);
            self.sum = (self.sum + (begun - ended) / usual.max(1.0) - self.allowance).max(0.0);
            self.usual = Some(MEMORY * usual + (1.0 - MEMORY) * ended);
            (self.begun, self.ended) = (0.0, 0.0);
        }
        self.sum > self.limit
    }
}

/// H. Wang, D. Zhang, K. G. Shin: "Detecting SYN Flooding Attacks", IEEE INFOCOM 2002: SYNs
/// against FINs and active RSTs of the same direction; here a = 0.35, N = 1.05.
struct SynFin(Cusum);

impl Default for SynFin {
    fn default() -> Self {
        Self(Cusum::new(0.35))
    }
}

impl Rival for SynFin {
    fn take(&mut self, segment: &Segment, direction: Only) {
        let Segment { flags, seq, .. } = *segment;
        if direction == Only::Egress {
            return;
        }
        // The answer to a SYN for a closed port has no sequence number, and ends nothing.
        let ends =
            flags.intersects(Flags::FIN) || (flags.intersects(Flags::RST) && seq != SeqNumber(0));
        self.0.begun += f64::from(u8::from(flags.is_syn()));
        self.0.ended += f64::from(u8::from(ends));
    }

    fn end_second(&mut self, _: u32) -> bool {
        self.0.end_second()
    }
}

/// H. Wang, D. Zhang, K. G. Shin: "SYN-dog: Sniffing SYN Flooding Sources", IEEE ICDCS 2002: SYNs
/// against the SYN-ACKs of the other direction; here a = 0.2, N = 0.6.
struct SynDog(Cusum);

impl Default for SynDog {
    fn default() -> Self {
        Self(Cusum::new(0.2))
    }
}

impl Rival for SynDog {
    fn take(&mut self, segment: &Segment, direction: Only) {
        let flags = segment.flags;
        self.0.begun += f64::from(u8::from(flags.is_syn() && direction == Only::Ingress));
        self.0.ended += f64::from(u8::from(flags.is_syn_ack() && direction == Only::Egress));
    }

    fn end_second(&mut self, _: u32) -> bool {
        self.0.end_second()
    }
}

/// What people write for Suricata: `flags:S; threshold: type both, track by_dst, count 1000,
/// seconds 1`.
#[derive(Default)]
struct SynRate(HashMap<Address, u32>);

impl Rival for SynRate {
    fn take(&mut self, segment: &Segment, _: Only) {
        if segment.flags.is_syn() {
            *self.0.entry(segment.destination).or_default() += 1;
        }
    }

    fn end_second(&mut self, _: u32) -> bool {
        const LIMIT: u32 = 1_000;
        self.0.drain().any(|(_, syns)| syns >= LIMIT)
    }
}

/// FastNetMon as it is delivered: `threshold_pps = 20000` for what a host receives or sends,
/// averaged over `average_calculation_time = 5` seconds.
#[derive(Default)]
struct PacketRate(HashMap<(Address, bool), Average>);

#[derive(Default)]
struct Average {
    now: u32,
    rate: f64,
}

impl Rival for PacketRate {
    fn take(&mut self, segment: &Segment, direction: Only) {
        let receives = direction == Only::Ingress;
        let host = if receives { segment.destination } else { segment.source };
        self.0.entry((host, receives)).or_default().now += 1;
    }

    fn end_second(&mut self, _: u32) -> bool {
        const LIMIT: f64 = 20_000.0;
        const TIME: f64 = 5.0;
        let kept = (-1.0 / TIME).exp();
        for average in self.0.values_mut() {
            let now = f64::from(std::mem::take(&mut average.now));
            average.rate = now + kept * (average.rate - now);
        }
        // A host that is heard of no more is forgotten.
        self.0.retain(|_, average| average.rate > 0.1);
        self.0.values().any(|average| average.rate > LIMIT)
    }
}
