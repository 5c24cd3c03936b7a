//! The portable source: `pnet_datalink`, one system call or two per frame.
//!
//! For kernels without `TPACKET_V3` rings; it loses frames where the ring does not. Frames carry
//! no direction and the time at which they were read.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use pnet_datalink::{Channel, Config, DataLinkReceiver, NetworkInterface};
use synwatch_core::observe::CaptureStats;
use synwatch_core::time::Timestamp;
use synwatch_core::wire::LinkType;

use crate::capture::filter::Filter;
use crate::capture::socket::{FilteredSocket, select, wait};
use crate::capture::{Batch, Direction, Error, Frame, Interfaces, Selection, Settings, Source};
use crate::sys::Needs;
use crate::sys::privileges::Capability;

/// Frames read from one interface before it is the next one's turn.
const TURN: usize = 64;

/// How often the interfaces are listed, to follow those that come, go, or are created again.
const LIST_INTERVAL: Duration = Duration::from_secs(1);

/// Frames by way of `pnet_datalink`.
pub struct Pnet {
    interfaces: Interfaces,
    filter: Filter,
    taps: Vec<Tap>,
    next_list: Instant,
    stats: CaptureStats,
}

impl Pnet {
    /// Listens in the network namespace of the calling thread, which must then also be the one that
    /// reads.
    ///
    /// # Errors
    /// An unknown interface, or no CAP_NET_RAW.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        settings.interfaces.check()?;
        let filter = settings.filter();
        // Without an interface that is up nothing else would tell that capture is not permitted.
        FilteredSocket::open(&filter)?;
        let mut pnet = Self {
            interfaces: settings.interfaces.clone(),
            filter,
            taps: Vec::new(),
            next_list: Instant::now(),
            stats: CaptureStats::default(),
        };
        pnet.follow_interfaces()?;
        Ok(pnet)
    }

    /// Opens a channel on each chosen interface that has none, and closes those of interfaces gone.
    fn follow_interfaces(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if now < self.next_list {
            return Ok(());
        }
        self.next_list = now + LIST_INTERVAL;
        let present = self.interfaces.present();
        self.update_stats();
        self.taps.retain(|tap| present.iter().any(|interface| interface.index == tap.index));
        for interface in &present {
            if !self.taps.iter().any(|tap| tap.index == interface.index) {
                match Tap::open(interface, &self.filter) {
                    // Deleted since it was listed.
                    Err(Error::Interface { source, .. }) if is_absence(&source) => {}
                    // The capability was there when the source was opened, and has been given up
                    // since: what comes later cannot be heard.
                    Err(Error::Permission) => {}
                    result => self.taps.push(result?),
                }
            }
        }
        Ok(())
    }

    /// Adds what the kernel counted since the last time.
    fn update_stats(&mut self) {
        for tap in &self.taps {
            // It cannot fail on a packet socket, and if it did the counters would stand still.
            if let Ok((received, dropped)) = tap.socket.take_statistics() {
                self.stats.received += u64::from(received);
                self.stats.dropped += u64::from(dropped);
            }
        }
    }
}

impl Source for Pnet {
    fn name(&self) -> &'static str {
        "pnet"
    }

    fn interfaces(&self) -> Vec<String> {
        self.taps.iter().map(|tap| tap.name.clone()).collect()
    }

    /// It opens a socket for every interface that comes up.
    fn needs(&self) -> Needs {
        Needs { capabilities: vec![Capability::CAP_NET_RAW], ..Needs::default() }
    }

    /// Visits up to 64 frames of each interface.
    fn read_batch(
        &mut self,
        timeout: Duration,
        visit: &mut dyn FnMut(Frame<'_>),
    ) -> Result<Batch, Error> {
        self.follow_interfaces()?;
        let ready = wait(self.taps.iter().map(|tap| &tap.socket), timeout)?;
        let mut batch = Batch::Idle;
        for (tap, _) in self.taps.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            for _ in 0..TURN {
                let Some(frame) = tap.next()? else { break };
                visit(frame);
                batch = Batch::Frames;
            }
        }
        Ok(batch)
    }

    fn stats(&mut self) -> CaptureStats {
        self.update_stats();
        self.stats
    }

    fn select(&mut self, selection: &Selection) -> Result<(), Error> {
        let sockets = self.taps.iter_mut().map(|tap| &mut tap.socket);
        select(&mut self.filter, selection, sockets)
    }
}

/// One interface with its channel.
struct Tap {
    name: String,
    index: u32,
    link: LinkType,
    receiver: Box<dyn DataLinkReceiver>,
    /// The channel's socket, for what `pnet_datalink` has no call for.
    socket: FilteredSocket,
}

impl Tap {
    fn open(interface: &NetworkInterface, filter: &Filter) -> Result<Self, Error> {
        let failed = |source| Error::Interface { interface: interface.name.clone(), source };
        let socket = FilteredSocket::open(filter)?;
        let config = Config {
            promiscuous: false,
            read_timeout: Some(Duration::ZERO),
            // `pnet_datalink` closes it, also where it fails.
            socket_fd: Some(socket.duplicate()?),
            ..Config::default()
        };
        let Channel::Ethernet(_, receiver) =
            pnet_datalink::channel(interface, config).map_err(failed)?
        else {
            return Err(failed(io::ErrorKind::Unsupported.into()));
        };
        let link = link_type(socket.hardware_type().map_err(failed)?);
        Ok(Self { name: interface.name.clone(), index: interface.index, link, receiver, socket })
    }

    /// The next frame, if one waits.
    fn next(&mut self) -> Result<Option<Frame<'_>>, Error> {
        match self.receiver.next() {
            Ok(data) => Ok(Some(Frame {
                at: now(),
                link: self.link,
                data,
                original_len: u32::try_from(data.len()).unwrap_or(u32::MAX),
                interface: self.index,
                direction: Direction::Unknown,
            })),
            Err(error) if is_idle(&error) || is_absence(&error) => Ok(None),
            Err(source) => Err(Error::Interface { interface: self.name.clone(), source }),
        }
    }
}

/// No frame at the moment.
fn is_idle(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock | Interrupted)
}

/// The interface is down or gone.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::ENODEV | libc::ENXIO))
}

/// What a raw socket's frames begin with on an interface of this `ARPHRD_` type.
fn link_type(hardware_type: u16) -> LinkType {
    match hardware_type {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => LinkType::Ethernet,
        // Devices without a link header: tun and WireGuard, PPP, and the IP tunnels.
        libc::ARPHRD_NONE
        | libc::ARPHRD_PPP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT
        | libc::ARPHRD_IPGRE
        | ARPHRD_IP6GRE
        | ARPHRD_RAWIP => LinkType::RawIp,
        other => LinkType::Unknown(other.into()),
    }
}

/// include/uapi/linux/if_arp.h.
const ARPHRD_IP6GRE: u16 = 823;
const ARPHRD_RAWIP: u16 = 519;

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp::EPOCH + since_epoch.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::headers::assert_agree;

    #[test]
    fn numbers_are_the_kernels() {
        assert_agree(
            &["linux/if_arp.h"],
            &[("ARPHRD_IP6GRE", ARPHRD_IP6GRE.into()), ("ARPHRD_RAWIP", ARPHRD_RAWIP.into())],
        );
    }
}
