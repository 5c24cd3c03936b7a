//! Ordinary traffic is not an attack, and its connections are counted right.

use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::support;
use crate::support::lab::{Family, Lab, Settings, VICTIM_LINK, service};
use crate::support::program::{Daemon, document, synwatch, time};
use crate::support::traffic::{Service, connections};
use crate::support::turn::{CONNECTION, Turn};

/// The port of the service.
const PORT: u16 = 8080;
/// Real connections of each test.
const CONNECTIONS: usize = 3_000;
/// Connections per second.
const RATE: u32 = 300;
/// Client addresses.
const CLIENTS: u8 = 20;

#[test]
fn ordinary_ipv4_connections_raise_nothing() {
    serve(Family::V4);
}

#[test]
fn ordinary_ipv6_connections_raise_nothing() {
    serve(Family::V6);
}

/// A bridge shows every packet a second time, on the port and on the bridge itself.
#[test]
fn a_packet_that_crosses_a_bridge_counts_once() {
    if !support::requires_root() {
        return;
    }
    let _turn = Turn::wait(RATE * CONNECTION);
    let lab = Lab::new(Settings::default());
    for change in [
        "link add br0 type bridge".to_owned(),
        format!("addr flush dev {VICTIM_LINK}"),
        format!("link set {VICTIM_LINK} master br0"),
        "link set br0 up".to_owned(),
        "addr add 192.0.2.10/24 dev br0".to_owned(),
    ] {
        lab.victim.ip(&change);
    }
    let clients = lab.add_clients(Family::V4, 4);
    let target = service(Family::V4, PORT);
    let _server = Service::start(&lab, target, 511);
    let daemon = Daemon::start(&lab);
    let made = connections(&lab, target, &clients, 200, RATE);
    assert_eq!(made, 200, "connections that failed");

    let report = daemon.wait_for(Duration::from_secs(5), |daemon| {
        let report = daemon.status();
        (report["totals"]["handshakes_completed"] == made).then_some(report)
    });
    let report = report.unwrap_or_else(|| panic!("not all seen: {:#}", daemon.status()));
    let totals = &report["totals"];
    assert_eq!(totals["syn"], made, "{report:#}");
    assert_eq!(totals["syn_ack"], made, "{report:#}");
    let copies = report["capture"]["skipped"]["duplicate"].as_u64();
    assert!(copies.is_some_and(|copies| copies >= 2 * made), "{report:#}");
}

/// Thousands of connections through one listener, closed by the server, by the client, or half by
/// each, while the daemon and `--once` watch.
fn serve(family: Family) {
    if !support::requires_root() {
        return;
    }
    let _turn = Turn::wait(RATE * CONNECTION);
    let lab = Lab::new(Settings::default());
    let clients = lab.add_clients(family, CLIENTS);
    let target = service(family, PORT);
    let server = Service::start(&lab, target, 511);
    let daemon = Daemon::start(&lab);

    let (made, once) = std::thread::scope(|scope| {
        let once = scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(4));
            synwatch(&lab, &["--once", "--format", "json"])
        });
        let made = connections(&lab, target, &clients, CONNECTIONS, RATE);
        (made, once.join().expect("--once"))
    });
    assert_eq!(made, CONNECTIONS as u64, "connections that failed");
    assert_eq!(server.answered(), made);

    let report = document(&once);
    assert_eq!(once.status.code(), Some(0), "--once during ordinary traffic: {report:#}");
    assert_eq!(report["detections"], json!([]), "--once");

    // A report from after the last segment.
    let ended = SystemTime::now() + Duration::from_millis(500);
    let report = daemon.wait_for(Duration::from_secs(5), |daemon| {
        let report = daemon.status();
        (time(&report["observed"]["to"]) > ended).then_some(report)
    });
    let report = report.unwrap_or_else(|| panic!("no fresh report: {:#}", daemon.status()));
    let totals = &report["totals"];
    let count = |name: &str| totals[name].as_u64().unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(report["status"], "ok");
    assert_eq!(report["detections"], json!([]));
    assert_eq!(report["capture"]["dropped"], 0);
    assert_eq!(count("handshakes_completed"), made, "{totals:#}");
    assert_eq!(count("syn") - count("syn_retransmitted"), made, "{totals:#}");
    assert_eq!(count("sources"), u64::from(CLIENTS), "{totals:#}");
    for nothing in ["handshakes_reset", "handshakes_timed_out", "syn_unanswered", "half_open"] {
        assert_eq!(count(nothing), 0, "{nothing}: {totals:#}");
    }
    // Both ends send a FIN, unless one of them closed with data unread and so sent a RST.
    assert!(count("fin") + count("rst") >= 2 * made, "{totals:#}");
    let flows = &report["flows"];
    for open in ["SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT_1", "CLOSE_WAIT", "LAST_ACK"] {
        assert_eq!(flows[open], 0, "{flows:#}");
    }
    assert!(daemon.events().is_empty(), "{:?}", daemon.events());
}
