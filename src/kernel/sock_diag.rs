//! The netlink socket that the kernel's TCP sockets are asked over (sock_diag(7)).
//!
//! This only moves bytes; [`Dump`] makes sense of them. No privilege is needed: the kernel tells
//! every user of all sockets in the network namespace.

use std::io;
use std::time::Duration;

use netlink_packet_core::{Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

use super::Error;
use super::dump::{Dump, LISTEN, SYN_RECV, TCPDIAG_GETSOCK};

/// The kernel fills a datagram of a dump up to 32 KiB where the reader offers that much room
/// (`netlink_recvmsg`).
const DATAGRAM: usize = 32 * 1024;

/// Octets of the header of a message (`struct nlmsghdr`).
const HEADER: usize = 16;
/// Octets of a request: the header and `struct inet_diag_req`.
const REQUEST: usize = HEADER + 60;
/// Where the set of states is in it.
const STATES: usize = HEADER + 52;

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

    /// All sockets in LISTEN and then the requests in SYN_RECV, of IPv4 and IPv6, until those that
    /// were told are `enough`.
    ///
    /// The kernel walks its tables between one datagram and the next, so a busy table is seen over
    /// a span of time: a request that comes or goes meanwhile may be missed.
    pub fn dump(&mut self, enough: impl Fn(&Dump) -> bool) -> Result<Dump, Error> {
        let mut attempt = 1;
        loop {
            let outcome = self.attempt(&enough);
            if !outcome.as_ref().is_ok_and(|dump| dump.complete) {
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

    fn attempt(&mut self, enough: impl Fn(&Dump) -> bool) -> Result<Dump, Error> {
        let mut dump = Dump::default();
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request(self.sequence), 0).map_err(Error::Send)?;
        loop {
            let length = self.receive()?;
            let datagram = self.buffer.get(..length).unwrap_or(&self.buffer);
            dump.read(datagram, self.sequence)?;
            if dump.complete || enough(&dump) {
                return Ok(dump);
            }
        }
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

/// The request for all LISTEN and SYN_RECV sockets.
///
/// `TCPDIAG_GETSOCK` with a `struct inet_diag_req` is the older form of `SOCK_DIAG_BY_FAMILY`, and
/// the only one that asks for IPv4 and IPv6 at once (`inet_diag_dump_compat`, which ignores the
/// family). It halves the time: the kernel goes through all its connections for each request.
///
/// With the bit of SYN_RECV the kernel also shows its request sockets (TCP_NEW_SYN_RECV, state 12;
/// `inet_diag_dump_icsk`, since Linux 6.14 `tcp_diag_dump`), which are the half-open connections; a
/// bit of their own is not accepted from user space. Extensions are not asked for: what is needed
/// comes without.
fn request(sequence: u32) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    let mut header = NetlinkHeader::default();
    header.length = REQUEST as u32;
    header.message_type = TCPDIAG_GETSOCK;
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = sequence;
    header.emit(&mut bytes);
    // The family is the first member of struct inet_diag_req.
    bytes[HEADER] = libc::AF_INET as u8;
    bytes[STATES..STATES + 4].copy_from_slice(&(1_u32 << LISTEN | 1 << SYN_RECV).to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::dump::ListenSocket;
    use crate::sys::headers::assert_agree;

    #[test]
    fn a_request_is_as_the_kernel_lays_it_out() {
        assert_agree(
            &["linux/netlink.h", "linux/inet_diag.h"],
            &[
                ("NLMSG_LENGTH(0)", HEADER as u64),
                ("NLMSG_LENGTH(sizeof(struct inet_diag_req))", REQUEST as u64),
                ("offsetof(struct inet_diag_req, idiag_family)", 0),
                ("NLMSG_LENGTH(offsetof(struct inet_diag_req, idiag_states))", STATES as u64),
            ],
        );
    }

    #[test]
    fn the_request_asks_for_listen_and_syn_recv() {
        let bytes = request(7);
        assert_eq!(bytes[..4], 76_u32.to_ne_bytes());
        assert_eq!(bytes[4..6], 18_u16.to_ne_bytes(), "TCPDIAG_GETSOCK");
        assert_eq!(bytes[6..8], 0x301_u16.to_ne_bytes(), "NLM_F_REQUEST | NLM_F_DUMP");
        assert_eq!(bytes[8..12], 7_u32.to_ne_bytes());
        assert_eq!(bytes[16..20], [2, 0, 0, 0], "AF_INET, no extensions");
        assert_eq!(bytes[20..68], [0; 48], "any socket");
        assert_eq!(bytes[68..72], 0x408_u32.to_ne_bytes(), "LISTEN (10) and SYN_RECV (3)");
    }

    #[test]
    fn the_kernel_answers_without_privilege() {
        let mut sockets = SockDiag::open().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let dump = sockets.dump(|_| false).unwrap();
        let found = dump.sockets.iter().find(|s| s.port == local.port()).unwrap();
        assert_eq!(found.address, local.ip());
        assert_ne!(found.inode, 0);
    }

    #[test]
    fn one_answer_holds_both_ip_versions() {
        let mut sockets = SockDiag::open().unwrap();
        let v4 = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let Ok(v6) = std::net::TcpListener::bind("[::1]:0") else {
            eprintln!("skipped: no IPv6");
            return;
        };
        let dump = sockets.dump(|_| false).unwrap();
        for local in [v4, v6].map(|listener| listener.local_addr().unwrap()) {
            let is_it = |s: &ListenSocket| (s.address, s.port) == (local.ip(), local.port());
            assert!(dump.sockets.iter().any(is_it), "{local}");
        }
    }
}
