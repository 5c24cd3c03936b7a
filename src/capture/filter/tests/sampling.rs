//! The program and user space choose the same flows.

use proptest::prelude::*;
use proptest::sample::Index;
use synwatch_core::sampling::{HashKey, Hasher, SamplingLevel};
use synwatch_core::wire::{Address, Flags, LinkType, Segment, decode};

use super::*;

/// How a packet travels.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path {
    Ethernet { tags: usize },
    Loopback,
    Raw { prefix: usize },
}

/// What a packet is made of.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub path: Path,
    pub ends: [(Address, u16); 2],
    ip_options: usize,
    tcp_options: usize,
    flags: u8,
    payload: usize,
}

impl Parts {
    /// IPv4 unless an address says otherwise, as an IPv4-mapped one does with `mapped`.
    pub fn packet(&self, mapped: bool) -> Packet {
        let mut segment = tcp(self.flags, 4 * self.tcp_options, self.payload);
        let [source, destination] = self.ends;
        segment[..2].copy_from_slice(&source.1.to_be_bytes());
        segment[2..4].copy_from_slice(&destination.1.to_be_bytes());
        let addresses = [source.0, destination.0];
        let octets = addresses.map(|address| address.to_bits().to_be_bytes());
        let (ethertype, packet): (u16, _) = if !mapped && addresses.iter().all(|a| a.is_ipv4()) {
            let mut packet = ipv4(6, 4 * self.ip_options, &segment);
            packet[12..16].copy_from_slice(&octets[0][12..]);
            packet[16..20].copy_from_slice(&octets[1][12..]);
            (0x0800, packet)
        } else {
            let mut packet = ipv6(6, &segment);
            packet[8..24].copy_from_slice(&octets[0]);
            packet[24..40].copy_from_slice(&octets[1]);
            (0x86dd, packet)
        };
        match self.path {
            Path::Ethernet { tags } => {
                let mut inner = Vec::new();
                for tag in 0..tags {
                    inner.extend([0x40, 0x01]);
                    let last = tag + 1 == tags;
                    inner.extend(if last { ethertype } else { 0x8100 }.to_be_bytes());
                }
                inner.extend(packet);
                ethernet(if tags == 0 { ethertype } else { 0x88a8 }, &inner)
            }
            Path::Loopback => {
                Packet { hardware_type: libc::ARPHRD_LOOPBACK, ..ethernet(ethertype, &packet) }
            }
            Path::Raw { prefix } => raw(ethertype, prefix, &packet),
        }
    }
}

/// The segment that user space gets.
pub(super) fn decoded(packet: &Packet) -> Option<Segment> {
    let (link, data) = match packet.hardware_type {
        libc::ARPHRD_NONE => (LinkType::RawIp, packet.data.get(packet.network..)?),
        _ => (LinkType::Ethernet, &packet.data[..]),
    };
    decode(link, data, u32::try_from(data.len()).unwrap()).ok()
}

/// Whether user space looks at the segment.
fn wanted(filter: &Filter, segment: &Segment) -> bool {
    let Filter { ports, selection, .. } = filter;
    let handshake = segment.flags.intersects(Flags::SYN | Flags::FIN | Flags::RST);
    let port = |port| ports.is_empty() || ports.contains(&port);
    (selection.data || handshake || segment.payload_len == 0)
        && (port(segment.source_port) || port(segment.destination_port))
        && selection.flows.as_ref().is_none_or(|(sampling_key, sampling)| {
            let ends = sampling_key.ends(segment);
            sampling.level(ends).includes(sampling_key.of(ends))
        })
}

fn address() -> impl Strategy<Value = Address> {
    prop_oneof![
        4 => any::<[u8; 4]>().prop_map(Address::v4),
        4 => any::<[u8; 16]>().prop_map(Address::v6),
        1 => any::<u32>().prop_map(|low| Address::from_bits(0x2001_0db8 << 96 | u128::from(low))),
        // Nearly IPv4-mapped.
        1 => (0..96u32, any::<u32>()).prop_map(|(bit, low)| {
            Address::from_bits((0xffff_0000_0000 | u128::from(low)) ^ 1 << (32 + bit))
        }),
    ]
}

pub(super) fn parts() -> impl Strategy<Value = Parts> {
    let path = prop_oneof![
        (0..3usize).prop_map(|tags| Path::Ethernet { tags }),
        Just(Path::Loopback),
        prop_oneof![Just(0), 1..30usize].prop_map(|prefix| Path::Raw { prefix }),
    ];
    let port = || prop_oneof![Just(443u16), any::<u16>()];
    let payload = prop_oneof![3 => Just(0), 1 => 1..20usize];
    let flags = prop_oneof![Just(SYN), Just(SYN | ACK), Just(ACK), Just(PUSH_ACK), any::<u8>()];
    (path, [(address(), port()), (address(), port())], 0..11usize, 0..11usize, flags, payload)
        .prop_map(|(path, ends, ip_options, tcp_options, flags, payload)| Parts {
            path,
            ends,
            ip_options,
            tcp_options,
            flags,
            payload,
        })
}

fn level() -> impl Strategy<Value = SamplingLevel> {
    prop_oneof![3 => 0..4u8, 1 => 0..17u8].prop_map(SamplingLevel::new)
}

/// A filter and packets, some of which have an end that is heavy or a port that is wanted.
fn scene() -> impl Strategy<Value = (Filter, Vec<Parts>)> {
    let heavy =
        prop::collection::vec((any::<Index>(), any::<bool>(), any::<u32>(), level()), 0..17);
    let parts = prop::collection::vec(parts(), 1..12);
    let ports = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(prop_oneof![Just(443u16), any::<u16>()], 1..65),
    ];
    (any::<[u8; 16]>(), level(), heavy, any::<bool>(), ports, parts).prop_map(
        |(key, general, heavy, data, ports, parts)| {
            let sampling_key = *Hasher::new(HashKey(key)).sampling_key();
            let heavy = heavy.into_iter().map(|(index, which, random, level)| {
                let (address, port) = index.get(&parts).ends[usize::from(which)];
                let end = if random % 2 == 0 { sampling_key.end(address, port) } else { random };
                (end, level)
            });
            let sampling = Sampling { general, heavy: heavy.collect() };
            let selection = Selection { data, flows: Some((sampling_key, sampling)) };
            (Filter { interfaces: None, loopback: true, ports, selection }, parts)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// In both directions, as IPv4 and as its IPv4-mapped form.
    #[test]
    fn exactly_those_pass_that_user_space_wants((filter, parts) in scene()) {
        let program = filter.program();
        for parts in parts {
            let mut answer = parts.clone();
            answer.ends.reverse();
            for (parts, mapped) in [(&parts, false), (&answer, false), (&parts, true)] {
                let packet = parts.packet(mapped);
                let segment = decoded(&packet).unwrap();
                let kept = execute(&program, &packet);
                prop_assert_eq!(kept != 0, wanted(&filter, &segment), "{:?}", segment);
                let needed = packet.data.len() - segment.payload_len as usize;
                prop_assert!(kept == 0 || kept as usize >= needed.min(SNAP_LENGTH as usize));
            }
        }
    }

    /// Whatever is wrong with a frame: if it passes where all ports and flows do, and user space
    /// can read it and wants its flow, then it passes.
    #[test]
    fn damaged_frames_are_treated_like_whole_ones(
        (filter, parts) in scene(),
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 0..3),
        cut in prop::option::of(any::<Index>()),
    ) {
        let all = Selection { flows: None, ..filter.selection };
        let all = Filter { ports: Vec::new(), selection: all, ..filter.clone() }.program();
        let program = filter.program();
        for parts in parts {
            let mut packet = parts.packet(false);
            for (index, value) in &damage {
                *index.get_mut(&mut packet.data) = *value;
            }
            if let Some(cut) = cut {
                packet.data.truncate(cut.index(packet.data.len()));
            }
            let (sampled, unsampled) = (execute(&program, &packet), execute(&all, &packet));
            prop_assert!(sampled <= unsampled);
            if let Some(segment) = decoded(&packet)
                && wanted(&filter, &segment)
            {
                prop_assert_eq!(sampled, unsampled, "{:?}", segment);
            }
        }
    }
}

fn flow(port: u16) -> Parts {
    Parts {
        path: Path::Ethernet { tags: 0 },
        ends: [(Address::v4([192, 0, 2, 1]), port), (Address::v4([192, 0, 2, 2]), 443)],
        ip_options: 0,
        tcp_options: 0,
        flags: SYN,
        payload: 0,
    }
}

/// The longest program that there can be: each heavy end at a level of its own.
fn largest(sampling_key: SamplingKey) -> Filter {
    let heavy = (0..Sampling::HEAVY).map(|number| {
        let number = u8::try_from(number).unwrap();
        (sampling_key.end(Address::v4([192, 0, 2, 1]), number.into()), SamplingLevel::new(number))
    });
    let sampling = Sampling { general: SamplingLevel::MAX, heavy: heavy.collect() };
    Filter {
        interfaces: None,
        loopback: true,
        ports: (1..64).chain([443]).collect(),
        selection: Selection { data: false, flows: Some((sampling_key, sampling)) },
    }
}

#[test]
fn the_largest_program_has_jumps_that_are_long_and_reach() {
    let filter = largest(*Hasher::new(HashKey([1; 16])).sampling_key());
    assert_eq!(filter.ports.len(), crate::config::Ports::MAX);
    let program = filter.program();
    assert!(program.iter().any(|jump| jump.code == JA && jump.k > u8::MAX.into()));
    // BPF_MAXINSNS of linux/bpf_common.h.
    assert!(program.len() <= 4096, "{} instructions", program.len());
    let (mut passed, mut dropped) = (0, 0);
    for port in 0..2_000 {
        for path in [Path::Ethernet { tags: 2 }, Path::Raw { prefix: 3 }] {
            let packet = Parts { path, ..flow(port) }.packet(port % 2 == 1);
            let expected = wanted(&filter, &decoded(&packet).unwrap());
            assert_eq!(execute(&program, &packet) != 0, expected);
            *(if expected { &mut passed } else { &mut dropped }) += 1;
        }
    }
    assert!(passed >= 4 && dropped > 1_000, "{passed} passed, {dropped} dropped");
}

#[test]
fn without_sampling_nothing_is_hashed() {
    let sampling_key = *Hasher::new(HashKey([2; 16])).sampling_key();
    let exact =
        wanting(Selection { data: false, flows: Some((sampling_key, Sampling::default())) });
    let codes = |filter: &Filter| filter.program().iter().map(|i| i.code).collect::<Vec<_>>();
    assert_eq!(codes(&exact), codes(&Filter::default()));
    assert!(!codes(&exact).contains(&MUL));
}

#[test]
fn what_is_behind_extension_headers_is_sampled_too() {
    let sampling_key = *Hasher::new(HashKey([3; 16])).sampling_key();
    let sampling = Sampling { general: SamplingLevel::new(2), heavy: Vec::new() };
    let filter = wanting(Selection { data: false, flows: Some((sampling_key, sampling)) });
    let mut passed = 0;
    for port in 0..1_000 {
        let mut syn = tcp(SYN, 0, 0);
        syn[..2].copy_from_slice(&u16::to_be_bytes(port));
        let packet = ethernet(0x86dd, &behind(&[(0, 8), (60, 88)], &syn));
        let expected = wanted(&filter, &decoded(&packet).unwrap());
        assert_eq!(run(&filter, &packet) != 0, expected, "{port}");
        passed += u32::from(expected);
    }
    assert!((150..350).contains(&passed), "{passed}");
}
