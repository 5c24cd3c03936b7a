//! How many requests each listening socket has in SYN_RECV, without a look at any of them.
//!
//! The kernel counts them (`icsk_accept_queue.qlen`), and decides by that number whether a queue is
//! full, but shows it nowhere. So a BPF program iterates over the TCP sockets of the namespace
//! (`bpf_iter_tcp`, Linux 5.9) and writes down the number for those in LISTEN; these come first,
//! and at the first other socket it stops.
//!
//! It needs CAP_BPF and CAP_PERFMON to be loaded, none to be run (Linux 5.19).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use synwatch_core::observe::{KernelHalfOpen, Listener};

use crate::sys::bpf::{self, Instruction, TRACE_ITER, instruction, op};
use crate::sys::privileges::{self, Capability};

use super::btf::{Item, look_up};
use super::dump::{Dump, LISTEN, ListenSocket};
use super::listeners;

/// `BPF_PROG_TYPE_TRACING` of `enum bpf_prog_type`.
const TRACING: u32 = 26;

/// Helpers (`enum bpf_func_id`).
const SEQ_WRITE: i32 = 127;
const SKC_TO_TCP_SOCK: i32 = 137;

/// The way to the lengths of the SYN queues.
pub(super) struct SynQueues {
    link: OwnedFd,
}

impl SynQueues {
    /// Loads the program.
    ///
    /// # Errors
    /// A capability is missing, or the kernel is older, or does not tell its layout.
    pub fn open() -> io::Result<Self> {
        let may = [Capability::CAP_BPF, Capability::CAP_PERFMON].into_iter().all(privileges::has);
        if !may {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let items = [
            Item::Function("bpf_iter_tcp"),
            Item::Member("sock_common", "skc_state"),
            Item::Member("sock_common", "skc_cookie"),
            Item::Member("inet_connection_sock", "icsk_accept_queue"),
            Item::Member("request_sock_queue", "qlen"),
        ];
        let [iterator, state, cookie, queue, length] =
            look_up(&bpf::kernel_types()?, items).ok_or(io::ErrorKind::Unsupported)?;
        let offsets = [state, cookie, queue + length].map(i16::try_from);
        let [Ok(state), Ok(cookie), Ok(length)] = offsets else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let program = program(state, cookie, length);
        let program = bpf::load(TRACING, (TRACE_ITER, iterator), &program)?;
        Ok(Self { link: bpf::attach_iterator(&program)? })
    }

    /// The requests in SYN_RECV of each listening socket in the calling thread's network namespace,
    /// by the socket's cookie, which a socket has from the first time that sock_diag or another
    /// asks for it.
    ///
    /// # Errors
    /// The kernel does not let the program be run.
    pub fn lengths(&self) -> io::Result<HashMap<u64, u32>> {
        let mut iterator = File::from(bpf::open_iterator(&self.link)?);
        // As much as the kernel gives at once: where it begins again it may miss a socket.
        let mut bytes = Vec::with_capacity(32 * 1024);
        match iterator.read_to_end(&mut bytes) {
            // The program has stopped at a socket that does not listen.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        let (numbers, _) = bytes.as_chunks();
        let (rows, _) = numbers.as_chunks();
        let row = |row: &[_; 2]| {
            let [cookie, length] = row.map(u64::from_ne_bytes);
            // An int, which is raised after the request can be found and so removed.
            (cookie, (length as i32).max(0).cast_unsigned())
        };
        Ok(rows.iter().map(row).collect())
    }
}

/// The program, for a kernel that has the state and the cookie at these offsets of `struct
/// sock_common` and the length of the queue at that of `struct tcp_sock`.
fn program(state: i16, cookie: i16, length: i16) -> [Instruction; 22] {
    [
        // struct bpf_iter__tcp: its meta data, and the socket, which is none at the end.
        instruction(op::MOVE, 6, 1, 0, 0),
        instruction(op::LOAD_LONG, 7, 6, 8, 0),
        instruction(op::JUMP_IF_NUMBER, 7, 0, 15, 0),
        instruction(op::LOAD_BYTE, 1, 7, state, 0),
        instruction(op::JUMP_IF_NOT_NUMBER, 1, 0, 15, LISTEN.into()),
        // Both numbers go into the frame,
        instruction(op::LOAD_LONG, 1, 7, cookie, 0),
        instruction(op::STORE_LONG, 10, 1, -16, 0),
        instruction(op::MOVE, 1, 7, 0, 0),
        instruction(op::CALL, 0, 0, 0, SKC_TO_TCP_SOCK),
        instruction(op::JUMP_IF_NUMBER, 0, 0, 8, 0),
        instruction(op::LOAD_WORD, 1, 0, length, 0),
        instruction(op::STORE_LONG, 10, 1, -8, 0),
        // and from there into the file, with which the meta data begins.
        instruction(op::LOAD_LONG, 1, 6, 0, 0),
        instruction(op::LOAD_LONG, 1, 1, 0, 0),
        instruction(op::MOVE, 2, 10, 0, 0),
        instruction(op::ADD_NUMBER, 2, 0, 0, -16),
        instruction(op::MOVE_NUMBER, 3, 0, 0, 16),
        instruction(op::CALL, 0, 0, 0, SEQ_WRITE),
        // On to the next.
        instruction(op::MOVE_NUMBER, 0, 0, 0, 0),
        instruction(op::EXIT, 0, 0, 0, 0),
        // Not this one, and so no other.
        instruction(op::MOVE_NUMBER, 0, 0, 0, 1),
        instruction(op::EXIT, 0, 0, 0, 0),
    ]
}

/// Fewer requests than these in a queue are nothing to ask about: no verdict hangs on them.
const FEW: u32 = 16;
/// So many tell what the others of a queue are like. The dump follows the kernel's hash table,
/// whose order is keyed and has nothing to do with the addresses: the first ones are as good a
/// sample as any, and a share of them is off by 1.1 percentage points at most (one standard error).
pub(super) const ENOUGH: u32 = 2_048;

/// The lengths of the SYN queues of all services.
pub(super) struct Lengths {
    listeners: Vec<Listener>,
    /// By the addresses and ports of the listeners.
    lengths: BTreeMap<(IpAddr, u16), u32>,
}

impl Lengths {
    /// The lengths by the sockets' cookies as lengths of their services; none where one is missing.
    pub fn new(sockets: &[ListenSocket], by_cookie: &HashMap<u64, u32>) -> Option<Self> {
        let mut lengths = BTreeMap::<_, u32>::new();
        for socket in sockets {
            let length = lengths.entry((socket.address, socket.port)).or_default();
            *length = length.saturating_add(*by_cookie.get(&socket.cookie)?);
        }
        Some(Self { listeners: listeners(sockets, |_| None), lengths })
    }

    /// Whether the requests of `dump` tell what those in the queues are like. Not where one is in
    /// no queue: its listener is gone, or has another address (transparent proxies).
    pub fn suffice(&self, dump: &Dump) -> bool {
        let mut seen = BTreeMap::<_, u32>::new();
        for row in dump.half_open.values() {
            *seen.entry(self.listener(row)).or_default() += row.count;
        }
        let is_known = |(listener, length): (&(IpAddr, u16), &u32)| {
            let seen = seen.get(&Some(*listener)).copied().unwrap_or_default();
            *length < FEW || seen >= (*length).min(ENOUGH)
        };
        !seen.contains_key(&None) && self.lengths.iter().all(is_known)
    }

    /// Has the requests of `dump` stand for all that are in the queues.
    pub fn complete(&self, dump: &mut Dump) {
        let mut seen = BTreeMap::<_, Vec<&mut KernelHalfOpen>>::new();
        let mut unseen = Vec::new();
        for row in dump.half_open.values_mut() {
            seen.entry(self.listener(row)).or_default().push(row);
        }
        for (listener, length) in &self.lengths {
            match seen.get_mut(&Some(*listener)) {
                Some(rows) => scale(rows, *length),
                None if *length > 0 => unseen.push((*listener, *length)),
                None => {}
            }
        }
        for ((address, port), count) in unseen {
            let row =
                KernelHalfOpen { address, port, count, retransmitted: 0, sources: Vec::new() };
            dump.half_open.insert((address, port), row);
        }
    }

    /// The address and port of the listener that a request belongs to.
    fn listener(&self, row: &KernelHalfOpen) -> Option<(IpAddr, u16)> {
        let listener = Listener::taking(&self.listeners, row.address, row.port)?;
        Some((listener.address, listener.port))
    }
}

/// Has rows stand for `total` requests, each for its share.
fn scale(rows: &mut [&mut KernelHalfOpen], total: u32) {
    let seen: u64 = rows.iter().map(|row| u64::from(row.count)).sum();
    let (mut before, mut shared_out) = (0, 0);
    for row in rows {
        let count = u64::from(row.count);
        before += count;
        // Never more than the total.
        let upto = (u64::from(total) * before / seen.max(1)) as u32;
        row.retransmitted =
            (u64::from(row.retransmitted) * u64::from(upto - shared_out) / count.max(1)) as u32;
        row.count = upto - shared_out;
        shared_out = upto;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use socket2::SockRef;

    use super::*;
    use crate::sys::headers::assert_agree;

    #[test]
    fn numbers_are_the_kernels() {
        assert_agree(
            &["linux/bpf.h"],
            &[
                ("BPF_PROG_TYPE_TRACING", TRACING.into()),
                ("BPF_FUNC_seq_write", SEQ_WRITE as u64),
                ("BPF_FUNC_skc_to_tcp_sock", SKC_TO_TCP_SOCK as u64),
            ],
        );
    }

    /// The way to the lengths, or the reason why there is none here.
    fn open() -> Option<SynQueues> {
        let opened = SynQueues::open();
        if let Err(error) = &opened {
            eprintln!("skipped: {error}");
            let kind = error.kind();
            let missing = [
                io::ErrorKind::PermissionDenied,
                io::ErrorKind::NotFound,
                io::ErrorKind::Unsupported,
            ];
            assert!(missing.contains(&kind), "it is not for want of a capability or a layout");
        }
        opened.ok()
    }

    #[test]
    fn every_listener_of_the_namespace_is_told_with_or_without_capabilities() {
        let Some(queues) = open() else { return };
        let listeners = ["127.0.0.1:0", "[::1]:0"].map(TcpListener::bind);
        let cookies: Vec<_> =
            listeners.iter().flatten().map(|l| SockRef::from(l).cookie().unwrap()).collect();
        thread::scope(|scope| {
            for drops in [false, true] {
                let queues = &queues;
                let cookies = &cookies;
                let look = move || {
                    if drops {
                        privileges::drop_except(&[]).unwrap();
                    }
                    let lengths = match queues.lengths() {
                        Err(error) if drops && error.kind() == io::ErrorKind::PermissionDenied => {
                            return eprintln!("skipped: {error} (before Linux 5.19)");
                        }
                        outcome => outcome.unwrap(),
                    };
                    assert!(cookies.iter().all(|cookie| lengths.get(cookie) == Some(&0)));
                };
                scope.spawn(look).join().unwrap();
            }
        });
    }

    const PORT: u16 = 443;

    fn lengths(sockets: &[ListenSocket], of: &[(u64, u32)]) -> Lengths {
        Lengths::new(sockets, &of.iter().copied().collect()).unwrap()
    }

    fn socket(address: &str, cookie: u64, dual_stack: bool) -> ListenSocket {
        ListenSocket {
            address: address.parse().unwrap(),
            port: PORT,
            dual_stack,
            accept_queue: 0,
            backlog: 4_096,
            cookie,
            inode: 0,
            cgroup: None,
        }
    }

    /// Of `count` requests to an address, `retransmitted` are old.
    fn dump(rows: &[(&str, u32, u32)]) -> Dump {
        let row = |&(address, count, retransmitted): &(&str, u32, u32)| {
            let address = address.parse().unwrap();
            let row =
                KernelHalfOpen { address, port: PORT, count, retransmitted, sources: Vec::new() };
            ((address, PORT), row)
        };
        Dump { half_open: rows.iter().map(row).collect(), ..Dump::default() }
    }

    fn complete(lengths: &Lengths, rows: &[(&str, u32, u32)]) -> Vec<(String, u32, u32)> {
        let mut dump = dump(rows);
        lengths.complete(&mut dump);
        let row = |row: &KernelHalfOpen| (row.address.to_string(), row.count, row.retransmitted);
        dump.half_open.values().map(row).collect()
    }

    fn rows(rows: &[(&str, u32, u32)]) -> Vec<(String, u32, u32)> {
        rows.iter().map(|row| (row.0.to_owned(), row.1, row.2)).collect()
    }

    #[test]
    fn a_part_of_the_requests_stands_for_all() {
        let sockets = [socket("192.0.2.1", 1, false), socket("192.0.2.1", 2, false)];
        assert!(Lengths::new(&sockets, &HashMap::from([(1, 30_000)])).is_none(), "one is missing");
        let lengths = lengths(&sockets, &[(1, 30_000), (2, 3_000)]);
        assert!(!lengths.suffice(&dump(&[])));
        assert!(!lengths.suffice(&dump(&[("192.0.2.1", ENOUGH - 1, 0)])));
        assert!(!lengths.suffice(&dump(&[("192.0.2.2", ENOUGH, 0)])), "another service");
        let stray = [("192.0.2.1", ENOUGH, 0), ("192.0.2.2", 1, 0)];
        assert!(!lengths.suffice(&dump(&stray)), "one that is in no queue");
        assert!(lengths.suffice(&dump(&[("192.0.2.1", ENOUGH, 0)])));
        let part = [("192.0.2.1", 2_200, 550)];
        assert_eq!(complete(&lengths, &part), rows(&[("192.0.2.1", 33_000, 8_250)]));
    }

    #[test]
    fn short_queues_are_seen_whole_or_not_at_all() {
        let sockets = [socket("192.0.2.1", 1, false), socket("192.0.2.2", 2, false)];
        let of = |first, second| lengths(&sockets, &[(1, first), (2, second)]);
        assert!(of(0, FEW - 1).suffice(&dump(&[])), "nobody asks");
        assert!(!of(0, FEW).suffice(&dump(&[("192.0.2.2", FEW - 1, 0)])));
        assert!(of(0, FEW).suffice(&dump(&[("192.0.2.2", FEW, 0)])));
        let unseen = [("192.0.2.2", FEW - 1, 0)];
        assert_eq!(complete(&of(0, FEW - 1), &[]), rows(&unseen));
    }

    #[test]
    fn requests_go_to_the_listener_that_the_kernel_finds_for_them() {
        let own = socket("192.0.2.1", 1, false);
        let (v4, v6) = (socket("0.0.0.0", 2, false), socket("::", 3, false));
        let dual = socket("::", 4, true);
        let to = |sockets: &[ListenSocket], address| {
            let lengths = lengths(sockets, &[(1, 100), (2, 200), (3, 300), (4, 400)]);
            complete(&lengths, &[(address, 1, 0)])
                .into_iter()
                .find_map(|(found, count, _)| (found == address).then_some(count))
        };
        let all = [own.clone(), v4.clone(), dual.clone()];
        assert_eq!(to(&all, "192.0.2.1"), Some(100));
        assert_eq!(to(&all, "192.0.2.2"), Some(200));
        assert_eq!(to(&all, "2001:db8::1"), Some(400));
        assert_eq!(to(&[own.clone(), dual], "192.0.2.2"), Some(400));
        assert_eq!(to(&[own, v6], "192.0.2.2"), Some(1), "left as it is");
        assert_eq!(to(&[v4], "2001:db8::1"), Some(1), "left as it is");
    }

    #[test]
    fn the_shares_of_a_wildcard_listener_sum_up_to_its_length() {
        let lengths = lengths(&[socket("::", 1, true)], &[(1, 10_000)]);
        let part = [("192.0.2.1", 700, 700), ("192.0.2.2", 700, 0), ("2001:db8::1", 700, 350)];
        let expected =
            [("192.0.2.1", 3_333, 3_333), ("192.0.2.2", 3_333, 0), ("2001:db8::1", 3_334, 1_667)];
        assert_eq!(complete(&lengths, &part), rows(&expected));
    }
}
