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
    let mut inner = Vec::new();
    for ethertype in tags.iter().skip(1).chain([&0x0800]) {
        inner.extend([0x40, 0x01]);
        inner.extend(ethertype.to_be_bytes());
    }
    inner.extend(rest);
    ethernet(tags[0], &inner)
}

/// A device without a link header; `prefix` octets that only the kernel understands lie before the packet.
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

fn passes(packet: &Packet) -> bool {
    match run(&Filter::default(), packet) {
        0 => false,
        SNAP_LENGTH => true,
        other => panic!("returned {other}"),
    }
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
fn later_fragments_are_dropped_and_first_ones_pass() {
    let mut fragment = ipv4(6, 0, &tcp(SYN, 0, 0));
    fragment[6] = 0x20;
    assert!(passes(&ethernet(0x0800, &fragment)));
    fragment[7] = 0x01;
    assert!(!passes(&ethernet(0x0800, &fragment)));
}

#[test]
fn ipv6_extension_headers_are_left_to_the_decoder() {
    for next_header in [0, 43, 44, 60] {
        assert!(passes(&ethernet(0x86dd, &ipv6(next_header, &[0; 64]))));
    }
    for next_header in [17, 41, 47, 58] {
        assert!(!passes(&ethernet(0x86dd, &ipv6(next_header, &[0; 64]))));
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
            assert_eq!(run(&filter, &ethernet(0x0800, &ipv4(6, 8, &segment))), expected);
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
