//! From the configuration to the parts: the capture, and the settings of the engine.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use ipnet::IpNet;
use synwatch_core::engine::RateLimits;
use synwatch_core::engine::{Mute, ServiceSettings, Settings};
use synwatch_core::sampling::{HashKey, SamplingKey};
use thiserror::Error;

use crate::app::Host;
use crate::capture::{self, Interfaces, Source, pnet::Pnet, ring::Ring};
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

/// Packets per second that may come up where nothing else is set: a few percent of a processor's
/// time, and some 10,000 connections a second.
const PACKET_BUDGET: u32 = 100_000;

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

/// Opens the capture of the configuration for its number of threads: a source for each of them,
/// among which flows are divided by `sampling_key`.
///
/// # Errors
/// An unknown interface, or no privilege.
pub fn open_sources(
    config: &Config,
    sampling_key: &SamplingKey,
) -> Result<Vec<Box<dyn Source>>, capture::Error> {
    let one = || Ok(vec![open_source(config)?]);
    match (threads(config), config.capture.backend) {
        (NonZeroUsize::MIN, _) => one(),
        (threads, Backend::Ring) => {
            let rings = Ring::open_group(&capture_settings(config), threads, sampling_key)?;
            Ok(rings.into_iter().map(|ring| Box::new(ring) as Box<dyn Source>).collect())
        }
        (_, backend) => {
            tracing::warn!(
                ?backend,
                "using one capture thread: only the backend ring supports more"
            );
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
    let own: Vec<IpAddr> = host.addresses().collect();
    let fixed = fixed_settings(config);
    Ok(Settings {
        networks: watched(&networks(config), &own),
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

/// The networks that the configuration asks for.
#[must_use]
pub fn networks(config: &Config) -> Vec<IpNet> {
    config.watch.networks.iter().map(|network| network.get()).collect()
}

/// The networks that are watched: those asked for, or else the host's `own` addresses.
#[must_use]
pub fn watched(asked: &[IpNet], own: &[IpAddr]) -> Vec<IpNet> {
    match asked {
        [] => own.iter().copied().map(IpNet::from).collect(),
        _ => asked.to_vec(),
    }
}
