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
        (Phase::Over, _) => (Outcome::Ignored, state),
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
        (Phase::Synchronised | Phase::TimeWait, _) => (Outcome::Progress, Closed),
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
        // RFC 5961, section 4: a challenge ACK.
        (Phase::SynSent | Phase::Crossed | Phase::SynReceived | Phase::Synchronised, _) => {
            (Outcome::Ignored, state)
        }
        // The SYN of a request that came to nothing, late.
        (Phase::Over, Client) if repeated => (Outcome::Ignored, state),
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
        // Only the server answers; its last answer is the one that counts.
        (Phase::SynReceived | Phase::Synchronised, Client) => (Outcome::Ignored, state),
        (Phase::SynReceived, Server) => match numbers {
            Numbers::Right => (Outcome::AnswerRepeated, state),
            Numbers::OutOfWindow => (Outcome::AnswerReplaced, state),
            Numbers::OldAck | Numbers::WrongAck => (Outcome::Superseded, state),
        },
        // No answer is known that it could repeat: the client tried again after the refusal.
        (Phase::Over, Server) if state == Refused => (Outcome::Superseded, state),
        // An old answer, or the answer to a SYN that was not seen.
        (Phase::Synchronised | Phase::TimeWait | Phase::Over, Server) => match numbers {
            Numbers::Right | Numbers::OldAck => (Outcome::AnswerRepeated, state),
            Numbers::WrongAck | Numbers::OutOfWindow => (Outcome::Superseded, state),
        },
        (Phase::TimeWait | Phase::Over, Client) => (Outcome::Superseded, state),
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
        // First step: the sequence number.
        (Phase::Synchronised | Phase::TimeWait, _) if numbers == Numbers::OutOfWindow => {
            (Outcome::Ignored, state)
        }
        // An end drops a segment that acknowledges what it did not send. An observer may have missed
        // that it did, so the segment counts; but it acknowledges no FIN.
        (Phase::Synchronised | Phase::TimeWait, _) => {
            (Outcome::Progress, teardown(state, sender, fin, numbers == Numbers::Right))
        }
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
            assert_eq!(after, before, "{sent:?}");
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
        if matches!(before.state, Closed | Refused) {
            assert_eq!(after, before, "{sent:?}");
        }
    });
}
