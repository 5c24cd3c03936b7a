//! What it costs to run a program.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A program that was run to its end.
#[derive(Clone, Debug)]
pub struct Run {
    /// From its start to its end.
    pub wall: Duration,
    /// User and system time, of the program and of all that it started and waited for.
    pub cpu: Duration,
    /// The most memory that any of them had resident, in octets.
    pub memory: u64,
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub output: String,
}

/// Runs `command` to its end. Standard error is dropped, unless the caller set it.
///
/// # Errors
/// It cannot be started.
pub fn run(command: &mut Command) -> io::Result<Run> {
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut output = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut output)?;
    }
    let (status, usage) = wait(child.id())?;
    let wall = started.elapsed();
    Ok(Run {
        wall,
        cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
        // Linux counts in KiB (getrusage(2)).
        memory: usage.ru_maxrss.unsigned_abs() * 1024,
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        output: String::from_utf8_lossy(&output).into_owned(),
    })
}

/// Waits for a child, and asks what it used.
fn wait(child: u32) -> io::Result<(i32, libc::rusage)> {
    let pid = i32::try_from(child).map_err(io::Error::other)?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to memory of the right type that outlives the call.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    if waited != pid {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed memory is a valid rusage, and the kernel has filled it.
    Ok((status, unsafe { usage.assume_init() }))
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec.unsigned_abs())
        + Duration::from_micros(time.tv_usec.unsigned_abs())
}

/// Whether a program is installed.
pub fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|directory| directory.join(program).is_file())
}
