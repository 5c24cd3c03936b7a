//! This host as the source.

use std::net::IpAddr;

use synwatch_core::wire::{Address, Segment};

use crate::capture::{Direction, Frame};

/// This host as the capture sees it.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Sorted.
    addresses: Vec<Address>,
    loopback: Vec<u32>,
}

impl Host {
    /// The host (or namespace) of the calling thread, as of now.
    #[must_use]
    pub fn look() -> Self {
        let interfaces = pnet_datalink::interfaces();
        let loopback = interfaces.iter().filter(|i| i.is_loopback()).map(|i| i.index).collect();
        let mut host = Self { addresses: Vec::new(), loopback };
        host.has(interfaces.iter().flat_map(|i| i.ips.iter().map(|network| network.ip())));
        host
    }

    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().map(IpAddr::from)
    }

    /// Takes in the addresses that the host has now.
    pub(super) fn has(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        self.addresses = addresses.map(Address::from).collect();
        self.addresses.sort_unstable();
    }

    /// Whether a packet from outside claims to come from this host: with forged answers and
    /// acknowledgements an attacker would make a flood look completed. The kernel drops such
    /// packets as martians after the capture has seen them.
    #[inline]
    #[must_use]
    pub fn is_forged(&self, frame: &Frame<'_>, segment: &Segment) -> bool {
        frame.direction == Direction::Incoming
            && self.addresses.binary_search(&segment.source).is_ok()
            && !self.loopback.contains(&frame.interface)
    }
}
