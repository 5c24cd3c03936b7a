//! Small captures with one right answer each, where they lie beside the repository.

#![allow(clippy::unwrap_used, reason = "tests may fail")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;
use toml::Table;

/// The statuses in the order of their gravity; the place is the exit code.
const STATUSES: [&str; 4] = ["ok", "warning", "critical", "unknown"];

#[derive(Deserialize)]
struct Cases {
    file: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    file: String,
    kind: String,
    why: String,
    #[serde(flatten)]
    expected: Expected,
    /// One of these must hold.
    #[serde(default)]
    any: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    status_min: Option<String>,
    status_max: Option<String>,
    exit: Option<i32>,
    /// One of these stands in the text.
    #[serde(default)]
    text_contains: Vec<String>,
    /// Of the gravest detection.
    class: Option<String>,
    completion_min: Option<f64>,
    #[serde(default)]
    totals: Table,
    /// Every state that is not 0.
    flows: Option<Table>,
    #[serde(default)]
    law: bool,
}

/// What the program says of a file.
struct Answer {
    exit: i32,
    text: String,
    report: Value,
}

impl Answer {
    fn of(path: &Path) -> Self {
        let run = |format| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_synwatch"));
            command.args(["--config", "/dev/null", "replay", "--format", format]).arg(path);
            command.output().expect("as the file of expectations has it")
        };
        let (text, json) = (run("text"), run("json"));
        Self {
            exit: json.status.code().expect("as the file of expectations has it"),
            text: [text.stdout, text.stderr]
                .map(|part| String::from_utf8(part).expect("as the file of expectations has it"))
                .concat(),
            report: serde_json::from_slice(&json.stdout).unwrap_or_default(),
        }
    }

    fn total(&self, name: &str) -> i64 {
        self.report["totals"][name].as_i64().unwrap_or(-1)
    }

    /// What does not hold.
    fn check(&self, expected: &Expected) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut hold = |holds: bool, what: String| {
            if !holds {
                wrong.push(what);
            }
        };
        let sampling_hash = |status: &str| STATUSES.iter().position(|name| *name == status);
        let status = self.report["status"].as_str().unwrap_or("unknown");
        if let Some(least) = &expected.status_min {
            // Unknown says nothing of the traffic.
            let holds = sampling_hash(status) >= sampling_hash(least) && status != "unknown";
            hold(holds, format!("status {status}, at least {least}"));
        }
        if let Some(most) = &expected.status_max {
            hold(
                sampling_hash(status) <= sampling_hash(most),
                format!("status {status}, at most {most}"),
            );
        }
        if let Some(exit) = expected.exit {
            hold(self.exit == exit, format!("exit code {}, not {exit}", self.exit));
        }
        if !expected.text_contains.is_empty() {
            let text = self.text.to_lowercase();
            let holds =
                expected.text_contains.iter().any(|part| text.contains(&part.to_lowercase()));
            hold(holds, format!("none of {:?} in the text", expected.text_contains));
        }
        if let Some(class) = &expected.class {
            let detections = self.report["detections"].as_array().map_or(&[][..], Vec::as_slice);
            let holds = detections.iter().any(|detection| detection["class"] == **class);
            hold(holds, format!("no {class}"));
        }
        if let Some(least) = expected.completion_min {
            let services = self.report["services"].as_array().map_or(&[][..], Vec::as_slice);
            let ratios: Vec<_> =
                services.iter().filter_map(|s| s["completion_ratio"].as_f64()).collect();
            hold(ratios.iter().all(|ratio| *ratio >= least), format!("completion {ratios:?}"));
        }
        for (name, value) in &expected.totals {
            let (is, value) =
                (self.total(name), value.as_integer().expect("as the file of expectations has it"));
            hold(is == value, format!("{name} {is}, not {value}"));
        }
        if let (Some(flows), Some(states)) = (&expected.flows, self.report["flows"].as_object()) {
            for (state, count) in states {
                let value = flows.get(state).and_then(toml::Value::as_integer).unwrap_or(0);
                hold(count.as_i64() == Some(value), format!("{state} {count}, not {value}"));
            }
        }
        if expected.law {
            let attempts = self.total("syn") - self.total("syn_retransmitted");
            let ended: i64 = [
                "handshakes_completed",
                "handshakes_reset",
                "handshakes_timed_out",
                "handshakes_presumed",
                "syn_unanswered",
                "half_open",
            ]
            .map(|name| self.total(name))
            .iter()
            .sum();
            let outcomes = ended + self.report["flows"]["SYN_SENT"].as_i64().unwrap_or(-1);
            hold(attempts == outcomes, format!("{attempts} attempts, {outcomes} outcomes"));
        }
        wrong
    }
}

#[test]
fn every_case_has_its_right_answer() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/cases");
    let Ok(text) = std::fs::read_to_string(folder.join("expect.toml")) else {
        eprintln!("skipped: there are no cases in {}", folder.display());
        return;
    };
    let cases: Cases = toml::from_str(&text).expect("as the file of expectations has it");
    let mut wrong = Vec::new();
    for case in &cases.file {
        let answer = Answer::of(&folder.join(&case.file));
        let mut found = answer.check(&case.expected);
        let any: Vec<_> = case.any.iter().map(|expected| answer.check(expected)).collect();
        if !any.is_empty() && !any.iter().any(Vec::is_empty) {
            found.extend(any.concat());
        }
        if !found.is_empty() {
            let Case { file, kind, why, .. } = case;
            wrong.push(format!("{kind} {file}: {} ({why})", found.join("; ")));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} wrong:\n{}",
        wrong.len(),
        cases.file.len(),
        wrong.join("\n")
    );
}
