//! What the witnesses say: the capture of itself, and the kernel of the watched host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What the capture says of itself, since it was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CaptureStats {
    /// Packets that matched the filter, delivered or not.
    pub received: u64,
    /// Packets that the kernel dropped because the capture was not emptied in time.
    pub dropped: u64,
}

/// One look at the kernel of the watched host or network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelSample {
    /// When the look was taken.
    pub at: Timestamp,
    /// The listening TCP sockets; sockets of one SO_REUSEPORT group are one listener.
    pub listeners: Vec<Listener>,
    /// The requests in SYN_RECV, by the local address and port that they were sent to.
    pub half_open: Vec<KernelHalfOpen>,
    /// `TcpExt` (and a few `Tcp`) counters by their kernel names, since boot of the namespace.
    pub counters: BTreeMap<&'static str, u64>,
    /// The settings that shape the SYN queue.
    pub sysctls: Sysctls,
    /// Connection tracking, where it runs.
    pub conntrack: Option<Conntrack>,
    /// The host's own addresses.
    pub addresses: Vec<IpAddr>,
}

/// A listening socket, or a SO_REUSEPORT group of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// The bound address; unspecified (`0.0.0.0`, `::`) for a wildcard.
    pub address: IpAddr,
    /// The bound port.
    pub port: u16,
    /// Whether a socket on an IPv6 address also takes IPv4 (IPV6_V6ONLY off).
    pub dual_stack: bool,
    /// Connections established and not yet accepted, sum over the group.
    pub accept_queue: u32,
    /// min(listen() argument, somaxconn), sum over the group (`sk_max_ack_backlog`).
    pub backlog: u32,
    /// Sockets in the group.
    pub sockets: u32,
    /// Who owns it, as far as that may be known.
    pub process: Option<Process>,
}

impl Listener {
    /// The one of `listeners` that takes connections to an address and port: on that address, or
    /// else on any.
    #[must_use]
    pub fn taking(listeners: &[Self], address: IpAddr, port: u16) -> Option<&Self> {
        let on_port = || listeners.iter().filter(|listener| listener.port == port);
        on_port().find(|listener| listener.address == address).or_else(|| {
            on_port().find(|listener| {
                listener.address.is_unspecified()
                    && (listener.address.is_ipv4() == address.is_ipv4()
                        || (address.is_ipv4() && listener.dual_stack))
            })
        })
    }
}

/// The owner of a listening socket.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Process {
    /// Command name (`/proc/PID/comm`).
    pub name: Option<String>,
    /// Process id in the namespace that synwatch runs in.
    pub pid: Option<u32>,
    /// systemd unit (or the last part of the cgroup's path).
    pub unit: Option<String>,
}

/// Requests in SYN_RECV towards one local address and port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelHalfOpen {
    /// The local address that the SYNs were sent to.
    pub address: IpAddr,
    /// The local port.
    pub port: u16,
    /// How many there are. Of a long queue of a wildcard listener an estimate, but the sum over its
    /// addresses.
    pub count: u32,
    /// How many of them have had their SYN-ACK re-sent (`idiag_retrans` >= 1); of a long queue an
    /// estimate.
    pub retransmitted: u32,
    /// Remote addresses of re-sent ones, a bounded part of them.
    pub sources: Vec<IpAddr>,
}

/// Kernel settings; `None` where they could not be read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sysctls {
    /// `net.ipv4.tcp_syncookies`: 0 off, 1 when the queue is full, 2 always.
    pub syncookies: Option<u8>,
    /// `net.ipv4.tcp_synack_retries`.
    pub synack_retries: Option<u8>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub max_syn_backlog: Option<u32>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u32>,
}

/// The connection-tracking table of netfilter.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Conntrack {
    /// Entries in the table.
    pub entries: u64,
    /// `nf_conntrack_max`.
    pub limit: u64,
    /// Packets dropped because the table was full or insertion failed.
    pub dropped: u64,
}
