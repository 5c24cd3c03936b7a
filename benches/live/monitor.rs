//! The programs that watch, and what they use.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::fastnetmon::FastNetMon;
use crate::support::lab::{Lab, VICTIM_LINK};
use crate::support::program::Daemon;

/// How long a program that has just started is left alone.
const SETTLING: Duration = Duration::from_secs(2);
/// What synwatch watches: the victim, and hosts that only a mirror port shows.
const NETWORK: &str = "192.0.2.0/24";
/// What tcpdump is to let through.
const FLAGS: &str = "tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0";

/// A kind of program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Monitor {
    Nothing,
    Ring,
    Pnet,
    Tcpdump,
    FastNetMon,
    FastNetMonWithoutConntrack,
}

impl Monitor {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Nothing,
        Self::Ring,
        Self::Pnet,
        Self::Tcpdump,
        Self::FastNetMon,
        Self::FastNetMonWithoutConntrack,
    ];

    /// Its name in a table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Ring => "synwatch",
            Self::Pnet => "synwatch, pnet",
            Self::Tcpdump => "tcpdump -w /dev/null, flags",
            Self::FastNetMon => "FastNetMon",
            Self::FastNetMonWithoutConntrack => "FastNetMon, conntrack off",
        }
    }

    /// The program that must be installed.
    pub const fn program(self) -> Option<&'static str> {
        match self {
            Self::Nothing | Self::Ring | Self::Pnet => None,
            Self::Tcpdump => Some("tcpdump"),
            Self::FastNetMon | Self::FastNetMonWithoutConntrack => Some("fastnetmon"),
        }
    }

    /// Starts it in the victim's namespace, on one core; synwatch with more settings of its
    /// capture.
    pub fn start<'a>(self, lab: &'a Lab, capture: &str, core: usize) -> io::Result<Running<'a>> {
        let daemon = |backend: &str| {
            let text = format!(
                "[watch]\nnetworks = [\"{NETWORK}\"]\n\
                 [capture]\nbackend = \"{backend}\"\n{capture}"
            );
            Inner::Synwatch(Daemon::start_with(lab, &text, &["-i", VICTIM_LINK]))
        };
        let fastnetmon = |settings: &[(&str, String)]| {
            let metrics = [("prometheus", "on".to_owned())];
            Inner::FastNetMon(FastNetMon::start(lab, &[&metrics[..], settings].concat()), lab)
        };
        let inner = match self {
            Self::Nothing => Inner::Nothing,
            Self::Ring => daemon("ring"),
            Self::Pnet => daemon("pnet"),
            Self::Tcpdump => Inner::Tcpdump(Tcpdump::start(lab)?),
            Self::FastNetMon => fastnetmon(&[]),
            Self::FastNetMonWithoutConntrack => {
                fastnetmon(&[("enable_connection_tracking", "off".to_owned())])
            }
        };
        let running = Running { inner };
        if let Some(pid) = running.pid() {
            thread::sleep(SETTLING);
            let (core, pid) = (core.to_string(), pid.to_string());
            Command::new("taskset").args(["-a", "-c", "-p", &core, &pid]).output()?;
        }
        Ok(running)
    }
}

/// A program that runs.
pub struct Running<'a> {
    inner: Inner<'a>,
}

enum Inner<'a> {
    Nothing,
    Synwatch(Daemon<'a>),
    Tcpdump(Tcpdump),
    FastNetMon(FastNetMon, &'a Lab),
}

impl Running<'_> {
    fn pid(&self) -> Option<u32> {
        match &self.inner {
            Inner::Nothing => None,
            Inner::Synwatch(daemon) => Some(daemon.pid()),
            Inner::Tcpdump(tcpdump) => Some(tcpdump.child.id()),
            Inner::FastNetMon(fastnetmon, _) => Some(fastnetmon.pid()),
        }
    }

    /// The CPU time that it has used.
    pub fn cpu(&self) -> Duration {
        self.pid().and_then(|pid| process_cpu(pid).ok()).unwrap_or_default()
    }

    /// The most memory that it had resident, in octets.
    pub fn memory(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// The daemon, where it is one of synwatch.
    pub fn daemon(&self) -> Option<&Daemon<'_>> {
        match &self.inner {
            Inner::Synwatch(daemon) => Some(daemon),
            _ => None,
        }
    }

    /// Ends it, and tells how many it lost of the packets that have passed its interface, as it
    /// says itself.
    pub fn lost(self, passed: u64) -> Option<u64> {
        match self.inner {
            Inner::Nothing => None,
            Inner::Synwatch(daemon) => daemon.status()["capture"]["dropped"].as_u64(),
            Inner::Tcpdump(tcpdump) => tcpdump.dropped(),
            // It does not know of drops, but counts what it sees.
            Inner::FastNetMon(_, lab) => Some(passed.saturating_sub(seen_by_fastnetmon(lab)?)),
        }
    }
}

struct Tcpdump {
    child: Child,
    files: TempDir,
}

impl Tcpdump {
    fn start(lab: &Lab) -> io::Result<Self> {
        let files = tempfile::tempdir()?;
        let log = File::create(files.path().join("log"))?;
        let child = lab
            .victim
            .command("tcpdump")
            .args(["-n", "-i", VICTIM_LINK, "-w", "/dev/null", FLAGS])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self { child, files })
    }

    fn log(&self) -> PathBuf {
        self.files.path().join("log")
    }

    /// Ends it as a user does, and reads what it says then.
    fn dropped(mut self) -> Option<u64> {
        let pid = i32::try_from(self.child.id()).ok()?;
        // SAFETY: takes numbers only; the child is ours and not waited for, so the number is its.
        unsafe { libc::kill(pid, libc::SIGINT) };
        self.child.wait().ok()?;
        let log = fs::read_to_string(self.log()).ok()?;
        let line = log.lines().find(|line| line.ends_with("dropped by kernel"))?;
        line.split(' ').next()?.parse().ok()
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Packets that have passed the victim's interface: received, and sent.
pub fn passed(lab: &Lab) -> io::Result<(u64, u64)> {
    let show = ["-n", lab.victim.name(), "-j", "-s", "link", "show", "dev", VICTIM_LINK];
    let output = Command::new("ip").args(show).output()?;
    let links: Value = serde_json::from_slice(&output.stdout)?;
    let count = |way: &str| links[0]["stats64"][way]["packets"].as_u64().unwrap_or_default();
    Ok((count("rx"), count("tx")))
}

/// CPU time of a process: the time that its threads ran, to the nanosecond.
fn process_cpu(pid: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanos += text.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

/// IPv4 packets so far, by FastNetMon's metrics.
fn seen_by_fastnetmon(lab: &Lab) -> Option<u64> {
    const SERIES: &str = "fastnetmon_total_ipv4_packets ";
    let text = lab.victim.run(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", 9209)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })?;
    text.lines().find_map(|line| line.strip_prefix(SERIES))?.trim().parse().ok()
}
