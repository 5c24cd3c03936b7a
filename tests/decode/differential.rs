//! Generated packets, decoded by this crate and by etherparse.

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header,
    Ipv6RawExtHeader, NetSlice, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice, VlanId,
    VlanPcp,
};
use proptest::prelude::*;
use std::net::IpAddr;
use synwatch_core::wire::{LinkType, decode};

/// A frame to be built: Ethernet, VLAN tags, IPv4 or IPv6 with extension headers, TCP.
#[derive(Clone, Debug)]
struct Packet {
    vlans: Vec<u16>,
    network: Network,
    ttl: u8,
    tcp: TcpHeader,
    payload: Vec<u8>,
    padding: usize,
}

#[derive(Clone, Debug)]
enum Network {
    V4 { source: [u8; 4], destination: [u8; 4], options: Vec<u8> },
    V6 { source: [u8; 16], destination: [u8; 16], extensions: Vec<Extension> },
}

#[derive(Clone, Debug)]
enum Extension {
    /// Destination options or a routing header, with its octets after the first two.
    Raw(IpNumber, Vec<u8>),
    /// An atomic fragment.
    Fragment(u32),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn valid_packets_decode_as_with_etherparse(packet in packet()) {
        let frame = build(&packet);
        let segment = decode(LinkType::Ethernet, &frame, u32::try_from(frame.len()).unwrap());
        let segment = segment.map_err(|skip| TestCaseError::fail(format!("{skip:?}")))?;

        let theirs = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = theirs.transport else {
            return Err(TestCaseError::fail("etherparse saw no TCP header"));
        };
        let (source, destination, ttl) = match theirs.net {
            Some(NetSlice::Ipv4(ip)) => {
                let ip = ip.header();
                (IpAddr::V4(ip.source_addr()), IpAddr::V4(ip.destination_addr()), ip.ttl())
            }
            Some(NetSlice::Ipv6(ip)) => {
                let ip = ip.header();
                (IpAddr::V6(ip.source_addr()), IpAddr::V6(ip.destination_addr()), ip.hop_limit())
            }
            _ => return Err(TestCaseError::fail("etherparse saw no IP header")),
        };
        let mss = tcp.options_iterator().map_while(Result::ok).filter_map(|option| match option {
            TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
            _ => None,
        });

        prop_assert_eq!(segment.source, source.into());
        prop_assert_eq!(segment.destination, destination.into());
        prop_assert_eq!(segment.ttl, ttl);
        prop_assert_eq!(segment.source_port, tcp.source_port());
        prop_assert_eq!(segment.destination_port, tcp.destination_port());
        prop_assert_eq!(segment.seq.0, tcp.sequence_number());
        prop_assert_eq!(segment.ack.0, tcp.acknowledgment_number());
        prop_assert_eq!(segment.flags.0, tcp.slice()[13]);
        prop_assert_eq!(segment.window, tcp.window_size());
        prop_assert_eq!(segment.payload_len as usize, tcp.payload().len());
        prop_assert_eq!(segment.mss, if segment.flags.is_syn() { mss.last() } else { None });
    }
}

fn packet() -> impl Strategy<Value = Packet> {
    (
        prop::collection::vec(0..4096u16, 0..4),
        prop_oneof![v4(), v6()],
        any::<u8>(),
        tcp(),
        prop::collection::vec(any::<u8>(), 0..100),
        0..20usize,
    )
        .prop_map(|(vlans, network, ttl, tcp, payload, padding)| Packet {
            vlans,
            network,
            ttl,
            tcp,
            payload,
            padding,
        })
}

fn v4() -> impl Strategy<Value = Network> {
    let options = (0..=10usize).prop_map(|words| vec![1; 4 * words]);
    (any::<[u8; 4]>(), any::<[u8; 4]>(), options)
        .prop_map(|(source, destination, options)| Network::V4 { source, destination, options })
}

fn v6() -> impl Strategy<Value = Network> {
    // An IPv4-mapped address is not distinguished from the IPv4 address.
    let address = || any::<[u8; 16]>().prop_filter("mapped", |octets| octets[..10] != [0; 10]);
    let raw = |number| {
        prop::collection::vec(any::<u8>(), 0..5).prop_map(move |octets| {
            let len = 6 + 8 * octets.len();
            Extension::Raw(number, octets.into_iter().cycle().chain([0; 6]).take(len).collect())
        })
    };
    let extension = prop_oneof![
        raw(IpNumber::IPV6_DESTINATION_OPTIONS),
        raw(IpNumber::IPV6_ROUTE_HEADER),
        any::<u32>().prop_map(Extension::Fragment),
    ];
    (address(), address(), prop::collection::vec(extension, 0..4)).prop_map(
        |(source, destination, extensions)| Network::V6 { source, destination, extensions },
    )
}

fn tcp() -> impl Strategy<Value = TcpHeader> {
    let option = prop_oneof![
        any::<u16>().prop_map(TcpOptionElement::MaximumSegmentSize),
        any::<u8>().prop_map(TcpOptionElement::WindowScale),
        Just(TcpOptionElement::SelectiveAcknowledgementPermitted),
        Just(TcpOptionElement::Noop),
        any::<(u32, u32)>().prop_map(|(value, echo)| TcpOptionElement::Timestamp(value, echo)),
    ];
    let numbers = any::<(u16, u16, u32, u32, u16)>();
    (numbers, any::<[bool; 8]>(), prop::collection::vec(option, 0..4)).prop_map(
        |((source, destination, seq, ack, window), flags, options)| {
            let mut header = TcpHeader::new(source, destination, seq, window);
            header.acknowledgment_number = ack;
            [
                header.fin, header.syn, header.rst, header.psh, header.ack, header.urg, header.ece,
                header.cwr,
            ] = flags;
            header.set_options(&options).unwrap();
            header
        },
    )
}

fn build(packet: &Packet) -> Vec<u8> {
    let mut upper = packet.tcp.to_bytes().to_vec();
    upper.extend(&packet.payload);
    let (network_type, network) = match &packet.network {
        Network::V4 { source, destination, options } => {
            let len = u16::try_from(upper.len()).unwrap();
            let mut header =
                Ipv4Header::new(len, packet.ttl, IpNumber::TCP, *source, *destination).unwrap();
            header.options = options[..].try_into().unwrap();
            header.set_payload_len(upper.len()).unwrap();
            (EtherType::IPV4, [&header.to_bytes()[..], &upper].concat())
        }
        Network::V6 { source, destination, extensions } => {
            let mut next = IpNumber::TCP;
            for extension in extensions.iter().rev() {
                let (kind, octets) = match extension {
                    Extension::Raw(kind, octets) => {
                        let header = Ipv6RawExtHeader::new_raw(next, octets).unwrap();
                        (*kind, header.to_bytes().to_vec())
                    }
                    Extension::Fragment(id) => {
                        let header = Ipv6FragmentHeader::new(next, IpFragOffset::ZERO, false, *id);
                        (IpNumber::IPV6_FRAGMENTATION_HEADER, header.to_bytes().to_vec())
                    }
                };
                upper = [octets, upper].concat();
                next = kind;
            }
            let header = Ipv6Header {
                payload_length: u16::try_from(upper.len()).unwrap(),
                next_header: next,
                hop_limit: packet.ttl,
                source: *source,
                destination: *destination,
                ..Ipv6Header::default()
            };
            (EtherType::IPV6, [&header.to_bytes()[..], &upper].concat())
        }
    };

    let mut kind = network_type;
    let mut inner = network;
    for id in packet.vlans.iter().rev() {
        let tag = etherparse::SingleVlanHeader {
            pcp: VlanPcp::ZERO,
            drop_eligible_indicator: false,
            vlan_id: VlanId::try_new(*id).unwrap(),
            ether_type: kind,
        };
        inner = [&tag.to_bytes()[..], &inner].concat();
        kind = EtherType::VLAN_TAGGED_FRAME;
    }
    let ethernet = Ethernet2Header { ether_type: kind, ..Ethernet2Header::default() };
    let mut frame = [&ethernet.to_bytes()[..], &inner].concat();
    frame.resize(frame.len() + packet.padding, 0);
    frame
}
