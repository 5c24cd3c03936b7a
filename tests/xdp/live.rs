//! What the source shows of the frames that come in, and that they go on to the stack.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use synwatch::capture::xdp::Xdp;
use synwatch::capture::{Batch, Direction, Error, Interfaces, Selection, Settings, Source};
use synwatch::sys::privileges::{self, Capability};
use synwatch::sys::threads::Unconfined;
use synwatch_core::time::Timestamp;
use synwatch_core::wire::{Flags, LinkType, Skip, decode};

use crate::mirror::{Identity, Mirror, Shape, identity, segment};
use crate::support::lab::{self, Family, Lab, VICTIM_LINK};
use crate::support::requires_root;
use crate::support::traffic::{Service, connections};

/// Where only one direction is seen, data may be the only sign that a handshake completed.
const DATA_TOO: Selection = Selection { data: true, flows: None };

const TIMEOUT: Duration = Duration::from_millis(100);

pub fn named(name: &str) -> Settings {
    let interfaces = Interfaces::from_names([name.to_owned()]);
    Settings { interfaces, ..Settings::default() }
}

pub fn open(lab: &Lab) -> Xdp {
    lab.victim.run(|| Xdp::open(&named(VICTIM_LINK))).unwrap()
}

/// The segments that have come up, until none comes any more.
pub fn read(xdp: &mut Xdp) -> Vec<Identity> {
    let mut seen = Vec::new();
    while xdp
        .read_batch(TIMEOUT, &mut |frame| {
            assert_eq!((frame.link, frame.direction), (LinkType::Ethernet, Direction::Incoming));
            assert!(frame.data.len() <= 144);
            seen.push(identity(&decode(frame.link, frame.data, frame.original_len).unwrap()));
        })
        .unwrap()
        == Batch::Frames
    {}
    seen
}

#[test]
fn segments_of_handshakes_come_up_in_both_directions_and_data_does_not() {
    if !requires_root() {
        return;
    }
    let lab = Lab::new(lab::Settings::default());
    let (mut xdp, mut mirror) = (open(&lab), Mirror::new(&lab));
    let before = xdp.counts();
    let syn_ack = Flags::SYN | Flags::ACK;
    let (mut chosen, mut data) = (Vec::new(), Vec::new());
    for (number, shape) in (0..).zip(Shape::ALL) {
        let (client, server) = shape.connection(number);
        for (frame, is_chosen) in [
            (shape.frame(client, server, Flags::SYN, b""), true),
            (shape.frame(server, client, syn_ack, b""), true),
            (shape.frame(client, server, Flags::ACK, b""), true),
            (shape.frame(client, server, Flags::ACK, b"GET /"), false),
            (shape.frame(server, client, Flags::ACK, &[7; 1000]), false),
            (shape.frame(server, client, Flags::FIN | Flags::ACK, b"bye"), true),
            (shape.frame(client, server, Flags::RST, b""), true),
        ] {
            mirror.send(&frame);
            let identity = identity(&segment(&frame));
            if is_chosen { chosen.push(identity) } else { data.push((identity, frame)) }
        }
    }
    assert_eq!(read(&mut xdp), chosen);

    let (counts, shapes) = (xdp.counts(), Shape::ALL.len() as u64);
    assert!(counts.packets - before.packets >= 7 * shapes);
    assert_eq!(counts.segments, 5 * shapes);
    assert_eq!((counts.syn, counts.syn_ack), (shapes, shapes));
    assert_eq!((counts.passed, counts.lost), (counts.segments, 0));
    assert_eq!(xdp.stats().received, counts.segments);

    xdp.select(&DATA_TOO).unwrap();
    data.iter().for_each(|(_, frame)| mirror.send(frame));
    assert_eq!(read(&mut xdp), data.into_iter().map(|(identity, _)| identity).collect::<Vec<_>>());
}

/// A chain of headers that the program does not follow to its end is left to user space. What does
/// not come up whole is known to be cut.
#[test]
fn what_is_behind_many_headers_comes_up_as_far_as_it_is_kept() {
    if !requires_root() {
        return;
    }
    let lab = Lab::new(lab::Settings::default());
    let (mut xdp, mut mirror) = (open(&lab), Mirror::new(&lab));
    let (client, server) = Shape::V6.connection(1);
    let plain = Shape::V6.frame(client, server, Flags::SYN, b"");
    let whole = Ok(identity(&segment(&plain)));
    for (headers, octets, expected) in [
        (1, 88, whole),
        (5, 8, whole),
        (4, 248, whole),
        (5, 240, whole),
        (5, 248, Err(Skip::Truncated)),
    ] {
        mirror.send(&behind_options(&plain, headers, octets));
        let mut seen = Vec::new();
        xdp.read_batch(TIMEOUT, &mut |frame| {
            let segment = decode(frame.link, frame.data, frame.original_len);
            seen.push(segment.map(|segment| identity(&segment)));
        })
        .unwrap();
        assert_eq!(seen, [expected], "{headers} headers of {octets} octets");
    }
}

/// Puts so many headers of destination options, of so many octets each, before TCP over IPv6.
fn behind_options(frame: &[u8], headers: u16, octets: u16) -> Vec<u8> {
    const IPV6: usize = 14;
    let mut header = vec![60, (octets / 8 - 1) as u8, 1, (octets - 4) as u8];
    header.resize(octets.into(), 0);
    let mut chain = header.repeat(headers.into());
    let last = chain.len() - header.len();
    chain[last] = frame[IPV6 + 6];
    let mut frame = frame.to_vec();
    let length = u16::from_be_bytes([frame[IPV6 + 4], frame[IPV6 + 5]]) + headers * octets;
    frame[IPV6 + 4..IPV6 + 6].copy_from_slice(&length.to_be_bytes());
    frame[IPV6 + 6] = 60;
    frame.splice(IPV6 + 40..IPV6 + 40, chain);
    frame
}

#[test]
fn only_the_ports_that_are_wanted_come_up() {
    if !requires_root() {
        return;
    }
    let lab = Lab::new(lab::Settings::default());
    let settings = Settings { ports: vec![31, 443, 65_535], ..named(VICTIM_LINK) };
    let mut xdp = lab.victim.run(|| Xdp::open(&settings)).unwrap();
    let mut mirror = Mirror::new(&lab);
    for shape in Shape::ALL {
        for port in [1, 31, 32, 442, 443, 444, 8_443, 65_535] {
            let (mut client, mut server) = shape.connection(1);
            client.set_port(2_000);
            server.set_port(port);
            mirror.send(&shape.frame(client, server, Flags::SYN, b""));
            mirror.send(&shape.frame(server, client, Flags::SYN | Flags::ACK, b""));
        }
        let ports: Vec<u16> = read(&mut xdp).iter().map(|seen| seen.1.min(seen.3)).collect();
        let ports_of_syns = ports.iter().step_by(2).copied().collect::<Vec<_>>();
        assert_eq!((ports.len(), ports_of_syns), (6, vec![31, 443, 2_000]), "{shape:?}");
    }
    assert_eq!(xdp.counts().segments, 6 * Shape::ALL.len() as u64);
}

#[test]
fn frames_carry_time_interface_and_length() {
    if !requires_root() {
        return;
    }
    let lab = Lab::new(lab::Settings::default());
    let (mut xdp, mut mirror) = (open(&lab), Mirror::new(&lab));
    let index = lab.victim.run(|| {
        let interfaces = pnet_datalink::interfaces();
        interfaces.iter().find(|interface| interface.name == VICTIM_LINK).unwrap().index
    });
    let (client, server) = Shape::V4.connection(1);
    let frame = Shape::V4.frame(client, server, Flags::FIN, &[7; 1000]);
    let now = || Timestamp::EPOCH + SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let slack = Duration::from_millis(1);
    let sent = now();
    mirror.send(&frame);
    let arrived = now();
    let mut count = 0;
    xdp.read_batch(TIMEOUT, &mut |read| {
        assert_eq!((read.interface, read.original_len), (index, frame.len() as u32));
        assert_eq!(read.data, &frame[..144]);
        assert!(sent <= read.at + slack && read.at <= arrived + slack, "{:?}", read.at);
        count += 1;
    })
    .unwrap();
    assert_eq!(count, 1);
    let interfaces = lab.victim.run(|| xdp.interfaces());
    assert_eq!((xdp.name(), interfaces), ("xdp", vec![VICTIM_LINK.to_owned()]));
    let begin = Instant::now();
    assert_eq!(xdp.read_batch(TIMEOUT, &mut |_| ()).unwrap(), Batch::Idle);
    assert!(begin.elapsed() >= TIMEOUT);
}

/// On a server, where the stack must get every packet: connections go through as without the
/// program, of which it sees the half that comes in.
#[test]
fn every_packet_passes_on_to_the_stack() {
    if !requires_root() {
        return;
    }
    for family in Family::ALL {
        let lab = Lab::new(lab::Settings::default());
        let target = lab::service(family, 4430);
        let _service = Service::start(&lab, target, 128);
        let clients = lab.add_clients(family, 4);
        let mut xdp = open(&lab);
        assert_eq!(connections(&lab, target, &clients, 20, 100), 20);
        let seen = read(&mut xdp);
        let to_server = |identity: &&Identity| IpAddr::from(identity.2) == target.ip();
        assert_eq!(seen.iter().filter(to_server).filter(|s| s.4 == Flags::SYN).count(), 20);
        assert!(seen.iter().all(|identity| to_server(&identity)));
    }
}

#[test]
fn what_finds_no_room_is_counted_as_lost() {
    if !requires_root() {
        return;
    }
    let lab = Lab::new(lab::Settings::default());
    let settings = Settings { ring_bytes: 256 << 10, ..named(VICTIM_LINK) };
    let mut xdp = lab.victim.run(|| Xdp::open(&settings)).unwrap();
    let mut mirror = Mirror::new(&lab);
    for number in 0..3000 {
        let (client, server) = Shape::V4.connection(number);
        mirror.send(&Shape::V4.frame(client, server, Flags::SYN, b""));
    }
    let counts = xdp.counts();
    assert_eq!(counts.passed + counts.lost, 3000);
    assert_eq!(counts.passed, (256 << 10) / 168);
    assert_eq!(xdp.stats().dropped, counts.lost);
    assert_eq!(read(&mut xdp).len() as u64, counts.passed);
}

/// As in the daemon: opened first, then everything is given up.
#[test]
fn reading_counting_and_sampling_need_no_privileges() {
    if !requires_root() {
        return;
    }
    let lab = Lab::new(lab::Settings::default());
    let (mut xdp, mut mirror) = (open(&lab), Mirror::new(&lab));
    let (client, server) = Shape::V4.connection(1);
    let frame = Shape::V4.frame(client, server, Flags::ACK, b"data");
    thread::scope(|scope| {
        let confined = scope.spawn(|| {
            let needs = xdp.needs();
            assert!(needs.capabilities.is_empty());
            Unconfined::of_this_thread().confine(&needs).unwrap();
            assert!(!privileges::has(Capability::CAP_BPF));
            assert!(read(&mut xdp).is_empty());
            xdp.select(&DATA_TOO).unwrap();
            mirror.send(&frame);
            assert_eq!(read(&mut xdp).len(), 1);
            assert_eq!(xdp.counts().passed, 1);
        });
        confined.join().unwrap();
    });
}

#[test]
fn what_cannot_be_captured_on_is_refused_with_its_reason() {
    if !requires_root() {
        return;
    }
    let lab = Lab::new(lab::Settings::default());
    let refused = |settings: &Settings| {
        let opened = lab.victim.run(|| Xdp::open(settings).map(|_| ()));
        opened.unwrap_err().to_string()
    };
    assert!(refused(&Settings::default()).contains("-i NAME"));
    assert!(refused(&named("nosuch0")).contains("there is no interface \"nosuch0\""));
    lab.victim.ip("tuntap add dev tun0 mode tun");
    assert!(refused(&named("tun0")).contains("tun0: not an Ethernet interface"));
    let first = open(&lab);
    assert!(refused(&named(VICTIM_LINK)).contains("another program is attached"));
    drop(first);
    let unprivileged = thread::spawn(|| {
        privileges::drop_except(&[Capability::CAP_NET_ADMIN]).unwrap();
        Xdp::open(&named("lo")).map(|_| ())
    });
    let error: Error = unprivileged.join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "XDP is not permitted: missing CAP_BPF, CAP_PERFMON");
}

/// Loopback has no XDP in its driver.
#[test]
fn without_the_driver_the_network_stack_runs_the_program() {
    if !requires_root() {
        return;
    }
    let lab = Lab::new(lab::Settings::default());
    let mut xdp = lab.victim.run(|| Xdp::open(&named("lo"))).unwrap();
    let refused: SocketAddr = "127.0.0.1:9".parse().unwrap();
    lab.victim.run(|| std::net::TcpStream::connect(refused)).unwrap_err();
    let flags: Vec<Flags> = read(&mut xdp).iter().map(|identity| identity.4).collect();
    assert_eq!(flags, [Flags::SYN, Flags::RST | Flags::ACK]);
}
