//! IPv4 (RFC 791) and IPv6 (RFC 8200) up to the upper-layer header.

use pnet_packet::ipv4::{Ipv4Flags, Ipv4Packet};
use pnet_packet::ipv6::Ipv6Packet;

use crate::wire::cursor::Cursor;
use crate::wire::fragments::Piece;
use crate::wire::{Address, Segment, Skip, tcp, tunnel};

/// Which IP.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Version {
    V4,
    V6,
}

/// What a segment takes over from the IP header around it.
#[derive(Clone, Copy)]
pub(super) struct Envelope {
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) ttl: u8,
}

/// Upper-layer protocols and extension headers (IANA "Protocol Numbers").
pub(super) mod protocol {
    pub(in crate::wire) const IPV4: u8 = 4;
    pub(in crate::wire) const TCP: u8 = 6;
    pub(in crate::wire) const UDP: u8 = 17;
    pub(in crate::wire) const IPV6: u8 = 41;
    pub(in crate::wire) const GRE: u8 = 47;
    pub(in crate::wire) const MPLS: u8 = 137;
    /// Encrypted, compressed, or a tunnel that is not followed; and the two for experiments.
    pub(in crate::wire) const ESP: u8 = 50;
    pub(in crate::wire) const ETHER_IP: u8 = 97;
    pub(in crate::wire) const IP_COMP: u8 = 108;
    pub(in crate::wire) const L2TP: u8 = 115;
    pub(in crate::wire) const EXPERIMENTS: [u8; 2] = [253, 254];

    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HOST_IDENTITY: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
}

/// An IP packet of the version that its first octet names.
pub(super) fn decode(rest: Cursor<'_>) -> Result<Segment, Skip> {
    match rest.data().first().map(|octet| octet >> 4) {
        Some(4) => decode_v4(rest),
        Some(6) => decode_v6(rest),
        Some(_) => Err(Skip::NotIp),
        None => Err(rest.missing(1, Skip::NotIp)),
    }
}

/// An IPv4 packet. A fragment is noted, and is no segment by itself: see
/// [`Fragments`](super::Fragments).
pub(super) fn decode_v4(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let Some(header) = Ipv4Packet::new(rest.data()) else {
        return Err(rest.missing(Ipv4Packet::minimum_packet_size(), Skip::BadIpHeader));
    };
    let header_len = 4 * usize::from(header.get_header_length());
    if header.get_version() != 4 || header_len < Ipv4Packet::minimum_packet_size() {
        return Err(Skip::BadIpHeader);
    }
    let packet = match header.get_total_length() {
        // Segmentation offload: the captured packet is larger than the field can say.
        0 => rest,
        total => rest.with_len(usize::from(total)),
    };
    let payload = packet.skip(header_len, Skip::BadIpHeader)?;
    let upper = header.get_next_level_protocol().0;
    let envelope = Envelope {
        source: Address::v4(header.get_source().octets()),
        destination: Address::v4(header.get_destination().octets()),
        ttl: header.get_ttl(),
    };
    let offset = header.get_fragment_offset();
    let more = header.get_flags() & Ipv4Flags::MoreFragments != 0;
    if offset != 0 || more {
        if !may_hold_tcp(upper) {
            return Err(Skip::NotTcp);
        }
        rest.note(Piece {
            version: Version::V4,
            envelope,
            identification: header.get_identification().into(),
            upper,
            offset: 8 * usize::from(offset),
            more,
            rest: payload,
        });
        return Err(Skip::Fragment);
    }
    upper_layer_v4(envelope, upper, payload)
}

/// Whether an IPv4 packet of this protocol may have a TCP header inside.
const fn may_hold_tcp(upper: u8) -> bool {
    matches!(
        upper,
        protocol::TCP
            | protocol::UDP
            | protocol::IPV4
            | protocol::IPV6
            | protocol::GRE
            | protocol::MPLS
            | protocol::AUTHENTICATION
    )
}

/// What follows an IPv4 header.
fn upper_layer_v4(envelope: Envelope, upper: u8, rest: Cursor<'_>) -> Result<Segment, Skip> {
    let (upper, payload) = match upper {
        protocol::AUTHENTICATION => authentication_header(rest)?,
        upper => (upper, rest),
    };
    match upper {
        protocol::TCP => tcp::decode(envelope, payload),
        other => tunnel::decode(other, payload),
    }
}

/// An IPv6 packet: walks the extension headers. The destination is that of the IPv6 header, also
/// where a routing header names further ones.
pub(super) fn decode_v6(rest: Cursor<'_>) -> Result<Segment, Skip> {
    let Some(header) = Ipv6Packet::new(rest.data()) else {
        return Err(rest.missing(Ipv6Packet::minimum_packet_size(), Skip::BadIpHeader));
    };
    if header.get_version() != 6 {
        return Err(Skip::BadIpHeader);
    }
    let payload = rest.skip(Ipv6Packet::minimum_packet_size(), Skip::BadIpHeader)?;
    let payload = match header.get_payload_length() {
        // A jumbogram (RFC 2675) or segmentation offload: the frame's length is the only one at
        // hand.
        0 => payload,
        octets => payload.with_len(usize::from(octets)),
    };
    let envelope = Envelope {
        source: Address::v6(header.get_source().octets()),
        destination: Address::v6(header.get_destination().octets()),
        ttl: header.get_hop_limit(),
    };

    headers_v6(envelope, header.get_next_header().0, payload, true)
}

/// What a whole datagram holds that came in fragments.
pub(super) fn decode_joined(
    version: Version,
    envelope: Envelope,
    upper: u8,
    rest: Cursor<'_>,
) -> Result<Segment, Skip> {
    match version {
        Version::V4 => upper_layer_v4(envelope, upper, rest),
        Version::V6 => headers_v6(envelope, upper, rest, false),
    }
}

/// Extension headers of IPv6 and what follows; `is_first` directly after the IPv6 header.
fn headers_v6(
    envelope: Envelope,
    mut next: u8,
    mut payload: Cursor<'_>,
    mut is_first: bool,
) -> Result<Segment, Skip> {
    loop {
        (next, payload) = match next {
            protocol::TCP => return tcp::decode(envelope, payload),
            // RFC 8200, section 4.1: anywhere but directly after the IPv6 header it is not
            // recognised.
            protocol::HOP_BY_HOP if !is_first => return Err(Skip::BadIpHeader),
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION_OPTIONS
            | protocol::MOBILITY
            | protocol::HOST_IDENTITY
            | protocol::SHIM6 => extension_header(payload)?,
            protocol::FRAGMENT => fragment_header(envelope, payload)?,
            protocol::AUTHENTICATION => authentication_header(payload)?,
            other => return tunnel::decode(other, payload),
        };
        is_first = false;
    }
}

/// Takes off an extension header in the common format: next header, length in units of 8 octets
/// without the first 8 (RFC 6564, section 4).
fn extension_header(rest: Cursor<'_>) -> Result<(u8, Cursor<'_>), Skip> {
    let (&[next, units], _) = rest.header::<2>(Skip::BadIpHeader)?;
    let following = rest.nested()?.skip(8 * (usize::from(units) + 1), Skip::BadIpHeader)?;
    Ok((next, following))
}

/// Takes off the fragment header (RFC 8200, section 4.5) of a whole packet, an "atomic" fragment
/// (RFC 6946). Any other fragment is noted.
fn fragment_header(envelope: Envelope, rest: Cursor<'_>) -> Result<(u8, Cursor<'_>), Skip> {
    let (&[next, _, high, low, a, b, c, d], following) = rest.header::<8>(Skip::BadIpHeader)?;
    let field = u16::from_be_bytes([high, low]);
    let (offset, more) = (usize::from(field & !7), field & 1 != 0);
    let following = following.nested()?;
    if offset == 0 && !more {
        return Ok((next, following));
    }
    rest.note(Piece {
        version: Version::V6,
        envelope,
        identification: u32::from_be_bytes([a, b, c, d]),
        upper: next,
        offset,
        more,
        rest: following,
    });
    Err(Skip::Fragment)
}

/// Takes off an authentication header, whose length is in units of 4 octets less 2 (RFC 4302,
/// section 2.2).
fn authentication_header(rest: Cursor<'_>) -> Result<(u8, Cursor<'_>), Skip> {
    let (&[next, units, ..], _) = rest.header::<12>(Skip::BadIpHeader)?;
    if units == 0 {
        return Err(Skip::BadIpHeader);
    }
    let following = rest.nested()?.skip(4 * (usize::from(units) + 2), Skip::BadIpHeader)?;
    Ok((next, following))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{ipv4, ipv6, is_syn, join, syn, tcp, whole};

    #[test]
    fn envelope_comes_from_the_ip_header() {
        let segment = whole(decode, &ipv4(6, &syn())).unwrap();
        assert_eq!(segment.source.to_string(), "192.0.2.1");
        assert_eq!(segment.destination.to_string(), "198.51.100.2");
        assert_eq!(segment.ttl, 64);
        let segment = whole(decode, &ipv6(6, &syn())).unwrap();
        assert_eq!(segment.source.to_string(), "2001:db8::1");
        assert_eq!(segment.destination.to_string(), "2001:db8::2");
        assert_eq!(segment.ttl, 64);
    }

    #[test]
    fn v4_header_is_checked() {
        // Position and new value of one octet of a packet of 40 octets.
        for (position, value, outcome) in [
            (0, 0x44, Err(Skip::BadIpHeader)),
            (0, 0x41, Err(Skip::BadIpHeader)),
            (0, 0x55, Err(Skip::BadIpHeader)),
            (0, 0x4f, Err(Skip::BadIpHeader)),
            (3, 19, Err(Skip::BadIpHeader)),
            (3, 39, Err(Skip::BadTcpHeader)),
            (3, 41, Ok(1)),
            (6, 0x20, Err(Skip::Fragment)),
            (6, 0x80, Ok(0)),
            (7, 1, Err(Skip::Fragment)),
            (6, 0x1f, Err(Skip::Fragment)),
            (9, 17, Err(Skip::NotTcp)),
            (9, 50, Err(Skip::Encapsulated)),
        ] {
            let mut packet = ipv4(6, &syn());
            packet[position] = value;
            let payload_len = whole(decode_v4, &packet).map(|segment| segment.payload_len);
            assert_eq!(payload_len, outcome, "octet {position} = {value:#x}");
        }
    }

    #[test]
    fn v4_options_are_passed_over() {
        let mut packet = ipv4(6, &join(&[1, 1, 1, 0], &syn()));
        packet[0] = 0x46;
        assert!(is_syn(whole(decode_v4, &packet)));
        let cut = Cursor::new(&packet[..22], 44);
        assert_eq!(decode_v4(cut), Err(Skip::Truncated));
    }

    #[test]
    fn v4_length_rules_over_padding_and_cut_captures() {
        let packet = ipv4(6, &tcp(0x18, &[], &[0; 100]));
        assert_eq!(whole(decode_v4, &packet).unwrap().payload_len, 100);
        assert_eq!(whole(decode_v4, &join(&packet, &[0; 9])).unwrap().payload_len, 100);
        for original_len in [0, 140] {
            let cut = Cursor::new(&packet[..40], original_len);
            assert_eq!(decode_v4(cut).unwrap().payload_len, 100);
        }
    }

    #[test]
    fn v4_length_0_is_offload() {
        let mut packet = ipv4(6, &tcp(0x18, &[], &[0; 100]));
        packet[2..4].fill(0);
        let cut = Cursor::new(&packet, 70_040);
        assert_eq!(decode_v4(cut).unwrap().payload_len, 70_000);
    }

    #[test]
    fn fragments_that_cannot_hold_tcp_are_not_waited_for() {
        for (protocol, skip) in
            [(1, Skip::NotTcp), (132, Skip::NotTcp), (6, Skip::Fragment), (17, Skip::Fragment)]
        {
            let mut packet = ipv4(protocol, &syn());
            packet[6] = 0x20;
            assert_eq!(whole(decode_v4, &packet), Err(skip), "{protocol}");
            packet[6..8].copy_from_slice(&[0, 1]);
            assert_eq!(whole(decode_v4, &packet), Err(skip), "{protocol}");
        }
    }

    #[test]
    fn v6_extension_headers() {
        // Chains of (header type, its octets after the next-header field) up to a SYN.
        const LONG: [u8; 15] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        const SHORT: [u8; 7] = [0; 7];
        const AUTHENTICATION: [u8; 15] = [2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
        const FIRST: [u8; 7] = [0, 0, 1, 0, 0, 0, 9];
        const LATER: [u8; 7] = [0, 0, 8, 0, 0, 0, 9];
        type Chain<'a> = &'a [(u8, &'a [u8])];
        let chains: [(Chain<'_>, Option<Skip>); 17] = [
            (&[], None),
            (&[(0, &SHORT)], None),
            (&[(0, &LONG), (60, &SHORT), (43, &LONG), (44, &SHORT), (51, &AUTHENTICATION)], None),
            (&[(135, &SHORT)], None),
            (&[(139, &SHORT)], None),
            (&[(140, &SHORT)], None),
            (&[(44, &FIRST)], Some(Skip::Fragment)),
            (&[(44, &LATER)], Some(Skip::Fragment)),
            // Hop-by-hop options come first or not at all.
            (&[(60, &SHORT), (0, &SHORT)], Some(Skip::BadIpHeader)),
            // ESP and experiments may hide anything; after "no next header" there is nothing.
            (&[(50, &SHORT)], Some(Skip::Encapsulated)),
            (&[(253, &SHORT)], Some(Skip::Encapsulated)),
            (&[(59, &SHORT)], Some(Skip::NotTcp)),
            (&[(17, &SHORT)], Some(Skip::NotTcp)),
            (&[(58, &SHORT)], Some(Skip::NotTcp)),
            // A length beyond the packet; an authentication header shorter than its fixed part.
            (&[(60, &[200, 0, 0, 0, 0, 0, 0])], Some(Skip::BadIpHeader)),
            (&[(51, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])], Some(Skip::BadIpHeader)),
            (&[(60, &SHORT as &[u8]); 40], Some(Skip::TooDeep)),
        ];
        for (chain, skip) in chains {
            let mut payload = syn();
            let mut next = protocol::TCP;
            for (kind, octets) in chain.iter().rev() {
                payload = [&[next], *octets, &payload].concat();
                next = *kind;
            }
            let outcome = whole(decode_v6, &ipv6(next, &payload));
            match skip {
                Some(skip) => assert_eq!(outcome, Err(skip), "{chain:?}"),
                None => assert!(is_syn(outcome), "{chain:?}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn v6_lengths() {
        let packet = ipv6(6, &tcp(0x18, &[], &[0; 100]));
        let payload_len = |rest: Cursor<'_>| decode_v6(rest).map(|segment| segment.payload_len);
        assert_eq!(payload_len(Cursor::new(&packet, 0)), Ok(100));
        assert_eq!(payload_len(Cursor::new(&packet[..60], 160)), Ok(100));
        assert_eq!(payload_len(Cursor::new(&join(&packet, &[0; 6]), 0)), Ok(100));
        assert_eq!(payload_len(Cursor::new(&packet[..59], 160)), Err(Skip::Truncated));
        assert_eq!(payload_len(Cursor::new(&packet[..39], 39)), Err(Skip::BadIpHeader));

        // A jumbogram: hop-by-hop header with the jumbo payload option, payload length 0.
        let jumbo = [6, 0, 0xc2, 4, 0, 1, 0x11, 0x84];
        let mut packet = ipv6(0, &join(&jumbo, &tcp(0x18, &[], &[0; 100])));
        packet[4..6].fill(0);
        assert_eq!(payload_len(Cursor::new(&packet, 70_068)), Ok(70_000));
    }

    #[test]
    fn version_decides() {
        assert!(is_syn(whole(decode, &ipv4(6, &syn()))));
        assert!(is_syn(whole(decode, &ipv6(6, &syn()))));
        assert_eq!(whole(decode, &[0x50; 40]), Err(Skip::NotIp));
        assert_eq!(whole(decode, &[]), Err(Skip::NotIp));
        assert_eq!(whole(decode_v6, &ipv4(6, &[0; 40])), Err(Skip::BadIpHeader));
    }
}
