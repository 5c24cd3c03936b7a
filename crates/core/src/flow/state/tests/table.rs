//! Every state against every combination of flags, sender and numbers, held against a specification
//! that is written after RFC 9293, section 3.10.7, in the order of its steps.

use super::*;

/// How the numbers of a segment stand to the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Numbers {
    /// The sender's next number (of a SYN its ISN), and all that the peer sent acknowledged.
    Right,
    /// The last octet (or SYN, or FIN) of the peer is not acknowledged.
    OldAck,
    /// What the peer never sent is acknowledged.
    WrongAck,
    /// The sequence number is far outside of the window.
    OutOfWindow,
}

/// What a segment is, by the flags that RFC 9293 looks at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Reset {
        acknowledges: bool,
    },
    Syn,
    SynAck,
    Ack {
        fin: bool,
    },
    /// SYN with FIN, or neither RST nor SYN nor ACK.
    Nonsense,
}

fn kind_of(flags: Flags) -> Kind {
    let [fin, syn, rst, ack] =
        [Flags::FIN, Flags::SYN, Flags::RST, Flags::ACK].map(|flag| flags.contains(flag));
    match (rst, syn, ack, fin) {
        (true, _, acknowledges, _) => Kind::Reset { acknowledges },
        (_, true, _, true) | (_, false, false, _) => Kind::Nonsense,
        (_, true, false, _) => Kind::Syn,
        (_, true, true, _) => Kind::SynAck,
        (_, false, true, fin) => Kind::Ack { fin },
    }
}

/// How far a connection has come, as the steps of RFC 9293 group the states.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    SynSent,
    /// Both ends SYN_RECEIVED by way of SYN_SENT.
    Crossed,
    SynReceived,
    /// ESTABLISHED to LAST_ACK.
    Synchronised,
    TimeWait,
    /// Both ends forgot it.
    Over,
}

fn phase(state: State) -> Phase {
    match state {
        SynSent => Phase::SynSent,
        SimultaneousOpen | SimultaneousOpenAcked(_) => Phase::Crossed,
        SynReceived => Phase::SynReceived,
        Established | FinWait1(_) | FinWait2(_) | LastAck(_) | Closing | ClosingAcked(_) => {
            Phase::Synchronised
        }
        TimeWait(_) => Phase::TimeWait,
        Refused | Closed => Phase::Over,
    }
}

/// The specification.
fn expected(
    state: State,
    sender: Role,
    kind: Kind,
    numbers: Numbers,
    one_way: bool,
) -> (Outcome, State) {
    match kind {
        // Second step: RST.
        Kind::Reset { acknowledges } => reset(state, sender, acknowledges, numbers),
        // Fourth step: SYN.
        Kind::Syn => syn(state, sender, numbers),
        Kind::SynAck => syn_ack(state, sender, numbers),
        // Fifth to eighth step: ACK, data, FIN.
        Kind::Ack { fin } => ack(state, sender, fin, numbers, one_way),
        // "If neither of the SYN or RST bits is set ... drop the segment" (3.10.7.3), "if the ACK
        // bit is off, drop the segment" (3.10.7.4); SYN with FIN is what scanners send.
        Kind::Nonsense => (Outcome::Ignored, state),
    }
}

fn reset(state: State, sender: Role, acknowledges: bool, numbers: Numbers) -> (Outcome, State) {
    match (phase(state), sender) {
        // RFC 1337, section 3: a RST must not end TIME_WAIT.
        (Phase::Over | Phase::TimeWait, _) => (Outcome::Ignored, state),
        // 3.10.7.3: without a number of the peer only the acknowledgement tells.
        (Phase::SynSent, Server) => {
            if acknowledges && matches!(numbers, Numbers::Right | Numbers::OutOfWindow) {
                (Outcome::HandshakeReset(Server), Refused)
            } else {
                (Outcome::Ignored, state)
            }
        }
        // RFC 5961, section 3.2, case 1.
        _ if numbers == Numbers::OutOfWindow => (Outcome::Ignored, state),
        (Phase::SynSent | Phase::Crossed | Phase::SynReceived, _) => {
            (Outcome::HandshakeReset(sender), Closed)
        }
        (Phase::Synchronised, _) => (Outcome::Progress, Closed),
    }
}

fn syn(state: State, sender: Role, numbers: Numbers) -> (Outcome, State) {
    let repeated = numbers != Numbers::OutOfWindow;
    match (phase(state), sender) {
        // Figure 7: the SYNs cross.
        (Phase::SynSent, Server) => (Outcome::Progress, SimultaneousOpen),
        (Phase::SynSent, Client) if !repeated => (Outcome::Superseded, state),
        (Phase::SynSent | Phase::SynReceived, Client) | (Phase::Crossed, _) if repeated => {
            (Outcome::SynRepeated, state)
        }
        // RFC 5961, section 4: a challenge ACK. The client's may be answered once that is over.
        (Phase::SynReceived, Client) => (Outcome::SynPutOff, state),
        (Phase::Synchronised, Client) if repeated => (Outcome::SynRepeated, state),
        (Phase::Synchronised, Client) => (Outcome::SynPutOff, state),
        (Phase::SynSent | Phase::Crossed | Phase::SynReceived | Phase::Synchronised, _) => {
            (Outcome::Ignored, state)
        }
        // The SYN of a request that came to nothing: where it was refused, the client may yet be
        // answered.
        (Phase::Over, Client) if repeated => {
            (Outcome::SynRepeated, if state == Refused { SynSent } else { state })
        }
        // RFC 1122, section 4.2.2.13: an old number to the end that waits. Its peer is closed.
        (Phase::TimeWait, _) if repeated && state != TimeWait(sender) => (Outcome::Ignored, state),
        // 3.6.1 and RFC 6191: a new connection on the same ports.
        (Phase::TimeWait | Phase::Over, _) => (Outcome::Superseded, state),
    }
}

fn syn_ack(state: State, sender: Role, numbers: Numbers) -> (Outcome, State) {
    let acknowledges = matches!(numbers, Numbers::Right | Numbers::OutOfWindow);
    match (phase(state), sender) {
        // 3.10.7.3, first step: SEG.ACK must be ISS + 1; any sequence number will do.
        (Phase::SynSent, Server) if acknowledges => (Outcome::Answered, SynReceived),
        (Phase::SynSent, _) => (Outcome::Ignored, state),
        (Phase::Crossed, _) => crossed(state, sender, false, numbers),
        // 3.10.7.4 has nothing in TIME-WAIT begin anew but a SYN.
        (Phase::TimeWait, _) => (Outcome::Ignored, state),
        // Only the server answers.
        (Phase::SynReceived | Phase::Synchronised, Client) => (Outcome::Ignored, state),
        (Phase::SynReceived, Server) => match numbers {
            Numbers::Right => (Outcome::AnswerRepeated, state),
            Numbers::OutOfWindow => (Outcome::AnswerReplaced, state),
            // 3.10.7.3, first step: the client resets it, and nothing else comes of it.
            Numbers::OldAck | Numbers::WrongAck => (Outcome::Ignored, state),
        },
        // No answer is known that it could repeat: the client tried again after the refusal.
        (Phase::Over, Server) if state == Refused => (Outcome::Superseded, state),
        // The old answer again, or one that gets a challenge ACK (RFC 5961, section 4).
        (Phase::Synchronised | Phase::Over, Server)
            if matches!(numbers, Numbers::Right | Numbers::OldAck) =>
        {
            (Outcome::AnswerRepeated, state)
        }
        (Phase::Synchronised, Server) => (Outcome::Ignored, state),
        // The answer to a SYN that was not seen.
        (Phase::Over, _) => (Outcome::Superseded, state),
    }
}

/// Figure 7: the connection is open once each end has acknowledged the other's SYN.
fn crossed(state: State, sender: Role, fin: bool, numbers: Numbers) -> (Outcome, State) {
    if numbers != Numbers::Right {
        return (Outcome::Ignored, state);
    }
    if state != SimultaneousOpenAcked(sender.peer()) {
        return (Outcome::Progress, SimultaneousOpenAcked(sender));
    }
    (Outcome::Completed, if fin { FinWait1(sender) } else { Established })
}

fn ack(state: State, sender: Role, fin: bool, numbers: Numbers, one_way: bool) -> (Outcome, State) {
    let opened = if fin { FinWait1(sender) } else { Established };
    match (phase(state), sender) {
        (Phase::SynSent, Client) if one_way && numbers != Numbers::OutOfWindow => {
            (Outcome::Presumed, opened)
        }
        (Phase::SynSent | Phase::Over, _) => (Outcome::Ignored, state),
        (Phase::Crossed, _) => crossed(state, sender, fin, numbers),
        // 3.10.7.4, fifth step, SYN-RECEIVED: SND.UNA < SEG.ACK =< SND.NXT.
        (Phase::SynReceived, _) if numbers != Numbers::Right => (Outcome::Ignored, state),
        (Phase::SynReceived, Client) => (Outcome::Completed, opened),
        // It would not close what is not open.
        (Phase::SynReceived, Server) if fin => (Outcome::Presumed, opened),
        (Phase::SynReceived, Server) => (Outcome::Progress, state),
        // First step: the sequence number. Fifth step: "if the ACK acks something not yet sent
        // (SEG.ACK > SND.NXT), then send an ACK, drop the segment".
        (Phase::Synchronised | Phase::TimeWait, _)
            if matches!(numbers, Numbers::OutOfWindow | Numbers::WrongAck) =>
        {
            (Outcome::Ignored, state)
        }
        // A FIN of an end that has sent one already lies beyond it.
        (Phase::Synchronised, _) if fin && has_closed(state, sender) => (Outcome::Ignored, state),
        // Eighth step: only the FIN that comes again restarts the time; here it lies beyond it.
        (Phase::TimeWait, _) => (Outcome::Ignored, state),
        (Phase::Synchronised, _) => {
            (Outcome::Progress, teardown(state, sender, fin, numbers == Numbers::Right))
        }
    }
}

/// Whether an end has sent its FIN.
fn has_closed(state: State, end: Role) -> bool {
    match state {
        FinWait1(closer) | FinWait2(closer) => closer == end,
        LastAck(_) | Closing | ClosingAcked(_) | TimeWait(_) => true,
        _ => false,
    }
}

/// Figures 12 and 13 (section 3.6); `acked`: all that the peer sent is acknowledged, its FIN too.
fn teardown(state: State, sender: Role, fin: bool, acked: bool) -> State {
    let peer = sender.peer();
    match (state, fin, acked) {
        (Established, true, _) => FinWait1(sender),
        (FinWait1(closer), false, true) if closer == peer => FinWait2(closer),
        (FinWait1(closer), true, true) if closer == peer => LastAck(closer),
        (FinWait1(closer), true, false) if closer == peer => Closing,
        (FinWait2(closer), true, _) if closer == peer => LastAck(closer),
        (LastAck(closer), _, true) if closer == sender => TimeWait(closer),
        (Closing, _, true) => ClosingAcked(peer),
        (ClosingAcked(acked_end), _, true) if acked_end == sender => TimeWait(sender),
        _ => state,
    }
}

/// One connection in each state.
fn every_state() -> [Exchange; 19] {
    [
        syn_sent(),
        simultaneous_open(),
        simultaneous_open_acked(Client),
        simultaneous_open_acked(Server),
        syn_received(),
        established(),
        fin_wait_1(Client),
        fin_wait_1(Server),
        fin_wait_2(Client),
        fin_wait_2(Server),
        last_ack(Client),
        last_ack(Server),
        closing(),
        closing_acked(Client),
        closing_acked(Server),
        time_wait(Client),
        time_wait(Server),
        refused(),
        closed(),
    ]
}

/// The segment of `sender` with these flags and numbers.
fn sent(connection: &Connection, sender: Role, flags: Flags, numbers: Numbers) -> Sent {
    let (next, peer_next) = match sender {
        Client => (connection.client_next, connection.server_next),
        Server => (connection.server_next, connection.client_next),
    };
    // The ISNs are those of `Exchange`. While SYN_SENT the server's next number is any at all.
    let isn = if sender == Client { 100 } else { 300 };
    let opens = flags.contains(Flags::SYN) && !flags.contains(Flags::RST);
    let seq = if opens { isn } else { next.0 };
    let (seq, ack) = match numbers {
        Numbers::Right => (seq, peer_next.0),
        Numbers::OldAck => (seq, peer_next.0 - 1),
        Numbers::WrongAck => (seq, peer_next.0 + 0x4000_0000),
        Numbers::OutOfWindow => (seq + 0x4000_0000, peer_next.0),
    };
    Sent { by: sender, segment: segment(flags, seq, ack) }
}

/// Calls `check` with every case and what comes of it.
fn for_every_case(mut check: impl FnMut(&Connection, Sent, Numbers, bool, Outcome, &Connection)) {
    let all_numbers = [Numbers::Right, Numbers::OldAck, Numbers::WrongAck, Numbers::OutOfWindow];
    for exchange in every_state() {
        for (sender, numbers, one_way) in [Client, Server].into_iter().flat_map(|sender| {
            all_numbers.into_iter().flat_map(move |numbers| {
                [false, true].into_iter().map(move |one_way| (sender, numbers, one_way))
            })
        }) {
            for flags in (0..=u8::MAX).map(Flags) {
                let before = exchange.connection;
                let sent = sent(&before, sender, flags, numbers);
                let mut after = before;
                let outcome = after.receive(sender, &sent.segment, one_way);
                check(&before, sent, numbers, one_way, outcome, &after);
            }
        }
    }
}

#[test]
fn every_state_with_every_segment() {
    let mut cases = 0;
    for_every_case(|before, sent, numbers, one_way, outcome, after| {
        let kind = kind_of(sent.segment.flags);
        let expected = expected(before.state, sent.by, kind, numbers, one_way);
        assert_eq!(
            (outcome, after.state),
            expected,
            "{:?}: {:?} sends {:?} with {numbers:?} numbers, one way: {one_way}",
            before.state,
            sent.by,
            sent.segment.flags,
        );
        cases += 1;
    });
    assert_eq!(cases, 19 * 256 * 2 * 4 * 2);
}

#[test]
fn every_state_ignored_leaves_no_trace() {
    for_every_case(|before, sent, _, _, outcome, after| {
        if matches!(outcome, Outcome::Ignored | Outcome::Superseded) {
            assert_eq!(moved(after), moved(before), "{sent:?}");
        }
    });
}

#[test]
fn every_state_wrong_ack_completes_nothing() {
    for_every_case(|before, sent, numbers, one_way, outcome, _| {
        let completed = matches!(outcome, Outcome::Completed | Outcome::Presumed);
        let judged = !(one_way && before.state == SynSent);
        assert!(!completed || numbers == Numbers::Right || !judged, "{sent:?} in {before:?}");
    });
}

#[test]
fn every_state_rst_out_of_window_ends_nothing() {
    for_every_case(|before, sent, numbers, _, outcome, _| {
        let reset = sent.segment.flags.contains(Flags::RST);
        let judged = !(before.state == SynSent && sent.by == Server);
        if reset && judged && numbers == Numbers::OutOfWindow {
            assert_eq!(outcome, Outcome::Ignored, "{sent:?} in {before:?}");
        }
    });
}

#[test]
fn every_state_no_flags_or_syn_fin_changes_nothing() {
    for_every_case(|before, sent, _, _, outcome, after| {
        let flags = sent.segment.flags;
        let syn_fin = flags.contains(Flags::SYN | Flags::FIN) && !flags.contains(Flags::RST);
        if flags == Flags(0) || syn_fin {
            assert_eq!((outcome, after), (Outcome::Ignored, before), "{sent:?}");
        }
    });
}

#[test]
fn every_state_what_is_over_stays_over() {
    for_every_case(|before, sent, _, _, _, after| {
        let again = before.state == Refused && sent.segment.flags.is_syn();
        if matches!(before.state, Closed | Refused) && !again {
            assert_eq!(after, before, "{sent:?}");
        }
    });
}

/// What a receiver does with the last of `segments`, and where it is written.
struct Row {
    section: &'static str,
    rule: &'static str,
    before: Exchange,
    segments: &'static [(Role, Flags, u32, u32, u32)],
    outcome: Outcome,
    state: State,
}

impl Row {
    const fn new(section: &'static str, rule: &'static str, before: Exchange) -> Self {
        Self { section, rule, before, segments: &[], outcome: Outcome::Ignored, state: SynSent }
    }

    /// Each segment: its sender, flags, number, acknowledgement, and octets of data.
    fn sees(self, segments: &'static [(Role, Flags, u32, u32, u32)]) -> Self {
        Self { segments, ..self }
    }

    fn so(self, outcome: Outcome, state: State) -> Self {
        Self { outcome, state, ..self }
    }
}

/// The client's data up to 1,101 and the server's up to 2,301, each acknowledged.
fn busy() -> Exchange {
    established()
        .then(client(ACK, 101, 301).data(1_000), Outcome::Progress, Established)
        .then(server(ACK, 301, 1_101).data(2_000), Outcome::Progress, Established)
        .then(client(ACK, 1_101, 2_301), Outcome::Progress, Established)
}

/// A Fast Open whose server closed before it had the ACK.
fn fast_open_closed() -> Exchange {
    fast_open_accepted().then(server(FIN_ACK, 301, 151).data(500), Outcome::Progress, SynReceived)
}

const GAP: u32 = 3_000_000;

/// Every row of what the receiver would drop, and next to it what it would not.
#[rustfmt::skip]
fn rows() -> Vec<Row> {
    use Outcome::{Answered, Completed, HandshakeReset, Ignored, Progress, Superseded, SynPutOff, SynRepeated};
    vec![
        // SYN_SENT
        Row::new("RFC 9293, 3.10.7.3, first step", "a SYN-ACK for another number, and the reset of it", syn_sent())
            .sees(&[(Server, SYN_ACK, 900, 105, 0), (Client, RST, 105, 0, 0)]).so(Ignored, SynSent),
        Row::new("RFC 9293, 3.10.7.3, first step", "the answer after a wrong one", syn_sent())
            .sees(&[(Server, SYN_ACK, 900, 105, 0), (Client, RST, 105, 0, 0), (Server, SYN_ACK, 300, 101, 0)])
            .so(Answered, SynReceived),
        Row::new("RFC 9293, 3.10.7.3, first step", "the reset of an answer that was not seen", syn_sent())
            .sees(&[(Client, RST, 101, 0, 0)]).so(HandshakeReset(Client), Closed),
        Row::new("RFC 9293, 3.10.7.3, second step", "a RST that acknowledges no SYN", syn_sent())
            .sees(&[(Server, RST_ACK, 0, 102, 0)]).so(Ignored, SynSent),
        Row::new("RFC 9293, 3.5, figure 7", "the SYNs cross", syn_sent())
            .sees(&[(Server, SYN, 300, 0, 0)]).so(Progress, SimultaneousOpen),
        Row::new("RFC 9293, 3.5, figure 7", "one of them is answered", syn_sent())
            .sees(&[(Server, SYN, 300, 0, 0), (Client, SYN_ACK, 100, 301, 0)])
            .so(Progress, SimultaneousOpenAcked(Client)),
        Row::new("RFC 7413, 4.1", "a SYN without data is an ordinary one: no number beyond it", syn_sent())
            .sees(&[(Server, SYN_ACK, 300, 102, 0)]).so(Ignored, SynSent),
        // SYN_RECEIVED
        Row::new("RFC 9293, 3.5", "the ACK of a SYN-ACK with its data", syn_sent())
            .sees(&[(Server, SYN_ACK, 300, 101, 3), (Client, ACK, 101, 304, 0)]).so(Completed, Established),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "the ACK of the SYN of it, without the data", syn_sent())
            .sees(&[(Server, SYN_ACK, 300, 101, 3), (Client, ACK, 101, 301, 0)]).so(Completed, Established),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "an ACK of more than its data", syn_sent())
            .sees(&[(Server, SYN_ACK, 300, 101, 3), (Client, ACK, 101, 305, 0)]).so(Ignored, SynReceived),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "the ACK of the older of two answers", syn_received())
            .sees(&[(Server, SYN_ACK, 7_300, 101, 0), (Client, ACK, 101, 301, 0)]).so(Completed, Established),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "the ACK of the newer of two answers", syn_received())
            .sees(&[(Server, SYN_ACK, 7_300, 101, 0), (Client, ACK, 101, 7_301, 0)]).so(Completed, Established),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "an ACK of neither", syn_received())
            .sees(&[(Server, SYN_ACK, 7_300, 101, 0), (Client, ACK, 101, 302, 0)]).so(Ignored, SynReceived),
        Row::new("RFC 9293, 3.10.7.3, first step", "a SYN-ACK that nobody asked for", syn_received())
            .sees(&[(Server, SYN_ACK, 900, 5_001, 0)]).so(Ignored, SynReceived),
        Row::new("RFC 9293, 3.10.7.2", "the answer to another SYN: the first request is forgotten", syn_received())
            .sees(&[(Client, SYN, 5_000, 0, 0), (Server, SYN_ACK, 900, 5_001, 0)]).so(Superseded, SynReceived),
        Row::new("RFC 5961, 3.2, case 2", "a RST at the left edge", syn_received())
            .sees(&[(Client, RST, 101, 0, 0)]).so(HandshakeReset(Client), Closed),
        Row::new("RFC 5961, 3.2, case 3", "a RST in the window", syn_received())
            .sees(&[(Client, RST, 102, 0, 0)]).so(Ignored, SynReceived),
        Row::new("RFC 5961, 3.2, case 1", "a RST left of the window", syn_received())
            .sees(&[(Client, RST, 100, 0, 0)]).so(Ignored, SynReceived),
        Row::new("RFC 9293, 3.10.7.4, eighth step", "a FIN with the ACK", syn_received())
            .sees(&[(Client, FIN_ACK, 101, 301, 0)]).so(Completed, FinWait1(Client)),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "a FIN with a wrong ACK", syn_received())
            .sees(&[(Client, FIN_ACK, 101, 302, 0)]).so(Ignored, SynReceived),
        Row::new("RFC 9293, 3.10.4", "the ACK of a Fast Open whose server has closed", fast_open_closed())
            .sees(&[(Client, ACK, 151, 802, 0)]).so(Completed, FinWait2(Server)),
        Row::new("RFC 9293, 3.10.4", "the ACK of its data, and not of its FIN", fast_open_closed())
            .sees(&[(Client, ACK, 151, 801, 0)]).so(Completed, FinWait1(Server)),
        Row::new("RFC 9293, 3.10.4", "the client's FIN with that ACK", fast_open_closed())
            .sees(&[(Client, FIN_ACK, 151, 802, 0)]).so(Completed, LastAck(Server)),
        Row::new("RFC 9293, 3.10.4", "and the end of it", fast_open_closed())
            .sees(&[(Client, FIN_ACK, 151, 802, 0), (Server, ACK, 802, 152, 0)]).so(Progress, TimeWait(Server)),
        Row::new("RFC 7413, 4.2", "the SYN of a Fast Open again", fast_open_closed())
            .sees(&[(Client, SYN, 100, 0, 50)]).so(SynRepeated, SynReceived),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "an ACK of more than its FIN", fast_open_closed())
            .sees(&[(Client, ACK, 151, 803, 0)]).so(Ignored, SynReceived),
        // ESTABLISHED and after
        Row::new("RFC 5961, 4.2", "a SYN-ACK with another number", busy())
            .sees(&[(Server, SYN_ACK, 500_000_000, 1_101, 0)]).so(Ignored, Established),
        Row::new("RFC 5961, 4.2", "a SYN-ACK for another SYN", busy())
            .sees(&[(Server, SYN_ACK, 500_000_000, 9_000_000, 0)]).so(Ignored, Established),
        Row::new("RFC 5961, 4.2", "a SYN-ACK of the client", busy())
            .sees(&[(Client, SYN_ACK, 1_101, 2_301, 0)]).so(Ignored, Established),
        Row::new("RFC 5961, 4.2", "a SYN", busy())
            .sees(&[(Client, SYN, 1_101, 0, 0)]).so(SynPutOff, Established),
        Row::new("RFC 5961, 4.2", "the SYN again", busy())
            .sees(&[(Client, SYN, 100, 0, 0)]).so(SynRepeated, Established),
        Row::new("RFC 5961, 3.2, case 2", "a RST at the left edge", busy())
            .sees(&[(Server, RST, 2_301, 0, 0)]).so(Progress, Closed),
        Row::new("RFC 5961, 3.2, case 3", "a RST in the window", busy())
            .sees(&[(Server, RST, 2_302, 0, 0)]).so(Ignored, Established),
        Row::new("RFC 5961, 3.2, case 3", "a RST with an ACK in the window", busy())
            .sees(&[(Client, RST_ACK, 20_000, 2_301, 0)]).so(Ignored, Established),
        Row::new("RFC 5961, 3.2, case 1", "a RST left of the window", busy())
            .sees(&[(Client, RST, 1_100, 0, 0)]).so(Ignored, Established),
        Row::new("RFC 9293, 3.5.2, group 1", "a RST that takes its number from an ACK, data behind it underway", busy())
            .sees(&[(Client, ACK, 1_101, 2_301, 500), (Server, ACK, 2_301, 1_101, 0), (Client, RST, 1_101, 0, 0)])
            .so(Progress, Closed),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "a FIN that acknowledges data never sent", busy())
            .sees(&[(Client, FIN_ACK, 1_101, 12_301, 0)]).so(Ignored, Established),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "the same, and good data after it", busy())
            .sees(&[(Client, FIN_ACK, 1_101, 12_301, 0), (Client, ACK, 1_101, 2_301, 1_000),
                (Server, ACK, 2_301, 2_101, 0)]).so(Progress, Established),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "the same of the server", busy())
            .sees(&[(Server, FIN_ACK, 2_301, 1_102, 0)]).so(Ignored, Established),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "data that acknowledges data never sent, and a FIN that does", busy())
            .sees(&[(Client, ACK, 1_101, 12_301, 50), (Client, FIN_ACK, 1_101, 12_301, 0)]).so(Ignored, Established),
        Row::new("RFC 9293, 3.10.7.4, first step", "a FIN left of the window", busy())
            .sees(&[(Client, FIN_ACK, 900, 2_301, 0)]).so(Ignored, Established),
        Row::new("RFC 9293, 3.10.7.4, first step", "a FIN that ends at its left edge", busy())
            .sees(&[(Client, FIN_ACK, 1_100, 2_301, 0)]).so(Ignored, Established),
        Row::new("RFC 9293, 3.10.7.4, eighth step", "a FIN behind data that comes again", busy())
            .sees(&[(Client, FIN_ACK, 900, 2_301, 201)]).so(Progress, FinWait1(Client)),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "an ACK of more than the FIN", busy())
            .sees(&[(Client, FIN_ACK, 1_101, 2_301, 0), (Server, ACK, 2_301, 1_103, 0)]).so(Ignored, FinWait1(Client)),
        // What the capture missed (the rules of this module)
        Row::new("RFC 7323, 2.2", "a FIN behind a gap, with a right ACK", busy())
            .sees(&[(Client, FIN_ACK, 1_101 + GAP, 2_301, 0)]).so(Progress, FinWait1(Client)),
        Row::new("RFC 9293, 3.6", "the same to its end", busy())
            .sees(&[(Client, FIN_ACK, 1_101 + GAP, 2_301, 0), (Server, FIN_ACK, 2_301, 1_102 + GAP, 0),
                (Client, ACK, 1_102 + GAP, 2_302, 0)]).so(Progress, TimeWait(Client)),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "a FIN behind a gap, with a wrong ACK", busy())
            .sees(&[(Client, FIN_ACK, 1_101 + GAP, 2_300, 0)]).so(Ignored, Established),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "the peer took in a FIN that acknowledges what was not seen", busy())
            .sees(&[(Client, FIN_ACK, 1_101, 12_301, 0), (Server, ACK, 12_301, 1_102, 0)]).so(Progress, FinWait2(Client)),
        Row::new("RFC 9293, 3.6", "the same with the peer's FIN, to its end", busy())
            .sees(&[(Client, FIN_ACK, 1_101, 12_301, 0), (Server, FIN_ACK, 12_301, 1_102, 0),
                (Client, ACK, 1_102, 12_302, 0)]).so(Progress, TimeWait(Client)),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "the peer took in data behind a gap, and closes", busy())
            .sees(&[(Client, ACK, 1_101 + GAP, 2_301, 50), (Server, FIN_ACK, 2_301, 1_151 + GAP, 0)])
            .so(Progress, FinWait1(Server)),
        Row::new("RFC 9293, 3.10.7.4, first step", "data far right of the window, and the FIN in its place", busy())
            .sees(&[(Client, ACK, 1_101 + GAP, 2_301, 50), (Client, FIN_ACK, 1_101, 2_301, 0),
                (Server, ACK, 2_301, 1_102, 0)]).so(Progress, FinWait2(Client)),
        // TIME_WAIT
        Row::new("RFC 1337, 3", "a RST", time_wait(Client))
            .sees(&[(Server, RST, 302, 0, 0)]).so(Ignored, TimeWait(Client)),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "an ACK", time_wait(Client))
            .sees(&[(Server, ACK, 302, 102, 0)]).so(Ignored, TimeWait(Client)),
        Row::new("RFC 9293, 3.10.7.4, seventh step", "data", time_wait(Client))
            .sees(&[(Server, ACK, 302, 102, 10)]).so(Ignored, TimeWait(Client)),
        Row::new("RFC 9293, 3.10.7.4, fourth step", "a SYN-ACK", time_wait(Client))
            .sees(&[(Server, SYN_ACK, 9_000, 8_000, 0)]).so(Ignored, TimeWait(Client)),
        Row::new("RFC 9293, 3.10.7.4, eighth step", "the FIN again restarts the time", time_wait(Client))
            .sees(&[(Server, FIN_ACK, 301, 102, 0)]).so(Progress, TimeWait(Client)),
        Row::new("RFC 9293, 3.10.7.4, fifth step", "a FIN that acknowledges data never sent", time_wait(Client))
            .sees(&[(Server, FIN_ACK, 301, 103, 0)]).so(Ignored, TimeWait(Client)),
        Row::new("RFC 1122, 4.2.2.13", "the SYN again", time_wait(Server))
            .sees(&[(Client, SYN, 100, 0, 0)]).so(Ignored, TimeWait(Server)),
        Row::new("RFC 1122, 4.2.2.13", "a SYN with an older number", time_wait(Server))
            .sees(&[(Client, SYN, 50, 0, 0)]).so(Ignored, TimeWait(Server)),
        Row::new("RFC 1122, 4.2.2.13", "a SYN with a newer number", time_wait(Server))
            .sees(&[(Client, SYN, 70_000, 0, 0)]).so(Superseded, TimeWait(Server)),
        Row::new("RFC 9293, 3.10.7.2", "any SYN of the end that waits: its peer is closed", time_wait(Client))
            .sees(&[(Client, SYN, 50, 0, 0)]).so(Superseded, TimeWait(Client)),
    ]
}

#[test]
fn every_rule_by_its_section() {
    for Row { section, rule, before, segments, outcome, state } in rows() {
        let mut connection = before.connection;
        let mut got = None;
        for &(by, flags, seq, ack, octets) in segments {
            let sent = Sent { by, segment: segment(flags, seq, ack) }.data(octets);
            let was = connection;
            got = Some(connection.receive(sent.by, &sent.segment, false));
            if got == Some(Outcome::Ignored) {
                assert_eq!(moved(&connection), moved(&was), "{section}: {rule}");
            }
        }
        assert_eq!((got, connection.state), (Some(outcome), state), "{section}: {rule}");
    }
}

#[test]
fn time_wait_syn_with_time_stamps() {
    // RFC 6191: a newer time stamp makes up for an older number.
    let mut syn = client(SYN, 50, 0);
    syn.segment.options = OptionLayout::default().with(0, TIMESTAMPS);
    time_wait(Server).then(syn, Outcome::Superseded, TimeWait(Server));
}

/// The quick way of an open connection does what the long one does, or nothing.
#[test]
fn carry_on_agrees_with_receive() {
    let numbers =
        &[0, 1, 101, 1_100, 1_101, 1_102, 2_300, 2_301, 2_302, GAP, 1 << 30, FAR, u32::MAX];
    let midway = Connection::midstream(Client, &client(ACK, 1_101, 2_301).segment);
    let mut carried = 0;
    for before in [busy().connection, midway, fin_wait_1(Client).connection] {
        for (by, seq, ack) in [Client, Server].into_iter().flat_map(|by| {
            numbers.iter().flat_map(move |&seq| numbers.iter().map(move |&ack| (by, seq, ack)))
        }) {
            let sent = Sent { by, segment: segment(ACK, seq, ack) }.data(10);
            let (mut quick, mut long) = (before, before);
            if quick.carry_on(by, &sent.segment) {
                assert_eq!(long.receive(by, &sent.segment, false), Outcome::Progress, "{sent:?}");
                assert_eq!(quick, long, "{sent:?}");
                carried += 1;
            } else {
                assert_eq!(quick, before, "{sent:?}");
            }
        }
    }
    assert!(carried > 50, "{carried}");
}
