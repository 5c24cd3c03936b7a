//! The life of one connection as both ends see it (RFC 9293, section 3.3.2 and 3.10.7).
//!
//! An observer cannot ask the ends for their states; it concludes them from the segments, taking it
//! that what passes arrives. One [`State`] holds the states of both ends at once, since they constrain
//! each other: `FinWait1(Role::Client)` says that the client is in FIN_WAIT_1 and the server in
//! CLOSE_WAIT. The numbers decide whether a segment counts at all: an acknowledgement of anything
//! but the server's number + 1 completes nothing, a RST outside the window ends nothing.

use crate::flow::rank::Level;
use crate::wire::{Flags, Segment, SeqNumber};

/// Which end of a connection: the one that sent the first SYN, or the one that it was sent to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Sent the SYN.
    Client,
    /// Answers it.
    Server,
}

impl Role {
    /// The other end.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// The states of both ends of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Client SYN_SENT; nothing known of the server.
    SynSent,
    /// Both sent a SYN before they had the other's (RFC 9293, figure 7): both SYN_RECV.
    SimultaneousOpen,
    /// The same, and the named end has acknowledged the other's SYN.
    SimultaneousOpenAcked(Role),
    /// Server SYN_RECV: half-open.
    SynReceived,
    /// Both ESTABLISHED.
    Established,
    /// The named end FIN_WAIT_1, the other CLOSE_WAIT.
    FinWait1(Role),
    /// The named end FIN_WAIT_2, the other CLOSE_WAIT.
    FinWait2(Role),
    /// The named end TIME_WAIT, the other LAST_ACK.
    LastAck(Role),
    /// Both sent FIN before they had the other's (RFC 9293, figure 13): both CLOSING.
    Closing,
    /// The same, and the named end's FIN is acknowledged: it is in TIME_WAIT, the other CLOSING.
    ClosingAcked(Role),
    /// The named end TIME_WAIT, the other CLOSED (or, after a simultaneous close, TIME_WAIT too).
    TimeWait(Role),
    /// Both CLOSED: the server refused the SYN.
    Refused,
    /// Both CLOSED, by another reset.
    Closed,
}

/// What a segment did to its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is not part of this connection: out of window, wrong number, or without meaning here.
    Ignored,
    /// A repeat of the SYN.
    SynRepeated,
    /// The first SYN-ACK: the connection is half-open.
    Answered,
    /// The same SYN-ACK again.
    AnswerRepeated,
    /// A SYN-ACK with another number: the server forgot the first answer and gave a new one.
    AnswerReplaced,
    /// The handshake is complete.
    Completed,
    /// One direction alone shows that the handshake completed; the SYN-ACK or the ACK was not seen.
    Presumed,
    /// A RST of this end stopped the handshake before it completed.
    HandshakeReset(Role),
    /// A SYN with another number, or the answer to one, that begins a connection of its own.
    Superseded,
    /// Data, an acknowledgement, a step of the teardown, a RST: no part of the handshake.
    Progress,
}

/// The window in which a RST or an acknowledgement of a SYN_RECV connection must lie: Linux offers
/// no more than this unscaled (`tcp_synack_window`).
const HANDSHAKE_WINDOW: u32 = 65_535;
/// The window of an open connection. The true one is the receiver's to know; this is the scaled window of
/// a fast path, and still only 1/4096 of the number space.
const WINDOW: u32 = 1 << 20;

/// One connection: its states and the numbers that tell its segments from others'.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connection {
    /// The states of both ends.
    pub state: State,
    /// The client's next sequence number: its ISN + 1 while it opens.
    pub client_next: SeqNumber,
    /// The server's next sequence number. In `SynSent`, where there is none yet, ISN + 1 of an earlier
    /// SYN of the same client on the same ports.
    pub server_next: SeqNumber,
    /// In `SynSent` octets of data in the SYN (Fast Open, RFC 7413); in `SynReceived` octets that
    /// the server sent after its SYN; 65,535 stands for more.
    pub early_data: u16,
    /// What else happened.
    pub marks: Marks,
    /// SYN-ACKs that the server sent on its own after the first.
    pub answers_repeated: u8,
    /// Whether the client is the first endpoint in the canonical order of the flow's key.
    pub client_first: bool,
    /// How many flows this one stands for.
    pub level: Level,
}

/// Things that happened to a connection, as bits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Marks(u8);

impl Marks {
    /// The client sent its SYN again.
    pub const SYN_REPEATED: Self = Self(1);
    /// It did so when a TCP stack would, not as a tool does.
    pub const SYN_RTO: Self = Self(2);
    /// The server accepted data in the SYN.
    pub const FAST_OPEN: Self = Self(4);
    /// Completed as far as what was seen shows: the SYN or its answer was not.
    pub const PRESUMED: Self = Self(8);
    /// Completed.
    pub const COMPLETED: Self = Self(16);
    /// First seen after its SYN.
    pub const MIDWAY: Self = Self(32);
    /// The answer was sent again and not in response to a repeated SYN: the server holds it.
    pub const CONFIRMED: Self = Self(64);
    /// A SYN was repeated since the last answer, so the next answer responds to it.
    pub const ANSWER_DUE: Self = Self(128);

    /// The word on the handshake is final, or it was not seen at all.
    const SETTLED: Self = Self(Self::PRESUMED.0 | Self::COMPLETED.0 | Self::MIDWAY.0);

    const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Sets or clears the bits of `other`.
    pub const fn set(&mut self, other: Self, on: bool) {
        if on {
            self.0 |= other.0;
        } else {
            self.0 &= !other.0;
        }
    }
}

impl Connection {
    /// A connection that begins with the SYN `syn`.
    #[must_use]
    pub fn open(syn: &Segment) -> Self {
        Self {
            state: State::SynSent,
            client_next: syn.seq + 1,
            server_next: syn.seq + 1,
            early_data: u16::try_from(syn.payload_len).unwrap_or(u16::MAX),
            marks: Marks::default(),
            answers_repeated: 0,
            client_first: true,
            level: Level::ALL,
        }
    }

    /// A connection whose first segment seen is the SYN-ACK `answer`.
    #[must_use]
    pub fn answered(answer: &Segment) -> Self {
        let mut marks = Marks::default();
        marks.set(Marks::MIDWAY, true);
        Self {
            state: State::SynReceived,
            client_next: answer.ack,
            server_next: answer.seq + 1,
            early_data: 0,
            marks,
            answers_repeated: 0,
            client_first: true,
            level: Level::ALL,
        }
    }

    /// A connection that was open before its first segment was seen, which `sender` sent.
    #[must_use]
    pub fn midstream(sender: Role, segment: &Segment) -> Self {
        let (client_next, server_next) = match sender {
            Role::Client => (segment.end(), segment.ack),
            Role::Server => (segment.ack, segment.end()),
        };
        let mut marks = Marks::default();
        marks.set(Marks::MIDWAY, true);
        let state = if segment.flags.intersects(Flags::FIN) {
            State::FinWait1(sender)
        } else {
            State::Established
        };
        Self {
            state,
            client_next,
            server_next,
            early_data: 0,
            marks,
            answers_repeated: 0,
            client_first: true,
            level: Level::ALL,
        }
    }

    /// Whether the handshake is over, well or not.
    #[must_use]
    pub const fn is_past_handshake(&self) -> bool {
        !matches!(
            self.state,
            State::SynSent
                | State::SimultaneousOpen
                | State::SimultaneousOpenAcked(_)
                | State::SynReceived
        )
    }

    /// Takes in a segment that moves nothing but the numbers of an open connection: by far the most of them. Any
    /// other is left to [`Self::receive`], and changes nothing here: `false`.
    #[inline]
    pub fn carry_on(&mut self, sender: Role, segment: &Segment) -> bool {
        const OF_INTEREST: u8 = Flags::SYN.0 | Flags::FIN.0 | Flags::RST.0 | Flags::ACK.0;
        let carries_on = self.state == State::Established
            && segment.flags.0 & OF_INTEREST == Flags::ACK.0
            && self.marks.intersects(Marks::SETTLED)
            && self.in_window(sender, segment.seq);
        if carries_on {
            self.advance(sender, segment.end());
            self.advance(sender.peer(), segment.ack);
        }
        carries_on
    }

    /// Takes in a segment that `sender` sent. `one_way` says that answers of this server are never
    /// seen, so that the client's word must do.
    pub fn receive(&mut self, sender: Role, segment: &Segment, one_way: bool) -> Outcome {
        let flags = segment.flags;
        // The order of RFC 9293, section 3.10.7: RST, then SYN, then ACK; a segment with none of
        // them is dropped in every state.
        if flags.intersects(Flags::RST) {
            self.reset(sender, segment)
        } else if flags.is_syn_ack() {
            self.syn_ack(sender, segment)
        } else if flags.is_syn() {
            self.syn(sender, segment)
        } else if flags.intersects(Flags::SYN) || !flags.intersects(Flags::ACK) {
            // SYN with FIN, no flag at all, FIN or data without ACK: the stuff of scanners.
            Outcome::Ignored
        } else {
            self.acknowledge(sender, segment, one_way)
        }
    }

    /// RFC 9293, section 3.10.7.3 and 3.10.7.4, second step; RFC 5961, section 3.
    fn reset(&mut self, sender: Role, segment: &Segment) -> Outcome {
        use Role::{Client, Server};
        let valid = match (self.state, sender) {
            // A client that gives up; its number is its own.
            (State::SynSent, Client) => {
                segment.seq.is_within(self.client_next - 1, HANDSHAKE_WINDOW)
            }
            // Refused: acceptable only if it acknowledges the SYN (RFC 9293, section 3.10.7.3).
            (State::SynSent, Server) => {
                segment.flags.intersects(Flags::ACK)
                    && segment.ack.offset_from(self.client_next) <= u32::from(self.early_data)
            }
            (
                State::SynReceived | State::SimultaneousOpen | State::SimultaneousOpenAcked(_),
                Client,
            ) => segment.seq.is_within(self.client_next, HANDSHAKE_WINDOW),
            // The server answers a wrong acknowledgement with a RST that carries that wrong number
            // (section 3.10.7.4, SYN-RECEIVED); such a RST must not end what it keeps.
            (
                State::SynReceived | State::SimultaneousOpen | State::SimultaneousOpenAcked(_),
                Server,
            ) => {
                let sent = u32::from(self.early_data);
                segment.seq.offset_from(self.server_next - sent) <= sent
            }
            (
                State::Established
                | State::FinWait1(_)
                | State::FinWait2(_)
                | State::LastAck(_)
                | State::Closing
                | State::ClosingAcked(_)
                | State::TimeWait(_),
                _,
            ) => self.in_window(sender, segment.seq),
            (State::Refused | State::Closed, _) => false,
        };
        if !valid {
            return Outcome::Ignored;
        }
        let handshake = !self.is_past_handshake();
        let refused = self.state == State::SynSent && sender == Server;
        self.state = if refused { State::Refused } else { State::Closed };
        if handshake { Outcome::HandshakeReset(sender) } else { Outcome::Progress }
    }

    /// RFC 9293, section 3.10.7.2 (LISTEN), 3.10.7.3 (SYN_SENT) and 3.10.7.4, fourth step.
    fn syn(&mut self, sender: Role, segment: &Segment) -> Outcome {
        use Role::{Client, Server};
        let same = segment.seq + 1 == self.client_next;
        match (self.state, sender) {
            // The answer overtook the SYN, as it may where several queues are captured.
            (State::SynReceived, Client) if same && self.marks.has(Marks::MIDWAY) => {
                self.marks.set(Marks::MIDWAY, false);
                Outcome::Answered
            }
            (State::SynSent | State::SynReceived, Client) if same => {
                self.marks.set(Marks::SYN_REPEATED, true);
                Outcome::SynRepeated
            }
            // Fast Open: the answer already took in the SYN's data.
            (State::SynReceived, Client)
                if self.marks.has(Marks::FAST_OPEN) && segment.end() == self.client_next =>
            {
                self.marks.set(Marks::SYN_REPEATED, true);
                Outcome::SynRepeated
            }
            // The client began anew before it had an answer: which one the server answers is
            // open, so both numbers are kept.
            (State::SynSent, Client) => Outcome::Superseded,
            // Simultaneous open (RFC 9293, section 3.5, figure 7).
            (State::SynSent, Server) => {
                self.state = State::SimultaneousOpen;
                self.server_next = segment.seq + 1;
                self.early_data = 0;
                Outcome::Progress
            }
            (State::SimultaneousOpen | State::SimultaneousOpenAcked(_), Client) if same => {
                Outcome::SynRepeated
            }
            (State::SimultaneousOpen | State::SimultaneousOpenAcked(_), Server)
                if segment.seq + 1 == self.server_next =>
            {
                Outcome::SynRepeated
            }
            (State::SimultaneousOpen | State::SimultaneousOpenAcked(_), _) => Outcome::Ignored,
            // Another number while the server keeps the request: out of window, and answered by
            // a bare ACK that changes nothing (`tcp_check_req`).
            (State::SynReceived, _) => Outcome::Ignored,
            // Challenge ACK, no change (RFC 5961, section 4).
            (
                State::Established
                | State::FinWait1(_)
                | State::FinWait2(_)
                | State::LastAck(_)
                | State::Closing
                | State::ClosingAcked(_),
                _,
            ) => Outcome::Ignored,
            // A late repeat of the SYN that this connection began with.
            (State::TimeWait(_) | State::Refused | State::Closed, Client) if same => {
                Outcome::Ignored
            }
            // The ports are used again (RFC 9293, section 3.6.1; RFC 6191).
            (State::TimeWait(_) | State::Refused | State::Closed, _) => Outcome::Superseded,
        }
    }

    /// RFC 9293, section 3.10.7.3, fourth step: the answer to a SYN.
    fn syn_ack(&mut self, sender: Role, segment: &Segment) -> Outcome {
        use Role::{Client, Server};
        match (self.state, sender) {
            (State::SynSent, Server) => {
                let early = segment.ack.offset_from(self.client_next);
                if early <= u32::from(self.early_data) {
                    // It may take in the data of the SYN with it (RFC 7413, section 4.2).
                    self.marks.set(Marks::FAST_OPEN, early > 0);
                } else if segment.ack != self.server_next {
                    // It acknowledges what was not sent: the client will reset (section 3.10.7.3).
                    return Outcome::Ignored;
                }
                self.state = State::SynReceived;
                self.client_next = segment.ack;
                self.server_next = segment.seq + 1;
                self.early_data = 0;
                self.marks.set(Marks::ANSWER_DUE, false);
                Outcome::Answered
            }
            (State::SynReceived, Server) => {
                if segment.ack != self.client_next {
                    return Outcome::Superseded;
                }
                let first = self.server_next - u32::from(self.early_data);
                if segment.seq + 1 == first {
                    return Outcome::AnswerRepeated;
                }
                self.server_next = segment.seq + 1;
                self.early_data = 0;
                self.marks.set(Marks::CONFIRMED, false);
                self.marks.set(Marks::ANSWER_DUE, false);
                Outcome::AnswerReplaced
            }
            // In a simultaneous open the SYN-ACK is the acknowledgement (figure 7).
            (State::SimultaneousOpen | State::SimultaneousOpenAcked(_), _) => {
                self.acknowledge_simultaneous(sender, segment)
            }
            // The server did not see the ACK, or could not take it in (accept queue full).
            (
                State::Established
                | State::FinWait1(_)
                | State::FinWait2(_)
                | State::LastAck(_)
                | State::Closing
                | State::ClosingAcked(_)
                | State::TimeWait(_)
                | State::Refused
                | State::Closed,
                Server,
            ) => {
                if self.server_next.offset_from(segment.seq) <= WINDOW
                    && self.client_next.offset_from(segment.ack) <= WINDOW
                {
                    Outcome::AnswerRepeated
                } else {
                    // The answer to a SYN that was not seen or not believed.
                    Outcome::Superseded
                }
            }
            (State::TimeWait(_) | State::Refused | State::Closed, Client) => Outcome::Superseded,
            // Only a server answers.
            (
                State::SynSent
                | State::SynReceived
                | State::Established
                | State::FinWait1(_)
                | State::FinWait2(_)
                | State::LastAck(_)
                | State::Closing
                | State::ClosingAcked(_),
                Client,
            ) => Outcome::Ignored,
        }
    }

    /// RFC 9293, section 3.10.7.4, fifth step and after: ACK, data, FIN.
    fn acknowledge(&mut self, sender: Role, segment: &Segment, one_way: bool) -> Outcome {
        use Role::{Client, Server};
        match (self.state, sender) {
            // Answers of this server are never seen: going on with ISN + 1 is all that a client
            // can show.
            (State::SynSent, Client) => {
                if !one_way
                    || segment.seq.offset_from(self.client_next) > u32::from(self.early_data)
                {
                    return Outcome::Ignored;
                }
                self.server_next = segment.ack;
                self.establish(Marks::PRESUMED);
                self.progress(sender, segment);
                Outcome::Presumed
            }
            (State::SynSent, Server) => Outcome::Ignored,
            (State::SimultaneousOpen | State::SimultaneousOpenAcked(_), _) => {
                self.acknowledge_simultaneous(sender, segment)
            }
            (State::SynReceived, Client) => {
                let sent = u32::from(self.early_data);
                let reach = if self.marks.has(Marks::FAST_OPEN) { HANDSHAKE_WINDOW } else { sent };
                if segment.ack.offset_from(self.server_next - sent) > reach
                    || !segment.seq.is_within(self.client_next, HANDSHAKE_WINDOW)
                {
                    return Outcome::Ignored;
                }
                // Where the SYN was not seen, the answer was not seen to answer anything.
                let midway = self.marks.has(Marks::MIDWAY);
                self.establish(if midway { Marks::PRESUMED } else { Marks::COMPLETED });
                self.progress(sender, segment);
                if midway { Outcome::Presumed } else { Outcome::Completed }
            }
            (State::SynReceived, Server) => {
                let first = self.server_next - u32::from(self.early_data);
                let took = segment.ack.offset_from(self.client_next);
                if !segment.seq.is_within(first, HANDSHAKE_WINDOW) || took >= WINDOW {
                    return Outcome::Ignored;
                }
                let sent = segment.end().offset_from(first);
                self.early_data = self.early_data.max(u16::try_from(sent).unwrap_or(u16::MAX));
                self.server_next = first + u32::from(self.early_data);
                // Without Fast Open a server sends data or takes it in only after the ACK, so the
                // ACK was missed. A bare ACK that takes in nothing may be a challenge.
                let open = segment.sequence_len() > 0 || took > 0;
                if !open || self.marks.has(Marks::FAST_OPEN) {
                    return Outcome::Progress;
                }
                self.establish(Marks::default());
                self.progress(sender, segment);
                Outcome::Presumed
            }
            // The server's word alone opened it; the ACK that was thought missed came late, perhaps
            // after the server's FIN.
            (State::Established | State::FinWait1(Server), Client)
                if !self.marks.intersects(Marks::SETTLED)
                    && segment
                        .ack
                        .is_within(self.server_next - HANDSHAKE_WINDOW, HANDSHAKE_WINDOW + 1) =>
            {
                self.marks.set(Marks::COMPLETED, true);
                self.progress(sender, segment);
                Outcome::Completed
            }
            (
                State::Established
                | State::FinWait1(_)
                | State::FinWait2(_)
                | State::LastAck(_)
                | State::Closing
                | State::ClosingAcked(_)
                | State::TimeWait(_),
                _,
            ) => {
                if !self.in_window(sender, segment.seq) {
                    return Outcome::Ignored;
                }
                self.progress(sender, segment);
                Outcome::Progress
            }
            (State::Refused | State::Closed, _) => Outcome::Ignored,
        }
    }

    fn establish(&mut self, mark: Marks) {
        self.state = State::Established;
        self.marks.set(mark, true);
    }

    /// RFC 9293, figure 7: each end has sent a SYN and must have the other's acknowledged.
    fn acknowledge_simultaneous(&mut self, sender: Role, segment: &Segment) -> Outcome {
        let next = self.next(sender);
        let in_order = if segment.flags.intersects(Flags::SYN) {
            // A SYN-ACK repeats the SYN.
            segment.seq + 1 == next
        } else {
            segment.seq.is_within(next, HANDSHAKE_WINDOW)
        };
        if !in_order || segment.ack != self.next(sender.peer()) {
            return Outcome::Ignored;
        }
        if self.state == State::SimultaneousOpenAcked(sender.peer()) {
            self.establish(Marks::COMPLETED);
            self.progress(sender, segment);
            return Outcome::Completed;
        }
        self.state = State::SimultaneousOpenAcked(sender);
        Outcome::Progress
    }

    /// Moves an open or closing connection by an acceptable segment: numbers, then FIN and the
    /// acknowledgements of FIN (RFC 9293, section 3.6 and 3.10.7.4, fifth and eighth step).
    fn progress(&mut self, sender: Role, segment: &Segment) {
        let fin = segment.flags.intersects(Flags::FIN);
        let peer = sender.peer();
        // What was never sent, as far as can be told, is not acknowledged either.
        let peer_fin_acked = segment.ack.offset_from(self.next(peer)) <= WINDOW;
        self.state = match (self.state, fin) {
            (State::Established, true) => State::FinWait1(sender),
            (State::FinWait1(closer), _) if closer == sender => self.state,
            // The closer's FIN is acknowledged; with a FIN of its own the peer goes to LAST_ACK at
            // once, and where it does not acknowledge, both closed at once.
            (State::FinWait1(closer), false) if peer_fin_acked => State::FinWait2(closer),
            (State::FinWait1(closer), true) if peer_fin_acked => State::LastAck(closer),
            (State::FinWait1(_), true) => State::Closing,
            (State::FinWait2(closer), true) if closer == peer => State::LastAck(closer),
            (State::LastAck(closer), _) if closer == sender && peer_fin_acked => {
                State::TimeWait(closer)
            }
            (State::Closing, _) if peer_fin_acked => State::ClosingAcked(peer),
            (State::ClosingAcked(acked), _) if acked == sender && peer_fin_acked => {
                State::TimeWait(sender)
            }
            (
                State::Established
                | State::FinWait1(_)
                | State::FinWait2(_)
                | State::LastAck(_)
                | State::Closing
                | State::ClosingAcked(_)
                | State::TimeWait(_)
                | State::SynSent
                | State::SimultaneousOpen
                | State::SimultaneousOpenAcked(_)
                | State::SynReceived
                | State::Refused
                | State::Closed,
                _,
            ) => self.state,
        };
        self.advance(sender, segment.end());
        // What the peer has acknowledged it has received: data that the capture did not see.
        self.advance(peer, segment.ack);
    }

    #[inline]
    const fn next(&self, role: Role) -> SeqNumber {
        match role {
            Role::Client => self.client_next,
            Role::Server => self.server_next,
        }
    }

    #[inline]
    fn advance(&mut self, role: Role, to: SeqNumber) {
        let next = match role {
            Role::Client => &mut self.client_next,
            Role::Server => &mut self.server_next,
        };
        if to.is_after(*next) && to.offset_from(*next) <= WINDOW {
            *next = to;
        }
    }

    /// Whether `seq` of a segment from `sender` is in the window of its peer, on either side of
    /// what is known to be sent: repeats come before it, data that was not captured after it.
    #[inline]
    fn in_window(&self, sender: Role, seq: SeqNumber) -> bool {
        seq.is_within(self.next(sender) - HANDSHAKE_WINDOW, HANDSHAKE_WINDOW + WINDOW)
    }
}

#[cfg(test)]
pub(crate) mod tests;
