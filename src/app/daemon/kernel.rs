//! The kernel thread: asks the kernel once in a while, as long as the daemon runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use synwatch_core::observe::KernelSample;

use super::Shared;
use crate::app::Clock;
use crate::kernel::Reader;
use crate::sys::threads::Unconfined;

/// Starts it; what it sees comes up one by one, the next once the last was taken.
pub(super) fn start(
    unconfined: &Unconfined,
    reader: Reader,
    interval: Duration,
    clock: Clock,
    shared: &Arc<Shared>,
) -> io::Result<Receiver<KernelSample>> {
    let (sender, receiver) = sync_channel(1);
    let shared = Arc::clone(shared);
    let prepare = move || {
        reader.prepare();
        reader
    };
    let run = move |reader| watch(reader, interval, clock, &shared, &sender);
    unconfined.start_inspector("kernel", prepare, run)?;
    Ok(receiver)
}

fn watch(
    mut reader: Reader,
    interval: Duration,
    clock: Clock,
    shared: &Shared,
    samples: &SyncSender<KernelSample>,
) {
    let mut told: Vec<String> = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        match reader.sample(clock.now()) {
            Ok(sample) => {
                shared.kernel_ok.store(true, Ordering::Relaxed);
                if !hand_over(samples, sample) {
                    return;
                }
            }
            Err(error) => {
                if shared.kernel_ok.swap(false, Ordering::Relaxed) {
                    tracing::warn!(%error, "the kernel does not answer");
                }
            }
        }
        if told != reader.problems() {
            told = reader.problems().to_vec();
            for problem in &told {
                tracing::info!(problem, "the kernel's answer is incomplete");
            }
        }
        // Where asking takes long, it takes no more than half of the time.
        let took = begin.elapsed();
        thread::sleep(interval.saturating_sub(took).max(took));
    }
}

/// Hands a sample to the capture thread, or drops it where that has not taken the last one; false
/// where nobody takes any.
fn hand_over(samples: &SyncSender<KernelSample>, sample: KernelSample) -> bool {
    !matches!(samples.try_send(sample), Err(TrySendError::Disconnected(_)))
}
