//! The flow table together with what is counted of it.
//!
//! A flow is taken off its count when its deadline passes, and can still come back: the entry stays
//! in the table until its place is needed.

use std::ops::Range;
use std::time::Duration;

use crate::flow::calendar::{Bin, Bins};
use crate::flow::counters::{Count, Counters, HalfOpen, IDLE, StateName};
use crate::flow::key::{Endpoint, FlowHash, FlowKey, HashKey, Hasher};
use crate::flow::patience::Patience;
use crate::flow::sampling_hash::SamplingLevel;
use crate::flow::standing::Standing;
use crate::flow::state::{Connection, Marks, Outcome, Role, State};
use crate::flow::table::{Entry, Fate, Fill, ServiceId, Table};
use crate::wire::{Flags, Segment, SeqNumber};

/// What a segment meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// Nothing that is counted further.
    None,
    /// A copy of a segment seen on another interface before.
    Copy,
    /// A new attempt to connect: a SYN that repeats no other.
    Attempt,
    /// A repeat of an attempt's SYN.
    SynRepeated,
    /// An attempt is answered; it is half-open now. `late`: its SYN had to be repeated.
    Answered {
        /// Answered only after a retransmission time.
        late: bool,
    },
    /// An attempt is answered whose SYN was not seen.
    AnsweredMidway,
    /// The answer was sent again.
    AnswerRepeated,
    /// The answer to the only SYN was sent again although the client had acknowledged it.
    AnswerRepeatedAfterAck,
    /// An attempt completed.
    Completed,
    /// The server shows that an attempt completed whose ACK was not seen.
    PresumedByServer,
    /// The same attempt completed: its ACK came after all.
    CompletedLate,
    /// The client goes on as if answered; answers of this server are never seen.
    PresumedByClient,
    /// A connection completed whose SYN was not seen.
    CompletedMidway,
    /// A RST ended an attempt before it was answered.
    Refused(Role),
    /// A RST ended an attempt that was answered.
    Reset(Role),
    /// A RST that belongs to no flow.
    StrayReset,
    /// Nothing: its flow began when it was not looked at, and others stand for it.
    Unsampled,
}

/// An [`Event`] and the attempt that it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// What happened.
    pub event: Event,
    /// The service that the attempt is for.
    pub service: ServiceId,
    /// Where its attempt stood before.
    pub was: Standing,
    /// Where it stands now.
    pub is: Standing,
    /// Whether the attempt counts from now on as made now: the SYN that was answered is a later
    /// one.
    pub redated: bool,
    /// The flow.
    pub flow: FlowHash,
    /// Time since the attempt's SYN.
    pub age: Micros,
    /// Whether the segment came from the client.
    pub from_client: bool,
    /// How many flows this one stands for.
    pub level: SamplingLevel,
}

/// Where and when a segment came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Microseconds since the engine's start, modulo 2^32.
    pub micros: u32,
    /// Tells copies of one packet apart from repeats; 0 where there is only one interface.
    pub interface: u32,
    /// The level that the flow is looked at when it begins now.
    pub level: SamplingLevel,
    /// The highest level since any flow that is underway began: a flow that was not seen to begin
    /// is looked at at this one.
    pub settled: SamplingLevel,
}

/// A time in microseconds, at most 71 minutes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Micros(pub u32);

impl Micros {
    const fn of(duration: Duration) -> Self {
        Self(duration.as_micros() as u32)
    }
}

impl From<Micros> for Duration {
    fn from(micros: Micros) -> Self {
        Self::from_micros(micros.0.into())
    }
}

/// A request that is not answered lives until its first repeat is overdue.
const UNANSWERED: Bins = Bins::lasting(Duration::from_secs(3));
/// The longest that a client waits for an answer: Linux gives up 127 s after the first SYN
/// (`tcp_syn_retries` = 6).
const UNANSWERED_MAX: Bins = Bins::lasting(Duration::from_secs(130));
/// A teardown that does not go on: the last retransmission of a FIN comes about then.
const TEARDOWN: Bins = Bins::lasting(Duration::from_secs(120));
/// TIME_WAIT in Linux (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT: Bins = Bins::lasting(Duration::from_secs(60));
/// How long the fate of a reset connection is remembered: until the detector has asked for it.
const CLOSED: Bins = Bins::lasting(Duration::from_secs(4));
/// A half-open connection that was found underway: its next repeat may be far off, and it may as
/// well have been answered by a cookie, so it is counted for 3.5 s, and no longer, until that
/// repeat comes.
const MIDWAY: Patience = Patience::of(Bins::lasting(Duration::from_millis(3_125)));
/// A SYN repeated sooner than this after the first is the work of a tool or of a second capture
/// point, not of a TCP stack (RFC 6298: 1 s, less what timers may be early).
const SYN_RTO_MIN: Micros = Micros::of(Duration::from_millis(900));

/// The flow table together with what is counted of it.
pub struct Tracker {
    table: Table,
    hasher: Hasher,
    counters: Counters,
    evicted: u64,
}

impl Tracker {
    /// Parts of the table that [`Self::thin_out`] takes one by one.
    pub const PARTS: usize = Table::PARTS;

    /// A tracker of at most `capacity` flows towards at most `services` services.
    pub fn new(
        capacity: usize,
        services: u16,
        key: HashKey,
        prepare: impl FnOnce(&Range<*const u8>),
    ) -> Self {
        Self {
            table: Table::new(capacity, prepare),
            hasher: Hasher::new(key),
            counters: Counters::new(services),
            evicted: 0,
        }
    }

    /// The keyed hasher.
    pub const fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// The bin that time stands in.
    pub const fn bin(&self) -> Bin {
        self.counters.bin()
    }

    /// Half-open connections of all services.
    pub const fn half_open_total(&self) -> u64 {
        self.counters.half_open_total()
    }

    /// Half-open connections of a service.
    pub fn half_open(&self, service: ServiceId) -> HalfOpen {
        self.counters.half_open(service)
    }

    /// Attempts that nobody answered, since the start. May fall by those that are answered after
    /// all.
    pub const fn unanswered(&self) -> i64 {
        self.counters.unanswered()
    }

    /// Half-open connections that the server gave up. May fall by those that turn out to be kept.
    pub const fn timed_out(&self) -> i64 {
        self.counters.timed_out()
    }

    /// Live flows that had to leave for others, since the start.
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The most flows that can be held.
    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// Live flows in a state.
    pub const fn in_state(&self, name: StateName) -> u64 {
        self.counters.in_state(name)
    }

    /// What became of the attempt that began with the sequence number `isn`, and whether its SYN
    /// was repeated as a TCP stack does.
    pub fn fate(&self, flow: FlowHash, isn: SeqNumber) -> (Fate, bool) {
        self.table.fate(flow, isn)
    }

    /// Closes the present bin: what is due in it expires. Only the first `services` services are
    /// in use.
    pub fn close_bin(&mut self, services: usize) {
        self.counters.close_bin(services);
    }

    /// Takes flows out of the table that are not looked at any more, and has those that are stand
    /// for them: a sixteenth of the table with each call, `part` of it. `level` is that of the
    /// flows of a service.
    pub fn thin_out(&mut self, part: usize, level: impl Fn(ServiceId) -> SamplingLevel) {
        let bin = self.counters.bin();
        for place in self.table.part(part) {
            let Some(entry) = place.as_mut().filter(|entry| entry.deadline >= bin) else {
                continue;
            };
            let level = level(entry.service);
            if !level.includes(entry.tag) {
                self.counters.close(entry);
                *place = None;
            } else if entry.connection.level < level {
                let count = Count::of(&entry.connection, entry.service);
                let from = (count, entry.weight());
                entry.connection.level = level;
                let to = (count, entry.weight());
                entry.deadline = self.counters.shift(from, entry.deadline, to, entry.left(bin));
            }
        }
    }

    /// Flows in the table; where some stand for others, by a sample of it.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an estimate, never negative"
    )]
    pub fn entries(&self, sampled: bool) -> u64 {
        if sampled {
            let share = self.table.live_share(self.counters.bin());
            (share * self.capacity() as f64).round() as u64
        } else {
            self.counters.live()
        }
    }

    /// What fills the table: nothing as long as that is little, else by a sample that changes with
    /// time.
    pub fn fill(&self) -> Fill {
        if self.counters.live() < self.capacity() as u64 / 4 {
            return Fill::default();
        }
        self.table.fill(self.counters.bin())
    }

    /// Has the processor begin to fetch what is known of a flow: to be called some segments ahead
    /// of [`Self::handle`] or [`Self::fate`].
    #[inline]
    pub fn prefetch(&self, flow: FlowHash) {
        self.table.prefetch(flow);
    }

    /// Takes in a segment that only carries on an open connection, by far the most of them: the
    /// service that it is for, and who sent it. Any other is left to [`Self::handle`], and changes
    /// nothing here.
    #[inline]
    pub fn carry_on(
        &mut self,
        segment: &Segment,
        flow: &FlowKey,
        arrival: &Arrival,
    ) -> Option<(ServiceId, Role)> {
        if !Connection::may_carry_on(segment) {
            return None;
        }
        let entry = self.table.find(flow.hash)?;
        let live = entry.deadline >= self.counters.bin();
        let sender = entry.sender(flow);
        let level = entry.connection.level;
        let carries_on = live
            && home_of(arrival.interface) == entry.homes[usize::from(flow.sender_first)]
            && arrival.level <= level
            && level <= arrival.settled
            && entry.connection.carry_on(sender, segment);
        carries_on.then(|| {
            entry.deadline = self.counters.keep_open(entry.deadline, level.weight());
            (entry.service, sender)
        })
    }

    /// Takes in a segment of `flow`; `lookup` knows the services.
    pub fn handle(
        &mut self,
        segment: &Segment,
        flow: &FlowKey,
        arrival: Arrival,
        lookup: &mut impl Lookup,
    ) -> Seen {
        let Some(entry) = self.table.find(flow.hash) else {
            return self.begin(segment, flow, arrival, None, lookup);
        };
        let bin = self.counters.bin();
        let expired = entry.deadline < bin;
        let sender = entry.sender(flow);
        let from_client = sender == Role::Client;
        let age = Micros(arrival.micros.wrapping_sub(entry.began));
        let level = level_now(entry.connection.level, &arrival);
        let here = home_of(arrival.interface);
        let foreign = is_foreign(here, entry.homes[usize::from(flow.sender_first)]);
        let before = *entry;
        if expired
            && before.connection.is_past_handshake()
            && !before.connection.is_asked_again(sender, segment)
        {
            self.table.remove(flow.hash);
            return self.begin(segment, flow, arrival, None, lookup);
        }
        let one_way = lookup.is_one_way(before.service);
        let mut outcome = entry.connection.receive(sender, segment, one_way);
        // A request that the server has forgotten does not stand in the way of a new one.
        if expired && outcome == Outcome::SynPutOff {
            outcome = Outcome::Superseded;
        }
        if outcome == Outcome::Superseded {
            self.table.remove(flow.hash);
            self.counters.give_up(&before);
            return self.supersede(&before, segment, flow, arrival, lookup);
        }

        if let Outcome::HandshakeReset(_) = outcome {
            entry.connection.note_reset(age.into());
        }
        let was = &before.connection;
        let event = match outcome {
            Outcome::Ignored | Outcome::Progress | Outcome::Superseded => Event::None,
            Outcome::SynPutOff => Event::Attempt,
            Outcome::SynRepeated if was.is_past_handshake() => Event::SynRepeated,
            Outcome::SynRepeated => {
                entry.connection.marks.set(Marks::ANSWER_DUE, true);
                if age >= SYN_RTO_MIN {
                    entry.connection.marks.set(Marks::SYN_RTO, true);
                }
                Event::SynRepeated
            }
            Outcome::Answered => {
                // Durations count from the SYN that was answered, as near as can be told.
                let late = age >= SYN_RTO_MIN;
                if late {
                    entry.began = arrival.micros;
                }
                entry.connection.marks.set_patience(lookup.patience(before.service));
                Event::Answered { late }
            }
            Outcome::AnswerReplaced => {
                entry.began = arrival.micros;
                entry.connection.answers_repeated = 0;
                entry.connection.marks.set_patience(lookup.patience(before.service));
                Event::AnswerRepeated
            }
            // The answer to each repeat of a SYN may come after the ACK of the first answer.
            Outcome::AnswerRepeated
                if was.is_past_handshake() && !was.marks.has(Marks::SYN_REPEATED) =>
            {
                Event::AnswerRepeatedAfterAck
            }
            Outcome::AnswerRepeated => Event::AnswerRepeated,
            Outcome::Completed if was.is_past_handshake() => Event::CompletedLate,
            Outcome::Completed => Event::Completed,
            Outcome::Presumed if was.marks.has(Marks::MIDWAY) => Event::CompletedMidway,
            Outcome::Presumed if was.state == State::SynSent => Event::PresumedByClient,
            Outcome::Presumed => Event::PresumedByServer,
            Outcome::HandshakeReset(role) if was.state == State::SynSent => Event::Refused(role),
            Outcome::HandshakeReset(role) => Event::Reset(role),
        };
        let repeat = match outcome {
            Outcome::AnswerRepeated if was.state == State::SynReceived => {
                note_repeat(entry, age, arrival.micros, bin, lookup)
            }
            _ => false,
        };

        // On another interface than the flow's own and without any effect: a copy.
        entry.homes[usize::from(flow.sender_first)] = here;
        if foreign && !repeat && entry.connection.state == was.state {
            let copy = match outcome {
                Outcome::SynRepeated => age < SYN_RTO_MIN,
                Outcome::Answered
                | Outcome::Completed
                | Outcome::Presumed
                | Outcome::HandshakeReset(_)
                | Outcome::AnswerReplaced => false,
                Outcome::Ignored
                | Outcome::Progress
                | Outcome::SynPutOff
                | Outcome::AnswerRepeated
                | Outcome::Superseded => true,
            };
            if copy {
                *entry = before;
                return Seen::nothing(Event::Copy, flow.hash, before.service, from_client);
            }
        }

        let renewed = match (outcome, entry.connection.state) {
            (Outcome::Ignored | Outcome::SynPutOff, _) => None,
            (Outcome::Answered | Outcome::AnswerReplaced, _) => {
                Some(after_answer(&entry.connection))
            }
            (Outcome::AnswerRepeated, State::SynReceived) => {
                repeat.then(|| after_answer(&entry.connection))
            }
            (_, State::SynReceived) => None,
            (_, state) => Some(lifetime(state, age)),
        };
        let renewed =
            renewed.or_else(|| (level != was.level && !expired).then(|| before.left(bin)));
        if let Some(lifetime) = renewed {
            let count = Count::of(was, before.service);
            if expired {
                self.counters.revive(count, level.weight());
            }
            entry.connection.level = level;
            let to = (Count::of(&entry.connection, entry.service), entry.weight());
            let from = (count, before.weight());
            entry.deadline = self.counters.shift(from, before.deadline, to, lifetime);
        }
        let (was, is) = match outcome {
            Outcome::SynPutOff => {
                self.counters.put_off(level.weight());
                (Standing::None, Standing::None)
            }
            Outcome::HandshakeReset(by) => {
                let was = Standing::of(was);
                (was, was.after_reset(by))
            }
            Outcome::Ignored | Outcome::AnswerRepeated | Outcome::Superseded => {
                (Standing::None, Standing::None)
            }
            Outcome::Progress if was.state != State::SynSent => (Standing::None, Standing::None),
            Outcome::Answered if was.state == State::SynSent => {
                (Standing::Asked, Standing::HalfOpen)
            }
            _ => (Standing::of(was), Standing::of(&entry.connection)),
        };
        Seen {
            event,
            service: before.service,
            was,
            is,
            redated: entry.began != before.began,
            flow: flow.hash,
            age,
            from_client,
            level,
        }
    }

    /// A flow that is not in the table, or whose time is over. `asked`: the patience of who
    /// answers, where the SYN was seen.
    fn begin(
        &mut self,
        segment: &Segment,
        flow: &FlowKey,
        arrival: Arrival,
        asked: Option<Patience>,
        lookup: &mut impl Lookup,
    ) -> Seen {
        let flags = segment.flags;
        let level = if flags.is_syn() { arrival.level } else { arrival.settled };
        if !level.includes(flow.hash.sampling_hash()) {
            return Seen::nothing(Event::Unsampled, flow.hash, ServiceId::OTHER, true);
        }
        let [from, to] = flow.ends_of(segment);
        let (mut connection, sender, event, lifetime) = if flags.is_syn() {
            (Connection::open(segment), Role::Client, Event::Attempt, UNANSWERED)
        } else if flags.is_syn_ack() {
            let mut connection = Connection::answered(segment);
            let event = if asked.is_some() {
                connection.marks = Marks::ATTEMPT;
                Event::Answered { late: false }
            } else {
                Event::AnsweredMidway
            };
            connection.marks.set_patience(asked.unwrap_or(MIDWAY));
            let lifetime = after_answer(&connection);
            (connection, Role::Server, event, lifetime)
        } else if flags.intersects(Flags::ACK) && !flags.intersects(Flags::SYN | Flags::RST) {
            // An open connection; which end is the server is a guess unless the service is known.
            let to_server = lookup.is_known(to) || (!lookup.is_known(from) && to.port <= from.port);
            let sender = if to_server { Role::Client } else { Role::Server };
            let connection = Connection::midstream(sender, segment);
            let lifetime = lifetime(connection.state, Micros(0));
            (connection, sender, Event::None, lifetime)
        } else {
            let reset = flags.intersects(Flags::RST);
            let event = if reset { Event::StrayReset } else { Event::None };
            return Seen { level, ..Seen::nothing(event, flow.hash, ServiceId::OTHER, true) };
        };
        let from_client = sender == Role::Client;
        connection.marks.set(Marks::CLIENT_FIRST, flow.sender_first == from_client);
        connection.level = level;
        let gentle = event == Event::None;
        let service = if gentle {
            ServiceId::OTHER
        } else {
            lookup.service(if from_client { to } else { from })
        };
        if event == Event::AnsweredMidway && lookup.sees_answers_only(service) {
            connection.marks.set(Marks::ATTEMPT, true);
        }
        let bin = self.counters.bin();
        let Some(place) = self.table.place(flow.hash, bin, gentle) else {
            return Seen { level, ..Seen::nothing(event, flow.hash, service, from_client) };
        };
        if let Some(evicted) = place.filter(|entry| entry.deadline >= bin) {
            self.evicted += 1;
            self.counters.give_up(&evicted);
        }
        let mut homes = [0; 2];
        homes[usize::from(flow.sender_first)] = home_of(arrival.interface);
        let count = Count::of(&connection, service);
        let deadline = self.counters.enter(count, connection.level.weight(), lifetime);
        let tag = flow.hash.sampling_hash();
        let began = arrival.micros;
        *place = Some(Entry { tag, began, deadline, connection, service, homes });
        let asked = event == Event::Attempt;
        let is = if asked { Standing::Asked } else { Standing::of(&connection) };
        Seen { is, level, ..Seen::nothing(event, flow.hash, service, from_client) }
    }

    /// A new connection on the ports of one that has left the table.
    fn supersede(
        &mut self,
        before: &Entry,
        segment: &Segment,
        flow: &FlowKey,
        arrival: Arrival,
        lookup: &mut impl Lookup,
    ) -> Seen {
        let Entry { connection: before, service, .. } = before;
        let asked = before.has_put_off(segment).then(|| lookup.patience(*service));
        let seen = self.begin(segment, flow, arrival, asked, lookup);
        if asked.is_some() {
            self.counters.take_up(seen.level.weight());
        }
        // The server may still answer the earlier SYN.
        if seen.event == Event::Attempt
            && before.state == State::SynSent
            && let Some(entry) = self.table.find(flow.hash)
        {
            entry.connection.server_next = before.client_next;
        }
        seen
    }
}

/// What the tracker asks about services, and tells of them.
pub trait Lookup {
    /// The service at one end of a flow, a new one if need be.
    fn service(&mut self, at: Endpoint) -> ServiceId;
    /// Whether there is a service at one end of a flow.
    fn is_known(&self, at: Endpoint) -> bool;
    /// Whether nothing but the answers of a service is seen.
    fn sees_answers_only(&self, service: ServiceId) -> bool;
    /// Whether the answers of a service are never seen.
    fn is_one_way(&self, service: ServiceId) -> bool;
    /// How long a service waits before it repeats an answer.
    fn patience(&self, service: ServiceId) -> Patience;
    /// A service has repeated an answer for the first time after so long.
    fn first_repeat(&mut self, service: ServiceId, after: Bins);
}

impl Seen {
    const fn nothing(event: Event, flow: FlowHash, service: ServiceId, from_client: bool) -> Self {
        Self {
            event,
            service,
            was: Standing::None,
            is: Standing::None,
            redated: false,
            flow,
            age: Micros(0),
            from_client,
            level: SamplingLevel::ALL,
        }
    }
}

/// How long a flow is counted after a segment that left it in `state`, `age` after it began.
fn lifetime(state: State, age: Micros) -> Bins {
    match state {
        State::SynSent | State::SimultaneousOpen | State::SimultaneousOpenAcked(_) => {
            let twice_its_age = Bins::lasting(Duration::from(age) * 2);
            Bins(twice_its_age.0 + UNANSWERED.0).min(UNANSWERED_MAX)
        }
        State::SynReceived => Patience::LINUX.after(0),
        State::Established | State::FinWait2(_) => IDLE,
        State::FinWait1(_) | State::LastAck(_) | State::Closing | State::ClosingAcked(_) => {
            TEARDOWN
        }
        State::TimeWait(_) => TIME_WAIT,
        State::Refused | State::Closed => CLOSED,
    }
}

/// How long a half-open connection is counted after its last answer.
const fn after_answer(connection: &Connection) -> Bins {
    connection.marks.patience().after(connection.answers_repeated)
}

/// Takes note of a repeated answer; `false` where it says nothing about the server's queue.
fn note_repeat(
    entry: &mut Entry,
    age: Micros,
    micros: u32,
    bin: Bin,
    lookup: &mut impl Lookup,
) -> bool {
    let connection = &mut entry.connection;
    // The deadline still is that of the patience then.
    let expected = connection.marks.patience();
    let waited = Bins(bin.after(after_answer(connection)).0.saturating_sub(entry.deadline.0));
    let mut patience = lookup.patience(entry.service);
    if connection.marks.has(Marks::ANSWER_DUE) {
        // It answers a repeated SYN. Kept requests and cookies are answered alike, so this confirms
        // nothing; where the request is kept, its timer starts again (`tcp_check_req`).
        connection.marks.set(Marks::ANSWER_DUE, false);
        connection.marks.set_patience(patience);
        return true;
    }
    let before = connection.answers_repeated;
    let is_attempt = connection.marks.has(Marks::ATTEMPT);
    let is_asked_again = connection.marks.has(Marks::SYN_REPEATED);
    if is_attempt && !is_asked_again && before == 0 {
        lookup.first_repeat(entry.service, waited);
        patience = patience.unless_early(waited);
    }
    let ratio = patience.ratio(age.into());
    let repeats = if !is_attempt {
        // Each repeat comes after twice the time of the one before.
        entry.began = micros;
        ratio.max(0.1).log2().round() + 1.0
    } else if is_asked_again {
        // The repeated SYN started the timer again, so only the time since the last answer counts.
        if expected.is_copy(waited) { 0.0 } else { f64::from(before) + 1.0 }
    } else {
        // The n-th repeat comes 2^n - 1 times the patience after the first answer; counting by time
        // forgives repeats that the capture lost, and copies. By another patience it was another.
        let by_time = (ratio + 1.0).log2().round();
        if by_time > f64::from(before) || patience != expected { by_time } else { 0.0 }
    };
    if repeats < 1.0 {
        return false;
    }
    connection.marks.set(Marks::CONFIRMED, true);
    connection.marks.set_patience(patience);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 16")]
    let repeats = repeats.min(16.0) as u8;
    connection.answers_repeated = repeats;
    true
}

/// The level of a flow from its next segment on. Flows may have left the sample since it began: it
/// stands for them too. Once all have ended that began out of the sample, it stands for them no
/// more.
fn level_now(level: SamplingLevel, arrival: &Arrival) -> SamplingLevel {
    level.max(arrival.level).min(arrival.settled)
}

/// Whether a segment came from another interface than those of its flow and direction before.
const fn is_foreign(here: u8, home: u8) -> bool {
    home != here && home != 0 && here != 0
}

/// An interface's mark in an entry; 0 is none.
const fn home_of(interface: u32) -> u8 {
    if interface == 0 { 0 } else { (interface % 255) as u8 + 1 }
}

#[cfg(test)]
mod tests;
