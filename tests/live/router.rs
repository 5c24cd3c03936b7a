//! A router on the way to servers that are 120 ms off: what passes through it is judged as at a
//! server.

use std::net::{IpAddr, SocketAddr};
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support;
use crate::support::flood::Flood;
use crate::support::lab::{Family, Lab, Settings};
use crate::support::line::{LINE, Line};
use crate::support::netns::Namespace;
use crate::support::program::{
    Daemon, SYNWATCH, critical_after, document, entry_of, interrupt, synwatch, time,
};
use crate::support::traffic::{Clients, Served, Service};
use crate::support::turn::{CONNECTION, Turn};

const PORT: u16 = 8443;
/// Connections per second, half of them over either IP version.
const RATE: u32 = 300;
/// Client addresses of either IP version.
const CLIENTS: u8 = 20;
/// How long SYN-ACKs come after their SYNs.
const DISTANCE: Duration = Duration::from_millis(120);
/// The server.
const ADDRESSES: [&str; 2] = ["198.51.100.10", "2001:db8:1::10"];
/// How long a process may not run now and then.
const INTERRUPTION: Duration = Duration::from_millis(1_500);
/// Whose services are watched.
#[rustfmt::skip]
const WATCH: [&str; 6] = [
    "--network", "198.51.100.0/24", "--network", "2001:db8:1::/64", "--backlog", "1024",
];

/// Clients, a router, and a server behind a long line.
struct Path {
    /// The victim is the router.
    lab: Lab,
    server: Namespace,
    targets: [SocketAddr; 2],
    _line: Line,
}

impl Path {
    fn new() -> Self {
        let (lab, server) = (Lab::new(Settings::default()), Namespace::new('s'));
        let line = Line::between(&lab.victim, &server, DISTANCE / 2);
        lab.victim.sysctl("ipv4/ip_forward", "1");
        lab.victim.sysctl("ipv6/conf/all/forwarding", "1");
        let targets = ADDRESSES.map(|address| {
            let address: IpAddr = address.parse().expect("an address");
            let (version, family) =
                if address.is_ipv4() { ("-4", Family::V4) } else { ("-6", Family::V6) };
            server.ip(&format!("addr add {address} dev {LINE}"));
            server.ip(&format!("{version} route add default dev {LINE}"));
            lab.victim.ip(&format!("route add {address} dev {LINE}"));
            lab.attacker.ip(&format!("route add {address} via {}", family.victim()));
            SocketAddr::new(address, PORT)
        });
        Self { lab, server, targets, _line: line }
    }

    fn serve(&self) -> [Service; 2] {
        self.targets.map(|target| Service::start_on(&self.server, target, 4096))
    }

    fn watch(&self) -> Daemon<'_> {
        Daemon::start_on(&self.lab.victim, &WATCH)
    }

    fn once(&self) -> Output {
        synwatch(&self.lab, &[&["--once", "--format", "json"], &WATCH[..]].concat())
    }

    /// The same where its process is not run for a while.
    fn once_interrupted(&self) -> Output {
        let mut command = self.lab.victim.command(SYNWATCH);
        command.args(["--once", "--format", "json"]).args(WATCH);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("synwatch");
        thread::sleep(INTERRUPTION);
        interrupt(child.id(), INTERRUPTION);
        child.wait_with_output().expect("wait for synwatch")
    }

    fn clients(&self) -> [Clients; 2] {
        self.targets.map(|target| {
            let family = if target.is_ipv4() { Family::V4 } else { Family::V6 };
            let addresses = self.lab.add_clients(family, CLIENTS);
            Clients::start(&self.lab, target, &addresses, RATE / 2)
        })
    }
}

fn stop(clients: [Clients; 2]) -> Served {
    let [v4, v6] = clients.map(Clients::stop);
    Served { answered: v4.answered + v6.answered, failed: v4.failed + v6.failed }
}

/// What the daemon says once it has seen everything up to now.
fn fresh(daemon: &Daemon<'_>) -> Value {
    let ended = SystemTime::now() + Duration::from_millis(500);
    let report = daemon.wait_for(Duration::from_secs(5), |daemon| {
        let report = daemon.status();
        (time(&report["observed"]["to"]) > ended).then_some(report)
    });
    report.unwrap_or_else(|| panic!("no fresh report: {:#}", daemon.status()))
}

#[test]
fn connections_to_far_servers_are_no_attack() {
    if !support::requires_root() {
        return;
    }
    let _turn = Turn::wait(RATE * CONNECTION);
    let path = Path::new();
    let servers = path.serve();
    let daemon = path.watch();
    let clients = path.clients();
    thread::sleep(Duration::from_secs(9));
    let once = path.once();
    let interrupted = path.once_interrupted();
    thread::sleep(Duration::from_secs(2));
    daemon.interrupt(INTERRUPTION);
    let during: Vec<_> = (0..20)
        .map(|_| {
            thread::sleep(Duration::from_millis(100));
            daemon.status()
        })
        .collect();
    let served = stop(clients);
    let report = fresh(&daemon);

    let looks = [&once, &interrupted].map(document);
    for (once, look) in [&once, &interrupted].into_iter().zip(&looks) {
        assert_eq!(once.status.code(), Some(0), "--once: {look:#}");
    }
    for report in looks.iter().chain(&during) {
        for target in path.targets {
            let service = entry_of(target, &report["services"], |service| service);
            let completed = service["completion_ratio"].as_f64().expect("a ratio");
            assert!(completed >= 0.98, "{service:#}");
            // The clients are near: what is under way waits for its SYN-ACK.
            let half_open = service["half_open"].as_u64().expect("a count");
            assert!(half_open <= 10, "{service:#}");
        }
    }
    for report in looks.iter().chain(&during).chain([&report]) {
        assert_eq!((&report["status"], &report["detections"]), (&json!("ok"), &json!([])));
    }
    assert!(daemon.events().is_empty(), "{:?}", daemon.events());

    assert_eq!(served.failed, 0, "clients failed");
    assert!(served.answered > u64::from(RATE) * 17, "only {served:?}");
    assert_eq!(servers.iter().map(Service::answered).sum::<u64>(), served.answered);
    let totals = &report["totals"];
    let count = |name: &str| totals[name].as_u64().unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(count("syn") - count("syn_retransmitted"), served.answered, "{totals:#}");
    assert_eq!(count("handshakes_completed"), served.answered, "{totals:#}");

    let duration = |part: &str| {
        daemon.metric(&format!("synwatch_handshake_duration_seconds_{part}")).expect("a metric")
    };
    let mean = duration("sum") / duration("count");
    eprintln!("{served:?}, a handshake takes {mean:.4} s");
    assert!(mean >= DISTANCE.as_secs_f64(), "handshakes take {mean} s");
}

#[test]
fn refusals_of_far_servers_are_no_attack() {
    if !support::requires_root() {
        return;
    }
    let _turn = Turn::wait(RATE * CONNECTION);
    let path = Path::new();
    let daemon = path.watch();
    let clients = path.clients();
    thread::sleep(Duration::from_secs(7));
    let once = path.once();
    let served = stop(clients);
    let report = fresh(&daemon);

    assert!(served.failed > u64::from(RATE) * 8, "only {served:?}");
    assert_eq!(served.answered, 0);
    assert_eq!(report["totals"]["handshakes_reset"], served.failed, "{report:#}");
    let look = document(&once);
    assert_eq!(once.status.code(), Some(0), "--once: {look:#}");
    for report in [&look, &report] {
        let all = report["detections"].as_array().expect("a list");
        assert!(all.iter().all(|found| found["severity"] == "info"), "{all:#?}");
        assert_eq!(report["status"], "ok");
    }
}

/// What shows that the others can fail.
#[test]
fn floods_of_far_servers_are_named_at_the_router() {
    if !support::requires_root() {
        return;
    }
    let _turn = Turn::wait(2_000 + RATE * CONNECTION);
    let path = Path::new();
    let _servers = path.serve();
    let daemon = path.watch();
    let clients = path.clients();
    thread::sleep(Duration::from_secs(4));
    assert!(daemon.detections().is_empty(), "{:#?}", daemon.detections());

    let duration = Duration::from_secs(7);
    let floods = path.targets.map(|target| Flood::random(target, 1_000, duration).start(&path.lab));
    thread::sleep(Duration::from_secs(4));
    let once = path.once();
    let sent = floods.map(|flood| flood.join());
    let served = stop(clients);
    let report = daemon.status();
    for (target, sent) in path.targets.into_iter().zip(sent) {
        let found = entry_of(target, &report["detections"], |found| &found["target"]);
        assert_eq!(found["class"], "syn_flood", "{found:#}");
        let after = critical_after(found, sent.first);
        eprintln!("{target}: critical after {after:.2} s");
        assert!(after <= 6.0, "{target}: critical after {after:.2} s");
        entry_of(target, &document(&once)["detections"], |found| &found["target"]);
    }
    assert_eq!(report["detections"].as_array().map(Vec::len), Some(2), "{report:#}");
    assert_eq!(once.status.code(), Some(2), "--once: {:#}", document(&once));
    assert_eq!(served.failed, 0, "clients failed");
}
