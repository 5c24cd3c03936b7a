//! The program is run by a small interpreter over frames as they cross the wire.

use super::assembler::{JA, JEQ, JEQ_X, JSET, RET_A};
use super::*;

mod fanout;
mod sampling;

/// A frame and what the kernel knows of it.
#[derive(Clone, Debug)]
struct Packet {
    hardware_type: u16,
    packet_type: u8,
    /// EtherType by the kernel's account.
    protocol: u16,
    /// Where the kernel has put the network header.
    network: usize,
    data: Vec<u8>,
}

/// The index of the interface that every packet crosses.
const INTERFACE: u32 = 7;

/// Octets kept by `filter`, 0 for a frame that is dropped.
fn run(filter: &Filter, packet: &Packet) -> u32 {
    execute(&filter.program(), packet)
}

/// Classic BPF as in Documentation/networking/filter.rst of Linux.
fn execute(program: &[sock_filter], packet: &Packet) -> u32 {
    // The kernel takes no program that reads scratch memory before it wrote there.
    let (mut a, mut x, mut memory, mut pc) = (0u32, 0u32, [None; 16], 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[pc];
        pc += 1;
        let mut branch = |taken: bool| pc += usize::from(if taken { jt } else { jf });
        let mode = u32::from(code) & !(libc::BPF_H | libc::BPF_B);
        match code {
            _ if mode == libc::BPF_LD | libc::BPF_ABS || mode == libc::BPF_LD | libc::BPF_IND => {
                let base = if mode == libc::BPF_LD | libc::BPF_IND { x } else { 0 };
                let size = match u32::from(code) & (libc::BPF_H | libc::BPF_B) {
                    libc::BPF_W => 4,
                    libc::BPF_H => 2,
                    _ => 1,
                };
                match load(packet, base.wrapping_add(k), size) {
                    Some(value) => a = value,
                    None => return 0,
                }
            }
            LD_MEM => a = memory[k as usize].unwrap(),
            LD_IMM => a = k,
            LDX_IMM => x = k,
            LDX_MEM => x = memory[k as usize].unwrap(),
            ST => memory[k as usize] = Some(a),
            STX => memory[k as usize] = Some(x),
            ADD => a = a.wrapping_add(k),
            ADD_X => a = a.wrapping_add(x),
            SUB => a = a.wrapping_sub(k),
            SUB_X => a = a.wrapping_sub(x),
            MUL => a = a.wrapping_mul(k),
            AND => a &= k,
            XOR_X => a ^= x,
            LSH => a <<= k,
            RSH => a >>= k,
            JA => pc += k as usize,
            JEQ => branch(a == k),
            JEQ_X => branch(a == x),
            JSET => branch(a & k != 0),
            RET => return k,
            RET_A => return a,
            TAX => x = a,
            TXA => a = x,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn load(packet: &Packet, offset: u32, size: usize) -> Option<u32> {
    let offset = offset.cast_signed();
    let start = match offset {
        0.. => usize::try_from(offset).unwrap(),
        libc::SKF_AD_OFF.. => {
            return Some(match offset - libc::SKF_AD_OFF {
                libc::SKF_AD_PROTOCOL => packet.protocol.into(),
                libc::SKF_AD_PKTTYPE => packet.packet_type.into(),
                libc::SKF_AD_HATYPE => packet.hardware_type.into(),
                libc::SKF_AD_IFINDEX => INTERFACE,
                other => panic!("ancillary {other}"),
            });
        }
        libc::SKF_NET_OFF.. => {
            packet.network + usize::try_from(offset - libc::SKF_NET_OFF).unwrap()
        }
        _ => panic!("offset {offset}"),
    };
    let bytes = packet.data.get(start..start + size)?;
    Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

fn ethernet(ethertype: u16, rest: &[u8]) -> Packet {
    let mut data = vec![0; 12];
    data.extend(ethertype.to_be_bytes());
    data.extend(rest);
    // As of the minimum frame: padding must not count as payload.
    data.resize(data.len().max(60), 0);
    Packet {
        hardware_type: libc::ARPHRD_ETHER,
        packet_type: libc::PACKET_HOST,
        protocol: ethertype,
        network: 14,
        data,
    }
}

fn tagged(tags: &[u16], rest: &[u8]) -> Packet {
    tagged_with(0x0800, tags, rest)
}

fn tagged_with(last: u16, tags: &[u16], rest: &[u8]) -> Packet {
    let mut inner = Vec::new();
    for ethertype in tags.iter().skip(1).chain([&last]) {
        inner.extend([0x40, 0x01]);
        inner.extend(ethertype.to_be_bytes());
    }
    inner.extend(rest);
    ethernet(tags[0], &inner)
}

/// A device without a link header; `prefix` octets that only the kernel understands lie before the
/// packet.
fn raw(protocol: u16, prefix: usize, rest: &[u8]) -> Packet {
    let mut data = vec![0xee; prefix];
    data.extend(rest);
    Packet {
        hardware_type: libc::ARPHRD_NONE,
        packet_type: libc::PACKET_HOST,
        protocol,
        network: prefix,
        data,
    }
}

fn tcp(flags: u8, options: usize, payload: usize) -> Vec<u8> {
    let mut tcp = vec![0; 20 + options + payload];
    tcp[12] = u8::try_from((20 + options) / 4).unwrap() << 4;
    tcp[13] = flags;
    tcp
}

fn ipv4(protocol: u8, options: usize, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0; 20 + options];
    ip[0] = 0x40 | u8::try_from((20 + options) / 4).unwrap();
    let total = u16::try_from(ip.len() + payload.len()).unwrap();
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[9] = protocol;
    ip.extend(payload);
    ip
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0; 40];
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    ip[6] = next_header;
    ip.extend(payload);
    ip
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const PUSH_ACK: u8 = 0x18;

/// Whether a packet passes, and is never kept to less than a usual one.
fn passes(packet: &Packet) -> bool {
    match run(&Filter::default(), packet) {
        0 => false,
        SNAP_LENGTH.. => true,
        other => panic!("returned {other}"),
    }
}

/// An IPv6 packet with extension headers of these types and lengths before `payload`, which is TCP.
fn behind(headers: &[(u8, usize)], payload: &[u8]) -> Vec<u8> {
    let (mut next, mut octets) = (6, payload.to_vec());
    for (kind, length) in headers.iter().rev() {
        let mut header = vec![0; *length];
        header[0] = next;
        header[1] = u8::try_from(length / 8 - 1).unwrap();
        header.extend(octets);
        (next, octets) = (*kind, header);
    }
    ipv6(next, &octets)
}

fn wanting(selection: Selection) -> Filter {
    Filter { selection, ..Filter::default() }
}

#[test]
fn segments_of_a_handshake_pass_and_data_does_not() {
    for options in [0, 4, 40] {
        for ip_options in [0, 4, 40] {
            for flags in [SYN, SYN | ACK, ACK | 0x01, 0x04, ACK | 0x04, ACK, 0] {
                let segment = tcp(flags, options, 0);
                assert!(passes(&ethernet(0x0800, &ipv4(6, ip_options, &segment))), "{flags:#x}");
                assert!(passes(&ethernet(0x86dd, &ipv6(6, &segment))), "{flags:#x}");
                assert!(passes(&raw(0x0800, 0, &ipv4(6, ip_options, &segment))), "{flags:#x}");
                assert!(passes(&raw(0x86dd, 6, &ipv6(6, &segment))), "{flags:#x}");
            }
            for payload in [1, 4, 1000] {
                for flags in [PUSH_ACK, ACK] {
                    let segment = tcp(flags, options, payload);
                    assert!(!passes(&ethernet(0x0800, &ipv4(6, ip_options, &segment))));
                    assert!(!passes(&ethernet(0x86dd, &ipv6(6, &segment))));
                    assert!(!passes(&raw(0x0800, 0, &ipv4(6, ip_options, &segment))));
                }
                let fast_open = tcp(SYN, options, payload);
                assert!(passes(&ethernet(0x0800, &ipv4(6, ip_options, &fast_open))));
                assert!(passes(&ethernet(0x86dd, &ipv6(6, &fast_open))));
            }
        }
    }
}

#[test]
fn data_passes_where_it_is_asked_for() {
    let filter = wanting(Selection { data: true, flows: None });
    let segment = tcp(PUSH_ACK, 12, 1000);
    assert_eq!(run(&filter, &ethernet(0x0800, &ipv4(6, 0, &segment))), SNAP_LENGTH);
    assert_eq!(run(&filter, &ethernet(0x86dd, &ipv6(6, &segment))), SNAP_LENGTH);
    assert_eq!(run(&filter, &ethernet(0x0800, &ipv4(17, 0, &segment))), 0);
}

#[test]
fn up_to_two_vlan_tags_in_the_data_are_stepped_over() {
    let (ack, data) = (ipv4(6, 0, &tcp(ACK, 0, 0)), ipv4(6, 0, &tcp(ACK, 0, 9)));
    for tags in [&[0x8100][..], &[0x88a8], &[0x88a8, 0x8100], &[0x8100, 0x8100]] {
        assert!(passes(&tagged(tags, &ack)), "{tags:x?}");
        assert!(!passes(&tagged(tags, &data)), "{tags:x?}");
    }
    assert!(!passes(&tagged(&[0x8100, 0x8100, 0x8100], &ack)));
}

#[test]
fn what_is_not_tcp_over_ip_is_dropped() {
    let udp = [0xff; 28];
    assert!(!passes(&ethernet(0x0800, &ipv4(17, 0, &udp))));
    assert!(!passes(&ethernet(0x86dd, &ipv6(17, &udp))));
    assert!(!passes(&ethernet(0x0806, &udp)));
    assert!(!passes(&raw(0x0806, 0, &udp)));
    assert!(!passes(&ethernet(0x0800, &ipv4(47, 0, &udp))));
}

#[test]
fn fragments_of_tcp_pass() {
    for (options, keep) in [(0, SNAP_LENGTH), (8, WHOLE)] {
        for field in [[0x20, 0], [0x20, 1], [0, 1], [0x1f, 0xff]] {
            for (protocol, passes) in [(6, true), (17, false), (1, false)] {
                let mut fragment = ipv4(protocol, options, &[0xff; 8]);
                fragment[6..8].copy_from_slice(&field);
                let kept = run(&Filter::default(), &ethernet(0x0800, &fragment));
                assert_eq!(kept, if passes { keep } else { 0 }, "{protocol} {field:x?}");
            }
        }
    }
    // Nobody knows whose they are: ports and samples leave none of them out.
    let sampling_key =
        *synwatch_core::sampling::Hasher::new(synwatch_core::sampling::HashKey([7; 16]))
            .sampling_key();
    let sampling =
        Sampling { general: synwatch_core::sampling::SamplingLevel::MAX, heavy: Vec::new() };
    let selection = Selection { data: false, flows: Some((sampling_key, sampling)) };
    let filter = Filter { ports: vec![80], selection, ..Filter::default() };
    let mut fragment = ipv4(6, 0, &[0xff; 8]);
    fragment[7] = 1;
    assert_eq!(run(&filter, &ethernet(0x0800, &fragment)), SNAP_LENGTH);
    let fragment = ethernet(0x86dd, &behind(&[(60, 8), (44, 8)], &[0xff; 8]));
    assert_eq!(run(&filter, &fragment), WHOLE);
}

#[test]
fn what_the_program_does_not_follow_passes_whole() {
    let filter = Filter::default();
    let run = |packet: &Packet| run(&filter, packet);
    for next_header in [44, 51] {
        assert_eq!(run(&ethernet(0x86dd, &ipv6(next_header, &[0; 64]))), WHOLE);
    }
    assert_eq!(run(&ethernet(0x0800, &ipv4(51, 0, &[0; 64]))), WHOLE);
    let long = behind(&[(0, 8), (60, 8), (43, 8)], &tcp(PUSH_ACK, 0, 9));
    assert_eq!(run(&ethernet(0x86dd, &long)), WHOLE);
    for next_header in [17, 41, 47, 58] {
        assert_eq!(run(&ethernet(0x86dd, &ipv6(next_header, &[0; 64]))), 0);
        let mut behind_options = behind(&[(60, 8)], &[0; 64]);
        behind_options[40] = next_header;
        assert_eq!(run(&ethernet(0x86dd, &behind_options)), 0);
    }
}

#[test]
fn data_behind_extension_headers_is_dropped() {
    for headers in [&[(0, 8)][..], &[(60, 88)], &[(0, 8), (43, 24)]] {
        for (segment, expected) in [
            (tcp(SYN, 20, 0), true),
            (tcp(ACK, 12, 0), true),
            (tcp(PUSH_ACK, 12, 100), false),
            (tcp(SYN, 0, 100), true),
        ] {
            let packet = behind(headers, &segment);
            assert_eq!(passes(&ethernet(0x86dd, &packet)), expected, "{headers:?}");
            assert_eq!(passes(&raw(0x86dd, 4, &packet)), expected, "{headers:?}");
            assert_eq!(passes(&tagged_with(0x86dd, &[0x8100], &packet)), expected);
        }
    }
}

/// Whatever chain of headers Linux accepts, the TCP header with its options is kept, as is found by
/// decoding what is.
#[test]
fn no_chain_of_headers_is_cut() {
    use synwatch_core::wire::{LinkType, decode};

    let lengths = [8, 16, 80, 88, 96, 120, 208, 512, 1_024, 2_048];
    let mut chains: Vec<Vec<(u8, usize)>> = Vec::new();
    for length in lengths {
        for count in 1..=8 {
            chains.push(vec![(60, length); count]);
            let mut mixed = vec![(60, length); count];
            mixed[0].0 = 0;
            mixed[count - 1].0 = if count > 1 { 43 } else { 0 };
            chains.push(mixed);
        }
    }
    for chain in &chains {
        for options in [0, 4, 40] {
            let syn = behind(chain, &tcp(SYN, options, 0));
            for packet in [
                ethernet(0x86dd, &syn),
                tagged_with(0x86dd, &[0x88a8, 0x8100], &syn),
                raw(0x86dd, 0, &syn),
                raw(0x86dd, 64, &syn),
            ] {
                let kept = run(&Filter::default(), &packet) as usize;
                let all = packet.data.len();
                // Every octet, or all of the TCP header.
                assert!(kept >= all, "{chain:?}: {kept} of {all}");
                let start =
                    if packet.hardware_type == libc::ARPHRD_NONE { packet.network } else { 0 };
                let link = if start == 0 && packet.hardware_type == libc::ARPHRD_ETHER {
                    LinkType::Ethernet
                } else {
                    LinkType::RawIp
                };
                let data = &packet.data[start..all.min(kept)];
                assert!(decode(link, data, u32::try_from(all - start).unwrap()).is_ok());
            }
        }
    }
    for ip_options in (0..=40).step_by(4) {
        let packet = ipv4(6, ip_options, &tcp(SYN, 40, 0));
        for packet in [
            ethernet(0x0800, &packet),
            tagged(&[0x88a8, 0x8100], &packet),
            raw(0x0800, 64, &packet),
        ] {
            assert!(run(&Filter::default(), &packet) as usize >= packet.data.len());
        }
    }
}

#[test]
fn a_total_length_of_zero_is_data() {
    let mut packet = ipv4(6, 0, &tcp(ACK, 0, 100));
    packet[2..4].fill(0);
    assert!(!passes(&ethernet(0x0800, &packet)));
    packet[33] = SYN;
    assert!(passes(&ethernet(0x0800, &packet)));
}

#[test]
fn a_cut_frame_is_dropped() {
    let whole = raw(0x0800, 0, &ipv4(6, 0, &tcp(ACK, 0, 0)));
    for length in 0..33 {
        let data = whole.data[..length].to_vec();
        assert!(!passes(&Packet { data, ..whole }), "{length}");
    }
}

#[test]
fn loopback_passes_once_and_only_where_it_is_asked_for() {
    let mut packet = ethernet(0x0800, &ipv4(6, 0, &tcp(SYN, 0, 0)));
    packet.hardware_type = libc::ARPHRD_LOOPBACK;
    let with_loopback = Filter { loopback: true, ..Filter::default() };
    assert!(!passes(&packet));
    assert_eq!(run(&with_loopback, &packet), SNAP_LENGTH);
    packet.packet_type = libc::PACKET_OUTGOING;
    assert_eq!(run(&with_loopback, &packet), 0);
    packet.hardware_type = libc::ARPHRD_ETHER;
    assert!(passes(&packet));
}

#[test]
fn only_what_crosses_a_chosen_interface_passes() {
    let syn = ethernet(0x0800, &ipv4(6, 0, &tcp(SYN, 0, 0)));
    for (interfaces, expected) in [
        (vec![], 0),
        (vec![1, INTERFACE + 1], 0),
        (vec![INTERFACE], SNAP_LENGTH),
        (vec![1, INTERFACE], SNAP_LENGTH),
    ] {
        let filter = Filter { interfaces: Some(interfaces), ..Filter::default() };
        assert_eq!(run(&filter, &syn), expected, "{filter:?}");
        assert_eq!(run(&filter, &ethernet(0x0800, &ipv4(17, 0, &[0xff; 28]))), 0);
    }
}

#[test]
fn only_flows_with_a_wanted_port_pass() {
    let filter = Filter { ports: vec![80, 443], ..Filter::default() };
    for (source, destination, wanted) in
        [(443, 50_000, true), (50_000, 443, true), (80, 443, true), (50_000, 444, false)]
    {
        for flags in [SYN, ACK] {
            let mut segment = tcp(flags, 0, 0);
            segment[..2].copy_from_slice(&u16::to_be_bytes(source));
            segment[2..4].copy_from_slice(&u16::to_be_bytes(destination));
            let expected = if wanted { SNAP_LENGTH } else { 0 };
            let kept = run(&filter, &ethernet(0x0800, &ipv4(6, 8, &segment)));
            assert_eq!(kept >= SNAP_LENGTH, wanted);
            assert_eq!(run(&filter, &ethernet(0x86dd, &ipv6(6, &segment))), expected);
        }
    }
    assert_eq!(run(&filter, &ethernet(0x0800, &ipv4(6, 0, &tcp(PUSH_ACK, 0, 9)))), 0);
}

#[test]
fn jumps_may_be_long() {
    for (length, condition) in (240..270).flat_map(|length| [(length, true), (length, false)]) {
        let mut asm = Assembler::default();
        asm.op(LDX_IMM, condition.into());
        asm.op(TXA, 0);
        asm.jump_if_equal(1, Label::Accept, Label::Drop);
        for _ in 0..length {
            asm.op(RET, 1);
        }
        asm.label(Label::Accept);
        asm.op(RET, 2);
        asm.label(Label::Drop);
        asm.op(RET, 3);
        let packet = raw(0, 0, &[]);
        let expected = if condition { 2 } else { 3 };
        assert_eq!(execute(&asm.finish(), &packet), expected, "{length}");
    }
}

#[test]
#[should_panic(expected = "no Drop ahead of a jump")]
fn a_jump_to_nowhere_is_no_program() {
    let mut asm = Assembler::default();
    asm.label(Label::Drop);
    asm.op(TXA, 0);
    asm.jump_if_equal(0, Label::Drop, Label::Next);
    asm.finish();
}
