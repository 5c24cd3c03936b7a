//! How many connections are half-open, by the kernel itself: a netlink `sock_diag` dump that shares
//! no code with synwatch. And whether synwatch says the same.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use super::lab::{Family, Lab};
use super::program::{seconds_between, service_in, time};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `TCP_SYN_RECV` of net/tcp_states.h.
const TCP_SYN_RECV: u32 = 3;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// When the first requests have had all their retransmissions, in seconds after the first SYN.
const LAST_TIMERS: f64 = 62.0;

/// A way to count the requests in SYN_RECV of one network namespace.
pub struct KernelTruth {
    socket: Socket,
}

/// A count at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// The middle of the dump.
    pub at: SystemTime,
    /// Half of the time that it took.
    pub within: Duration,
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

    /// Requests in SYN_RECV towards `port`, of both IP versions.
    pub fn count(&mut self, port: u16) -> Count {
        self.counts([port])[0]
    }

    /// The same of several ports. One dump at a time: a second one on this socket would take rows
    /// of the first, and the kernel refuses what is left (`EINVAL`).
    pub fn counts<const N: usize>(&mut self, ports: [u16; N]) -> [Count; N] {
        let before = SystemTime::now();
        let mut rows = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.dump(family as u8, &mut rows).expect("sock_diag dump");
        }
        let within = before.elapsed().unwrap_or_default() / 2;
        ports.map(|port| {
            let half_open = rows.iter().filter(|row| **row == port).count() as u64;
            Count { at: before + within, within, half_open }
        })
    }

    /// The local port of every request.
    fn dump(&mut self, family: u8, ports: &mut Vec<u16>) -> io::Result<()> {
        let mut request = [0; HEADER + REQUEST];
        request[0..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        request[6..8].copy_from_slice(&flags.to_ne_bytes());
        request[HEADER] = family;
        request[HEADER + 1] = libc::IPPROTO_TCP as u8;
        request[HEADER + 4..HEADER + 8].copy_from_slice(&(1u32 << TCP_SYN_RECV).to_ne_bytes());
        self.socket.send(&request)?;

        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = (&self.socket).read(&mut buffer)?;
            let mut rest = &buffer[..length];
            while rest.len() >= HEADER {
                let message_length = u32_at(rest, 0) as usize;
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => return Err(io::Error::other("netlink error")),
                    _ => {}
                }
                // struct inet_diag_msg: family, state, timer, retrans, then the source port.
                let row = &rest[HEADER..message_length];
                if u32::from(row[1]) == TCP_SYN_RECV {
                    ports.push(u16::from_be_bytes([row[4], row[5]]));
                }
                rest = rest.get(message_length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// What synwatch said of a service at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    pub at: SystemTime,
    pub half_open: u64,
    pub unconfirmed: u64,
}

impl Said {
    /// What `report` says of the victim's service at `target`.
    pub fn of(report: &Value, target: SocketAddr) -> Self {
        let family = if target.is_ipv4() { Family::V4 } else { Family::V6 };
        let service = service_in(report, family, target.port());
        let count = |name: &str| service.and_then(|service| service[name].as_u64()).unwrap_or(0);
        Self {
            at: time(&report["observed"]["to"]),
            half_open: count("half_open"),
            unconfirmed: count("half_open_unconfirmed"),
        }
    }
}

/// Asserts that each count of synwatch is one that the kernel had at about that time, up to 5 % or
/// 5.
pub fn compare(case: &str, syncookies: u8, first_syn: SystemTime, kernel: &[Count], said: &[Said]) {
    let mut worst = (0, 0.0);
    for said in said {
        let after = seconds_between(first_syn, said.at);
        // The kernel's timer for 32 s has a granularity of 2.048 s at 250 Hz, and fires without a
        // packet. Before that a request that is given up early is up to 0.3 s late.
        let slack = if after < LAST_TIMERS { 0.3 } else { 2.1 };
        // Where the kernel was asked less often, all from the last that was counted before to the
        // first after.
        let before = kernel.partition_point(|count| count.at + count.within < said.at);
        let next = kernel.partition_point(|count| count.at - count.within < said.at);
        let beside = before.saturating_sub(1)..=next;
        let near = || {
            let near = |(index, count): &(usize, &Count)| {
                beside.contains(index) || seconds_between(count.at, said.at).abs() <= slack
            };
            kernel.iter().enumerate().filter(near).map(|(_, count)| count.half_open)
        };
        let (Some(low), Some(high)) = (near().min(), near().max()) else { continue };
        let tolerance = (high / 20).max(5);
        // With cookies, the wire cannot tell a request that is held from one that was answered by
        // a cookie, until the first retransmission is due.
        assert!(said.unconfirmed <= said.half_open, "{case}: {said:?}");
        let sure = said.half_open - if syncookies == 0 { 0 } else { said.unconfirmed };
        assert!(
            sure <= high + tolerance && said.half_open + tolerance >= low,
            "{case}: {after:.1} s after the first SYN the kernel held {low} to {high}, synwatch \
             said {} ({} unconfirmed)",
            said.half_open,
            said.unconfirmed
        );
        let exact = nearest(kernel, said.at).half_open;
        let difference = sure.saturating_sub(exact).max(exact.saturating_sub(said.half_open));
        if difference > worst.0 {
            worst = (difference, after);
        }
    }
    let (difference, after) = worst;
    let peak = kernel.iter().map(|count| count.half_open).max().unwrap_or(0);
    eprintln!(
        "{case}: {} reports agree; largest difference {difference} at {after:.1} s, peak {peak}",
        said.len()
    );
}

fn nearest(kernel: &[Count], at: SystemTime) -> Count {
    let key = |count: &&Count| (seconds_between(count.at, at).abs() * 1e6) as u64;
    *kernel.iter().min_by_key(key).expect("counts of the kernel")
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}
