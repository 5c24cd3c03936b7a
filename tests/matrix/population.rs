//! Who the clients are: their addresses, their operating systems, how far away they are.

use std::net::IpAddr;

use ipnet::IpNet;
use synwatch_core::wire::{Address, OptionLayout};

use crate::random::{Random, mix};
use crate::server::layout;

const NETWORKS: usize = 3_000;
const ZIPF: f64 = 0.9;

/// What a sender's SYNs look like on arrival.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub ttl: u8,
    pub window: u16,
    pub mss: Option<u16>,
    pub options: OptionLayout,
}

/// A client.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub address: Address,
    pub look: Look,
}

/// The clients of a service: /16s (of IPv6 /32s) whose shares follow Zipf's law, and in each of
/// them hosts of which some come back far more often than others.
pub struct Population {
    cumulative: Vec<f64>,
    networks: Vec<Address>,
    seed: u64,
    looks: [Look; 5],
}

impl Population {
    /// The clients of a service at an address of the same IP version.
    pub fn new(seed: u64, service: IpAddr) -> Self {
        let mut random = Random::new(seed, 0x706f_7075);
        let mut networks = Vec::with_capacity(NETWORKS);
        let mut seen = std::collections::HashSet::new();
        while networks.len() < NETWORKS {
            let network = if service.is_ipv4() {
                random_v4(&mut random).prefix(16)
            } else {
                let bits = 0x2000 << 112 | u128::from(random.next() >> 3) << 64;
                Address::from_bits(bits).prefix(32)
            };
            if seen.insert(network.to_bits()) {
                networks.push(network);
            }
        }
        let mut sum = 0.0;
        let cumulative = (1..=NETWORKS)
            .map(|rank| {
                sum += (rank as f64).powf(-ZIPF);
                sum
            })
            .collect();
        Self { cumulative, networks, seed, looks: looks() }
    }

    /// One of all, or one of the largest network.
    pub fn client(&self, one_network: bool, random: &mut Random) -> Host {
        let total = self.cumulative[NETWORKS - 1];
        let drawn = if one_network { 0.0 } else { random.unit() * total };
        let network = self.cumulative.partition_point(|sum| *sum <= drawn).min(NETWORKS - 1);
        // Hosts in a network: about as many as its share of the traffic lets one expect, the n-th
        // visits 1/n as often as the first.
        let hosts = 60_000.0 / (1.0 + network as f64 / 20.0);
        let number = hosts.powf(random.unit()) as u64;
        let host = mix(self.seed ^ mix((network as u64) << 32 | number));
        self.host(self.networks[network], host)
    }

    /// One of two addresses of a carrier's NAT.
    pub fn behind_nat(&self, random: &mut Random) -> Host {
        let network = self.networks[7];
        let host = self.host(network, u64::from(random.below(2)));
        // Behind the address there are all kinds of systems.
        Host { look: self.look(random.next()), ..host }
    }

    fn host(&self, network: Address, host: u64) -> Host {
        let host_bits = if network.is_ipv4() {
            u128::from(host & 0xffff)
        } else {
            // A network of /48s with a few /64s each, and a random interface identifier.
            u128::from(host & 0x3ff) << 80 | u128::from(mix(host))
        };
        let address = Address::from_bits(network.to_bits() | host_bits);
        Host { address, look: self.look(mix(host)) }
    }

    fn look(&self, host: u64) -> Look {
        // Android and Linux 45 %, Apple 27 %, Windows 28 %.
        let look = match host % 100 {
            0..30 => self.looks[0],
            30..45 => self.looks[1],
            45..72 => self.looks[2],
            72..90 => self.looks[3],
            _ => self.looks[4],
        };
        let hops = 6 + ((host >> 8) % 8) as u8 + ((host >> 16) % 10) as u8;
        let mss = match (host >> 24) % 10 {
            0..6 => look.mss,
            6..8 => look.mss.map(|mss| mss - 8), // PPPoE
            8 => look.mss.map(|mss| mss - 60),
            _ => look.mss.map(|mss| mss - 80),
        };
        Look { ttl: look.ttl - hops, mss, ..look }
    }
}

/// SYNs as operating systems send them.
fn looks() -> [Look; 5] {
    let look = |ttl, window, mss, kinds: &[u8]| Look {
        ttl,
        window,
        mss: Some(mss),
        options: layout(kinds),
    };
    let linux = [2, 4, 8, 1, 3];
    [
        look(64, 65_535, 1_460, &linux),                    // Android
        look(64, 64_240, 1_460, &linux),                    // Linux
        look(64, 65_535, 1_460, &[2, 1, 3, 1, 1, 8, 4, 0]), // macOS, iOS
        look(128, 64_240, 1_460, &[2, 1, 3, 1, 1, 4]),      // Windows 10
        look(128, 65_535, 1_460, &[2, 1, 3, 1, 1, 4]),      // Windows 11
    ]
}

/// What hping3 sends.
pub fn hping(ttl: u8) -> Look {
    Look { ttl, window: 512, mss: None, options: OptionLayout::default() }
}

/// What a Linux host sends.
pub fn linux(ttl: u8) -> Look {
    Look { ttl, ..looks()[1] }
}

/// An address of the unicast space that a host takes SYNs from.
pub fn random_v4(random: &mut Random) -> Address {
    loop {
        let octets = (random.next() as u32).to_be_bytes();
        if (1..224).contains(&octets[0]) && ![10, 127, 192].contains(&octets[0]) {
            return Address::v4(octets);
        }
    }
}

/// An address inside a prefix.
pub fn random_in(prefix: IpNet, random: &mut Random) -> Address {
    let bits = u128::from(random.next()) << 64 | u128::from(random.next());
    let host_length = u32::from(prefix.max_prefix_len() - prefix.prefix_len());
    let mask = if host_length == 128 { u128::MAX } else { (1 << host_length) - 1 };
    Address::from_bits(Address::from(prefix.network()).to_bits() | (bits & mask))
}
