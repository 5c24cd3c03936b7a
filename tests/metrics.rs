//! Metrics as a scraper sees them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sample;

use std::collections::BTreeMap;

use synwatch_core::metrics::{Exporter, render};
use synwatch_core::observe::{Class, ServiceInternals, Severity};

fn exporter() -> Exporter {
    Exporter {
        collectors: BTreeMap::from([("capture", true), ("kernel", true)]),
        ..Exporter::default()
    }
}

/// The lines of one family, without HELP and TYPE.
fn samples<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect()
}

#[test]
fn report_renders_as_before() {
    insta::assert_snapshot!("quiet", render(&sample::quiet(), &exporter()));
    insta::assert_snapshot!("flooded", render(&sample::flooded(), &exporter()));
}

#[test]
fn every_class_and_severity_is_there_without_detections() {
    let text = render(&sample::quiet(), &exporter());
    for family in ["synwatch_detection_active", "synwatch_detections_total"] {
        let samples = samples(&text, family);
        assert_eq!(samples.len(), Class::ALL.len() * Severity::ALL.len());
        assert!(samples.iter().all(|line| line.ends_with("} 0")), "{samples:?}");
    }
}

#[test]
fn cleared_detection_is_not_active() {
    let mut report = sample::flooded();
    report.document.detections[0].cleared_at = Some(sample::at(400));
    let text = render(&report, &exporter());
    assert!(samples(&text, "synwatch_detection_active").iter().all(|line| line.ends_with("} 0")));
    assert!(text.contains(r#"synwatch_detections_total{class="syn_flood",severity="critical"} 1"#));
}

#[test]
fn unknown_values_are_left_out() {
    let mut report = sample::quiet();
    report.document.kernel = Default::default();
    report.internals.conntrack = None;
    for service in &mut report.document.services {
        service.half_open_kernel = None;
    }
    report.internals.services.fill(ServiceInternals::default());
    let text = render(&report, &Exporter::default());
    for family in [
        "synwatch_kernel_half_open_connections",
        "synwatch_listen_backlog_limit",
        "synwatch_accept_queue_length",
        "synwatch_kernel_tcpext_total",
        "synwatch_conntrack_entries",
        "synwatch_collector_success",
    ] {
        assert!(!text.contains(family), "{family}");
    }
}

#[test]
fn services_beyond_the_limit_are_summed_up() {
    let services = (1..=40).map(|port| {
        let mut service = sample::service("192.0.2.1", port);
        service.half_open = u64::from(port).into();
        service
    });
    let report = sample::with_services(services);
    let text = render(&report, &exporter());
    let half_open = samples(&text, "synwatch_half_open_connections");
    assert_eq!(half_open.len(), Exporter::DEFAULT_MAX_SERVICES + 1);
    assert_eq!(
        half_open.last().copied(),
        Some(r#"synwatch_half_open_connections{address="other",port="other"} 292"#)
    );
    assert_eq!(samples(&text, "synwatch_source_entropy_ratio").len(), 32);
    assert!(!text.contains(r#"port="33""#));
}

#[test]
fn sources_never_appear() {
    let text = render(&sample::flooded(), &exporter());
    assert!(!text.contains("203.0.113"));
}
