//! Tunnels: what is IP but not TCP may hold another packet, whose TCP header is then the one that
//! counts.
//!
//! A tunnel over UDP is known by its port alone, and any program may use that port. Its header is
//! therefore checked strictly, and what does not fit is [`Skip::NotTcp`], like any other datagram.

use crate::wire::cursor::Cursor;
use crate::wire::ether::{self, ethertype};
use crate::wire::ip::{self, protocol};
use crate::wire::link::{self, Padding};
use crate::wire::{Segment, Skip};

/// UDP ports (IANA), and that of Linux' `vxlan` driver from before there was an assigned one.
mod port {
    pub(super) const L2TP: u16 = 1701;
    pub(super) const GTP_U: u16 = 2152;
    pub(super) const TEREDO: u16 = 3544;
    pub(super) const GRE: u16 = 4754;
    pub(super) const VXLAN: u16 = 4789;
    pub(super) const VXLAN_GPE: u16 = 4790;
    pub(super) const CAPWAP_DATA: u16 = 5247;
    pub(super) const GENEVE: u16 = 6081;
    pub(super) const MPLS: u16 = 6635;
    pub(super) const VXLAN_LINUX: u16 = 8472;
}

/// Protocol types of GRE and Geneve that are no ethertypes of Ethernet.
const TRANSPARENT_ETHERNET: u16 = 0x6558;
const ERSPAN: u16 = 0x88be;
const ERSPAN_III: u16 = 0x22eb;

/// The payload of an IP packet of any upper-layer protocol but TCP.
#[inline(never)]
pub(super) fn decode(upper: u8, rest: Cursor<'_>) -> Result<Segment, Skip> {
    let inner = match upper {
        protocol::UDP => udp(rest),
        protocol::IPV4 => ip::decode_v4(rest.nested()?),
        protocol::IPV6 => ip::decode_v6(rest.nested()?),
        protocol::GRE => gre(rest.nested()?),
        protocol::MPLS => ether::mpls(rest.nested()?),
        protocol::ESP | protocol::ETHER_IP | protocol::IP_COMP | protocol::L2TP => {
            Err(Skip::Encapsulated)
        }
        upper if protocol::EXPERIMENTS.contains(&upper) => Err(Skip::Encapsulated),
        _ => Err(Skip::NotTcp),
    };
    match inner {
        // The frame did carry IP, if only outside the tunnel.
        Err(Skip::NotIp) => Err(Skip::NotTcp),
        other => other,
    }
}

/// The payload of a tunnel that names it by an ethertype.
fn by_ethertype(kind: u16, rest: Cursor<'_>) -> Result<Segment, Skip> {
    match kind {
        ethertype::IPV4 => ip::decode_v4(rest),
        ethertype::IPV6 => ip::decode_v6(rest),
        ethertype::MPLS | ethertype::MPLS_UPSTREAM => ether::mpls(rest),
        TRANSPARENT_ETHERNET => ether::ethernet(rest),
        _ => Err(Skip::NotTcp),
    }
}

/// Generic Routing Encapsulation: RFC 2784 with the key and sequence number of RFC 2890. Source
/// routes (RFC 1701) and version 1 (PPTP, RFC 2637) are not followed.
fn gre(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const CHECKSUM: u16 = 0x8000;
    const KEY: u16 = 0x2000;
    const SEQUENCE: u16 = 0x1000;

    let (&[a, b, c, d], rest) = rest.header::<4>(Skip::NotTcp)?;
    let flags = u16::from_be_bytes([a, b]);
    let kind = u16::from_be_bytes([c, d]);
    if flags & !(CHECKSUM | KEY | SEQUENCE) != 0 {
        return Err(Skip::Encapsulated);
    }
    let optional = 4 * (flags & (CHECKSUM | KEY | SEQUENCE)).count_ones() as usize;
    let rest = rest.skip(optional, Skip::NotTcp)?;
    match kind {
        // Type I has no header of its own and, unlike type II, no sequence number in GRE.
        ERSPAN if flags & SEQUENCE == 0 => ether::ethernet(rest),
        ERSPAN => erspan_ii(rest),
        ERSPAN_III => erspan_iii(rest),
        _ => by_ethertype(kind, rest),
    }
}

/// ERSPAN type II: an Ethernet frame after 8 octets (draft-foschiano-erspan-03, section 4.2).
fn erspan_ii(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let (header, rest) = rest.header::<8>(Skip::NotTcp)?;
    if header[0] >> 4 != 1 {
        return Err(Skip::NotTcp);
    }
    ether::ethernet(rest)
}

/// ERSPAN type III: an Ethernet frame or IP packet after 12 octets and, where the last bit says so,
/// 8 more (draft-foschiano-erspan-03, section 4.3).
fn erspan_iii(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const PLATFORM_HEADER: u8 = 0x01;

    let (header, rest) = rest.header::<12>(Skip::NotTcp)?;
    if header[0] >> 4 != 2 {
        return Err(Skip::NotTcp);
    }
    let platform = if header[11] & PLATFORM_HEADER != 0 { 8 } else { 0 };
    let rest = rest.skip(platform, Skip::NotTcp)?;
    match (header[10] >> 2) & 0x1f {
        0 => ether::ethernet(rest),
        2 => ip::decode(rest),
        _ => Err(Skip::NotTcp),
    }
}

/// A UDP datagram (RFC 768) to, or for some protocols from, the port of a tunnel.
fn udp(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let (&[a, b, c, d, e, f, ..], payload) = rest.header::<8>(Skip::NotTcp)?;
    let source = u16::from_be_bytes([a, b]);
    let destination = u16::from_be_bytes([c, d]);
    let tunnel = match (source, destination) {
        (_, port::VXLAN | port::VXLAN_LINUX) => vxlan,
        (_, port::VXLAN_GPE) => vxlan_gpe,
        (_, port::GENEVE) => geneve,
        (_, port::GTP_U) => gtp_u,
        // RFC 8086 and RFC 7510.
        (_, port::GRE) => gre,
        (_, port::MPLS) => ether::mpls,
        (_, port::CAPWAP_DATA) | (port::CAPWAP_DATA, _) => capwap,
        (_, port::TEREDO) | (port::TEREDO, _) => teredo,
        (_, port::L2TP) | (port::L2TP, _) => l2tp,
        _ => return Err(Skip::NotTcp),
    };
    let payload = match u16::from_be_bytes([e, f]) {
        // Segmentation offload: the captured datagram is larger than the field can say.
        0 => payload,
        1..8 => return Err(Skip::NotTcp),
        octets => payload.limit(usize::from(octets) - 8),
    };
    match tunnel(payload.nested()?) {
        // It only looked like a tunnel.
        Err(Skip::NotIp | Skip::BadIpHeader) => Err(Skip::NotTcp),
        other => other,
    }
}

/// VXLAN (RFC 7348, section 5), also with a group policy (draft-smith-vxlan-group-policy-05).
fn vxlan(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const GROUP_POLICY: u8 = 0x80;
    const NETWORK_IDENTIFIER: u8 = 0x08;

    let (&[flags, a, b, c, _, _, _, reserved], rest) = rest.header::<8>(Skip::NotTcp)?;
    let is_vxlan = match flags {
        NETWORK_IDENTIFIER => [a, b, c] == [0; 3],
        _ => flags == GROUP_POLICY | NETWORK_IDENTIFIER,
    };
    if !is_vxlan || reserved != 0 {
        return Err(Skip::NotTcp);
    }
    ether::ethernet(rest)
}

/// VXLAN with the generic protocol extension (draft-ietf-nvo3-vxlan-gpe-13, section 3): version 0,
/// a next protocol, not an OAM packet.
fn vxlan_gpe(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const NETWORK_IDENTIFIER_AND_NEXT_PROTOCOL: u8 = 0x0c;

    let (&[flags, 0, 0, next, _, _, _, 0], rest) = rest.header::<8>(Skip::NotTcp)? else {
        return Err(Skip::NotTcp);
    };
    match next {
        _ if flags != NETWORK_IDENTIFIER_AND_NEXT_PROTOCOL => Err(Skip::NotTcp),
        1 => ip::decode_v4(rest),
        2 => ip::decode_v6(rest),
        3 => ether::ethernet(rest),
        5 => ether::mpls(rest),
        _ => Err(Skip::NotTcp),
    }
}

/// Geneve (RFC 8926, section 3.4).
fn geneve(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let (&[lengths, flags, a, b, _, _, _, reserved], rest) = rest.header::<8>(Skip::NotTcp)?;
    let version = lengths >> 6;
    if version != 0 || flags & 0x3f != 0 || reserved != 0 {
        return Err(Skip::NotTcp);
    }
    let options = 4 * usize::from(lengths & 0x3f);
    by_ethertype(u16::from_be_bytes([a, b]), rest.skip(options, Skip::NotTcp)?)
}

/// CAPWAP data (RFC 5415, section 4.3) in the clear: an Ethernet or 802.11 frame.
fn capwap(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const NATIVE: u32 = 1 << 8;
    const FRAGMENT: u32 = 1 << 7;
    const KEEP_ALIVE: u32 = 1 << 3;
    const IEEE80211: u32 = 1;

    let (&[a, b, c, d, _, _, e, f], _) = rest.header::<8>(Skip::NotTcp)?;
    let word = u32::from_be_bytes([a, b, c, d]);
    // Version and type, both 0: the other type is DTLS.
    let length = 4 * usize::from(b >> 3);
    if a != 0 || length < 8 || word & KEEP_ALIVE != 0 {
        return Err(Skip::NotTcp);
    }
    let offset = u16::from_be_bytes([e, f]) >> 3;
    if word & FRAGMENT != 0 && offset != 0 {
        return Err(Skip::Fragment);
    }
    let frame = rest.skip(length, Skip::NotTcp)?;
    if word & NATIVE == 0 {
        ether::ethernet(frame)
    } else if word >> 9 & 0x1f == IEEE80211 {
        link::ieee80211(frame, Padding::None)
    } else {
        Err(Skip::NotTcp)
    }
}

/// GTP-U, version 1 (3GPP TS 29.281, section 5): the IP packet of a G-PDU.
fn gtp_u(rest: Cursor<'_>) -> Result<Segment, Skip> {
    // Version 1, protocol type GTP, spare bit 0; the low three bits say which optional fields
    // count.
    const VERSION_1: u8 = 0x30;
    const EXTENSION: u8 = 0x04;
    const ANY_OPTIONAL: u8 = 0x07;
    const G_PDU: u8 = 255;

    let (&[flags, kind, a, b, ..], rest) = rest.header::<8>(Skip::NotTcp)?;
    let octets = usize::from(u16::from_be_bytes([a, b]));
    if flags & !ANY_OPTIONAL != VERSION_1 || kind != G_PDU || octets > rest.wire_len() {
        return Err(Skip::NotTcp);
    }
    let rest = rest.limit(octets);
    if flags & ANY_OPTIONAL == 0 {
        return ip::decode(rest);
    }
    let (&[.., next], mut rest) = rest.header::<4>(Skip::NotTcp)?;
    let mut next = if flags & EXTENSION != 0 { next } else { 0 };
    // Each extension header gives its length in units of 4 octets first, the next one's type last.
    while next != 0 {
        let units = rest.header::<1>(Skip::NotTcp)?.0[0];
        if units == 0 {
            return Err(Skip::NotTcp);
        }
        let before_next = rest.nested()?.skip(4 * usize::from(units) - 1, Skip::NotTcp)?;
        let (&[following], after) = before_next.header::<1>(Skip::NotTcp)?;
        (next, rest) = (following, after);
    }
    ip::decode(rest)
}

/// Teredo (RFC 4380, section 5.1.1): an IPv6 packet after an optional authentication and an
/// optional origin indication.
fn teredo(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let rest = match rest.data() {
        // Client identifier and authentication value, nonce and confirmation octet.
        [0, 1, id_len, value_len, ..] => {
            rest.skip(4 + usize::from(*id_len) + usize::from(*value_len) + 9, Skip::NotTcp)?
        }
        _ => rest,
    };
    let rest = match rest.data() {
        [0, 0, ..] => rest.skip(8, Skip::NotTcp)?,
        _ => rest,
    };
    let (&[.., a, b], after) = rest.header::<6>(Skip::NotTcp)?;
    let payload_len = usize::from(u16::from_be_bytes([a, b]));
    // The IPv6 packet must fill the datagram: 40 octets of header, 6 of which are taken off.
    if after.wire_len() != payload_len + 34 {
        return Err(Skip::NotTcp);
    }
    ip::decode_v6(rest)
}

/// L2TP, version 2 (RFC 2661, section 3.1): the PPP frame of a data message.
fn l2tp(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const LENGTH: u16 = 0x4000;
    const SEQUENCE: u16 = 0x0800;
    const OFFSET: u16 = 0x0200;
    const PRIORITY: u16 = 0x0100;
    const VERSION_2: u16 = 0x0002;

    let (&[a, b], mut rest) = rest.header::<2>(Skip::NotTcp)?;
    let flags = u16::from_be_bytes([a, b]);
    // The type bit (0x8000) marks control messages; all other bits but the version must be 0.
    if flags & !(LENGTH | SEQUENCE | OFFSET | PRIORITY) != VERSION_2 {
        return Err(Skip::NotTcp);
    }
    if flags & LENGTH != 0 {
        let (&length, after) = rest.header::<2>(Skip::NotTcp)?;
        // The field counts from the flags on.
        let octets = usize::from(u16::from_be_bytes(length)).checked_sub(4);
        let octets = octets.filter(|&octets| octets <= after.wire_len()).ok_or(Skip::NotTcp)?;
        rest = after.limit(octets);
    }
    let identifiers_and_sequence = if flags & SEQUENCE != 0 { 8 } else { 4 };
    rest = rest.skip(identifiers_and_sequence, Skip::NotTcp)?;
    if flags & OFFSET != 0 {
        let (&padding, after) = rest.header::<2>(Skip::NotTcp)?;
        rest = after.skip(usize::from(u16::from_be_bytes(padding)), Skip::NotTcp)?;
    }
    ether::ppp(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{self, ethernet, ipv4, ipv6, is_syn, join, syn, udp, whole};

    #[test]
    fn syn_in_every_tunnel() {
        for number in 0..testing::TUNNELS {
            let packet = testing::tunnelled(number);
            let outcome = whole(ip::decode, &packet);
            assert!(is_syn(outcome), "tunnel {number}: {outcome:?}");
            let cut =
                Cursor::new(&packet[..packet.len() - 1], u32::try_from(packet.len()).unwrap());
            assert_eq!(ip::decode(cut), Err(Skip::Truncated), "tunnel {number}");
        }
    }

    #[test]
    fn innermost_addresses_count() {
        let packet = ipv6(4, &ipv4(6, &syn()));
        assert_eq!(whole(ip::decode, &packet).unwrap().source.to_string(), "192.0.2.1");
        let packet = ipv4(41, &ipv6(6, &syn()));
        assert_eq!(whole(ip::decode, &packet).unwrap().source.to_string(), "2001:db8::1");
    }

    #[test]
    fn what_only_looks_like_a_tunnel_is_not_tcp() {
        let v4 = ipv4(6, &syn());
        let v6 = ipv6(6, &syn());
        let frame = ethernet(0x0800, &v4);
        for (upper, payload) in [
            // GRE: keepalive, wrong ERSPAN version.
            (47, vec![0, 0, 0, 0]),
            (47, vec![0, 0]),
            (47, join(&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x20, 0, 0, 0, 0, 0, 0, 0], &frame)),
            (47, join(&[0, 0, 0x22, 0xeb, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &frame)),
            // ARP inside a tunnel.
            (47, join(&[0, 0, 0x65, 0x58], &ethernet(0x0806, &[0; 28]))),
            // UDP: no tunnel's port, a length below 8, no octets at all.
            (17, udp(53, &join(&[8, 0, 0, 0, 0, 0, 7, 0], &frame))),
            (17, vec![0xc3, 0x50, 0x12, 0xb5, 0, 7, 0, 0, 8, 0, 0, 0, 0, 0, 7, 0]),
            (17, vec![0xc3, 0x50]),
            // VXLAN: no identifier, reserved bits.
            (17, udp(4789, &join(&[0, 0, 0, 0, 0, 0, 7, 0], &frame))),
            (17, udp(4789, &join(&[8, 0, 1, 0, 0, 0, 7, 0], &frame))),
            (17, udp(4789, &join(&[8, 0, 0, 0, 0, 0, 7, 1], &frame))),
            (17, udp(4789, &join(&[8, 0, 0, 0, 0, 0, 7, 0], &frame[..20]))),
            // VXLAN-GPE: no next protocol, an unknown one, a reserved bit, another version.
            (17, udp(4790, &join(&[8, 0, 0, 0, 0, 0, 7, 0], &frame))),
            (17, udp(4790, &join(&[12, 0, 0, 4, 0, 0, 7, 0], &frame))),
            (17, udp(4790, &join(&[12, 0, 1, 3, 0, 0, 7, 0], &frame))),
            (17, udp(4790, &join(&[0x1c, 0, 0, 3, 0, 0, 7, 0], &frame))),
            // Geneve: version, reserved bits, options beyond the datagram, protocol.
            (17, udp(6081, &join(&[0x40, 0, 0x65, 0x58, 0, 0, 7, 0], &frame))),
            (17, udp(6081, &join(&[0, 1, 0x65, 0x58, 0, 0, 7, 0], &frame))),
            (17, udp(6081, &join(&[0x3f, 0, 0x65, 0x58, 0, 0, 7, 0], &frame))),
            (17, udp(6081, &join(&[0, 0, 0x08, 0x06, 0, 0, 7, 0], &frame))),
            // GTP-U: version 2, echo request, length, extension header of length 0, no IP inside.
            (17, udp(2152, &join(&[0x50, 255, 0, 40, 0, 0, 0, 1], &v4))),
            (17, udp(2152, &join(&[0x30, 1, 0, 40, 0, 0, 0, 1], &v4))),
            (17, udp(2152, &join(&[0x30, 255, 0, 41, 0, 0, 0, 1], &v4))),
            (17, udp(2152, &join(&[0x34, 255, 0, 48, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0], &v4))),
            (17, udp(2152, &[0x30, 255, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8])),
            // Teredo: IPv4 inside, a length that does not fit.
            (17, udp(3544, &v4)),
            (17, udp(3544, &join(&v6, &[0]))),
            // L2TP: control message, version 3, length, other PPP protocol.
            (17, udp(1701, &join(&[0xc8, 2, 0, 48, 0, 1, 0, 1, 0, 0, 0, 0], &v4))),
            (17, udp(1701, &join(&[0, 3, 0, 1, 0, 1, 0, 0x21], &v4))),
            (17, udp(1701, &join(&[0x40, 2, 0, 200, 0, 1, 0, 1, 0, 0x21], &v4))),
            (17, udp(1701, &join(&[0, 2, 0, 1, 0, 1, 0xc0, 0x21], &v4))),
            // MPLS in UDP: no IP. CAPWAP: DTLS, keep-alive, a header too short.
            (17, udp(6635, &join(&[0, 1, 1, 64], &[0x50; 40]))),
            (17, udp(5247, &join(&[1, 0x10, 0, 0, 0, 0, 0, 0], &frame))),
            (17, udp(5247, &join(&[0, 0x10, 0, 8, 0, 0, 0, 0], &frame))),
            (17, udp(5247, &join(&[0, 0x08, 0, 0, 0, 0, 0, 0], &frame))),
            // ICMP, SCTP, OSPF.
            (1, v4.clone()),
            (132, v4.clone()),
            (89, v4.clone()),
        ] {
            let outcome = whole(ip::decode, &ipv4(upper, &payload));
            assert_eq!(outcome, Err(Skip::NotTcp), "{upper}: {payload:x?}");
        }
    }

    #[test]
    fn reply_ports_count_for_teredo_and_l2tp() {
        let mut datagram = udp(50_000, &ipv6(6, &syn()));
        datagram[..2].copy_from_slice(&port::TEREDO.to_be_bytes());
        assert!(is_syn(whole(ip::decode, &ipv4(17, &datagram))));
        let l2tp = join(&[0, 2, 0, 1, 0, 1, 0, 0x21], &ipv4(6, &syn()));
        let mut datagram = udp(50_000, &l2tp);
        datagram[..2].copy_from_slice(&port::L2TP.to_be_bytes());
        assert!(is_syn(whole(ip::decode, &ipv4(17, &datagram))));
    }

    #[test]
    fn what_may_hide_tcp_is_said_to() {
        let v4 = ipv4(6, &syn());
        for (upper, payload) in [
            // GRE: source route, version 1, reserved bits.
            (47, join(&[0x40, 0, 8, 0, 0, 0, 0, 0], &v4)),
            (47, join(&[0, 1, 8, 0], &v4)),
            (47, join(&[0x08, 0, 8, 0], &v4)),
            // The same in UDP.
            (17, udp(4754, &join(&[0, 1, 8, 0], &v4))),
            // ESP, Ethernet in IP, IPComp, L2TPv3, experiments.
            (50, v4.clone()),
            (97, v4.clone()),
            (108, v4.clone()),
            (115, v4.clone()),
            (253, v4.clone()),
            (254, v4.clone()),
        ] {
            let outcome = whole(ip::decode, &ipv4(upper, &payload));
            assert_eq!(outcome, Err(Skip::Encapsulated), "{upper}: {payload:x?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        for (count, too_deep) in [(31, false), (33, true), (500, true)] {
            let packet = (0..count).fold(ipv4(6, &syn()), |inner, _| ipv4(4, &inner));
            let outcome = whole(ip::decode, &packet);
            assert_eq!(outcome == Err(Skip::TooDeep), too_deep, "{count}: {outcome:?}");
        }
    }
}
