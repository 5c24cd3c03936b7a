//! The default source: an `AF_PACKET` socket with a `TPACKET_V3` receive ring
//! (Linux, Documentation/networking/packet_mmap.rst).
//!
//! The kernel writes frames into blocks of memory that it shares with us and hands over a block
//! when it is full, or when its first frame has waited for 64 ms. Needs CAP_NET_RAW to open,
//! nothing to read, and leaves nothing behind.
//!
//! By default one socket listens on every interface, so that those which come up later are heard
//! too; interfaces asked for by name get a socket and a share of the memory each, so that traffic
//! on others costs nothing.
//!
//! # More than one core
//! A group of rings shares the traffic ([`Ring::open_group`]): their sockets are members of a
//! fan-out group, to which the kernel delivers each frame once, to the member that a
//! [program](filter::fanout()) chooses by the flow. A member can never be bound again, and opening
//! another socket takes a capability that the process may have given up. So each ring of a group
//! has one socket on every interface, also where interfaces are asked for by name; then its filter
//! keeps to those, which it can be told anew when one is created again.

mod block;
mod map;

use std::io;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use block::Packet;
use map::Map;
use synwatch_core::observe::CaptureStats;
use synwatch_core::sampling::SamplingKey;
use synwatch_core::time::Timestamp;
use synwatch_core::wire::LinkType;

use crate::capture::filter::{self, Filter};
use crate::capture::socket::{FilteredSocket, select, update, wait};
use crate::capture::{Batch, Direction, Error, Frame, Interfaces, Selection, Settings, Source};

/// Octets of a block: at 1 M packets/s one is full every 1.6 ms, so a wake-up is paid by some
/// 1,600 packets, and a block still fits in a core's cache.
const BLOCK_SIZE: usize = 256 << 10;

/// Fewest blocks of a socket: the kernel fills one while another is read.
const MIN_BLOCKS: usize = 4;

/// How long a frame may wait in a block that does not fill: it adds to the delay of an alert, and
/// bounds the wake-ups of a slow trickle to 16 per second. An empty block is never handed over, so
/// without traffic there are none.
const RETIRE_TIMEOUT: Duration = Duration::from_millis(64);

/// How often interfaces are looked up, to follow one asked for by name that was created again.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);

/// Frames from `AF_PACKET` rings.
pub struct Ring {
    interfaces: Interfaces,
    /// Those of them that there were at the last look-up.
    names: Vec<String>,
    filter: Filter,
    taps: Vec<Tap>,
    /// The tap whose turn it is: none can starve the others.
    turn: usize,
    next_lookup: Instant,
}

impl Ring {
    /// Listens in the network namespace of the calling thread.
    ///
    /// # Errors
    /// An unknown interface, no CAP_NET_RAW, or not enough memory for the ring.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        settings.interfaces.check()?;
        let filter = settings.filter();
        let taps = match &settings.interfaces {
            Interfaces::Up | Interfaces::Any => {
                vec![Tap::open(&filter, settings.ring_bytes, None)?]
            }
            Interfaces::Named(names) => names
                .iter()
                .map(|name| Tap::open(&filter, settings.ring_bytes / names.len(), Some(name)))
                .collect::<Result<_, _>>()?,
        };
        Ok(Self::new(&settings.interfaces, filter, taps))
    }

    /// Opens `count` rings that share the traffic and `settings.ring_bytes`: a flow comes to the
    /// ring at its [shard](synwatch_core::sampling::SamplingHash::shard), whole and in both
    /// directions. What only the decoder finds in a packet (fragments, long chains of IPv6
    /// extension headers) comes to the first ring, whatever its flow.
    ///
    /// They belong together: when one is dropped the kernel divides the flows among the rest in
    /// another way.
    ///
    /// # Errors
    /// Those of [`Ring::open`], which it is for one ring; a kernel before Linux 4.12, or more than
    /// 256 rings.
    pub fn open_group(
        settings: &Settings,
        count: NonZeroUsize,
        sampling_key: &SamplingKey,
    ) -> Result<Vec<Self>, Error> {
        if count == NonZeroUsize::MIN {
            return Ok(vec![Self::open(settings)?]);
        }
        settings.interfaces.check()?;
        let mut filter = settings.filter();
        // Only a bound socket can join, so frames arrive before the group is complete. Nobody hears
        // them: there is no interface to hear them on.
        filter.interfaces = Some(Vec::new());
        let mut rings = (0..count.get())
            .map(|_| {
                let tap = Tap::open(&filter, settings.ring_bytes / count, None)?;
                Ok(Self::new(&settings.interfaces, filter.clone(), vec![tap]))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let sockets = || rings.iter().flat_map(|ring| &ring.taps).map(|tap| &tap.socket);
        let mut group = None;
        for socket in sockets() {
            group = Some(socket.join_fanout(group)?);
            // The last time, it also waits for the frames that saw a smaller group.
            socket.divide(filter::fanout(sampling_key))?;
        }
        for ring in &mut rings {
            ring.keep_to_interfaces()?;
        }
        Ok(rings)
    }

    fn new(interfaces: &Interfaces, filter: Filter, taps: Vec<Tap>) -> Self {
        Self {
            interfaces: interfaces.clone(),
            names: interfaces.names(),
            filter,
            taps,
            turn: 0,
            next_lookup: Instant::now() + LOOKUP_INTERVAL,
        }
    }

    /// Hears again what was deleted and created anew. (One that merely goes down and up the kernel
    /// reconnects by itself.)
    fn follow_interfaces(&mut self) {
        let now = Instant::now();
        if now >= self.next_lookup {
            self.next_lookup = now + LOOKUP_INTERVAL;
            self.names = self.interfaces.names();
            for tap in &self.taps {
                tap.follow_interface();
            }
            if self.filter.interfaces.is_some() {
                // No memory for another filter at the moment: there is a next time.
                let _: Result<(), Error> = self.keep_to_interfaces();
            }
        }
    }

    /// Has the filter pass what crosses the chosen interfaces, by the indexes that they have now.
    fn keep_to_interfaces(&mut self) -> Result<(), Error> {
        let index = |name: &String| self.taps.first()?.socket.interface_index(name).ok();
        self.filter.interfaces = match &self.interfaces {
            Interfaces::Up | Interfaces::Any => None,
            Interfaces::Named(names) => Some(names.iter().filter_map(index).collect()),
        };
        update(&self.filter, self.taps.iter_mut().map(|tap| &mut tap.socket))
    }

    /// The next tap with a block to read, beginning with the one whose turn it is.
    fn ready(&self) -> Option<usize> {
        let count = self.taps.len();
        (self.turn..self.turn + count)
            .map(|index| index % count)
            .find(|index| self.taps[*index].is_ready())
    }
}

impl Source for Ring {
    fn name(&self) -> &'static str {
        "afpacket"
    }

    fn interfaces(&self) -> Vec<String> {
        self.names.clone()
    }

    /// Visits the frames of one block.
    fn read_batch(
        &mut self,
        timeout: Duration,
        visit: &mut dyn FnMut(Frame<'_>),
    ) -> Result<Batch, Error> {
        self.follow_interfaces();
        let mut ready = self.ready();
        if ready.is_none() {
            wait(self.taps.iter().map(|tap| &tap.socket), timeout)?;
            ready = self.ready();
        }
        let Some(index) = ready else { return Ok(Batch::Idle) };
        self.taps[index].read_block(visit);
        self.turn = index + 1;
        Ok(Batch::Frames)
    }

    fn stats(&mut self) -> CaptureStats {
        let mut total = CaptureStats::default();
        for tap in &mut self.taps {
            tap.update_stats();
            total.received += tap.stats.received;
            total.dropped += tap.stats.dropped;
        }
        total
    }

    fn select(&mut self, selection: &Selection) -> Result<(), Error> {
        let sockets = self.taps.iter_mut().map(|tap| &mut tap.socket);
        select(&mut self.filter, selection, sockets)
    }
}

/// One socket with its ring.
struct Tap {
    socket: FilteredSocket,
    map: Map,
    /// The block to read next; the kernel goes around in the same order.
    block: usize,
    /// The interface it is bound to; all where there is none.
    interface: Option<String>,
    stats: CaptureStats,
}

impl Tap {
    fn open(filter: &Filter, bytes: usize, interface: Option<&String>) -> Result<Self, Error> {
        let socket = FilteredSocket::open(filter)?;
        let blocks = (bytes / BLOCK_SIZE).max(MIN_BLOCKS);
        let map = Map::new(&socket, BLOCK_SIZE, blocks, RETIRE_TIMEOUT)?;
        // Last of all: from here on frames arrive.
        match interface {
            None => {
                socket.bind(0).map_err(|source| Error::Socket { call: "bind", source })?;
            }
            Some(name) => {
                socket
                    .interface_index(name)
                    .and_then(|index| socket.bind(index))
                    .map_err(|source| Error::Interface { interface: name.clone(), source })?;
            }
        }
        Ok(Self {
            socket,
            map,
            block: 0,
            interface: interface.cloned(),
            stats: CaptureStats::default(),
        })
    }

    fn follow_interface(&self) {
        let Some(name) = &self.interface else { return };
        // No such interface at the moment, or not any more: there is a next time.
        if let Ok(index) = self.socket.interface_index(name)
            && self.socket.bound_index().is_ok_and(|bound| bound != index)
        {
            let _: io::Result<()> = self.socket.bind(index);
        }
    }

    fn is_ready(&self) -> bool {
        self.map.block(self.block).is_some()
    }

    fn read_block(&mut self, visit: &mut dyn FnMut(Frame<'_>)) {
        if let Some(block) = self.map.block(self.block) {
            for packet in block::packets(block) {
                visit(frame(&packet));
            }
        }
        self.map.release(self.block);
        self.block = (self.block + 1) % self.map.blocks();
    }

    /// Adds what the kernel counted since the last time.
    fn update_stats(&mut self) {
        // It cannot fail on a packet socket, and if it did the counters would stand still.
        if let Ok((received, dropped)) = self.socket.take_statistics() {
            self.stats.received += u64::from(received);
            self.stats.dropped += u64::from(dropped);
        }
    }
}

/// Ethernet frames are passed on whole; of all others the part from the IP header on, which the
/// kernel has found, whatever lies before it.
fn frame<'a>(packet: &Packet<'a>) -> Frame<'a> {
    let direction = match packet.packet_type {
        libc::PACKET_OUTGOING => Direction::Outgoing,
        _ => Direction::Incoming,
    };
    let (link, skip) = match packet.hardware_type {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => (LinkType::Ethernet, 0),
        _ => (LinkType::RawIp, packet.network_offset.min(packet.data.len())),
    };
    Frame {
        at: Timestamp::from_nanos(
            u64::from(packet.seconds) * 1_000_000_000 + u64::from(packet.nanoseconds),
        ),
        link,
        data: &packet.data[skip..],
        original_len: packet.original_len.saturating_sub(u32::try_from(skip).unwrap_or(u32::MAX)),
        interface: packet.interface,
        direction,
    }
}
