//! Ethernet and whatever may stand between a link header and IP: VLAN tags, MPLS labels, PPPoE,
//! PPP, LLC.

use pnet_packet::ethernet::EthernetPacket;

use crate::wire::cursor::Cursor;
use crate::wire::{Segment, Skip, ip};

/// Ethertypes (IANA "IEEE 802 Numbers").
pub(super) mod ethertype {
    pub(in crate::wire) const IPV4: u16 = 0x0800;
    pub(in crate::wire) const IPV6: u16 = 0x86dd;
    pub(in crate::wire) const MPLS: u16 = 0x8847;
    /// Labels assigned by the upstream router (RFC 5332).
    pub(in crate::wire) const MPLS_UPSTREAM: u16 = 0x8848;

    /// A customer's VLAN tag (802.1Q).
    pub(super) const VLAN: u16 = 0x8100;
    /// A provider's VLAN tag (802.1ad).
    pub(super) const PROVIDER_VLAN: u16 = 0x88a8;
    /// Outer tags from before 802.1ad.
    pub(super) const QINQ: u16 = 0x9100;
    pub(super) const QINQ_ALTERNATIVE: u16 = 0x9200;
    pub(super) const PPPOE_SESSION: u16 = 0x8864;
    /// Up to here the field is a length and an LLC header follows (IEEE 802.3, clause 3.2.6).
    pub(super) const MAX_LENGTH: u16 = 1500;
}

/// An Ethernet frame without preamble and, as captures have it, without check sequence.
#[inline]
pub(super) fn ethernet(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let Some(header) = EthernetPacket::new(rest.data()) else {
        return Err(rest.missing(EthernetPacket::minimum_packet_size(), Skip::NotIp));
    };
    let payload = rest.skip(EthernetPacket::minimum_packet_size(), Skip::NotIp)?;
    after_ethertype(header.get_ethertype().0, payload)
}

/// What follows an ethertype.
#[inline]
pub(super) fn after_ethertype(kind: u16, rest: Cursor<'_>) -> Result<Segment, Skip> {
    match kind {
        ethertype::IPV4 => ip::decode_v4(rest),
        ethertype::IPV6 => ip::decode_v6(rest),
        _ => after_other_ethertype(kind, rest),
    }
}

/// Apart from [`after_ethertype`], so that the common case stays small.
#[inline(never)]
fn after_other_ethertype(kind: u16, rest: Cursor<'_>) -> Result<Segment, Skip> {
    match kind {
        ethertype::VLAN
        | ethertype::PROVIDER_VLAN
        | ethertype::QINQ
        | ethertype::QINQ_ALTERNATIVE => vlan(rest),
        ethertype::MPLS | ethertype::MPLS_UPSTREAM => mpls(rest),
        ethertype::PPPOE_SESSION => pppoe(rest),
        ..=ethertype::MAX_LENGTH => llc(rest),
        _ => Err(Skip::NotIp),
    }
}

/// The rest of a VLAN tag: its control information and the next ethertype.
fn vlan(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let (&[_, _, a, b], payload) = rest.header::<4>(Skip::NotIp)?;
    after_ethertype(u16::from_be_bytes([a, b]), payload.nested()?)
}

/// A stack of MPLS labels (RFC 3032, section 2.1). Nothing says what follows the last one; the
/// first four bits tell IP from the control word of a pseudowire (RFC 4385, section 2), which here
/// is taken to be one of Ethernet (RFC 4448).
pub(super) fn mpls(mut rest: Cursor<'_>) -> Result<Segment, Skip> {
    const BOTTOM_OF_STACK: u8 = 0x01;

    loop {
        let (label, payload) = rest.header::<4>(Skip::NotIp)?;
        rest = payload.nested()?;
        if label[2] & BOTTOM_OF_STACK != 0 {
            break;
        }
    }
    match rest.data().first().map(|octet| octet >> 4) {
        Some(0) => ethernet(rest.skip(4, Skip::NotIp)?),
        _ => ip::decode(rest),
    }
}

/// A PPPoE session frame (RFC 2516, section 4): version 1, type 1, code 0.
pub(super) fn pppoe(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let (&[0x11, 0, _, _, a, b], payload) = rest.header::<6>(Skip::NotIp)? else {
        return Err(Skip::NotIp);
    };
    ppp(payload.nested()?.limit(usize::from(u16::from_be_bytes([a, b]))))
}

/// A PPP frame (RFC 1661, section 2), with or without the address and control octets of RFC 1662.
pub(super) fn ppp(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const IPV4: u16 = 0x0021;
    const IPV6: u16 = 0x0057;
    const MPLS: u16 = 0x0281;
    const MPLS_MULTICAST: u16 = 0x0283;

    let rest = match rest.data() {
        // No protocol field begins with 0xff (RFC 1661, section 2), so even a cut one shows.
        [0xff] | [0xff, 0x03, ..] => rest.skip(2, Skip::NotIp)?,
        _ => rest,
    };
    let (&[first], after_first) = rest.header::<1>(Skip::NotIp)?;
    // Only the last octet of the field is odd, so it may come alone (RFC 1661, section 6.5).
    let (protocol, payload) = if first & 1 != 0 {
        (u16::from(first), after_first)
    } else {
        let (&field, payload) = rest.header::<2>(Skip::NotIp)?;
        (u16::from_be_bytes(field), payload)
    };
    match protocol {
        IPV4 => ip::decode_v4(payload),
        IPV6 => ip::decode_v6(payload),
        MPLS | MPLS_MULTICAST => mpls(payload),
        _ => Err(Skip::NotIp),
    }
}

/// An 802.2 LLC header: with SNAP an ethertype (RFC 1042), or IPv4's own service access point.
pub(super) fn llc(rest: Cursor<'_>) -> Result<Segment, Skip> {
    const UNNUMBERED_INFORMATION: u8 = 0x03;
    const SNAP: u8 = 0xaa;
    const IPV4: u8 = 0x06;

    let (header, payload) = rest.header::<3>(Skip::NotIp)?;
    match *header {
        [SNAP, SNAP, UNNUMBERED_INFORMATION] => {
            let (&[oui @ .., a, b], payload) = payload.header::<5>(Skip::NotIp)?;
            match (oui, u16::from_be_bytes([a, b])) {
                // A length here would be another LLC header: nobody sends that.
                ([0, 0, 0], kind) if kind > ethertype::MAX_LENGTH => {
                    after_ethertype(kind, payload.nested()?)
                }
                _ => Err(Skip::NotIp),
            }
        }
        [IPV4, IPV4, UNNUMBERED_INFORMATION] => ip::decode_v4(payload),
        _ => Err(Skip::NotIp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{self, ipv4, ipv6, is_syn, join, syn, whole};

    #[test]
    fn headers_between_ethernet_and_ip() {
        let v4 = ipv4(6, &syn());
        let v6 = ipv6(6, &syn());
        let inner = testing::ethernet(0x0800, &v4);
        for (kind, header, packet) in [
            (0x0800, &[][..], &v4),
            (0x86dd, &[], &v6),
            (0x8100, &[0, 7, 8, 0], &v4),
            (0x88a8, &[0, 7, 0x81, 0, 0, 9, 0x86, 0xdd], &v6),
            (0x9100, &[0, 7, 0x92, 0, 0, 8, 0x81, 0, 0, 9, 8, 0], &v4),
            (0x8847, &[0, 1, 0x01, 64], &v4),
            (0x8848, &[0, 1, 0x00, 64, 0, 2, 0x01, 64], &v6),
            // A pseudowire: control word, then Ethernet.
            (0x8847, &[0, 1, 0x01, 64, 0, 0, 0, 0], &inner),
            (0x8864, &[0x11, 0, 0, 1, 0, 42, 0, 0x21], &v4),
            (0x8864, &[0x11, 0, 0, 1, 0, 62, 0, 0x57], &v6),
            // The protocol field compressed to one octet.
            (0x8864, &[0x11, 0, 0, 1, 0, 41, 0x21], &v4),
            (0x8864, &[0x11, 0, 0, 1, 0, 46, 2, 0x81, 0, 1, 0x01, 64], &v4),
            (48, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &v4),
            (43, &[6, 6, 3], &v4),
            (0x8100, &[0, 7, 0, 48, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &v4),
        ] {
            let frame = testing::ethernet(kind, &join(header, packet));
            let outcome = whole(ethernet, &frame);
            assert!(is_syn(outcome), "{kind:#06x} {header:x?}: {outcome:?}");
        }
    }

    #[test]
    fn neither_ipv4_nor_ipv6() {
        let v4 = ipv4(6, &syn());
        for (kind, header) in [
            (0x0806, &[][..]),
            (0x88cc, &[]),
            // Between the last length and the first ethertype.
            (1501, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]),
            (0x8100, &[0, 7, 8, 6]),
            (0x8863, &[0x11, 9, 0, 0, 0, 0]),
            (0x8864, &[0x21, 0, 0, 1, 0, 42, 0, 0x21]),
            (0x8864, &[0x11, 0xa7, 0, 1, 0, 42, 0, 0x21]),
            // Link control protocol.
            (0x8864, &[0x11, 0, 0, 1, 0, 42, 0xc0, 0x21]),
            // Spanning tree, an unknown organisation, a length inside SNAP.
            (38, &[0x42, 0x42, 3]),
            (48, &[0xaa, 0xaa, 3, 0, 0, 0x0c, 8, 0]),
            (48, &[0xaa, 0xaa, 3, 0, 0, 0, 0, 48]),
            (0x8847, &[0, 1, 0x01, 64, 0x50, 0, 0, 0]),
        ] {
            let frame = testing::ethernet(kind, &join(header, &v4));
            assert_eq!(whole(ethernet, &frame), Err(Skip::NotIp), "{kind:#06x} {header:x?}");
        }
    }

    #[test]
    fn short_and_cut_frames() {
        assert_eq!(whole(ethernet, &[0; 13]), Err(Skip::NotIp));
        let tagged = testing::ethernet(0x8100, &join(&[0, 7, 8, 0], &ipv4(6, &syn())));
        for captured in 0..tagged.len() {
            let cut = Cursor::new(&tagged[..captured], 58);
            assert_eq!(ethernet(cut), Err(Skip::Truncated), "{captured} octets");
        }
    }

    #[test]
    fn tags_and_labels_are_followed_up_to_a_bound() {
        let v4 = ipv4(6, &syn());
        for (kind, repeated, last) in
            [(0x8100, [0, 1, 0x81, 0], [0, 1, 8, 0]), (0x8847, [0, 1, 0, 64], [0, 1, 1, 64])]
        {
            for (count, too_deep) in [(31, false), (32, true), (300, true)] {
                let frame =
                    testing::ethernet(kind, &[&repeated.repeat(count), &last[..], &v4].concat());
                let outcome = whole(ethernet, &frame);
                assert_eq!(outcome == Err(Skip::TooDeep), too_deep, "{count}: {outcome:?}");
            }
        }
    }
}
