//! The pcapng format (draft-ietf-opsawg-pcapng).
//!
//! Read here and not by the parser library, which allocates for the options of each packet, and on
//! big-endian machines takes no block for what it is.

use std::collections::BTreeSet;
use std::io;

use synwatch_core::time::Timestamp;
use synwatch_core::wire::LinkType;

use super::input::Input;
use super::{ByteOrder, Located, MARGIN, MAX_RECORD, Record, SEARCH, Unknown, is_file_header};

pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
pub(super) const INTERFACE_DESCRIPTION: u32 = 1;
/// Obsolete, but still met.
pub(super) const PACKET: u32 = 2;
pub(super) const SIMPLE_PACKET: u32 = 3;
pub(super) const ENHANCED_PACKET: u32 = 6;

/// Type and length before a block's body, and the length again after it.
pub(super) const BLOCK_FRAME: usize = 12;

/// Type, length, byte-order magic and version of a section header.
const SECTION_START: usize = 16;

/// Interface descriptions remembered in a section: far more than any real capture has.
const MAX_INTERFACES: usize = 1 << 16;

/// A pcapng file.
pub(super) struct Ng {
    order: ByteOrder,
    interfaces: Vec<Interface>,
    unknown_links: BTreeSet<u32>,
    /// Time of the last packet: simple packet blocks have none of their own.
    last: Timestamp,
}

impl Ng {
    /// Looks at the first section header, without consuming it.
    pub(super) fn detect(input: &mut Input) -> Result<Option<Self>, Unknown> {
        input.fill(SECTION_START)?;
        if !input.available().starts_with(&SECTION_HEADER.to_ne_bytes()) {
            return Ok(None);
        }
        let section = Section::read(input.available()).ok_or(Unknown::NotACapture)?;
        if !section.is_supported() {
            return Err(Unknown::Version(section.major, section.minor));
        }
        Ok(Some(Self {
            order: section.order,
            interfaces: Vec::new(),
            unknown_links: BTreeSet::new(),
            last: Timestamp::EPOCH,
        }))
    }

    /// Whether a section's header lies at the beginning of `octets`.
    pub(super) fn begins(octets: &[u8]) -> bool {
        octets.starts_with(&SECTION_HEADER.to_ne_bytes())
            && Section::read(octets).is_some_and(|section| section.is_supported())
    }

    /// The packet block at `position`, where all of it lies in the window, and it is of the kind
    /// that all of today's programs write.
    #[inline]
    pub(super) fn record<'w>(&mut self, window: &'w [u8], position: usize) -> Option<Located<'w>> {
        let octets = window.get(position..)?;
        let [kind] = self.order.words(octets)?;
        if kind != ENHANCED_PACKET {
            return None;
        }
        let block = self.block(octets)?;
        let record = self.packet(kind, block, position)?;
        Some((record, window.get(record.start..record.start + record.captured_len)?))
    }

    /// The time of the packet block at `position`, as far as its fields lie in the window.
    pub(super) fn time(&self, window: &[u8], position: usize) -> Option<Timestamp> {
        let [kind, _, interface, high, low] = self.order.words(window.get(position..)?)?;
        let interface = self.interfaces.get(interface as usize)?;
        (kind == ENHANCED_PACKET)
            .then(|| interface.clock.timestamp(u64::from(high) << 32 | u64::from(low)))
    }

    /// Goes on to the next packet block.
    pub(super) fn advance(&mut self, input: &mut Input) -> io::Result<Block> {
        loop {
            match self.advance_block(input)? {
                Block::Other => {}
                block => return Ok(block),
            }
        }
    }

    /// Looks for the next packet block or section, from the octet behind the present one on; false
    /// where there is none.
    pub(super) fn search(&self, input: &mut Input) -> io::Result<bool> {
        input.consume(1);
        input.widen(SEARCH);
        loop {
            input.fill(2 * MARGIN)?;
            let exhausted = input.is_exhausted();
            let octets = input.available();
            let room = octets.len().saturating_sub(if exhausted { 0 } else { MARGIN });
            let found = (0..room).find(|&place| {
                self.is_packet(&octets[place..]) || is_file_header(&octets[place..])
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

    /// Whether the block that the input ends in may be whole but for its end.
    pub(super) fn is_cut(&self, octets: &[u8]) -> bool {
        /// Types above these are of single programs.
        const STANDARD: u32 = 0x0f;
        match self.order.words(octets) {
            Some([kind, length]) => {
                (kind <= STANDARD || kind == SECTION_HEADER)
                    && length % 4 == 0
                    && octets.len() < (length as usize).min(MAX_RECORD)
            }
            // Nothing is left of a block that claimed more than there was.
            None => !octets.is_empty(),
        }
    }

    /// Whether a packet block begins here: its length stands at its end again.
    fn is_packet(&self, octets: &[u8]) -> bool {
        const FIELDS: usize = 32;
        let Some([kind, length, interface]) = self.order.words(octets) else { return false };
        kind == ENHANCED_PACKET
            && length as usize >= FIELDS
            && (interface as usize) < self.interfaces.len()
            && self.block(octets).is_some()
    }

    /// Numbers of the link types of interfaces that are not known.
    pub(super) const fn unknown_links(&self) -> &BTreeSet<u32> {
        &self.unknown_links
    }

    fn advance_block(&mut self, input: &mut Input) -> io::Result<Block> {
        if !input.fill(BLOCK_FRAME)? {
            return Ok(if input.is_at_end() { Block::End } else { Block::Lost });
        }
        // The same in both byte orders.
        if input.available().starts_with(&SECTION_HEADER.to_ne_bytes())
            && !self.begin_section(input)?
        {
            return Ok(Block::Lost);
        }
        let Some([kind, length]) = self.order.words(input.available()) else {
            return Ok(Block::Lost);
        };
        if length % 4 != 0 || (length as usize) < BLOCK_FRAME {
            return Ok(Block::Lost);
        }
        if !matches!(kind, INTERFACE_DESCRIPTION | PACKET | SIMPLE_PACKET | ENHANCED_PACKET) {
            // One that does not fit stays, so that records are looked for within it.
            let whole = if length as usize <= MAX_RECORD {
                let whole = input.fill(length as usize)?;
                input.consume(if whole { length as usize } else { 0 });
                whole
            } else {
                input.skip(length.into())?
            };
            return Ok(if whole { Block::Other } else { Block::Lost });
        }
        let length = length as usize;
        if length > MAX_RECORD || !input.fill(length)? {
            return Ok(Block::Lost);
        }
        let (window, position) = input.window();
        let Some(block) = self.block(&window[position..]) else { return Ok(Block::Lost) };
        let record = match kind {
            INTERFACE_DESCRIPTION => {
                let described = self.describe_interface(block);
                input.consume(length);
                return Ok(described.map_or(Block::Lost, |()| Block::Other));
            }
            SIMPLE_PACKET => self.simple_packet(block, position),
            _ => self.packet(kind, block, position),
        };
        input.consume(length);
        Ok(record.map_or(Block::BadPacket(length), Block::Packet))
    }

    /// The block at the beginning of `octets`, where all of it is there and its lengths agree.
    #[inline]
    fn block<'a>(&self, octets: &'a [u8]) -> Option<&'a [u8]> {
        let [_, length] = self.order.words(octets)?;
        let block = octets.get(..length as usize)?;
        let agree = self.order.u32(block, block.len().checked_sub(4)?)? == length;
        (agree && length % 4 == 0 && block.len() <= MAX_RECORD).then_some(block)
    }

    /// Interfaces are numbered within their section; false where it cannot be read.
    fn begin_section(&mut self, input: &mut Input) -> io::Result<bool> {
        input.fill(SECTION_START)?;
        let section = Section::read(input.available()).filter(Section::is_supported);
        if let Some(section) = &section {
            self.order = section.order;
            self.interfaces.clear();
        }
        Ok(section.is_some())
    }

    fn describe_interface(&mut self, block: &[u8]) -> Option<()> {
        /// Codes of options: `if_tsresol`, `if_tsoffset`.
        const RESOLUTION: u16 = 9;
        const OFFSET: u16 = 14;
        const OPTIONS: usize = 16;
        let order = self.order;
        let link = LinkType::from_dlt(order.u16(block, 8)?.into());
        let snap_length = order.u32(block, 12)?;
        let mut options = block.get(OPTIONS..block.len().checked_sub(4)?)?;
        // Microseconds.
        let (mut resolution, mut offset) = (6, 0);
        while let (Some(code), Some(length)) = (order.u16(options, 0), order.u16(options, 2)) {
            let length = usize::from(length);
            let Some(value) = options.get(4..4 + length) else { break };
            match code {
                RESOLUTION => resolution = value.first().copied().unwrap_or(resolution),
                OFFSET => offset = order.i64(value, 0).unwrap_or(offset),
                _ => {}
            }
            options = options.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
        }
        if self.interfaces.len() < MAX_INTERFACES {
            if let LinkType::Unknown(number) = link {
                self.unknown_links.insert(number);
            }
            self.interfaces.push(Interface {
                link,
                snap_length,
                clock: Clock::new(resolution, offset),
            });
        }
        Some(())
    }

    /// Reads a packet block, which lies at `position` in the window.
    #[inline]
    fn packet(&mut self, kind: u32, block: &[u8], position: usize) -> Option<Record> {
        const DATA: usize = 28;
        let [_, _, interface, high, low, captured_len, original_len] = self.order.words(block)?;
        let interface = match kind {
            // Behind it in the same word: packets dropped.
            PACKET => self.order.u16(block, 8)?.into(),
            _ => interface,
        };
        let number = interface;
        let interface = self.interfaces.get(interface as usize)?;
        let time = u64::from(high) << 32 | u64::from(low);
        if captured_len as usize > block.len().checked_sub(DATA + 4)? {
            return None;
        }
        self.last = interface.clock.timestamp(time);
        Some(Record {
            at: self.last,
            link: interface.link,
            interface: number + 1,
            start: position + DATA,
            end: position + block.len(),
            captured_len: captured_len as usize,
            original_len: original_len.max(captured_len),
        })
    }

    /// The same for a block that leaves out all it can: it is of the first interface, captured at
    /// nobody knows what time.
    fn simple_packet(&self, block: &[u8], position: usize) -> Option<Record> {
        const DATA: usize = 12;
        let room = block.len().checked_sub(DATA + 4)?;
        let interface = self.interfaces.first()?;
        let original_len = self.order.u32(block, 8)?;
        let snap_length = match interface.snap_length {
            0 => usize::MAX,
            limit => limit as usize,
        };
        Some(Record {
            at: self.last,
            link: interface.link,
            interface: 1,
            start: position + DATA,
            end: position + block.len(),
            captured_len: room.min(original_len as usize).min(snap_length),
            original_len,
        })
    }
}

/// What a block was.
pub(super) enum Block {
    Packet(Record),
    /// A packet block of this length that contradicts itself, or names an interface that was not
    /// described.
    BadPacket(usize),
    /// Nothing that matters here.
    Other,
    /// Not to be read, nor anything after it.
    Lost,
    End,
}

/// The beginning of a section header block.
struct Section {
    order: ByteOrder,
    major: u16,
    minor: u16,
}

impl Section {
    fn read(block: &[u8]) -> Option<Self> {
        const MAGIC: u32 = 0x1a2b_3c4d;
        let order = [ByteOrder::Little, ByteOrder::Big]
            .into_iter()
            .find(|order| order.u32(block, 8) == Some(MAGIC))?;
        Some(Self { order, major: order.u16(block, 12)?, minor: order.u16(block, 14)? })
    }

    /// 1.2 was written by some programs and is 1.0.
    fn is_supported(&self) -> bool {
        matches!((self.major, self.minor), (1, 0 | 2))
    }
}

/// An interface description.
struct Interface {
    link: LinkType,
    /// Octets kept of each packet; 0 means all.
    snap_length: u32,
    clock: Clock,
}

/// How an interface's time stamps count.
struct Clock {
    unit: Unit,
    /// Nanoseconds to add (`if_tsoffset`).
    offset: i128,
}

/// `if_tsresol`, as the way to nanoseconds.
enum Unit {
    /// Nanoseconds in a unit.
    Multiply(u64),
    /// Units in a nanosecond.
    Divide(u128),
    /// A unit is a second divided by 2 to this power.
    Binary(u8),
}

impl Clock {
    fn new(resolution: u8, offset_seconds: i64) -> Self {
        let exponent = resolution & 0x7f;
        let unit = match exponent {
            _ if resolution & 0x80 != 0 => Unit::Binary(exponent),
            0..=9 => Unit::Multiply(10u64.pow(u32::from(9 - exponent))),
            // Finer than any 64-bit count of them could reach a nanosecond: always 0.
            10.. => Unit::Divide(10u128.checked_pow(u32::from(exponent - 9)).unwrap_or(u128::MAX)),
        };
        Self { unit, offset: i128::from(offset_seconds) * 1_000_000_000 }
    }

    /// Times before the epoch, and beyond the year 2554, become the epoch and 2554.
    fn timestamp(&self, time: u64) -> Timestamp {
        // What all but every interface has.
        if let (Unit::Multiply(factor), 0) = (&self.unit, self.offset)
            && let Some(nanos) = time.checked_mul(*factor)
        {
            return Timestamp::from_nanos(nanos);
        }
        let nanos = match self.unit {
            Unit::Multiply(factor) => u128::from(time) * u128::from(factor),
            Unit::Divide(divisor) => u128::from(time) / divisor,
            Unit::Binary(bits) => (u128::from(time) * 1_000_000_000) >> bits,
        };
        // At most 2^64 * 10^9, far below 2^127.
        let nanos = (nanos.cast_signed() + self.offset).clamp(0, u64::MAX.into());
        Timestamp::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}
