//! The pcap format (draft-ietf-opsawg-pcap).

use std::io;

use pcap_parser::nom;
use pcap_parser::{
    LegacyPcapBlock, PcapError, PcapHeader, parse_pcap_frame, parse_pcap_frame_be,
    parse_pcap_frame_modified, parse_pcap_header,
};

use super::input::Input;
use super::{MAX_RECORD, Record, Step, Unknown};
use crate::time::Timestamp;
use crate::wire::LinkType;

type ParseRecord = fn(&[u8]) -> nom::IResult<&[u8], LegacyPcapBlock<'_>, PcapError<&[u8]>>;

/// A pcap file past its header.
pub(super) struct Classic {
    parse: ParseRecord,
    link: LinkType,
    nanos_per_unit: u64,
}

impl Classic {
    /// Reads the file's header.
    pub(super) fn detect(input: &mut Input) -> Result<Self, Unknown> {
        input.fill(PcapHeader::new().size())?;
        let Ok((_, header)) = parse_pcap_header(input.available()) else {
            return Err(Unknown::NotACapture);
        };
        input.consume(header.size());
        // 543.0 was written by one program only; it is 2.4. Before 2.3 the lengths were swapped.
        if !matches!((header.version_major, header.version_minor), (2, 3 | 4) | (543, 0)) {
            return Err(Unknown::Version(header.version_major, header.version_minor));
        }
        // The link type, and above it flags and the length of the frame check sequence.
        let network = header.network.0.cast_unsigned();
        if network & 0x03ff_0000 != 0 {
            return Err(Unknown::NotACapture);
        }
        Ok(Self {
            parse: match (header.is_modified_format(), header.is_bigendian()) {
                (true, _) => parse_pcap_frame_modified,
                (false, true) => parse_pcap_frame_be,
                (false, false) => parse_pcap_frame,
            },
            link: LinkType::from_dlt(network & 0xffff),
            nanos_per_unit: if header.is_nanosecond_precision() { 1 } else { 1000 },
        })
    }

    pub(super) fn advance(&self, input: &mut Input) -> io::Result<Step> {
        loop {
            let available = input.available();
            let needed = match (self.parse)(available) {
                Ok((rest, block)) => {
                    let length = available.len() - rest.len();
                    let mut record = self.record(&block);
                    // The octets stand at the record's end.
                    record.start = input.consume(length) + length - record.captured_len;
                    return Ok(Step::Record(record));
                }
                Err(nom::Err::Incomplete(nom::Needed::Size(more))) => {
                    available.len().saturating_add(more.get())
                }
                Err(_) => usize::MAX,
            };
            if needed > MAX_RECORD || !input.fill(needed)? {
                if input.is_at_end() {
                    return Ok(Step::End);
                }
                // Without a length to trust there is no way to find the next record.
                input.close();
                return Ok(Step::Bad);
            }
        }
    }

    fn record(&self, block: &LegacyPcapBlock<'_>) -> Record {
        let seconds = u64::from(block.ts_sec) * 1_000_000_000;
        Record {
            at: Timestamp::from_nanos(seconds + u64::from(block.ts_usec) * self.nanos_per_unit),
            link: self.link,
            start: 0,
            captured_len: block.data.len(),
            original_len: block.origlen.max(block.caplen),
        }
    }
}
