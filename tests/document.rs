//! The JSON document: what is written can be read again, and nothing of it is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sample;

use std::path::Path;
use std::process::Command;

use synwatch_core::observe::{
    Document, EvidenceStderr, FlowCountsStderr, ServiceStderr, TotalsStderr,
};

fn read_again(document: &Document) -> Document {
    serde_json::from_str(&serde_json::to_string(document).unwrap()).unwrap()
}

#[test]
fn what_is_written_can_be_read() {
    for document in [sample::quiet().document, sample::flooded().document] {
        assert_eq!(read_again(&document), document);
    }
}

#[test]
fn errors_of_sampled_figures_too() {
    let mut document = sample::flooded().document;
    document.totals.stderr = Some(TotalsStderr { syn_stderr: 1_204, ..TotalsStderr::default() });
    document.flows.stderr = Some(FlowCountsStderr { syn_recv: 88, ..FlowCountsStderr::default() });
    document.services[0].stderr =
        Some(ServiceStderr { syn_rate_stderr: 310.7, ..ServiceStderr::default() });
    document.detections[0].evidence.stderr =
        Some(EvidenceStderr { completion_ratio_stderr: 0.013, ..EvidenceStderr::default() });
    let fingerprint = document.detections[0].evidence.fingerprint.as_mut().unwrap();
    fingerprint.options = "mss,sackok,ts,nop,ws".parse().unwrap();
    assert_eq!(read_again(&document), document);
}

/// What the program prints is such a document, key for key.
#[test]
fn what_the_program_prints_can_be_read() {
    let capture = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/cases/v06a-flood-clock-right.pcap.gz");
    if !capture.exists() {
        return eprintln!("skipped: {} is not here", capture.display());
    }
    let output = Command::new(env!("CARGO_BIN_EXE_synwatch"))
        .args(["replay", "--format", "json"])
        .arg(capture)
        .output()
        .unwrap();
    let document: Document = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document.detections.len(), 1, "{document:#?}");
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(serde_json::to_value(&document).unwrap(), printed);
}
