//! All TCP segments of a capture file, also those that the program does not look for by its design:
//! in IP packets that were compressed. Fragments are joined by another implementation.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use etherparse::defrag::IpDefragPool;
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, NetSlice, SlicedPacket};
use flate2::read::DeflateDecoder;
use synwatch::capture::pcap::Pcap;
use synwatch::capture::{Batch, Error, Frame, Source};
use synwatch_core::time::Timestamp;
use synwatch_core::wire::{LinkType, Segment, decode};

use crate::reference::Rule;

/// LINKTYPE_RAW: the packet begins with an IP header.
const RAW: LinkType = LinkType::from_dlt(101);

/// A segment, and the rule by which the program does not see it.
pub type Found = (Segment, Option<Rule>);

/// The time of the first frame of a file, and the segments of all.
pub fn read(path: &Path) -> Result<(Timestamp, Vec<Found>), Error> {
    let mut source = Pcap::open(&[path])?;
    let mut fragments = IpDefragPool::new();
    let (mut first, mut found) = (None, Vec::new());
    let mut unfinished: Vec<Segment> = Vec::new();
    while source.read_batch(Duration::ZERO, &mut |frame| {
        first.get_or_insert(frame.at);
        found.extend(match decode(frame.link, frame.data, frame.original_len) {
            Ok(segment) => Some((segment, None)),
            Err(_) => hidden(&frame, &mut fragments, &mut unfinished),
        });
    })? != Batch::End
    {}
    found.extend(unfinished.into_iter().map(|segment| (segment, Some(Rule::Unfinished))));
    Ok((first.unwrap_or_default(), found))
}

/// The segment in a frame that does not decode; that of a first fragment goes to `unfinished` until
/// the rest is there.
fn hidden(
    frame: &Frame<'_>,
    fragments: &mut IpDefragPool,
    unfinished: &mut Vec<Segment>,
) -> Option<Found> {
    unfinished.extend(first_fragment(frame));
    let packet = match frame.link {
        LinkType::Ethernet => SlicedPacket::from_ethernet(frame.data).ok()?,
        _ => SlicedPacket::from_ip(frame.data).ok()?,
    };
    let payload = packet.ip_payload()?;
    if payload.ip_number == IpNumber::IP_COMP && !payload.fragmented {
        return Some((decompress(payload.payload)?, Some(Rule::Compressed)));
    }
    let whole = fragments.process_sliced_packet(&packet, (), ()).ok()??;
    let segment = decode_ip(packet.net.as_ref()?, whole.ip_number, &whole.payload)?;
    unfinished.retain(|first| {
        let is_same = |same: &Segment| {
            (same.source, same.destination, same.source_port, same.destination_port, same.seq)
        };
        is_same(first) != is_same(&segment)
    });
    Some((segment, None))
}

/// The segment in a first fragment of IPv4 over Ethernet, taken for all of its datagram.
fn first_fragment(frame: &Frame<'_>) -> Option<Segment> {
    const MORE_FRAGMENTS: u8 = 0x20;
    let &[high, low] = frame.data.get(20..22)?.first_chunk()?;
    let is_first = frame.data.get(12..14)? == [8, 0] && high & 0x3f == MORE_FRAGMENTS && low == 0;
    let mut whole = frame.data.to_vec();
    *whole.get_mut(20)? = 0;
    is_first.then(|| decode(frame.link, &whole, frame.original_len).ok()).flatten()
}

/// An IP packet in an IP packet, compressed with DEFLATE (RFC 3173, section 3.1; RFC 2394). The
/// compression parameter index may be negotiated and says nothing then.
fn decompress(ipcomp: &[u8]) -> Option<Segment> {
    let (&[next_header, ..], compressed) = ipcomp.split_first_chunk::<4>()?;
    if ![IpNumber::IPV4.0, IpNumber::IPV6.0].contains(&next_header) {
        return None;
    }
    let mut packet = Vec::new();
    DeflateDecoder::new(compressed).take(1 << 16).read_to_end(&mut packet).ok()?;
    decode(RAW, &packet, u32::try_from(packet.len()).ok()?).ok()
}

/// Decodes the reassembled `payload` of a datagram, one fragment of which had the headers `net`.
fn decode_ip(net: &NetSlice<'_>, number: IpNumber, payload: &[u8]) -> Option<Segment> {
    let len = u16::try_from(payload.len()).ok()?;
    let header = match net {
        NetSlice::Ipv4(ip) => {
            let [source, destination] =
                [ip.header().source_addr(), ip.header().destination_addr()].map(|a| a.octets());
            let ttl = ip.header().ttl();
            Ipv4Header::new(len, ttl, number, source, destination).ok()?.to_bytes().to_vec()
        }
        NetSlice::Ipv6(ip) => Ipv6Header {
            payload_length: len,
            next_header: number,
            hop_limit: ip.header().hop_limit(),
            source: ip.header().source(),
            destination: ip.header().destination(),
            ..Ipv6Header::default()
        }
        .to_bytes()
        .to_vec(),
        NetSlice::Arp(_) => return None,
    };
    let packet = [&header[..], payload].concat();
    decode(RAW, &packet, u32::try_from(packet.len()).ok()?).ok()
}
