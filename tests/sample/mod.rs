//! Reports as the engine would make them, for the tests of everything that leaves the program.

#![allow(dead_code, reason = "each test binary uses a part of the samples")]

pub mod server;

use std::collections::BTreeMap;
use std::net::IpAddr;

use synwatch_core::observe::{
    CaptureReport, Class, Conntrack, Detection, Document, Durations, Evidence, Fingerprint,
    FlowCounts, Handshakes, Internals, KernelReport, Limit, Observed, PrefixShare, Process,
    SCHEMA_VERSION, ServiceInternals, ServiceReport, Severity, SeverityChange, Snapshot, Status,
    Target, Totals, Variant,
};
use synwatch_core::time::Timestamp;
use synwatch_core::wire::OptionLayout;

/// 2026-01-01T00:00:00Z plus `seconds`.
pub fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos((1_767_225_600 + seconds) * 1_000_000_000)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A service that nobody troubles.
pub fn service(address: &str, port: u16) -> ServiceReport {
    ServiceReport {
        address: ip(address),
        port,
        process: None,
        half_open: 0.into(),
        half_open_unconfirmed: 0.into(),
        half_open_kernel: Some(0),
        backlog: 4096,
        occupancy_ratio: 0.0,
        seconds_to_full: None,
        syn: 40.into(),
        syn_rate: 0.5.into(),
        completion_ratio: 1.0.into(),
        sources: 12,
        source_entropy_ratio: 0.0,
    }
}

/// A quiet host with three services.
pub fn quiet() -> Snapshot {
    let mut durations = Durations::default();
    for seconds in [0.0004, 0.012, 0.03, 0.031, 0.2, 7.0] {
        durations.observe(seconds, 1);
    }
    let mut ssh = service("::", 22);
    ssh.process = Some(Process {
        name: Some("sshd".into()),
        pid: Some(612),
        unit: Some("ssh.service".into()),
    });
    ssh.backlog = 128;
    let mut web = service("192.0.2.10", 443);
    web.process = Some(Process {
        name: Some("nginx".into()),
        pid: Some(812),
        unit: Some("nginx.service".into()),
    });
    web.backlog = 511;
    web.half_open = 3.into();
    web.half_open_unconfirmed = 2.into();
    web.half_open_kernel = Some(3);
    web.occupancy_ratio = 3.0 / 511.0;
    web.syn = 30_000.into();
    web.syn_rate = 101.5.into();
    web.completion_ratio = 0.98.into();
    web.sources = 2_890;
    web.source_entropy_ratio = 0.61;
    let mut remote = service("2001:db8::5", 8080);
    remote.half_open_kernel = None;
    let own = ServiceInternals { accept_queue: Some(0), backlog_known: true, verdict: None };
    let document = Document {
        schema_version: SCHEMA_VERSION,
        version: "0.1.0".into(),
        status: Status::Ok,
        unknown: vec![],
        observed: Observed { from: at(0), to: at(300), seconds: 300.0 },
        capture: CaptureReport {
            source: "afpacket".into(),
            interfaces: vec!["eth0".into()],
            packets: 123_456,
            tcp_segments: 120_000,
            dropped: 0,
            sampling_ratio: 1.0,
            limits: vec![],
            skipped: BTreeMap::from([("not_tcp".into(), 3_400), ("fragment".into(), 56)]),
        },
        kernel: KernelReport {
            available: true,
            syn_recv: Some(3),
            syncookies: Some(1),
            counters: BTreeMap::from([
                ("ListenOverflows".into(), 0),
                ("SyncookiesSent".into(), 0),
                ("TCPReqQFullDoCookies".into(), 0),
                ("TCPReqQFullDrop".into(), 0),
            ]),
        },
        totals: Totals {
            syn: 30_080.into(),
            syn_retransmitted: 40.into(),
            syn_ack: 30_050.into(),
            handshakes_completed: 29_400.into(),
            handshakes_reset: 12.into(),
            handshakes_timed_out: 580.into(),
            handshakes_presumed: 4.into(),
            syn_unanswered: 7.into(),
            half_open: 3.into(),
            half_open_peak: 9.into(),
            fin: 58_000.into(),
            rst: 31.into(),
            sources: 2_900,
        },
        flows: FlowCounts {
            syn_recv: 3.into(),
            established: 410.into(),
            time_wait: 77.into(),
            ..FlowCounts::default()
        },
        services: vec![web, ssh, remote],
        detections: vec![],
    };
    Snapshot {
        document,
        internals: Internals {
            flow_table_entries: 490,
            flow_table_capacity: 1 << 20,
            flows_evicted: 0,
            groups_evicted: 0,
            handshakes: Handshakes {
                completed: 29_400,
                reset: 12,
                timed_out: 580,
                presumed: 4,
                unanswered: 7,
            },
            handshake_durations: durations,
            detections_total: BTreeMap::new(),
            conntrack: Some(Conntrack { entries: 900, limit: 262_144, dropped: 0 }),
            services: vec![own, own, ServiceInternals::default()],
        },
    }
}

/// The quiet host with these services instead.
pub fn with_services(services: impl Iterator<Item = ServiceReport>) -> Snapshot {
    let mut snapshot = quiet();
    let own = snapshot.internals.services[0];
    snapshot.document.services = services.collect();
    snapshot.internals.services = vec![own; snapshot.document.services.len()];
    snapshot
}

/// A SYN flood from forged addresses that is still on.
pub fn flood() -> Detection {
    Detection {
        id: "6b1f0c52".into(),
        class: Class::SynFlood,
        variant: Some(Variant::SpoofedRandom),
        severity: Severity::Critical,
        confidence: 0.98,
        severity_history: vec![
            SeverityChange { at: at(301), severity: Severity::Warning },
            SeverityChange { at: at(303), severity: Severity::Critical },
        ],
        target: Target { address: Some(ip("192.0.2.10")), port: Some(443) },
        target_prefix: None,
        attacker: None,
        first_packet_at: at(300),
        raised_at: at(301),
        cleared_at: None,
        evidence: Evidence {
            kernel_drop_rate: Some(12.0),
            kernel_cookie_rate: Some(0.0),
            syn_rate: 48_211.0.into(),
            completion_ratio: 0.002.into(),
            half_open_peak: 511.into(),
            backlog: Some(511),
            occupancy_ratio: Some(1.0),
            sources: 44_000,
            source_entropy_ratio: 0.99,
            top_prefixes: vec![PrefixShare {
                prefix: "203.0.113.0/24".parse().unwrap(),
                share: 0.01,
            }],
            fingerprint: Some(Fingerprint {
                share: 0.99,
                completed_share: Some(0.0),
                ttl: 64,
                window: 512,
                mss: None,
                options: OptionLayout::default(),
            }),
        },
        explanation: "48211 SYN/s over 1.5 s, of which 0.2 % completed, fill 511 of 511 entries"
            .into(),
        advice: vec![
            "Keep net.ipv4.tcp_syncookies at 1.".into(),
            "Do not block the source addresses: they are probably forged.".into(),
        ],
    }
}

/// The same host with [`flood`] going on.
pub fn flooded() -> Snapshot {
    let Snapshot { document: mut report, mut internals } = quiet();
    report.status = Status::Critical;
    report.observed = Observed { from: at(0), to: at(310), seconds: 310.0 };
    report.capture.packets = 900_000;
    report.capture.dropped = 1_200;
    report.capture.sampling_ratio = 0.25;
    report.capture.limits = vec![Limit::Dropping, Limit::Truncated];
    report.kernel.syn_recv = Some(511);
    report.kernel.counters.insert("TCPReqQFullDoCookies".into(), 470_000);
    report.totals.half_open = 70_310.into();
    report.totals.half_open_peak = 70_400.into();
    let web = &mut report.services[0];
    web.half_open = 70_310.into();
    web.half_open_unconfirmed = 47_000.into();
    web.half_open_kernel = Some(511);
    web.occupancy_ratio = 1.0;
    web.syn_rate = 48_211.0.into();
    web.completion_ratio = 0.002.into();
    web.sources = 44_000;
    web.source_entropy_ratio = 0.99;
    internals.services[0].verdict =
        Some((Class::SynFlood, Some(Variant::SpoofedRandom), Severity::Critical));
    report.detections = vec![flood()];
    internals.detections_total.insert((Class::SynFlood, Severity::Critical), 1);
    Snapshot { document: report, internals }
}
