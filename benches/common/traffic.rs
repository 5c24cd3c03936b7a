//! Traffic in packet time, the same in every run: a flood that is answered, and what a busy site
//! sees on an ordinary day.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};

use super::frames::{self, ACK, CLIENT_OPTIONS, FIN, MSS, PSH, RST, SYN, Segment};
use crate::support::flood::Random;

/// Nanoseconds since the traffic's begin.
pub type Time = u64;

const MICROSECOND: Time = 1_000;
const MILLISECOND: Time = 1_000_000;
const SECOND: Time = 1_000_000_000;

/// A flood with forged sources, every SYN answered.
pub struct Flood {
    random: Random,
    target: SocketAddrV4,
    /// Time between two segments.
    period: Time,
    index: u64,
    /// SYNs without an answer yet.
    open: VecDeque<Segment>,
}

impl Flood {
    /// An answer comes after so many SYNs.
    const DELAY: usize = 4;

    /// A flood of `rate` SYNs per second.
    pub fn new(rate: u32) -> Self {
        Self {
            random: Random(u64::from(rate) | 1),
            target: server(0),
            period: SECOND / u64::from(rate) / 2,
            index: 0,
            open: VecDeque::new(),
        }
    }
}

impl Iterator for Flood {
    type Item = (Time, Segment);

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.index * self.period;
        self.index += 1;
        if self.index.is_multiple_of(2)
            && self.open.len() >= Self::DELAY
            && let Some(syn) = self.open.pop_front()
        {
            return Some((at, syn.answer(self.random.next() as u32)));
        }
        let syn = Segment::forged(self.target, &mut self.random);
        self.open.push_back(syn);
        Some((at, syn))
    }
}

/// Who sends a segment of a connection.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Sender {
    Client,
    Server,
}

/// How long a segment comes after the one before it.
#[derive(Clone, Copy)]
enum After {
    /// As fast as a host can.
    Soon,
    /// A round trip.
    Trip,
    /// One to 32 round trips: somebody or something thinks.
    Thought,
    /// So many seconds.
    Seconds(u64),
}

/// A segment of a connection: after what, from whom, which flags, how much payload.
type Step = (After, Sender, u8, u16);

use After::{Seconds, Soon, Thought, Trip};
use Sender::{Client, Server};

/// One request, one answer of a few segments.
const PAGE: &[Step] = &[
    (Soon, Client, SYN, 0),
    (Soon, Server, SYN | ACK, 0),
    (Trip, Client, ACK, 0),
    (Soon, Client, PSH | ACK, 412),
    (Soon, Server, ACK, 0),
    (Soon, Server, ACK, 1_448),
    (Soon, Server, ACK, 1_448),
    (Soon, Server, PSH | ACK, 731),
    (Trip, Client, ACK, 0),
    (Soon, Client, ACK, 0),
    (Soon, Client, FIN | ACK, 0),
    (Soon, Server, FIN | ACK, 0),
    (Trip, Client, ACK, 0),
];
/// Several exchanges over a connection that is kept, which the server ends.
const SESSION: &[Step] = &[
    (Soon, Client, SYN, 0),
    (Soon, Server, SYN | ACK, 0),
    (Trip, Client, ACK, 0),
    (Soon, Client, PSH | ACK, 517),
    (Soon, Server, PSH | ACK, 1_448),
    (Trip, Client, PSH | ACK, 126),
    (Soon, Server, ACK, 0),
    (Thought, Client, PSH | ACK, 300),
    (Soon, Server, PSH | ACK, 900),
    (Trip, Client, ACK, 0),
    (Seconds(5), Client, PSH | ACK, 300),
    (Soon, Server, PSH | ACK, 900),
    (Trip, Client, ACK, 0),
    (Seconds(5), Server, FIN | ACK, 0),
    (Trip, Client, ACK, 0),
    (Soon, Client, FIN | ACK, 0),
    (Soon, Server, ACK, 0),
];
/// A client that hangs up.
const HANG_UP: &[Step] = &[
    (Soon, Client, SYN, 0),
    (Soon, Server, SYN | ACK, 0),
    (Trip, Client, ACK, 0),
    (Soon, Client, PSH | ACK, 412),
    (Soon, Server, PSH | ACK, 1_448),
    (Trip, Client, RST | ACK, 0),
];
/// A port that nobody listens on.
const REFUSAL: &[Step] = &[(Soon, Client, SYN, 0), (Soon, Server, RST | ACK, 0)];
/// A client on a path that does not work.
const DEAF: &[Step] = &[
    (Soon, Client, SYN, 0),
    (Soon, Server, SYN | ACK, 0),
    (Seconds(1), Client, SYN, 0),
    (Soon, Server, SYN | ACK, 0),
    (Seconds(2), Client, SYN, 0),
    (Soon, Server, SYN | ACK, 0),
];

/// Connections of all kinds: 75 % pages, 20 % sessions, 3 % hang up, 1 % each refused and deaf.
pub struct Mixed {
    random: Random,
    /// Time between two connections.
    period: Time,
    begun: u64,
    connections: u64,
    /// When the next segment of each connection is due.
    due: BinaryHeap<Reverse<(Time, u64)>>,
    open: Vec<Connection>,
    free: Vec<u64>,
}

/// A connection under way.
#[derive(Clone, Copy)]
struct Connection {
    steps: &'static [Step],
    step: usize,
    trip: Time,
    /// Client and server.
    ends: [SocketAddrV4; 2],
    /// The sequence number of each one's SYN, and the octets that it has sent since.
    initial: [u32; 2],
    sent: [u32; 2],
}

impl Mixed {
    /// `connections` connections, `rate` new ones per second.
    pub fn new(connections: u64, rate: u32) -> Self {
        Self {
            random: Random(connections | 1),
            period: SECOND / u64::from(rate),
            begun: 0,
            connections,
            due: BinaryHeap::new(),
            open: Vec::new(),
            free: Vec::new(),
        }
    }

    fn begin(&mut self) -> Connection {
        let number = self.random.next();
        let steps = match number % 100 {
            0..75 => PAGE,
            75..95 => SESSION,
            95..98 => HANG_UP,
            98 => REFUSAL,
            _ => DEAF,
        };
        let port = 32_768 + (number >> 8) as u16 % 28_000;
        let numbers = self.random.next();
        Connection {
            steps,
            step: 0,
            trip: (10 + (number >> 24) % 140) * MILLISECOND,
            ends: [
                SocketAddrV4::new(frames::client(&mut self.random), port),
                server((number >> 40) as u8 % 64),
            ],
            initial: [numbers as u32, (numbers >> 32) as u32],
            sent: [0, 0],
        }
    }
}

impl Iterator for Mixed {
    type Item = (Time, Segment);

    fn next(&mut self) -> Option<Self::Item> {
        let begins = self.begun * self.period;
        let next = self.due.peek().map(|Reverse((at, _))| *at);
        let (at, place) = if self.begun < self.connections && next.is_none_or(|at| begins <= at) {
            self.begun += 1;
            let connection = self.begin();
            let place = self.free.pop().unwrap_or_else(|| {
                self.open.push(connection);
                self.open.len() as u64 - 1
            });
            self.open[place as usize] = connection;
            (begins, place)
        } else {
            let Reverse(next) = self.due.pop()?;
            next
        };
        let connection = &mut self.open[place as usize];
        let segment = connection.step();
        match connection.steps.get(connection.step) {
            Some((after, ..)) => {
                let delay = match after {
                    Soon => 50 * MICROSECOND,
                    Trip => connection.trip,
                    Thought => connection.trip * (1 + self.random.next() % 32),
                    Seconds(seconds) => seconds * SECOND,
                };
                self.due.push(Reverse((at + delay, place)));
            }
            None => self.free.push(place),
        }
        Some((at, segment))
    }
}

impl Connection {
    fn step(&mut self) -> Segment {
        let (_, from, flags, payload) = self.steps[self.step];
        self.step += 1;
        let (sender, receiver) = if from == Client { (0, 1) } else { (1, 0) };
        // A SYN comes before the first octet.
        let next = |end: usize| self.initial[end].wrapping_add(1 + self.sent[end]);
        let segment = Segment {
            source: self.ends[sender],
            destination: self.ends[receiver],
            sequence: if flags & SYN == 0 { next(sender) } else { self.initial[sender] },
            acknowledgement: if flags & ACK == 0 { 0 } else { next(receiver) },
            flags,
            options: match (flags & SYN, from) {
                (0, _) => &[],
                (_, Client) => CLIENT_OPTIONS,
                (_, Server) => MSS,
            },
            payload,
        };
        self.sent[sender] += u32::from(payload) + u32::from(flags & FIN != 0);
        segment
    }
}

/// One of 64 services on 16 hosts.
fn server(index: u8) -> SocketAddrV4 {
    const PORTS: [u16; 4] = [80, 443, 993, 8_443];
    SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 10 + index / 4), PORTS[usize::from(index % 4)])
}
