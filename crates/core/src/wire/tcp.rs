//! The TCP header (RFC 9293, section 3.1) and the options of a SYN.

use pnet_packet::tcp::TcpPacket;

use crate::wire::cursor::Cursor;
use crate::wire::ip::Envelope;
use crate::wire::{Flags, OptionLayout, Segment, SeqNumber, Skip};

/// Octets of the header without options.
const FIXED_LEN: usize = 20;

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Decodes the TCP header at the front of `cursor`. Options that the capture cut off are no reason
/// to refuse the segment.
#[inline]
pub(super) fn decode(envelope: Envelope, rest: Cursor<'_>) -> Result<Segment, Skip> {
    let Some(header) = TcpPacket::new(rest.data()) else {
        return Err(rest.missing(FIXED_LEN, Skip::BadTcpHeader));
    };
    let header_len = 4 * usize::from(header.get_data_offset());
    if header_len < FIXED_LEN {
        return Err(Skip::BadTcpHeader);
    }
    let payload = rest.skip(header_len, Skip::BadTcpHeader)?;

    let flags = Flags(header.get_flags());
    let (mss, options) = if flags.is_syn() {
        let captured = header_len.min(rest.data().len());
        read_options(rest.data().get(FIXED_LEN..captured).unwrap_or_default())
    } else {
        (None, OptionLayout::default())
    };

    Ok(Segment {
        source: envelope.source,
        destination: envelope.destination,
        source_port: header.get_source(),
        destination_port: header.get_destination(),
        seq: SeqNumber(header.get_sequence()),
        ack: SeqNumber(header.get_acknowledgement()),
        flags,
        window: header.get_window(),
        payload_len: u32::try_from(payload.wire_len()).unwrap_or(u32::MAX),
        ttl: envelope.ttl,
        mss,
        options,
    })
}

/// Walks the options up to their end, or to the first that is broken or cut off (RFC 9293, section
/// 3.1: every kind but 0 and 1 has a length octet that counts kind and length). As in Linux'
/// `tcp_parse_options` the last maximum segment size counts.
#[inline(never)]
pub(super) fn read_options(mut octets: &[u8]) -> (Option<u16>, OptionLayout) {
    let mut mss = None;
    let mut layout = OptionLayout::default();
    for position in 0.. {
        let (kind, len) = match *octets {
            [kind @ (END_OF_OPTIONS | NO_OPERATION), ..] => (kind, 1),
            [kind, len @ 2..=u8::MAX, ..] => (kind, usize::from(len)),
            _ => break,
        };
        let Some((option, following)) = octets.split_at_checked(len) else { break };
        layout = layout.with(position, kind);
        if let [MAXIMUM_SEGMENT_SIZE, 4, high, low] = *option {
            mss = Some(u16::from_be_bytes([high, low]));
        }
        if kind == END_OF_OPTIONS {
            break;
        }
        octets = following;
    }
    (mss, layout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{ENVELOPE, tcp};

    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;

    fn decode_whole(header: &[u8]) -> Result<Segment, Skip> {
        decode(ENVELOPE, Cursor::new(header, 0))
    }

    #[test]
    fn fields_are_read() {
        let segment = decode_whole(&tcp(0x12, &[2, 4, 5, 0xb4], b"hello")).unwrap();
        assert_eq!(
            segment,
            Segment {
                source: ENVELOPE.source,
                destination: ENVELOPE.destination,
                source_port: 40_000,
                destination_port: 443,
                seq: SeqNumber(0x0102_0304),
                ack: SeqNumber(0x0506_0708),
                flags: Flags::SYN | Flags::ACK,
                window: 64_240,
                payload_len: 5,
                ttl: 64,
                mss: None,
                options: OptionLayout::default(),
            }
        );
    }

    #[test]
    fn options_of_a_syn() {
        let linux = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        for (options, mss, layout) in [
            (&linux[..], Some(1460), "mss,sackok,ts,nop,ws"),
            (&[], None, ""),
            (&[1, 1, 1, 0], None, "nop,nop,nop,eol"),
            // What follows the end of options is padding.
            (&[0, 2, 4, 9], None, "eol"),
            // A length of 0 or 1, or one beyond the header, ends the walk.
            (&[2, 4, 5, 0xb4, 3, 0, 1, 1], Some(1460), "mss"),
            (&[2, 4, 5, 0xb4, 3, 1, 1, 1], Some(1460), "mss"),
            (&[1, 1, 2, 4], None, "nop,nop"),
            (&[1, 1, 1, 8], None, "nop,nop,nop"),
            // An MSS option of a wrong length is none.
            (&[2, 3, 5, 1], None, "mss,nop"),
            // The last one counts.
            (&[2, 4, 0, 1, 2, 4, 0, 2], Some(2), "mss,mss"),
        ] {
            let segment = decode_whole(&tcp(SYN, options, &[])).unwrap();
            assert_eq!(segment.mss, mss, "{options:?}");
            assert_eq!(segment.options.to_string(), layout, "{options:?}");
            assert_eq!(segment.payload_len, 0);
        }
    }

    #[test]
    fn options_are_read_of_a_syn_only() {
        for flags in [ACK, SYN | ACK] {
            let segment = decode_whole(&tcp(flags, &[2, 4, 5, 0xb4], &[])).unwrap();
            assert_eq!((segment.mss, segment.options), (None, OptionLayout::default()));
        }
    }

    #[test]
    fn data_offset_must_fit() {
        for (offset, outcome) in [
            (0, Err(Skip::BadTcpHeader)),
            (4, Err(Skip::BadTcpHeader)),
            (5, Ok(4)),
            (6, Ok(0)),
            (7, Err(Skip::BadTcpHeader)),
            (15, Err(Skip::BadTcpHeader)),
        ] {
            let mut header = tcp(ACK, &[], b"data");
            header[12] = offset << 4;
            assert_eq!(decode_whole(&header).map(|s| s.payload_len), outcome, "offset {offset}");
        }
    }

    #[test]
    fn cut_options_leave_the_rest_of_the_header() {
        let header = tcp(SYN, &[2, 4, 5, 0xb4, 1, 3, 3, 7], b"payload");
        for captured in 20..header.len() {
            let original_len = u32::try_from(header.len()).unwrap();
            let segment = decode(ENVELOPE, Cursor::new(&header[..captured], original_len)).unwrap();
            assert_eq!(segment.mss, (captured >= 24).then_some(1460), "{captured} octets");
            assert_eq!(segment.payload_len, 7);
        }
    }

    #[test]
    fn short_headers_name_their_cause() {
        let header = tcp(SYN, &[], &[]);
        let cut = Cursor::new(&header[..19], 20);
        assert_eq!(decode(ENVELOPE, cut), Err(Skip::Truncated));
        let short = Cursor::new(&header[..19], 19);
        assert_eq!(decode(ENVELOPE, short), Err(Skip::BadTcpHeader));
    }

    #[test]
    fn a_wrong_checksum_is_no_reason_to_refuse() {
        let mut header = tcp(SYN, &[], &[]);
        header[16..18].copy_from_slice(&[0xde, 0xad]);
        assert!(decode_whole(&header).is_ok());
    }
}
