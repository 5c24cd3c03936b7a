//! The labelled captures, and what the program says of each.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Deserialize;

use crate::program::{Answer, Document, replay};

#[derive(Deserialize)]
struct Labels {
    capture: Vec<Label>,
}

/// What `labels.toml` says of a file; the fields are defined there.
#[derive(Deserialize)]
pub struct Label {
    pub file: String,
    pub class: String,
    pub expect: String,
    pub ambiguous: bool,
    pub kind: String,
    pub victim: String,
    pub port: u16,
    pub start_s: Option<f64>,
    pub end_s: Option<f64>,
    pub syns: u64,
    pub synacks: u64,
    pub completed_handshakes: u64,
    pub refused: u64,
    pub reset_by_client: u64,
    pub distinct_sources: u64,
    pub readable: bool,
}

/// A capture file.
pub struct Capture {
    pub label: Label,
    pub path: PathBuf,
    answer: Answer,
}

impl Capture {
    /// The program's report; `None` where the file is broken on purpose and it refused it.
    ///
    /// # Panics
    /// Where the program did neither, or refused a sound file.
    pub fn report(&self) -> Option<Document> {
        if self.label.readable || self.answer.code != Some(3) {
            return Some(self.answer.report());
        }
        if !self.answer.stdout.is_empty() {
            // Too little of it could be read.
            return None;
        }
        let line = self.answer.refusal();
        assert!(line.contains(&*self.path.to_string_lossy()), "{line}");
        None
    }
}

/// All captures, each replayed once; none, with the reason printed, where there is no collection.
pub fn captures() -> &'static [Capture] {
    static CAPTURES: LazyLock<Vec<Capture>> = LazyLock::new(|| {
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/captures");
        let folder = std::env::var_os("SYNWATCH_CAPTURES").map_or_else(beside, PathBuf::from);
        let Ok(labels) = fs::read_to_string(folder.join("labels.toml")) else { return Vec::new() };
        let labels: Labels = toml::from_str(&labels).unwrap();
        let capture = |label: Label| {
            let path = folder.join(&label.file);
            Capture { answer: replay(&[&path]), label, path }
        };
        labels.capture.into_iter().map(capture).collect()
    });
    if CAPTURES.is_empty() {
        eprintln!("skipped: no captures (set SYNWATCH_CAPTURES to their folder)");
    }
    &CAPTURES
}
