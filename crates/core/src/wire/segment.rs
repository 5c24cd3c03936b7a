//! What the rest of the program knows of a packet: a TCP segment, or the reason why it is none.

use std::fmt;
use std::ops::{Add, BitOr, Sub};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::wire::Address;

/// A TCP sequence or acknowledgement number: modulo 2^32 (RFC 9293, section 3.4).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct SeqNumber(pub u32);

impl SeqNumber {
    /// How far `self` lies behind `start`, in octets going forward around the circle.
    #[must_use]
    pub const fn offset_from(self, start: Self) -> u32 {
        self.0.wrapping_sub(start.0)
    }

    /// Whether `self` lies in the window of `length` octets that begins at `start`.
    #[must_use]
    pub const fn is_within(self, start: Self, length: u32) -> bool {
        self.offset_from(start) < length
    }

    /// Whether `self` comes after `other` (by less than half the number space, RFC 9293, section
    /// 3.4).
    #[must_use]
    pub const fn is_after(self, other: Self) -> bool {
        let offset = self.offset_from(other);
        offset != 0 && offset < 1 << 31
    }
}

impl Add<u32> for SeqNumber {
    type Output = Self;

    fn add(self, octets: u32) -> Self {
        Self(self.0.wrapping_add(octets))
    }
}

impl Sub<u32> for SeqNumber {
    type Output = Self;

    fn sub(self, octets: u32) -> Self {
        Self(self.0.wrapping_sub(octets))
    }
}

/// The TCP control bits of the low flag octet (RFC 9293, section 3.1; ECE and CWR of RFC 3168).
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push function.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement field is significant.
    pub const ACK: Self = Self(0x10);
    /// Urgent pointer field is significant.
    pub const URG: Self = Self(0x20);

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// SYN without ACK, RST, FIN: a request to open.
    #[must_use]
    pub const fn is_syn(self) -> bool {
        self.0 & 0x17 == 0x02
    }

    /// SYN and ACK without RST, FIN: the answer to a request.
    #[must_use]
    pub const fn is_syn_ack(self) -> bool {
        self.0 & 0x17 == 0x12
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in "FSRPAUEC".chars().enumerate() {
            if self.0 & (1 << bit) != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// The kinds of a segment's TCP options in their order, one nibble each from the lowest up, at most
/// sixteen: the part of a SYN that tells its sender's TCP stack (or tool) apart.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OptionLayout(pub u64);

impl OptionLayout {
    /// The names of the nibble values: 0 none, 15 any other kind.
    const NAMES: [&'static str; 16] = [
        "", "mss", "nop", "ws", "sackok", "ts", "eol", "tfo", "sack", "md5", "ao", "mptcp", "exp",
        "", "", "other",
    ];

    /// The option kinds (IANA registry) of the nibbles from 1 up.
    const KINDS: [u8; 12] = [2, 1, 3, 4, 8, 0, 34, 5, 19, 29, 30, 253];

    /// The nibble of each option kind. A table: on random traffic the walk over the options
    /// branches enough as it is.
    const NIBBLES: [u8; 256] = {
        let mut nibbles = [15; 256];
        let mut nibble = 1;
        while nibble <= Self::KINDS.len() {
            nibbles[Self::KINDS[nibble - 1] as usize] = nibble as u8;
            nibble += 1;
        }
        nibbles[254] = nibbles[253]; // the second kind for experiments (RFC 6994)
        nibbles
    };

    /// The layout with one more option of TCP option kind `kind` (IANA registry) at its end, as the
    /// option number `position` (from 0); options beyond the sixteenth are left out.
    #[must_use]
    pub const fn with(self, position: u32, kind: u8) -> Self {
        if position >= 16 {
            return self;
        }
        let nibble = Self::NIBBLES[kind as usize] as u64;
        Self(self.0 | nibble << (4 * position))
    }

    /// Whether there is no option at all.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether an option of TCP option kind `kind` is among them.
    #[must_use]
    pub const fn contains(self, kind: u8) -> bool {
        let nibble = Self::NIBBLES[kind as usize] as u64;
        let mut rest = self.0;
        while rest != 0 {
            if rest & 0xf == nibble {
                return true;
            }
            rest >>= 4;
        }
        false
    }
}

impl fmt::Display for OptionLayout {
    /// Names in order, separated by commas: `mss,sackok,ts,nop,ws`; empty where there is no option.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while rest != 0 {
            f.write_str(Self::NAMES[(rest & 0xf) as usize])?;
            rest >>= 4;
            if rest != 0 {
                f.write_str(",")?;
            }
        }
        Ok(())
    }
}

impl FromStr for OptionLayout {
    type Err = UnknownOption;

    /// From the names that it is displayed by.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text.split(',').filter(|_| !text.is_empty());
        names.zip(0..).try_fold(Self::default(), |layout, (name, position)| {
            let nibble = Self::NAMES.iter().position(|known| *known == name && !name.is_empty());
            let nibble = nibble.filter(|_| position < 16).ok_or(UnknownOption)? as u64;
            Ok(Self(layout.0 | nibble << (4 * position)))
        })
    }
}

/// A name that no TCP option has here, or one option too many.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownOption;

impl fmt::Display for UnknownOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a list of TCP options")
    }
}

impl Serialize for OptionLayout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OptionLayout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// One TCP segment: the innermost TCP header of a frame and what matters of the IP header around
/// it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Segment {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number of the first octet (of the SYN, where there is one).
    pub seq: SeqNumber,
    /// Acknowledgement number; meaningless without [`Flags::ACK`].
    pub ack: SeqNumber,
    /// Control bits.
    pub flags: Flags,
    /// Window field, unscaled.
    pub window: u16,
    /// Octets of payload, from the IP header's length (the capture may have cut them off).
    pub payload_len: u32,
    /// IPv4 time to live or IPv6 hop limit.
    pub ttl: u8,
    /// Maximum segment size option; only looked for in a SYN.
    pub mss: Option<u16>,
    /// Kinds of options; only looked for in a SYN.
    pub options: OptionLayout,
}

impl Segment {
    /// Octets of sequence space that the segment takes: payload, plus one each for SYN and FIN
    /// (RFC 9293, SEG.LEN).
    #[must_use]
    pub fn sequence_len(&self) -> u32 {
        self.payload_len
            .wrapping_add(u32::from(self.flags.intersects(Flags::SYN)))
            .wrapping_add(u32::from(self.flags.intersects(Flags::FIN)))
    }

    /// The sequence number that follows the segment.
    #[must_use]
    pub fn end(&self) -> SeqNumber {
        self.seq + self.sequence_len()
    }
}

/// Why a frame gave no segment. One variant is one value of the metric label `reason`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Skip {
    /// The capture holds fewer octets than the headers need.
    Truncated,
    /// A link type that is not decoded.
    UnknownLinkType,
    /// The frame carries neither IPv4 nor IPv6.
    NotIp,
    /// The packet is IP, but not TCP.
    NotTcp,
    /// A fragment whose datagram is not put together: it overlaps others, has too many gaps, or
    /// there was no room, where each stands for a datagram that had to go.
    Fragment,
    /// A fragment of a datagram that was not whole yet, or a copy of one.
    FragmentKept,
    /// What the packet carries may be TCP, but is not looked into: encryption, compression, other
    /// tunnels, IPv6 extension headers that are experiments.
    Encapsulated,
    /// An IP header that contradicts itself (version, header length, total length, extension
    /// chain).
    BadIpHeader,
    /// A TCP header that contradicts itself (data offset below 5 or beyond the packet).
    BadTcpHeader,
    /// More headers nested in one another than are followed.
    TooDeep,
    /// A copy of a packet that was already seen on another interface.
    Duplicate,
    /// A packet from outside that claims to come from this host.
    ForgedSource,
    /// A packet of a flow that is not looked at: others of the sample stand for it.
    Unsampled,
    /// A block of a capture file that could not be read.
    BadCaptureRecord,
}

impl Skip {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Truncated,
        Self::UnknownLinkType,
        Self::NotIp,
        Self::NotTcp,
        Self::Fragment,
        Self::FragmentKept,
        Self::Encapsulated,
        Self::BadIpHeader,
        Self::BadTcpHeader,
        Self::TooDeep,
        Self::Duplicate,
        Self::ForgedSource,
        Self::Unsampled,
        Self::BadCaptureRecord,
    ];

    /// The value of the label `reason` and the key in the JSON document.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::UnknownLinkType => "unknown_link_type",
            Self::NotIp => "not_ip",
            Self::NotTcp => "not_tcp",
            Self::Fragment => "fragment",
            Self::FragmentKept => "fragment_kept",
            Self::Encapsulated => "encapsulated",
            Self::BadIpHeader => "bad_ip_header",
            Self::BadTcpHeader => "bad_tcp_header",
            Self::TooDeep => "too_deep",
            Self::Duplicate => "duplicate",
            Self::ForgedSource => "forged_source",
            Self::Unsampled => "unsampled",
            Self::BadCaptureRecord => "bad_capture_record",
        }
    }

    /// Whether the frame may have been part of a handshake that the receiver saw and we did not.
    ///
    /// Not so of headers that contradict themselves, which every receiver drops.
    #[must_use]
    pub const fn hides_handshake(self) -> bool {
        match self {
            Self::Truncated
            | Self::UnknownLinkType
            | Self::Fragment
            | Self::Encapsulated
            | Self::TooDeep
            | Self::BadCaptureRecord => true,
            Self::NotIp
            | Self::NotTcp
            | Self::FragmentKept
            | Self::BadIpHeader
            | Self::BadTcpHeader
            | Self::Duplicate
            | Self::ForgedSource
            | Self::Unsampled => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_wrap() {
        let isn = SeqNumber(u32::MAX);
        assert_eq!(isn + 1, SeqNumber(0));
        assert!((isn + 5).is_after(isn));
        assert!(!isn.is_after(isn + 5));
        assert!(SeqNumber(3).is_within(isn, 5));
        assert!(!SeqNumber(4).is_within(isn, 5));
    }

    #[test]
    fn option_layout_is_read_as_it_is_displayed() {
        let kinds = [2, 4, 8, 1, 3, 99];
        let layout = kinds
            .iter()
            .zip(0..)
            .fold(OptionLayout::default(), |layout, (kind, place)| layout.with(place, *kind));
        assert_eq!(layout.to_string().parse(), Ok(layout));
        assert_eq!("".parse(), Ok(OptionLayout::default()));
        for wrong in ["mss,", "mss,,ts", "MSS", &vec!["nop"; 17].join(",")] {
            assert_eq!(wrong.parse::<OptionLayout>(), Err(UnknownOption), "{wrong}");
        }
    }

    #[test]
    fn option_layout_names_every_kind() {
        let name = |kind| OptionLayout::default().with(0, kind).to_string();
        for (kind, expected) in [
            (0, "eol"),
            (1, "nop"),
            (2, "mss"),
            (3, "ws"),
            (4, "sackok"),
            (5, "sack"),
            (8, "ts"),
            (19, "md5"),
            (29, "ao"),
            (30, "mptcp"),
            (34, "tfo"),
            (253, "exp"),
            (254, "exp"),
            (6, "other"),
            (255, "other"),
        ] {
            assert_eq!(name(kind), expected, "kind {kind}");
        }
    }

    #[test]
    fn option_layout_reads_in_order() {
        let linux = [2, 4, 8, 1, 3]
            .iter()
            .zip(0..)
            .fold(OptionLayout::default(), |l, (k, i)| l.with(i, *k));
        assert_eq!(linux.to_string(), "mss,sackok,ts,nop,ws");
        assert_eq!(OptionLayout::default().to_string(), "");
        assert_eq!(OptionLayout::default().with(16, 2), OptionLayout::default());
    }
}
