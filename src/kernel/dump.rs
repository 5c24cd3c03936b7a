//! What the answers to a sock_diag dump say: pure functions over bytes.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP_INTR, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NlasIterator, parse_u8, parse_u64,
};
use synwatch_core::observe::KernelHalfOpen;

use super::Error;

/// How many source addresses are kept for one local address and port. The dump follows the kernel's
/// hash table, whose order is keyed and has nothing to do with the addresses: the first ones are as
/// good a sample as any.
const MAX_SOURCES: usize = 512;

/// Type of the request and of each row of the answer (`linux/inet_diag.h`).
pub(super) const TCPDIAG_GETSOCK: u16 = 18;

/// `TCP_SYN_RECV` of `net/tcp_states.h`.
pub(super) const SYN_RECV: u8 = 3;
/// `TCP_LISTEN` of `net/tcp_states.h`.
pub(super) const LISTEN: u8 = 10;

/// Attribute with the value of IPV6_V6ONLY (`linux/inet_diag.h`).
const INET_DIAG_SKV6ONLY: u16 = 11;
/// Attribute with the id of the cgroup that created the socket (Linux 5.7; `linux/inet_diag.h`).
const INET_DIAG_CGROUP_ID: u16 = 21;

/// All that one or several dumps said.
#[derive(Debug, Default)]
pub(super) struct Dump {
    /// The listening sockets.
    pub sockets: Vec<ListenSocket>,
    /// The requests in SYN_RECV by local address and port. These are few, the requests many: a
    /// handful of comparisons for each costs less than a hash that is safe against strangers.
    pub half_open: BTreeMap<(IpAddr, u16), KernelHalfOpen>,
    /// The kernel has told all.
    pub complete: bool,
    /// The kernel changed its tables meanwhile and says that the dump may be inconsistent.
    pub interrupted: bool,
}

/// A listening socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ListenSocket {
    /// The bound address; IPv4 where it is IPv4-mapped.
    pub address: IpAddr,
    /// The bound port.
    pub port: u16,
    /// On `::` with IPV6_V6ONLY off. (A socket on any other IPv6 address never takes IPv4.)
    pub dual_stack: bool,
    /// Connections that wait for accept() (`sk_ack_backlog`).
    pub accept_queue: u32,
    /// Limit of the accept queue and of the SYN queue (`sk_max_ack_backlog`).
    pub backlog: u32,
    /// Identity of the socket, never used twice between two boots.
    pub cookie: u64,
    /// Inode number that `/proc/PID/fd` shows; 0 for a socket of the kernel.
    pub inode: u32,
    /// Id of the cgroup (version 2) that it was created in.
    pub cgroup: Option<u64>,
}

impl Dump {
    /// Takes in one datagram of the answer to the request with number `sequence`.
    pub fn read(&mut self, datagram: &[u8], sequence: u32) -> Result<(), Error> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest)?;
            let aligned = (message.length() as usize).next_multiple_of(NLMSG_ALIGNTO.into());
            rest = rest.get(aligned..).unwrap_or_default();
            if message.sequence_number() != sequence {
                continue;
            }
            self.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
            match message.message_type() {
                TCPDIAG_GETSOCK => self.read_socket(message.payload())?,
                NLMSG_DONE | NLMSG_ERROR => {
                    check_status(message.payload())?;
                    self.complete = true;
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// How many requests in SYN_RECV were told.
    pub fn requests(&self) -> u32 {
        self.half_open.values().map(|service| service.count).sum()
    }

    fn read_socket(&mut self, payload: &[u8]) -> Result<(), DecodeError> {
        let Some((row, attributes)) = payload.split_first_chunk() else {
            return Err("a row is shorter than struct inet_diag_msg".into());
        };
        let row = Row(row);
        match row.state() {
            LISTEN => self.sockets.push(row.listen_socket(Attributes::parse(attributes))),
            // The kernel shows a request as SYN_RECV, but also sockets that have left the SYN queue
            // or never were in it: children of a Fast Open request (RFC 7413), both ends of a
            // simultaneous open. Only those are sockets, with a cgroup and, accepted, an inode.
            SYN_RECV if row.inode() == 0 && Attributes::parse(attributes).cgroup.is_none() => {
                self.count(row);
            }
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, row: Row<'_>) {
        let (address, port) = row.local();
        let entry = self.half_open.entry((address, port)).or_insert_with(|| KernelHalfOpen {
            address,
            port,
            count: 0,
            retransmitted: 0,
            sources: Vec::new(),
        });
        entry.count += 1;
        if row.retransmitted() > 0 {
            entry.retransmitted += 1;
            if entry.sources.len() < MAX_SOURCES {
                entry.sources.push(row.peer());
            }
        }
    }
}

/// Octets of a row.
const ROW: usize = 72;

/// A row: `struct inet_diag_msg` of `linux/inet_diag.h`. There are tens of thousands of them in a
/// flood, and of most only a few octets count.
#[derive(Clone, Copy)]
struct Row<'a>(&'a [u8; ROW]);

impl Row<'_> {
    // Where its members are.
    const FAMILY: usize = 0;
    const STATE: usize = 1;
    const RETRANSMITTED: usize = 3;
    const LOCAL_PORT: usize = 4;
    const LOCAL_ADDRESS: usize = 8;
    const PEER_ADDRESS: usize = 24;
    const COOKIE: usize = 44;
    const ACCEPT_QUEUE: usize = 56;
    const BACKLOG: usize = 60;
    const INODE: usize = 68;

    const fn state(self) -> u8 {
        self.0[Self::STATE]
    }

    /// The SYN-ACKs of a request that were sent again (`num_retrans`, `inet_req_diag_fill`).
    const fn retransmitted(self) -> u8 {
        self.0[Self::RETRANSMITTED]
    }

    fn local(self) -> (IpAddr, u16) {
        let port = [self.0[Self::LOCAL_PORT], self.0[Self::LOCAL_PORT + 1]];
        (self.address(Self::LOCAL_ADDRESS), u16::from_be_bytes(port))
    }

    fn peer(self) -> IpAddr {
        self.address(Self::PEER_ADDRESS)
    }

    const fn inode(self) -> u32 {
        self.u32(Self::INODE)
    }

    /// An address; IPv4 where it is IPv4-mapped.
    fn address(self, offset: usize) -> IpAddr {
        if i32::from(self.0[Self::FAMILY]) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(self.u32(offset))))
        } else {
            let mut octets = [0; 16];
            octets.copy_from_slice(&self.0[offset..offset + 16]);
            IpAddr::V6(Ipv6Addr::from_octets(octets)).to_canonical()
        }
    }

    const fn u32(self, offset: usize) -> u32 {
        let bytes = self.0;
        u32::from_ne_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
    }

    fn listen_socket(self, attributes: Attributes) -> ListenSocket {
        let (address, port) = self.local();
        let cookie = [Self::COOKIE, Self::COOKIE + 4].map(|offset| u64::from(self.u32(offset)));
        ListenSocket {
            address,
            port,
            // Told of IPv6 sockets only.
            dual_stack: address.is_unspecified() && attributes.v6_only == Some(false),
            accept_queue: self.u32(Self::ACCEPT_QUEUE),
            backlog: self.u32(Self::BACKLOG),
            cookie: cookie[1] << 32 | cookie[0],
            inode: self.inode(),
            cgroup: attributes.cgroup,
        }
    }
}

/// The attributes behind the fixed part of a row.
#[derive(Clone, Copy, Default)]
struct Attributes {
    v6_only: Option<bool>,
    cgroup: Option<u64>,
}

impl Attributes {
    fn parse(bytes: &[u8]) -> Self {
        let mut attributes = Self::default();
        for attribute in NlasIterator::new(bytes).map_while(Result::ok) {
            match attribute.kind() {
                INET_DIAG_SKV6ONLY => {
                    attributes.v6_only = parse_u8(attribute.value()).ok().map(|v| v != 0);
                }
                INET_DIAG_CGROUP_ID => attributes.cgroup = parse_u64(attribute.value()).ok(),
                _ => {}
            }
        }
        attributes
    }
}

/// The status at the end of a dump: zero, or a negative error number. Old kernels leave it out.
fn check_status(payload: &[u8]) -> Result<(), Error> {
    match payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(code) if code < 0 => {
            Err(Error::Refused(io::Error::from_raw_os_error(code.saturating_neg())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod layout {
    use super::*;
    use crate::sys::headers::assert_agree;

    #[test]
    fn rows_are_as_the_kernel_lays_them_out() {
        let place = |offset: usize| offset as u64;
        assert_agree(
            &["netinet/tcp.h", "linux/inet_diag.h"],
            &[
                ("TCPDIAG_GETSOCK", TCPDIAG_GETSOCK.into()),
                ("TCP_SYN_RECV", SYN_RECV.into()),
                ("TCP_LISTEN", LISTEN.into()),
                ("INET_DIAG_SKV6ONLY", INET_DIAG_SKV6ONLY.into()),
                ("INET_DIAG_CGROUP_ID", INET_DIAG_CGROUP_ID.into()),
                ("sizeof(struct inet_diag_msg)", place(ROW)),
                ("offsetof(struct inet_diag_msg, idiag_family)", place(Row::FAMILY)),
                ("offsetof(struct inet_diag_msg, idiag_state)", place(Row::STATE)),
                ("offsetof(struct inet_diag_msg, idiag_retrans)", place(Row::RETRANSMITTED)),
                ("offsetof(struct inet_diag_msg, id.idiag_sport)", place(Row::LOCAL_PORT)),
                ("offsetof(struct inet_diag_msg, id.idiag_src)", place(Row::LOCAL_ADDRESS)),
                ("offsetof(struct inet_diag_msg, id.idiag_dst)", place(Row::PEER_ADDRESS)),
                ("offsetof(struct inet_diag_msg, id.idiag_cookie)", place(Row::COOKIE)),
                ("offsetof(struct inet_diag_msg, idiag_rqueue)", place(Row::ACCEPT_QUEUE)),
                ("offsetof(struct inet_diag_msg, idiag_wqueue)", place(Row::BACKLOG)),
                ("offsetof(struct inet_diag_msg, idiag_inode)", place(Row::INODE)),
            ],
        );
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")] // as the recorded answers are
mod tests {
    use super::*;

    // Recorded on Linux 6.18 as root, request number 7: listeners on 192.0.2.1:8001 (backlog 128)
    // and [::]:8002 (dual stack, 64), each with one SYN from 198.18.0.x that was 1.5 s old. Rows
    // are 72 octets behind a header of 16, then attributes.
    const V4_LISTEN: &str = "\
        7c00000012000200070000001a180000020a00001f410000c000020100000000000000000000000000000000\
        0000000000000000000000000000000082280100000000000000000000000000800000000000000081290100\
        050008000000000008000f00000000000c00150001000000000000000600160052000000";
    const V4_SYN_RECV: &str = "\
        6000000012000200070000001a180000020301011f410401c0000201000000000000000000000000c6120001\
        000000000000000000000000000000008328010000000000c805000000000000000000000000000000000000\
        08000f0000000000";
    const V6_LISTEN: &str = "\
        8400000012000200070000001a1800000a0a00001f4200000000000000000000000000000000000000000000\
        0000000000000000000000000000000084280100000000000000000000000000400000000000000082290100\
        050008000000000005000b000000000008000f00000000000c00150001000000000000000600160012000000";
    const V6_SYN_RECV_MAPPED: &str = "\
        6000000012000200070000001a1800000a0301011f42040200000000000000000000ffffc000020100000000\
        000000000000ffffc6120002000000008528010000000000c005000000000000000000000000000000000000\
        08000f0000000000";
    const DONE: &str = "1400000003000200070000001a18000000000000";

    fn bytes(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16))
            .collect::<Result<_, _>>()
            .unwrap()
    }

    fn read(hex: &str) -> (Dump, Result<(), Error>) {
        let mut dump = Dump::default();
        let outcome = dump.read(&bytes(hex), 7);
        (dump, outcome)
    }

    #[test]
    fn listeners_with_their_attributes() {
        let (dump, outcome) = read(&[V4_LISTEN, V6_LISTEN].concat());
        outcome.unwrap();
        assert!(!dump.complete);
        let v4 = ListenSocket {
            address: "192.0.2.1".parse().unwrap(),
            port: 8001,
            dual_stack: false,
            accept_queue: 0,
            backlog: 128,
            cookie: 0x12882,
            inode: 0x12981,
            cgroup: Some(1),
        };
        let v6 = ListenSocket {
            address: "::".parse().unwrap(),
            port: 8002,
            dual_stack: true,
            backlog: 64,
            cookie: 0x12884,
            inode: 0x12982,
            ..v4.clone()
        };
        assert_eq!(dump.sockets, [v4, v6]);
        assert!(dump.half_open.is_empty());
    }

    #[test]
    fn v6_only_takes_no_ipv4() {
        let (dump, _) = read(&V6_LISTEN.replace("05000b0000", "05000b0001"));
        assert!(!dump.sockets[0].dual_stack);
    }

    #[test]
    fn requests_are_counted_by_local_address() {
        let young = V4_SYN_RECV.replace("020301011f41", "020301001f41");
        let (dump, outcome) = read(&[V4_SYN_RECV, &young, V6_SYN_RECV_MAPPED, DONE].concat());
        outcome.unwrap();
        assert!(dump.complete);
        assert_eq!(dump.requests(), 3);
        assert_eq!(dump.half_open.len(), 2);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let entry = |port, count, source: &str| KernelHalfOpen {
            address,
            port,
            count,
            retransmitted: 1,
            sources: vec![source.parse().unwrap()],
        };
        assert_eq!(dump.half_open[&(address, 8001)], entry(8001, 2, "198.18.0.1"));
        assert_eq!(dump.half_open[&(address, 8002)], entry(8002, 1, "198.18.0.2"), "IPv4-mapped");
    }

    #[test]
    fn without_cap_net_admin_a_request_has_no_attributes() {
        let bare = V4_SYN_RECV.replace("6000000012", "5800000012");
        let (dump, outcome) = read(&[&bare[..2 * 0x58], DONE].concat());
        outcome.unwrap();
        assert_eq!((dump.complete, dump.requests()), (true, 1));
    }

    #[test]
    fn sources_are_bounded() {
        let (dump, _) = read(&V4_SYN_RECV.repeat(MAX_SOURCES + 9));
        let entry = dump.half_open.values().next().unwrap();
        assert_eq!(entry.retransmitted as usize, MAX_SOURCES + 9);
        assert_eq!(entry.sources.len(), MAX_SOURCES);
    }

    #[test]
    fn a_socket_in_syn_recv_is_no_request() {
        // The listening socket's row with state 3: a child of a Fast Open request has a cgroup too.
        let (dump, _) = read(&V4_LISTEN.replace("020a00001f41", "020301001f41"));
        assert!(dump.half_open.is_empty() && dump.sockets.is_empty());
    }

    #[test]
    fn answers_to_an_earlier_request_are_skipped() {
        let mut dump = Dump::default();
        let datagram = bytes(&[V4_LISTEN, DONE].concat());
        dump.read(&datagram, 8).unwrap();
        assert!(dump.sockets.is_empty() && !dump.complete);
    }

    #[test]
    fn an_interrupted_dump_says_so() {
        assert!(!read(DONE).0.interrupted);
        assert!(read(&DONE.replace("03000200", "03001200")).0.interrupted);
    }

    #[test]
    fn an_error_ends_the_dump() {
        // NLMSG_ERROR with -ENOENT, and the request's header behind it.
        let error = "2400000002000000070000001a180000feffffff48000000140001030700000000000000";
        let (_, outcome) = read(error);
        assert_eq!(
            outcome.unwrap_err().to_string(),
            "sock_diag refused the request: No such file or directory (os error 2) (it needs the \
             kernel modules inet_diag and tcp_diag)"
        );
        let (_, outcome) = read(&DONE.replace("1a18000000000000", "1a180000f4ffffff"));
        assert!(matches!(outcome, Err(Error::Refused(_))));
    }

    #[test]
    fn cut_off_answers_are_errors_not_panics() {
        let whole = bytes(&[V6_LISTEN, V4_SYN_RECV, DONE].concat());
        for length in 0..whole.len() {
            let mut dump = Dump::default();
            let at_boundary = [0, 0x84, 0x84 + 0x60].contains(&length);
            assert_eq!(dump.read(&whole[..length], 7).is_ok(), at_boundary, "{length} octets");
        }
        // A row shorter than its fixed part.
        assert!(read("1400000012000200070000001a180000020a0000").1.is_err());
    }
}
