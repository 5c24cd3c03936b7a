//! A long line between two hosts: a tun device at either end, and threads that hold each packet
//! back. Not every kernel has netem.

use std::ffi::c_short;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::netns::Namespace;

/// The interface at either end.
pub const LINE: &str = "line0";
/// No line stands longer.
const TIME_CAP: Duration = Duration::from_secs(60);
/// Packets on their way in one direction. What comes on top is lost, as on any line.
const CAPACITY: usize = 4_096;
/// How often a line without traffic looks whether it is to end.
const PERIOD: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A line. Dropping it ends it.
pub struct Line {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Line {
    /// Joins two hosts: a packet takes `delay` either way.
    pub fn between(near: &Namespace, far: &Namespace, delay: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let [near, far] = [near, far].map(|host| Arc::new(open(host)));
        let mut threads = Vec::new();
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (from, to, told) = (Arc::clone(from), Arc::clone(to), Arc::clone(&stop));
            let (sender, receiver) = sync_channel(CAPACITY);
            threads.push(thread::spawn(move || take_in(&from, delay, &sender, &told)));
            threads.push(thread::spawn(move || give_out(&to, &receiver)));
        }
        Self { stop, threads }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A packet, and when it arrives.
type UnderWay = (Instant, Vec<u8>);

/// A line waits for no processor. Where that cannot be had it is slower while others compute.
fn hurry() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads one `sched_param`; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &priority) };
}

fn take_in(mut from: &File, delay: Duration, line: &SyncSender<UnderWay>, stop: &AtomicBool) {
    hurry();
    let started = Instant::now();
    let mut packet = [0; 2_048];
    while started.elapsed() < TIME_CAP && !stop.load(Ordering::Relaxed) {
        poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&PERIOD)).expect("poll");
        while let Ok(length) = from.read(&mut packet) {
            let _ = line.try_send((Instant::now() + delay, packet[..length].to_vec()));
        }
    }
}

fn give_out(mut to: &File, line: &Receiver<UnderWay>) {
    hurry();
    for (due, packet) in line {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // An interface that is down takes nothing.
        let _ = to.write(&packet);
    }
}

/// A new tun device of `host`, up.
fn open(host: &Namespace) -> File {
    let device = host.run(|| -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let device = options.open("/dev/net/tun")?;
        // SAFETY: of all zeroes every field is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(LINE.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as c_short;
        // SAFETY: the kernel reads and writes one `ifreq`.
        let outcome = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &mut request) };
        if outcome == 0 { Ok(device) } else { Err(io::Error::last_os_error()) }
    });
    // Longer than what comes while this process is not run for a moment.
    host.ip(&format!("link set {LINE} up txqueuelen {CAPACITY}"));
    device.unwrap_or_else(|error| panic!("no tun device: {error}"))
}
