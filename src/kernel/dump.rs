//! What the answers to a sock_diag dump say: pure functions over bytes.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP_INTR, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NlasIterator, Parseable, parse_u8, parse_u64,
};
use netlink_packet_sock_diag::SOCK_DIAG_BY_FAMILY;
use netlink_packet_sock_diag::constants::{INET_DIAG_SKV6ONLY, TCP_LISTEN, TCP_SYN_RECV};
use netlink_packet_sock_diag::inet::{InetResponseHeader, Timer};

use super::Error;
use crate::observe::KernelHalfOpen;

/// How many source addresses are kept for one local address and port. The dump follows the kernel's
/// hash table, whose order is keyed and has nothing to do with the addresses: the first ones are as
/// good a sample as any.
const MAX_SOURCES: usize = 512;

/// Attribute with the id of the cgroup that created the socket (Linux 5.7; `linux/inet_diag.h`).
const INET_DIAG_CGROUP_ID: u16 = 22;

/// All that one or several dumps said.
#[derive(Debug, Default)]
pub(super) struct Dump {
    /// The listening sockets.
    pub sockets: Vec<ListenSocket>,
    /// The requests in SYN_RECV by local address and port.
    pub half_open: HashMap<(IpAddr, u16), KernelHalfOpen>,
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

/// Whether a dump goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Progress {
    /// More datagrams follow.
    More,
    /// That was the last one.
    Done,
}

impl Dump {
    /// Takes in one datagram of the answer to the request with number `sequence`.
    pub fn read(&mut self, datagram: &[u8], sequence: u32) -> Result<Progress, Error> {
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
                SOCK_DIAG_BY_FAMILY => self.read_socket(message.payload())?,
                NLMSG_DONE | NLMSG_ERROR => {
                    check_status(message.payload())?;
                    return Ok(Progress::Done);
                }
                _ => {}
            }
        }
        Ok(Progress::More)
    }

    fn read_socket(&mut self, payload: &[u8]) -> Result<(), DecodeError> {
        let header = InetResponseHeader::parse(payload)?;
        let attributes = Attributes::parse(payload.get(header.buffer_len()..).unwrap_or_default());
        match header.state {
            TCP_LISTEN => self.sockets.push(listen_socket(&header, attributes)),
            // The kernel shows a request as SYN_RECV, but also sockets that have left the SYN queue
            // or never were in it: children of a Fast Open request (RFC 7413), both ends of a
            // simultaneous open. Only those are sockets, with a cgroup and, accepted, an inode.
            TCP_SYN_RECV if header.inode == 0 && attributes.cgroup.is_none() => self.count(&header),
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, header: &InetResponseHeader) {
        let address = header.socket_id.source_address.to_canonical();
        let port = header.socket_id.source_port;
        let entry = self.half_open.entry((address, port)).or_insert_with(|| KernelHalfOpen {
            address,
            port,
            count: 0,
            retransmitted: 0,
            sources: Vec::new(),
        });
        entry.count += 1;
        // `num_retrans` of the request: the SYN-ACKs sent again (`inet_req_diag_fill`).
        if matches!(header.timer, Some(Timer::Retransmit(_, retransmitted)) if retransmitted > 0) {
            entry.retransmitted += 1;
            if entry.sources.len() < MAX_SOURCES {
                entry.sources.push(header.socket_id.destination_address.to_canonical());
            }
        }
    }
}

fn listen_socket(header: &InetResponseHeader, attributes: Attributes) -> ListenSocket {
    let id = &header.socket_id;
    ListenSocket {
        address: id.source_address.to_canonical(),
        port: id.source_port,
        dual_stack: id.source_address.is_ipv6()
            && id.source_address.is_unspecified()
            && attributes.v6_only == Some(false),
        accept_queue: header.recv_queue,
        backlog: header.send_queue,
        cookie: u64::from_ne_bytes(id.cookie),
        inode: header.inode,
        cgroup: attributes.cgroup,
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
