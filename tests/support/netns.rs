//! Named network namespaces, made with `ip netns`.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// A network namespace of our own, deleted when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates a namespace named `sw<pid>-<n><role>`, its loopback interface up.
    pub fn new(role: char) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sw{}-{number}{role}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"]);
        namespace
    }

    /// The name, as `ip netns` and `--netns` take it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside the namespace and returns what it returns. A socket that it
    /// opens stays in the namespace and may be used from anywhere.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let file = self.open();
        let outcome = thread::scope(|scope| {
            scope
                .spawn(move || {
                    enter(&file);
                    work()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread inside the namespace.
    pub fn spawn<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> thread::JoinHandle<R> {
        let file = self.open();
        thread::spawn(move || {
            enter(&file);
            work()
        })
    }

    /// A command that will run `program` inside the namespace, under the process id of the child.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// The same without any privilege: user and group nobody, no capabilities.
    pub fn command_as_nobody(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        command.arg(program.as_ref());
        command
    }

    /// Writes a `net.*` sysctl of the namespace; `key` is its path below `/proc/sys/net`.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(key);
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.run(|| fs::write(&path, value))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Runs `ip` inside the namespace.
    pub fn ip(&self, arguments: &str) {
        let mut words = vec!["-n", self.name.as_str()];
        words.extend(arguments.split_whitespace());
        ip(&words);
    }

    fn open(&self) -> File {
        let path = Path::new("/run/netns").join(&self.name);
        File::open(&path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing to do where it fails: a drop must not panic.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

/// Whether namespaces can be made here; also removes those of test processes that were killed.
pub fn usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| {
        remove_stale();
        let name = format!("sw{}-probe", std::process::id());
        let attempt = |verb: &str| {
            Command::new("ip")
                .args(["netns", verb, &name])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        attempt("add") && attempt("delete")
    })
}

/// Whether the calling thread is in a namespace that this process made.
pub fn is_ours() -> bool {
    let inode = |path: &Path| fs::metadata(path).ok().map(|namespace| namespace.ino());
    let Some(current) = inode(Path::new("/proc/thread-self/ns/net")) else { return false };
    let prefix = format!("sw{}-", std::process::id());
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .any(|entry| inode(&entry.path()) == Some(current))
}

/// Deletes namespaces whose name carries the id of a process that no longer runs.
fn remove_stale() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("sw").and_then(|rest| rest.split_once('-'));
        let Some(pid) = owner.and_then(|(pid, _)| pid.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            let _ = Command::new("ip").args(["netns", "delete", &name]).status();
        }
    }
}

/// Moves the calling thread into the namespace that `file` stands for.
fn enter(file: &File) {
    // SAFETY: setns changes the calling thread only and reads nothing but the descriptor, which
    // `file` keeps open.
    let outcome = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(outcome, 0, "setns: {}", std::io::Error::last_os_error());
}

fn ip(arguments: &[&str]) {
    run_tool("ip", arguments);
}

/// Runs a tool of iproute2; a failure is a failure of the test.
pub fn run_tool(tool: &str, arguments: &[&str]) {
    let output = Command::new(tool).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {tool}: {error}"));
    assert!(
        output.status.success(),
        "{tool} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
