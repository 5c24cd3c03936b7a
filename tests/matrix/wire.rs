//! The wire between the clients and the server: how far from the server the monitor is, and the
//! frames that segments are packed in.

use synwatch_core::wire::Segment;

/// Where the monitor is, and what passes there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wire {
    /// Milliseconds to the server and back.
    pub distance: u64,
    /// Without one segments pass the decoder by, which is quicker.
    pub form: Option<Form>,
}

/// How a segment is packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// One packet, nothing between IP and TCP.
    Whole,
    /// Two fragments, the first of so many octets of the datagram.
    Fragments(usize),
    /// Behind so many octets of IPv4 options or IPv6 destination options.
    Options(usize),
}

/// What there is in the columns of a table.
pub type Columns = [Option<Wire>; Wire::COLUMNS.len()];

impl Wire {
    /// The columns of the table of all wires but the plain one.
    pub const COLUMNS: [&str; 7] = [
        "30 ms",
        "120 ms",
        "400 ms",
        "fragments, TCP header in both",
        "fragments, TCP header in the first",
        "40 octets of IPv4 options, or 88 of IPv6 extension headers",
        "208 octets of IPv6 extension headers",
    ];

    /// The wires of these columns. Linux takes IPv6 fragments only where the first has the whole
    /// TCP header (RFC 8200, section 4.5).
    pub fn all(is_ipv4: bool) -> Columns {
        let far = |distance| Some(Self { distance, form: Some(Form::Whole) });
        let near = |form| Some(Self { distance: 0, form: Some(form) });
        let of_v4 = |form| near(form).filter(|_| is_ipv4);
        let of_v6 = |form| near(form).filter(|_| !is_ipv4);
        [
            far(30),
            far(120),
            far(400),
            of_v4(Form::Fragments(8)),
            near(Form::Fragments(24)),
            of_v4(Form::Options(40)).or(of_v6(Form::Options(88))),
            of_v6(Form::Options(208)),
        ]
    }
}

impl Form {
    /// Hands the frames of a segment to `visit`, each without the payload and with its whole
    /// length. They are built in `frame`. Checksums are left 0: the decoder does not verify them.
    pub fn pack(
        self,
        segment: &Segment,
        identification: u32,
        frame: &mut Vec<u8>,
        mut visit: impl FnMut(&[u8], u32),
    ) {
        let (header, len) = tcp_header(segment, self);
        let (first, options) = match self {
            Self::Whole => (len, 0),
            Self::Fragments(first) => (first, 0),
            Self::Options(octets) => (len, octets),
        };
        let (first, second) = header[..len].split_at(first);
        for (part, start) in [(first, 0), (second, first.len())] {
            if part.is_empty() {
                continue;
            }
            let more = start + part.len() < len;
            let payload = if more { 0 } else { segment.payload_len as usize };
            let piece = Piece {
                fragment: (part.len() < len).then_some((start, more)),
                identification,
                options,
                length: part.len() + payload,
            };
            frame.clear();
            // Two addresses of Ethernet.
            frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
            if segment.source.is_ipv4() {
                piece.ipv4(segment, frame);
            } else {
                piece.ipv6(segment, frame);
            }
            frame.extend(part);
            visit(frame, (frame.len() + payload) as u32);
        }
    }
}

/// A packet of a datagram.
struct Piece {
    /// Where it begins, and whether others follow, if it is a fragment.
    fragment: Option<(usize, bool)>,
    identification: u32,
    /// Octets of options.
    options: usize,
    /// Octets behind all headers of IP.
    length: usize,
}

impl Piece {
    fn ipv4(&self, segment: &Segment, frame: &mut Vec<u8>) {
        let header = 20 + self.options;
        let (offset, more) = self.fragment.unwrap_or_default();
        frame.extend([8, 0, 0x40 | (header / 4) as u8, 0]);
        frame.extend(((header + self.length) as u16).to_be_bytes());
        frame.extend((self.identification as u16).to_be_bytes());
        frame.extend((u16::from(more) << 13 | (offset / 8) as u16).to_be_bytes());
        frame.extend([segment.ttl, 6, 0, 0]);
        for address in [segment.source, segment.destination] {
            frame.extend((address.to_bits() as u32).to_be_bytes());
        }
        // No operation.
        frame.resize(frame.len() + self.options, 1);
    }

    fn ipv6(&self, segment: &Segment, frame: &mut Vec<u8>) {
        let extensions = self.options + if self.fragment.is_some() { 8 } else { 0 };
        let next = match (self.options, self.fragment) {
            (0, None) => 6,
            (0, Some(_)) => 44,
            _ => 60,
        };
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(((extensions + self.length) as u16).to_be_bytes());
        frame.extend([next, segment.ttl]);
        for address in [segment.source, segment.destination] {
            frame.extend(address.to_bits().to_be_bytes());
        }
        if self.options > 0 {
            // One option of padding.
            frame.extend([6, (self.options / 8 - 1) as u8, 1, (self.options - 4) as u8]);
            frame.resize(frame.len() + self.options - 4, 0);
        }
        if let Some((offset, more)) = self.fragment {
            frame.extend([6, 0]);
            frame.extend((offset as u16 | u16::from(more)).to_be_bytes());
            frame.extend(self.identification.to_be_bytes());
        }
    }
}

/// The TCP header of a segment, and its length, which is more than the first of two fragments
/// holds.
fn tcp_header(segment: &Segment, form: Form) -> ([u8; 60], usize) {
    let mut header = [0; 60];
    header[..2].copy_from_slice(&segment.source_port.to_be_bytes());
    header[2..4].copy_from_slice(&segment.destination_port.to_be_bytes());
    header[4..8].copy_from_slice(&segment.seq.0.to_be_bytes());
    header[8..12].copy_from_slice(&segment.ack.0.to_be_bytes());
    header[13] = segment.flags.0;
    header[14..16].copy_from_slice(&segment.window.to_be_bytes());
    let [high, low] = segment.mss.unwrap_or_default().to_be_bytes();
    let mut len = 20;
    // Most segments have none.
    let options =
        if segment.options.is_empty() { String::new() } else { segment.options.to_string() };
    for name in options.split_terminator(',') {
        let option: &[u8] = match name {
            "mss" => &[2, 4, high, low],
            "nop" => &[1],
            "ws" => &[3, 3, 7],
            "sackok" => &[4, 2],
            "ts" => &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0],
            "tfo" => &[34, 8, 1, 2, 3, 4, 5, 6],
            "eol" => &[0],
            other => panic!("no option {other} is sent"),
        };
        header[len..len + option.len()].copy_from_slice(option);
        len += option.len();
    }
    len = len.next_multiple_of(4);
    if let Form::Fragments(first) = form
        && len <= first
    {
        // No operation.
        header[len..first + 4].fill(1);
        len = first + 4;
    }
    header[12] = ((len / 4) << 4) as u8;
    (header, len)
}
