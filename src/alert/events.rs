//! The events file: one JSON line per alert in the envelope of Suricata's EVE output, which log
//! shippers and SIEMs read already
//! (<https://docs.suricata.io/en/latest/output/eve/eve-json-format.html>).
//!
//! EVE readers expect addresses to be strings and ports to be numbers. Where there is none to name
//! (the sources of a spoofed flood are forged, a carpet has no one target) the envelope says
//! `0.0.0.0` or `::` and 0; the detection object under `synwatch` says null.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Value, json};
use synwatch_core::observe::Severity;
use synwatch_core::time::Timestamp;

use crate::alert::{Alert, Counters, Error, Sink};
use crate::sys::Needs;

/// Lines that may wait for a file that cannot be written; one is a few kilobytes at most.
const PENDING_LINES: usize = 1024;

/// Generator of our signatures: 1 is the general rule generator.
const GENERATOR_ID: u32 = 1;

/// What the [number of a class](synwatch_core::observe::Class::event) is added to: the range for
/// local use is 1000000 to 1999999.
const SIGNATURE_BASE: u32 = 1_019_700;

/// Revision of the signatures.
const REVISION: u32 = 1;

/// Writes alerts to a file. It outlives log rotation ([`Sink::reopen`]) and a full disk: lines wait
/// in memory, up to a limit, and are written once the file takes them again.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    /// `None` after a failure: the next attempt opens it anew.
    file: Option<OpenFile>,
    pending: Pending,
    failing: bool,
    counters: Arc<Counters>,
}

impl Events {
    /// Opens `path` to append to it, creating it with mode 0640 where it does not exist.
    ///
    /// # Errors
    /// The file cannot be opened or created: its directory is missing, or permissions lack.
    pub fn open(path: impl Into<PathBuf>, counters: Arc<Counters>) -> Result<Self, Error> {
        let path = path.into();
        match OpenFile::open(&path) {
            Ok(file) => Ok(Self {
                path,
                file: Some(file),
                pending: Pending::default(),
                failing: false,
                counters,
            }),
            Err(source) => Err(Error::OpenEvents { path, source }),
        }
    }

    fn write_pending(&mut self) {
        match self.try_write_pending() {
            Ok(()) if self.failing => {
                self.failing = false;
                let lost = self.counters.lost.load(Relaxed);
                tracing::info!(path = %self.path.display(), lost, "events file is written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.file = None;
                self.counters.write_errors.fetch_add(1, Relaxed);
                // Once per streak: a full disk must not fill the log too.
                if !self.failing {
                    self.failing = true;
                    let path = self.path.display();
                    tracing::error!(%path, %error, "cannot write to the events file, will retry");
                }
            }
        }
    }

    fn try_write_pending(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(OpenFile::open(&self.path)?),
        };
        self.pending.write_to(&mut file.file, file.identity)
    }
}

impl Sink for Events {
    fn deliver(&mut self, alert: &Alert) {
        if !self.pending.push(line(alert)) {
            self.counters.lost.fetch_add(1, Relaxed);
        }
        self.write_pending();
    }

    /// After log rotation the file is created anew.
    fn needs(&self) -> Needs {
        let directory = self.path.parent().map(Path::to_owned);
        Needs { writable: directory.into_iter().collect(), ..Needs::default() }
    }

    fn reopen(&mut self) {
        // The old file takes what is left for it, unless it is the one that fails.
        if self.file.is_some() {
            self.write_pending();
        }
        self.file = None;
        self.write_pending();
    }

    fn retry(&mut self) {
        if !self.pending.lines.is_empty() {
            self.write_pending();
        }
    }
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    identity: Identity,
}

/// Device and inode.
type Identity = (u64, u64);

impl OpenFile {
    fn open(path: &PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        let metadata = file.metadata()?;
        Ok(Self { file, identity: (metadata.dev(), metadata.ino()) })
    }
}

/// Lines that are not yet in the file.
#[derive(Debug, Default)]
struct Pending {
    lines: VecDeque<Vec<u8>>,
    /// How much of the first line a disk took before it was full, and which file that was.
    begun: Option<(Identity, usize)>,
}

impl Pending {
    /// Takes a line; `false` where there is no room left. The oldest lines are kept: they tell how
    /// the incident began.
    fn push(&mut self, line: Vec<u8>) -> bool {
        let room = self.lines.len() < PENDING_LINES;
        if room {
            self.lines.push_back(line);
        }
        room
    }

    /// Writes all lines, each with one `write` where the file takes it whole, so that readers of
    /// the growing file see whole lines.
    fn write_to(&mut self, file: &mut impl Write, identity: Identity) -> io::Result<()> {
        while let Some(line) = self.lines.front() {
            let mut done = match self.begun.take() {
                Some((begun, done)) if begun == identity => done,
                _ => 0,
            };
            while done < line.len() {
                let error = match file.write(&line[done..]) {
                    Ok(0) => io::ErrorKind::WriteZero.into(),
                    Ok(count) => {
                        done += count;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => error,
                };
                self.begun = (done > 0).then_some((identity, done));
                return Err(error);
            }
            self.lines.pop_front();
        }
        Ok(())
    }
}

fn line(alert: &Alert) -> Vec<u8> {
    let mut line = event(alert).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// The EVE event of an alert.
fn event(alert: &Alert) -> Value {
    let detection = &alert.detection;
    let destination =
        detection.target.address.or_else(|| detection.target_prefix.map(|prefix| prefix.network()));
    let unspecified = match destination.or(detection.attacker) {
        Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        Some(IpAddr::V4(_)) | None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let mut metadata = json!({
        "synwatch_event": [alert.change.name()],
        "synwatch_severity": [alert.severity().name()],
    });
    if let Some(variant) = detection.variant {
        metadata["synwatch_variant"] = json!([variant.name()]);
    }
    json!({
        "timestamp": eve_time(alert.at),
        "event_type": "alert",
        "src_ip": detection.attacker.unwrap_or(unspecified),
        "src_port": 0,
        "dest_ip": destination.unwrap_or(unspecified),
        "dest_port": detection.target.port.unwrap_or(0),
        "proto": "TCP",
        "alert": {
            // Suricata's word for: seen and let through.
            "action": "allowed",
            "gid": GENERATOR_ID,
            "signature_id": SIGNATURE_BASE + detection.class.event(),
            "rev": REVISION,
            "signature": format!("SYNWATCH {}", detection.class.title()),
            "category": detection.class.category(),
            "severity": priority(alert.severity()),
            "metadata": metadata,
        },
        "synwatch_event": alert.change.name(),
        "synwatch": detection,
    })
}

/// Suricata writes the offset from UTC without a colon: `2026-01-01T00:00:00.000000+0000`.
fn eve_time(at: Timestamp) -> String {
    let utc = at.to_string();
    format!("{}+0000", utc.trim_end_matches('Z'))
}

/// Suricata counts downwards: 1 is the gravest.
const fn priority(severity: Severity) -> u8 {
    match severity {
        Severity::Critical => 1,
        Severity::Warning => 2,
        Severity::Info => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many octets.
    struct Disk {
        written: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let count = data.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= count;
            self.written.extend_from_slice(&data[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn pending() -> Pending {
        let mut pending = Pending::default();
        assert!(pending.push(b"first\n".to_vec()));
        assert!(pending.push(b"second\n".to_vec()));
        pending
    }

    #[test]
    fn line_cut_by_a_full_disk_is_completed() {
        let mut disk = Disk { written: vec![], room: 8 };
        let mut pending = pending();
        assert!(pending.write_to(&mut disk, (1, 1)).is_err());
        assert_eq!(disk.written, b"first\nse");
        disk.room = 100;
        pending.write_to(&mut disk, (1, 1)).unwrap();
        assert_eq!(disk.written, b"first\nsecond\n");
        assert!(pending.lines.is_empty());
    }

    #[test]
    fn line_cut_by_a_full_disk_begins_again_in_another_file() {
        let mut full = Disk { written: vec![], room: 8 };
        let mut pending = pending();
        assert!(pending.write_to(&mut full, (1, 1)).is_err());
        let mut next = Disk { written: vec![], room: 100 };
        pending.write_to(&mut next, (1, 2)).unwrap();
        assert_eq!(next.written, b"second\n");
    }

    #[test]
    fn pending_lines_are_bounded() {
        let mut pending = Pending::default();
        let taken = (0..PENDING_LINES + 5).filter(|_| pending.push(b"line\n".to_vec())).count();
        assert_eq!(taken, PENDING_LINES);
    }
}
