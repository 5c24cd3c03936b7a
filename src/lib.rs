//! synwatch watches the handshakes of TCP for SYN floods.
//!
//! The program is a thin `main` over this library, which connects the detector, [`synwatch_core`],
//! to a machine.
//!
//! | module | |
//! |---|---|
//! | [`capture`] | frames from a `TPACKET_V3` ring, from `pnet`, from an XDP program, or from pcap and pcapng files |
//! | [`kernel`] | SYN_RECV, listeners and their owners, counters, sysctls, conntrack |
//! | [`alert`] | a bounded queue, and behind it the log and the events file |
//! | [`http`] | metrics, health, status page, JSON |
//! | [`baseline_file`] | the file that keeps what was learned over a restart |
//! | [`config`] | the TOML file and the options that override it |
//! | [`sys`] | privileges, sandbox, threads, packet sockets, service manager, network namespaces |
//! | [`app`] | the daemon, `--once`, `replay`, `check-config`: the only place where parts are wired together |
//! | [`cli`] | the command line |
//!
//! Adapters do not import each other, but for `sys`.
//!
//! # From the interface to the detector
//!
//! A SYN reaches an interface. The kernel runs the classic BPF program of [`capture::filter`] on
//! the frame. It passes TCP segments with SYN, FIN or RST and those without payload; beyond the
//! packet budget only those of a sample of the flows. It writes the first octets of the frame into
//! the ring; where several threads capture, into the ring of the flow's shard. The capture thread
//! finds it there when the block is full or 64 ms old, and hands it to
//! [`synwatch_core::wire::decode`]. What follows is described in [`synwatch_core`].
//!
//! The capture thread puts each [`synwatch_core::engine::Action`] into the queue of [`alert`]
//! without waiting. HTTP, `--once` and `replay` show the [`synwatch_core::observe::Document`].

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod alert;
pub mod app;
pub mod baseline_file;
pub mod capture;
pub mod cli;
pub mod config;
pub mod http;
pub mod kernel;
pub mod sys;
