//! The state file: what was learned of each service, kept over a restart.
//!
//! A small JSON document that is only ever replaced as a whole (written beside, synced, renamed,
//! its directory synced), so that a crash leaves the old one or the new one. It is an aid: a file
//! that is broken, foreign or from a newer version is set aside, one that cannot be written costs a
//! warning, and the detector starts from its priors as it does without any.
//!
//! Writing waits for the disk, so it has a thread of its own, behind a queue of one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use synwatch_core::engine::SavedBaseline;
use thiserror::Error;

use crate::sys::Needs;
use crate::sys::threads::Confined;

/// What the file says it is.
const FORMAT: &str = "synwatch-baselines";
/// The version that is written and read.
const VERSION: u32 = 2;
/// No file is larger: 16,384 services and as many that are remembered take less.
const MAX_BYTES: u64 = 32 << 20;

/// Why nothing was read or written.
#[derive(Debug, Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the state file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not one of ours, and was set aside.
    #[error("{} is not a state file that can be used ({cause}); {aside}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
        /// What became of it.
        aside: String,
    },
    /// The file cannot be written.
    #[error("cannot write the state file {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// No thread to write it.
    #[error("cannot start the state thread: {0}")]
    Spawn(io::Error),
}

/// The document.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u32,
    baselines: Vec<SavedBaseline>,
}

/// The part of the document that every version has.
#[derive(Deserialize)]
struct Header {
    format: String,
    version: u32,
}

/// A state file.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file at `path`, absolute.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that it is in.
    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// What writing it takes: a file beside it takes its place.
    #[must_use]
    pub fn needs(&self) -> Needs {
        Needs { replaceable: vec![self.directory().to_owned()], ..Needs::default() }
    }

    /// Reads the baselines; none where there is no file yet.
    ///
    /// # Errors
    /// The file cannot be read; or it cannot be used, and was renamed to `<name>.bad`, in the place
    /// of an earlier one.
    pub fn load(&self) -> Result<Vec<SavedBaseline>, Error> {
        let bytes = match self.read() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(Error::Read { path: self.path.clone(), source }),
        };
        parse(&bytes).map_err(|cause| Error::Unusable {
            path: self.path.clone(),
            cause,
            aside: self.set_aside(),
        })
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        // Opening anything else, such as a pipe, may wait for ever.
        if !fs::metadata(&self.path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        File::open(&self.path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn set_aside(&self) -> String {
        let aside = self.beside(".bad");
        match fs::rename(&self.path, &aside) {
            Ok(()) => format!("set aside as {}", aside.display()),
            Err(error) => format!("cannot be set aside: {error}"),
        }
    }

    /// A file in the same directory, of the same name with `end` after it.
    fn beside(&self, end: &str) -> PathBuf {
        let mut name = OsString::from(self.path.file_name().unwrap_or_default());
        name.push(end);
        self.path.with_file_name(name)
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// The directory or the disk does not take it; the old file is as it was.
    pub fn save(&self, baselines: Vec<SavedBaseline>) -> Result<(), Error> {
        self.replace(baselines).map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    fn replace(&self, baselines: Vec<SavedBaseline>) -> io::Result<()> {
        let document = Document { format: FORMAT.to_owned(), version: VERSION, baselines };
        let mut bytes = serde_json::to_vec(&document)?;
        bytes.push(b'\n');
        // Always the same name: of the files that a crash leaves behind there is one at the most.
        let temporary = self.beside(".tmp");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let prefix = temporary.file_name().unwrap_or_default();
        let mut file =
            tempfile::Builder::new().prefix(prefix).rand_bytes(0).tempfile_in(self.directory())?;
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        File::open(self.directory())?.sync_all()
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<SavedBaseline>, String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("larger than {} MiB", MAX_BYTES >> 20));
    }
    let header: Header = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match header {
        Header { format, .. } if format != FORMAT => Err(format!("its format is {format:?}")),
        Header { version, .. } if version != VERSION => {
            Err(format!("its version is {version}, not {VERSION}"))
        }
        Header { .. } => serde_json::from_slice::<Document>(bytes)
            .map(|document| document.baselines)
            .map_err(|error| error.to_string()),
    }
}

/// Starts the thread that writes `file`. Where it is known to fail already (`told`), its first
/// failure is not told again.
///
/// # Errors
/// The system has no thread left.
pub fn start(
    confined: &Confined,
    file: StateFile,
    told: bool,
) -> Result<(Baselines, Keeper), Error> {
    let (sender, receiver) = sync_channel(1);
    let (ended_sender, ended) = sync_channel(0);
    confined
        .spawn("synwatch-state", move |_| {
            keep(&file, &receiver, told);
            drop(ended_sender);
        })
        .map_err(Error::Spawn)?;
    Ok((Baselines(sender), Keeper(ended)))
}

fn keep(file: &StateFile, queue: &Receiver<Vec<SavedBaseline>>, told: bool) {
    let mut failing = told;
    for baselines in queue {
        let services = baselines.len();
        match file.save(baselines) {
            Ok(()) => {
                tracing::debug!(services, path = %file.path.display(), "state file written");
                if failing {
                    tracing::info!(path = %file.path.display(), "the state file is written again");
                }
                failing = false;
            }
            // Once: a disk that stays full is no news.
            Err(error) if !failing => {
                tracing::warn!(
                    "{error}; learned baselines will not survive a restart until it can be written"
                );
                failing = true;
            }
            Err(_) => {}
        }
    }
}

/// The way to the file. When it is dropped the file is written for the last time.
#[derive(Debug)]
pub struct Baselines(SyncSender<Vec<SavedBaseline>>);

impl Baselines {
    /// Has the file replaced; never waits. Where the disk has not taken the last but one yet, these
    /// are dropped: later ones will come.
    pub fn keep(&self, baselines: Vec<SavedBaseline>) {
        let _ = self.0.try_send(baselines);
    }
}

/// The running thread.
#[derive(Debug)]
pub struct Keeper(Receiver<()>);

impl Keeper {
    /// Waits until all is written, once [`Baselines`] is dropped; says whether that took no longer
    /// than `patience`.
    #[must_use]
    pub fn stop(self, patience: Duration) -> bool {
        // Nothing is ever sent: the channel closes when the thread ends.
        self.0.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::threads::confined;
    use synwatch_core::engine::SavedSeries;
    use synwatch_core::time::Timestamp;

    fn baselines(count: u16) -> Vec<SavedBaseline> {
        let series =
            SavedSeries { steps: 480, completed: 25.0, failed: 0.5, spread: 1.0, noise: 0.125 };
        let one = |port| SavedBaseline {
            address: [192, 0, 2, 10].into(),
            port,
            learned_at: Timestamp::from_nanos(1_767_225_600_123_456_000),
            usual_completion_rate: 97.5,
            failing: series,
            unanswered: series,
        };
        (0..count).map(one).collect()
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_saved_is_loaded_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path().join("baselines.json"));
        assert_eq!(file.load().unwrap(), []);
        // As a crash may leave it.
        fs::write(directory.path().join("baselines.json.tmp"), "half of").unwrap();
        for count in [3, 2] {
            file.save(baselines(count)).unwrap();
            assert_eq!(file.load().unwrap(), baselines(count));
        }
        assert_eq!(names(directory.path()), ["baselines.json"]);
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(text.starts_with(r#"{"format":"synwatch-baselines","version":2,"#), "{text}");
    }

    #[test]
    fn what_cannot_be_used_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path().join("baselines.json"));
        file.save(baselines(1)).unwrap();
        let good = fs::read_to_string(file.path()).unwrap();
        for (text, cause) in [
            (String::new(), "EOF"),
            (good[..good.len() / 2].to_owned(), "EOF"),
            ("\u{0}\u{0}\u{0}".to_owned(), "expected value"),
            ("[1, 2]".to_owned(), "invalid"),
            (r#"{"format":"other","version":2}"#.to_owned(), "its format is \"other\""),
            (good.replace(r#""version":2"#, r#""version":1"#), "its version is 1, not 2"),
            (good.replace("0.125", "1e999"), "out of range"),
            (good.replace("0.125", "null"), "invalid type: null"),
            (good.replace("2026-", "1926-"), "before 1970"),
            (good.replace(r#""noise""#, r#""nose""#), "unknown field `nose`"),
        ] {
            fs::write(file.path(), &text).unwrap();
            let error = file.load().unwrap_err().to_string();
            assert!(error.contains(cause) && error.contains("set aside as "), "{text}: {error}");
            assert_eq!(names(directory.path()), ["baselines.json.bad"], "{text}");
            assert_eq!(fs::read_to_string(file.beside(".bad")).unwrap(), text);
            assert_eq!(file.load().unwrap(), [], "a second start finds none");
        }
    }

    #[test]
    fn what_cannot_be_read_or_written_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let error = StateFile::new(directory.path().to_owned()).load().unwrap_err().to_string();
        assert!(error.ends_with("not a regular file"), "{error}");
        let file = StateFile::new(directory.path().join("missing/baselines.json"));
        assert_eq!(file.load().unwrap(), []);
        let error = file.save(baselines(1)).unwrap_err().to_string();
        assert!(error.starts_with("cannot write the state file /"), "{error}");
        assert!(error.contains("missing/baselines.json: "), "{error}");
    }

    #[test]
    fn the_last_baselines_are_written_before_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path().join("baselines.json"));
        // In a sandbox that is made for it.
        confined(&file.needs(), |confined| {
            let (outbox, keeper) = start(confined, file.clone(), false).unwrap();
            outbox.keep(baselines(5));
            drop(outbox);
            assert!(keeper.stop(Duration::from_secs(10)));
        });
        assert_eq!(file.load().unwrap(), baselines(5));
    }
}
