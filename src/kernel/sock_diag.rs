//! The netlink socket that the kernel's TCP sockets are asked over (sock_diag(7)).
//!
//! This only moves bytes; [`Dump`] makes sense of them. No privilege is needed: the kernel tells
//! every user of all sockets in the network namespace.

use std::io;
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

use super::Error;
use super::dump::{Dump, Progress};

/// The kernel fills a datagram of a dump up to 32 KiB where the reader offers that much room
/// (`netlink_recvmsg`).
const DATAGRAM: usize = 32 * 1024;

/// How long the kernel may take for one datagram. To fill one it may have to walk the whole table
/// of connections: tens of milliseconds with a million of them.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a dump that fails for a passing reason is begun.
const ATTEMPTS: u32 = 3;

/// A socket to ask the kernel for its TCP sockets.
pub(super) struct SockDiag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl SockDiag {
    /// Opens the socket in the calling thread's network namespace, to which it stays bound.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(Error::Open)?;
        socket.bind_auto().map_err(Error::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
        SockRef::from(&socket).set_read_timeout(Some(PATIENCE)).map_err(Error::Open)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; DATAGRAM] })
    }

    /// All sockets in LISTEN and all requests in SYN_RECV, IPv4 and IPv6.
    ///
    /// The kernel walks its tables between one datagram and the next, so a busy table is seen over
    /// a span of time: a request that comes or goes meanwhile may be missed.
    pub fn dump(&mut self) -> Result<Dump, Error> {
        let mut attempt = 1;
        loop {
            let outcome = self.attempt();
            if outcome.is_err() {
                // Answers may still be on their way: leave them behind with the socket.
                *self = Self::open()?;
            }
            match outcome {
                Ok(dump) if dump.interrupted && attempt < ATTEMPTS => attempt += 1,
                Err(Error::Overrun) if attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    fn attempt(&mut self) -> Result<Dump, Error> {
        let mut dump = Dump::default();
        for family in [AF_INET, AF_INET6] {
            self.sequence = self.sequence.wrapping_add(1);
            let request = request(family, self.sequence);
            self.socket.send(&request, 0).map_err(Error::Send)?;
            loop {
                let length = self.receive()?;
                let datagram = self.buffer.get(..length).unwrap_or(&self.buffer);
                match dump.read(datagram, self.sequence)? {
                    Progress::More => {}
                    Progress::Done => break,
                }
            }
        }
        Ok(dump)
    }

    fn receive(&mut self) -> Result<usize, Error> {
        loop {
            let error = match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(length) => return Ok(length),
                Err(error) => error,
            };
            match error.kind() {
                // A signal; with a receive timeout set the kernel never restarts the call.
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Err(Error::Silent(PATIENCE)),
                _ if error.raw_os_error() == Some(libc::ENOBUFS) => return Err(Error::Overrun),
                _ => return Err(Error::Receive(error)),
            }
        }
    }
}

/// The request for all LISTEN and SYN_RECV sockets of one address family.
///
/// With the bit of SYN_RECV the kernel also shows its request sockets (TCP_NEW_SYN_RECV, state 12;
/// `inet_diag_dump_icsk`, since Linux 6.14 `tcp_diag_dump`), which are the half-open connections; a
/// bit of their own is not accepted from user space. Extensions are not asked for: what is needed
/// comes without.
fn request(family: u8, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = sequence;
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::LISTEN | StateFlags::SYN_RECV,
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_asks_for_listen_and_syn_recv() {
        let bytes = request(AF_INET6, 7);
        assert_eq!(bytes.len(), 72);
        assert_eq!(bytes[..4], 72_u32.to_ne_bytes());
        assert_eq!(bytes[4..6], 20_u16.to_ne_bytes(), "SOCK_DIAG_BY_FAMILY");
        assert_eq!(bytes[6..8], 0x301_u16.to_ne_bytes(), "NLM_F_REQUEST | NLM_F_DUMP");
        assert_eq!(bytes[8..12], 7_u32.to_ne_bytes());
        assert_eq!(bytes[16..20], [10, 6, 0, 0], "AF_INET6, TCP, no extensions");
        assert_eq!(bytes[20..24], 0x408_u32.to_ne_bytes(), "LISTEN (10) and SYN_RECV (3)");
    }

    #[test]
    fn the_kernel_answers_without_privilege() {
        let mut sockets = SockDiag::open().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let dump = sockets.dump().unwrap();
        let found = dump.sockets.iter().find(|s| s.port == local.port()).unwrap();
        assert_eq!(found.address, local.ip());
        assert_ne!(found.inode, 0);
    }
}
