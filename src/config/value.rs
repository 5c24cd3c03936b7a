//! The values that a configuration key or a command-line option may take.
//!
//! Each is parsed once, into a type that cannot hold a wrong value; the file and the command line
//! share the parsers, so both accept the same and refuse it in the same words.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use ipnet::IpNet;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a value is refused.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ValueError {
    /// Not a number, or outside of the allowed range.
    #[error("`{value}` is not a whole number from {min} to {max}")]
    Number {
        /// What was given.
        value: String,
        /// Lowest allowed value.
        min: u64,
        /// Highest allowed value.
        max: u64,
    },
    /// Not a duration.
    #[error("`{0}` is not a duration such as 2s, 500ms or 1m 30s")]
    Duration(String),
    /// A duration outside of the allowed range.
    #[error("`{value}` is not from {min} to {max}")]
    DurationRange {
        /// What was given.
        value: String,
        /// Lowest allowed value.
        min: Span,
        /// Highest allowed value.
        max: Span,
    },
    /// Not a network.
    #[error("`{0}` is not a network such as 192.0.2.0/24 or 2001:db8::/32")]
    Network(String),
    /// Not a name that Linux allows for an interface.
    #[error("`{0}` is not an interface name: 1 to 15 bytes without `/`, `:` or white space")]
    Interface(String),
    /// Not an address to listen on.
    #[error("`{0}` is not a numeric ADDRESS:PORT such as 127.0.0.1:10197, [::1]:10197 or :10197")]
    ListenAddress(String),
    /// Not a path that metrics can be served under.
    #[error(
        "`{0}` is not a path for metrics: begin with `/`, use letters, digits and `-._~/`, and leave \
         `/`, `/-/...` and `/api/...` to the server"
    )]
    TelemetryPath(String),
    /// Not a network namespace.
    #[error("a network namespace is a name, a process id or a path, not an empty text")]
    Netns,
    /// More ports than a packet filter should compare.
    #[error("{0} ports, more than {max}", max = super::Ports::MAX)]
    Ports(usize),
    /// Not a number of failures per second.
    #[error("`{0}` is not a rate per second above 0 and up to 1000000000")]
    Rate(String),
    /// A path that depends on the directory the daemon was started in.
    #[error("`{0}` is not an absolute path of a file")]
    File(String),
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "i64", into = "u64")]
pub struct Bounded<const MIN: u64, const MAX: u64>(u64);

/// The listen backlog to assume where the kernel cannot be asked, in connections.
pub type Backlog = Bounded<1, 0xffff_ffff>;
/// Memory of a packet ring, in bytes: 256 KiB to 1 GiB.
pub type RingSize = Bounded<0x4_0000, 0x4000_0000>;
/// Packets per second.
pub type PacketBudget = Bounded<100, 1_000_000_000>;
/// A part of one processor's time, in percent.
pub type CpuPercent = Bounded<1, 100>;
/// Threads that look at packets.
pub type Threads = Bounded<1, 64>;
/// Services that are followed one by one.
pub type MaxServices = Bounded<2, 16_384>;
/// Entries of the flow table.
pub type TrackerCapacity = Bounded<1_024, 0x100_0000>;
/// A TCP port.
pub type Port = Bounded<1, 65_535>;
/// HTTP connections at a time.
pub type MaxConnections = Bounded<1, 4_096>;

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// `value`, which must be in range: a wrong constant does not compile.
    ///
    /// # Panics
    ///
    /// Where `value` is out of range.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        assert!(MIN <= value && value <= MAX);
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    fn refuse(value: impl fmt::Display) -> ValueError {
        ValueError::Number { value: value.to_string(), min: MIN, max: MAX }
    }
}

impl<const MIN: u64, const MAX: u64> TryFrom<i64> for Bounded<MIN, MAX> {
    type Error = ValueError;

    /// TOML's whole numbers are `i64`: a negative one is out of range like any other.
    fn try_from(value: i64) -> Result<Self, ValueError> {
        u64::try_from(value)
            .ok()
            .filter(|number| (MIN..=MAX).contains(number))
            .map(Self)
            .ok_or_else(|| Self::refuse(value))
    }
}

impl<const MIN: u64, const MAX: u64> From<Bounded<MIN, MAX>> for u64 {
    fn from(bounded: Bounded<MIN, MAX>) -> Self {
        bounded.0
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Bounded<MIN, MAX> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse::<i64>().map_or_else(|_| Err(Self::refuse(text)), Self::try_from)
    }
}

/// Events per second, above 0 and up to 10^9.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Rate(f64);

impl Rate {
    /// Events per second.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Rate {
    type Error = ValueError;

    fn try_from(rate: f64) -> Result<Self, ValueError> {
        // Neither holds for what is no number.
        let valid = rate > 0.0 && rate <= 1e9;
        if valid { Ok(Self(rate)) } else { Err(ValueError::Rate(rate.to_string())) }
    }
}

impl From<Rate> for f64 {
    fn from(rate: Rate) -> Self {
        rate.0
    }
}

/// A span of time as people write it: `2s`, `500ms`, `1m 30s`, `0`.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        text.parse::<SignedDuration>()
            .ok()
            .and_then(|span| Duration::try_from(span).ok())
            .map(Self)
            .ok_or_else(|| ValueError::Duration(text.to_owned()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SignedDuration::try_from(self.0) {
            Ok(span) => write!(f, "{span:#}"),
            Err(_) => write!(f, "{:?}", self.0),
        }
    }
}

/// A span of time from `MIN` to `MAX` milliseconds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct BoundedSpan<const MIN: u64, const MAX: u64>(Span);

/// How often the kernel is asked: 100 ms to a minute.
pub type KernelInterval = BoundedSpan<100, 60_000>;
/// How long `--once` listens on the wire: not at all, to an hour.
pub type OnceDuration = BoundedSpan<0, 3_600_000>;

impl<const MIN: u64, const MAX: u64> BoundedSpan<MIN, MAX> {
    /// `millis` milliseconds, which must be in range: a wrong constant does not compile.
    ///
    /// # Panics
    ///
    /// Where `millis` is out of range.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        assert!(MIN <= millis && millis <= MAX);
        Self(Span(Duration::from_millis(millis)))
    }

    /// The duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0.0
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for BoundedSpan<MIN, MAX> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let span: Span = text.parse()?;
        let (min, max) = (Span(Duration::from_millis(MIN)), Span(Duration::from_millis(MAX)));
        if (min..=max).contains(&span) {
            Ok(Self(span))
        } else {
            Err(ValueError::DurationRange { value: text.to_owned(), min, max })
        }
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for BoundedSpan<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Makes a type that is written as text readable from and writable to a file.
macro_rules! through_text {
    ($type:ty $(, const $bound:ident)*) => {
        impl<$(const $bound: u64),*> TryFrom<String> for $type {
            type Error = ValueError;

            fn try_from(text: String) -> Result<Self, ValueError> {
                text.parse()
            }
        }

        impl<$(const $bound: u64),*> From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

through_text!(BoundedSpan<MIN, MAX>, const MIN, const MAX);
through_text!(Network);
through_text!(Interface);
through_text!(ListenAddress);
through_text!(TelemetryPath);
through_text!(Netns);
through_text!(FilePath);

/// A network whose services are watched; a bare address is the network of that one address.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

impl Network {
    /// The network, its host bits zero.
    #[must_use]
    pub const fn get(self) -> IpNet {
        self.0
    }
}

impl FromStr for Network {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse::<IpNet>()
            .ok()
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
            .map(|network| Self(network.trunc()))
            .ok_or_else(|| ValueError::Network(text.to_owned()))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a network interface, or `any`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interface(String);

impl Interface {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Interface {
    type Err = ValueError;

    /// The rules of `dev_valid_name` (net/core/dev.c): shorter than IFNAMSIZ = 16.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let forbidden =
            |c: char| c == '/' || c == ':' || c == '\0' || c == '\x0b' || c.is_ascii_whitespace();
        let valid = (1..16).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.contains(forbidden);
        if valid { Ok(Self(text.to_owned())) } else { Err(ValueError::Interface(text.to_owned())) }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the HTTP server listens. `:PORT` is short for every address of the host.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenAddress(pub SocketAddr);

impl FromStr for ListenAddress {
    type Err = ValueError;

    /// Names are not resolved: a daemon's address must not hang on a name server.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let address = match text.strip_prefix(':') {
            Some(port) => {
                port.parse().ok().map(|port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
            }
            None => text.parse().ok(),
        };
        address.map(Self).ok_or_else(|| ValueError::ListenAddress(text.to_owned()))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The path that metrics are served under.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TelemetryPath(String);

impl TelemetryPath {
    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TelemetryPath {
    fn default() -> Self {
        Self("/metrics".to_owned())
    }
}

impl FromStr for TelemetryPath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // RFC 3986, section 2.3: characters that need no escape, so one spelling is one path.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
        let taken = text == "/" || text.starts_with("/-/") || text.starts_with("/api/");
        if text.starts_with('/') && text.chars().all(plain) && !taken {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::TelemetryPath(text.to_owned()))
        }
    }
}

impl fmt::Display for TelemetryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A network namespace: the name given to it by `ip netns`, a process id, or a path.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Netns(String);

impl Netns {
    /// What was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Netns {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.trim().is_empty() { Err(ValueError::Netns) } else { Ok(Self(text.to_owned())) }
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An absolute path of a file, which need not exist.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct FilePath(PathBuf);

impl FilePath {
    /// The path, absolute.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for FilePath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let path = Path::new(text);
        if path.is_absolute() && path.file_name().is_some() && !text.ends_with('/') {
            Ok(Self(path.to_owned()))
        } else {
            Err(ValueError::File(text.to_owned()))
        }
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// How frames are captured.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A memory-mapped ring (TPACKET_V3): least CPU, fewest lost packets
    #[default]
    Ring,
    /// The portable fallback, one system call a packet
    Pnet,
    /// For mirror ports: an XDP program (needs a build with the feature `ebpf`)
    Xdp,
}

/// The least important messages to log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What stops synwatch from working, and critical detections
    Error,
    /// What limits it, and detections of severity warning
    Warn,
    /// Starts, stops, reloads, and all other changes of detections
    #[default]
    Info,
    /// What it does, step by step
    Debug,
    /// Everything
    Trace,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Where the log goes and what it looks like.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// journald if standard error goes to the journal, else text
    #[default]
    Auto,
    /// Plain text on standard error
    Text,
    /// One JSON object per line on standard error
    Json,
    /// Structured fields in the journal
    Journald,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: FromStr<Err = ValueError>>(text: &str) -> String {
        match text.parse::<T>() {
            Ok(_) => panic!("`{text}` was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn numbers_are_held_to_their_range() {
        assert_eq!("1".parse::<Backlog>().unwrap().get(), 1);
        for text in ["0", "-1", "4294967296", "1.5", "", "many", "99999999999999999999999"] {
            assert!(refused::<Backlog>(text).contains("from 1 to 4294967295"), "{text}");
        }
    }

    #[test]
    fn spans_read_as_they_are_written() {
        for (text, millis) in [("0", 0), ("0s", 0), ("2s", 2_000), ("500ms", 500), ("1m", 60_000)] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(millis), "{text}");
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span, "{text}");
        }
        for text in ["", "2", "-2s", "soon", "2 parsecs"] {
            assert!(refused::<Span>(text).contains("is not a duration"), "{text}");
        }
        assert_eq!(refused::<KernelInterval>("50ms"), "`50ms` is not from 100ms to 1m");
        assert_eq!(refused::<OnceDuration>("2h"), "`2h` is not from 0s to 1h");
    }

    #[test]
    fn networks_lose_their_host_bits() {
        for (text, network) in [
            ("192.0.2.77/24", "192.0.2.0/24"),
            ("192.0.2.77", "192.0.2.77/32"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), network);
        }
        assert!(refused::<Network>("192.0.2.0/33").contains("192.0.2.0/33"));
    }

    #[test]
    fn interface_names_are_those_of_linux() {
        for text in ["lo", "any", "eth0.100", "enp0s31f6", "fifteen-bytes-x"] {
            assert!(text.parse::<Interface>().is_ok(), "{text}");
        }
        for text in ["", ".", "..", "a/b", "eth0:1", "with space", "sixteen-bytes-xx"] {
            refused::<Interface>(text);
        }
    }

    #[test]
    fn listen_addresses_are_numeric() {
        assert_eq!(":10197".parse::<ListenAddress>().unwrap().to_string(), "[::]:10197");
        assert_eq!("[::1]:80".parse::<ListenAddress>().unwrap().to_string(), "[::1]:80");
        for text in ["", ":", "localhost:80", "127.0.0.1", "127.0.0.1:65536"] {
            refused::<ListenAddress>(text);
        }
    }

    #[test]
    fn telemetry_path_takes_nothing_from_the_server() {
        assert!("/probe/metrics".parse::<TelemetryPath>().is_ok());
        for text in ["", "/", "metrics", "/-/ready", "/api/v1/status", "/m?x", "/m m", "/m%20"] {
            refused::<TelemetryPath>(text);
        }
    }

    #[test]
    fn file_paths_are_absolute() {
        assert!("/var/log/synwatch/events.json".parse::<FilePath>().is_ok());
        for text in ["", "events.json", "/", "/var/log/", "/var/.."] {
            refused::<FilePath>(text);
        }
    }
}
