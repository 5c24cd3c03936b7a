//! Connections told as traffic and time, and the counters that must balance whatever comes.

mod full;
mod patience;
mod properties;

use std::collections::HashSet;

use super::*;
use crate::flow::calendar::BIN;
use crate::flow::counters::flow_counts;
use crate::flow::patience::{FirstRepeats, Learner};
use crate::flow::state::tests::segment;
use crate::model::FlowCounts;
use crate::time::Timestamp;

const SYN: Flags = Flags::SYN;
const ACK: Flags = Flags::ACK;
const RST: Flags = Flags::RST;
const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);
const FIN_ACK: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);
const RST_ACK: Flags = Flags(Flags::RST.0 | Flags::ACK.0);

const HTTPS: ServiceId = ServiceId(1);
const HTTP: ServiceId = ServiceId(2);

/// Two services by port; everything else is for others.
#[derive(Clone, Copy, Default)]
struct Ports {
    one_way: bool,
    answers_only: bool,
    patience: Patience,
    learner: Learner,
}

impl Lookup for Ports {
    fn service(&mut self, at: Endpoint) -> ServiceId {
        match at.port {
            443 => HTTPS,
            80 => HTTP,
            _ => ServiceId::OTHER,
        }
    }

    fn is_known(&self, at: Endpoint) -> bool {
        matches!(at.port, 80 | 443)
    }

    fn is_one_way(&self, _: ServiceId) -> bool {
        self.one_way
    }

    fn sees_answers_only(&self, _: ServiceId) -> bool {
        self.answers_only
    }

    fn patience(&self, _: ServiceId) -> Patience {
        self.patience
    }

    fn first_repeat(&mut self, _: ServiceId, after: Bins) {
        let mut seen = FirstRepeats::default();
        seen.note(after);
        self.learner.take_in(&seen);
    }
}

/// `client(SYN, 100, 0)`: the client, 198.51.100.7:40000, sends a SYN to 192.0.2.10:443.
fn client(flags: Flags, seq: u32, ack: u32) -> Segment {
    segment(flags, seq, ack)
}

/// `server(SYN_ACK, 300, 101)`: the other way.
fn server(flags: Flags, seq: u32, ack: u32) -> Segment {
    let there = segment(flags, seq, ack);
    Segment {
        source: there.destination,
        destination: there.source,
        source_port: there.destination_port,
        destination_port: there.source_port,
        ..there
    }
}

/// The same segment of another client port.
fn of_port(segment: Segment, port: u16) -> Segment {
    if segment.destination_port == 443 {
        Segment { source_port: port, ..segment }
    } else {
        Segment { destination_port: port, ..segment }
    }
}

/// A tracker and the time.
struct Scene {
    tracker: Tracker,
    /// The most attempts without an answer at the end of any bin, which is what the engine tells.
    unanswered: i64,
    /// Attempts, and those of them that a segment has decided.
    attempts: i64,
    decided: i64,
    ports: Ports,
    now: Duration,
    /// The interface that is watched; 0 where there is only one.
    interface: u32,
    levels: (SamplingLevel, SamplingLevel),
}

impl Scene {
    fn new() -> Self {
        Self::with_capacity(1_024)
    }

    fn with_capacity(flows: usize) -> Self {
        Self {
            tracker: Tracker::new(flows, 3, HashKey([9; 16]), |_| {}),
            unanswered: 0,
            attempts: 0,
            decided: 0,
            ports: Ports::default(),
            now: Duration::ZERO,
            interface: 0,
            levels: (SamplingLevel::ALL, SamplingLevel::ALL),
        }
    }

    /// Lets time pass until so many seconds after the start.
    fn at(&mut self, seconds: f64) -> &mut Self {
        self.until(Duration::from_secs_f64(seconds))
    }

    fn until(&mut self, time: Duration) -> &mut Self {
        self.now = self.now.max(time);
        while BIN * (self.tracker.bin().0 + 1) <= self.now {
            self.tracker.close_bin(3);
            self.unanswered = self.unanswered.max(self.tracker.unanswered());
            // As the engine does at the end of a step.
            let bins = self.tracker.bin().0;
            if bins.is_multiple_of(4) {
                let step = Timestamp::EPOCH + BIN * (bins - 4);
                self.ports.patience = self.ports.learner.learn(step);
            }
        }
        self
    }

    fn sees(&mut self, segment: Segment) -> Event {
        let micros = (self.now.as_micros() & u128::from(u32::MAX)) as u32;
        let (level, settled) = self.levels;
        let arrival = Arrival { micros, interface: self.interface, level, settled };
        let flow = self.tracker.hasher().flow(&segment);
        // As a shard does.
        if self.tracker.carry_on(&segment, &flow, &arrival).is_some() {
            return Event::None;
        }
        let seen = self.tracker.handle(&segment, &flow, arrival, &mut self.ports);
        let begins = match seen.event {
            Event::Attempt => true,
            Event::Answered { .. } | Event::AnsweredMidway => {
                seen.was == Standing::None
                    && seen.is != Standing::None
                    && (segment.flags.is_syn() || seen.event == Event::AnsweredMidway)
            }
            _ => false,
        };
        let weight = i64::from(seen.level.weight());
        self.attempts += if begins { weight } else { 0 };
        self.decided +=
            weight * (i64::from(seen.is.is_decided()) - i64::from(seen.was.is_decided()));
        seen.event
    }

    /// The law of sums: every attempt has one outcome or is open.
    fn undecided(&self) -> i64 {
        let flows = flows(&self.tracker);
        let open = (flows.syn_sent.value + flows.syn_recv.value).cast_signed();
        self.tracker.unanswered() + self.tracker.timed_out() + open
    }

    fn half_open(&self) -> (u64, u64) {
        let HalfOpen { total, unconfirmed } = self.tracker.half_open(HTTPS);
        (total, unconfirmed)
    }

    /// A SYN and its answer.
    fn opens_halfway(&mut self) -> &mut Self {
        assert_eq!(self.sees(client(SYN, 100, 0)), Event::Attempt);
        assert_eq!(self.sees(server(SYN_ACK, 300, 101)), Event::Answered { late: false });
        self
    }

    /// A whole handshake.
    fn opens(&mut self) -> &mut Self {
        self.opens_halfway();
        assert_eq!(self.sees(client(ACK, 101, 301)), Event::Completed);
        self
    }

    /// The states that have any flow, with their counts.
    fn states(&self) -> Vec<(&'static str, u64)> {
        check_books(&self.tracker);
        let flows = flows(&self.tracker).by_state().map(|(name, count)| (name, count.value));
        flows.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

fn flows(tracker: &Tracker) -> FlowCounts {
    flow_counts(tracker.half_open_total().into(), |name| tracker.in_state(name).into())
}

/// Counts what the table holds, and compares it with what the tracker says.
fn check_books(tracker: &Tracker) {
    let mut states = [0_u64; 8];
    let mut half_open = [HalfOpen::default(); 3];
    let mut seen = HashSet::new();
    for (set, entry) in tracker.table.entries() {
        assert!(seen.insert((set, entry.tag)), "one flow, two entries");
        if entry.deadline < tracker.bin() {
            continue;
        }
        match Count::of(&entry.connection, entry.service) {
            Count::Nowhere => {}
            Count::HalfOpen(service, confirmed) => {
                let service = &mut half_open[usize::from(service.0)];
                service.total += 1;
                service.unconfirmed += u64::from(!confirmed);
            }
            Count::State(name) => states[name as usize] += 1,
        }
    }
    assert!(seen.len() <= tracker.capacity());
    let total = half_open.iter().map(|service| service.total).sum::<u64>();
    assert_eq!(flows(tracker), flow_counts(total.into(), |name| states[name as usize].into()));
    for (number, expected) in (0..).zip(half_open) {
        assert_eq!(tracker.half_open(ServiceId(number)), expected, "service {number}");
    }
}

// The story of a connection

#[test]
fn three_way_handshake_and_a_close_begun_by_the_client() {
    let mut scene = Scene::new();
    assert_eq!(scene.sees(client(SYN, 100, 0)), Event::Attempt);
    assert_eq!(scene.states(), [("SYN_SENT", 1)]);
    assert_eq!(scene.at(0.02).sees(server(SYN_ACK, 300, 101)), Event::Answered { late: false });
    assert_eq!(scene.states(), [("SYN_RECV", 1)]);
    assert_eq!(scene.half_open(), (1, 1));
    assert_eq!(scene.at(0.04).sees(client(ACK, 101, 301)), Event::Completed);
    assert_eq!(scene.states(), [("ESTABLISHED", 1)]);
    scene.at(10.0).sees(client(FIN_ACK, 101, 301));
    assert_eq!(scene.states(), [("CLOSE_WAIT", 1)]);
    scene.sees(server(ACK, 301, 102));
    assert_eq!(scene.states(), [("CLOSE_WAIT", 1)]);
    scene.at(10.1).sees(server(FIN_ACK, 301, 102));
    assert_eq!(scene.states(), [("LAST_ACK", 1)]);
    scene.at(10.2).sees(client(ACK, 102, 302));
    assert_eq!(scene.states(), [("TIME_WAIT", 1)]);
    assert_eq!(scene.at(69.0).states(), [("TIME_WAIT", 1)]);
    assert_eq!(scene.at(72.0).states(), []);
    assert_eq!((scene.tracker.timed_out(), scene.unanswered), (0, 0));
}

#[test]
fn close_begun_by_the_server() {
    let mut scene = Scene::new();
    scene.opens().sees(server(FIN_ACK, 301, 101));
    assert_eq!(scene.states(), [("FIN_WAIT_1", 1)]);
    scene.sees(client(ACK, 101, 302));
    assert_eq!(scene.states(), [("FIN_WAIT_2", 1)]);
    scene.sees(client(FIN_ACK, 101, 302));
    assert_eq!(scene.states(), [("TIME_WAIT", 1)]);
    scene.sees(server(ACK, 302, 102));
    assert_eq!(scene.states(), [("TIME_WAIT", 1)]);
}

#[test]
fn simultaneous_close() {
    let mut scene = Scene::new();
    scene.opens().sees(client(FIN_ACK, 101, 301));
    scene.sees(server(FIN_ACK, 301, 101));
    assert_eq!(scene.states(), [("CLOSING", 1)]);
    scene.sees(server(ACK, 302, 102));
    assert_eq!(scene.states(), [("CLOSING", 1)]);
    scene.sees(client(ACK, 102, 302));
    assert_eq!(scene.states(), [("TIME_WAIT", 1)]);
}

#[test]
fn lost_final_ack_syn_ack_repeated_until_timeout() {
    let mut scene = Scene::new();
    scene.opens_halfway();
    for repeat in [1.0, 3.0, 7.0, 15.0, 31.0] {
        scene.at(repeat - 0.05);
        assert_eq!(scene.tracker.half_open_total(), 1, "still held before {repeat} s");
        assert_eq!(scene.at(repeat).sees(server(SYN_ACK, 300, 101)), Event::AnswerRepeated);
        assert_eq!(scene.half_open(), (1, 0), "confirmed");
    }
    scene.at(62.9);
    assert_eq!((scene.half_open(), scene.tracker.timed_out()), ((1, 0), 0));
    scene.at(65.0);
    assert_eq!((scene.half_open(), scene.tracker.timed_out()), ((0, 0), 1));
    assert_eq!(scene.states(), []);
}

#[test]
fn simultaneous_open() {
    let mut scene = Scene::new();
    assert_eq!(scene.sees(client(SYN, 100, 0)), Event::Attempt);
    assert_eq!(scene.sees(server(SYN, 300, 0)), Event::None);
    assert_eq!(scene.states(), [("SYN_RECV", 1)]);
    scene.sees(client(SYN_ACK, 100, 301));
    assert_eq!(scene.sees(server(SYN_ACK, 300, 101)), Event::Completed);
    assert_eq!(scene.states(), [("ESTABLISHED", 1)]);
}

// How long a connection is half-open

#[test]
fn an_answer_without_repeat_was_a_cookie() {
    let mut scene = Scene::new();
    scene.opens_halfway().at(1.0);
    assert_eq!(scene.half_open(), (1, 1));
    scene.at(1.3);
    assert_eq!((scene.half_open(), scene.tracker.timed_out()), ((0, 0), 1));
}

#[test]
fn a_request_pruned_under_pressure_is_gone_when_its_third_repeat_is_overdue() {
    // Two retries instead of five: 1 + 2 + 4 = 7 s.
    let mut scene = Scene::new();
    scene.opens_halfway();
    scene.at(1.0).sees(server(SYN_ACK, 300, 101));
    scene.at(3.0).sees(server(SYN_ACK, 300, 101));
    assert_eq!(scene.at(6.9).half_open(), (1, 0));
    assert_eq!(scene.at(7.5).half_open(), (0, 0));
    assert_eq!(scene.tracker.timed_out(), 1);
}

#[test]
fn a_late_repeat_brings_it_back() {
    let mut scene = Scene::new();
    scene.opens_halfway().at(1.3);
    assert_eq!(scene.tracker.timed_out(), 1);
    assert_eq!(scene.at(1.4).sees(server(SYN_ACK, 300, 101)), Event::AnswerRepeated);
    assert_eq!((scene.half_open(), scene.tracker.timed_out()), ((1, 0), 0));
    assert_eq!(scene.at(2.9).half_open(), (1, 0));
}

#[test]
fn a_completion_after_it_was_forgotten_counts() {
    let mut scene = Scene::new();
    scene.opens_halfway().at(5.0);
    assert_eq!(scene.tracker.timed_out(), 1);
    assert_eq!(scene.sees(client(ACK, 101, 301)), Event::Completed);
    assert_eq!(scene.tracker.timed_out(), 0);
    assert_eq!(scene.states(), [("ESTABLISHED", 1)]);
}

#[test]
fn a_lost_repeat_is_made_up_for_by_time() {
    let mut scene = Scene::new();
    scene.opens_halfway();
    scene.at(3.0).sees(server(SYN_ACK, 300, 101));
    // The second repeat, so the third comes at 7 s and not before.
    assert_eq!(scene.at(6.9).half_open(), (1, 0));
    assert_eq!(scene.at(7.5).half_open(), (0, 0));
}

#[test]
fn an_answer_to_a_repeated_syn_confirms_nothing() {
    let mut scene = Scene::new();
    scene.opens_halfway();
    assert_eq!(scene.at(1.0).sees(client(SYN, 100, 0)), Event::SynRepeated);
    assert_eq!(scene.sees(server(SYN_ACK, 300, 101)), Event::AnswerRepeated);
    assert_eq!(scene.half_open(), (1, 1), "a cookie is answered alike");
    assert_eq!(scene.at(2.3).half_open(), (0, 0));
}

#[test]
fn an_answer_repeated_at_once_confirms_nothing() {
    let mut scene = Scene::new();
    scene.opens_halfway();
    assert_eq!(scene.at(0.2).sees(server(SYN_ACK, 300, 101)), Event::AnswerRepeated);
    assert_eq!(scene.half_open(), (1, 1));
    assert_eq!(scene.at(1.3).half_open(), (0, 0));
}

#[test]
fn a_replaced_answer_begins_anew() {
    let mut scene = Scene::new();
    scene.opens_halfway();
    scene.at(1.0).sees(server(SYN_ACK, 300, 101));
    assert_eq!(scene.at(2.0).sees(server(SYN_ACK, 9_300, 101)), Event::AnswerRepeated);
    assert_eq!(scene.half_open(), (1, 1));
    assert_eq!(scene.at(2.1).sees(client(ACK, 101, 302)), Event::None);
    assert_eq!(scene.sees(client(ACK, 101, 9_301)), Event::Completed);
}

#[test]
fn an_answer_to_nothing_is_no_half_open_connection() {
    let mut scene = Scene::new();
    assert_eq!(scene.sees(server(SYN_ACK, 300, 101)), Event::AnsweredMidway);
    assert_eq!((scene.half_open(), scene.states()), ((0, 0), vec![]));
    assert_eq!(scene.at(3.0).sees(client(ACK, 101, 301)), Event::CompletedMidway);
    assert_eq!(scene.states(), [("ESTABLISHED", 1)]);
    assert_eq!((scene.attempts, scene.decided, scene.undecided()), (0, 0, 0));
}

#[test]
fn where_only_answers_are_seen_a_repeat_confirms_that_the_server_keeps_the_request() {
    let mut scene = Scene::new();
    scene.ports.answers_only = true;
    assert_eq!(scene.sees(server(SYN_ACK, 300, 101)), Event::AnsweredMidway);
    assert_eq!(scene.at(0.9).half_open(), (1, 1));
    scene.at(1.0).sees(server(SYN_ACK, 300, 101));
    assert_eq!((scene.half_open(), scene.tracker.timed_out()), ((1, 0), 0));
    scene.at(3.0).sees(server(SYN_ACK, 300, 101));
    assert_eq!(scene.at(6.9).half_open(), (1, 0));
    assert_eq!(scene.sees(server(ACK, 301, 151)), Event::CompletedMidway);
    assert_eq!((scene.attempts, scene.decided), (1, 1));
}

#[test]
fn half_open_is_counted_with_its_service() {
    let mut scene = Scene::new();
    scene.opens_halfway();
    for port in 0..3 {
        scene.sees(Segment { destination_port: 80, ..of_port(client(SYN, 100, 0), 5_000 + port) });
        scene.sees(Segment { source_port: 80, ..of_port(server(SYN_ACK, 300, 101), 5_000 + port) });
    }
    assert_eq!(scene.half_open(), (1, 1));
    assert_eq!(scene.tracker.half_open(HTTP), HalfOpen { total: 3, unconfirmed: 3 });
    assert_eq!(scene.tracker.half_open_total(), 4);
    scene.states();
}

// Ends of a handshake

#[test]
fn refused_by_the_server() {
    let mut scene = Scene::new();
    scene.sees(client(SYN, 100, 0));
    assert_eq!(scene.sees(server(RST_ACK, 0, 101)), Event::Refused(Role::Server));
    assert_eq!(scene.states(), []);
    assert_eq!(scene.at(5.0).unanswered, 0);
}

#[test]
fn reset_by_either_end() {
    let mut scene = Scene::new();
    assert_eq!(scene.opens_halfway().sees(client(RST, 101, 0)), Event::Reset(Role::Client));
    assert_eq!(scene.states(), []);
    let mut scene = Scene::new();
    assert_eq!(scene.opens_halfway().sees(server(RST, 301, 0)), Event::Reset(Role::Server));
    assert_eq!((scene.states(), scene.tracker.timed_out()), (vec![], 0));
}

#[test]
fn reset_out_of_window_leaves_it_half_open() {
    let mut scene = Scene::new();
    scene.opens_halfway();
    assert_eq!(scene.sees(client(RST, 99, 0)), Event::None);
    assert_eq!(scene.sees(client(ACK, 101, 7_000)), Event::None);
    assert_eq!(scene.sees(server(RST, 7_000, 0)), Event::None);
    assert_eq!(scene.half_open(), (1, 1));
}

#[test]
fn unanswered_after_three_seconds() {
    let mut scene = Scene::new();
    scene.sees(client(SYN, 100, 0));
    assert_eq!(scene.at(2.9).unanswered, 0);
    // Counts of states are kept to the second.
    assert_eq!(scene.at(5.0).unanswered, 1);
    assert_eq!(scene.states(), []);
}

#[test]
fn unanswered_once_however_often_the_syn_is_repeated() {
    let mut scene = Scene::new();
    scene.sees(client(SYN, 100, 0));
    for repeat in [1.0, 3.0, 7.0, 15.0, 31.0, 63.0] {
        assert_eq!(scene.at(repeat).sees(client(SYN, 100, 0)), Event::SynRepeated);
        assert_eq!(scene.unanswered, 0, "at {repeat} s");
        assert_eq!(scene.states(), [("SYN_SENT", 1)]);
    }
    scene.at(200.0);
    assert_eq!((scene.unanswered, scene.states()), (1, vec![]));
}

#[test]
fn unanswered_once_where_a_tool_repeats_its_syn_at_leisure() {
    let mut scene = Scene::new();
    scene.sees(client(SYN, 100, 0));
    for repeat in 1..6 {
        assert_eq!(
            scene.at(f64::from(repeat) * 200.0).sees(client(SYN, 100, 0)),
            Event::SynRepeated
        );
        assert_eq!(scene.unanswered, 1);
    }
    assert_eq!(scene.at(2_000.0).unanswered, 1);
}

#[test]
fn answered_after_a_repeat() {
    let mut scene = Scene::new();
    scene.sees(client(SYN, 100, 0));
    scene.at(1.0).sees(client(SYN, 100, 0));
    assert_eq!(scene.at(1.02).sees(server(SYN_ACK, 300, 101)), Event::Answered { late: true });
    let flow = scene.tracker.hasher().flow(&client(SYN, 100, 0)).hash;
    assert_eq!(scene.tracker.fate(flow, SeqNumber(100)), (Fate::HalfOpen, true));
}

#[test]
fn fates_are_those_of_the_attempt_that_is_asked_for() {
    let mut scene = Scene::new();
    let flow = scene.tracker.hasher().flow(&client(SYN, 100, 0)).hash;
    let fate = |scene: &Scene| scene.tracker.fate(flow, SeqNumber(100)).0;
    assert_eq!(fate(&scene), Fate::Unknown);
    scene.sees(client(SYN, 100, 0));
    assert_eq!(fate(&scene), Fate::Unanswered);
    assert_eq!(scene.tracker.fate(flow, SeqNumber(99)).0, Fate::Unanswered, "it was followed");
    scene.sees(server(SYN_ACK, 300, 101));
    assert_eq!(fate(&scene), Fate::HalfOpen);
    scene.sees(client(ACK, 101, 301));
    assert_eq!(fate(&scene), Fate::Completed);
    scene.sees(client(RST, 101, 0));
    assert_eq!(fate(&scene), Fate::Completed);
}

#[test]
fn fate_of_a_reset_says_how_long_the_place_was_held() {
    let mut scene = Scene::new();
    let flow = scene.tracker.hasher().flow(&client(SYN, 100, 0)).hash;
    scene.at(1.0).sees(client(SYN, 100, 0));
    scene.sees(server(SYN_ACK, 300, 101));
    scene.at(1.04).sees(client(RST, 101, 0));
    let fate = (Fate::Reset(Duration::from_millis(40)), false);
    assert_eq!(scene.tracker.fate(flow, SeqNumber(100)), fate);
    scene.at(2.0).sees(client(RST, 101, 0));
    assert_eq!(scene.tracker.fate(flow, SeqNumber(100)), fate);
}

// Ports that are used again

#[test]
fn syn_with_a_new_number_before_the_answer() {
    let mut scene = Scene::new();
    scene.sees(client(SYN, 100, 0));
    assert_eq!(scene.at(1.0).sees(client(SYN, 5_000, 0)), Event::Attempt);
    assert_eq!(scene.states(), [("SYN_SENT", 1)]);
    // The server may answer the first one.
    assert_eq!(scene.sees(server(SYN_ACK, 300, 101)), Event::Answered { late: false });
    assert_eq!(scene.sees(client(ACK, 101, 301)), Event::Completed);
}

#[test]
fn ports_used_again_after_time_wait() {
    let mut scene = Scene::new();
    scene.opens().sees(client(FIN_ACK, 101, 301));
    scene.sees(server(FIN_ACK, 301, 102));
    scene.sees(client(ACK, 102, 302));
    assert_eq!(scene.at(20.0).sees(client(SYN, 90_000, 0)), Event::Attempt);
    assert_eq!(scene.states(), [("SYN_SENT", 1)]);
    assert_eq!(scene.sees(server(SYN_ACK, 70_000, 90_001)), Event::Answered { late: false });
    assert_eq!(scene.sees(client(ACK, 90_001, 70_001)), Event::Completed);
    assert_eq!(scene.states(), [("ESTABLISHED", 1)]);
}

#[test]
fn a_forgotten_request_does_not_stand_in_the_way_of_a_new_one() {
    let mut scene = Scene::new();
    scene.opens_halfway();
    assert_eq!(scene.at(0.5).sees(client(SYN, 5_000, 0)), Event::Attempt);
    assert_eq!((scene.half_open(), scene.tracker.unanswered()), ((1, 1), 1), "the server keeps it");
    assert_eq!(scene.at(0.6).sees(client(SYN, 5_000, 0)), Event::SynRepeated);
    assert_eq!(scene.at(2.0).sees(client(SYN, 6_000, 0)), Event::Attempt);
    assert_eq!(scene.states(), [("SYN_SENT", 1)]);
    assert_eq!(scene.tracker.timed_out(), 1);
}

#[test]
fn a_request_that_was_put_off_and_is_answered_takes_the_place_of_the_first() {
    let mut scene = Scene::new();
    scene.opens_halfway();
    scene.sees(client(SYN, 5_000, 0));
    assert_eq!(scene.sees(server(SYN_ACK, 700, 5_001)), Event::Answered { late: false });
    assert_eq!((scene.half_open(), scene.tracker.unanswered()), ((1, 1), 0));
    assert_eq!(scene.tracker.timed_out(), 1, "the server has forgotten the first");
    assert_eq!(scene.sees(client(ACK, 5_001, 701)), Event::Completed);
    assert_eq!((scene.attempts, scene.decided), (2, 1));
}

#[test]
fn a_refused_request_that_is_asked_again_is_no_new_attempt() {
    let mut scene = Scene::new();
    scene.sees(client(SYN, 100, 0));
    assert_eq!(scene.sees(server(RST_ACK, 0, 101)), Event::Refused(Role::Server));
    // Long after its fate has been forgotten, too.
    assert_eq!(scene.at(9.0).sees(client(SYN, 100, 0)), Event::SynRepeated);
    assert_eq!(scene.sees(server(SYN_ACK, 300, 101)), Event::Answered { late: true });
    assert_eq!(scene.sees(client(ACK, 101, 301)), Event::Completed);
    assert_eq!((scene.attempts, scene.decided, scene.undecided()), (1, 1, 0));
}

#[test]
fn an_expired_connection_gives_its_place_to_the_next_on_its_ports() {
    let mut scene = Scene::new();
    scene.opens().at(1_000.0);
    assert_eq!(scene.states(), []);
    assert_eq!(scene.sees(client(SYN, 100, 0)), Event::Attempt);
    assert_eq!(scene.states(), [("SYN_SENT", 1)]);
    assert_eq!(scene.tracker.table.entries().count(), 1);
}

#[test]
fn an_idle_connection_comes_back_with_its_next_segment() {
    let mut scene = Scene::new();
    scene.opens().at(1_000.0);
    assert_eq!(scene.states(), []);
    assert_eq!(scene.sees(server(ACK, 301, 101)), Event::None);
    assert_eq!(scene.states(), [("ESTABLISHED", 1)]);
    scene.sees(server(FIN_ACK, 301, 101));
    assert_eq!(scene.states(), [("FIN_WAIT_1", 1)], "who is the server is known by its port");
}

// One packet, seen more than once

#[test]
fn segments_captured_twice_on_one_interface_count_once() {
    let mut scene = Scene::new();
    assert_eq!(scene.sees(client(SYN, 100, 0)), Event::Attempt);
    assert_eq!(scene.sees(client(SYN, 100, 0)), Event::SynRepeated);
    assert_eq!(scene.sees(server(SYN_ACK, 300, 101)), Event::Answered { late: false });
    assert_eq!(scene.sees(server(SYN_ACK, 300, 101)), Event::AnswerRepeated);
    assert_eq!(scene.half_open(), (1, 1), "a copy confirms nothing");
    assert_eq!(scene.sees(client(ACK, 101, 301)), Event::Completed);
    assert_eq!(scene.sees(client(ACK, 101, 301)), Event::None);
    assert_eq!(scene.states(), [("ESTABLISHED", 1)]);
    let flow = scene.tracker.hasher().flow(&client(SYN, 100, 0)).hash;
    assert!(!scene.tracker.fate(flow, SeqNumber(100)).1, "no retransmission timer is so short");
}

#[test]
fn segments_seen_on_a_second_interface_are_copies() {
    let mut scene = Scene::new();
    let on = |scene: &mut Scene, interface, segment| {
        scene.interface = interface;
        scene.sees(segment)
    };
    assert_eq!(on(&mut scene, 2, client(SYN, 100, 0)), Event::Attempt);
    assert_eq!(on(&mut scene, 3, client(SYN, 100, 0)), Event::Copy);
    assert_eq!(on(&mut scene, 3, server(SYN_ACK, 300, 101)), Event::Answered { late: false });
    assert_eq!(on(&mut scene, 2, server(SYN_ACK, 300, 101)), Event::Copy);
    for repeat in [1.0, 3.0, 7.0] {
        scene.at(repeat);
        assert_eq!(on(&mut scene, 3, server(SYN_ACK, 300, 101)), Event::AnswerRepeated);
        assert_eq!(on(&mut scene, 2, server(SYN_ACK, 300, 101)), Event::Copy);
    }
    assert_eq!(on(&mut scene, 2, client(ACK, 101, 301)), Event::Completed);
    assert_eq!(on(&mut scene, 3, client(ACK, 101, 301)), Event::Copy);
    assert_eq!(scene.states(), [("ESTABLISHED", 1)]);
}

#[test]
fn a_copy_of_the_answer_to_a_repeated_syn_confirms_nothing() {
    let mut scene = Scene::new();
    scene.opens_halfway();
    scene.at(1.0).sees(client(SYN, 100, 0));
    scene.sees(client(SYN, 100, 0));
    scene.sees(server(SYN_ACK, 300, 101));
    scene.sees(server(SYN_ACK, 300, 101));
    assert_eq!(scene.half_open(), (1, 1));
    // The server keeps it: its timer, started again, runs out.
    scene.at(2.0).sees(server(SYN_ACK, 300, 101));
    assert_eq!(scene.half_open(), (1, 0));
}

#[test]
fn repeats_on_a_second_interface_are_repeats() {
    // The path changed between the retransmissions.
    let mut scene = Scene::new();
    scene.interface = 2;
    scene.sees(client(SYN, 100, 0));
    scene.interface = 3;
    assert_eq!(scene.at(1.0).sees(client(SYN, 100, 0)), Event::SynRepeated);
    assert_eq!(scene.sees(server(SYN_ACK, 300, 101)), Event::Answered { late: true });
    scene.interface = 2;
    assert_eq!(scene.at(2.0).sees(server(SYN_ACK, 300, 101)), Event::AnswerRepeated);
    assert_eq!(scene.half_open(), (1, 0));
}

#[test]
fn an_answer_that_overtakes_its_syn() {
    let mut scene = Scene::new();
    assert_eq!(scene.sees(server(SYN_ACK, 300, 101)), Event::AnsweredMidway);
    assert_eq!(scene.sees(client(SYN, 100, 0)), Event::Answered { late: false });
    assert_eq!(scene.half_open(), (1, 1));
    assert_eq!(scene.sees(client(ACK, 101, 301)), Event::Completed);
    assert_eq!(scene.states(), [("ESTABLISHED", 1)]);
}

#[test]
fn a_host_that_seems_to_talk_to_itself() {
    // The LAND attack: both endpoints are the victim's, so no direction can be told.
    let land = |flags, seq, ack| {
        let segment = client(flags, seq, ack);
        Segment { source: segment.destination, source_port: 443, ..segment }
    };
    let mut scene = Scene::new();
    assert_eq!(scene.sees(land(SYN, 100, 0)), Event::Attempt);
    assert_eq!(scene.sees(land(SYN_ACK, 300, 101)), Event::None);
    assert_eq!(scene.sees(land(ACK, 101, 301)), Event::None);
    assert_eq!(scene.states(), [("SYN_SENT", 1)]);
}

// A server whose answers are not seen

#[test]
fn where_answers_are_never_seen_the_clients_word_must_do() {
    let mut scene = Scene::new();
    scene.ports.one_way = true;
    scene.sees(client(SYN, 100, 0));
    assert_eq!(scene.sees(client(ACK, 101, 301)), Event::PresumedByClient);
    assert_eq!(scene.states(), [("ESTABLISHED", 1)]);
}

#[test]
fn where_the_ack_was_missed_the_servers_data_must_do() {
    let mut scene = Scene::new();
    scene.opens_halfway();
    let data = Segment { payload_len: 100, ..server(ACK, 301, 101) };
    assert_eq!(scene.sees(data), Event::PresumedByServer);
    assert_eq!(scene.sees(client(ACK, 101, 301)), Event::CompletedLate);
    assert_eq!(scene.sees(client(ACK, 101, 301)), Event::None);
}

#[test]
fn what_belongs_to_no_connection_leaves_no_trace() {
    let mut scene = Scene::new();
    for flags in [Flags(0), Flags::FIN, Flags(0x29), Flags(0x03)] {
        assert_eq!(scene.sees(client(flags, 100, 0)), Event::None);
    }
    for flags in [RST, RST_ACK, Flags(0xff)] {
        assert_eq!(scene.sees(client(flags, 100, 0)), Event::StrayReset);
    }
    assert_eq!(scene.states(), []);
    assert_eq!(scene.tracker.table.entries().count(), 0);
}
