//! How many connections are half-open, by the kernel itself: a netlink `sock_diag` dump that shares
//! no code with synwatch.

use std::io::{self, Read};
use std::time::SystemTime;

use socket2::{Domain, Protocol, Socket, Type};

use super::lab::Lab;

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `TCP_SYN_RECV` of net/tcp_states.h.
const TCP_SYN_RECV: u32 = 3;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;

/// A way to count the requests in SYN_RECV of one network namespace.
pub struct KernelTruth {
    socket: Socket,
}

/// A count at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// The middle of the dump.
    pub at: SystemTime,
    /// Requests in SYN_RECV.
    pub half_open: u64,
}

impl KernelTruth {
    /// Counts in the victim's namespace.
    pub fn of(lab: &Lab) -> Self {
        let domain = Domain::from(libc::AF_NETLINK);
        let protocol = Protocol::from(libc::NETLINK_SOCK_DIAG);
        let socket = lab.victim.run(|| Socket::new(domain, Type::RAW, Some(protocol)));
        Self { socket: socket.expect("a sock_diag socket") }
    }

    /// Requests in SYN_RECV towards `port`, of both IP versions. One dump at a time: a second one on
    /// this socket would take rows of the first, and the kernel refuses what is left (`EINVAL`).
    pub fn count(&mut self, port: u16) -> Count {
        let before = SystemTime::now();
        let half_open = [libc::AF_INET, libc::AF_INET6]
            .into_iter()
            .map(|family| self.dump(family as u8, port).expect("sock_diag dump"))
            .sum();
        let took = before.elapsed().unwrap_or_default();
        Count { at: before + took / 2, half_open }
    }

    fn dump(&mut self, family: u8, port: u16) -> io::Result<u64> {
        let mut request = [0; HEADER + REQUEST];
        request[0..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        request[6..8].copy_from_slice(&flags.to_ne_bytes());
        request[HEADER] = family;
        request[HEADER + 1] = libc::IPPROTO_TCP as u8;
        request[HEADER + 4..HEADER + 8].copy_from_slice(&(1u32 << TCP_SYN_RECV).to_ne_bytes());
        self.socket.send(&request)?;

        let mut count = 0;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = (&self.socket).read(&mut buffer)?;
            let mut rest = &buffer[..length];
            while rest.len() >= HEADER {
                let message_length = u32_at(rest, 0) as usize;
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(count),
                    libc::NLMSG_ERROR => return Err(io::Error::other("netlink error")),
                    _ => {}
                }
                // struct inet_diag_msg: family, state, timer, retrans, then the source port.
                let row = &rest[HEADER..message_length];
                let local_port = u16::from_be_bytes([row[4], row[5]]);
                count += u64::from(u32::from(row[1]) == TCP_SYN_RECV && local_port == port);
                rest = rest.get(message_length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}
