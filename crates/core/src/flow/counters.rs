//! What is counted of the flows in the table.
//!
//! Every live flow is counted exactly once: as half-open with its service, or by its state; and as
//! often as there are flows that it stands for. It leaves its count when it changes state, when it
//! leaves the table, or when its deadline passes.

use std::iter::Sum;
use std::time::Duration;

use crate::flow::calendar::{Bin, Bins, Calendar};
use crate::flow::state::{Connection, Marks, Role, State};
use crate::flow::table::{Entry, ServiceId};
use crate::model::{Estimate, FlowCounts};

/// An open connection without a segment for so long is not counted any more; its next segment
/// brings it back.
pub(super) const IDLE: Bins = Bins::lasting(Duration::from_secs(15 * 60));

/// Half-open connections of one service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HalfOpen {
    /// Answered and not acknowledged, and still held by the server as far as its repeats show.
    pub total: u64,
    /// Those among them that are too young to have had their answer repeated.
    pub unconfirmed: u64,
}

impl Sum for HalfOpen {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, more| Self {
            total: sum.total + more.total,
            unconfirmed: sum.unconfirmed + more.unconfirmed,
        })
    }
}

/// Where a live flow is counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Count {
    /// Half-open, with a service; `true` once the server has shown that it keeps it.
    HalfOpen(ServiceId, bool),
    /// By state.
    State(StateName),
    /// Closed: only its fate is remembered.
    Nowhere,
}

/// The states that are counted over all services.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StateName {
    SynSent,
    Established,
    FinWait1,
    FinWait2,
    Closing,
    CloseWait,
    LastAck,
    TimeWait,
}

/// The counts by state, where `syn_recv` are half-open and `of` tells those in a state.
pub fn flow_counts(syn_recv: Estimate<u64>, of: impl Fn(StateName) -> Estimate<u64>) -> FlowCounts {
    FlowCounts {
        syn_sent: of(StateName::SynSent),
        syn_recv,
        established: of(StateName::Established),
        fin_wait_1: of(StateName::FinWait1),
        fin_wait_2: of(StateName::FinWait2),
        closing: of(StateName::Closing),
        close_wait: of(StateName::CloseWait),
        last_ack: of(StateName::LastAck),
        time_wait: of(StateName::TimeWait),
    }
}

impl Count {
    /// The count that a flow belongs to. States are those of the end that answered the SYN; where
    /// that one is closed, of the other.
    pub(super) const fn of(connection: &Connection, service: ServiceId) -> Self {
        let name = match connection.state {
            // An answer that answers nothing that was seen makes no half-open connection.
            State::SynReceived if !connection.marks.has(Marks::ATTEMPT) => return Self::Nowhere,
            State::SynReceived | State::SimultaneousOpen | State::SimultaneousOpenAcked(_) => {
                return Self::HalfOpen(service, connection.marks.has(Marks::CONFIRMED));
            }
            State::SynSent => StateName::SynSent,
            State::Established => StateName::Established,
            State::FinWait1(Role::Server) => StateName::FinWait1,
            State::FinWait2(Role::Server) => StateName::FinWait2,
            State::FinWait1(Role::Client) | State::FinWait2(Role::Client) => StateName::CloseWait,
            State::Closing | State::ClosingAcked(Role::Client) => StateName::Closing,
            State::LastAck(Role::Client) => StateName::LastAck,
            State::LastAck(Role::Server)
            | State::ClosingAcked(Role::Server)
            | State::TimeWait(_) => StateName::TimeWait,
            State::Refused | State::Closed => return Self::Nowhere,
        };
        Self::State(name)
    }
}

/// Deadlines of one service's half-open connections.
#[derive(Default)]
struct Deadlines {
    /// Answer repeated at least once: the next repeat may be 32 s away, or more.
    confirmed: Calendar<1024, 0>,
    /// Answered once: the repeat is due after 1 s, or what was learned, up to 3.5 s.
    unconfirmed: Calendar<64, 0>,
}

/// Deadlines of all flows in one state, kept to the second: 16 bins.
type States = Calendar<1024, 4>;

/// All counts.
pub(super) struct Counters {
    deadlines: Vec<Deadlines>,
    states: [States; 8],
    /// The bin that time stands in; all before it are closed.
    bin: Bin,
    /// When an open connection ends that has a segment now.
    idle: Bin,
    half_open: u64,
    /// Requests that expired, less those that came back.
    unanswered: i64,
    /// Half-open connections that expired, less those that came back.
    timed_out: i64,
}

impl Counters {
    pub(super) fn new(services: u16) -> Self {
        Self {
            deadlines: (0..services).map(|_| Deadlines::default()).collect(),
            states: Default::default(),
            bin: Bin(0),
            idle: Bin(0),
            half_open: 0,
            unanswered: 0,
            timed_out: 0,
        }
    }

    pub(super) const fn bin(&self) -> Bin {
        self.bin
    }

    /// Keeps an open connection that stands for `weight` flows and has a segment now; returns until
    /// when.
    #[inline]
    pub(super) fn keep_open(&mut self, deadline: Bin, weight: u32) -> Bin {
        if deadline == self.idle {
            return deadline;
        }
        let open = (Count::State(StateName::Established), weight);
        self.idle = self.shift(open, deadline, open, IDLE);
        self.idle
    }

    pub(super) const fn half_open_total(&self) -> u64 {
        self.half_open
    }

    pub(super) fn half_open(&self, service: ServiceId) -> HalfOpen {
        let deadlines = &self.deadlines[usize::from(service.0)];
        let unconfirmed = deadlines.unconfirmed.total();
        HalfOpen { total: deadlines.confirmed.total() + unconfirmed, unconfirmed }
    }

    pub(super) const fn unanswered(&self) -> i64 {
        self.unanswered
    }

    pub(super) const fn timed_out(&self) -> i64 {
        self.timed_out
    }

    pub(super) const fn in_state(&self, name: StateName) -> u64 {
        self.states[name as usize].total()
    }

    /// All live flows.
    pub(super) fn live(&self) -> u64 {
        self.half_open + self.states.iter().map(Calendar::total).sum::<u64>()
    }

    /// Closes the present bin: what is due in it expires. Only the first `services` services are
    /// in use.
    pub(super) fn close_bin(&mut self, services: usize) {
        let bin = self.bin;
        for deadlines in self.deadlines.iter_mut().take(services) {
            let expired = deadlines.confirmed.close(bin) + deadlines.unconfirmed.close(bin);
            self.timed_out += expired.cast_signed();
            self.half_open -= expired;
        }
        for (number, calendar) in self.states.iter_mut().enumerate() {
            let expired = calendar.close(bin);
            if number == StateName::SynSent as usize {
                self.unanswered += expired.cast_signed();
            }
        }
        self.bin = Bin(bin.0.saturating_add(1));
        self.idle = Bin(0);
    }

    /// Counts a flow that stands for `weight` flows and is counted nowhere, for so long. Returns
    /// when that ends.
    #[inline]
    pub(super) fn enter(&mut self, count: Count, weight: u32, lifetime: Bins) -> Bin {
        let due = self.bin.after(lifetime);
        match count {
            Count::HalfOpen(service, confirmed) => {
                self.half_open += u64::from(weight);
                let deadlines = &mut self.deadlines[usize::from(service.0)];
                if confirmed {
                    deadlines.confirmed.enter(due, self.bin, weight)
                } else {
                    deadlines.unconfirmed.enter(due, self.bin, weight)
                }
            }
            Count::State(name) => self.states[name as usize].enter(due, self.bin, weight),
            Count::Nowhere => due,
        }
    }

    /// Moves a flow from one count and weight, where it stands until `deadline`, to another for so
    /// long. Returns when that ends.
    #[inline]
    pub(super) fn shift(
        &mut self,
        (count, weight): (Count, u32),
        deadline: Bin,
        to: (Count, u32),
        lifetime: Bins,
    ) -> Bin {
        if matches!(count, Count::State(_)) && to == (count, weight) {
            let due = self.bin.after(lifetime);
            // Most segments of an open connection leave it where it is.
            if States::round(due, self.bin) == deadline {
                return deadline;
            }
        }
        self.remove(count, weight, deadline);
        self.enter(to.0, to.1, lifetime)
    }

    /// Takes a flow off its count, unless its deadline already did.
    #[inline]
    pub(super) fn remove(&mut self, count: Count, weight: u32, deadline: Bin) {
        if deadline < self.bin {
            return;
        }
        match count {
            Count::HalfOpen(service, confirmed) => {
                self.half_open -= u64::from(weight);
                let deadlines = &mut self.deadlines[usize::from(service.0)];
                if confirmed {
                    deadlines.confirmed.remove(deadline, weight);
                } else {
                    deadlines.unconfirmed.remove(deadline, weight);
                }
            }
            Count::State(name) => self.states[name as usize].remove(deadline, weight),
            Count::Nowhere => {}
        }
    }

    /// Takes a flow that is leaving the table off its count.
    pub(super) fn close(&mut self, entry: &Entry) {
        self.remove(Count::of(&entry.connection, entry.service), entry.weight(), entry.deadline);
    }

    /// A flow that is leaving the table: if it is still in its handshake, the attempt's outcome is
    /// what it has come to.
    pub(super) fn give_up(&mut self, entry: &Entry) {
        self.close(entry);
        if entry.deadline >= self.bin {
            self.decide(Count::of(&entry.connection, entry.service), i64::from(entry.weight()));
        }
    }

    /// A flow that had expired in this count shows that it is still there, or that it ended well
    /// after all.
    pub(super) fn revive(&mut self, count: Count, weight: u32) {
        self.decide(count, -i64::from(weight));
    }

    /// An attempt whose SYN came while the server keeps an earlier one of the same ports. Nothing
    /// is kept of it: it is unanswered, until the server forgets the earlier one and answers.
    pub(super) fn put_off(&mut self, weight: u32) {
        self.decide(Count::State(StateName::SynSent), weight.into());
    }

    /// The same attempt is answered.
    pub(super) fn take_up(&mut self, weight: u32) {
        self.decide(Count::State(StateName::SynSent), -i64::from(weight));
    }

    const fn decide(&mut self, count: Count, weight: i64) {
        match count {
            Count::HalfOpen(..) => self.timed_out += weight,
            Count::State(StateName::SynSent) => self.unanswered += weight,
            Count::State(_) | Count::Nowhere => {}
        }
    }
}
