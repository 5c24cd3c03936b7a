//! Frames that an XDP program copies before the kernel makes a socket buffer of them (feature
//! `ebpf`).
//!
//! For mirror ports, where both directions come in: XDP sees nothing that this host sends. On a
//! server the answers are missing, which the report shows as `one_way_ingress`; the ring is better
//! there.
//!
//! The program lets every packet pass. It counts segments and copies those that
//! [`crate::capture::filter`] would pass, of the flows of the [`Selection`], and what it cannot
//! tell: fragments, long chains of headers. Interfaces must be named, since a network card may
//! restart its queues for it; one that is deleted and created anew is not followed, as that would
//! need privileges. Opening needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, reading nothing, and the
//! program goes with the process.

mod program;
mod record;

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aya::maps::{MapData, MapError, RingBuf};
use aya::programs::ProgramError;
use aya::{EbpfError, sys::SyscallError};
use caps::{CapSet, Capability};
use program::{Program, Rules};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use synwatch_core::observe::CaptureStats;
use synwatch_core::time::Timestamp;
use synwatch_core::wire::LinkType;

use crate::capture::{self, Batch, Direction, Frame, Interfaces, Selection, Settings, Source};
use crate::sys::Needs;

/// How long frames may gather before they are read: it adds to the delay of an alert, and bounds
/// the wake-ups of a slow trickle. Without frames there are none.
const GATHER: Duration = Duration::from_millis(64);

/// Octets that end the gathering: at 1 M frames/s reached every 1.5 ms, so a wake-up is paid by
/// some 1,500.
const WAKE: u32 = 256 << 10;

/// Frames of a batch at most: nobody waits longer for what is done between batches.
const BATCH: usize = 4096;

/// Frames from an XDP program.
pub struct Xdp {
    interfaces: Interfaces,
    program: Program,
    rules: Rules,
    frames: RingBuf<MapData>,
    wake_ups: OwnedFd,
    /// More frames wait than the last batch took.
    unread: bool,
    counts: Counts,
}

/// What the program counted, whether it passed it up or not; of TCP only the ports that are wanted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Packets of any kind.
    pub packets: u64,
    /// Segments of handshakes and teardowns; all of TCP where data passes.
    pub segments: u64,
    /// SYN without ACK, RST, FIN.
    pub syn: u64,
    /// SYN-ACK without RST, FIN.
    pub syn_ack: u64,
    /// Segments that were chosen and passed up.
    pub passed: u64,
    /// Segments that were chosen and found no room.
    pub lost: u64,
}

impl Xdp {
    /// Attaches the program in the network namespace of the calling thread.
    ///
    /// # Errors
    /// No interface, one that is unknown or has a program already, missing privileges, or a kernel
    /// that does not take the program.
    pub fn open(settings: &Settings) -> Result<Self, capture::Error> {
        settings.interfaces.check()?;
        let Interfaces::Named(names) = &settings.interfaces else {
            return Err(Error::NoInterface.into());
        };
        let present = settings.interfaces.present();
        if let Some(other) = present.iter().find(|interface| interface.mac.is_none()) {
            return Err(Error::NotEthernet { interface: other.name.clone() }.into());
        }
        check_privileges()?;
        let ring_bytes = ring_bytes(settings.ring_bytes);
        let (program, frames) = Program::load(ring_bytes, &settings.ports)?;
        let wake_ups = wake_ups(&frames).map_err(Error::Wait)?;
        let rules = Rules {
            wake: WAKE.min(ring_bytes / 4),
            ports: !settings.ports.is_empty(),
            selection: Selection::default(),
        };
        let mut xdp = Self {
            interfaces: settings.interfaces.clone(),
            program,
            rules,
            frames,
            wake_ups,
            unread: false,
            counts: Counts::default(),
        };
        xdp.program.set_rules(&xdp.rules)?;
        // Last of all: from here on frames arrive.
        for name in names {
            xdp.program.attach(name)?;
        }
        Ok(xdp)
    }

    /// What was counted since the start: the last known where the kernel does not say.
    pub fn counts(&mut self) -> Counts {
        if let Ok(counts) = self.program.counts() {
            self.counts = counts;
        }
        self.counts
    }

    /// Waits for frames, and then for more of them.
    fn wait(&self, timeout: Duration) -> Result<(), Error> {
        let started = Instant::now();
        if self.wait_for_wake_up(timeout)? {
            // The first of them. What wakes now is that enough have gathered.
            let left = timeout.saturating_sub(started.elapsed());
            self.wait_for_wake_up(GATHER.min(left))?;
        }
        Ok(())
    }

    /// Whether the program woke us; not where the timeout passed or a signal arrived.
    fn wait_for_wake_up(&self, timeout: Duration) -> Result<bool, Error> {
        let timeout = Timespec::try_from(timeout).ok();
        let mut events = [MaybeUninit::uninit()];
        match epoll::wait(&self.wake_ups, &mut events, timeout.as_ref()) {
            Ok((events, _)) => Ok(!events.is_empty()),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(Error::Wait(error)),
        }
    }
}

impl Source for Xdp {
    fn name(&self) -> &'static str {
        "xdp"
    }

    fn interfaces(&self) -> Vec<String> {
        self.interfaces.names()
    }

    fn read_batch(
        &mut self,
        timeout: Duration,
        visit: &mut dyn FnMut(Frame<'_>),
    ) -> Result<Batch, capture::Error> {
        if !self.unread {
            self.wait(timeout)?;
        }
        let boot = boot();
        let mut count = 0;
        while count < BATCH
            && let Some(octets) = self.frames.next()
        {
            count += 1;
            let Some(frame) = frame(&octets, boot) else {
                self.unread = true;
                return Ok(Batch::Damaged);
            };
            visit(frame);
        }
        self.unread = count == BATCH;
        Ok(if count == 0 { Batch::Idle } else { Batch::Frames })
    }

    /// The counters are read for each processor that there may be.
    fn needs(&self) -> Needs {
        Needs { readable: vec!["/sys/devices/system/cpu".into()], ..Needs::default() }
    }

    fn stats(&mut self) -> CaptureStats {
        let Counts { passed, lost, .. } = self.counts();
        CaptureStats { received: passed + lost, dropped: lost }
    }

    fn select(&mut self, selection: &Selection) -> Result<(), capture::Error> {
        if self.rules.selection != *selection {
            let rules = Rules { selection: selection.clone(), ..self.rules };
            self.program.set_rules(&rules)?;
            self.rules = rules;
        }
        Ok(())
    }
}

/// The frame of a record; `boot` is when CLOCK_BOOTTIME began.
fn frame(octets: &[u8], boot: u64) -> Option<Frame<'_>> {
    let record = record::read(octets)?;
    Some(Frame {
        at: Timestamp::from_nanos(record.time.wrapping_add(boot)),
        link: LinkType::Ethernet,
        data: record.data,
        original_len: record.length,
        interface: record.interface,
        direction: Direction::Incoming,
    })
}

/// When CLOCK_BOOTTIME began, by the system's clock as it is now; nanoseconds since the Unix epoch.
fn boot() -> u64 {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let up = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    nanos(wall).wrapping_sub(nanos(up))
}

/// A descriptor to wait on, which fires at each of the program's wake-ups and not as long as frames
/// wait.
fn wake_ups(frames: &RingBuf<MapData>) -> Result<OwnedFd, Errno> {
    let wake_ups = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&wake_ups, frames, epoll::EventData::new_u64(0), flags)?;
    Ok(wake_ups)
}

/// The size of the ring that fits into `bytes`: a power of two, as the kernel wants it.
fn ring_bytes(bytes: usize) -> u32 {
    const MIN: u32 = 64 << 10;
    const MAX: u32 = 1 << 30;
    let bytes = u32::try_from(bytes).unwrap_or(MAX).clamp(MIN, MAX);
    1 << bytes.ilog2()
}

/// Says which privilege is missing before the kernel says that some is.
fn check_privileges() -> Result<(), Error> {
    use Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true);
    // CAP_SYS_ADMIN includes the other two (capabilities(7)).
    let needed: &[Capability] = match has(CAP_SYS_ADMIN) {
        true => &[CAP_NET_ADMIN],
        false => &[CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON],
    };
    let missing = needed.iter().filter(|capability| !has(**capability));
    let missing: Vec<_> = missing.map(ToString::to_string).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Error::Permission { missing: missing.join(", ") }),
    }
}

/// Why there are no frames by XDP.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No interface is named.
    #[error("XDP needs named interfaces: -i NAME or capture.interfaces")]
    NoInterface,
    /// The program reads Ethernet only.
    #[error("XDP on {interface}: not an Ethernet interface")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// The process may not load or attach programs.
    #[error("XDP is not permitted: missing {missing}")]
    Permission {
        /// The capabilities.
        missing: String,
    },
    /// The kernel does not take the program or its maps.
    #[error("cannot load the XDP program (Linux 5.19 or later?): {}", chain(_0))]
    Load(#[from] EbpfError),
    /// The program cannot be attached.
    #[error("XDP on {interface}: {cause}")]
    Attach {
        /// The name of the interface.
        interface: String,
        /// What the kernel answered.
        cause: String,
    },
    /// A map of the program cannot be read or written.
    #[error("the XDP program's memory: {}", chain(_0))]
    Map(#[from] MapError),
    /// Waiting for frames failed.
    #[error("the XDP program's ring: {0}")]
    Wait(Errno),
}

impl Error {
    fn attach(interface: &str, source: &ProgramError) -> Self {
        let cause = match is_busy(source) {
            true => "another program is attached there (ip link show)".to_owned(),
            false => chain(source),
        };
        Self::Attach { interface: interface.to_owned(), cause }
    }
}

/// Whether another program is in the way.
fn is_busy(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => {
            io_error.kind() == std::io::ErrorKind::ResourceBusy
        }
        _ => false,
    }
}

/// An error with its causes, the first line of each.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut lines: Vec<String> =
        causes.filter_map(|cause| cause.to_string().lines().next().map(str::to_owned)).collect();
    lines.dedup();
    lines.join(": ")
}
