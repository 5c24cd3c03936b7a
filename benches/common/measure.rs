//! What it costs to run a program.

use std::fs;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
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

/// Runs `command` to its end, and kills it if it takes longer than `limit`. Standard error is as
/// the caller set it.
///
/// # Errors
/// It cannot be started.
pub fn run(command: &mut Command, limit: Duration) -> io::Result<Run> {
    run_as_set(command.stdout(Stdio::piped()), limit)
}

/// The same without its output. (What a child has resident is at least what its parent had.)
///
/// # Errors
/// It cannot be started.
pub fn run_silently(command: &mut Command, limit: Duration) -> io::Result<Run> {
    run_as_set(command.stdout(Stdio::null()), limit)
}

fn run_as_set(command: &mut Command, limit: Duration) -> io::Result<Run> {
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let pipe = child.stdout.take();
    let (wall, output) = thread::scope(|scope| {
        let (ended, end) = mpsc::channel::<()>();
        scope.spawn(move || {
            if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                // SAFETY: takes numbers only. Nobody has taken the child's status yet, so the
                // number is its.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        });
        let mut output = Vec::new();
        pipe.map(|mut pipe| pipe.read_to_end(&mut output)).transpose()?;
        wait_for_end(child.id())?;
        drop(ended);
        Ok::<_, io::Error>((started.elapsed(), output))
    })?;
    let (status, usage) = take_status(pid)?;
    Ok(Run {
        wall,
        cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
        // Linux counts in KiB (getrusage(2)).
        memory: usage.ru_maxrss.unsigned_abs() * 1024,
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        output: String::from_utf8_lossy(&output).into_owned(),
    })
}

/// Waits for a child, and leaves its status where it is.
fn wait_for_end(child: u32) -> io::Result<()> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let what = libc::WEXITED | libc::WNOWAIT;
    // SAFETY: the pointer is to memory of the right type that outlives the call.
    match unsafe { libc::waitid(libc::P_PID, child, info.as_mut_ptr(), what) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The status of a child that has ended, and what it used.
fn take_status(pid: i32) -> io::Result<(i32, libc::rusage)> {
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

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a valid structure that outlives the call, which cannot fail for
    // this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Resident memory of this process, in octets.
pub fn resident() -> io::Result<u64> {
    let pages = fs::read_to_string("/proc/self/statm")?;
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    Ok(pages.unwrap_or_default() * 4_096)
}

/// Whether a program is installed.
pub fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|directory| directory.join(program).is_file())
}
