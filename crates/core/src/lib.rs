//! The detector of synwatch: segments of TCP in, findings out.
//!
//! It touches nothing outside of itself: no I/O, no clock, no thread, no `unsafe`. Time is an
//! argument, and whatever is to be done is returned. So it gives the same findings for the same
//! segments, live, from a file, or inside of another program:
//!
//! ```
//! use std::time::Duration;
//!
//! use synwatch_core::engine::{Action, Engine, Settings};
//! use synwatch_core::observe::Class;
//! use synwatch_core::time::Timestamp;
//! use synwatch_core::wire::{Address, Flags, Segment, SeqNumber};
//!
//! let mut now = Timestamp::from_nanos(1_700_000_000_000_000_000);
//! let mut engine = Engine::new(Settings { flows: 1 << 16, ..Settings::default() }, now);
//! let mut actions = Vec::new();
//! // 2,000 SYNs a second of random sources. The server answers them all, and hears no more.
//! for n in 0..6_000_u32 {
//!     now = now + Duration::from_micros(500);
//!     let syn = Segment {
//!         source: Address::v4(n.wrapping_mul(0x9e37_79b9).to_be_bytes()),
//!         source_port: 40_000,
//!         destination: Address::v4([192, 0, 2, 10]),
//!         destination_port: 443,
//!         seq: SeqNumber(n),
//!         flags: Flags::SYN,
//!         ..Segment::default()
//!     };
//!     let answer = Segment {
//!         source: syn.destination,
//!         source_port: syn.destination_port,
//!         destination: syn.source,
//!         destination_port: syn.source_port,
//!         ack: syn.seq + 1,
//!         flags: Flags::SYN | Flags::ACK,
//!         ..Segment::default()
//!     };
//!     engine.handle_segment(now, &syn, 0);
//!     engine.handle_segment(now, &answer, 0);
//!     actions.extend(engine.tick(now));
//! }
//! let Some(Action::Raised(detection)) = actions.first() else { panic!("it is a flood") };
//! assert_eq!(detection.class, Class::SynFlood);
//! assert_eq!(engine.snapshot(now).document.totals.syn.value, 6_000);
//! ```
//!
//! # Public names
//!
//! | module | |
//! |---|---|
//! | [`wire`] | [`wire::decode`]: a frame's octets become a [`wire::Segment`], or a [`wire::Skip`] says why not |
//! | [`engine`] | [`engine::Engine`]: segments, kernel samples and time in, [`engine::Action`]s and a snapshot out |
//! | [`observe`] | what the kernel says, in ([`observe::KernelSample`]); what was found, out ([`observe::Document`]) |
//! | [`metrics`] | a snapshot becomes Prometheus metric families |
//! | [`sampling`] | which flows are looked at under load, for filters in the kernel that choose as the engine does |
//! | [`time`] | [`time::Timestamp`], passed in everywhere |
//!
//! Everything else is private. Data goes down one way: `wire`, `flow` (the state machine of a
//! connection and the bounded table that holds connections), `stats` (counts by step, samples),
//! `detect` (change detection), `findings` (a room for each class), `incident`, `engine`.
//!
//! # The life of a packet
//!
//! [`wire::decode`] takes link, VLAN, tunnel and IP headers off a frame and gives a
//! [`wire::Segment`]. Whatever is no TCP segment is one counted [`wire::Skip`].
//!
//! Both ends of the connection are hashed with secret numbers, so that both directions find the
//! same flow. The hash says which [`engine::Shard`] keeps it. The shard first lets time pass. Every
//! 62.5 ms it closes a bin, in which the counting calendars of `flow` drop what was due. Every
//! fourth bin ends a step of the detector.
//!
//! A SYN of an unknown flow begins one in SYN_SENT (`flow::Tracker::handle`). This is an *attempt*:
//! it is counted in the window of the present step of its service, its source goes into the
//! service's sketch, and it may be drawn into the sample of this step.
//!
//! The SYN-ACK finds that flow, moves it to SYN_RECV and enters it into its service's calendar: it
//! is half-open. An ACK of the server's number + 1 completes it, and a valid RST ends it. Where the
//! repeat of the SYN-ACK is overdue, the server gave up, or it had sent a SYN cookie and kept
//! nothing. The copy of a segment that crosses a second interface changes nothing and is counted as
//! `duplicate`.
//!
//! At the end of the step the engine collects what its shards have counted. 1.5 s later the
//! attempts of that step are judged. Those drawn are looked up once more: the failed ones say who
//! fails, and how much each failure counts. The step's completions and weighted failures go into
//! the service's `detect::Detector`. Its severity, together with the kernel's latest sample,
//! raises, changes or clears an incident. [`engine::Engine::tick`] returns that as an
//! [`engine::Action`], and [`engine::Engine::snapshot`] makes the [`observe::Snapshot`].
//!
//! # Invariants
//!
//! - The same segments and samples give the same report, however many shards count them.
//! - Every attempt has one outcome in the end, and the sums of [`observe::Totals`] hold at any time
//!   (`docs/counts.md`).
//! - Segments that their receiver drops move nothing (RFC 9293, section 3.10.7).
//! - A frame gives one segment or one counted reason.
//! - Memory is fixed by [`engine::Settings`]: nothing grows with an attack.

mod detect;
mod document;
pub mod engine;
mod findings;
mod flow;
mod incident;
pub mod metrics;
mod model;
pub mod observe;
pub mod sampling;
mod stats;
#[doc(hidden)]
pub mod testing;
pub mod time;
pub mod wire;
