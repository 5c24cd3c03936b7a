//! TCP segments over IPv4 in Ethernet frames, with valid checksums.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::support::flood::{Random, is_public};
use crate::support::lab::{ATTACKER_MAC, VICTIM_MAC};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

/// Octets of a frame without options and payload.
pub const BARE: usize = 54;

/// The longest options that are used.
const OPTIONS: usize = 20;

/// What a Linux client puts into its SYN.
pub const CLIENT_OPTIONS: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
/// What a Linux server answers to a SYN without options.
pub const MSS: &[u8] = &[2, 4, 5, 0xb4];

/// A segment on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
    pub options: &'static [u8],
    /// Octets of payload, all of them zero.
    pub payload: u16,
}

impl Segment {
    /// A SYN as hping3 sends it, from any client on the Internet.
    pub fn forged(target: SocketAddrV4, random: &mut Random) -> Self {
        let (source, number) = (client(random), random.next());
        let port = 1_024 + (number >> 32) as u16 % 64_000;
        Self {
            source: SocketAddrV4::new(source, port),
            destination: target,
            sequence: number as u32,
            acknowledgement: 0,
            flags: SYN,
            options: &[],
            payload: 0,
        }
    }

    /// What a server answers to this SYN.
    pub fn answer(&self, sequence: u32) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            sequence,
            acknowledgement: self.sequence.wrapping_add(1),
            flags: SYN | ACK,
            options: MSS,
            payload: 0,
        }
    }

    /// Octets of the frame.
    pub fn length(&self) -> usize {
        BARE + self.options.len() + usize::from(self.payload)
    }

    /// Writes the frame's headers, and returns their length.
    pub fn write(&self, frame: &mut [u8; BARE + OPTIONS]) -> usize {
        let header = 20 + self.options.len() as u16;
        let segment = header + self.payload;
        let (from, to) = (self.source.ip().octets(), self.destination.ip().octets());
        frame[0..6].copy_from_slice(&VICTIM_MAC);
        frame[6..12].copy_from_slice(&ATTACKER_MAC);
        // IPv4 without options, no fragment, TTL 64, TCP.
        frame[12..16].copy_from_slice(&[0x08, 0, 0x45, 0]);
        frame[16..18].copy_from_slice(&(20 + segment).to_be_bytes());
        frame[18..20].copy_from_slice(&(self.sequence as u16).to_be_bytes());
        frame[20..26].copy_from_slice(&[0x40, 0, 64, 6, 0, 0]);
        frame[26..30].copy_from_slice(&from);
        frame[30..34].copy_from_slice(&to);
        let verified = checksum(sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&verified);

        frame[34..36].copy_from_slice(&self.source.port().to_be_bytes());
        frame[36..38].copy_from_slice(&self.destination.port().to_be_bytes());
        frame[38..42].copy_from_slice(&self.sequence.to_be_bytes());
        frame[42..46].copy_from_slice(&self.acknowledgement.to_be_bytes());
        frame[46] = (header as u8 / 4) << 4;
        frame[47] = self.flags;
        frame[48..54].copy_from_slice(&[0xfa, 0xf0, 0, 0, 0, 0]);
        let end = BARE + self.options.len();
        frame[BARE..end].copy_from_slice(self.options);
        // The pseudo-header (RFC 9293, section 3.1): addresses, protocol, length. Zeros add
        // nothing.
        let verified = checksum(sum(&frame[26..end]) + 6 + u32::from(segment));
        frame[50..52].copy_from_slice(&verified);
        end
    }
}

/// Any address that could be a client's.
pub fn client(random: &mut Random) -> Ipv4Addr {
    loop {
        let address = Ipv4Addr::from_bits(random.next() as u32);
        if is_public(address) {
            return address;
        }
    }
}

/// The sum of the 16-bit words of an even number of octets (RFC 1071).
fn sum(octets: &[u8]) -> u32 {
    octets.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

fn checksum(sum: u32) -> [u8; 2] {
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}
