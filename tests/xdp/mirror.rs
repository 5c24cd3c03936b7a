//! A mirror port: frames of others' connections, both directions, sent into an interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader, VlanId};
use pnet_datalink::{Channel, DataLinkSender};
use synwatch_core::wire::{Address, Flags, LinkType, Segment, decode};

use crate::support::lab::{ATTACKER_LINK, Lab};

/// Where the frames come from: the far end of the mirror port.
pub struct Mirror(Box<dyn DataLinkSender>);

impl Mirror {
    /// Frames will come in at the victim's interface.
    pub fn new(lab: &Lab) -> Self {
        let channel = lab.attacker.run(|| {
            let interfaces = pnet_datalink::interfaces();
            let link = interfaces.iter().find(|interface| interface.name == ATTACKER_LINK).unwrap();
            pnet_datalink::channel(link, pnet_datalink::Config::default())
        });
        match channel.unwrap() {
            Channel::Ethernet(sender, _) => Self(sender),
            _ => panic!("no Ethernet channel"),
        }
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.0.send_to(frame, None).unwrap().unwrap();
    }
}

/// What lies between Ethernet and TCP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    V4,
    V4Tagged,
    V6,
    V6TaggedTwice,
    /// With a destination options and an (atomic) fragment header.
    V6Extended,
    /// IPv6 addresses that stand for IPv4 ones.
    V6Mapped,
}

impl Shape {
    pub const ALL: [Self; 6] =
        [Self::V4, Self::V4Tagged, Self::V6, Self::V6TaggedTwice, Self::V6Extended, Self::V6Mapped];

    fn address(self, number: u32, host: u8) -> IpAddr {
        let v4 = Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b9) << 8 | u32::from(host));
        match self {
            Self::V4 | Self::V4Tagged => v4.into(),
            Self::V6Mapped => v4.to_ipv6_mapped().into(),
            _ => {
                let low = u128::from(number) << 40 | u128::from(host);
                Ipv6Addr::from_bits(0x2001_0db8 << 96 | low).into()
            }
        }
    }

    /// Client and server of the connection of this number.
    pub fn connection(self, number: u32) -> (SocketAddr, SocketAddr) {
        let client = (self.address(number, 77), 1024 + (number % 60_000) as u16);
        // Few servers, so that some have many connections.
        let server = (self.address(number % 5, 1), 443);
        (client.into(), server.into())
    }

    /// A frame of this shape.
    pub fn frame(self, from: SocketAddr, to: SocketAddr, flags: Flags, payload: &[u8]) -> Vec<u8> {
        let link = PacketBuilder::ethernet2([2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 2]);
        let id = |id| VlanId::try_new(id).unwrap();
        let mut header = TcpHeader::new(from.port(), to.port(), 1_000, 512);
        (header.fin, header.syn, header.rst, header.ack) = (
            flags.contains(Flags::FIN),
            flags.contains(Flags::SYN),
            flags.contains(Flags::RST),
            flags.contains(Flags::ACK),
        );
        let mut frame = Vec::new();
        let v4 = |addresses: (IpAddr, IpAddr)| match addresses {
            (IpAddr::V4(from), IpAddr::V4(to)) => (from.octets(), to.octets()),
            other => panic!("{other:?}"),
        };
        let v6 = |addresses: (IpAddr, IpAddr)| match addresses {
            (IpAddr::V6(from), IpAddr::V6(to)) => (from.octets(), to.octets()),
            other => panic!("{other:?}"),
        };
        let addresses = (from.ip(), to.ip());
        let ip: PacketBuilderStep<IpHeaders> = match self {
            Self::V4 => {
                let (from, to) = v4(addresses);
                link.ipv4(from, to, 60)
            }
            Self::V4Tagged => {
                let (from, to) = v4(addresses);
                link.single_vlan(id(7)).ipv4(from, to, 60)
            }
            Self::V6TaggedTwice => {
                let (from, to) = v6(addresses);
                link.double_vlan(id(7), id(9)).ipv6(from, to, 60)
            }
            Self::V6 | Self::V6Mapped | Self::V6Extended => {
                let (from, to) = v6(addresses);
                link.ipv6(from, to, 60)
            }
        };
        ip.tcp_header(header).write(&mut frame, payload).unwrap();
        if self == Self::V6Extended {
            extend(&mut frame);
        }
        frame
    }
}

/// Puts extension headers between IPv6 and TCP.
fn extend(frame: &mut Vec<u8>) {
    const IPV6: usize = 14;
    // Destination options: 16 octets with a PadN option; fragment header: no fragment.
    let options = [44, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let fragment = [6, 0, 0, 0, 0, 0, 0, 1];
    frame[IPV6 + 6] = 60;
    let length = u16::from_be_bytes([frame[IPV6 + 4], frame[IPV6 + 5]]) + 24;
    frame[IPV6 + 4..IPV6 + 6].copy_from_slice(&length.to_be_bytes());
    frame.splice(IPV6 + 40..IPV6 + 40, [&options[..], &fragment].concat());
}

/// The segment in a frame.
pub fn segment(frame: &[u8]) -> Segment {
    decode(LinkType::Ethernet, frame, frame.len() as u32).unwrap()
}

/// What tells the segments of these tests apart.
pub type Identity = (Address, u16, Address, u16, Flags, u32);

pub fn identity(segment: &Segment) -> Identity {
    let from = (segment.source, segment.source_port);
    let to = (segment.destination, segment.destination_port);
    (from.0, from.1, to.0, to.1, segment.flags, segment.payload_len)
}
