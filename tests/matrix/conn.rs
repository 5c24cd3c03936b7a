//! One connection as its client sees it, and what the client does next.

use synwatch_core::wire::{Address, Flags, OptionLayout, Segment, SeqNumber};

use crate::population::Look;
use crate::server::RequestId;

/// Octets of a request.
pub const REQUEST: u32 = 400;

pub const ACK: Flags = Flags::ACK;
pub const PSH_ACK: Flags = Flags(Flags::PSH.0 | Flags::ACK.0);
pub const FIN_ACK: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);
pub const RST_ACK: Flags = Flags(Flags::RST.0 | Flags::ACK.0);

/// What a client means to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plan {
    /// Requests and replies.
    Talk,
    /// Connect, and close without a word.
    Quiet,
    /// A request in the SYN.
    FastOpen,
    /// Answer the SYN-ACK with a RST.
    Reset,
    /// Repeat the SYN as a client does, and ignore every answer: a forger who feigns one.
    Insist,
    /// Complete the handshake, then reset.
    Touch,
    /// Send the SYN and vanish.
    Vanish,
}

/// How far the client has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    SynSent,
    /// It has acknowledged the SYN-ACK; the server may not have taken note.
    Acked,
    /// Both know.
    Established,
    Done,
}

/// The next thing that happens in a connection, as the victim's interface sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// The SYN, or its repeat of this number.
    Syn(u8),
    /// The client's answer to a SYN-ACK.
    Answer,
    /// The client sends a request, or repeats it for the so many-th time.
    Request(u8),
    /// The server replies.
    Reply,
    /// The client acknowledges the reply.
    ReplyAck,
    /// One end closes.
    Close,
    /// The client answers the server's FIN.
    CloseAck,
    /// The client acknowledges the server's FIN, its own being acknowledged.
    LastAck,
}

/// What a host elsewhere does with a SYN.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Elsewhere {
    /// There is none.
    Absent,
    Refuses,
    Answers,
}

#[derive(Clone, Copy, Debug)]
pub struct Conn {
    pub client: Address,
    pub server: Address,
    pub client_port: u16,
    pub server_port: u16,
    pub listener: Option<u32>,
    /// Where the server is a host elsewhere, whose queues are not modelled.
    pub elsewhere: Option<Elsewhere>,
    pub look: Look,
    pub plan: Plan,
    pub state: State,
    /// Round-trip time to the server in nanoseconds.
    pub rtt: u64,
    pub isn: SeqNumber,
    pub server_isn: SeqNumber,
    /// Octets that each end has sent, SYN included.
    pub sent: u32,
    pub received: u32,
    pub request: Option<RequestId>,
    /// The SYN-ACK that the client answers holds no place in a queue: a cookie, or a proxy's.
    pub cookie: bool,
    pub requests_left: u8,
    pub closed_by_server: bool,
    /// Events that are still to come.
    pub events: u16,
}

impl Conn {
    /// The SYN; with Fast Open it carries the request.
    pub fn syn(&self) -> Segment {
        let payload_len = if self.plan == Plan::FastOpen { REQUEST } else { 0 };
        Segment {
            seq: self.isn,
            ack: SeqNumber(0),
            window: self.look.window,
            mss: self.look.mss,
            options: self.look.options,
            ..self.client_sends(Flags::SYN, payload_len)
        }
    }

    /// What the client sends next.
    pub fn client_sends(&self, flags: Flags, payload_len: u32) -> Segment {
        Segment {
            source: self.client,
            destination: self.server,
            source_port: self.client_port,
            destination_port: self.server_port,
            seq: self.isn + self.sent,
            ack: self.server_isn + self.received,
            flags,
            window: 502,
            payload_len,
            ttl: self.look.ttl,
            mss: None,
            options: OptionLayout::default(),
        }
    }

    /// What the server sends next.
    pub fn server_sends(&self, flags: Flags, payload_len: u32) -> Segment {
        Segment {
            source: self.server,
            destination: self.client,
            source_port: self.server_port,
            destination_port: self.client_port,
            seq: self.server_isn + self.received,
            ack: self.isn + self.sent,
            flags,
            window: 505,
            payload_len,
            ttl: 64,
            mss: None,
            options: OptionLayout::default(),
        }
    }
}
