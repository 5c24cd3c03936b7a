//! The kernel reader against real listeners and real (forged) SYNs, between two network namespaces
//! of the test's own. Needs root and iproute2; skipped elsewhere.

#![allow(clippy::unwrap_used, reason = "the helpers are parts of the tests")]

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use caps::CapSet;
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::tcp::{self, MutableTcpPacket, TcpFlags};
use pnet_packet::{MutablePacket, ethernet, ipv4, ipv6};
use socket2::{Domain, Socket, Type};
use synwatch::kernel::Reader;
use synwatch::sys::netns;
use synwatch_core::observe::{KernelHalfOpen, KernelSample, Listener};
use synwatch_core::time::Timestamp;

const VICTIM_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const VICTIM_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
const VICTIM_MAC: &str = "02:00:00:00:99:01";
const PEER_MAC: &str = "02:00:00:00:99:02";

/// Two namespaces joined by a veth pair: `v` in the victim's, `p` in the peer's, which drops
/// whatever comes. Removed when dropped.
struct Lab {
    victim: String,
    peer: String,
}

impl Lab {
    /// Builds the lab and moves the calling thread into the victim's namespace. `None` (and a
    /// reason on stderr) where that is not possible.
    fn enter(tag: &str) -> Option<Self> {
        let id = std::process::id();
        let lab =
            Self { victim: format!("kernel-{id}-{tag}-v"), peer: format!("kernel-{id}-{tag}-p") };
        match lab.build() {
            Ok(()) => Some(lab),
            Err(reason) => {
                eprintln!("skipped: {reason}");
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        let (v, p) = (&self.victim, &self.peer);
        ip(&format!("netns add {v}"))?;
        ip(&format!("netns add {p}"))?;
        ip(&format!(
            "-n {v} link add v address {VICTIM_MAC} type veth peer name p address {PEER_MAC} netns {p}"
        ))?;
        ip(&format!("-n {p} link set p up"))?;
        ip(&format!("-n {v} link set lo up"))?;
        ip(&format!("-n {v} address add {VICTIM_V4}/24 dev v"))?;
        ip(&format!("-n {v} address add {VICTIM_V6}/64 dev v nodad"))?;
        ip(&format!("-n {v} link set v up"))?;
        // SYN-ACKs to forged addresses must be able to leave.
        for (family, gateway) in [("-4", "10.99.0.2"), ("-6", "fd99::2")] {
            ip(&format!(
                "-n {v} {family} neighbour replace {gateway} lladdr {PEER_MAC} dev v nud permanent"
            ))?;
            ip(&format!("-n {v} {family} route add default via {gateway} dev v"))?;
        }
        netns::enter(v).map_err(|error| error.to_string())?;
        set("net/ipv4/conf/all/rp_filter", "0")?;
        set("net/ipv4/conf/v/rp_filter", "0")?;
        set("net/ipv4/tcp_syncookies", "1")
    }

    /// Sends one SYN from each of `count` forged addresses to `target`, from the peer's namespace.
    fn flood(&self, target: SocketAddr, count: u32) {
        let peer = self.peer.clone();
        thread::spawn(move || {
            netns::enter(&peer).unwrap();
            let interfaces = pnet_datalink::interfaces();
            let p = interfaces.iter().find(|interface| interface.name == "p").unwrap();
            let Ok(pnet_datalink::Channel::Ethernet(mut sender, _)) =
                pnet_datalink::channel(p, pnet_datalink::Config::default())
            else {
                panic!("no channel on {p}");
            };
            for number in 0..count {
                sender.send_to(&forged_syn(target, number), None).unwrap().unwrap();
                if number % 64 == 63 {
                    thread::sleep(Duration::from_micros(500));
                }
            }
        })
        .join()
        .unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.victim, &self.peer] {
            ip(&format!("netns delete {namespace}")).ok();
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Sets a sysctl of the calling thread's namespace.
fn set(name: &str, value: &str) -> Result<(), String> {
    let path = format!("/proc/sys/{name}");
    std::fs::write(&path, value).map_err(|error| format!("cannot write {path}: {error}"))
}

/// An Ethernet frame with a SYN to `target` from forged address number `number`.
fn forged_syn(target: SocketAddr, number: u32) -> Vec<u8> {
    let (ether_type, ip_header) = match target {
        SocketAddr::V4(_) => (ethernet::EtherTypes::Ipv4, 20),
        SocketAddr::V6(_) => (ethernet::EtherTypes::Ipv6, 40),
    };
    let mut frame = vec![0; 14 + ip_header + 20];
    let mut ether = ethernet::MutableEthernetPacket::new(&mut frame).unwrap();
    ether.set_destination(VICTIM_MAC.parse().unwrap());
    ether.set_source(PEER_MAC.parse().unwrap());
    ether.set_ethertype(ether_type);
    let mut syn = [0; 20];
    let mut segment = MutableTcpPacket::new(&mut syn).unwrap();
    segment.set_source(1024 + (number % 60_000) as u16);
    segment.set_destination(target.port());
    segment.set_sequence(number.wrapping_mul(2_654_435_761));
    segment.set_data_offset(5);
    segment.set_flags(TcpFlags::SYN);
    segment.set_window(512);
    match target.ip() {
        IpAddr::V4(to) => {
            let from = Ipv4Addr::from_bits(0xc612_0000 + number); // 198.18.0.0/15
            segment.set_checksum(tcp::ipv4_checksum(&segment.to_immutable(), &from, &to));
            let mut header = ipv4::MutableIpv4Packet::new(ether.payload_mut()).unwrap();
            header.set_version(4);
            header.set_header_length(5);
            header.set_total_length(40);
            header.set_ttl(64);
            header.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
            header.set_source(from);
            header.set_destination(to);
            header.set_checksum(ipv4::checksum(&header.to_immutable()));
            header.set_payload(&syn);
        }
        IpAddr::V6(to) => {
            let from = Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(number) + 1);
            segment.set_checksum(tcp::ipv6_checksum(&segment.to_immutable(), &from, &to));
            let mut header = ipv6::MutableIpv6Packet::new(ether.payload_mut()).unwrap();
            header.set_version(6);
            header.set_payload_length(20);
            header.set_next_header(IpNextHeaderProtocols::Tcp);
            header.set_hop_limit(64);
            header.set_source(from);
            header.set_destination(to);
            header.set_payload(&syn);
        }
    }
    frame
}

/// A listening socket with just these properties.
fn listen(address: &str, backlog: i32, v6_only: bool) -> Socket {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(v6_only).unwrap();
    }
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(backlog).unwrap();
    socket
}

fn sample(reader: &mut Reader) -> KernelSample {
    reader.sample(Timestamp::EPOCH).unwrap()
}

fn listener<'a>(sample: &'a KernelSample, address: &str, port: u16) -> &'a Listener {
    let address: IpAddr = address.parse().unwrap();
    let found = sample.listeners.iter().find(|l| l.address == address && l.port == port);
    found.unwrap_or_else(|| panic!("no {address}:{port} in {:?}", sample.listeners))
}

fn half_open(sample: &KernelSample, address: impl Into<IpAddr>, port: u16) -> &KernelHalfOpen {
    let address = address.into();
    let found = sample.half_open.iter().find(|h| h.address == address && h.port == port);
    found.unwrap_or_else(|| panic!("no {address}:{port} in {:?}", sample.half_open))
}

/// Connections in SYN_RECV as `ss` counts them.
fn ss_syn_recv() -> usize {
    let output = Command::new("ss").args(["-Htn", "state", "syn-recv"]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).lines().count()
}

#[test]
fn listeners_of_every_kind() {
    let Some(_lab) = Lab::enter("listen") else { return };
    let _sockets = [
        listen("0.0.0.0:8001", 128, false),
        listen("10.99.0.1:8002", 511, false),
        listen("[::]:8003", 64, false),
        listen("[::]:8004", 32, true),
        listen("[fd99::1]:8005", 16, false),
        listen("[::ffff:10.99.0.1]:8006", 8, false),
        listen("0.0.0.0:8007", 100, false),
        listen("0.0.0.0:8007", 28, false),
        listen("0.0.0.0:8008", 1_000_000, false),
    ];
    let mut reader = Reader::open().unwrap();
    let sample = sample(&mut reader);
    assert_eq!(reader.problems(), [""; 0]);
    let shape = |address, port| {
        let l = listener(&sample, address, port);
        (l.backlog, l.dual_stack, l.sockets, l.accept_queue)
    };
    assert_eq!(shape("0.0.0.0", 8001), (128, false, 1, 0));
    assert_eq!(shape("10.99.0.1", 8002), (511, false, 1, 0));
    assert_eq!(shape("::", 8003), (64, true, 1, 0));
    assert_eq!(shape("::", 8004), (32, false, 1, 0));
    assert_eq!(shape("fd99::1", 8005), (16, false, 1, 0));
    assert_eq!(shape("10.99.0.1", 8006), (8, false, 1, 0));
    assert_eq!(shape("0.0.0.0", 8007), (128, false, 2, 0));
    assert_eq!(Some(shape("0.0.0.0", 8008).0), sample.sysctls.somaxconn);
    assert_eq!(sample.listeners.len(), 8, "only those of this namespace");

    let owner = listener(&sample, "0.0.0.0", 8001).process.clone().unwrap();
    assert_eq!(owner.pid, Some(std::process::id()));
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(owner.name.as_deref(), Some(name.trim()));

    assert_eq!(sample.half_open, []);
    assert_eq!(sample.sysctls.syncookies, Some(1));
    assert_eq!(sample.sysctls.synack_retries, Some(5));
    assert!(sample.sysctls.max_syn_backlog.is_some());
    assert_eq!(sample.counters.get("ListenOverflows"), Some(&0), "of this namespace");
    let addresses = [VICTIM_V4.into(), Ipv4Addr::LOCALHOST.into(), VICTIM_V6.into()];
    assert!(addresses.iter().all(|a| sample.addresses.contains(a)), "{:?}", sample.addresses);
}

#[test]
fn syn_recv_is_counted_and_ages() {
    let Some(lab) = Lab::enter("syn") else { return };
    let _sockets = [
        listen("10.99.0.1:8001", 4096, false),
        listen("[::]:8002", 4096, false),
        listen("[fd99::1]:8003", 4096, true),
    ];
    let mut reader = Reader::open().unwrap();
    lab.flood(SocketAddr::new(VICTIM_V4.into(), 8001), 700);
    lab.flood(SocketAddr::new(VICTIM_V4.into(), 8002), 40);
    lab.flood(SocketAddr::new(VICTIM_V6.into(), 8002), 30);
    lab.flood(SocketAddr::new(VICTIM_V6.into(), 8003), 20);
    let fresh = sample(&mut reader);
    assert_eq!(ss_syn_recv(), 790);
    assert_eq!(half_open(&fresh, VICTIM_V4, 8001).count, 700);
    assert_eq!(half_open(&fresh, VICTIM_V4, 8002).count, 40, "IPv4 on a dual-stack listener");
    assert_eq!(half_open(&fresh, VICTIM_V6, 8002).count, 30);
    assert_eq!(half_open(&fresh, VICTIM_V6, 8003).count, 20);
    assert_eq!(fresh.half_open.len(), 4);
    assert!(fresh.half_open.iter().all(|h| h.retransmitted == 0 && h.sources.is_empty()));

    // The first SYN-ACK retransmission comes after 1 s.
    thread::sleep(Duration::from_millis(1_600));
    let aged = sample(&mut reader);
    let v4 = half_open(&aged, VICTIM_V4, 8001);
    assert_eq!((v4.count, v4.retransmitted, v4.sources.len()), (700, 700, 512));
    assert!(v4.sources.iter().all(|source| source.to_string().starts_with("198.18.")));
    let mapped = half_open(&aged, VICTIM_V4, 8002);
    assert_eq!((mapped.retransmitted, mapped.sources.len()), (40, 40));
    assert!(mapped.sources.iter().all(IpAddr::is_ipv4), "{:?}", mapped.sources);
    assert!(half_open(&aged, VICTIM_V6, 8003).sources.iter().all(IpAddr::is_ipv6));
    assert_eq!(aged.counters["TCPSynRetrans"] - fresh.counters["TCPSynRetrans"], 790);
}

/// A thread without capabilities dumps every request, one with them asks for the lengths of the
/// queues.
#[test]
fn long_queues_are_counted_alike_with_and_without_privilege() {
    let Some(lab) = Lab::enter("long") else { return };
    let mut reader = Reader::open().unwrap();
    if !reader.prepare() {
        eprintln!("skipped: no BPF iterator");
        return;
    }
    set("net/core/somaxconn", "65535").unwrap();
    let _sockets = [
        listen("10.99.0.1:8001", 65_535, false),
        listen("0.0.0.0:8002", 65_535, false),
        listen("0.0.0.0:8002", 65_535, false),
        listen("[::]:8003", 65_535, false),
    ];
    // A veth that is full has TCP forget the request whose SYN-ACK it could not repeat.
    let victim = &lab.victim;
    for command in ["link add sink type ifb", "link set sink up", "route replace default dev sink"]
    {
        ip(&format!("-n {victim} {command}")).unwrap();
    }
    lab.flood(SocketAddr::new(VICTIM_V4.into(), 8001), 9_000);
    thread::sleep(Duration::from_millis(1_600));
    // Those of the same numbers are the same requests, so one third of the first queue is young.
    lab.flood(SocketAddr::new(VICTIM_V4.into(), 8001), 13_500);
    lab.flood(SocketAddr::new(VICTIM_V4.into(), 8002), 5_000);
    lab.flood(SocketAddr::new(VICTIM_V4.into(), 8003), 10);
    let whole = || {
        let look = || {
            caps::clear(None, CapSet::Effective).unwrap();
            sample(&mut Reader::open().unwrap())
        };
        thread::spawn(look).join().unwrap()
    };
    let before = whole();
    let part = sample(&mut reader);
    let after = whole();
    // A few of a wildcard listener may not have been seen; they are told of its own address then.
    let count = |sample: &KernelSample, port| {
        sample.half_open.iter().filter(|row| row.port == port).map(|row| row.count).sum::<u32>()
    };
    let counts = |sample| [8001, 8002, 8003].map(|port| count(sample, port));
    assert_eq!(ss_syn_recv(), 13_500 + 5_000 + 10);
    for sample in [&before, &part, &after] {
        assert_eq!(counts(sample), [13_500, 5_000, 10]);
    }
    for port in [8001, 8002] {
        let old =
            |sample: &KernelSample| f64::from(half_open(sample, VICTIM_V4, port).retransmitted);
        // Five standard errors of a share of 2,048, and those that grew old meanwhile.
        let slack = f64::from(count(&part, port)) * 0.055;
        assert!(old(&part) > old(&before) - slack && old(&part) < old(&after) + slack, "{part:?}");
    }
    assert_eq!(half_open(&part, VICTIM_V4, 8001).sources.len(), 512);
}

#[test]
fn a_full_syn_queue_shows_in_the_counters() {
    let Some(lab) = Lab::enter("full") else { return };
    let _socket = listen("10.99.0.1:8001", 128, false);
    let mut reader = Reader::open().unwrap();
    lab.flood(SocketAddr::new(VICTIM_V4.into(), 8001), 1_000);
    let full = sample(&mut reader);
    let held = half_open(&full, VICTIM_V4, 8001).count;
    assert!((64..=129).contains(&held), "{held} held with a backlog of 128");
    assert_eq!(ss_syn_recv(), held as usize);
    assert!(full.counters["TCPReqQFullDoCookies"] > 500, "{:?}", full.counters);
    assert!(full.counters["SyncookiesSent"] > 500, "{:?}", full.counters);
}

#[test]
fn the_accept_queue_fills_when_nobody_accepts() {
    let Some(_lab) = Lab::enter("accept") else { return };
    let _socket = listen("127.0.0.1:8001", 4, false);
    let address = SocketAddr::from(([127, 0, 0, 1], 8001));
    let mut reader = Reader::open().unwrap();
    let clients: Vec<_> =
        (0..8).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(100))).collect();
    let sample = sample(&mut reader);
    let listener = listener(&sample, "127.0.0.1", 8001);
    assert_eq!((listener.accept_queue, listener.backlog), (5, 4), "full is one above the limit");
    assert!(clients.iter().any(|c| c.as_ref().is_err_and(|e| e.kind() == ErrorKind::TimedOut)));
    assert!(sample.counters["ListenOverflows"] > 0);
    assert!(sample.counters["ListenDrops"] > 0);
}

/// A cgroup (version 2) of the test's own, removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create(name: &str) -> Option<Self> {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .find(|root| Path::new(root).join("cgroup.controllers").exists());
        let Some(root) = root else {
            eprintln!("skipped: cgroup version 2 is not mounted");
            return None;
        };
        let cgroup = Self(Path::new(root).join(name));
        match std::fs::create_dir(&cgroup.0) {
            Ok(()) => Some(cgroup),
            Err(error) => {
                eprintln!("skipped: cannot create {}: {error}", cgroup.0.display());
                None
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.0).ok();
    }
}

/// A process that listens on an address until it is dropped, started in a cgroup.
struct Server(Child);

impl Server {
    fn start(cgroup: &Cgroup, address: &str) -> Self {
        let child = Command::new("sh")
            .args([
                "-c",
                "echo $$ > \"$1/cgroup.procs\" && exec \"$2\" --ignored --exact server",
                "sh",
            ])
            .arg(&cgroup.0)
            .arg(std::env::current_exe().unwrap())
            .env("SERVER_ADDRESS", address)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server ends with its standard input.
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}

/// What [`Server`] runs.
#[test]
#[ignore = "a part of another test"]
fn server() {
    let Ok(address) = std::env::var("SERVER_ADDRESS") else { return };
    let _socket = listen(&address, 128, false);
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn the_owner_is_known_by_process_and_unit_and_without_privilege_by_unit() {
    let Some(_lab) = Lab::enter("owner") else { return };
    let name = format!("kernel-{}.service", std::process::id());
    let Some(cgroup) = Cgroup::create(&name) else { return };
    let server = Server::start(&cgroup, "127.0.0.1:8001");
    let deadline = Instant::now() + Duration::from_secs(10);
    let process = loop {
        let sample = sample(&mut Reader::open().unwrap());
        if let Some(listener) = sample.listeners.first() {
            break listener.process.clone().unwrap();
        }
        assert!(Instant::now() < deadline, "the server does not listen");
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(process.pid, Some(server.0.id()));
    assert_eq!(process.unit.as_ref(), Some(&name));
    assert!(process.name.is_some());

    // Capabilities belong to a thread.
    thread::spawn(move || without_privilege(name)).join().unwrap();
}

fn without_privilege(unit: String) {
    caps::clear(None, CapSet::Effective).unwrap();
    let mut reader = Reader::open().unwrap();
    let unprivileged = sample(&mut reader);
    let process = listener(&unprivileged, "127.0.0.1", 8001).process.clone().unwrap();
    assert_eq!((process.pid, process.name, process.unit), (None, None, Some(unit)));
    assert_eq!(
        reader.problems(),
        ["process of 1 listening socket(s) unknown: /proc/PID/fd of other users needs \
          CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"]
    );
    assert!(unprivileged.sysctls.somaxconn.is_some() && !unprivileged.counters.is_empty());
    let refused = netns::enter("/proc/self/ns/net").unwrap_err().to_string();
    assert!(
        refused.ends_with("needs CAP_SYS_ADMIN (and CAP_SYS_PTRACE for a process of another user)"),
        "{refused}"
    );
    caps::raise(None, CapSet::Effective, caps::Capability::CAP_SYS_ADMIN).unwrap();
    netns::enter("/proc/self/ns/net").unwrap();
}

#[test]
fn a_namespace_is_entered_by_name_process_and_path() {
    let Some(lab) = Lab::enter("enter") else { return };
    let current = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let victim = current();
    netns::enter(&std::process::id().to_string()).unwrap();
    assert_ne!(current(), victim, "the process's first thread never left its namespace");
    netns::enter(&format!("/run/netns/{}", lab.victim)).unwrap();
    assert_eq!(current(), victim);
    netns::enter(&lab.peer).unwrap();
    assert_ne!(current(), victim);
    let sample = sample(&mut Reader::open().unwrap());
    assert!(!sample.addresses.contains(&VICTIM_V4.into()), "{:?}", sample.addresses);
}

/// Not a test: prints what a sample costs. `cargo test --test kernel -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn cost_of_a_sample() {
    let Some(lab) = Lab::enter("cost") else { return };
    set("net/core/somaxconn", "65535").unwrap();
    let _socket = listen("10.99.0.1:8001", 65_535, false);
    let started = Instant::now();
    let mut reader = Reader::open().unwrap();
    sample(&mut reader);
    println!("open and first sample: {:?}", started.elapsed());
    let without = thread::spawn(|| {
        caps::clear(None, CapSet::Effective).unwrap();
        let reader = Reader::open().unwrap();
        reader.prepare();
        reader
    });
    let mut readers = [("with", reader), ("without", without.join().unwrap())];
    for syns in [0, 5_000, 30_000] {
        lab.flood(SocketAddr::new(VICTIM_V4.into(), 8001), syns);
        for (privilege, reader) in &mut readers {
            let mut times: Vec<_> = (0..101)
                .map(|_| {
                    let started = Instant::now();
                    sample(reader);
                    started.elapsed()
                })
                .collect();
            times.sort_unstable();
            let held = sample(reader).half_open.iter().map(|h| h.count).sum::<u32>();
            println!(
                "{held} in SYN_RECV, {privilege} privilege: median {:?}, fastest {:?}",
                times[50], times[0]
            );
        }
    }
}
