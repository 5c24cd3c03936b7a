//! The program's verdicts against the labels'.

use jiff::Timestamp;

use crate::labels::{Label, captures};
use crate::program::{Detection, Severity};
use crate::segments;

/// How long after the last attack packet an alert still counts.
const GRACE_S: f64 = 3.0;

#[test]
fn verdicts_follow_the_labels() {
    let mut wrong = Vec::new();
    eprintln!("{:<10} {:<9} {:<4} {:<58} raised", "class", "expected", "amb.", "file");
    for capture in captures() {
        let Some(report) = capture.report() else { continue };
        let label = &capture.label;
        let (first, _) = segments::read(&capture.path).unwrap();
        let after = |at: &str| seconds(at) - seconds(&first.to_string());
        let raised: Vec<String> =
            report.detections.iter().map(|detection| describe(detection, after)).collect();
        let expected = label.expect == "alert";
        if expected || !raised.is_empty() {
            let ambiguous = if label.ambiguous { "yes" } else { "no" };
            let raised = if raised.is_empty() { "-".to_owned() } else { raised.join("; ") };
            let Label { class, expect, file, .. } = label;
            eprintln!("{class:<10} {expect:<9} {ambiguous:<4} {file:<58} {raised}");
        }
        let pages = |detection: &&Detection| detection.severity >= Severity::Warning;
        let flood = |detection: &&Detection| detection.class == "syn_flood";
        let detections = || report.detections.iter();
        if expected && !label.ambiguous && !detections().any(|found| is_right(found, label, after))
        {
            wrong.push(format!("{}: no alert: {raised:?}", label.file));
        }
        if !expected && detections().filter(pages).any(|found| flood(&found)) {
            wrong.push(format!("{}: false alarm: {raised:?}", label.file));
        }
        let silent = label.class == "benign" || label.kind == "test suite";
        if !expected && silent && detections().any(|found| flood(&found) || pages(&found)) {
            wrong.push(format!("{}: not silent: {raised:?}", label.file));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Whether a detection is the alert that the label asks for, at the right time.
fn is_right(detection: &Detection, label: &Label, after: impl Fn(&str) -> f64) -> bool {
    let victim = detection.target.address.as_deref() == Some(&label.victim)
        && (label.port == 0 || detection.target.port == Some(label.port));
    let paged = detection.severity_history.iter().find(|at| at.severity >= Severity::Warning);
    // Who resets each answer at once holds no place, whether it is the flooder or a victim.
    let class = match label.file.contains("client-rst") {
        true => "syn_ack_reflection",
        false => "syn_flood",
    };
    detection.class == class
        && victim
        && paged.is_some_and(|paged| {
            label.start_s.is_some_and(|start| start <= after(&detection.raised_at))
                && label.end_s.is_some_and(|end| after(&paged.at) <= end + GRACE_S)
        })
}

fn describe(detection: &Detection, after: impl Fn(&str) -> f64) -> String {
    let or_any = |part: Option<&str>| part.unwrap_or("*").to_owned();
    format!(
        "{}/{} {:?} on {}:{} after {:.3} s",
        detection.class,
        or_any(detection.variant.as_deref()),
        detection.severity,
        or_any(detection.target.address.as_deref()),
        or_any(detection.target.port.map(|port| port.to_string()).as_deref()),
        after(&detection.raised_at)
    )
}

/// Seconds since the Unix epoch of an RFC 3339 time.
fn seconds(at: &str) -> f64 {
    at.parse::<Timestamp>().unwrap().as_duration().as_secs_f64()
}
