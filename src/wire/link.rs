//! Link types of captures and their headers.

use crate::wire::ether::{self, after_ethertype};
use crate::wire::rest::Rest;
use crate::wire::{Segment, Skip, ip};

/// The link type of a capture: which header its frames begin with.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum LinkType {
    /// Ethernet.
    #[default]
    Ethernet,
    /// Bare IP packets, of the version that their first octet names.
    RawIp,
    /// BSD loopback: an address family in the byte order of either the host or the network.
    Loopback,
    /// Linux "cooked" capture, version 1.
    LinuxSll,
    /// Linux "cooked" capture, version 2: what the device `any` gives.
    LinuxSll2,
    /// PPP, also in HDLC-like framing; Cisco HDLC is told apart by its address octet.
    Ppp,
    /// PPPoE without the Ethernet header.
    PppEthernet,
    /// Cisco HDLC.
    CiscoHdlc,
    /// Linux netfilter log (`NFLOG` target).
    Nflog,
    /// 802.11 wireless frames.
    Ieee80211,
    /// 802.11 wireless frames after a radiotap header.
    Ieee80211Radiotap,
    /// Any other, by its number: its frames are [`Skip::UnknownLinkType`].
    Unknown(u32),
}

impl LinkType {
    /// The link type of number `dlt` in a pcap or pcapng file (`LINKTYPE_` values of the tcpdump
    /// group's registry; also the `DLT_` values of live captures on Linux and the BSDs).
    ///
    /// In the header of a pcap file the number is the low 16 bits of its field.
    #[must_use]
    pub const fn from_dlt(dlt: u32) -> Self {
        match dlt {
            0 | 108 => Self::Loopback,
            1 => Self::Ethernet,
            9 | 50 => Self::Ppp,
            12 | 14 | 101 | 228 | 229 => Self::RawIp,
            51 => Self::PppEthernet,
            104 => Self::CiscoHdlc,
            105 => Self::Ieee80211,
            113 => Self::LinuxSll,
            127 => Self::Ieee80211Radiotap,
            239 => Self::Nflog,
            276 => Self::LinuxSll2,
            other => Self::Unknown(other),
        }
    }
}

/// Decodes a frame of the given link type.
#[inline]
pub(super) fn decode(link: LinkType, rest: Rest<'_>) -> Result<Segment, Skip> {
    match link {
        LinkType::Ethernet => ether::ethernet(rest),
        other => decode_other(other, rest),
    }
}

/// Apart from [`decode`], so that the common case stays small.
#[inline(never)]
fn decode_other(link: LinkType, rest: Rest<'_>) -> Result<Segment, Skip> {
    match link {
        LinkType::Ethernet => ether::ethernet(rest),
        LinkType::RawIp => ip::decode(rest),
        LinkType::Loopback => loopback(rest),
        LinkType::LinuxSll => linux_sll(rest),
        LinkType::LinuxSll2 => linux_sll2(rest),
        LinkType::Ppp => ppp_or_hdlc(rest),
        LinkType::PppEthernet => ether::pppoe(rest),
        LinkType::CiscoHdlc => cisco_hdlc(rest),
        LinkType::Nflog => nflog(rest),
        LinkType::Ieee80211 => ieee80211(rest),
        LinkType::Ieee80211Radiotap => radiotap(rest),
        LinkType::Unknown(_) => Err(Skip::UnknownLinkType),
    }
}

/// An address family of 4 octets, in the byte order of the capturing host (`LINKTYPE_NULL`) or of the
/// network (`LINKTYPE_LOOP`); families are small numbers, so the order shows.
fn loopback(rest: Rest<'_>) -> Result<Segment, Skip> {
    const INET: u32 = 2;
    /// `AF_INET6` of Linux, of Windows, of NetBSD and OpenBSD, of FreeBSD, and of macOS.
    const INET6: [u32; 5] = [10, 23, 24, 28, 30];

    let (&field, payload) = rest.header::<4>(Skip::NotIp)?;
    let family = u32::from_be_bytes(field).min(u32::from_le_bytes(field));
    if family == INET {
        ip::decode_v4(payload)
    } else if INET6.contains(&family) {
        ip::decode_v6(payload)
    } else {
        Err(Skip::NotIp)
    }
}

/// Packet type, device type, address length, address, protocol.
fn linux_sll(rest: Rest<'_>) -> Result<Segment, Skip> {
    let (&[.., a, b], payload) = rest.header::<16>(Skip::NotIp)?;
    cooked(u16::from_be_bytes([a, b]), payload)
}

/// Protocol first, then interface index, device type, packet type and address.
fn linux_sll2(rest: Rest<'_>) -> Result<Segment, Skip> {
    let (&[a, b, ..], payload) = rest.header::<20>(Skip::NotIp)?;
    cooked(u16::from_be_bytes([a, b]), payload)
}

/// The protocol of a cooked header is an ethertype, or a small number of Linux' own (`ETH_P_802_2`),
/// never a length.
fn cooked(protocol: u16, rest: Rest<'_>) -> Result<Segment, Skip> {
    const ETH_P_802_2: u16 = 4;

    match protocol {
        ETH_P_802_2 => ether::llc(rest),
        0x0600.. => after_ethertype(protocol, rest),
        _ => Err(Skip::NotIp),
    }
}

/// `LINKTYPE_PPP` captures of serial lines may hold Cisco's framing: unicast or broadcast address.
fn ppp_or_hdlc(rest: Rest<'_>) -> Result<Segment, Skip> {
    match rest.data() {
        [0x0f | 0x8f, ..] => cisco_hdlc(rest),
        _ => ether::ppp(rest),
    }
}

/// Address, control, ethertype.
fn cisco_hdlc(rest: Rest<'_>) -> Result<Segment, Skip> {
    let (&[_, _, a, b], payload) = rest.header::<4>(Skip::NotIp)?;
    after_ethertype(u16::from_be_bytes([a, b]), payload)
}

/// Netfilter attributes, one of which is the packet. Their length and type are in the byte order of
/// the capturing host; types are small numbers other than 0, so the order shows.
fn nflog(rest: Rest<'_>) -> Result<Segment, Skip> {
    const NFULA_PAYLOAD: u16 = 9;

    // Address family, version, resource identifier.
    let mut rest = rest.skip(4, Skip::NotIp)?;
    loop {
        let (&[a, b, c, d], value) = rest.header::<4>(Skip::NotIp)?;
        let (octets, kind) = if d == 0 {
            (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
        } else {
            (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
        };
        let Some(value_len) = usize::from(octets).checked_sub(4) else {
            return Err(Skip::NotIp);
        };
        if kind == NFULA_PAYLOAD {
            return ip::decode(value.limit(value_len));
        }
        rest = value.nested()?.skip(value_len.next_multiple_of(4), Skip::NotIp)?;
    }
}

/// Version 0, a padding octet, the header's length (little-endian), then fields of no interest here.
fn radiotap(rest: Rest<'_>) -> Result<Segment, Skip> {
    let (&[0, _, a, b], _) = rest.header::<4>(Skip::NotIp)? else {
        return Err(Skip::NotIp);
    };
    ieee80211(rest.skip(usize::from(u16::from_le_bytes([a, b])), Skip::NotIp)?)
}

/// A data frame that is neither empty nor encrypted (IEEE 802.11-2020, sections 9.2.4 and 9.3.2.1);
/// aggregates (A-MSDU) are not taken apart.
fn ieee80211(rest: Rest<'_>) -> Result<Segment, Skip> {
    /// Protocol version and type of the first octet, with the subtype bit that says "no data".
    const KIND: u8 = 0x4f;
    const DATA: u8 = 0x08;
    const QOS: u8 = 0x80;
    const TO_AND_FROM_DS: u8 = 0x03;
    const PROTECTED: u8 = 0x40;
    const HT_CONTROL: u8 = 0x80;

    let (&[kind, flags], _) = rest.header::<2>(Skip::NotIp)?;
    if kind & KIND != DATA || flags & PROTECTED != 0 {
        return Err(Skip::NotIp);
    }
    let fourth_address = if flags & TO_AND_FROM_DS == TO_AND_FROM_DS { 6 } else { 0 };
    let quality = match (kind & QOS != 0, flags & HT_CONTROL != 0) {
        (false, _) => 0,
        (true, false) => 2,
        (true, true) => 6,
    };
    ether::llc(rest.skip(24 + fourth_address + quality, Skip::NotIp)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{ipv4, ipv6, is_syn, join, syn};

    fn decode_whole(dlt: u32, frame: &[u8]) -> Result<Segment, Skip> {
        decode(LinkType::from_dlt(dlt), Rest::new(frame, 0))
    }

    #[test]
    fn link_headers() {
        let v4 = ipv4(6, &syn());
        let v6 = ipv6(6, &syn());
        let sll = |a, b| [&[0; 14][..], &[a, b]].concat();
        let sll2 = |a, b| [&[a, b][..], &[0; 18]].concat();
        let wifi = |kind, flags, octets: usize| {
            [&[kind, flags][..], &vec![0; octets - 2], &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat()
        };
        for (dlt, header, packet) in [
            (0, vec![2, 0, 0, 0], &v4),
            (0, vec![0, 0, 0, 2], &v4),
            (0, vec![10, 0, 0, 0], &v6),
            (0, vec![23, 0, 0, 0], &v6),
            (0, vec![24, 0, 0, 0], &v6),
            (0, vec![0, 0, 0, 28], &v6),
            (108, vec![0, 0, 0, 30], &v6),
            (1, vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0], &v4),
            (9, vec![0xff, 3, 0, 0x21], &v4),
            (9, vec![0x57], &v6),
            (9, vec![0x0f, 0, 8, 0], &v4),
            (50, vec![0xff, 3, 0, 0x57], &v6),
            (50, vec![0x8f, 0, 0x86, 0xdd], &v6),
            (51, vec![0x11, 0, 0, 1, 0, 42, 0, 0x21], &v4),
            (12, vec![], &v4),
            (14, vec![], &v6),
            (101, vec![], &v6),
            (228, vec![], &v4),
            (229, vec![], &v6),
            (104, vec![0x0f, 0, 8, 0], &v4),
            (105, wifi(0x08, 0, 24), &v4),
            (105, wifi(0x08, 3, 30), &v4),
            (105, wifi(0x88, 1, 26), &v4),
            (105, wifi(0x88, 0x82, 30), &v4),
            (127, join(&[0, 0, 10, 0, 0, 0, 0, 0, 0, 0], &wifi(0x08, 2, 24)), &v4),
            (113, sll(8, 0), &v4),
            (113, sll(0x81, 0), &join(&[0, 7, 8, 0], &v4)),
            (113, sll(0, 4), &join(&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &v4)),
            (276, sll2(0x86, 0xdd), &v6),
            (239, vec![2, 0, 0, 0, 5, 0, 10, 0, b'x', 0, 0, 0, 44, 0, 9, 0], &v4),
            (239, vec![10, 0, 0, 0, 0, 5, 0, 10, b'x', 0, 0, 0, 0, 64, 0, 9], &v6),
        ] {
            let outcome = decode_whole(dlt, &join(&header, packet));
            assert!(is_syn(outcome), "link type {dlt} {header:x?}: {outcome:?}");
        }
    }

    #[test]
    fn link_headers_without_ip() {
        let v4 = ipv4(6, &syn());
        let sll = |a, b| [&[0; 14][..], &[a, b]].concat();
        let wifi =
            |kind, flags| [&[kind, flags][..], &[0; 22], &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat();
        for (dlt, header) in [
            (0, vec![7, 0, 0, 0]),
            (0, vec![2, 0, 0, 2]),
            (9, vec![0xc0, 0x21]),
            (12, vec![0x50, 0]),
            (51, vec![0x11, 9, 0, 0, 0, 0]),
            (104, vec![0x8f, 0, 0x80, 0x35]),
            // Management, control, no data, encrypted.
            (105, wifi(0x80, 0)),
            (105, wifi(0xd4, 0)),
            (105, wifi(0x48, 0)),
            (105, wifi(0x08, 0x40)),
            (127, vec![1, 0, 8, 0, 0, 0, 0, 0]),
            (113, sll(0, 1)),
            (113, sll(8, 6)),
            // An attribute shorter than its own header; attributes, but no packet.
            (239, vec![2, 0, 0, 0, 3, 0, 9, 0]),
            (239, vec![2, 0, 0, 0, 44, 0, 10, 0]),
        ] {
            let outcome = decode_whole(dlt, &join(&header, &v4));
            assert_eq!(outcome, Err(Skip::NotIp), "link type {dlt} {header:x?}");
        }
    }

    #[test]
    fn other_link_types_are_unknown() {
        assert_eq!(LinkType::from_dlt(147), LinkType::Unknown(147));
        assert_eq!(decode_whole(147, &ipv4(6, &syn())), Err(Skip::UnknownLinkType));
    }
}
