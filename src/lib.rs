//! synwatch watches the handshakes of TCP for SYN floods.
//!
//! The program is a thin `main` over this library. The core holds the whole of the detector and touches
//! nothing outside of itself: no I/O, no clock, no threads, no `unsafe`; time is an argument. Adapters
//! connect it to a machine and stand behind the feature `host`, which is on by default.
//!
//! # Modules
//!
//! | core | |
//! |---|---|
//! | [`time`] | [`time::Timestamp`], passed in everywhere |
//! | [`wire`] | a frame's bytes become a [`wire::Segment`], or a reason why not |
//! | [`flow`] | the state machine of a connection, and the bounded table that holds connections |
//! | [`stats`] | per service: counts by step, a sample of failing attempts, the number of sources |
//! | [`detect`] | change detection, severity, kind, confidence, incidents, the verdict in words |
//! | [`engine`] | owns all of the above: segments, kernel samples and time in, actions and a report out; shards count, one judge decides |
//! | [`observe`] | the plain values that cross the border: kernel samples in, the report out |
//! | [`metrics`] | a report becomes families of Prometheus |
//!
//! | adapters (`host`) | |
//! |---|---|
//! | `capture` | frames from a `TPACKET_V3` ring, from `pnet`, from an XDP program, or from pcap and pcapng files |
//! | `kernel` | SYN_RECV, listeners and their owners, counters, sysctls, conntrack |
//! | `alert` | a bounded queue, and behind it the log and the events file |
//! | `http` | metrics, health, status page, JSON |
//! | `state` | the file that keeps what was learned over a restart |
//! | `config` | the TOML file and the options above it |
//! | `sys` | privileges, sandbox, service manager, network namespaces |
//! | `app` | the daemon, `--once`, `replay`, `check-config`: the only place where parts are wired together |
//! | `cli` | the command line |
//!
//! Adapters do not import each other, but for `sys`, and the core imports no adapter.
//!
//! # The life of a packet
//!
//! A SYN reaches an interface. The kernel runs the classic BPF program of `capture::filter` on the frame,
//! which passes TCP segments with SYN, FIN or RST and those without payload (beyond the packet budget only those
//! of a sample of the flows), and writes the first 160
//! octets of it into the ring; where several threads capture, into the ring of the flow's shard. The capture thread finds it
//! there when the block is full or 64 ms old,
//! and hands it to [`wire::decode`], which takes off link, VLAN, tunnel and IP headers and gives a
//! [`wire::Segment`]. Whatever is no TCP segment is one counted [`wire::Skip`].
//!
//! The [`engine::Shard`] that has the flow first lets time pass: every 62.5 ms that are over close a bin, in
//! which the counting calendars of [`flow`] drop what was due, and every fourth of them ends a step of the
//! detector. Both ends of the connection were hashed with secret numbers when the segment was queued, so that
//! both directions find the same place, and the processor has fetched it since. [`flow::Tracker::handle`] looks there. No such flow is there, so the SYN begins one in SYN_SENT,
//! and the event is an *attempt*: it is counted in the window of the present step of its service, its
//! source goes into the service's sketch, and it may be drawn into the sample of this step.
//!
//! The SYN-ACK finds that flow, moves it to SYN_RECV and enters it into its service's calendar: it is
//! half-open, until an ACK of the server's number + 1 completes it, a RST within the window ends it, or
//! the repeat of the SYN-ACK is overdue, by which the server shows that it gave up (or that it had sent a SYN
//! cookie and kept nothing). The copy of a segment that crosses a second interface changes nothing and is
//! counted as `duplicate`.
//!
//! At the end of the step the engine collects what its shards have counted, and 1.5 s after it the attempt is judged with all others of that step. Those drawn are looked up
//! once more: the failed ones say who fails, and how much each failure counts. The step's completions and
//! weighted failures go into [`detect::Detector`], whose severity, together with the kernel's latest
//! sample, raises, changes or clears an incident. [`engine::Engine::tick`] returns that as an
//! [`engine::Action`], which the capture thread puts into the queue of `alert` without waiting, and
//! [`engine::Engine::snapshot`] makes the [`observe::Report`] that HTTP, `--once` and `replay` show.

#[cfg(feature = "host")]
pub mod alert;
#[cfg(feature = "host")]
pub mod app;
#[cfg(feature = "host")]
pub mod capture;
#[cfg(feature = "host")]
pub mod cli;
#[cfg(feature = "host")]
pub mod config;
pub mod detect;
pub mod engine;
pub mod flow;
#[cfg(feature = "host")]
pub mod http;
#[cfg(feature = "host")]
pub mod kernel;
pub mod metrics;
pub mod observe;
#[cfg(feature = "host")]
pub mod state;
pub mod stats;
#[cfg(feature = "host")]
pub mod sys;
pub mod time;
pub mod wire;
