//! Link types of captures and their headers.

use crate::wire::cursor::Cursor;
use crate::wire::ether::{self, after_ethertype};
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
    /// Per-packet information: a header that names another link type.
    Ppi,
    /// Apple's packet tap: a header that names another link type.
    Pktap,
    /// Endace's extensible record format.
    Erf,
    /// The log of OpenBSD's packet filter.
    Pflog,
    /// OpenBSD's `enc` interface: packets before and after IPsec.
    Enc,
    /// One octet that says the direction, then PPP.
    PppWithDirection,
    /// The same of pppd: the direction stands in place of the address octet.
    PppPppd,
    /// One octet that says the direction, then Cisco HDLC.
    CiscoHdlcWithDirection,
    /// Frame Relay.
    FrameRelay,
    /// One octet that says the direction, then Frame Relay.
    FrameRelayWithDirection,
    /// FDDI.
    Fddi,
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
            10 => Self::Fddi,
            12 | 14 | 101 | 228 | 229 => Self::RawIp,
            51 => Self::PppEthernet,
            104 => Self::CiscoHdlc,
            105 => Self::Ieee80211,
            107 => Self::FrameRelay,
            109 => Self::Enc,
            113 => Self::LinuxSll,
            117 => Self::Pflog,
            127 => Self::Ieee80211Radiotap,
            166 => Self::PppPppd,
            192 => Self::Ppi,
            197 => Self::Erf,
            204 => Self::PppWithDirection,
            205 => Self::CiscoHdlcWithDirection,
            206 => Self::FrameRelayWithDirection,
            239 => Self::Nflog,
            258 => Self::Pktap,
            276 => Self::LinuxSll2,
            other => Self::Unknown(other),
        }
    }
}

/// Decodes a frame of the given link type.
#[inline]
pub(super) fn decode(link: LinkType, rest: Cursor<'_>) -> Result<Segment, Skip> {
    match link {
        LinkType::Ethernet => ether::ethernet(rest),
        other => decode_other(other, rest),
    }
}

/// Apart from [`decode`], so that the common case stays small.
#[inline(never)]
fn decode_other(link: LinkType, rest: Cursor<'_>) -> Result<Segment, Skip> {
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
        LinkType::Ieee80211 => ieee80211(rest, Padding::None),
        LinkType::Ieee80211Radiotap => radiotap(rest),
        LinkType::Ppi => ppi(rest),
        LinkType::Pktap => pktap(rest),
        LinkType::Erf => erf(rest),
        LinkType::Pflog => pflog(rest),
        // Address family, security parameter index, flags.
        LinkType::Enc => ip::decode(rest.skip(12, Skip::NotIp)?),
        LinkType::PppWithDirection => ppp_or_hdlc(rest.skip(1, Skip::NotIp)?),
        LinkType::PppPppd => pppd(rest),
        LinkType::CiscoHdlcWithDirection => cisco_hdlc(rest.skip(1, Skip::NotIp)?),
        LinkType::FrameRelay => frame_relay(rest),
        LinkType::FrameRelayWithDirection => frame_relay(rest.skip(1, Skip::NotIp)?),
        LinkType::Fddi => fddi(rest),
        LinkType::Unknown(_) => Err(Skip::UnknownLinkType),
    }
}

/// An address family of 4 octets, in the byte order of the capturing host (`LINKTYPE_NULL`) or of
/// the network (`LINKTYPE_LOOP`); families are small numbers, so the order shows.
fn loopback(rest: Cursor<'_>) -> Result<Segment, Skip> {
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
fn linux_sll(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let (&[.., a, b], payload) = rest.header::<16>(Skip::NotIp)?;
    cooked(u16::from_be_bytes([a, b]), payload)
}

/// Protocol first, then interface index, device type, packet type and address.
fn linux_sll2(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let (&[a, b, ..], payload) = rest.header::<20>(Skip::NotIp)?;
    cooked(u16::from_be_bytes([a, b]), payload)
}

/// The protocol of a cooked header is an ethertype, or a small number of Linux' own
/// (`ETH_P_802_2`), never a length.
fn cooked(protocol: u16, rest: Cursor<'_>) -> Result<Segment, Skip> {
    const ETH_P_802_2: u16 = 4;

    match protocol {
        ETH_P_802_2 => ether::llc(rest),
        0x0600.. => after_ethertype(protocol, rest),
        _ => Err(Skip::NotIp),
    }
}

/// `LINKTYPE_PPP` captures of serial lines may hold Cisco's framing: unicast or broadcast address.
fn ppp_or_hdlc(rest: Cursor<'_>) -> Result<Segment, Skip> {
    match rest.data() {
        [0x0f | 0x8f, ..] => cisco_hdlc(rest),
        _ => ether::ppp(rest),
    }
}

/// Address, control, ethertype.
fn cisco_hdlc(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let (&[_, _, a, b], payload) = rest.header::<4>(Skip::NotIp)?;
    after_ethertype(u16::from_be_bytes([a, b]), payload)
}

/// Netfilter attributes, one of which is the packet. Their length and type are in the byte order of
/// the capturing host; types are small numbers other than 0, so the order shows.
fn nflog(rest: Cursor<'_>) -> Result<Segment, Skip> {
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

/// Direction, then a frame without address octet.
fn pppd(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const CONTROL: u8 = 0x03;

    let rest = rest.skip(1, Skip::NotIp)?;
    match rest.data() {
        [CONTROL, ..] => ether::ppp(rest.skip(1, Skip::NotIp)?),
        _ => ether::ppp(rest),
    }
}

/// A header of a length that it gives first, without the padding to 4 octets; then IP.
fn pflog(rest: Cursor<'_>) -> Result<Segment, Skip> {
    /// Up to the direction, the last field that all versions have.
    const LEAST: u8 = 45;

    let (&[length], _) = rest.header::<1>(Skip::NotIp)?;
    if length < LEAST {
        return Err(Skip::NotIp);
    }
    ip::decode(rest.skip(usize::from(length).next_multiple_of(4), Skip::NotIp)?)
}

/// Version 0, flags, the header's length, the link type of what follows: all little-endian.
fn ppi(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let (&[0, _, a, b, link @ ..], _) = rest.header::<8>(Skip::NotIp)? else {
        return Err(Skip::NotIp);
    };
    within(
        u32::from_le_bytes(link),
        rest.skip(usize::from(u16::from_le_bytes([a, b])), Skip::NotIp)?,
    )
}

/// The header's length, what follows it, the link type of that, in the byte order of the capturing
/// host; the length is a small number, so the order shows.
fn pktap(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const PACKET: u32 = 1;

    let (header, _) = rest.header::<12>(Skip::NotIp)?;
    let (fields, _) = header.as_chunks();
    let read = if header[3] == 0 { u32::from_le_bytes } else { u32::from_be_bytes };
    let [length, kind, link] = [0, 1, 2].map(|index| read(fields[index]));
    match usize::try_from(length) {
        Ok(length @ 12..) if kind == PACKET => within(link, rest.skip(length, Skip::NotIp)?),
        _ => Err(Skip::NotIp),
    }
}

/// A frame of another link type, inside a header that names it.
fn within(link: u32, rest: Cursor<'_>) -> Result<Segment, Skip> {
    decode(LinkType::from_dlt(link), rest.nested()?)
}

/// Time, type, flags, the record's length, losses, the frame's length; then extension headers of 8
/// octets as long as a first bit says that one follows ("ERF Types Reference Guide", Endace).
fn erf(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const EXTENSION: u8 = 0x80;

    let (&[_, _, _, _, _, _, _, _, kind, _, _, _, _, _, a, b], mut rest) =
        rest.header::<16>(Skip::NotIp)?;
    let mut extended = kind & EXTENSION != 0;
    while extended {
        let (&[first, ..], after) = rest.header::<8>(Skip::NotIp)?;
        (extended, rest) = (first & EXTENSION != 0, after.nested()?);
    }
    let octets = usize::from(u16::from_be_bytes([a, b]));
    match kind & !EXTENSION {
        // HDLC, by itself, with a colour, with a hash.
        1 | 10 | 15 | 19 => ppp_or_hdlc(rest.limit(octets)),
        // Ethernet likewise, after an offset and a padding octet.
        2 | 11 | 16 | 20 => ether::ethernet(rest.skip(2, Skip::NotIp)?.limit(octets)),
        // HDLC of one channel of many, after a header.
        5 | 17 => ppp_or_hdlc(rest.skip(4, Skip::NotIp)?.limit(octets)),
        22 => ip::decode_v4(rest),
        23 => ip::decode_v6(rest),
        _ => Err(Skip::NotIp),
    }
}

/// An address of 2 to 4 octets, the last of which is odd; then a control octet and the protocol
/// (RFC 2427), or, as Cisco has it, an ethertype.
fn frame_relay(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const UNNUMBERED_INFORMATION: u8 = 0x03;
    const PADDING: u8 = 0x00;
    const SNAP: u8 = 0x80;
    const IPV4: u8 = 0xcc;
    const IPV6: u8 = 0x8e;
    const PPP: u8 = 0xcf;
    /// Organisation and protocol of bridged Ethernet, with and without check sequence.
    const BRIDGED: [[u8; 5]; 2] = [[0, 0x80, 0xc2, 0, 1], [0, 0x80, 0xc2, 0, 7]];

    let address = rest.data().iter().take(4).position(|octet| octet & 1 != 0);
    let octets = match address {
        Some(last @ 1..) => last + 1,
        Some(_) => return Err(Skip::NotIp),
        None => {
            return Err(if rest.data().len() < 4 {
                rest.missing(4, Skip::NotIp)
            } else {
                Skip::NotIp
            });
        }
    };
    let rest = rest.skip(octets, Skip::NotIp)?;
    let (&[control], after) = rest.header::<1>(Skip::NotIp)?;
    if control != UNNUMBERED_INFORMATION {
        let (&kind, payload) = rest.header::<2>(Skip::NotIp)?;
        return after_ethertype(u16::from_be_bytes(kind), payload);
    }
    let (&[mut protocol], mut payload) = after.header::<1>(Skip::NotIp)?;
    if protocol == PADDING {
        let (&[next], after) = payload.header::<1>(Skip::NotIp)?;
        (protocol, payload) = (next, after);
    }
    match protocol {
        IPV4 => ip::decode_v4(payload),
        IPV6 => ip::decode_v6(payload),
        PPP => ether::ppp(payload),
        SNAP => match payload.header::<5>(Skip::NotIp)? {
            (&[0, 0, 0, a, b], payload) => {
                after_ethertype(u16::from_be_bytes([a, b]), payload.nested()?)
            }
            (header, payload) if BRIDGED.contains(header) => ether::ethernet(payload.nested()?),
            _ => Err(Skip::NotIp),
        },
        _ => Err(Skip::NotIp),
    }
}

/// Frame control, both addresses, then LLC where the frame control says so (ANSI X3.139).
fn fddi(rest: Cursor<'_>) -> Result<Segment, Skip> {
    /// All but the bit that says synchronous, and the priority.
    const KIND: u8 = 0x70;
    const LLC: u8 = 0x50;

    let (&[control, ..], payload) = rest.header::<13>(Skip::NotIp)?;
    if control & KIND != LLC {
        return Err(Skip::NotIp);
    }
    ether::llc(payload)
}

/// Version 0, a padding octet, the header's length and what fields follow (little-endian): time,
/// which is aligned to 8 octets of the header, flags, others.
fn radiotap(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const MORE: u8 = 0x80;
    const TIME: u8 = 0x01;
    const FLAGS: u8 = 0x02;
    /// Among the flags: the frame's header is padded to 4 octets.
    const PADDED: u8 = 0x20;

    let (&[0, _, a, b, present, _, _, last], _) = rest.header::<8>(Skip::NotIp)? else {
        return Err(Skip::NotIp);
    };
    let length = usize::from(u16::from_le_bytes([a, b]));
    let header = rest.data().get(..length).unwrap_or_default();
    // Of several words the first tells of these fields.
    let (mut fields, mut more) = (8, last & MORE != 0);
    while more && let Some(word) = header.get(fields..fields + 4) {
        (fields, more) = (fields + 4, word[3] & MORE != 0);
    }
    if present & TIME != 0 {
        fields = fields.next_multiple_of(8) + 8;
    }
    let flags = header.get(fields).filter(|_| present & FLAGS != 0);
    let padding = match flags {
        Some(flags) if flags & PADDED != 0 => Padding::Words,
        _ => Padding::None,
    };
    ieee80211(rest.skip(length, Skip::NotIp)?, padding)
}

/// Whether an 802.11 header is filled up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Padding {
    None,
    /// To a multiple of 4 octets.
    Words,
}

/// A data frame that is neither empty nor encrypted (IEEE 802.11-2020, sections 9.2.4 and 9.3.2.1);
/// aggregates (A-MSDU) are not taken apart.
pub(super) fn ieee80211(rest: Cursor<'_>, padding: Padding) -> Result<Segment, Skip> {
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
    let octets: usize = 24 + fourth_address + quality;
    let octets = if padding == Padding::Words { octets.next_multiple_of(4) } else { octets };
    ether::llc(rest.skip(octets, Skip::NotIp)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{ipv4, ipv6, is_syn, join, syn};

    fn decode_whole(dlt: u32, frame: &[u8]) -> Result<Segment, Skip> {
        decode(LinkType::from_dlt(dlt), Cursor::new(frame, 0))
    }

    /// A packet tap's header before a frame of this link type.
    fn pktap(link: u32, order: fn(u32) -> [u8; 4]) -> Vec<u8> {
        [&[108, 1, link].map(order).concat()[..], &[0; 96]].concat()
    }

    /// An ERF header before what lies between it and the packet.
    fn erf(kind: u8, octets: u8, before: &[u8]) -> Vec<u8> {
        [&[0; 8][..], &[kind, 4, 0, 0, 0, 0, 0, octets], before].concat()
    }

    #[test]
    fn link_headers() {
        let frame = crate::wire::testing::ethernet(0x0800, &ipv4(6, &syn()));
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
            // Radiotap's flags: padded, without and with a time and a second word of fields.
            (127, join(&[0, 0, 9, 0, 2, 0, 0, 0, 0x20], &wifi(0x88, 1, 28)), &v4),
            (127, join(&[0, 0, 9, 0, 2, 0, 0, 0, 0x00], &wifi(0x88, 1, 26)), &v4),
            (
                127,
                join(
                    &[&[0, 0, 25, 0, 3, 0, 0, 0x80][..], &[0; 16], &[0x20]].concat(),
                    &wifi(0x88, 1, 28),
                ),
                &v4,
            ),
            (10, join(&[&[0x51][..], &[0; 12]].concat(), &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]), &v4),
            (107, vec![0x18, 0x41, 3, 0xcc], &v4),
            (107, vec![0x18, 0x40, 0x41, 3, 0, 0x8e], &v6),
            (107, vec![0x18, 0x41, 3, 0, 0x80, 0, 0, 0, 8, 0], &v4),
            (107, vec![0x18, 0x41, 3, 0, 0x80, 0, 0x80, 0xc2, 0, 7], &frame),
            (107, vec![0x18, 0x41, 3, 0xcf, 0, 0x21], &v4),
            // As Cisco has it.
            (107, vec![0x18, 0x41, 8, 0], &v4),
            (206, vec![1, 0x18, 0x41, 3, 0xcc], &v4),
            (109, join(&[2, 0, 0, 0], &[0; 8]), &v4),
            (117, join(&[61], &[0; 63]), &v4),
            (117, join(&[100], &[0; 99]), &v6),
            (166, vec![1, 3, 0, 0x21], &v4),
            (192, vec![0, 0, 8, 0, 1, 0, 0, 0], &frame),
            (192, vec![0, 0, 12, 0, 101, 0, 0, 0, 0, 0, 0, 0], &v6),
            (197, erf(2, 2 + 54, &[0, 0]), &frame),
            (
                197,
                erf(0x82, 54, &[[0x80, 0, 0, 0, 0, 0, 0, 0], [0; 8]].concat()),
                &join(&[0, 0], &frame),
            ),
            (197, erf(1, 44, &[0x0f, 0, 8, 0]), &v4),
            (197, erf(5, 44, &[0, 0, 0, 0, 0xff, 3, 0, 0x21]), &v4),
            (197, erf(22, 40, &[]), &v4),
            (197, erf(23, 60, &[]), &v6),
            (204, vec![0, 0xff, 3, 0, 0x21], &v4),
            (205, vec![0, 0x0f, 0, 8, 0], &v4),
            (258, pktap(1, u32::to_le_bytes), &frame),
            (258, pktap(12, u32::to_be_bytes), &v4),
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
            // No LLC; an address without end, one of an octet, another protocol; a header too
            // short.
            (10, join(&[0x41], &[0; 12])),
            (107, vec![0x18, 0x40, 0x40, 0x40, 3, 0xcc]),
            (107, vec![0x19, 3, 0xcc]),
            (107, vec![0x18, 0x41, 3, 0x81]),
            (117, join(&[20], &[0; 19])),
            (192, vec![1, 0, 8, 0, 1, 0, 0, 0]),
            (197, erf(21, 40, &[])),
            (258, join(&[[8, 0, 0, 0], [1, 0, 0, 0], [12, 0, 0, 0]].concat(), &[0; 96])),
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
