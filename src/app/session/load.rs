//! What looking at packets costs.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What part of a processor's time the calling thread takes.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    at: Instant,
    used: Duration,
}

impl Load {
    /// Begins to measure.
    #[must_use]
    pub fn start() -> Self {
        Self { at: Instant::now(), used: thread_time() }
    }

    /// The same of a thread that is to begin.
    #[must_use]
    pub fn of_new_thread() -> Self {
        Self { at: Instant::now(), used: Duration::ZERO }
    }

    /// The part since the last call.
    pub fn share(&mut self) -> f64 {
        self.share_of(thread_time())
    }

    /// The same of another thread, which has `used` so much by now.
    pub fn share_of(&mut self, used: Duration) -> f64 {
        let before = std::mem::replace(self, Self { at: Instant::now(), used });
        let passed = (self.at - before.at).as_secs_f64();
        let used = used.saturating_sub(before.used).as_secs_f64();
        if passed > 0.0 { used / passed } else { 0.0 }
    }
}

/// Time that the calling thread has had a processor, in user mode and in the kernel.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is negative, of a clock that begins with the thread.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}
