//! The kernel as a witness: what a flood does to this host.
//!
//! [`Reader::sample`] asks the kernel for its half-open connections, listening sockets, counters
//! and settings. What each part needs:
//!
//! | part | source | privilege |
//! |---|---|---|
//! | SYN_RECV, listeners, backlogs | netlink sock_diag | none |
//! | lengths of the SYN queues, instead of a dump of every request | BPF iterator | CAP_BPF, CAP_PERFMON; Linux 5.9, without them later on 5.19 |
//! | counters | `/proc/thread-self/net/netstat`, `snmp` | none |
//! | settings, conntrack | `/proc/sys/net`, `/proc/thread-self/net/stat` | none; `/proc/sys` may be hidden |
//! | own addresses | netlink route (getifaddrs) | none |
//! | unit of a listener | cgroup id in sock_diag, `/sys/fs/cgroup` | none; Linux 5.7, cgroup version 2 |
//! | process of a listener | `/proc/PID/fd` | none for one's own processes, for those of other users CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH |
//!
//! Everything is about the network namespace of the calling thread.

mod btf;
mod conntrack;
mod dump;
mod netstat;
mod owner;
mod sock_diag;
mod syn_queue;
mod sysctl;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use dump::{Dump, ListenSocket};
use netlink_packet_core::DecodeError;
use owner::Owners;
use sock_diag::SockDiag;
use syn_queue::{ENOUGH, Lengths, SynQueues};
use synwatch_core::observe::{KernelSample, Listener, Process};
use synwatch_core::time::Timestamp;

/// Why the kernel could not be asked for its TCP sockets.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The netlink socket could not be opened.
    #[error("cannot open a sock_diag netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The request could not be sent.
    #[error("cannot ask sock_diag: {0}")]
    Send(#[source] io::Error),
    /// The answer could not be received.
    #[error("cannot receive the answer of sock_diag: {0}")]
    Receive(#[source] io::Error),
    /// Part of the answer was lost, several times in a row.
    #[error("sock_diag answered faster than the answers could be read (ENOBUFS)")]
    Overrun,
    /// No answer came.
    #[error("sock_diag gave no answer within {0:?}")]
    Silent(Duration),
    /// The kernel answered with an error; ENOENT where it lacks the module.
    #[error(
        "sock_diag refused the request: {0} (it needs the kernel modules inet_diag and tcp_diag)"
    )]
    Refused(#[source] io::Error),
    /// The answer contradicts itself.
    #[error("sock_diag gave an answer that cannot be read: {0}")]
    Malformed(#[from] DecodeError),
}

/// Takes samples of the kernel.
pub struct Reader {
    sockets: SockDiag,
    /// Opened when first needed; none where that is not possible.
    queues: OnceCell<Option<SynQueues>>,
    owners: Owners,
    problems: Vec<String>,
}

impl Reader {
    /// Opens the way to the kernel of the calling thread's network namespace.
    ///
    /// Once a second is often enough to ask. A sample blocks. It takes about 15 ms with 33,000
    /// half-open connections beside 19,000 established ones (2-core virtual machine, Linux 6.18).
    /// Most of that is in the kernel, which walks its whole table of connections. Where the lengths
    /// of the SYN queues may be asked for, it takes 1 ms with 30,000 (`cargo test --release --test
    /// kernel -- --ignored --nocapture cost`). The first one, and the first after new listeners
    /// appeared, takes some milliseconds more to find their owners: about 5 us per open descriptor
    /// of the processes that are looked into.
    ///
    /// # Errors
    ///
    /// No netlink socket can be opened (a seccomp filter, a kernel without sock_diag).
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            sockets: SockDiag::open()?,
            queues: OnceCell::new(),
            owners: Owners::default(),
            problems: Vec::new(),
        })
    }

    /// Does now what [`Reader::sample`] else does when it first meets a long SYN queue, for a
    /// thread that gives its capabilities up. Returns whether the lengths of the queues can be
    /// asked for.
    pub fn prepare(&self) -> bool {
        self.queues.get_or_init(open_queues).is_some()
    }

    /// Looks at the kernel once. Call it from a thread in the network namespace of the one that
    /// opened the reader: the counters and settings follow the thread.
    ///
    /// What cannot be had is left out and told by [`Reader::problems`].
    ///
    /// # Errors
    ///
    /// sock_diag, the part that all else hangs on, does not answer.
    pub fn sample(&mut self, now: Timestamp) -> Result<KernelSample, Error> {
        self.problems.clear();
        let Dump { sockets, half_open, interrupted, .. } = self.dump()?;
        if interrupted {
            self.problems.push("sock_diag was interrupted: SYN_RECV counts may be off".to_owned());
        }
        self.owners.update(now, &sockets);
        self.problems.extend(self.owners.problem());
        Ok(KernelSample {
            at: now,
            listeners: listeners(&sockets, |socket| self.owners.of(socket)),
            half_open: half_open.into_values().collect(),
            counters: self.counters(),
            sysctls: sysctl::read(&mut self.problems),
            conntrack: conntrack::read(),
            addresses: self.addresses(),
        })
    }

    /// The listeners and the requests: all of them, or, where the kernel tells otherwise how many
    /// there are, as many as it takes to know what they are like.
    fn dump(&mut self) -> Result<Dump, Error> {
        let lengths = OnceCell::new();
        let ask = |dump: &Dump| {
            let lengths = self.queues.get_or_init(open_queues).as_ref()?.lengths();
            let lengths = lengths
                .inspect_err(|error| tracing::debug!(%error, "cannot read the SYN queue lengths"))
                .ok()?;
            Lengths::new(&dump.sockets, &lengths)
        };
        // The listeners, and with them their cookies, come before the first request.
        let mut dump = self.sockets.dump(|dump| {
            dump.requests() >= ENOUGH
                && lengths.get_or_init(|| ask(dump)).as_ref().is_some_and(|l| l.suffice(dump))
        })?;
        if let (false, Some(Some(lengths))) = (dump.complete, lengths.get()) {
            lengths.complete(&mut dump);
        }
        Ok(dump)
    }

    /// What the last sample lacks and why, one line each; empty where it is complete.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    fn counters(&mut self) -> BTreeMap<&'static str, u64> {
        let mut counters = BTreeMap::new();
        for (path, parse) in [
            (netstat::NETSTAT, netstat::tcp_ext as fn(&str) -> BTreeMap<&'static str, u64>),
            (netstat::SNMP, netstat::tcp),
        ] {
            match std::fs::read_to_string(path) {
                Ok(text) => counters.extend(parse(&text)),
                Err(error) => self.problems.push(format!("cannot read {path}: {error}")),
            }
        }
        counters
    }

    /// The addresses of all interfaces, loopback included, each once.
    fn addresses(&mut self) -> Vec<IpAddr> {
        let addresses: BTreeSet<IpAddr> = pnet_datalink::interfaces()
            .iter()
            .flat_map(|interface| &interface.ips)
            .map(|network| network.ip())
            .collect();
        if addresses.is_empty() {
            self.problems.push("no local address found: no interface is up".to_owned());
        }
        addresses.into_iter().collect()
    }
}

fn open_queues() -> Option<SynQueues> {
    SynQueues::open().inspect_err(|error| tracing::debug!(%error, "cannot read the SYN queue lengths, dumping every request")).ok()
}

/// Joins the sockets on one address and port, in order of both. They are one service: the kernel
/// spreads its connections over a SO_REUSEPORT group. (Sockets bound to different interfaces by
/// SO_BINDTODEVICE are joined too.)
fn listeners<'a>(
    sockets: &'a [ListenSocket],
    owner: impl Fn(&'a ListenSocket) -> Option<&'a Process>,
) -> Vec<Listener> {
    let mut groups = BTreeMap::<(IpAddr, u16), Listener>::new();
    for socket in sockets {
        let group = groups.entry((socket.address, socket.port)).or_insert_with(|| Listener {
            address: socket.address,
            port: socket.port,
            dual_stack: false,
            accept_queue: 0,
            backlog: 0,
            sockets: 0,
            process: None,
        });
        group.dual_stack |= socket.dual_stack;
        group.accept_queue = group.accept_queue.saturating_add(socket.accept_queue);
        group.backlog = group.backlog.saturating_add(socket.backlog);
        group.sockets += 1;
        group.process = better_owner(group.process.take(), owner(socket));
    }
    groups.into_values().collect()
}

/// The owner to show of a group: of several processes the one with the lowest id, mostly the
/// parent.
fn better_owner(shown: Option<Process>, other: Option<&Process>) -> Option<Process> {
    let rank = |process: &Process| (process.pid.is_none(), process.pid);
    match (shown, other) {
        (Some(shown), Some(other)) if rank(other) < rank(&shown) => Some(other.clone()),
        (None, other) => other.cloned(),
        (shown, _) => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(address: &str, port: u16, cookie: u64) -> ListenSocket {
        ListenSocket {
            address: address.parse().unwrap(),
            port,
            dual_stack: address == "::",
            accept_queue: 1,
            backlog: 128,
            cookie,
            inode: 7,
            cgroup: None,
        }
    }

    fn process(pid: Option<u32>) -> Process {
        Process { name: None, pid, unit: Some("web.service".to_owned()) }
    }

    #[test]
    fn a_reuseport_group_is_one_listener() {
        let sockets = [
            socket("192.0.2.1", 443, 1),
            socket("::", 80, 2),
            socket("192.0.2.1", 443, 3),
            socket("192.0.2.2", 443, 4),
            socket("192.0.2.1", 443, 5),
        ];
        let owners = [process(None), process(Some(900)), process(Some(812))];
        let listeners = listeners(&sockets, |socket| match socket.cookie {
            1 => Some(&owners[0]),
            3 => Some(&owners[1]),
            5 => Some(&owners[2]),
            _ => None,
        });
        let ports: Vec<_> = listeners.iter().map(|l| (l.address.to_string(), l.port)).collect();
        assert_eq!(
            ports,
            [("192.0.2.1".to_owned(), 443), ("192.0.2.2".to_owned(), 443), ("::".to_owned(), 80)]
        );
        let group = &listeners[0];
        assert_eq!((group.accept_queue, group.backlog, group.sockets), (3, 384, 3));
        assert_eq!(group.process, Some(process(Some(812))));
        assert!(!group.dual_stack);
        assert!(listeners[2].dual_stack);
        assert_eq!(listeners[2].process, None);
    }

    #[test]
    fn a_sample_of_this_host_holds_every_part() {
        let mut reader = Reader::open().unwrap();
        let sample = reader.sample(Timestamp::from_nanos(5)).unwrap();
        assert_eq!(sample.at, Timestamp::from_nanos(5));
        assert!(sample.counters.contains_key("ListenDrops"), "{:?}", reader.problems());
        assert!(!sample.addresses.is_empty());
    }
}
