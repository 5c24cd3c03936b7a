//! The programs that read a capture.

use std::path::Path;

use crate::common::measure::{Run, is_installed};
use crate::support::program::SYNWATCH;

/// A program and its arguments.
pub struct Program {
    /// The command as one types it, FILE for the capture and DIRECTORY for what it writes.
    command: &'static str,
    /// Its Debian package.
    package: &'static str,
}

/// All of them; the first is what the others are compared with.
pub const PROGRAMS: [Program; 7] = [
    Program { command: "synwatch replay FILE", package: "" },
    // It tracks nothing: reads, filters, and writes what is left to nowhere.
    Program {
        command: "tcpdump -r FILE -w /dev/null tcp[tcpflags]&(tcp-syn|tcp-fin|tcp-rst)!=0",
        package: "tcpdump",
    },
    Program { command: "argus -r FILE -w /dev/null", package: "argus-server" },
    Program { command: "tcptrace -n FILE", package: "tcptrace" },
    Program { command: "nfpcapd -r FILE -w DIRECTORY", package: "nfdump" },
    Program { command: "softflowd -d -m 2000000 -r FILE", package: "softflowd" },
    Program { command: "tshark -n -q -z conv,tcp -r FILE", package: "tshark" },
];

impl Program {
    /// Whether it is there; says so where not.
    pub fn is_usable(&self) -> bool {
        let usable = self.package.is_empty() || is_installed(self.name());
        if !usable {
            eprintln!("skipped: {} is not installed (package {})", self.name(), self.package);
        }
        usable
    }

    /// The command for a capture, and for a directory to write to.
    pub fn command(&self, capture: &Path, directory: &Path) -> Vec<String> {
        let words = self.command.split_whitespace().map(|word| match word {
            "synwatch" => SYNWATCH.to_owned(),
            "FILE" => capture.display().to_string(),
            "DIRECTORY" => directory.display().to_string(),
            word => word.to_owned(),
        });
        words.collect()
    }

    /// The command for a table, and how its runs ended where that was not well.
    pub fn shown(&self, runs: &[Run]) -> String {
        let command = self.command.replace('|', "\\|");
        // synwatch exits as a Nagios plugin: up to 2 is an answer.
        let failed = runs.iter().find(|run| run.code.is_none_or(|code| code > 2));
        match failed.map(|run| run.code) {
            None => format!("`{command}`"),
            Some(Some(code)) => format!("`{command}` (failed: {code})"),
            Some(None) => format!("`{command}` (killed)"),
        }
    }

    fn name(&self) -> &'static str {
        self.command.split(' ').next().unwrap_or_default()
    }
}
