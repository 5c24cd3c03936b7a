//! The pcap format (draft-ietf-opsawg-pcap).
//!
//! The records' headers are read here: the parser library's call for each doubles the instructions of a record.

use std::io;

use pcap_parser::{PcapHeader, parse_pcap_header};

use super::input::Input;
use super::{ByteOrder, MAX_RECORD, Record, Step, Unknown};
use crate::time::Timestamp;
use crate::wire::LinkType;

/// Time and lengths before a record's octets; the modified format of 1999 adds eight octets.
const RECORD_HEADER: usize = 16;
const MODIFIED_RECORD_HEADER: usize = 24;

/// A pcap file past its header.
pub(super) struct Classic {
    order: ByteOrder,
    record_header: usize,
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
            order: if header.is_bigendian() { ByteOrder::Big } else { ByteOrder::Little },
            record_header: if header.is_modified_format() {
                MODIFIED_RECORD_HEADER
            } else {
                RECORD_HEADER
            },
            link: LinkType::from_dlt(network & 0xffff),
            nanos_per_unit: if header.is_nanosecond_precision() { 1 } else { 1000 },
        })
    }

    /// The record at `position`, where all of it lies in the window.
    #[inline]
    pub(super) fn record(&self, window: &[u8], position: usize) -> Option<Record> {
        let octets = window.get(position..)?;
        let [seconds, fraction, captured_len, original_len] = self.order.words(octets)?;
        let length = self.record_header.checked_add(captured_len as usize)?;
        if length > octets.len().min(MAX_RECORD) {
            return None;
        }
        let nanos = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.nanos_per_unit;
        Some(Record {
            at: Timestamp::from_nanos(nanos),
            link: self.link,
            start: position + self.record_header,
            captured_len: captured_len as usize,
            original_len: original_len.max(captured_len),
            end: position + length,
        })
    }

    /// Goes on to the next record.
    pub(super) fn advance(&self, input: &mut Input) -> io::Result<Step> {
        input.fill(self.record_header)?;
        if let Some([_, _, captured_len]) = self.order.words(input.available()) {
            let length = self.record_header.saturating_add(captured_len as usize);
            if length <= MAX_RECORD {
                input.fill(length)?;
            }
        }
        let (window, position) = input.window();
        if let Some(record) = self.record(window, position) {
            return Ok(Step::Record(record));
        }
        if input.is_at_end() {
            return Ok(Step::End);
        }
        // Without a length to trust there is no way to find the next record.
        input.close();
        Ok(Step::Bad)
    }
}
