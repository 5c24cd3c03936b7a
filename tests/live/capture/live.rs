//! Ring and pnet on connections between real sockets, in namespaces of our own.

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use synwatch::capture::pnet::Pnet;
use synwatch::capture::ring::Ring;
use synwatch::capture::{Batch, Direction, Error, Interfaces, Selection, Settings, Source};
use synwatch_core::observe::CaptureStats;
use synwatch_core::wire::{Flags, Segment, Skip, decode};

use super::netns::{Lab, enter, inside, ip};

const TIMEOUT: Duration = Duration::from_millis(50);

/// Connections of one test.
const COUNT: usize = 5;

pub type Open = fn(&Settings) -> Result<Box<dyn Source>, Error>;

pub const RING: Open = |settings| Ring::open(settings).map(|ring| Box::new(ring) as _);
pub const PNET: Open = |settings| Pnet::open(settings).map(|pnet| Box::new(pnet) as _);

pub fn named(names: &[&str]) -> Settings {
    let names = names.iter().map(|name| (*name).to_owned());
    Settings { interfaces: Interfaces::from_names(names), ..Settings::default() }
}

/// A source that reads in a thread of its own until it is asked what it has seen.
struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

#[derive(Default)]
struct Seen {
    frames: u64,
    segments: Vec<(Segment, Direction, u32)>,
    idle: usize,
    stats: CaptureStats,
    interfaces: Vec<String>,
}

impl Capture {
    fn start(open: Open, namespace: &str, settings: Settings) -> Self {
        let (namespace, stop) = (namespace.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let (opened, ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            let mut source = open(&settings).unwrap();
            opened.send(()).unwrap();
            let mut seen = Seen::default();
            // After the stop, what still lies in a block is waited for.
            let mut deadline = None;
            while deadline.is_none_or(|deadline| Instant::now() < deadline) {
                if deadline.is_none() && stopped.load(Ordering::Relaxed) {
                    deadline = Some(Instant::now() + Duration::from_millis(200));
                }
                let batch = source.read_batch(TIMEOUT, &mut |frame| {
                    assert!(frame.data.len() <= 160);
                    seen.frames += 1;
                    match decode(frame.link, frame.data, frame.original_len) {
                        Ok(segment) => {
                            seen.segments.push((segment, frame.direction, frame.interface));
                        }
                        // Multicast listener reports: IPv6 with a hop-by-hop header passes.
                        Err(skip) => assert_eq!(skip, Skip::NotTcp),
                    }
                });
                seen.idle += usize::from(batch.unwrap() == Batch::Idle);
            }
            seen.stats = source.stats();
            seen.interfaces = source.interfaces();
            seen
        });
        ready.recv().unwrap();
        Self { stop, thread }
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Seen {
    fn count(&self, direction: Direction, matches: impl Fn(&Segment) -> bool) -> usize {
        self.segments.iter().filter(|(s, d, _)| *d == direction && matches(s)).count()
    }

    /// Every handshake and teardown once, with its direction, and no data.
    fn check(&self, connections: usize, from_client: Direction, from_server: Direction) {
        assert_eq!(self.count(from_client, |s| s.flags.is_syn()), connections);
        assert_eq!(self.count(from_server, |s| s.flags.is_syn_ack()), connections);
        let fin = |s: &Segment| s.flags.contains(Flags::FIN);
        let (client, server) = (self.count(from_client, fin), self.count(from_server, fin));
        // Where directions are not told apart both counts are of all.
        let per_side = if from_client == from_server { 2 * connections } else { connections };
        assert_eq!((client, server), (per_side, per_side));
        for (syn, ..) in self.segments.iter().filter(|(s, ..)| s.flags.is_syn()) {
            assert!(self.segments.iter().any(|(ack, direction, _)| {
                *direction == from_client
                    && ack.source_port == syn.source_port
                    && ack.flags == Flags::ACK
                    && ack.seq == syn.seq + 1
                    && ack.payload_len == 0
            }));
        }
        let plain_data = |s: &Segment| s.payload_len > 0 && !s.flags.contains(Flags::FIN);
        assert!(!self.segments.iter().any(|(s, ..)| plain_data(s)));
        assert_eq!(self.stats.dropped, 0);
        // What has arrived in the last moment is counted before it is delivered.
        assert!(self.stats.received >= self.frames);
    }
}

use Direction::{Incoming, Outgoing, Unknown};

#[test]
fn ring_sees_each_packet_of_a_veth_once() {
    let Some(lab) = Lab::new() else { return };
    for address in Lab::SERVER {
        for settings in [named(&[]), named(&["any"]), named(&["veth0"]), named(&["lo", "veth0"])] {
            let capture = Capture::start(RING, &lab.server, settings);
            Lab::talk(&lab.client, &lab.server, address, COUNT);
            let seen = capture.stop();
            seen.check(COUNT, Incoming, Outgoing);
            assert!(seen.interfaces.contains(&"veth0".to_owned()));
        }
        let capture = Capture::start(RING, &lab.client, named(&[]));
        Lab::talk(&lab.client, &lab.server, address, COUNT);
        capture.stop().check(COUNT, Outgoing, Incoming);
    }
}

#[test]
fn ring_sees_each_packet_of_loopback_once_where_it_is_asked_for() {
    let Some(lab) = Lab::new() else { return };
    for address in ["127.0.0.1", "::1", Lab::SERVER[0]] {
        for settings in [named(&["any"]), named(&["lo"])] {
            let capture = Capture::start(RING, &lab.server, settings);
            Lab::talk(&lab.server, &lab.server, address, COUNT);
            capture.stop().check(COUNT, Incoming, Incoming);
        }
        let capture = Capture::start(RING, &lab.server, named(&[]));
        Lab::talk(&lab.server, &lab.server, address, COUNT);
        assert_eq!(capture.stop().segments, []);
    }
}

#[test]
fn pnet_sees_each_packet_once() {
    let Some(lab) = Lab::new() else { return };
    for settings in [named(&[]), named(&["veth0"]), named(&["any"])] {
        let capture = Capture::start(PNET, &lab.server, settings);
        Lab::talk(&lab.client, &lab.server, Lab::SERVER[0], COUNT);
        let seen = capture.stop();
        seen.check(COUNT, Unknown, Unknown);
        assert!(seen.interfaces.contains(&"veth0".to_owned()));
    }
    let capture = Capture::start(PNET, &lab.server, named(&["lo"]));
    Lab::talk(&lab.server, &lab.server, "127.0.0.1", COUNT);
    capture.stop().check(COUNT, Unknown, Unknown);
}

#[test]
fn data_is_seen_where_it_is_asked_for() {
    let Some(lab) = Lab::new() else { return };
    let open: Open = |settings| {
        let mut ring = Ring::open(settings)?;
        ring.select(&Selection { data: true, flows: None })?;
        Ok(Box::new(ring))
    };
    let capture = Capture::start(open, &lab.server, named(&["veth0"]));
    Lab::talk(&lab.client, &lab.server, Lab::SERVER[0], COUNT);
    let seen = capture.stop();
    for direction in [Incoming, Outgoing] {
        let mut octets: u32 = 0;
        for (segment, d, _) in &seen.segments {
            octets += if *d == direction { segment.payload_len } else { 0 };
        }
        assert_eq!(octets as usize, COUNT * 3000);
    }
}

#[test]
fn vlan_tags_in_the_data_are_stepped_over() {
    const TAG: [u8; 4] = [0x81, 0x00, 0x40, 0x05];
    let Some(lab) = Lab::new() else { return };
    for open in [RING, PNET] {
        let captures = [&lab.server, &lab.client]
            .map(|namespace| Capture::start(open, namespace, named(&["veth0"])));
        inside(&lab.client, || {
            let interfaces = pnet_datalink::interfaces();
            let veth = interfaces.iter().find(|interface| interface.name == "veth0").unwrap();
            let channel = pnet_datalink::channel(veth, pnet_datalink::Config::default());
            let Ok(pnet_datalink::Channel::Ethernet(mut sender, _)) = channel else { panic!() };
            for tags in 0..3 {
                for packet in packets(tags) {
                    let frame = [&[0xff; 12][..], &TAG.repeat(tags.into()), &[0x08, 0x00], &packet];
                    sender.send_to(&frame.concat(), None).unwrap().unwrap();
                }
            }
        });
        for (capture, direction) in captures.into_iter().zip([Incoming, Outgoing]) {
            capture.stop().check_packets(&[0, 1, 2], direction);
        }
    }
}

#[test]
fn devices_without_a_link_header_give_ip_packets() {
    for open in [RING, PNET] {
        // A child that is being started may still hold the device of the first turn.
        let Some(lab) = Lab::new() else { return };
        let Some(mut tun) = inside(&lab.server, tun) else { return };
        assert!(ip(&format!("-n {} link set tun0 up", lab.server)));
        for settings in [named(&["tun0"]), named(&[])] {
            let capture = Capture::start(open, &lab.server, settings);
            for packet in packets(7) {
                tun.write_all(&packet).unwrap();
            }
            capture.stop().check_packets(&[7], Incoming);
        }
    }
}

/// IPv4 packets of which the first two pass: a SYN, an acknowledgement, data, a UDP datagram. They
/// are told apart by `port`.
fn packets(port: u8) -> [Vec<u8>; 4] {
    let packet = |protocol: u8, flags: u8, payload: usize| {
        let mut packet = vec![0; 40 + payload];
        packet[0] = 0x45;
        packet[3] = u8::try_from(packet.len()).unwrap();
        packet[9] = protocol;
        packet[21] = port;
        packet[32] = 0x50;
        packet[33] = flags;
        packet
    };
    [packet(6, 0x02, 0), packet(6, 0x10, 0), packet(6, 0x18, 60), packet(17, 0x02, 0)]
}

impl Seen {
    /// Of [`packets`] with these ports those that should pass, in order.
    fn check_packets(&self, ports: &[u16], expected: Direction) {
        let seen: Vec<_> = self.segments.iter().map(|(s, ..)| (s.source_port, s.flags)).collect();
        let pairs = ports.iter().flat_map(|port| [(*port, Flags::SYN), (*port, Flags::ACK)]);
        assert_eq!(seen, pairs.collect::<Vec<_>>());
        assert!(self.segments.iter().all(|(_, d, _)| *d == expected || *d == Unknown));
    }
}

/// A tun device `tun0`; `None`, with the reason printed, where there is none to be had.
pub fn tun() -> Option<File> {
    let Ok(file) = File::options().read(true).write(true).open("/dev/net/tun") else {
        eprintln!("skipped: no /dev/net/tun");
        return None;
    };
    // SAFETY: all zeroes is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tun0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI).try_into().unwrap();
    // SAFETY: a valid request, which the call reads and writes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0);
    Some(file)
}

#[test]
fn a_busy_interface_does_not_starve_another() {
    let Some(lab) = Lab::new() else { return };
    let mut ring = inside(&lab.server, || Ring::open(&named(&["lo", "veth0"])).unwrap());
    inside(&lab.server, || refused("127.0.0.1", 4000));
    inside(&lab.client, || refused(Lab::SERVER[0], 4000));
    let mut blocks = Vec::new();
    for _ in 0..4 {
        let mut block = 0;
        ring.read_batch(TIMEOUT, &mut |frame| block = frame.interface).unwrap();
        blocks.push(block);
    }
    assert_ne!(blocks[0], blocks[1]);
    assert_eq!(blocks[..2], blocks[2..]);
}

/// Tries to connect where nobody listens.
fn refused(address: &str, count: usize) {
    for _ in 0..count {
        assert!(TcpStream::connect((address, 1)).is_err());
    }
}

#[test]
fn interfaces_that_come_and_go_are_followed() {
    let Some(lab) = Lab::new() else { return };
    for (open, settings) in [
        (RING, named(&["veth0"])),
        (RING, named(&[])),
        (PNET, named(&["veth0"])),
        (PNET, named(&[])),
    ] {
        let started = Instant::now();
        let capture = Capture::start(open, &lab.server, settings);
        Lab::talk(&lab.client, &lab.server, Lab::SERVER[0], COUNT);
        ip(&format!("-n {} link set veth0 down", lab.server));
        std::thread::sleep(Duration::from_millis(300));
        ip(&format!("-n {} link set veth0 up", lab.server));
        // pnet looks once a second.
        std::thread::sleep(Duration::from_millis(1300));
        Lab::talk(&lab.client, &lab.server, Lab::SERVER[0], COUNT);
        ip(&format!("-n {} link del veth0", lab.server));
        std::thread::sleep(Duration::from_millis(300));
        lab.connect();
        std::thread::sleep(Duration::from_millis(1300));
        Lab::talk(&lab.client, &lab.server, Lab::SERVER[0], COUNT);
        let seen = capture.stop();
        let syns = seen.segments.iter().filter(|(s, ..)| s.flags.is_syn()).count();
        assert_eq!(syns, 3 * COUNT);
        let indexes: std::collections::BTreeSet<u32> =
            seen.segments.iter().map(|(.., index)| *index).collect();
        assert_eq!(indexes.len(), 2);
        // It slept while there was nothing to do.
        let most = started.elapsed().as_millis() / TIMEOUT.as_millis() + 10;
        assert!(seen.idle as u128 <= most, "{} of {most}", seen.idle);
    }
}

#[test]
fn drops_are_counted_while_nobody_reads() {
    let Some(lab) = Lab::new() else { return };
    inside(&lab.server, || {
        let settings = Settings { ring_bytes: 0, ..named(&["lo"]) };
        let mut ring = Ring::open(&settings).unwrap();
        // A SYN and a RST each, of 160 octets in the smallest ring of 1 MiB.
        const REFUSED: usize = 5000;
        refused("127.0.0.1", REFUSED);
        let full = ring.stats();
        assert_eq!(full.received, 2 * REFUSED as u64);
        assert!(full.dropped > 0);
        let mut delivered = 0;
        while ring.read_batch(TIMEOUT * 4, &mut |_| delivered += 1).unwrap() == Batch::Frames {}
        assert_eq!(ring.stats().received, ring.stats().dropped + delivered);
        // And it goes on afterwards.
        refused("127.0.0.1", 1);
        let mut delivered = 0;
        while ring.read_batch(TIMEOUT * 4, &mut |_| delivered += 1).unwrap() == Batch::Frames {}
        assert_eq!(delivered, 2);
    });
}

#[test]
fn the_timeout_is_kept() {
    let Some(lab) = Lab::new() else { return };
    inside(&lab.client, || {
        for open in [RING, PNET] {
            let mut source = open(&named(&[])).unwrap();
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(400) {
                source.read_batch(TIMEOUT, &mut |_| ()).unwrap();
            }
            assert!(start.elapsed() < Duration::from_millis(600));
        }
    });
}

#[test]
fn without_the_capability_the_error_names_it() {
    let Some(lab) = Lab::new() else { return };
    inside(&lab.server, || {
        // Of this thread alone.
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_RAW).unwrap();
        for open in [RING, PNET] {
            let error = open(&named(&[])).err().unwrap().to_string();
            assert_eq!(error, "packet capture is not permitted: CAP_NET_RAW is missing");
        }
    });
}
