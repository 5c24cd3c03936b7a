//! Network namespaces: look inside a container from outside (`--netns`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Where `ip netns` keeps its names; the second is the path of systems without `/run`.
const NAME_DIRECTORIES: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Why a network namespace could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No namespace has this name.
    #[error("no network namespace is named {0:?} (looked in /run/netns and /var/run/netns)")]
    NoSuchName(String),
    /// No process has this id.
    #[error("no process {0}")]
    NoSuchProcess(String),
    /// The path leads nowhere or cannot be opened.
    #[error("cannot open network namespace {}: {source}", path.display())]
    Open {
        /// The namespace file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path leads to something else.
    #[error("{} is not a network namespace", .0.display())]
    NotANamespace(PathBuf),
    /// The kernel refused.
    #[error("not permitted to enter network namespace {}: needs CAP_SYS_ADMIN \
             (and CAP_SYS_PTRACE for a process of another user)", .0.display())]
    NotPermitted(PathBuf),
    /// Any other refusal.
    #[error("cannot enter network namespace {}: {source}", path.display())]
    Enter {
        /// The namespace file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Moves the calling thread into a network namespace: `spec` is a process id (all digits), a path
/// (with a slash), or a name that `ip netns` gave.
///
/// setns(2) acts on one thread. Call it before any other thread starts: threads inherit the
/// namespace of the one that starts them. Only the network changes; files, `/sys/fs/cgroup` and
/// process ids stay the host's, `/proc/net` and `/proc/sys/net` follow the thread.
///
/// # Errors
///
/// The namespace does not exist, or entering it is not permitted (CAP_SYS_ADMIN).
pub fn enter(spec: &str) -> Result<(), Error> {
    let path = locate(spec)?;
    let namespace = File::open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound if is_process_id(spec) => Error::NoSuchProcess(spec.to_owned()),
        io::ErrorKind::PermissionDenied => Error::NotPermitted(path.clone()),
        _ => Error::Open { path: path.clone(), source },
    })?;
    // SAFETY: setns takes a descriptor, which `namespace` keeps open, and a flag; it touches no
    // memory.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
        return Ok(());
    }
    let source = io::Error::last_os_error();
    Err(match source.raw_os_error() {
        Some(libc::EPERM) => Error::NotPermitted(path),
        Some(libc::EINVAL) => Error::NotANamespace(path),
        _ => Error::Enter { path, source },
    })
}

fn is_process_id(spec: &str) -> bool {
    !spec.is_empty() && spec.bytes().all(|byte| byte.is_ascii_digit())
}

/// The file that stands for the namespace.
fn locate(spec: &str) -> Result<PathBuf, Error> {
    if is_process_id(spec) {
        return Ok(Path::new("/proc").join(spec).join("ns/net"));
    }
    if spec.contains('/') {
        return Ok(PathBuf::from(spec));
    }
    NAME_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(spec))
        .find(|path| !spec.is_empty() && path.exists())
        .ok_or_else(|| Error::NoSuchName(spec.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(spec: &str) -> String {
        enter(spec).expect_err("no such namespace").to_string()
    }

    #[test]
    fn errors_name_the_cause() {
        assert_eq!(
            message("no-such-name"),
            "no network namespace is named \"no-such-name\" (looked in /run/netns and /var/run/netns)"
        );
        assert_eq!(message("4294967295"), "no process 4294967295");
        assert!(message("").starts_with("no network namespace is named \"\""));
        assert_eq!(
            message("/no/such/path"),
            "cannot open network namespace /no/such/path: No such file or directory (os error 2)"
        );
        let file = message("/proc/self/comm");
        assert!(
            file == "/proc/self/comm is not a network namespace"
                || file.starts_with("not permitted to enter"),
            "{file}"
        );
    }

    #[test]
    fn a_spec_is_a_process_a_path_or_a_name() {
        assert_eq!(locate("812").unwrap(), Path::new("/proc/812/ns/net"));
        assert_eq!(locate("/proc/1/ns/net").unwrap(), Path::new("/proc/1/ns/net"));
        assert!(matches!(locate("blue 7"), Err(Error::NoSuchName(_))));
    }
}
