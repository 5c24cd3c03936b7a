//! The kernel passes exactly the flows that user space wants, whole, also when it is told of
//! others.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use etherparse::{PacketBuilder, TcpHeader};
use pnet_datalink::{Channel, Config, DataLinkSender};
use synwatch::capture::ring::Ring;
use synwatch::capture::{Batch, Selection, Settings, Source};
use synwatch_core::sampling::{HashKey, Hasher, Sampling, SamplingKey, SamplingLevel};
use synwatch_core::wire::{Address, LinkType, Segment, decode};

use super::live::{Open, PNET, RING, named, tun};
use super::netns::{Lab, inside, ip};

/// Longer than a frame waits in the ring.
const TIMEOUT: Duration = Duration::from_millis(150);

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A whole connection: who sends (the client is 0), what, and how much data.
const CONNECTION: [(usize, u8, usize); 8] = [
    (0, SYN, 0),
    (1, SYN | ACK, 0),
    (0, ACK, 0),
    (0, ACK, 100),
    (1, ACK, 0),
    (1, FIN | ACK, 0),
    (0, FIN | ACK, 0),
    (1, RST, 0),
];

/// Frames, each with who sends it, of connections from different clients to four services of
/// nobody's.
pub fn frames(flows: u32, ipv6: bool) -> Vec<(usize, Vec<u8>)> {
    let mut frames = Vec::new();
    for number in 0..flows {
        let [_, a, b, c] = number.wrapping_mul(0x9e_3779).to_be_bytes();
        let addresses: [IpAddr; 2] = if ipv6 {
            let client = [0x20, 1, 0xd, 0xb8, 0, 7, a, 0, 0, 0, 0, 0, 0, 0, b, c];
            [client.into(), "2001:db8:8::10".parse().unwrap()]
        } else {
            [[10, a, b, c].into(), [198, 51, 100, 10].into()]
        };
        let ports = [1_024 + (number % 60_000) as u16, 440 + (number % 4) as u16];
        for (step, (sender, flags, payload)) in CONNECTION.into_iter().enumerate() {
            let receiver = 1 - sender;
            let link = PacketBuilder::ethernet2([2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 2]);
            let network = match (addresses[sender], addresses[receiver]) {
                (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
                (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
                _ => unreachable!(),
            };
            let mut tcp = TcpHeader::new(ports[sender], ports[receiver], step as u32, 1_000);
            [tcp.fin, tcp.syn, tcp.rst, tcp.ack] =
                [FIN, SYN, RST, ACK].map(|flag| flags & flag != 0);
            let mut frame = Vec::new();
            network.tcp_header(tcp).write(&mut frame, &vec![7; payload]).unwrap();
            frames.push((sender, frame));
        }
    }
    frames
}

/// What tells a segment from all others, in an order.
pub type Identity = (Address, u16, Address, u16, u32);

pub fn identity(segment: &Segment) -> Identity {
    let Segment { source, source_port, destination, destination_port, seq, .. } = *segment;
    (source, source_port, destination, destination_port, seq.0)
}

/// The segments in `frames` that user space looks at, sorted.
pub fn wanted(frames: &[(usize, Vec<u8>)], selection: &Selection) -> Vec<Identity> {
    let mut wanted: Vec<_> = frames
        .iter()
        .map(|(_, frame)| decode(LinkType::Ethernet, frame, frame.len() as u32).unwrap())
        .filter(|segment| selection.data || segment.payload_len == 0)
        .filter(|segment| {
            selection.flows.as_ref().is_none_or(|(sampling_key, sampling)| {
                let ends = sampling_key.ends(segment);
                sampling.level(ends).includes(sampling_key.of(ends))
            })
        })
        .map(|segment| identity(&segment))
        .collect();
    wanted.sort_unstable();
    wanted
}

/// All segments that wait in `source`, sorted.
pub fn drain(source: &mut dyn Source) -> Vec<Identity> {
    let mut segments = Vec::new();
    while source
        .read_batch(TIMEOUT, &mut |frame| {
            // What is not TCP is the kernel's own.
            if let Ok(segment) = decode(frame.link, frame.data, frame.original_len) {
                segments.push(identity(&segment));
            }
        })
        .unwrap()
        == Batch::Frames
    {}
    segments.sort_unstable();
    segments
}

pub fn sampling_key(key: u8) -> SamplingKey {
    *Hasher::new(HashKey([key; 16])).sampling_key()
}

pub fn sampled(sampling_key: SamplingKey, general: u8) -> Selection {
    let sampling = Sampling { general: SamplingLevel::new(general), heavy: Vec::new() };
    Selection { data: false, flows: Some((sampling_key, sampling)) }
}

/// Selections to go through one after the other.
fn selections() -> Vec<Selection> {
    let sampling_key = sampling_key(5);
    let [v4, v6]: [IpAddr; 2] =
        ["198.51.100.10".parse().unwrap(), "2001:db8:8::10".parse().unwrap()];
    let heavy =
        [(v4, 440, 3), (v6, 440, 3), (v4, 441, 0), (v6, 441, 0), (v4, 442, 16), (v6, 442, 16)].map(
            |(address, port, level)| {
                (sampling_key.end(address.into(), port), SamplingLevel::new(level))
            },
        );
    let sampling = Sampling { general: SamplingLevel::new(1), heavy: heavy.to_vec() };
    let heavy = Selection { data: false, flows: Some((sampling_key, sampling)) };
    let with_data = Selection { data: true, ..sampled(sampling_key, 1) };
    let all = Selection::default();
    vec![
        all.clone(),
        sampled(sampling_key, 2),
        sampled(sampling_key, 3),
        heavy,
        sampled(sampling_key, 2),
        with_data,
        all,
    ]
}

/// Sends `flows` connections by `send` under each selection, and compares what comes up.
fn check(source: &mut dyn Source, flows: u32, mut send: impl FnMut(usize, &[u8])) {
    drain(source);
    for selection in selections() {
        source.select(&selection).unwrap();
        for ipv6 in [false, true] {
            let frames = frames(flows, ipv6);
            for (sender, frame) in &frames {
                send(*sender, frame);
            }
            let (seen, expected) = (drain(source), wanted(&frames, &selection));
            assert_eq!(seen.len(), expected.len(), "IPv6: {ipv6}, {selection:?}");
            assert!(seen == expected, "IPv6: {ipv6}, {selection:?}");
        }
    }
}

/// Sends frames on an interface of a namespace.
pub fn sender(namespace: &str, interface: &str) -> Box<dyn DataLinkSender> {
    inside(namespace, || {
        let interfaces = pnet_datalink::interfaces();
        let interface = interfaces.iter().find(|found| found.name == interface).unwrap();
        match pnet_datalink::channel(interface, Config::default()) {
            Ok(Channel::Ethernet(sender, _)) => sender,
            _ => panic!("no channel"),
        }
    })
}

fn open(open: Open, namespace: &str, settings: &Settings) -> Box<dyn Source> {
    inside(namespace, || open(settings).unwrap())
}

#[test]
fn flows_over_ethernet_are_sampled_whole() {
    let Some(lab) = Lab::new() else { return };
    let mut senders = [&lab.client, &lab.server].map(|namespace| sender(namespace, "veth0"));
    let mut send = |from: usize, frame: &[u8]| senders[from].send_to(frame, None).unwrap().unwrap();
    for settings in [named(&[]), named(&["veth0"])] {
        check(open(RING, &lab.server, &settings).as_mut(), 400, &mut send);
    }
    // Its socket has no room for more.
    inside(&lab.server, || check(PNET(&named(&["veth0"])).unwrap().as_mut(), 20, &mut send));
}

#[test]
fn flows_over_loopback_are_sampled_whole() {
    let Some(lab) = Lab::new() else { return };
    let mut sender = sender(&lab.server, "lo");
    let mut ring = open(RING, &lab.server, &named(&["lo"]));
    check(ring.as_mut(), 200, |_, frame| sender.send_to(frame, None).unwrap().unwrap());
}

#[test]
fn flows_without_a_link_header_are_sampled_whole() {
    let Some(lab) = Lab::new() else { return };
    let Some(mut tun) = inside(&lab.server, tun) else { return };
    assert!(ip(&format!("-n {} link set tun0 up", lab.server)));
    let mut ring = open(RING, &lab.server, &named(&["tun0"]));
    check(ring.as_mut(), 200, |_, frame| tun.write_all(&frame[14..]).unwrap());
}

#[test]
fn no_flow_of_both_samples_is_lost_while_one_replaces_the_other() {
    let Some(lab) = Lab::new() else { return };
    let mut senders = [&lab.client, &lab.server].map(|namespace| sender(namespace, "veth0"));
    let mut ring = open(RING, &lab.server, &named(&["veth0"]));
    let [more, fewer] = [1, 3].map(|level| sampled(sampling_key(6), level));
    ring.select(&more).unwrap();
    drain(ring.as_mut());
    let frames = frames(2_000, false);
    let seen = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            for (from, frame) in &frames {
                senders[*from].send_to(frame, None).unwrap().unwrap();
            }
        });
        while !sending.is_finished() {
            ring.select(&fewer).unwrap();
            ring.select(&more).unwrap();
        }
        drain(ring.as_mut())
    });
    let [more, fewer] = [more, fewer].map(|selection| wanted(&frames, &selection));
    assert!(fewer.iter().all(|segment| seen.binary_search(segment).is_ok()));
    assert!(seen.iter().all(|segment| more.binary_search(segment).is_ok()));
    assert_eq!(ring.stats().dropped, 0);
}

/// Kernels before 6.8 allow a socket 20,480 octets for its filters, the old one and the new one.
#[test]
fn the_largest_program_fits_into_the_memory_that_a_socket_may_have() {
    let Some(lab) = Lab::new() else { return };
    inside(&lab.server, || {
        if fs::write("/proc/sys/net/core/optmem_max", "20480").is_err() {
            eprintln!("skipped: net.core.optmem_max is not set by network namespace");
            return;
        }
        let ports = (0..64).collect();
        let mut ring = Ring::open(&Settings { ports, ..named(&["veth0"]) }).unwrap();
        for number in 0..4 {
            let heavy =
                (0..Sampling::HEAVY as u32).map(|n| (!n - number, SamplingLevel::new(n as u8)));
            let sampling = Sampling { general: SamplingLevel::MAX, heavy: heavy.collect() };
            let flows = Some((sampling_key(7), sampling));
            ring.select(&Selection { data: false, flows }).unwrap();
        }
    });
}
