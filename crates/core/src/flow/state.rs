//! The life of one connection as both ends see it (RFC 9293, section 3.3.2 and 3.10.7).
//!
//! An observer cannot ask the ends for their states; it concludes them from the segments, taking it
//! that what passes arrives. One [`State`] holds the states of both ends at once, since they
//! constrain each other: `FinWait1(Role::Client)` says that the client is in FIN_WAIT_1 and the
//! server in CLOSE_WAIT. What the receiver would drop moves nothing (RFC 9293, section 3.10.7.3 and
//! 3.10.7.4; RFC 5961), and the numbers tell what that is.
//!
//! An observer may have missed segments, so it cannot always tell a wrong number from one that it
//! has no cause for. The rules, where both ends of a connection were seen to open it:
//!
//! - An acknowledgement of what its peer is not known to have sent moves nothing, nor does its FIN:
//!   the receiver drops it with the segment. It is remembered as *doubted*. If the receiver then
//!   acknowledges what it is not known to have been sent, it took the doubted segment in, and the
//!   capture missed the cause. If the sender itself goes back, the doubt was right.
//! - A segment up to [`NEAR`] ahead of what its sender is known to have sent follows a gap of the
//!   capture, and counts. Further ahead, up to the largest window of RFC 7323, a FIN counts whose
//!   acknowledgement is exactly what the peer has sent, and anything else is doubted as above.
//! - A FIN that does not lie ahead of what its sender is known to have sent is left of the window.
//! - A RST counts at the sender's next number, which is the left edge of the window once all that
//!   was sent has arrived; or at the number that the last segment acknowledged, since a closed end
//!   takes its number from there (RFC 9293, section 3.5.2). Behind a gap of the capture it does
//!   not.
//!
//! Where one end was never seen, or the beginning was not, all acknowledgements are believed.

use std::time::Duration;

use crate::flow::patience::Patience;
use crate::flow::sampling_hash::SamplingLevel;
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
    /// A SYN with another number while the connection lives: the receiver drops it, and may answer
    /// it once it has forgotten the connection.
    SynPutOff,
    /// A SYN with another number, or the answer to one, that begins a connection of its own.
    Superseded,
    /// Data, an acknowledgement, a step of the teardown, a RST: no part of the handshake.
    Progress,
}

/// The window in which a RST or an acknowledgement of a SYN_RECV connection must lie: Linux offers
/// no more than this unscaled (`tcp_synack_window`).
const HANDSHAKE_WINDOW: u32 = 65_535;
/// How far ahead of what is known to be sent a segment needs no further evidence: the scaled window
/// of a fast path, and still only 1/4096 of the number space.
const NEAR: u32 = 1 << 20;
/// The largest window that there is (RFC 7323, section 2.3): no number further off is right.
const FAR: u32 = 65_535 << 14;
/// TCP's option of time stamps (RFC 7323).
const TIMESTAMPS: u8 = 8;

/// One connection: its states and the numbers that tell its segments from others'.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connection {
    /// The states of both ends.
    pub state: State,
    /// The client's next sequence number: its ISN + 1 while it opens.
    pub client_next: SeqNumber,
    /// The server's next sequence number. In `SynSent`, where there is none yet, ISN + 1 of an
    /// earlier SYN of the same client on the same ports.
    pub server_next: SeqNumber,
    /// In `SynSent` octets of data in the SYN (Fast Open, RFC 7413), where 65,535 stands for more;
    /// in `SynReceived` a [`Note`]; later the low half of the number that was acknowledged last. In
    /// `Closed` by a RST before it completed, after how many milliseconds that came.
    detail: u16,
    /// What else happened.
    pub marks: Marks,
    /// SYN-ACKs that the server sent on its own after the first; once open, its doubts
    /// ([`Connection::carry_on`]).
    pub answers_repeated: u8,
    /// How many flows this one stands for.
    pub level: SamplingLevel,
}

/// Things that happened to a connection, as bits; and in those above them the [`Patience`] that it
/// is counted by.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Marks(u16);

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

    /// The client is the first endpoint in the canonical order of the flow's key.
    pub const CLIENT_FIRST: Self = Self(256);
    /// It is counted as an attempt: its SYN was seen, or nothing but answers of its service is.
    pub const ATTEMPT: Self = Self(512);

    /// The first bit of the patience.
    const PATIENCE: u32 = u16::BITS - Patience::BITS;

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

    /// The patience of the server that the connection is counted by while it is half-open.
    pub(super) const fn patience(self) -> Patience {
        Patience::from_bits((self.0 >> Self::PATIENCE) as u8)
    }

    /// Has it counted by another.
    pub(super) const fn set_patience(&mut self, patience: Patience) {
        let marks = self.0 & ((1 << Self::PATIENCE) - 1);
        self.0 = marks | (patience.bits() as u16) << Self::PATIENCE;
    }
}

/// What is remembered of a half-open connection besides its numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Note {
    /// Octets that the server sent after its SYN, at most [`Self::MAX`].
    Sent(u16),
    /// The same, and its FIN is the last of them: a server may close before it has the ACK of a
    /// Fast Open (RFC 7413, section 4.2; RFC 9293, section 3.10.4).
    Closed(u16),
    /// The server's next number after its answer before the last, its low bits. Which of two
    /// answers in flight the client acknowledges is the client's to say: Linux keeps the first
    /// number as long as it keeps the request, a server that forgot or sends cookies knows its
    /// last.
    OtherAnswer(u16),
    /// The client's next number after a SYN with another number than the one that was answered.
    OtherSyn(u16),
}

impl Note {
    const MAX: u16 = 0x3fff;

    /// The low bits of a number, by which it is told from others: one guess in 16,384 is right.
    const fn mark(number: SeqNumber) -> u16 {
        number.0 as u16 & Self::MAX
    }

    const fn of(detail: u16) -> Self {
        let value = detail & Self::MAX;
        match detail >> 14 {
            0 => Self::Sent(value),
            1 => Self::Closed(value),
            2 => Self::OtherAnswer(value),
            _ => Self::OtherSyn(value),
        }
    }

    const fn detail(self) -> u16 {
        match self {
            Self::Sent(octets) => octets,
            Self::Closed(octets) => 1 << 14 | octets,
            Self::OtherAnswer(mark) => 2 << 14 | mark,
            Self::OtherSyn(mark) => 3 << 14 | mark,
        }
    }

    /// Octets that the server is known to have sent after its SYN.
    const fn sent(self) -> u32 {
        match self {
            Self::Sent(octets) | Self::Closed(octets) => octets as u32,
            Self::OtherAnswer(_) | Self::OtherSyn(_) => 0,
        }
    }

    fn octets(octets: u32) -> u16 {
        u16::try_from(octets).unwrap_or(Self::MAX).min(Self::MAX)
    }
}

/// Which ends sent a segment of an open connection that counts only if its receiver took it in.
#[derive(Clone, Copy)]
struct Doubts;

impl Doubts {
    /// A segment of this end is doubted.
    const fn segment(by: Role) -> u8 {
        match by {
            Role::Client => 1,
            Role::Server => 2,
        }
    }

    /// A FIN of this end is.
    const fn fin(by: Role) -> u8 {
        Self::segment(by) << 2
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
            detail: u16::try_from(syn.payload_len).unwrap_or(u16::MAX),
            marks: Marks::ATTEMPT,
            answers_repeated: 0,
            level: SamplingLevel::ALL,
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
            server_next: answer.end(),
            detail: Note::Sent(Note::octets(answer.payload_len)).detail(),
            marks,
            answers_repeated: 0,
            level: SamplingLevel::ALL,
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
            detail: segment.ack.0 as u16,
            marks,
            answers_repeated: 0,
            level: SamplingLevel::ALL,
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

    /// Takes note of how long after the SYN a RST stopped the handshake.
    pub fn note_reset(&mut self, after: Duration) {
        self.detail = u16::try_from(after.as_millis()).unwrap_or(u16::MAX);
    }

    /// How long after the SYN a RST stopped the handshake, at most 65 s; where one did.
    #[must_use]
    pub fn reset_after(&self) -> Option<Duration> {
        let completed = Marks(Marks::COMPLETED.0 | Marks::PRESUMED.0);
        let reset = self.state == State::Closed && !self.marks.intersects(completed);
        reset.then(|| Duration::from_millis(self.detail.into()))
    }

    /// Whether [`Self::carry_on`] may take in a segment, as far as the segment itself tells.
    #[inline]
    #[must_use]
    pub const fn may_carry_on(segment: &Segment) -> bool {
        const OF_INTEREST: u8 = Flags::SYN.0 | Flags::FIN.0 | Flags::RST.0 | Flags::ACK.0;
        segment.flags.0 & OF_INTEREST == Flags::ACK.0
    }

    /// Takes in a segment that moves nothing but the numbers of an open connection: by far the most
    /// of them. Any other is left to [`Self::receive`], and changes nothing here: `false`.
    #[inline]
    pub fn carry_on(&mut self, sender: Role, segment: &Segment) -> bool {
        let (next, peers_next) = (self.next(sender), self.next(sender.peer()));
        let carries_on = self.state == State::Established
            && Self::may_carry_on(segment)
            && self.marks.intersects(Marks::SETTLED)
            && self.answers_repeated == 0
            && segment.seq.is_within(next - HANDSHAKE_WINDOW, HANDSHAKE_WINDOW + NEAR)
            && (peers_next.offset_from(segment.ack) <= FAR || self.follows_unseen(sender, segment));
        if carries_on {
            self.advance(sender, segment.end());
            self.detail = segment.ack.0 as u16;
        }
        carries_on
    }

    /// Whether an acknowledgement of what the peer was not seen to send is believed; then it was
    /// sent.
    #[cold]
    fn follows_unseen(&mut self, sender: Role, segment: &Segment) -> bool {
        let peer = sender.peer();
        let believed = !self.marks.intersects(Marks::COMPLETED)
            && segment.ack.offset_from(self.next(peer)) <= FAR;
        if believed {
            self.advance(peer, segment.ack);
        }
        believed
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
            // A client resets what answered its SYN, with the number that was acknowledged (section
            // 3.10.7.3): another than its own means that the answer was wrong, and it waits on.
            (State::SynSent, Client) => {
                segment.seq.offset_from(self.client_next) <= u32::from(self.detail)
            }
            // Refused: acceptable only if it acknowledges the SYN (RFC 9293, section 3.10.7.3).
            (State::SynSent, Server) => {
                segment.flags.intersects(Flags::ACK)
                    && segment.ack.offset_from(self.client_next) <= u32::from(self.detail)
            }
            (
                State::SynReceived | State::SimultaneousOpen | State::SimultaneousOpenAcked(_),
                Client,
            ) => segment.seq == self.client_next,
            // The server answers a wrong acknowledgement with a RST that carries that wrong number
            // (section 3.10.7.4, SYN-RECEIVED); such a RST must not end what it keeps.
            (State::SynReceived, Server) => {
                let note = Note::of(self.detail);
                segment.seq.offset_from(self.server_next - note.sent()) <= note.sent()
                    || note == Note::OtherAnswer(Note::mark(segment.seq))
            }
            (State::SimultaneousOpen | State::SimultaneousOpenAcked(_), Server) => {
                segment.seq == self.server_next
            }
            (
                State::Established
                | State::FinWait1(_)
                | State::FinWait2(_)
                | State::LastAck(_)
                | State::Closing
                | State::ClosingAcked(_),
                _,
            ) => {
                segment.seq == self.next(sender)
                    || segment.seq.0 as u16 == self.detail && self.in_window(sender, segment.seq)
            }
            // A RST must not cut TIME_WAIT short (RFC 1337, section 3).
            (State::TimeWait(_) | State::Refused | State::Closed, _) => false,
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
                self.marks.set(Marks::ATTEMPT, true);
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
            // a bare ACK that changes nothing (`tcp_check_req`). If the server forgot, it answers.
            (State::SynReceived, Client) => {
                let note = Note::of(self.detail);
                let other = Note::OtherSyn(Note::mark(segment.seq + 1));
                if note == other {
                    return Outcome::SynRepeated;
                }
                if !matches!(note, Note::Closed(_)) && note.sent() == 0 {
                    self.detail = other.detail();
                }
                Outcome::SynPutOff
            }
            (State::SynReceived, Server) => Outcome::Ignored,
            // Challenge ACK, no change (RFC 5961, section 4). One that is not beyond what the
            // client has sent is a late repeat of the SYN that the connection began with.
            (
                State::Established
                | State::FinWait1(_)
                | State::FinWait2(_)
                | State::LastAck(_)
                | State::Closing
                | State::ClosingAcked(_),
                Client,
            ) => {
                let late = 1..=NEAR;
                if late.contains(&self.client_next.offset_from(segment.seq)) {
                    Outcome::SynRepeated
                } else {
                    Outcome::SynPutOff
                }
            }
            (
                State::Established
                | State::FinWait1(_)
                | State::FinWait2(_)
                | State::LastAck(_)
                | State::Closing
                | State::ClosingAcked(_),
                _,
            ) => Outcome::Ignored,
            // The client asks once more, and may be answered this time.
            (State::Refused, Client) if same => {
                self.state = State::SynSent;
                self.marks.set(Marks::SYN_REPEATED, true);
                Outcome::SynRepeated
            }
            // A late repeat of the SYN that this connection began with.
            (State::TimeWait(_) | State::Closed, Client) if same => Outcome::SynRepeated,
            // The receiver is in TIME_WAIT itself, and takes a SYN only with a number beyond the
            // last (RFC 1122, section 4.2.2.13) or a newer time stamp (RFC 6191), which is not seen
            // here.
            (State::TimeWait(waiting), _)
                if waiting != sender
                    && !segment.seq.is_after(self.next(sender) - 1)
                    && !segment.options.contains(TIMESTAMPS) =>
            {
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
                if early <= u32::from(self.detail) {
                    // It may take in the data of the SYN with it (RFC 7413, section 4.2).
                    self.marks.set(Marks::FAST_OPEN, early > 0);
                } else if segment.ack != self.server_next {
                    // It acknowledges what was not sent: the client will reset (section 3.10.7.3).
                    return Outcome::Ignored;
                }
                self.state = State::SynReceived;
                self.client_next = segment.ack;
                // Any segment may carry data, this one too (section 3.5).
                self.server_next = segment.end();
                self.detail = Note::Sent(Note::octets(segment.payload_len)).detail();
                self.marks.set(Marks::ANSWER_DUE, false);
                Outcome::Answered
            }
            (State::SynReceived, Server) => self.syn_ack_again(segment),
            // In a simultaneous open the SYN-ACK is the acknowledgement (figure 7).
            (State::SimultaneousOpen | State::SimultaneousOpenAcked(_), _) => {
                self.acknowledge_simultaneous(sender, segment)
            }
            // The server did not see the ACK, or could not take it in (accept queue full). With
            // other numbers it gets a challenge ACK, and changes nothing (RFC 5961, section 4).
            (
                State::Established
                | State::FinWait1(_)
                | State::FinWait2(_)
                | State::LastAck(_)
                | State::Closing
                | State::ClosingAcked(_),
                Server,
            ) => {
                if self.is_old_answer(segment) {
                    Outcome::AnswerRepeated
                } else {
                    Outcome::Ignored
                }
            }
            // Nothing but a SYN begins anew in TIME_WAIT. Where only answers are seen, one must do.
            (State::TimeWait(_), _) if !self.marks.has(Marks::MIDWAY) => Outcome::Ignored,
            (State::TimeWait(_) | State::Refused | State::Closed, Server)
                if self.is_old_answer(segment) =>
            {
                Outcome::AnswerRepeated
            }
            // The answer to a SYN that was not seen or not believed.
            (State::TimeWait(_) | State::Refused | State::Closed, _) => Outcome::Superseded,
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

    /// A SYN-ACK while the connection is half-open.
    fn syn_ack_again(&mut self, segment: &Segment) -> Outcome {
        let note = Note::of(self.detail);
        if segment.ack != self.client_next {
            // The client resets it, and the request stays; unless it answers a SYN that was seen.
            // Where only answers are seen, none could be.
            let unseen = self.marks.has(Marks::MIDWAY);
            return if self.has_put_off(segment) || unseen {
                Outcome::Superseded
            } else {
                Outcome::Ignored
            };
        }
        let sent = note.sent();
        let first = self.server_next - sent;
        // More was sent than could be noted, so the first number is not known exactly.
        let vague = sent == u32::from(Note::MAX);
        let behind = first.offset_from(segment.seq + 1);
        if behind == 0 || vague && behind <= HANDSHAKE_WINDOW {
            return Outcome::AnswerRepeated;
        }
        self.detail = Note::OtherAnswer(Note::mark(self.server_next)).detail();
        self.server_next = segment.end();
        self.marks.set(Marks::CONFIRMED, false);
        self.marks.set(Marks::ANSWER_DUE, false);
        Outcome::AnswerReplaced
    }

    /// Whether a SYN-ACK answers a SYN that was [put off](Outcome::SynPutOff).
    #[must_use]
    pub fn has_put_off(&self, answer: &Segment) -> bool {
        self.state == State::SynReceived
            && answer.flags.is_syn_ack()
            && Note::of(self.detail) == Note::OtherSyn(Note::mark(answer.ack))
    }

    /// Whether a segment is the SYN again that a connection began with which was closed in its
    /// handshake.
    #[must_use]
    pub fn is_asked_again(&self, sender: Role, segment: &Segment) -> bool {
        matches!(self.state, State::Refused | State::Closed)
            && sender == Role::Client
            && segment.flags.is_syn()
            && segment.seq + 1 == self.client_next
    }

    /// Whether a SYN-ACK may be the one that this connection began with.
    fn is_old_answer(&self, segment: &Segment) -> bool {
        self.server_next.offset_from(segment.seq) <= NEAR
            && self.client_next.offset_from(segment.ack) <= NEAR
    }

    /// RFC 9293, section 3.10.7.4, fifth step and after: ACK, data, FIN.
    fn acknowledge(&mut self, sender: Role, segment: &Segment, one_way: bool) -> Outcome {
        use Role::{Client, Server};
        match (self.state, sender) {
            // Answers of this server are never seen: going on with ISN + 1 is all that a client
            // can show.
            (State::SynSent, Client) => {
                if !one_way || segment.seq.offset_from(self.client_next) > u32::from(self.detail) {
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
            (State::SynReceived, Client) => self.complete(segment),
            (State::SynReceived, Server) => self.server_before_ack(segment),
            // The server's word alone opened it; the ACK that was thought missed came late, perhaps
            // after the server's FIN.
            (State::Established | State::FinWait1(Server), Client)
                if !self.marks.intersects(Marks::SETTLED)
                    && self.in_window(Client, segment.seq)
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
                if !self.takes_in(sender, segment, one_way) {
                    return Outcome::Ignored;
                }
                self.progress(sender, segment);
                Outcome::Progress
            }
            (State::Refused | State::Closed, _) => Outcome::Ignored,
        }
    }

    /// The client's word on a half-open connection: SND.UNA < SEG.ACK =< SND.NXT of the server (RFC
    /// 9293, section 3.10.7.4, fifth step, SYN-RECEIVED).
    fn complete(&mut self, segment: &Segment) -> Outcome {
        let note = Note::of(self.detail);
        let sent = note.sent();
        let fast_open = self.marks.has(Marks::FAST_OPEN) && !matches!(note, Note::Closed(_));
        let reach = if fast_open { HANDSHAKE_WINDOW } else { sent };
        let last = segment.ack.offset_from(self.server_next - sent) <= reach;
        let other = !last && note == Note::OtherAnswer(Note::mark(segment.ack));
        if !(last || other) || !segment.seq.is_within(self.client_next, HANDSHAKE_WINDOW) {
            return Outcome::Ignored;
        }
        if other {
            self.server_next = segment.ack;
        }
        // Where the SYN was not seen, the answer was not seen to answer anything.
        let midway = self.marks.has(Marks::MIDWAY);
        self.establish(if midway { Marks::PRESUMED } else { Marks::COMPLETED });
        if matches!(note, Note::Closed(_)) {
            self.state = State::FinWait1(Role::Server);
        }
        self.progress(Role::Client, segment);
        if midway { Outcome::Presumed } else { Outcome::Completed }
    }

    /// A segment of the server while the ACK of its SYN has not been seen.
    fn server_before_ack(&mut self, segment: &Segment) -> Outcome {
        let note = Note::of(self.detail);
        let mut first = self.server_next - note.sent();
        if note == Note::OtherAnswer(Note::mark(segment.seq)) {
            first = segment.seq;
        }
        let took = segment.ack.offset_from(self.client_next);
        if !segment.seq.is_within(first, HANDSHAKE_WINDOW) || took >= NEAR {
            return Outcome::Ignored;
        }
        // Without Fast Open a server sends data or takes it in only after the ACK, so the ACK was
        // missed. A bare ACK that takes in nothing may be a challenge.
        let open = segment.sequence_len() > 0 || took > 0;
        if open && !self.marks.has(Marks::FAST_OPEN) {
            self.server_next = first;
            self.establish(Marks::default());
            self.progress(Role::Server, segment);
            return Outcome::Presumed;
        }
        let end = segment.end();
        if !matches!(note, Note::Closed(_)) && end.is_after(self.server_next) {
            let octets = Note::octets(end.offset_from(first));
            let fin = segment.flags.intersects(Flags::FIN);
            let note = if fin { Note::Closed(octets) } else { Note::Sent(octets) };
            self.detail = note.detail();
            self.server_next = end;
        }
        Outcome::Progress
    }

    /// Whether the receiver takes in a segment of an open or closing connection, as the rules at
    /// the top have it; and what is doubted after it.
    fn takes_in(&mut self, sender: Role, segment: &Segment, one_way: bool) -> bool {
        let peer = sender.peer();
        let (next, end) = (self.next(sender), segment.end());
        let fin = segment.flags.intersects(Flags::FIN);
        let ahead = segment.ack.offset_from(self.next(peer));
        let behind = self.next(peer).offset_from(segment.ack);
        // By far the most come here: in order, and of a sender of whom nothing is doubted.
        let waits = matches!(self.state, State::TimeWait(_));
        let in_order = segment.seq == next && behind <= FAR && self.answers_repeated == 0;
        if in_order && !waits && !(fin && self.has_closed(sender)) {
            return true;
        }
        let fin_in_place = if self.has_closed(sender) { end == next } else { end.is_after(next) };
        if !self.in_window(sender, segment.seq) || fin && !fin_in_place || ahead.min(behind) > FAR {
            return false;
        }
        let beyond = segment.ack.is_after(self.next(peer));
        if waits {
            // Only a FIN that comes again counts: TIME_WAIT starts anew (section 3.10.7.4, eighth
            // step).
            return fin && !beyond;
        }
        let whole = self.marks.has(Marks::COMPLETED) && !one_way;
        let evidence = if beyond {
            // Nothing comes after a FIN.
            if self.has_closed(peer) {
                return false;
            }
            self.answers_repeated & Doubts::segment(peer) != 0
        } else {
            let gap = segment.seq.is_after(next + NEAR);
            !gap || fin && ahead == 0
        };
        let of_sender = Doubts::segment(sender) | Doubts::fin(sender);
        if whole && !evidence {
            let doubts = if fin { of_sender } else { Doubts::segment(sender) };
            self.answers_repeated |= doubts;
            return false;
        }
        if beyond {
            if self.answers_repeated & Doubts::fin(peer) != 0 {
                self.close(peer, segment.ack);
            }
            self.answers_repeated = 0;
        } else if self.answers_repeated & of_sender != 0 {
            // It goes on after the FIN, or back.
            let after_fin = self.answers_repeated & Doubts::fin(sender) != 0
                && segment.sequence_len() == 0
                && segment.seq.is_after(next);
            if after_fin {
                self.close(sender, segment.seq);
            }
            self.answers_repeated &= !of_sender;
        }
        true
    }

    /// Takes in a FIN that was doubted; `next` is the number after it.
    fn close(&mut self, by: Role, next: SeqNumber) {
        self.state = match self.state {
            State::Established => State::FinWait1(by),
            State::FinWait1(closer) if closer != by => State::Closing,
            State::FinWait2(closer) if closer != by => State::LastAck(closer),
            state => state,
        };
        match by {
            Role::Client => self.client_next = next,
            Role::Server => self.server_next = next,
        }
    }

    /// Whether an end has sent its FIN.
    fn has_closed(&self, role: Role) -> bool {
        match self.state {
            State::FinWait1(closer) | State::FinWait2(closer) => closer == role,
            State::LastAck(_)
            | State::Closing
            | State::ClosingAcked(_)
            | State::TimeWait(_)
            | State::Refused
            | State::Closed => true,
            State::SynSent
            | State::SimultaneousOpen
            | State::SimultaneousOpenAcked(_)
            | State::SynReceived
            | State::Established => false,
        }
    }

    fn establish(&mut self, mark: Marks) {
        self.state = State::Established;
        self.marks.set(mark, true);
        self.answers_repeated = 0;
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
        // Nothing comes after a FIN. What the peer has acknowledged it has received: where it
        // counts, it is data that the capture did not see.
        if !self.has_closed(peer) {
            self.advance(peer, segment.ack);
        }
        if !self.has_closed(sender) {
            self.advance(sender, segment.end());
        }
        self.detail = segment.ack.0 as u16;
        let peer_fin_acked = segment.ack == self.next(peer);
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
    }

    #[inline]
    const fn next(&self, role: Role) -> SeqNumber {
        match role {
            Role::Client => self.client_next,
            Role::Server => self.server_next,
        }
    }

    #[inline]
    const fn advance(&mut self, role: Role, to: SeqNumber) {
        if to.offset_from(self.next(role)) <= FAR {
            match role {
                Role::Client => self.client_next = to,
                Role::Server => self.server_next = to,
            }
        }
    }

    /// Whether `seq` of a segment from `sender` may be in the window of its peer, on either side of
    /// what is known to be sent: repeats come before it, data that was not captured after it.
    fn in_window(&self, sender: Role, seq: SeqNumber) -> bool {
        seq.is_within(self.next(sender) - HANDSHAKE_WINDOW, HANDSHAKE_WINDOW + FAR)
    }
}

#[cfg(test)]
pub(crate) mod tests;
