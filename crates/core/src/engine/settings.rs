//! What the engine is told at its start.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;

use crate::detect::RateLimits;
use crate::flow::HashKey;
use crate::wire::Address;

/// What the engine is told at its start.
#[derive(Clone)]
pub struct Settings {
    /// The most flows to track at once; fixes the memory.
    pub flows: usize,
    /// The most services to watch at once.
    pub services: u16,
    /// Networks whose services are watched; empty for all.
    pub networks: Vec<IpNet>,
    /// The listen backlog to assume where the kernel cannot be asked.
    pub backlog: u32,
    /// Judge by the kernel alone: there is no wire.
    pub kernel_only: bool,
    /// Whether the kernel is asked, so that its silence is one.
    pub asks_kernel: bool,
    /// How often the kernel is asked.
    pub kernel_interval: Duration,
    /// What holds for single services.
    pub each: Vec<ServiceSettings>,
    /// Packets per second beyond which flows are sampled; `None` for no limit.
    pub packet_budget: Option<u32>,
    /// The part of a processor's time that may be spent before flows are sampled.
    pub cpu_share: f64,
    /// The secret of all hashes.
    pub key: HashKey,
    /// Is told where the flow table will be, before anything is written there: by far the most of
    /// the memory, and looked into at random.
    pub prepare: fn(&Range<*const u8>),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flows: 1 << 20,
            services: 512,
            networks: Vec::new(),
            backlog: 4_096,
            kernel_only: false,
            asks_kernel: false,
            kernel_interval: Duration::from_secs(1),
            each: Vec::new(),
            packet_budget: None,
            cpu_share: 1.0,
            key: HashKey([0; 16]),
            prepare: |_| {},
        }
    }
}

/// What holds for one service instead of what is measured or derived.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceSettings {
    /// The address of the service (unspecified for a wildcard listener); `None` for all that have
    /// no settings under their own address.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// The limit of its SYN queue, in connections.
    pub backlog: Option<u32>,
    /// The rates that page.
    pub limits: RateLimits,
    /// What is not to alarm.
    pub mute: Mute,
}

/// What is not to alarm.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Mute {
    /// Everything may.
    #[default]
    Nothing,
    /// Whatever happens to the service is worth info at most.
    Service,
    /// Attempts from these networks are in the totals, but neither attempts nor failures of the
    /// service.
    Sources(Vec<IpNet>),
}

impl ServiceSettings {
    /// Those of `each` that hold for a service: under its own address before those for any.
    #[must_use]
    pub(super) fn find(each: &[Self], address: Address, port: u16) -> Option<&Self> {
        let named = |name: Option<Address>| {
            each.iter().find(move |settings| {
                settings.port == port && settings.address.map(Address::from) == name
            })
        };
        named(Some(address)).or_else(|| named(None))
    }
}
