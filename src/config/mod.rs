//! The configuration: a TOML file, then the command line on top of it.
//!
//! Every key has a default, so an empty file, or none, is valid. A key or a value that is not known
//! is refused with its line: what is misspelt must not be silently without effect. There is no raw
//! form to validate later, as the file is parsed straight into types that hold valid values only
//! (module `value`). `config/synwatch.toml` is the reference for users and is tested against this
//! module.

mod overrides;
mod ports;
mod service;
mod value;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use overrides::Overrides;
pub use ports::Ports;
pub use service::{Mute, Service};
pub use value::{
    Backend, Backlog, Bounded, BoundedSpan, CpuPercent, FilePath, Interface, KernelInterval,
    ListenAddress, LogFormat, LogLevel, MaxConnections, MaxServices, Netns, Network, OnceDuration,
    PacketBudget, Port, Rate, RingSize, Span, TelemetryPath, Threads, TrackerCapacity, ValueError,
};

/// The file that is read where none is named and this one exists.
pub const DEFAULT_PATH: &str = "/etc/synwatch/synwatch.toml";

/// Everything that can be set, all of it valid.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is captured, and how.
    pub capture: Capture,
    /// Whose services are watched.
    pub watch: Watch,
    /// The flow table.
    pub tracker: Tracker,
    /// The kernel as a witness.
    pub kernel: Kernel,
    /// The HTTP server.
    pub web: Web,
    /// The log.
    pub log: Log,
    /// The event file.
    pub events: Events,
    /// The state file.
    pub state: State,
    /// What holds for single services.
    #[serde(rename = "service", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
}

/// `[capture]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capture {
    /// Where to listen; empty for all interfaces that are up, without loopback.
    pub interfaces: Vec<Interface>,
    /// How frames are captured.
    pub backend: Backend,
    /// Memory of the packet ring in bytes.
    pub ring_size: RingSize,
    /// Packets per second beyond which flows are sampled; `None` is 100,000 live, and no limit in
    /// `replay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_budget: Option<PacketBudget>,
    /// The part of a processor's time beyond which they are, in percent.
    pub cpu_percent: CpuPercent,
    /// Threads that look at packets, each at its share of the flows.
    pub threads: Threads,
    /// Only flows with one of these ports at an end are captured; empty for all.
    pub ports: Ports,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            backend: Backend::default(),
            ring_size: const { RingSize::new(8 << 20) },
            packet_budget: None,
            cpu_percent: const { CpuPercent::new(25) },
            threads: const { Threads::new(1) },
            ports: Ports::default(),
        }
    }
}

/// `[watch]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watch {
    /// Networks whose services are watched; empty for this host's own addresses.
    pub networks: Vec<Network>,
    /// The listen backlog to assume where the kernel cannot be asked.
    pub backlog: Backlog,
    /// Services that are followed one by one.
    pub max_services: MaxServices,
    /// The network namespace to look into, on the wire and in the kernel; `None` for the current
    /// one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<Netns>,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            networks: Vec::new(),
            // net.core.somaxconn since Linux 5.4.
            backlog: const { Backlog::new(4_096) },
            max_services: const { MaxServices::new(512) },
            netns: None,
        }
    }
}

/// `[tracker]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tracker {
    /// Flows that can be followed at a time.
    pub capacity: TrackerCapacity,
}

impl Default for Tracker {
    fn default() -> Self {
        Self { capacity: const { TrackerCapacity::new(1 << 20) } }
    }
}

/// `[kernel]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kernel {
    /// Whether the kernel is asked at all.
    pub enabled: bool,
    /// How often.
    pub interval: KernelInterval,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { enabled: true, interval: const { KernelInterval::from_millis(1_000) } }
    }
}

/// `[web]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Web {
    /// Whether there is an HTTP server.
    pub enabled: bool,
    /// Where it listens.
    pub listen_address: ListenAddress,
    /// Where the metrics are.
    pub telemetry_path: TelemetryPath,
    /// Connections at a time; further ones are turned away.
    pub max_connections: MaxConnections,
}

impl Default for Web {
    fn default() -> Self {
        Self {
            enabled: true,
            listen_address: ListenAddress(([127, 0, 0, 1], 10_197).into()),
            telemetry_path: TelemetryPath::default(),
            max_connections: const { MaxConnections::new(64) },
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least important messages to log.
    pub level: LogLevel,
    /// Where to, in what form.
    pub format: LogFormat,
}

/// `[events]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// The file that events are appended to; `None` for no file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<FilePath>,
}

/// `[state]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// Whether what was learned is kept over a restart.
    pub enabled: bool,
    /// The file that it is kept in; `None` for `baselines.json` in the directory that the service
    /// manager made, and no file where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<FilePath>,
}

impl Default for State {
    fn default() -> Self {
        Self { enabled: true, path: None }
    }
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A line of the file is wrong.
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, with the key.
        message: String,
    },
    /// The configuration cannot be written as TOML.
    #[error("cannot print the configuration: {0}")]
    Print(#[from] toml::ser::Error),
}

impl Config {
    /// Reads the file at `path`, or else [`DEFAULT_PATH`] where that exists, and lays `overrides`
    /// over it.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, or a line of it is wrong.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, Error> {
        let mut config = match path {
            Some(path) => Self::read(path)?,
            None => match Self::read(Path::new(DEFAULT_PATH)) {
                Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    Self::default()
                }
                config => config?,
            },
        };
        overrides.apply(&mut config);
        Ok(config)
    }

    /// Reads the file at `path`.
    fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(line, message)| Error::Line {
            path: path.to_owned(),
            line,
            message,
        })
    }

    /// Parses the text of a file; an error has the line that it is in.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let line = |start: usize| {
            let start = start.min(text.len());
            1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count()
        };
        let config: Self = toml::from_str(text).map_err(|mut error| {
            let line = line(error.span().map_or(0, |span| span.start));
            // Without its input the error is the message and then "in `section.key`".
            error.set_input(None);
            (line, error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
        })?;
        match service::problem(&config.services) {
            Some((number, problem)) => {
                let start =
                    Spans::of(text).service.get(number).map_or(0, |table| table.span().start);
                Err((line(start), format!("{problem} in `service`")))
            }
            None => Ok(config),
        }
    }

    /// The configuration as a TOML file that reads back as the same configuration.
    ///
    /// # Errors
    ///
    /// Where a value has no form in TOML, which no valid configuration holds.
    pub fn to_toml(&self) -> Result<String, Error> {
        Ok(toml::to_string(self)?)
    }
}

/// Where the tables of a file stand.
#[derive(Default, Deserialize)]
struct Spans {
    service: Vec<toml::Spanned<IgnoredAny>>,
}

impl Spans {
    fn of(text: &str) -> Self {
        toml::from_str(text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
