//! The kernel settings that shape the SYN queue.

use std::fs;
use std::str::FromStr;

use synwatch_core::observe::Sysctls;

/// Reads the settings of the calling thread's network namespace (the kernel decides by the thread
/// that opens the file). Each may be missing on its own: `ProcSubset=pid` of systemd hides all of
/// `/proc/sys`, a container's runtime may hide some.
pub(super) fn read(problems: &mut Vec<String>) -> Sysctls {
    Sysctls {
        syncookies: setting("/proc/sys/net/ipv4/tcp_syncookies", problems),
        synack_retries: setting("/proc/sys/net/ipv4/tcp_synack_retries", problems),
        max_syn_backlog: setting("/proc/sys/net/ipv4/tcp_max_syn_backlog", problems),
        somaxconn: setting("/proc/sys/net/core/somaxconn", problems),
    }
}

fn setting<T: FromStr>(path: &str, problems: &mut Vec<String>) -> Option<T> {
    match fs::read_to_string(path) {
        Ok(text) => match text.trim().parse() {
            Ok(value) => Some(value),
            Err(_) => {
                problems.push(format!("{path} holds {:?}, not a number in range", text.trim()));
                None
            }
        },
        Err(error) => {
            problems.push(format!("cannot read {path}: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_odd_file_is_a_problem_and_no_value() {
        let mut problems = Vec::new();
        assert_eq!(setting::<u8>("/proc/sys/no/such", &mut problems), None);
        assert_eq!(setting::<u8>("/proc/sys/kernel/ostype", &mut problems), None);
        assert_eq!(problems.len(), 2);
        assert!(problems[0].starts_with("cannot read /proc/sys/no/such: No such file"));
        assert_eq!(problems[1], "/proc/sys/kernel/ostype holds \"Linux\", not a number in range");
    }
}
