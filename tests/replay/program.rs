//! Runs `synwatch replay --format json` and holds its answer to the contract: a report and its exit
//! code, or one line on standard error and exit code 3.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Deserialize;

/// No input of these tests takes the program a tenth of this: what takes longer does not end.
/// Machines may be busy.
const LIMIT: Duration = Duration::from_secs(60);

/// What the program left behind.
pub struct Answer {
    /// What it was called with.
    pub call: String,
    /// `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The part of the JSON document that is looked at.
#[derive(Deserialize)]
pub struct Document {
    pub status: String,
    pub capture: CaptureReport,
    pub totals: Totals,
    pub detections: Vec<Detection>,
}

#[derive(Deserialize)]
pub struct CaptureReport {
    pub packets: u64,
    pub tcp_segments: u64,
    pub limits: Vec<String>,
    pub skipped: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
pub struct Totals {
    pub syn: u64,
    pub syn_ack: u64,
    pub handshakes_completed: u64,
    pub sources: u64,
}

#[derive(Deserialize)]
pub struct Detection {
    pub class: String,
    pub variant: Option<String>,
    pub severity: Severity,
    pub severity_history: Vec<Change>,
    pub target: Target,
    pub raised_at: String,
}

#[derive(Deserialize)]
pub struct Change {
    pub at: String,
    pub severity: Severity,
}

#[derive(Deserialize)]
pub struct Target {
    pub address: Option<String>,
    pub port: Option<u16>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Warning,
    Critical,
}

impl Document {
    /// How many records were skipped for `reason`.
    pub fn skipped(&self, reason: &str) -> u64 {
        self.capture.skipped.get(reason).copied().unwrap_or_default()
    }
}

impl Answer {
    /// The report.
    ///
    /// # Panics
    /// Where there is none, or anything else besides.
    pub fn report(&self) -> Document {
        assert_eq!(self.stderr, "", "{}", self.call);
        let report: Document = serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("{}: {error} in {:?}", self.call, self.stdout);
        });
        let code = match &*report.status {
            "ok" => 0,
            "warning" => 1,
            "critical" => 2,
            "unknown" => 3,
            other => panic!("{}: status {other}", self.call),
        };
        assert_eq!(self.code, Some(code), "{}: status {}", self.call, report.status);
        report
    }

    /// The line that says why there is no report.
    ///
    /// # Panics
    /// Where there is no such line, or anything else besides.
    pub fn refusal(&self) -> &str {
        assert_eq!((self.code, &*self.stdout), (Some(3), ""), "{}: {}", self.call, self.stderr);
        let line = self.stderr.strip_suffix('\n').unwrap_or_default();
        assert!(!line.is_empty() && !line.contains('\n'), "{}: {:?}", self.call, self.stderr);
        line
    }

    /// Either of the two.
    pub fn report_or_refusal(&self) -> Option<Document> {
        if self.code == Some(3) && self.stdout.is_empty() {
            self.refusal();
            return None;
        }
        Some(self.report())
    }
}

/// Replays `files`.
pub fn replay<F: AsRef<OsStr>>(files: &[F]) -> Answer {
    replay_with(files, Stdio::null(), None)
}

/// Replays `files` with `stdin` as standard input and, in place of a file, `stdout` as standard
/// output.
///
/// # Panics
/// Where the program takes longer than [`LIMIT`]; it is ended then.
pub fn replay_with<F: AsRef<OsStr>>(files: &[F], stdin: Stdio, stdout: Option<Stdio>) -> Answer {
    // Files, not pipes: nobody need read them while the program runs.
    let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_synwatch"));
    // A configuration of this machine's is none of the tests' business.
    command.args(["--config", "/dev/null", "replay", "--format", "json"]).args(files);
    let call = format!("{command:?}");
    command.stdin(stdin).stderr(err.try_clone().unwrap());
    command.stdout(stdout.unwrap_or_else(|| out.try_clone().unwrap().into()));
    let mut child = command.spawn().unwrap();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{call}: not done within {LIMIT:?}");
        }
        sleep(Duration::from_millis(2));
    };
    Answer { call, code: status.code(), stdout: content(&mut out), stderr: content(&mut err) }
}

fn content(file: &mut File) -> String {
    let mut content = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut content).unwrap();
    content
}
