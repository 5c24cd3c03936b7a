//! The rights of this process: which it has, and how it gives them up.
//!
//! # Order
//!
//! Capabilities and no_new_privs belong to a *thread*; a new thread inherits those of the thread that
//! starts it, and none can change another's. So a program that is to end up without privileges does, on
//! its first thread: open what needs them (capture sockets, another network namespace, ports below
//! 1024), then [`drop_except`], and only then start threads, a tokio runtime included. A thread
//! that must keep more (the reader of other processes' descriptors, say) starts before that and drops
//! the rest for itself. [`threads`](crate::sys::threads) has a type for each of these states.

use std::io;

use caps::CapSet;
pub use caps::Capability;
use thiserror::Error;

/// What it takes to name the owners of sockets: to read the links in `/proc/PID/fd` of other users'
/// processes.
pub const INSPECT_PROCESSES: [Capability; 2] =
    [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH];

/// Why privileges remain.
#[derive(Debug, Error)]
pub enum Error {
    /// Programs that are started could still gain privileges.
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivileges(io::Error),
    /// A capability set cannot be read or reduced.
    #[error("cannot reduce the {set} capabilities: {cause}")]
    Capabilities {
        /// Which of capabilities(7)'s sets.
        set: &'static str,
        /// The cause.
        cause: String,
    },
}

/// Whether the calling thread may use `capability` now; not where that cannot be told.
#[must_use]
pub fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Takes all capabilities but those of `keep` from the calling thread, and from the threads and
/// programs that it starts from now on, for good.
///
/// What is not held is not gained: `keep` may name more than the thread has. The bounding set can be
/// reduced with CAP_SETPCAP only; without it, no_new_privs alone keeps programs from regaining
/// capabilities.
///
/// # Errors
///
/// Where the kernel refuses. The thread may then have lost a part of its privileges.
pub fn drop_except(keep: &[Capability]) -> Result<(), Error> {
    set_no_new_privileges().map_err(Error::NoNewPrivileges)?;

    // The bounding set first, while CAP_SETPCAP is still there.
    if has(Capability::CAP_SETPCAP) {
        for capability in held(CapSet::Bounding)? {
            if !keep.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).map_err(failed("bounding"))?;
            }
        }
    }
    // Nothing is handed to programs: neither set is needed by the thread itself.
    caps::clear(None, CapSet::Ambient).map_err(failed("ambient"))?;
    caps::clear(None, CapSet::Inheritable).map_err(failed("inheritable"))?;
    // What is effective must stay within what is permitted, so that one shrinks first.
    for set in [CapSet::Effective, CapSet::Permitted] {
        let mut kept = held(set)?;
        kept.retain(|capability| keep.contains(capability));
        caps::set(None, set, &kept).map_err(failed(name(set)))?;
    }
    Ok(())
}

/// From now on no program that is started gains a privilege by set-user-ID or file capabilities.
fn set_no_new_privileges() -> io::Result<()> {
    // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers only, touches no memory of ours and, as prctl(2) asks,
    // has 1 in the first and 0 in the unused arguments.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn held(set: CapSet) -> Result<caps::CapsHashSet, Error> {
    caps::read(None, set).map_err(failed(name(set)))
}

const fn name(set: CapSet) -> &'static str {
    match set {
        CapSet::Ambient => "ambient",
        CapSet::Bounding => "bounding",
        CapSet::Effective => "effective",
        CapSet::Inheritable => "inheritable",
        CapSet::Permitted => "permitted",
    }
}

fn failed(set: &'static str) -> impl Fn(caps::errors::CapsError) -> Error {
    move |cause| Error::Capabilities { set, cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SETS: [CapSet; 4] =
        [CapSet::Ambient, CapSet::Effective, CapSet::Inheritable, CapSet::Permitted];

    /// Runs `test` on a thread of its own: what it drops is gone for that thread only.
    fn apart(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().unwrap();
    }

    fn status_line(name: &str) -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim_start_matches(':').trim().to_owned()
    }

    #[test]
    fn dropping_leaves_nothing() {
        apart(|| {
            drop_except(&[]).unwrap();
            for set in SETS {
                assert!(held(set).unwrap().is_empty(), "{}", name(set));
            }
            assert!(!has(Capability::CAP_NET_RAW));
            assert_eq!(status_line("NoNewPrivs"), "1");
            // A second time changes nothing, and gains nothing.
            drop_except(&[Capability::CAP_NET_RAW]).unwrap();
            assert!(!has(Capability::CAP_NET_RAW));
        });
    }

    #[test]
    fn what_is_kept_stays() {
        if !has(Capability::CAP_NET_RAW) {
            eprintln!("skipped: no CAP_NET_RAW to keep");
            return;
        }
        apart(|| {
            drop_except(&[Capability::CAP_NET_RAW]).unwrap();
            assert!(has(Capability::CAP_NET_RAW));
            assert!(!has(Capability::CAP_SYS_ADMIN));
            assert_eq!(held(CapSet::Permitted).unwrap().len(), 1);
        });
    }

    #[test]
    fn threads_inherit_the_loss() {
        apart(|| {
            drop_except(&[]).unwrap();
            apart(|| assert!(held(CapSet::Permitted).unwrap().is_empty()));
        });
    }
}
