//! The named transitions, told as traffic: the handshake here, the rest in [`open`]; [`table`]
//! holds every state against every segment.

mod open;
mod table;

use proptest::prelude::*;

use super::Role::{Client, Server};
use super::State::{
    Closed, Closing, ClosingAcked, Established, FinWait1, FinWait2, LastAck, Refused,
    SimultaneousOpen, SimultaneousOpenAcked, SynReceived, SynSent, TimeWait,
};
use super::*;
use crate::wire::{Address, OptionLayout};

/// A segment of the connection that all tests are about.
pub(crate) fn segment(flags: Flags, seq: u32, ack: u32) -> Segment {
    Segment {
        source: Address::v4([198, 51, 100, 7]),
        destination: Address::v4([192, 0, 2, 10]),
        source_port: 40_000,
        destination_port: 443,
        seq: SeqNumber(seq),
        ack: SeqNumber(ack),
        flags,
        window: 64_240,
        payload_len: 0,
        ttl: 64,
        mss: None,
        options: OptionLayout::default(),
    }
}

const SYN: Flags = Flags::SYN;
const ACK: Flags = Flags::ACK;
const RST: Flags = Flags::RST;
const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);
const FIN_ACK: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);
const RST_ACK: Flags = Flags(Flags::RST.0 | Flags::ACK.0);

/// A segment and the end that sends it.
#[derive(Clone, Copy, Debug)]
struct Sent {
    by: Role,
    segment: Segment,
}

impl Sent {
    /// The same with so many octets of data.
    fn data(mut self, octets: u32) -> Self {
        self.segment.payload_len = octets;
        self
    }
}

/// `client(SYN, 100, 0)`: the client sends a SYN with the sequence number 100.
fn client(flags: Flags, seq: u32, ack: u32) -> Sent {
    Sent { by: Client, segment: segment(flags, seq, ack) }
}

/// `server(SYN_ACK, 300, 101)`: the server sends a SYN-ACK, number 300, acknowledging 101.
fn server(flags: Flags, seq: u32, ack: u32) -> Sent {
    Sent { by: Server, segment: segment(flags, seq, ack) }
}

/// A connection whose segments are checked one by one. Where a test does not say otherwise, the
/// client's ISN is 100 and the server's 300.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    connection: Connection,
    one_way: bool,
}

impl Exchange {
    fn begins(syn: Sent) -> Self {
        Self { connection: Connection::open(&syn.segment), one_way: false }
    }

    /// Passes a segment and requires what it does and which states it leaves.
    #[track_caller]
    fn then(mut self, sent: Sent, outcome: Outcome, state: State) -> Self {
        let before = self.connection;
        let got = self.connection.receive(sent.by, &sent.segment, self.one_way);
        assert_eq!((got, self.connection.state), (outcome, state), "{sent:?} in {before:?}");
        self
    }

    /// Passes a segment that must change nothing, except that it may be remembered.
    #[track_caller]
    fn ignores(self, sent: Sent) -> Self {
        self.drops(sent, Outcome::Ignored)
    }

    /// The same of a SYN that counts all the same: as a repeat, or as an attempt that is put off.
    #[track_caller]
    fn drops(self, sent: Sent, outcome: Outcome) -> Self {
        let after = self.then(sent, outcome, self.connection.state);
        assert_eq!(moved(&after.connection), moved(&self.connection), "{sent:?}");
        after
    }
}

/// All of a connection but what is remembered of segments that moved nothing.
fn moved(connection: &Connection) -> Connection {
    let mut moved = *connection;
    if connection.is_past_handshake() {
        moved.answers_repeated = 0;
    }
    if matches!(Note::of(connection.detail), Note::OtherSyn(_) | Note::OtherAnswer(_)) {
        moved.detail = 0;
    }
    moved
}

fn syn_sent() -> Exchange {
    Exchange::begins(client(SYN, 100, 0))
}

fn syn_received() -> Exchange {
    syn_sent().then(server(SYN_ACK, 300, 101), Outcome::Answered, SynReceived)
}

fn established() -> Exchange {
    syn_received().then(client(ACK, 101, 301), Outcome::Completed, Established)
}

/// The FIN, and the acknowledgement of the FIN, of either end of [`established`].
fn fin(by: Role) -> Sent {
    match by {
        Client => client(FIN_ACK, 101, 301),
        Server => server(FIN_ACK, 301, 101),
    }
}

fn fin_wait_1(closer: Role) -> Exchange {
    established().then(fin(closer), Outcome::Progress, FinWait1(closer))
}

fn fin_wait_2(closer: Role) -> Exchange {
    let ack = match closer {
        Client => server(ACK, 301, 102),
        Server => client(ACK, 101, 302),
    };
    fin_wait_1(closer).then(ack, Outcome::Progress, FinWait2(closer))
}

fn last_ack(closer: Role) -> Exchange {
    let fin = match closer {
        Client => server(FIN_ACK, 301, 102),
        Server => client(FIN_ACK, 101, 302),
    };
    fin_wait_2(closer).then(fin, Outcome::Progress, LastAck(closer))
}

fn time_wait(closer: Role) -> Exchange {
    let ack = match closer {
        Client => client(ACK, 102, 302),
        Server => server(ACK, 302, 102),
    };
    last_ack(closer).then(ack, Outcome::Progress, TimeWait(closer))
}

/// Both FINs cross: neither acknowledges the other.
fn closing() -> Exchange {
    fin_wait_1(Client).then(fin(Server), Outcome::Progress, Closing)
}

fn closing_acked(acked: Role) -> Exchange {
    let ack = match acked {
        Client => server(ACK, 302, 102),
        Server => client(ACK, 102, 302),
    };
    closing().then(ack, Outcome::Progress, ClosingAcked(acked))
}

fn simultaneous_open() -> Exchange {
    syn_sent().then(server(SYN, 300, 0), Outcome::Progress, SimultaneousOpen)
}

fn simultaneous_open_acked(by: Role) -> Exchange {
    let answer = match by {
        Client => client(SYN_ACK, 100, 301),
        Server => server(SYN_ACK, 300, 101),
    };
    simultaneous_open().then(answer, Outcome::Progress, SimultaneousOpenAcked(by))
}

fn refused() -> Exchange {
    syn_sent().then(server(RST_ACK, 0, 101), Outcome::HandshakeReset(Server), Refused)
}

fn closed() -> Exchange {
    syn_received().then(client(RST, 101, 0), Outcome::HandshakeReset(Client), Closed)
}

// SYN_SENT

#[test]
fn syn_sent_syn_ack() {
    syn_received();
}

#[test]
fn syn_sent_syn_ack_for_another_number() {
    syn_sent().ignores(server(SYN_ACK, 300, 100)).ignores(server(SYN_ACK, 300, 102));
}

#[test]
fn syn_sent_syn_repeated() {
    let exchange = syn_sent().then(client(SYN, 100, 0), Outcome::SynRepeated, SynSent);
    assert!(exchange.connection.marks.has(Marks::SYN_REPEATED));
    exchange.then(server(SYN_ACK, 300, 101), Outcome::Answered, SynReceived);
}

#[test]
fn syn_sent_syn_with_a_new_number() {
    syn_sent().then(client(SYN, 9_000, 0), Outcome::Superseded, SynSent);
}

#[test]
fn syn_sent_rst_by_server() {
    refused();
}

#[test]
fn syn_sent_rst_by_server_that_acknowledges_nothing() {
    syn_sent()
        .ignores(server(RST, 0, 0))
        .ignores(server(RST, 101, 0))
        .ignores(server(RST_ACK, 0, 100))
        .ignores(server(RST_ACK, 0, 102));
}

#[test]
fn syn_sent_rst_by_client() {
    syn_sent().then(client(RST, 101, 0), Outcome::HandshakeReset(Client), Closed);
    syn_sent().ignores(client(RST, 99, 0)).ignores(client(RST, 100_000, 0));
}

#[test]
fn syn_sent_ack_completes_nothing() {
    syn_sent().ignores(client(ACK, 101, 301)).ignores(server(ACK, 301, 101));
}

#[test]
fn syn_sent_ack_where_answers_are_never_seen() {
    let one_way = Exchange { one_way: true, ..syn_sent() };
    one_way.then(client(ACK, 101, 301), Outcome::Presumed, Established);
    one_way.then(client(FIN_ACK, 101, 301), Outcome::Presumed, FinWait1(Client));
    one_way.ignores(client(ACK, 102, 301)).ignores(server(ACK, 301, 101));
}

#[test]
fn syn_sent_syn_by_server() {
    simultaneous_open();
}

// Fast Open (RFC 7413)

/// A SYN with 50 octets of data.
fn fast_open() -> Exchange {
    Exchange::begins(client(SYN, 100, 0).data(50))
}

/// The server takes in the data with the SYN.
fn fast_open_accepted() -> Exchange {
    fast_open().then(server(SYN_ACK, 300, 151), Outcome::Answered, SynReceived)
}

#[test]
fn syn_sent_fast_open_accepted() {
    let exchange = fast_open_accepted();
    assert!(exchange.connection.marks.has(Marks::FAST_OPEN));
    exchange.then(client(ACK, 151, 301), Outcome::Completed, Established);
}

#[test]
fn syn_sent_fast_open_accepted_in_part() {
    fast_open().then(server(SYN_ACK, 300, 120), Outcome::Answered, SynReceived).then(
        client(ACK, 120, 301),
        Outcome::Completed,
        Established,
    );
}

#[test]
fn syn_sent_fast_open_not_accepted() {
    let exchange = fast_open().then(server(SYN_ACK, 300, 101), Outcome::Answered, SynReceived);
    assert!(!exchange.connection.marks.has(Marks::FAST_OPEN));
    // The client sends the data again with its ACK.
    exchange.then(client(ACK, 101, 301).data(50), Outcome::Completed, Established);
}

#[test]
fn syn_sent_fast_open_ack_beyond_the_data() {
    fast_open().ignores(server(SYN_ACK, 300, 152)).ignores(server(RST_ACK, 0, 152));
}

#[test]
fn syn_sent_fast_open_refused() {
    let refused = Outcome::HandshakeReset(Server);
    fast_open().then(server(RST_ACK, 0, 151), refused, Refused);
    fast_open().then(server(RST_ACK, 0, 101), refused, Refused);
}

#[test]
fn syn_received_fast_open_server_data_before_the_ack() {
    // The client may have sent the SYN from a forged address: the data proves nothing.
    fast_open_accepted()
        .then(server(ACK, 301, 151).data(1_000), Outcome::Progress, SynReceived)
        .then(client(ACK, 151, 1_301), Outcome::Completed, Established);
}

#[test]
fn syn_received_fast_open_syn_repeated() {
    fast_open_accepted().then(client(SYN, 100, 0).data(50), Outcome::SynRepeated, SynReceived);
}

#[test]
fn syn_received_fast_open_ack_inside_unseen_server_data() {
    fast_open_accepted().then(client(ACK, 151, 5_301), Outcome::Completed, Established);
    fast_open_accepted().ignores(client(ACK, 151, 301 + 65_536)).ignores(client(ACK, 151, 300));
}

// SYN_RECEIVED

#[test]
fn syn_received_ack() {
    let exchange = established();
    assert!(exchange.connection.marks.has(Marks::COMPLETED));
}

#[test]
fn syn_received_ack_with_data() {
    syn_received().then(client(ACK, 101, 301).data(500), Outcome::Completed, Established);
    // The bare ACK was lost, and this is the second segment of data.
    syn_received().then(client(ACK, 1_561, 301).data(500), Outcome::Completed, Established);
}

#[test]
fn syn_received_ack_with_fin() {
    syn_received().then(client(FIN_ACK, 101, 301), Outcome::Completed, FinWait1(Client));
}

#[test]
fn syn_received_wrong_ack() {
    for ack in [0, 300, 302, 301 + 65_535, 301_u32.wrapping_sub(65_536), 0x8000_0000, u32::MAX] {
        syn_received().ignores(client(ACK, 101, ack));
    }
}

#[test]
fn syn_received_ack_out_of_window() {
    syn_received().ignores(client(ACK, 100, 301)).ignores(client(ACK, 101 + 65_535, 301));
}

#[test]
fn syn_received_syn_ack_repeated() {
    syn_received().then(server(SYN_ACK, 300, 101), Outcome::AnswerRepeated, SynReceived).then(
        client(ACK, 101, 301),
        Outcome::Completed,
        Established,
    );
}

#[test]
fn syn_received_syn_ack_with_a_new_number() {
    // A cookie of another minute, or a server that forgot. Both are in flight, and the client may
    // have taken either.
    let twice =
        syn_received().then(server(SYN_ACK, 7_300, 101), Outcome::AnswerReplaced, SynReceived);
    twice.ignores(client(ACK, 101, 302)).ignores(client(ACK, 101, 7_302)).then(
        client(ACK, 101, 7_301),
        Outcome::Completed,
        Established,
    );
    twice
        .then(client(ACK, 101, 301), Outcome::Completed, Established)
        .then(server(ACK, 301, 101).data(10), Outcome::Progress, Established)
        .then(client(FIN_ACK, 101, 311), Outcome::Progress, FinWait1(Client));
    // With a third answer the first is out of date.
    twice
        .then(server(SYN_ACK, 9_300, 101), Outcome::AnswerReplaced, SynReceived)
        .ignores(client(ACK, 101, 301))
        .then(client(ACK, 101, 7_301), Outcome::Completed, Established);
}

#[test]
fn syn_received_syn_ack_for_another_syn() {
    // Nobody asked for it: the client resets it, and the server keeps the request.
    syn_received().ignores(server(SYN_ACK, 300, 5_001)).ignores(client(RST, 5_001, 0)).then(
        client(ACK, 101, 301),
        Outcome::Completed,
        Established,
    );
    // The client began anew, and the server has forgotten the request.
    syn_received()
        .drops(client(SYN, 5_000, 0), Outcome::SynPutOff)
        .drops(client(SYN, 5_000, 0), Outcome::SynRepeated)
        .ignores(server(SYN_ACK, 300, 5_002))
        .then(server(SYN_ACK, 300, 5_001), Outcome::Superseded, SynReceived);
    // Where only answers are seen, none is asked for.
    let connection = Connection::answered(&server(SYN_ACK, 300, 101).segment);
    Exchange { connection, one_way: false }.then(
        server(SYN_ACK, 300, 5_001),
        Outcome::Superseded,
        SynReceived,
    );
}

#[test]
fn syn_received_syn_repeated() {
    syn_received().then(client(SYN, 100, 0), Outcome::SynRepeated, SynReceived);
}

#[test]
fn syn_received_syn_with_a_new_number() {
    syn_received().drops(client(SYN, 9_000, 0), Outcome::SynPutOff).ignores(server(SYN, 300, 0));
}

#[test]
fn syn_received_rst_in_window() {
    // At the left edge it resets; elsewhere in the window a challenge ACK is all that it gets.
    closed();
    syn_received().ignores(client(RST, 102, 0)).ignores(client(RST, 101 + 65_534, 0));
}

#[test]
fn syn_received_rst_out_of_window() {
    syn_received().ignores(client(RST, 100, 0)).ignores(client(RST, 101 + 65_535, 0));
}

#[test]
fn syn_received_server_rst() {
    let reset = Outcome::HandshakeReset(Server);
    syn_received().then(server(RST, 301, 0), reset, Closed);
}

#[test]
fn syn_received_server_rst_for_wrong_ack() {
    // Somebody acknowledges 7,000; the server's RST takes its number from there (RFC 9293,
    // section 3.10.7.4, SYN-RECEIVED) and the request stays in its queue.
    syn_received().ignores(client(ACK, 101, 7_000)).ignores(server(RST, 7_000, 0)).then(
        client(ACK, 101, 301),
        Outcome::Completed,
        Established,
    );
}

#[test]
fn syn_received_server_data() {
    // A server sends data only after the ACK, so the ACK was missed.
    let presumed =
        syn_received().then(server(ACK, 301, 101).data(1_000), Outcome::Presumed, Established);
    // It comes late after all, inside what the server has sent.
    presumed.then(client(ACK, 101, 301), Outcome::Completed, Established);
    presumed.then(client(ACK, 101, 801), Outcome::Completed, Established).then(
        client(ACK, 101, 1_301),
        Outcome::Progress,
        Established,
    );
}

#[test]
fn syn_received_server_takes_in_data() {
    syn_received().then(server(ACK, 301, 601), Outcome::Presumed, Established);
}

#[test]
fn syn_received_server_fin() {
    let presumed =
        syn_received().then(server(FIN_ACK, 301, 101), Outcome::Presumed, FinWait1(Server));
    // The ACK that was thought missed comes late.
    presumed.then(client(ACK, 101, 301), Outcome::Completed, FinWait1(Server));
    presumed.then(client(ACK, 101, 302), Outcome::Completed, FinWait2(Server));
}

#[test]
fn syn_received_server_challenge_ack() {
    // The answer to a SYN with another number (`tcp_check_req`) opens nothing.
    syn_received()
        .drops(client(SYN, 9_000, 0), Outcome::SynPutOff)
        .then(server(ACK, 301, 101), Outcome::Progress, SynReceived)
        .then(client(ACK, 101, 301), Outcome::Completed, Established);
}

#[test]
fn syn_received_server_ack_of_what_was_never_sent() {
    syn_received().ignores(server(ACK, 301, 0x4000_0000).data(100));
}

#[test]
fn syn_received_midway_then_its_syn() {
    // The answer overtook the SYN on another queue of the interface.
    let answer = server(SYN_ACK, 300, 101);
    let connection = Connection::answered(&answer.segment);
    Exchange { connection, one_way: false }
        .then(client(SYN, 100, 0), Outcome::Answered, SynReceived)
        .then(client(ACK, 101, 301), Outcome::Completed, Established);
}

#[test]
fn syn_received_midway_ack() {
    let connection = Connection::answered(&server(SYN_ACK, 300, 101).segment);
    Exchange { connection, one_way: false }.ignores(client(ACK, 101, 302)).then(
        client(ACK, 101, 301),
        Outcome::Presumed,
        Established,
    );
}

// Simultaneous open (RFC 9293, figure 7) and its relative, the split handshake

#[test]
fn simultaneous_open_syn_acks_cross() {
    simultaneous_open_acked(Client).then(
        server(SYN_ACK, 300, 101),
        Outcome::Completed,
        Established,
    );
    simultaneous_open_acked(Server).then(
        client(SYN_ACK, 100, 301),
        Outcome::Completed,
        Established,
    );
}

#[test]
fn simultaneous_open_bare_acks_cross() {
    simultaneous_open()
        .then(client(ACK, 101, 301), Outcome::Progress, SimultaneousOpenAcked(Client))
        .then(server(ACK, 301, 101), Outcome::Completed, Established);
}

#[test]
fn simultaneous_open_split_handshake_of_four() {
    // The server acknowledges apart from its own SYN.
    syn_sent()
        .ignores(server(ACK, 0, 101))
        .then(server(SYN, 300, 0), Outcome::Progress, SimultaneousOpen)
        .then(client(SYN_ACK, 100, 301), Outcome::Progress, SimultaneousOpenAcked(Client))
        .then(server(ACK, 301, 101), Outcome::Completed, Established);
}

#[test]
fn simultaneous_open_wrong_ack() {
    simultaneous_open()
        .ignores(client(SYN_ACK, 100, 300))
        .ignores(server(ACK, 301, 102))
        .ignores(server(SYN_ACK, 300, 100));
}

#[test]
fn simultaneous_open_ack_out_of_window() {
    simultaneous_open().ignores(client(SYN_ACK, 9_000, 301)).ignores(client(ACK, 90_000, 301));
    simultaneous_open_acked(Client).ignores(server(ACK, 90_000, 101));
}

#[test]
fn simultaneous_open_syn_repeated() {
    simultaneous_open()
        .then(client(SYN, 100, 0), Outcome::SynRepeated, SimultaneousOpen)
        .then(server(SYN, 300, 0), Outcome::SynRepeated, SimultaneousOpen)
        .ignores(server(SYN, 301, 0));
}

#[test]
fn simultaneous_open_rst() {
    let reset = Outcome::HandshakeReset(Server);
    simultaneous_open().ignores(server(RST, 90_000, 0)).then(server(RST, 301, 0), reset, Closed);
}

#[test]
fn simultaneous_open_acked_fin() {
    simultaneous_open_acked(Client).then(
        server(FIN_ACK, 301, 101),
        Outcome::Completed,
        FinWait1(Server),
    );
}

// Sequence numbers wrap

#[test]
fn syn_sent_number_wraps() {
    Exchange::begins(client(SYN, u32::MAX, 0))
        .then(server(SYN_ACK, u32::MAX, 0), Outcome::Answered, SynReceived)
        .ignores(client(ACK, 0, u32::MAX))
        .ignores(client(RST, u32::MAX, 0))
        .then(client(ACK, 0, 0), Outcome::Completed, Established)
        .then(client(FIN_ACK, 0, 0), Outcome::Progress, FinWait1(Client))
        .then(server(FIN_ACK, 0, 1), Outcome::Progress, LastAck(Client))
        .then(client(ACK, 1, 1), Outcome::Progress, TimeWait(Client));
}

#[test]
fn established_data_wraps() {
    Exchange::begins(client(SYN, u32::MAX - 10, 0))
        .then(server(SYN_ACK, u32::MAX - 20, u32::MAX - 9), Outcome::Answered, SynReceived)
        .then(client(ACK, u32::MAX - 9, u32::MAX - 19), Outcome::Completed, Established)
        .then(client(ACK, u32::MAX - 9, u32::MAX - 19).data(100), Outcome::Progress, Established)
        .then(server(ACK, u32::MAX - 19, 90).data(50), Outcome::Progress, Established)
        .then(client(FIN_ACK, 90, 30), Outcome::Progress, FinWait1(Client))
        .then(server(ACK, 30, 91), Outcome::Progress, FinWait2(Client));
}

// Properties

/// A segment by either end with any flags, and numbers that are often nearly right.
fn any_segment() -> impl Strategy<Value = Sent> {
    let number = prop_oneof![95_u32..110, 295_u32..310, any::<u32>()];
    let data = prop_oneof![Just(0_u32), 1..2_000_u32, any::<u32>()];
    (any::<bool>(), any::<u8>(), number.clone(), number, data).prop_map(
        |(by_client, flags, seq, ack, data)| {
            let sent = if by_client { client } else { server };
            sent(Flags(flags), seq, ack).data(data)
        },
    )
}

proptest! {
    /// Whatever comes in whatever order: no panic, and no way back from the end of a handshake.
    #[test]
    fn any_order_only_goes_forward(
        segments in proptest::collection::vec(any_segment(), 0..60),
        one_way: bool,
    ) {
        let mut connection = syn_sent().connection;
        for sent in segments {
            let before = connection;
            let outcome = connection.receive(sent.by, &sent.segment, one_way);
            let asked_again = before.state == Refused && outcome == Outcome::SynRepeated;
            let forward = connection.is_past_handshake() || !before.is_past_handshake();
            prop_assert!(forward || asked_again);
            if matches!(outcome, Outcome::Ignored | Outcome::Superseded) {
                prop_assert_eq!(moved(&connection), moved(&before));
            }
            if matches!(outcome, Outcome::Completed) {
                prop_assert!(!before.marks.has(Marks::COMPLETED), "completed twice");
            }
        }
    }

    /// Nobody who does not know the server's number completes a handshake.
    #[test]
    fn a_guessed_acknowledgement_completes_nothing(
        isn: u32,
        guesses in proptest::collection::vec((any::<u8>(), any::<u32>(), any::<u32>()), 0..40),
    ) {
        let mut exchange = syn_sent().then(server(SYN_ACK, isn, 101), Outcome::Answered, SynReceived);
        for (flags, seq, ack) in guesses {
            let ack = if ack == isn.wrapping_add(1) { isn } else { ack };
            let sent = client(Flags(flags), seq, ack);
            let outcome = exchange.connection.receive(Client, &sent.segment, false);
            prop_assert!(!matches!(outcome, Outcome::Completed | Outcome::Presumed));
        }
    }
}
