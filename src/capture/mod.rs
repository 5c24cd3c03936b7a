//! Frames from the wire or from files, in batches, with what was lost on the way.
//!
//! Three sources: [`ring::Ring`] (TPACKET_V3, the default), [`pnet::Pnet`] (portable, slow) and
//! [`pcap::Pcap`] (files); with the feature `ebpf` also `xdp::Xdp` (mirror ports). None of them
//! decodes: a frame is a link type and bytes.
//!
//! # Who drops copies of a packet
//! A packet that crosses several interfaces (bridge and port, bond and member, VLAN on top of
//! Ethernet, both ends of a veth) is delivered once for each, with its interface index: the engine
//! keeps to one interface per flow, since only it knows flows. The capture drops what it can tell
//! without state, in the kernel: the outgoing copy on a loopback device, which comes back as
//! incoming.
//!
//! # VLAN tags
//! The kernel takes the outermost tag off an incoming frame before the capture sees it. The frame
//! is delivered as it lies, without that tag; tags still in the data are left there. Flows that
//! differ in their VLAN alone are one flow.

pub mod filter;
pub mod pcap;
pub mod pnet;
pub mod ring;
mod socket;
#[cfg(feature = "ebpf")]
pub mod xdp;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use synwatch_core::observe::CaptureStats;
use synwatch_core::sampling::{Sampling, SamplingKey};
use synwatch_core::time::Timestamp;
use synwatch_core::wire::LinkType;

use self::filter::Filter;
use crate::sys::{Needs, packet};

/// One frame as it was captured; it may have been cut to its headers.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// When it was captured.
    pub at: Timestamp,
    /// What `data` begins with.
    pub link: LinkType,
    /// The octets captured.
    pub data: &'a [u8],
    /// Octets on the wire, from the beginning of `data`; at least the captured ones.
    pub original_len: u32,
    /// Interface index (RFC 2863 ifIndex); of files a number that tells their interfaces apart, 0
    /// where there is none.
    pub interface: u32,
    /// Whether this host sent it.
    pub direction: Direction,
}

/// Which way a frame crossed its interface.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// Received, for this host or (mirror ports, bridges) for another.
    Incoming,
    /// Sent by this host.
    Outgoing,
    /// The source does not tell.
    Unknown,
}

/// What came of one [`Source::read_batch`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Batch {
    /// At least one frame was visited.
    Frames,
    /// Frames may have been visited; then came a record that could not be read.
    Damaged,
    /// No frame: the timeout passed or a signal arrived.
    Idle,
    /// No frame will ever come again.
    End,
}

/// Where frames come from.
pub trait Source: Send {
    /// `afpacket`, `pnet`, `xdp` or `pcap`.
    fn name(&self) -> &'static str;

    /// The interfaces listened on now, or the files read. A live source looks them up in the
    /// network namespace of the calling thread.
    fn interfaces(&self) -> Vec<String>;

    /// Visits the next frames; waits for them up to `timeout` (files never wait).
    ///
    /// # Errors
    /// The source is of no use any more. An interface that goes down or away is no error.
    fn read_batch(
        &mut self,
        timeout: Duration,
        visit: &mut dyn FnMut(Frame<'_>),
    ) -> Result<Batch, Error>;

    /// What reading takes, now that the source is open.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Frames received and dropped since the source was opened.
    fn stats(&mut self) -> CaptureStats;

    /// Passes what `selection` asks for, from now on; frames that wait to be read were passed by
    /// the selection before. So to look at fewer flows, begin with that and then select them; to
    /// look at more, the other way around. It costs nothing where nothing has changed. Files always
    /// have all.
    ///
    /// # Errors
    /// The kernel does not take the other filter, and keeps the one that it has; another call tries
    /// again.
    fn select(&mut self, _selection: &Selection) -> Result<(), Error> {
        Ok(())
    }
}

/// The same frames for a visitor that is known when this is compiled: the loop over them and what
/// is done with each become one, which saves a file of millions of packets a tenth of its time.
pub trait Frames {
    /// As [`Source::read_batch`].
    ///
    /// # Errors
    /// The source is of no use any more.
    fn visit(&mut self, timeout: Duration, visitor: impl FnMut(Frame<'_>)) -> Result<Batch, Error>;
}

impl Frames for dyn Source + '_ {
    fn visit(
        &mut self,
        timeout: Duration,
        mut visitor: impl FnMut(Frame<'_>),
    ) -> Result<Batch, Error> {
        self.read_batch(timeout, &mut visitor)
    }
}

/// What of the traffic is wanted; it may change with every moment. A source may pass more.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selection {
    /// Also segments that carry data: where only one direction is seen, data may be the only sign
    /// that a handshake completed.
    pub data: bool,
    /// Only the flows of this sample, each of them whole; all where there is none.
    pub flows: Option<(SamplingKey, Sampling)>,
}

/// How a live source is opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// What to listen on.
    pub interfaces: Interfaces,
    /// Memory for frames that wait to be read, in octets, over all interfaces. Not for pnet.
    pub ring_bytes: usize,
    /// Pass only flows with one of these TCP ports at an end; all where there is none.
    pub ports: Vec<u16>,
}

impl Settings {
    /// The filter to begin with.
    fn filter(&self) -> Filter {
        Filter {
            interfaces: None,
            loopback: self.interfaces.include_loopback(),
            ports: self.ports.clone(),
            selection: Selection::default(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { interfaces: Interfaces::default(), ring_bytes: 8 << 20, ports: Vec::new() }
    }
}

/// The interfaces to listen on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Interfaces {
    /// All that are up, also those that come up later, without loopback.
    #[default]
    Up,
    /// The same with loopback.
    Any,
    /// These, also when they are deleted and created again.
    Named(Vec<String>),
}

impl Interfaces {
    /// The choice that `--interface NAME` makes: none given is [`Interfaces::Up`], `any` among them
    /// is [`Interfaces::Any`]; a name given twice counts once.
    pub fn from_names(names: impl IntoIterator<Item = String>) -> Self {
        let mut chosen: Vec<String> = Vec::new();
        for name in names {
            if name == "any" {
                return Self::Any;
            }
            if !chosen.contains(&name) {
                chosen.push(name);
            }
        }
        if chosen.is_empty() { Self::Up } else { Self::Named(chosen) }
    }

    /// Whether loopback is asked for, by `any` or by its name.
    fn include_loopback(&self) -> bool {
        !matches!(self, Self::Up)
    }

    /// The interfaces of the calling thread's network namespace that are chosen; a named one also
    /// while it is down.
    fn present(&self) -> Vec<pnet_datalink::NetworkInterface> {
        let mut all = existing();
        all.retain(|interface| match self {
            Self::Up => interface.is_up() && !interface.is_loopback(),
            Self::Any => interface.is_up(),
            Self::Named(names) => names.contains(&interface.name),
        });
        all
    }

    /// Their names.
    fn names(&self) -> Vec<String> {
        self.present().into_iter().map(|interface| interface.name).collect()
    }

    /// Checks that every interface asked for by name exists.
    fn check(&self) -> Result<(), Error> {
        let Self::Named(names) = self else { return Ok(()) };
        let existing: Vec<String> = existing().into_iter().map(|i| i.name).collect();
        match names.iter().find(|name| !existing.contains(name)) {
            None => Ok(()),
            Some(name) => Err(Error::UnknownInterface {
                name: name.clone(),
                existing: if existing.is_empty() { "none".into() } else { existing.join(", ") },
            }),
        }
    }
}

/// All interfaces of the calling thread's network namespace.
fn existing() -> Vec<pnet_datalink::NetworkInterface> {
    let mut all = pnet_datalink::interfaces();
    // getifaddrs(3) also lists the labels of IPv4 addresses, as in "eth0:1".
    all.retain(|interface| !interface.name.contains(':'));
    all
}

/// Why a source could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An interface asked for by name does not exist.
    #[error("there is no interface \"{name}\" (there are: {existing})")]
    UnknownInterface {
        /// The name asked for.
        name: String,
        /// Those that exist.
        existing: String,
    },
    /// The process may not capture.
    #[error("packet capture is not permitted: CAP_NET_RAW is missing")]
    Permission,
    /// A system call on the capture socket failed.
    #[error("packet capture: {call}: {source}")]
    Socket {
        /// The system call or socket option.
        call: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// An interface cannot be captured on.
    #[error("packet capture on {interface}: {source}")]
    Interface {
        /// Its name.
        interface: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The XDP program cannot be used.
    #[cfg(feature = "ebpf")]
    #[error(transparent)]
    Xdp(#[from] xdp::Error),
    /// XDP is asked for, but not built in.
    #[error("this program was built without XDP: cargo build --features ebpf")]
    NoXdp,
    /// A capture file cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// A capture file cannot be read any further.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// A capture file without a single octet.
    #[error("{}: the file is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file of another format.
    #[error("{}: not a pcap or pcapng file", path.display())]
    NotACapture {
        /// The file.
        path: PathBuf,
    },
    /// A file in a compression that is not read.
    #[error("{}: compressed with {name}, which is not supported: decompress it first", path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// The compression.
        name: &'static str,
    },
    /// A capture file of a version that does not exist (yet).
    #[error("{}: version {major}.{minor} of the file format is not supported", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
}

impl From<packet::Error> for Error {
    fn from(packet::Error { call, source }: packet::Error) -> Self {
        Self::Socket { call, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Interfaces {
        Interfaces::from_names(names.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn interfaces_by_name() {
        assert_eq!(names(&[]), Interfaces::Up);
        assert_eq!(names(&["eth0", "any"]), Interfaces::Any);
        assert_eq!(
            names(&["eth0", "lo", "eth0"]),
            Interfaces::Named(vec!["eth0".into(), "lo".into()])
        );
    }

    #[test]
    fn an_unknown_interface_is_named_with_those_that_exist() {
        let error = names(&["lo", "no-such-if"]).check().unwrap_err().to_string();
        assert!(error.starts_with("there is no interface \"no-such-if\" (there are: "), "{error}");
        assert!(names(&["lo"]).check().is_ok());
    }
}
