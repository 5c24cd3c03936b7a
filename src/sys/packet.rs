//! `AF_PACKET` sockets: the system calls, each behind a safe function (packet(7), socket(7)).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

use libc::c_int;
use rustix::net::netdevice::name_to_index;
use thiserror::Error;

/// A system call that failed.
#[derive(Debug, Error)]
#[error("{call}: {source}")]
pub struct Error {
    /// The system call or socket option.
    pub call: &'static str,
    /// What the kernel answered.
    pub source: io::Error,
}

impl Error {
    /// Names the call of an error.
    fn of(call: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self { call, source }
    }
}

/// A packet socket that hears nothing until it is bound, and then only what its filter passes.
pub struct PacketSocket {
    descriptor: OwnedFd,
}

impl PacketSocket {
    /// Opens a socket in the network namespace of the calling thread, with the filter `program`.
    /// Protocol 0: no frame gets in before there is a filter.
    ///
    /// # Errors
    /// The process may not open one (of kind [`io::ErrorKind::PermissionDenied`]), or the kernel
    /// does not take the program.
    pub fn open(program: Vec<libc::sock_filter>) -> Result<Self, Error> {
        const KIND: c_int = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, KIND, 0) };
        check(fd).map_err(Error::of("socket(AF_PACKET)"))?;
        // SAFETY: a descriptor that was just opened and that nothing else owns.
        let descriptor = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { descriptor };
        socket.attach(program)?;
        Ok(socket)
    }

    /// A second descriptor of the same socket, to be given away.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn duplicate(&self) -> Result<RawFd, Error> {
        let descriptor = self.descriptor.try_clone().map_err(Error::of("dup"))?;
        Ok(descriptor.into_raw_fd())
    }

    /// Replaces the filter: between two frames, none is judged by neither or both.
    ///
    /// # Errors
    /// The kernel does not take the program; the filter stays as it was.
    pub fn attach(&self, program: Vec<libc::sock_filter>) -> Result<(), Error> {
        self.set_program(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
            .map_err(Error::of("SO_ATTACH_FILTER"))
    }

    /// Has the socket take no other filter from now on.
    #[cfg(test)]
    pub(crate) fn lock_filter(&self) -> io::Result<()> {
        let on: c_int = 1;
        self.set(libc::SOL_SOCKET, libc::SO_LOCK_FILTER, &on)
    }

    /// Joins the fan-out group of this number, or a new one where there is none, and returns its number. The
    /// socket must be bound, can then not be bound again, and is a member until it is closed (`fanout_add`,
    /// `packet_do_bind`; net/packet/af_packet.c). Needs Linux 4.12.
    ///
    /// The kernel must not put fragments together (`PACKET_FANOUT_FLAG_DEFRAG`): they would arrive late and as
    /// packets that never crossed the wire, and whoever sends fragments could have it keep them. All of
    /// them come to the first member.
    ///
    /// # Errors
    /// The socket is not bound, or the group is full.
    pub fn join_fanout(&self, group: Option<u16>) -> Result<u16, Error> {
        let failed = Error::of("PACKET_FANOUT");
        let kind = match group {
            None => libc::PACKET_FANOUT_CBPF | libc::PACKET_FANOUT_FLAG_UNIQUEID,
            Some(_) => libc::PACKET_FANOUT_CBPF,
        };
        let mut request = u32::from(group.unwrap_or(0)) | kind << 16;
        self.set(libc::SOL_PACKET, libc::PACKET_FANOUT, &request).map_err(&failed)?;
        self.get(libc::SOL_PACKET, libc::PACKET_FANOUT, &mut request).map_err(&failed)?;
        // The upper half repeats the type and flags.
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is wanted")]
        Ok(request as u16)
    }

    /// Gives the socket's fan-out group the program that names the member that gets a frame, as the remainder of
    /// what it returns by the number of members, in the order in which they joined (`fanout_demux_bpf`,
    /// `__fanout_link`).
    ///
    /// Where it replaces a program, it returns when every frame has gone that was on its way to the members of
    /// before (`__fanout_set_data_bpf` waits in `synchronize_net`).
    ///
    /// # Errors
    /// The kernel does not take the program, or the socket is in no group.
    pub fn divide(&self, program: Vec<libc::sock_filter>) -> Result<(), Error> {
        self.set_program(libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, program)
            .map_err(Error::of("PACKET_FANOUT_DATA"))
    }

    fn set_program(
        &self,
        level: c_int,
        option: c_int,
        mut program: Vec<libc::sock_filter>,
    ) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(program.len()).unwrap_or(u16::MAX),
            filter: program.as_mut_ptr(),
        };
        self.set(level, option, &program)
    }

    /// Makes a receive ring of `blocks` blocks of `block_size` octets each.
    ///
    /// # Errors
    /// The kernel has no such rings, or no memory for one.
    pub fn create_ring(
        &self,
        block_size: usize,
        blocks: usize,
        retire_timeout: Duration,
    ) -> Result<(), Error> {
        /// Has no meaning with blocks of frames of any length, but must divide the block.
        const FRAME_SIZE: usize = 2048;
        let unsigned = |number: usize| libc::c_uint::try_from(number).unwrap_or(libc::c_uint::MAX);
        let request = libc::tpacket_req3 {
            tp_block_size: unsigned(block_size),
            tp_block_nr: unsigned(blocks),
            tp_frame_size: unsigned(FRAME_SIZE),
            tp_frame_nr: unsigned((block_size / FRAME_SIZE).saturating_mul(blocks)),
            tp_retire_blk_tov: u32::try_from(retire_timeout.as_millis()).unwrap_or(u32::MAX),
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        let version = libc::tpacket_versions::TPACKET_V3 as c_int;
        self.set(libc::SOL_PACKET, libc::PACKET_VERSION, &version)
            .map_err(Error::of("PACKET_VERSION"))?;
        self.set(libc::SOL_PACKET, libc::PACKET_RX_RING, &request)
            .map_err(Error::of("PACKET_RX_RING"))
    }

    /// Maps the ring's `length` octets.
    ///
    /// # Errors
    /// There is no ring of that length, or no room for it.
    pub fn map(&self, length: usize) -> Result<NonNull<u8>, Error> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                self.descriptor.as_raw_fd(),
                0,
            )
        };
        let failed = || Error { call: "mmap", source: io::Error::last_os_error() };
        if start == libc::MAP_FAILED {
            return Err(failed());
        }
        NonNull::new(start.cast()).ok_or_else(failed)
    }

    /// Starts to hear the frames of all protocols on an interface, or on all for index 0.
    ///
    /// # Errors
    /// There is no such interface, or the socket is in a fan-out group.
    pub fn bind(&self, index: u32) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::sa_family_t,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: a valid address and its length.
        check(unsafe {
            libc::bind(
                self.descriptor.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val_u32(&address),
            )
        })
    }

    /// The index of the interface it is bound to: 0 for all, `u32::MAX` where that is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bound_index(&self) -> io::Result<u32> {
        self.address().map(|address| address.sll_ifindex.cast_unsigned())
    }

    /// The `ARPHRD_` type of the interface it is bound to.
    ///
    /// # Errors
    /// The kernel's.
    pub fn hardware_type(&self) -> io::Result<u16> {
        self.address().map(|address| address.sll_hatype)
    }

    fn address(&self) -> io::Result<libc::sockaddr_ll> {
        // SAFETY: all zeroes is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let mut length = size_of_val_u32(&address);
        // SAFETY: room for an address of the length given; the kernel writes no more.
        check(unsafe {
            libc::getsockname(
                self.descriptor.as_raw_fd(),
                (&raw mut address).cast(),
                &raw mut length,
            )
        })?;
        Ok(address)
    }

    /// The index of an interface by its name, in the network namespace of the socket.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn interface_index(&self, name: &str) -> io::Result<u32> {
        Ok(name_to_index(&self.descriptor, name)?)
    }

    /// Packets that passed the filter, and those of them that were dropped, since the last call.
    ///
    /// # Errors
    /// The kernel's; none is known.
    pub fn take_statistics(&self) -> io::Result<(u32, u32)> {
        // A socket without a ring fills in the first two members only, which is all we read.
        let mut stats = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        self.get(libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut stats)?;
        Ok((stats.tp_packets, stats.tp_drops))
    }

    /// Takes the error that waits on the socket: ENETDOWN, once, where its interface has gone down.
    /// It must be taken, or every poll(2) would return at once.
    fn clear_error(&self) -> io::Result<()> {
        let mut error: c_int = 0;
        self.get(libc::SOL_SOCKET, libc::SO_ERROR, &mut error)
    }

    fn set<T>(&self, level: c_int, option: c_int, value: &T) -> io::Result<()> {
        // SAFETY: a valid value and its length; the kernel copies it (and, for a filter, the program).
        check(unsafe {
            libc::setsockopt(
                self.descriptor.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of_val_u32(value),
            )
        })
    }

    fn get<T: Copy>(&self, level: c_int, option: c_int, value: &mut T) -> io::Result<()> {
        let mut length = size_of_val_u32(value);
        // SAFETY: room for a value of the length given, all bit patterns of which are valid for the
        // plain integers used here; the kernel writes no more.
        check(unsafe {
            libc::getsockopt(
                self.descriptor.as_raw_fd(),
                level,
                option,
                std::ptr::from_mut(value).cast(),
                &raw mut length,
            )
        })
    }
}

/// Waits until a socket has something to read, the timeout has passed or a signal has arrived, and
/// says of each socket whether it has.
///
/// # Errors
/// The kernel's; a signal is none.
pub fn wait<'a>(
    sockets: impl Iterator<Item = &'a PacketSocket> + Clone,
    timeout: Duration,
) -> Result<Vec<bool>, Error> {
    let mut polled: Vec<libc::pollfd> = sockets
        .clone()
        .map(|socket| libc::pollfd {
            fd: socket.descriptor.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // Rounded up: a timeout of less than a millisecond must not become a busy loop.
    let millis = c_int::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX);
    // SAFETY: an array of the length given.
    let result =
        check(unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) });
    match result {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            return Ok(vec![false; polled.len()]);
        }
        result => result.map_err(Error::of("poll"))?,
    }
    for (socket, polled) in sockets.zip(&polled) {
        if polled.revents & libc::POLLERR != 0 {
            socket.clear_error().map_err(Error::of("SO_ERROR"))?;
        }
    }
    Ok(polled.iter().map(|polled| polled.revents & libc::POLLIN != 0).collect())
}

/// The result of a system call that returns -1 on failure.
fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The size of a value as the socket calls want it.
fn size_of_val_u32<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(mem::size_of_val(value)).unwrap_or(0)
}
