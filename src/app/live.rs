//! What the daemon and `--once` share: this host as the source.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use rustix::time::{ClockId, clock_gettime};
use synwatch_core::detect::RateLimits;
use synwatch_core::engine::{Engine, Mute, ServiceSettings, Settings};
use synwatch_core::flow::{HashKey, Ranks};
use synwatch_core::observe::KernelSample;
use synwatch_core::time::Timestamp;
use synwatch_core::wire::{Address, Segment};
use thiserror::Error;

use crate::capture::{self, Direction, Frame, Interfaces, Source, pnet::Pnet, ring::Ring};
use crate::config::{self, Backend, Config};
use crate::sys::memory::use_huge_pages;
use crate::sys::netns;

/// What keeps the live faces from starting.
#[derive(Debug, Error)]
pub enum LiveError {
    /// The network namespace asked for cannot be entered.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// No secret for the hash tables.
    #[error("cannot get random numbers: {0}")]
    Random(getrandom::Error),
}

/// Frames wait in the ring's open block for up to 64 ms; the engine's time stays so far behind the
/// clock, so that it does not run ahead of them.
const SETTLE: Duration = Duration::from_millis(80);

/// Packets per second that may come up where nothing else is set: a few percent of a processor's time, and some
/// 10,000 connections a second.
const PACKET_BUDGET: u32 = 100_000;

/// The engine's time: the time of day at the start, going on evenly, whatever becomes of the
/// system's clock afterwards. A step of that clock is no silence of an hour, and no hour twice.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Timestamp,
    begin: Instant,
}

impl Clock {
    /// Starts the clock.
    #[must_use]
    pub fn start() -> Self {
        Self { base: wall(), begin: Instant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.base + self.begin.elapsed()
    }

    /// The time up to which all frames have come up.
    #[must_use]
    pub fn settled(&self) -> Timestamp {
        self.now().before(SETTLE)
    }

    /// When all frames up to `at` will have come up.
    #[must_use]
    pub fn when_settled(&self, at: Timestamp) -> Instant {
        self.begin + (at + SETTLE - self.base)
    }

    /// What turns times of the system's clock into this one's, as of now.
    #[must_use]
    pub fn correction(&self) -> Correction {
        let (own, system) = (self.now(), wall());
        let step = (own - system).max(system - own) > STEPPED;
        let ahead = if step { own.as_nanos().wrapping_sub(system.as_nanos()) } else { 0 };
        Correction { ahead, latest: own }
    }
}

/// What part of a processor's time the calling thread takes.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    at: Instant,
    used: Duration,
}

impl Load {
    /// Begins to measure.
    #[must_use]
    pub fn start() -> Self {
        Self { at: Instant::now(), used: thread_time() }
    }

    /// The same of a thread that is to begin.
    #[must_use]
    pub fn of_new_thread() -> Self {
        Self { at: Instant::now(), used: Duration::ZERO }
    }

    /// The part since the last call.
    pub fn share(&mut self) -> f64 {
        self.share_of(thread_time())
    }

    /// The same of another thread, which has `used` so much by now.
    pub fn share_of(&mut self, used: Duration) -> f64 {
        let before = std::mem::replace(self, Self { at: Instant::now(), used });
        let passed = (self.at - before.at).as_secs_f64();
        let used = used.saturating_sub(before.used).as_secs_f64();
        if passed > 0.0 { used / passed } else { 0.0 }
    }
}

/// Time that the calling thread has had a processor, in user mode and in the kernel.
pub(super) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is negative, of a clock that begins with the thread.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The difference between two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Correction {
    /// Nanoseconds to add, modulo 2^64.
    ahead: u64,
    /// No time is later: whatever a clock was set to while frames waited.
    latest: Timestamp,
}

impl Correction {
    /// No difference.
    pub const NONE: Self = Self { ahead: 0, latest: Timestamp::from_nanos(u64::MAX) };

    /// The time on the other clock.
    #[must_use]
    pub fn apply(self, at: Timestamp) -> Timestamp {
        Timestamp::from_nanos(at.as_nanos().wrapping_add(self.ahead)).min(self.latest)
    }
}

/// Smaller differences are the slewing of a clock that is being synchronised.
const STEPPED: Duration = Duration::from_millis(500);

fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::EPOCH + since
}

/// Enters the network namespace of the configuration, for this thread and those it starts.
///
/// # Errors
/// There is none such, or it may not be entered.
pub fn enter_namespace(config: &Config) -> Result<(), LiveError> {
    match &config.watch.netns {
        Some(namespace) => Ok(netns::enter(namespace.as_str())?),
        None => Ok(()),
    }
}

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

    /// Takes in the addresses that the host has now.
    fn has(&mut self, addresses: impl Iterator<Item = IpAddr>) {
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

/// Opens the capture of the configuration.
///
/// # Errors
/// An unknown interface, or no privilege.
pub fn open_source(config: &Config) -> Result<Box<dyn Source>, capture::Error> {
    let settings = capture_settings(config);
    Ok(match config.capture.backend {
        Backend::Ring => Box::new(Ring::open(&settings)?),
        Backend::Pnet => Box::new(Pnet::open(&settings)?),
        #[cfg(feature = "ebpf")]
        Backend::Xdp => Box::new(capture::xdp::Xdp::open(&settings)?),
        #[cfg(not(feature = "ebpf"))]
        Backend::Xdp => return Err(capture::Error::NoXdp),
    })
}

fn capture_settings(config: &Config) -> capture::Settings {
    let names = config.capture.interfaces.iter().map(|name| name.as_str().to_owned());
    capture::Settings {
        interfaces: Interfaces::from_names(names),
        ring_bytes: usize::try_from(config.capture.ring_size.get()).unwrap_or(usize::MAX),
        ports: config.capture.ports.iter().collect(),
    }
}

/// Opens the capture of the configuration for its number of threads: a source for each of them, among
/// which flows are divided by `ranks`.
///
/// # Errors
/// An unknown interface, or no privilege.
pub fn open_sources(
    config: &Config,
    ranks: &Ranks,
) -> Result<Vec<Box<dyn Source>>, capture::Error> {
    let one = || Ok(vec![open_source(config)?]);
    match (threads(config), config.capture.backend) {
        (NonZeroUsize::MIN, _) => one(),
        (threads, Backend::Ring) => {
            let rings = Ring::open_group(&capture_settings(config), threads, ranks)?;
            Ok(rings.into_iter().map(|ring| Box::new(ring) as Box<dyn Source>).collect())
        }
        (_, backend) => {
            tracing::warn!(?backend, "one thread captures: more go with the backend ring only");
            one()
        }
    }
}

/// The engine's settings for this host, with a fresh secret.
///
/// # Errors
/// No random numbers.
pub fn settings(config: &Config, host: &Host, kernel_only: bool) -> Result<Settings, LiveError> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(LiveError::Random)?;
    let own: Vec<IpAddr> = host.addresses.iter().copied().map(IpAddr::from).collect();
    let fixed = fixed_settings(config);
    Ok(Settings {
        networks: networks(config, &own),
        packet_budget: Some(fixed.packet_budget.unwrap_or(PACKET_BUDGET)),
        kernel_only,
        key: HashKey(key),
        ..fixed
    })
}

/// The settings that need nothing but the configuration.
#[must_use]
pub fn fixed_settings(config: &Config) -> Settings {
    Settings {
        flows: usize::try_from(config.tracker.capacity.get()).unwrap_or(usize::MAX),
        services: u16::try_from(config.watch.max_services.get()).unwrap_or(u16::MAX),
        backlog: u32::try_from(config.watch.backlog.get()).unwrap_or(u32::MAX),
        kernel_interval: config.kernel.interval.get(),
        packet_budget: config
            .capture
            .packet_budget
            .map(|budget| u32::try_from(budget.get()).unwrap_or(u32::MAX)),
        cpu_share: percent(config.capture.cpu_percent),
        prepare: use_huge_pages,
        each: config.services.iter().map(service_settings).collect(),
        ..Settings::default()
    }
}

/// How many threads look at packets.
#[must_use]
pub fn threads(config: &Config) -> NonZeroUsize {
    let threads = usize::try_from(config.capture.threads.get()).ok();
    threads.and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN)
}

#[expect(clippy::cast_precision_loss, reason = "at most 100")]
fn percent(percent: config::CpuPercent) -> f64 {
    percent.get() as f64 / 100.0
}

fn service_settings(service: &config::Service) -> ServiceSettings {
    ServiceSettings {
        address: service.address,
        port: u16::try_from(service.port.get()).unwrap_or(u16::MAX),
        backlog: service.backlog.map(|backlog| u32::try_from(backlog.get()).unwrap_or(u32::MAX)),
        limits: RateLimits {
            warning: service.warning_rate.map(config::Rate::get),
            critical: service.critical_rate.map(config::Rate::get),
        },
        mute: match &service.mute {
            config::Mute::Nothing => Mute::Nothing,
            config::Mute::Service => Mute::Service,
            config::Mute::Sources(networks) => {
                Mute::Sources(networks.iter().map(|network| network.get()).collect())
            }
        },
    }
}

/// Hands a look at the kernel to the engine; the host's addresses may have changed with it.
pub fn take_sample(engine: &mut Engine, host: &mut Host, config: &Config, sample: KernelSample) {
    engine.watch(networks(config, &sample.addresses));
    host.has(sample.addresses.iter().copied());
    engine.handle_kernel(sample);
}

/// The networks asked for, or else the host's own addresses.
fn networks(config: &Config, own: &[IpAddr]) -> Vec<IpNet> {
    if config.watch.networks.is_empty() {
        own.iter().copied().map(IpNet::from).collect()
    } else {
        config.watch.networks.iter().map(|network| network.get()).collect()
    }
}
