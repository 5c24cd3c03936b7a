//! What nearly every frame is, at fixed offsets: Ethernet without a tag, IPv4 without options, a
//! TCP header that was captured whole.

use crate::wire::ether::ethertype;
use crate::wire::ip::protocol;
use crate::wire::tcp::read_options;
use crate::wire::{Address, Flags, OptionLayout, Segment, SeqNumber};

/// Octets of the three headers without options.
const LEN: usize = 14 + IPV4_LEN + TCP_LEN;
const IPV4_LEN: usize = 20;
const TCP_LEN: usize = 20;
/// Version 4 and a header of five words.
const NO_OPTIONS: u8 = 0x45;
/// More fragments, and the fragment offset.
const FRAGMENT: u16 = 0x3fff;

/// Writes the segment that [`decode_into`](super::decode_into) gives for such a frame, at a third
/// of its cost; `false` for any other frame, good or bad.
// Always: decoding, hashing and queueing are to be one loop, and to the compiler they look too
// large for that.
#[inline(always)]
pub(super) fn decode(data: &[u8], segment: &mut Segment) -> bool {
    let Some(head) = data.first_chunk::<LEN>() else { return false };
    let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let plain = half(12) == ethertype::IPV4
        && head[14] == NO_OPTIONS
        && half(20) & FRAGMENT == 0
        && head[23] == protocol::TCP;
    // A total length of 0 is that of segmentation offload.
    let total_len = usize::from(half(16));
    let header_len = 4 * usize::from(head[46] >> 4);
    if !plain || header_len < TCP_LEN || total_len < IPV4_LEN + header_len {
        return false;
    }
    let flags = Flags(head[47]);
    let (mss, options) = if flags.is_syn() {
        let end = (LEN - TCP_LEN + header_len).min(data.len());
        read_options(data.get(LEN..end).unwrap_or_default())
    } else {
        (None, OptionLayout::default())
    };
    *segment = Segment {
        source: Address::v4([head[26], head[27], head[28], head[29]]),
        destination: Address::v4([head[30], head[31], head[32], head[33]]),
        source_port: half(34),
        destination_port: half(36),
        seq: SeqNumber(word(38)),
        ack: SeqNumber(word(42)),
        flags,
        window: half(48),
        payload_len: u32::from(half(16)) - (IPV4_LEN + header_len) as u32,
        ttl: head[22],
        mss,
        options,
    };
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::testing::{ethernet, ipv4, tcp};
    use crate::wire::{LinkType, cursor::Cursor, link};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// Whatever is decoded here is decoded as the long way does it, damaged and cut frames
        /// included.
        #[test]
        fn the_short_way_gives_what_the_long_way_gives(
            flags in any::<u8>(),
            options in prop::collection::vec(any::<u8>(), 0..10),
            payload in 0_usize..20,
            damage in prop::collection::vec((0_usize..64, any::<u8>()), 0..3),
            cut in any::<prop::sample::Index>(),
        ) {
            let options: Vec<u8> = options.iter().copied().cycle().take(options.len() / 4 * 4).collect();
            let whole = ethernet(0x0800, &ipv4(6, &tcp(flags, &options, &vec![7; payload])));
            let mut segment = Segment::default();
            prop_assert!(decode(&whole, &mut segment));
            let mut frame = whole;
            for (at, octet) in damage {
                if let Some(place) = frame.get_mut(at) {
                    *place = octet;
                }
            }
            let original_len = u32::try_from(frame.len()).unwrap();
            let captured = &frame[..=cut.index(frame.len())];
            if decode(captured, &mut segment) {
                let rest = Cursor::new(captured, original_len);
                prop_assert_eq!(Ok(segment), link::decode(LinkType::Ethernet, rest));
            }
        }
    }
}
