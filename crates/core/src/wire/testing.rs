//! Packets for the tests of the layers. Checksums are left 0: nobody verifies them.

use std::net::Ipv4Addr;

use crate::wire::ip::Envelope;
use crate::wire::{Address, Cursor, Flags, Segment, Skip};

/// Addresses and time to live of [`ipv4`].
pub(super) const ENVELOPE: Envelope = Envelope {
    source: Address::v4([192, 0, 2, 1]),
    destination: Address::v4([198, 51, 100, 2]),
    ttl: 64,
};

/// Decodes `octets`, all of which were captured, by one layer's function.
pub(super) fn whole<'a>(
    layer: impl Fn(Cursor<'a>) -> Result<Segment, Skip>,
    octets: &'a [u8],
) -> Result<Segment, Skip> {
    layer(Cursor::new(octets, 0))
}

/// Whether `outcome` is the segment of [`syn`].
pub(super) fn is_syn(outcome: Result<Segment, Skip>) -> bool {
    outcome.is_ok_and(|segment| {
        segment.flags == Flags::SYN && segment.destination_port == 443 && segment.payload_len == 0
    })
}

/// A TCP segment; `options` is filled up with zeros to a multiple of 4.
pub(super) fn tcp(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let padded = options.len().next_multiple_of(4);
    let mut octets = Vec::new();
    octets.extend(40_000u16.to_be_bytes());
    octets.extend(443u16.to_be_bytes());
    octets.extend([1, 2, 3, 4, 5, 6, 7, 8]);
    octets.extend([u8::try_from(5 + padded / 4).unwrap() << 4, flags]);
    octets.extend(64_240u16.to_be_bytes());
    octets.extend([0; 4]);
    octets.extend(options);
    octets.resize(20 + padded, 0);
    octets.extend(payload);
    octets
}

/// A SYN without options.
pub(super) fn syn() -> Vec<u8> {
    tcp(0x02, &[], &[])
}

/// An IPv4 packet without options.
pub(super) fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + payload.len()).unwrap();
    let mut octets = vec![0x45, 0];
    octets.extend(total.to_be_bytes());
    octets.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    octets.extend(Ipv4Addr::new(192, 0, 2, 1).octets());
    octets.extend(Ipv4Addr::new(198, 51, 100, 2).octets());
    octets.extend(payload);
    octets
}

/// An IPv6 packet.
pub(super) fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut octets = vec![0x60, 0, 0, 0];
    octets.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    octets.extend([next, 64]);
    for host in [1, 2] {
        octets.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    octets.extend(payload);
    octets
}

/// A UDP datagram from port 50000.
pub(super) fn udp(destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    octets.extend(50_000u16.to_be_bytes());
    octets.extend(destination.to_be_bytes());
    octets.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    octets.extend([0, 0]);
    octets.extend(payload);
    octets
}

/// An Ethernet frame.
pub(super) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut octets = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    octets.extend(ethertype.to_be_bytes());
    octets.extend(payload);
    octets
}

/// `header` in front of `payload`.
pub(super) fn join(header: &[u8], payload: &[u8]) -> Vec<u8> {
    [header, payload].concat()
}

/// How many tunnels [`tunnelled`] knows.
pub(super) const TUNNELS: usize = 24;

/// An IPv4 packet that carries a SYN in the tunnel of this number.
pub(super) fn tunnelled(number: usize) -> Vec<u8> {
    let v4 = ipv4(6, &syn());
    let v6 = ipv6(6, &syn());
    let frame = ethernet(0x0800, &v4);
    match number {
        0 => ipv4(4, &v4),
        1 => ipv4(41, &v6),
        2 => ipv4(47, &join(&[0, 0, 8, 0], &v4)),
        3 => ipv4(47, &join(&[0xb0, 0, 0x65, 0x58, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2], &frame)),
        4 => ipv4(47, &join(&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 1, 0, 1, 0, 0, 0, 0], &frame)),
        5 => {
            let erspan = [0x20, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
            ipv4(47, &join(&[0x10, 0, 0x22, 0xeb, 0, 0, 0, 1], &join(&erspan, &frame)))
        }
        6 => ipv4(17, &udp(4789, &join(&[8, 0, 0, 0, 0, 0, 7, 0], &frame))),
        7 => ipv4(17, &udp(8472, &join(&[0x88, 0, 0, 9, 0, 0, 7, 0], &frame))),
        8 => ipv4(17, &udp(6081, &join(&[1, 0, 0x65, 0x58, 0, 0, 7, 0, 0, 0, 0, 0], &frame))),
        9 => ipv4(17, &udp(6081, &join(&[0, 0, 0x86, 0xdd, 0, 0, 7, 0], &v6))),
        10 => ipv4(17, &udp(2152, &join(&[0x30, 255, 0, 40, 0, 0, 0, 1], &v4))),
        11 => {
            let gtp = [0x34, 255, 0, 48, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0, 0, 0];
            ipv4(17, &udp(2152, &join(&gtp, &v4)))
        }
        12 => ipv4(17, &udp(3544, &v6)),
        13 => {
            let teredo = [0, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1, 2, 3, 4, 5, 6];
            ipv4(17, &udp(3544, &join(&teredo, &v6)))
        }
        14 => ipv4(17, &udp(1701, &join(&[0, 2, 0, 1, 0, 1, 0xff, 3, 0, 0x21], &v4))),
        15 => {
            let l2tp = [0x4a, 2, 0, 57, 0, 1, 0, 1, 0, 0, 0, 0, 0, 2, 9, 9, 0x21];
            ipv4(17, &udp(1701, &join(&l2tp, &v4)))
        }
        16 => ipv4(17, &udp(4790, &join(&[12, 0, 0, 3, 0, 0, 7, 0], &frame))),
        17 => ipv4(17, &udp(4790, &join(&[12, 0, 0, 2, 0, 0, 7, 0], &v6))),
        18 => ipv4(17, &udp(4754, &join(&[0x20, 0, 8, 0, 0, 0, 0, 7], &v4))),
        19 => ipv4(17, &udp(4754, &join(&[0, 0, 0x65, 0x58], &frame))),
        20 => ipv4(17, &udp(6635, &join(&[0, 1, 0, 64, 0, 2, 1, 64], &v4))),
        21 => ipv4(17, &udp(5247, &join(&[0, 0x10, 0, 0, 0, 0, 0, 0], &frame))),
        22 => {
            let capwap = [0, 0x10, 3, 0, 0, 0, 0, 0];
            let wifi = [&[8, 1][..], &[0; 22], &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat();
            ipv4(17, &udp(5247, &join(&capwap, &join(&wifi, &v4))))
        }
        _ => ipv4(51, &join(&[4, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0], &v4)),
    }
}
