//! Frames become segments: `decode(link type, bytes) -> Result<Segment, Skip>`.
//!
//! ```text
//! link ──► ether ──► ip ──► tcp ──► Segment
//!            ▲        ▲ │
//!            └─ tunnel ◄┘
//! ```
//!
//! A plain frame is read at fixed offsets (`fast_path`); any other goes this way. `link` takes off
//! the header that the capture's link type names, `ether` whatever stands between it and IP (VLAN
//! tags, MPLS labels, PPPoE, LLC), `ip` walks to the upper layer and `tcp` reads the header. Only
//! what is IP but not TCP ever reaches `tunnel`, so plain traffic does not pay for it; the
//! innermost TCP header is the one that counts.
//!
//! A fragment is a [`Skip`] by itself; [`Fragments`] joins the heads of datagrams that came in
//! several.
//!
//! Lengths are checked once; after that the accessors cannot fail. Nothing allocates. A frame that
//! is not a TCP segment is never an error: it is one [`Skip`] reason, counted by the engine.
//!
//! Checksums are not verified: network cards fill them in after the capture point (transmit
//! offload) and captures are often cut, so a wrong checksum says little. A SYN with a bad checksum
//! is a segment like any other, although the host that receives it will ignore it.

mod address;
mod cursor;
mod ether;
mod fast_path;
mod fragments;
mod ip;
mod link;
mod segment;
mod tcp;
#[cfg(test)]
mod testing;
mod tunnel;

pub use address::Address;
pub use fragments::Fragments;
pub use link::LinkType;
pub use segment::{Flags, OptionLayout, Segment, SeqNumber, Skip};

use cursor::Cursor;

/// Decodes one frame.
///
/// `data` is what the capture holds of the frame, `original_len` how many octets the frame had on
/// the wire (not less than `data.len()`; a smaller value is taken as `data.len()`).
///
/// # Errors
///
/// The reason why the frame gives no TCP segment.
pub fn decode(link: LinkType, data: &[u8], original_len: u32) -> Result<Segment, Skip> {
    let mut segment = Segment::default();
    decode_into(link, data, original_len, &mut segment).map(|()| segment)
}

/// Decodes one frame to where its segment is needed. On the packet path that costs half of what
/// [`decode`] does: who moves a segment at once has the processor wait for its single fields to be
/// stored.
///
/// # Errors
///
/// The reason why the frame gives no TCP segment; then there is none in `segment` either.
// Always: see `fast_path`.
#[inline(always)]
pub fn decode_into(
    link: LinkType,
    data: &[u8],
    original_len: u32,
    segment: &mut Segment,
) -> Result<(), Skip> {
    if link == LinkType::Ethernet && fast_path::decode(data, segment) {
        return Ok(());
    }
    decode_any(link, data, original_len, segment)
}

/// The long way, apart, so that the short one goes into its caller.
#[inline(never)]
fn decode_any(
    link: LinkType,
    data: &[u8],
    original_len: u32,
    segment: &mut Segment,
) -> Result<(), Skip> {
    *segment = link::decode(link, Cursor::new(data, original_len))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{ethernet, ipv4, ipv6, syn, udp};
    use super::*;

    fn decode_ethernet(frame: &[u8]) -> Result<Segment, Skip> {
        decode(LinkType::Ethernet, frame, u32::try_from(frame.len()).unwrap())
    }

    #[test]
    fn every_reason_of_the_decoder_is_reached() {
        let mut deep = ipv4(6, &syn());
        for _ in 0..40 {
            deep = ipv4(4, &deep);
        }
        let plain = ethernet(0x0800, &ipv4(6, &syn()));
        let mut fragment = plain.clone();
        fragment[14 + 7] = 1;
        let mut short_ip = plain.clone();
        short_ip[14] = 0x44;
        let mut short_tcp = plain.clone();
        short_tcp[14 + 20 + 12] = 0x40;
        let cut = decode(LinkType::Ethernet, &plain[..40], 54);
        let unknown = decode(LinkType::from_dlt(147), &plain, 54);

        for (reason, outcome) in [
            (Skip::Truncated, cut),
            (Skip::UnknownLinkType, unknown),
            (Skip::NotIp, decode_ethernet(&ethernet(0x0806, &[0; 28]))),
            (Skip::NotTcp, decode_ethernet(&ethernet(0x86dd, &ipv6(17, &udp(53, &[0; 12]))))),
            (Skip::Fragment, decode_ethernet(&fragment)),
            (Skip::Encapsulated, decode_ethernet(&ethernet(0x0800, &ipv4(50, &[7; 40])))),
            (Skip::BadIpHeader, decode_ethernet(&short_ip)),
            (Skip::BadTcpHeader, decode_ethernet(&short_tcp)),
            (Skip::TooDeep, decode_ethernet(&ethernet(0x0800, &deep))),
        ] {
            assert_eq!(outcome, Err(reason));
        }
    }

    #[test]
    fn icmp_error_quoting_a_syn_is_no_segment() {
        let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
        error.extend(ipv4(6, &syn()));
        assert_eq!(decode_ethernet(&ethernet(0x0800, &ipv4(1, &error))), Err(Skip::NotTcp));
        error[0] = 1;
        assert_eq!(decode_ethernet(&ethernet(0x86dd, &ipv6(58, &error))), Err(Skip::NotTcp));
    }

    #[test]
    fn original_len_smaller_than_the_capture_is_ignored() {
        let frame = ethernet(0x0800, &ipv4(6, &syn()));
        assert!(decode(LinkType::Ethernet, &frame, 0).is_ok());
    }

    /// All link types there are, and one there is not.
    fn any_link() -> impl Strategy<Value = LinkType> {
        (0..300u32).prop_map(LinkType::from_dlt)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn arbitrary_octets_never_panic(
            link in any_link(),
            data in prop::collection::vec(any::<u8>(), 0..300),
            original_len in any::<u32>(),
        ) {
            let _ = decode(link, &data, original_len);
        }

        /// Damage to a valid packet gets deeper into the decoders than random octets do. Of a
        /// capture that was cut at least the reason is known, and what is decoded is right.
        #[test]
        fn cut_captures_are_truncated_or_right(
            tunnel in 0..testing::TUNNELS,
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut frame = ethernet(0x0800, &testing::tunnelled(tunnel));
            for (position, octet) in damage {
                *position.get_mut(&mut frame) = octet;
            }
            let original_len = u32::try_from(frame.len()).unwrap();
            let whole = decode(LinkType::Ethernet, &frame, original_len);
            let cut = decode(LinkType::Ethernet, &frame[..cut.index(frame.len())], original_len);
            if cut != Err(Skip::Truncated) {
                prop_assert_eq!(without_options(cut), without_options(whole));
            }
        }
    }

    fn without_options(outcome: Result<Segment, Skip>) -> Result<Segment, Skip> {
        outcome.map(|segment| Segment { mss: None, options: OptionLayout::default(), ..segment })
    }
}
