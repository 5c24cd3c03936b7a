//! FastNetMon Community inside a namespace of the lab, with the configuration that its package
//! ships.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::lab::{Lab, VICTIM_LINK, VICTIM_V4};

/// The configuration of Debian's package.
const PACKAGED: &str = "/etc/fastnetmon.conf";

/// The version, where it is installed.
pub fn version() -> Option<String> {
    let output = Command::new("fastnetmon").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_once("Version:").map(|(_, version)| version.trim().to_owned())
}

/// A running FastNetMon. Dropping it kills it.
pub struct FastNetMon {
    child: Child,
    files: TempDir,
}

impl FastNetMon {
    /// Starts it on the victim's interface, with some settings other than the packaged.
    pub fn start(lab: &Lab, settings: &[(&str, String)]) -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| files.path().join(name).display().to_string();
        fs::write(path("networks"), format!("{VICTIM_V4}/32\n")).expect("networks");
        fs::write(path("whitelist"), "").expect("whitelist");
        // Called as: address, direction, packets per second, action.
        let notify = format!("#!/bin/sh\necho \"$4 $1 $3\" >>{}\n", path("bans"));
        fs::write(path("notify"), notify).expect("notify script");
        fs::set_permissions(path("notify"), fs::Permissions::from_mode(0o755)).expect("a script");

        let mut text = fs::read_to_string(PACKAGED).expect("FastNetMon's packaged configuration");
        // What it takes to run in a namespace, twice, and without a network; no threshold among it.
        let place = [
            ("interfaces", VICTIM_LINK.to_owned()),
            ("mirror_afpacket", "on".to_owned()),
            ("networks_list_path", path("networks")),
            ("white_list_path", path("whitelist")),
            ("notify_script_path", path("notify")),
            ("cli_stats_file_path", path("stats")),
            ("cli_stats_ipv6_file_path", path("stats6")),
            ("disable_usage_report", "on".to_owned()),
            ("enable_api", "off".to_owned()),
            ("prometheus", "off".to_owned()),
        ];
        for (key, value) in place.iter().chain(settings) {
            text = replace(&text, key, value);
        }
        fs::write(path("conf"), text).expect("configuration");

        let child = lab
            .victim
            .command("fastnetmon")
            .args(["--configuration_file", &path("conf"), "--log_file", &path("log")])
            .arg("--disable_pid_logic")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start FastNetMon");
        Self { child, files }
    }

    /// Its process.
    #[allow(dead_code, reason = "one of the two benchmarks that use this asks for it")]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has called its notify script for a ban.
    pub fn has_banned(&self) -> bool {
        self.read("bans").lines().any(|line| line.starts_with("ban "))
    }

    /// What it measures at the moment, as its client shows it.
    pub fn stats(&self) -> String {
        self.read("stats")
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.read("log")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.files.path().join(Path::new(name))).unwrap_or_default()
    }
}

impl Drop for FastNetMon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The configuration with `key` set to `value`.
fn replace(text: &str, key: &str, value: &str) -> String {
    let is_key = |line: &str| line.split_once('=').is_some_and(|(name, _)| name.trim() == key);
    let (mut lines, mut found) = (String::new(), false);
    for line in text.lines() {
        let set = is_key(line);
        found |= set;
        lines += &if set { format!("{key} = {value}\n") } else { format!("{line}\n") };
    }
    assert!(found, "{PACKAGED} has no {key}");
    lines
}
