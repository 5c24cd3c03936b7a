//! The pcap format (draft-ietf-opsawg-pcap).
//!
//! The records' headers are read here: the parser library's call for each doubles the instructions
//! of a record.

use std::io;

use pcap_parser::{PcapHeader, parse_pcap_header};
use synwatch_core::time::Timestamp;
use synwatch_core::wire::LinkType;

use super::input::Input;
use super::{ByteOrder, Located, MARGIN, MAX_RECORD, Record, SEARCH, Unknown, is_file_header};

/// Time and lengths before a record's octets; the modified format of 1999 adds eight octets.
const RECORD_HEADER: usize = 16;
const MODIFIED_RECORD_HEADER: usize = 24;

/// Records that must follow one another where reading goes on behind a damage.
const CHAIN: usize = 3;

/// How far the first record behind a damage may be from the time before it: a day, in seconds.
const DAY: u64 = 86_400;

/// A pcap file past its header.
pub(super) struct Classic {
    order: ByteOrder,
    record_header: usize,
    lengths: Lengths,
    link: LinkType,
    nanos_per_unit: u64,
}

/// Which comes first in a record's header: before version 2.3 of the format it was the length on
/// the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Lengths {
    CapturedFirst,
    OriginalFirst,
    /// Programs that wrote 2.3 did not agree; the captured length is the smaller one.
    Either,
}

/// A record's header.
struct Header {
    seconds: u32,
    fraction: u32,
    captured_len: u32,
    original_len: u32,
}

impl Classic {
    /// Reads the file's header, and consumes it where it is one.
    pub(super) fn detect(input: &mut Input) -> Result<Self, Unknown> {
        input.fill(PcapHeader::new().size())?;
        let (classic, size) = Self::read(input.available())?;
        input.consume(size);
        Ok(classic)
    }

    /// The file header at the beginning of `octets`, and its length.
    fn read(octets: &[u8]) -> Result<(Self, usize), Unknown> {
        let Ok((_, header)) = parse_pcap_header(octets) else {
            return Err(Unknown::NotACapture);
        };
        // 543.0 was written by one program only; it is 2.4.
        let lengths = match (header.version_major, header.version_minor) {
            (2, 0..=2) => Lengths::OriginalFirst,
            (2, 3) => Lengths::Either,
            (2, 4) | (543, 0) => Lengths::CapturedFirst,
            (major, minor) => return Err(Unknown::Version(major, minor)),
        };
        // The link type, and above it flags and the length of the frame check sequence.
        let network = header.network.0.cast_unsigned();
        if network & 0x03ff_0000 != 0 {
            return Err(Unknown::NotACapture);
        }
        let classic = Self {
            order: if header.is_bigendian() { ByteOrder::Big } else { ByteOrder::Little },
            record_header: if header.is_modified_format() {
                MODIFIED_RECORD_HEADER
            } else {
                RECORD_HEADER
            },
            lengths,
            link: LinkType::from_dlt(network & 0xffff),
            nanos_per_unit: if header.is_nanosecond_precision() { 1 } else { 1000 },
        };
        Ok((classic, header.size()))
    }

    /// Whether a file header lies at the beginning of `octets`.
    pub(super) fn begins(octets: &[u8]) -> bool {
        Self::read(octets).is_ok()
    }

    /// The link type of all frames.
    pub(super) const fn link(&self) -> LinkType {
        self.link
    }

    #[inline]
    fn header(&self, octets: &[u8]) -> Option<Header> {
        let [seconds, fraction, first, second] = self.order.words(octets)?;
        let (captured_len, original_len) = match self.lengths {
            Lengths::CapturedFirst => (first, second),
            Lengths::OriginalFirst => (second, first),
            Lengths::Either => (first.min(second), first.max(second)),
        };
        Some(Header { seconds, fraction, captured_len, original_len })
    }

    fn stamp(&self, header: &Header) -> Timestamp {
        Timestamp::from_nanos(
            u64::from(header.seconds) * 1_000_000_000
                + u64::from(header.fraction) * self.nanos_per_unit,
        )
    }

    /// The record at `position`, where all of it lies in the window, whatever its lengths say of
    /// one another.
    #[inline]
    pub(super) fn record<'w>(&self, window: &'w [u8], position: usize) -> Option<Located<'w>> {
        let octets = window.get(position..)?;
        let header = self.header(octets)?;
        let length = self.record_header.checked_add(header.captured_len as usize)?;
        if length > MAX_RECORD {
            return None;
        }
        let data = octets.get(self.record_header..length)?;
        let record = Record {
            at: self.stamp(&header),
            link: self.link,
            interface: 0,
            start: position + self.record_header,
            captured_len: header.captured_len as usize,
            original_len: header.original_len,
            end: position + length,
        };
        Some((record, data))
    }

    /// The time of the record at `position`, as far as its header lies in the window.
    pub(super) fn time(&self, window: &[u8], position: usize) -> Option<Timestamp> {
        let octets = window.get(position..)?;
        let header = self.header(octets).filter(|header| self.is_sound(header))?;
        Some(self.stamp(&header))
    }

    /// Goes on to the next record. `near` is what its time should be near to, where that is known.
    pub(super) fn advance(
        &self,
        input: &mut Input,
        near: Option<Timestamp>,
    ) -> io::Result<Option<Record>> {
        input.fill(self.record_header)?;
        if let Some(header) = self.header(input.available()) {
            let length = self.record_header.saturating_add(header.captured_len as usize);
            if length <= MAX_RECORD {
                // With what tells whether another follows.
                input.fill(length + RECORD_HEADER)?;
            }
        }
        let (window, position) = input.window();
        Ok(self
            .record(window, position)
            .map(|(record, _)| record)
            .filter(|record| {
                // Lengths that contradict one another, or times from nowhere, are a damage unless
                // another record follows.
                let sound = self
                    .header(&window[position..])
                    .is_some_and(|header| self.is_sound(&header) && self.is_timely(&header, near));
                sound || self.goes_on(window, record.end, input.is_exhausted())
            })
            .map(|record| Record {
                original_len: record
                    .original_len
                    .max(u32::try_from(record.captured_len).unwrap_or(u32::MAX)),
                ..record
            }))
    }

    /// Whether the record that the input ends in may be whole but for its end.
    pub(super) fn is_cut(&self, octets: &[u8], near: Option<Timestamp>) -> bool {
        self.header(octets)
            .is_none_or(|header| self.is_sound(&header) && self.is_timely(&header, near))
    }

    /// Looks for the next record, from the octet behind the present one on; false where there is
    /// none.
    pub(super) fn search(&self, input: &mut Input, near: Option<Timestamp>) -> io::Result<bool> {
        input.consume(1);
        input.widen(SEARCH);
        loop {
            input.fill(2 * MARGIN)?;
            let exhausted = input.is_exhausted();
            let octets = input.available();
            let room = octets.len().saturating_sub(if exhausted { 0 } else { MARGIN });
            let found = (0..room).find(|&place| {
                self.is_chain(octets, place, exhausted, near) || is_file_header(&octets[place..])
            });
            match found {
                Some(place) => {
                    input.consume(place);
                    return Ok(true);
                }
                None if exhausted => return Ok(false),
                None => input.consume(room),
            }
        }
    }

    /// Whether records follow one another from `place` on.
    fn is_chain(
        &self,
        octets: &[u8],
        place: usize,
        exhausted: bool,
        near: Option<Timestamp>,
    ) -> bool {
        let mut at = place;
        for count in 0..CHAIN {
            let Some(header) = octets.get(at..).and_then(|octets| self.header(octets)) else {
                return count > 1 || count > 0 && exhausted && at == octets.len();
            };
            let sound = self.is_sound(&header)
                && header.captured_len > 0
                && u64::from(header.fraction) * self.nanos_per_unit < 1_000_000_000
                && self.is_timely(&header, near);
            if !sound {
                return count > 0 && is_file_header(&octets[at..]);
            }
            at += self.record_header + header.captured_len as usize;
        }
        true
    }

    /// Whether what lies at `position` may be a record, or the end.
    fn goes_on(&self, window: &[u8], position: usize, exhausted: bool) -> bool {
        let rest = window.get(position..).unwrap_or_default();
        match self.header(rest) {
            Some(header) => self.is_sound(&header) || is_file_header(rest),
            None => exhausted,
        }
    }

    fn is_sound(&self, header: &Header) -> bool {
        header.captured_len <= header.original_len
            && header.original_len > 0
            && header.original_len as usize <= MAX_RECORD
    }

    fn is_timely(&self, header: &Header, near: Option<Timestamp>) -> bool {
        near.is_none_or(|near| {
            (near.as_nanos() / 1_000_000_000).abs_diff(u64::from(header.seconds)) < DAY
        })
    }
}
