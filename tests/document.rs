//! The JSON document: what is written can be read again, and nothing of it is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sample;

use std::path::Path;
use std::process::Command;

use synwatch_core::observe::Document;

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
    document.totals.syn.stderr = Some(1_204);
    document.flows.syn_recv.stderr = Some(88);
    document.services[0].syn_rate.stderr = Some(310.7);
    document.detections[0].evidence.completion_ratio.stderr = Some(0.013);
    let fingerprint = document.detections[0].evidence.fingerprint.as_mut().unwrap();
    fingerprint.options = "mss,sackok,ts,nop,ws".parse().unwrap();
    assert_eq!(read_again(&document), document);
    let written = serde_json::to_value(&document).unwrap();
    assert_eq!(written["totals"]["syn_stderr"], 1_204);
    assert_eq!(written["flows"]["SYN_RECV_stderr"], 88);
    assert_eq!(written["services"][0]["syn_rate_stderr"], 310.7);
    assert_eq!(written["detections"][0]["evidence"]["completion_ratio_stderr"], 0.013);
}

/// What the program prints is such a document, key for key, sampled or not.
#[test]
fn what_the_program_prints_can_be_read() {
    let capture = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/cases/v06a-flood-clock-right.pcap.gz");
    if !capture.exists() {
        return eprintln!("skipped: {} is not here", capture.display());
    }
    for budget in ["100000", "100"] {
        let output = Command::new(env!("CARGO_BIN_EXE_synwatch"))
            .args(["replay", "--format", "json", "--packet-budget", budget])
            .arg(&capture)
            .output()
            .unwrap();
        let document: Document = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document.detections.len(), 1, "{document:#?}");
        assert_eq!(document.totals.syn.stderr.is_some(), budget == "100");
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(serde_json::to_value(&document).unwrap(), printed);
    }
}
