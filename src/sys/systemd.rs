//! Talks to the service manager (systemd's `sd_notify` protocol) and finds the journal.
//!
//! Outside of a service manager every message is a no-op. A message that cannot be sent is no
//! reason to stop watching: it is logged at debug level, and the manager's own time limits decide.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sd_notify::NotifyState;

/// The start is complete; `status` is the line that `systemctl status` shows.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Replaces the line that `systemctl status` shows.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// A reload has begun; [`ready`] ends it, whether the new configuration was taken or not.
pub fn reloading() {
    // The manager tells by the time which of several reloads a later `ready` belongs to.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock for the service manager"),
    }
}

/// The end has begun.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Says that synwatch is alive; to be sent every [`watchdog_interval`], as long as it is.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// How often the service manager is to hear [`watchdog`]: half of the time after which it would
/// kill the process, as sd_watchdog_enabled(3) advises. `None` where it does not watch.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|interval| !interval.is_zero())
}

/// Whether standard error leads to the journal, so that messages are better sent there with their
/// fields (systemd.exec(5), `JOURNAL_STREAM`).
#[must_use]
pub fn stderr_is_journal() -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| {
        // The variable is inherited, also where standard error was redirected since.
        file_identity(&io::stderr()).is_ok_and(|identity| identity == stream)
    })
}

/// The directory that the service manager made for what is to outlive a restart (systemd.exec(5),
/// `STATE_DIRECTORY`; of several the first).
#[must_use]
pub fn state_directory() -> Option<PathBuf> {
    let directories = std::env::var_os("STATE_DIRECTORY")?;
    let first = directories.as_bytes().split(|byte| *byte == b':').next()?;
    let first = Path::new(OsStr::from_bytes(first));
    first.is_absolute().then(|| first.to_owned())
}

/// Device and inode number, in the form of `JOURNAL_STREAM`.
fn file_identity(stream: &impl AsFd) -> io::Result<String> {
    let metadata = File::from(stream.as_fd().try_clone_to_owned()?).metadata()?;
    Ok(format!("{}:{}", metadata.dev(), metadata.ino()))
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, ?state, "cannot reach the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_identity_is_device_and_inode() {
        let file = tempfile::tempfile().unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(file_identity(&file).unwrap(), format!("{}:{}", metadata.dev(), metadata.ino()));
    }

    #[test]
    fn messages_without_a_service_manager_do_nothing() {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            eprintln!("skipped: run by a service manager");
            return;
        }
        ready("");
        reloading();
        watchdog();
        stopping();
    }
}
