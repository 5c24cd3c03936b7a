//! Confines the process to the files that it needs, by Landlock.
//!
//! Landlock is an addition for where systemd's own sandbox is not: it needs no privilege, and no
//! kernel that lacks it stops synwatch. Filtering of system calls is left to the unit file.
//!
//! Like privileges it holds for the calling thread and the threads that it starts from then on, so
//! it is applied before the tokio runtime starts, after everything is open that lies elsewhere.
//!
//! A confined thread may not look into processes outside of its sandbox as a debugger would, which
//! is what reading the links in `/proc/PID/fd` counts as; `/proc/PID/comm`, `/proc/PID/cgroup` and
//! the like stay readable. Who needs those links runs on a thread that was started earlier.

use std::fmt;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, make_bitflags, path_beneath_rules,
};

use crate::sys::Needs;

/// Always readable: counters, sysctls and processes; the units that own them; time zones and the
/// like are not needed.
const READABLE: [&str; 2] = ["/proc", "/sys/fs/cgroup"];

/// What came of it; for the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Sandbox {
    /// Everything asked for is in force.
    Full,
    /// The kernel knows Landlock, but an older version of it: a part is in force.
    Partial,
    /// Nothing is in force, for this reason.
    Unavailable(String),
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("Landlock sandbox in force"),
            Self::Partial => f.write_str(
                "Landlock sandbox in force in part: truncating files is not restricted before \
                 Linux 6.2, connecting by TCP not before 6.7, device ioctls not before 6.10",
            ),
            Self::Unavailable(reason) => write!(f, "no Landlock sandbox: {reason}"),
        }
    }
}

/// Confines the calling thread and those it starts. Of the file system it may read `/proc`,
/// `/sys/fs/cgroup` and what `needs` names, and write where `needs` says so. It may run no program
/// and connect to nobody by TCP. What is already open stays usable.
///
/// Files can be replaced (as editors and log rotation do) only where their directory is given, not
/// the file itself. Paths that do not exist are passed over.
#[must_use]
pub(super) fn confine(needs: &Needs) -> Sandbox {
    match apply(needs) {
        Ok((RulesetStatus::FullyEnforced, _)) => Sandbox::Full,
        Ok((RulesetStatus::PartiallyEnforced, _)) => Sandbox::Partial,
        Ok((RulesetStatus::NotEnforced, LandlockStatus::NotEnabled)) => Sandbox::Unavailable(
            "the kernel supports it, but it is not enabled (boot parameter lsm=landlock,...)"
                .to_owned(),
        ),
        Ok((RulesetStatus::NotEnforced, _)) => Sandbox::Unavailable(
            "the kernel is older than Linux 5.13 or built without it".to_owned(),
        ),
        Err(error) => Sandbox::Unavailable(error.to_string()),
    }
}

fn apply(needs: &Needs) -> Result<(RulesetStatus, LandlockStatus), RulesetError> {
    // The newest version that these rules were written for; an older kernel enforces what it knows.
    let abi = ABI::V5;
    let read: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let append: BitFlags<AccessFs> = read | make_bitflags!(AccessFs::{WriteFile | MakeReg});
    let replace = append | make_bitflags!(AccessFs::{RemoveFile | Truncate});
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::ConnectTcp)?
        .create()?
        .add_rules(path_beneath_rules(READABLE, read))?
        .add_rules(path_beneath_rules(&needs.readable, read))?
        .add_rules(path_beneath_rules(&needs.writable, append))?
        .add_rules(path_beneath_rules(&needs.replaceable, replace))?
        .restrict_self()?;
    Ok((status.ruleset, status.landlock))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::{ErrorKind, Write};
    use std::path::PathBuf;
    use std::thread;

    use super::*;

    #[test]
    fn confine_keeps_to_what_was_given() {
        let config = tempfile::tempdir().unwrap();
        let events = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let (settings, secret) = (config.path().join("a.toml"), elsewhere.path().join("secret"));
        fs::write(&settings, "").unwrap();
        fs::write(&secret, "").unwrap();
        let log = events.path().join("events.json");

        // On a thread of its own: the sandbox cannot be left again.
        let confined = thread::spawn(move || {
            let needs = Needs {
                readable: vec![config.path().to_owned(), PathBuf::from("/nonexistent")],
                writable: vec![events.path().to_owned()],
                replaceable: vec![state.path().to_owned()],
                ..Needs::default()
            };
            let sandbox = confine(&needs);
            if let Sandbox::Unavailable(reason) = &sandbox {
                eprintln!("skipped: {reason}");
                return;
            }
            let denied = |result: std::io::Result<()>| {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
            };
            fs::read(&settings).unwrap();
            fs::read("/proc/self/stat").unwrap();
            denied(fs::write(&settings, "x"));
            denied(fs::read(&secret).map(drop));
            denied(fs::read("/etc/passwd").map(drop));
            for _ in 0..2 {
                let mut file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
                file.write_all(b"{}\n").unwrap();
            }
            denied(fs::remove_file(&log));
            let (new, file) = (state.path().join("new"), state.path().join("file"));
            for _ in 0..2 {
                fs::write(&new, "x").unwrap();
                fs::rename(&new, &file).unwrap();
            }
            fs::remove_file(&file).unwrap();
            denied(fs::rename(&log, &file));
            denied(std::process::Command::new("/bin/true").status().map(drop));
        });
        confined.join().unwrap();
    }
}
