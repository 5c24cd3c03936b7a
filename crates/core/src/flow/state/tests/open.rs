//! Open connections, their teardown, and what comes after it, told as traffic.

use super::*;

// ESTABLISHED

#[test]
fn established_data_both_ways() {
    established()
        .then(client(ACK, 101, 301).data(400), Outcome::Progress, Established)
        .then(server(ACK, 301, 501).data(900), Outcome::Progress, Established)
        .then(client(FIN_ACK, 501, 1_201), Outcome::Progress, FinWait1(Client))
        .then(server(ACK, 1_201, 502), Outcome::Progress, FinWait2(Client));
}

#[test]
fn established_fin_by_client() {
    fin_wait_1(Client);
}

#[test]
fn established_fin_by_server() {
    fin_wait_1(Server);
}

#[test]
fn established_rst_in_window() {
    established().then(client(RST, 101, 0), Outcome::Progress, Closed);
    established().then(server(RST, 301, 0), Outcome::Progress, Closed);
}

#[test]
fn established_rst_out_of_window() {
    established()
        .ignores(client(RST, 0x4000_0000, 0))
        .ignores(server(RST, 0x4000_0000, 0))
        .ignores(server(RST_ACK, 0xc000_0000, 101));
}

#[test]
fn established_syn() {
    // A challenge ACK is all that a SYN gets, whatever its number (RFC 5961, section 4).
    established()
        .drops(client(SYN, 100, 0), Outcome::SynRepeated)
        .drops(client(SYN, 9_000, 0), Outcome::SynPutOff)
        .ignores(server(SYN, 300, 0));
}

#[test]
fn established_syn_ack_repeated() {
    // The accept queue is full, so the server drops the ACK and repeats its answer.
    established().then(server(SYN_ACK, 300, 101), Outcome::AnswerRepeated, Established);
}

#[test]
fn established_syn_ack_of_another_connection() {
    established()
        .ignores(server(SYN_ACK, 0x7000_0000, 9_001))
        .ignores(server(SYN_ACK, 0x7000_0000, 101))
        .then(client(ACK, 101, 301), Outcome::Progress, Established);
}

#[test]
fn established_midstream() {
    let seen = client(ACK, 5_000, 8_000).data(100);
    let connection = Connection::midstream(Client, &seen.segment);
    Exchange { connection, one_way: false }
        .then(server(ACK, 8_000, 5_100), Outcome::Progress, Established)
        .then(server(FIN_ACK, 8_000, 5_100), Outcome::Progress, FinWait1(Server))
        .then(client(FIN_ACK, 5_100, 8_001), Outcome::Progress, LastAck(Server))
        .then(server(ACK, 8_001, 5_101), Outcome::Progress, TimeWait(Server));
}

#[test]
fn established_midstream_fin_is_seen_first() {
    let seen = server(FIN_ACK, 8_000, 5_000);
    let connection = Connection::midstream(Server, &seen.segment);
    Exchange { connection, one_way: false }.then(
        client(FIN_ACK, 5_000, 8_001),
        Outcome::Progress,
        LastAck(Server),
    );
}

// Teardown (RFC 9293, section 3.6)

#[test]
fn fin_wait_1_ack() {
    fin_wait_2(Client);
    fin_wait_2(Server);
}

#[test]
fn fin_wait_1_ack_of_the_data_before_the_fin() {
    fin_wait_1(Client).then(server(ACK, 301, 101), Outcome::Progress, FinWait1(Client));
}

#[test]
fn fin_wait_1_ack_of_what_was_never_sent() {
    fin_wait_1(Client)
        .ignores(server(ACK, 301, 103))
        .ignores(server(FIN_ACK, 301, 0x4000_0000))
        .then(server(FIN_ACK, 301, 102), Outcome::Progress, LastAck(Client));
}

#[test]
fn fin_wait_1_fin_and_ack() {
    let exchange =
        fin_wait_1(Client).then(server(FIN_ACK, 301, 102), Outcome::Progress, LastAck(Client));
    exchange.then(client(ACK, 102, 302), Outcome::Progress, TimeWait(Client));
}

#[test]
fn fin_wait_1_fin_repeated() {
    fin_wait_1(Client).then(client(FIN_ACK, 101, 301), Outcome::Progress, FinWait1(Client));
}

#[test]
fn fin_wait_1_simultaneous_fin() {
    closing();
}

#[test]
fn fin_wait_2_fin() {
    last_ack(Client);
    last_ack(Server);
}

#[test]
fn fin_wait_2_data_of_the_half_that_is_open() {
    fin_wait_2(Client)
        .then(server(ACK, 301, 102).data(1_000), Outcome::Progress, FinWait2(Client))
        .then(client(ACK, 102, 1_301), Outcome::Progress, FinWait2(Client))
        .then(server(FIN_ACK, 1_301, 102), Outcome::Progress, LastAck(Client))
        .then(client(ACK, 102, 1_302), Outcome::Progress, TimeWait(Client));
}

#[test]
fn last_ack_ack() {
    time_wait(Client);
    time_wait(Server);
}

#[test]
fn last_ack_ack_of_the_data_before_the_fin() {
    last_ack(Client).then(client(ACK, 102, 301), Outcome::Progress, LastAck(Client));
}

#[test]
fn last_ack_ack_of_what_was_never_sent() {
    last_ack(Client).ignores(client(ACK, 102, 303)).ignores(client(ACK, 102, 0x4000_0000));
}

#[test]
fn last_ack_fin_repeated() {
    last_ack(Client).then(server(FIN_ACK, 301, 102), Outcome::Progress, LastAck(Client));
}

#[test]
fn last_ack_rst() {
    last_ack(Client).then(client(RST, 102, 0), Outcome::Progress, Closed);
}

#[test]
fn closing_ack_by_server() {
    closing_acked(Client);
}

#[test]
fn closing_ack_by_client() {
    closing_acked(Server);
}

#[test]
fn closing_acked_ack() {
    closing_acked(Client).then(client(ACK, 102, 302), Outcome::Progress, TimeWait(Client));
    closing_acked(Server).then(server(ACK, 302, 102), Outcome::Progress, TimeWait(Server));
}

#[test]
fn closing_acked_ack_repeated() {
    closing_acked(Client).then(server(ACK, 302, 102), Outcome::Progress, ClosingAcked(Client));
}

#[test]
fn time_wait_fin_repeated() {
    // The last ACK was lost on its way.
    time_wait(Client).then(server(FIN_ACK, 301, 102), Outcome::Progress, TimeWait(Client));
}

#[test]
fn time_wait_syn() {
    // The ports are used again (RFC 6191).
    time_wait(Client).then(client(SYN, 70_000, 0), Outcome::Superseded, TimeWait(Client));
    time_wait(Client).then(server(SYN, 70_000, 0), Outcome::Superseded, TimeWait(Client));
}

#[test]
fn refused_syn_repeated() {
    // The client asks until it gives up, and may be answered yet.
    refused().then(client(SYN, 100, 0), Outcome::SynRepeated, SynSent).then(
        server(SYN_ACK, 300, 101),
        Outcome::Answered,
        SynReceived,
    );
}

#[test]
fn refused_syn_with_a_new_number() {
    refused().then(client(SYN, 9_000, 0), Outcome::Superseded, Refused);
}

#[test]
fn closed_syn_with_a_new_number() {
    closed().then(client(SYN, 9_000, 0), Outcome::Superseded, Closed);
}

#[test]
fn closed_everything_else() {
    closed()
        .ignores(client(ACK, 101, 301))
        .ignores(server(ACK, 301, 101).data(9))
        .ignores(client(RST, 101, 0))
        .drops(client(SYN, 100, 0), Outcome::SynRepeated);
}
