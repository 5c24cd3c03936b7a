//! The text of `--once` and `replay`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sample;

use synwatch::app::render::{Limits, status, text};
use synwatch_core::observe::{Class, Severity, Snapshot, Status, Unknown};

fn limits(warning: &str, critical: &str) -> Limits {
    Limits { warning: warning.parse().ok(), critical: critical.parse().ok() }
}

fn first_line(report: &Snapshot, limits: &Limits) -> String {
    let line = text(report, limits, &[], false).lines().next().unwrap().to_owned();
    let words = line.split(" | ").next().unwrap();
    assert!(words.chars().count() < 80, "{words}");
    line
}

#[test]
fn report_renders_as_before() {
    let unseen = ["no CAP_NET_RAW: kernel only".to_owned()];
    let none = Limits::default();
    insta::assert_snapshot!("quiet", text(&sample::quiet(), &none, &unseen, false));
    insta::assert_snapshot!("flooded", text(&sample::flooded(), &none, &[], false));
    let coloured = text(&sample::flooded(), &none, &[], true);
    insta::assert_snapshot!("coloured", coloured.replace('\x1b', "ESC"));
}

#[test]
fn first_line_names_the_target() {
    assert!(first_line(&sample::flooded(), &Limits::default()).starts_with(
        "SYNWATCH CRITICAL: SYN flood on 192.0.2.10:443, 511/511 half-open | half_open=511;;;0; "
    ));
}

#[test]
fn first_line_has_room_for_any_ipv6_target() {
    let mut report = sample::flooded();
    report.document.detections[0].target.address =
        Some("2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap());
    report.document.detections[0].target.port = Some(65_535);
    assert!(first_line(&report, &Limits::default()).starts_with(
        "SYNWATCH CRITICAL: SYN flood on [2001:db8:1111:2222:3333:4444:5555:6666]:65535 | "
    ));
}

#[test]
fn detection_that_is_over_shows_its_peak() {
    let mut report = sample::flooded();
    report.document.detections[0].cleared_at = Some(sample::at(400));
    let line = first_line(&report, &Limits::default());
    assert!(line.contains("SYN flood on 192.0.2.10:443, peak 511/511 half-open | "), "{line}");
    assert!(line.contains(" detections=0;;;0;"), "{line}");
}

#[test]
fn limits_raise_the_status_and_stand_in_the_figures() {
    let mut report = sample::quiet();
    report.document.services[0].half_open_kernel = Some(42);
    let line = first_line(&report, &limits("40", "100"));
    assert!(
        line.starts_with(
            "SYNWATCH WARNING: 42 half-open breaks --warning 40 | half_open=42;40;100;0; "
        ),
        "{line}"
    );
    assert_eq!(status(&report.document, &limits("40", "41")), Status::Critical);
    assert_eq!(status(&report.document, &limits("50", "@0:10")), Status::Ok);
    assert_eq!(status(&sample::flooded().document, &limits("~:", "~:")), Status::Critical);
}

#[test]
fn the_count_of_the_first_line_is_the_sum_of_the_rows() {
    let mut report = sample::quiet();
    let held = |report: &Snapshot| {
        let services = &report.document.services;
        services.iter().map(|s| s.half_open_kernel.unwrap_or(s.half_open.value)).sum::<u64>()
    };
    let listed: u64 =
        report.document.services.iter().filter_map(|service| service.half_open_kernel).sum();
    report.document.kernel.syn_recv = Some(listed + 7);
    let line = first_line(&report, &Limits::default());
    assert!(line.contains(&format!(": {} half-open", held(&report) + 7)), "{line}");
    let text = text(&report, &Limits::default(), &[], false);
    let other = text.lines().find(|line| line.starts_with("other ")).expect("a row");
    let cells: Vec<_> = other.split_whitespace().collect();
    assert_eq!((cells[2], cells.last()), ("7", Some(&"above")), "{other}");
}

#[test]
fn info_does_not_change_the_status() {
    let mut report = sample::flooded();
    report.document.status = Status::Ok;
    let crowd = &mut report.document.detections[0];
    crowd.class = Class::FlashCrowd;
    crowd.variant = None;
    crowd.severity = Severity::Info;
    crowd.severity_history.truncate(1);
    crowd.severity_history[0].severity = Severity::Info;
    assert!(
        first_line(&report, &Limits::default()).starts_with(
            "SYNWATCH OK: 511 half-open, 3 services, flash crowd on 192.0.2.10:443 | "
        )
    );
}

#[test]
fn no_witness_is_unknown() {
    let mut report = sample::quiet();
    report.document.doubt(Unknown::NoWitness);
    assert!(
        first_line(&report, &limits("0", "0"))
            .starts_with("SYNWATCH UNKNOWN: neither packets nor the kernel could be read | ")
    );
}

#[test]
fn a_doubt_is_told_unless_there_is_an_alarm() {
    let mut report = sample::quiet();
    report.document.doubt(Unknown::QueueFull);
    let none = Limits::default();
    assert!(
        first_line(&report, &none)
            .starts_with("SYNWATCH UNKNOWN: a SYN queue is full, and nothing shows why | ")
    );
    assert_eq!(status(&report.document, &limits("0", "9")), Status::Warning);
    let mut flooded = sample::flooded();
    flooded.document.doubt(Unknown::QueueFull);
    assert_eq!(status(&flooded.document, &none), Status::Critical);
    assert_eq!(flooded.document.unknown, [Unknown::QueueFull]);
}

#[test]
fn a_reason_has_one_name() {
    for why in Unknown::ALL {
        assert_eq!(serde_json::json!(why), why.name());
    }
}

#[test]
fn the_first_line_says_which_witness_was_not_asked() {
    let mut report = sample::quiet();
    report.document.capture.source = "none".into();
    let line = first_line(&report, &Limits::default());
    assert!(line.contains(", 3 services, by the kernel alone | "), "{line}");
}

#[test]
fn process_names_cannot_steer_the_terminal() {
    let mut report = sample::quiet();
    report.document.services[0].process.as_mut().unwrap().name = Some("a\x1b[2Jb\nc".into());
    let text = text(&report, &Limits::default(), &[], false);
    assert!(text.contains("a?[2Jb?c[812]"), "{text}");
    assert!(!text.contains('\x1b'));
}
