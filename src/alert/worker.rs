//! The queue between the capture thread and the sinks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::alert::{Alert, Error, Sink};
use crate::sys::threads::Confined;

/// Alerts that may wait; far more than one tick of the engine gives.
const QUEUE: usize = 1024;

/// How often sinks are asked to try again what failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// What went wrong so far, for the exporter.
#[derive(Debug, Default)]
pub struct Counters {
    /// Alerts that found the queue full.
    pub dropped: AtomicU64,
    /// Attempts to write to the events file that failed.
    pub write_errors: AtomicU64,
    /// Events given up because too many were waiting for the file.
    pub lost: AtomicU64,
}

/// Starts the worker's thread with its sinks.
///
/// # Errors
/// The system has no thread left.
pub fn start(
    confined: &Confined,
    sinks: Vec<Box<dyn Sink>>,
    counters: Arc<Counters>,
) -> Result<(Alerts, Worker), Error> {
    let (sender, receiver) = sync_channel(QUEUE);
    let (ended_sender, ended) = sync_channel(0);
    let wishes = Arc::new(Wishes::default());
    let alerts = Alerts { sender, wishes: Arc::clone(&wishes), counters: Arc::clone(&counters) };
    confined
        .spawn("synwatch-alert", move |_| {
            run(sinks, &receiver, &wishes, &counters);
            drop(ended_sender);
        })
        .map_err(Error::Spawn)?;
    Ok((alerts.clone(), Worker { alerts, ended }))
}

/// The way to the worker; cheap to clone.
#[derive(Clone, Debug)]
pub struct Alerts {
    sender: SyncSender<Option<Box<Alert>>>,
    wishes: Arc<Wishes>,
    counters: Arc<Counters>,
}

/// Asked for beside the queue, so that a full queue cannot hold them up.
#[derive(Debug, Default)]
struct Wishes {
    reopen: AtomicBool,
    stop: AtomicBool,
}

impl Alerts {
    /// Queues an alert; never waits. Where the queue is full the alert is dropped and counted, and
    /// the worker logs it.
    pub fn send(&self, alert: Alert) {
        match self.sender.try_send(Some(Box::new(alert))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counters.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    /// Makes the sinks open their files anew (SIGHUP).
    pub fn reopen(&self) {
        self.wishes.reopen.store(true, Relaxed);
        self.wake();
    }

    fn wake(&self) {
        // A full queue means that the worker is awake.
        let _ = self.sender.try_send(None);
    }
}

/// The running worker.
#[derive(Debug)]
pub struct Worker {
    alerts: Alerts,
    ended: Receiver<()>,
}

impl Worker {
    /// Delivers what is queued and ends the worker; says whether that took no longer than
    /// `patience`.
    #[must_use]
    pub fn stop(self, patience: Duration) -> bool {
        self.alerts.wishes.stop.store(true, Relaxed);
        self.alerts.wake();
        // Nothing is ever sent: the channel closes when the thread ends.
        self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected)
    }
}

fn run(
    mut sinks: Vec<Box<dyn Sink>>,
    queue: &Receiver<Option<Box<Alert>>>,
    wishes: &Wishes,
    counters: &Counters,
) {
    let mut drops_logged = 0;
    loop {
        let stop = wishes.stop.load(Relaxed);
        let message = if stop {
            queue.try_recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(RETRY_INTERVAL)
        };
        if wishes.reopen.swap(false, Relaxed) {
            sinks.iter_mut().for_each(|sink| sink.reopen());
        }
        match message {
            Ok(Some(alert)) => sinks.iter_mut().for_each(|sink| sink.deliver(&alert)),
            Ok(None) => {}
            Err(RecvTimeoutError::Timeout) => sinks.iter_mut().for_each(|sink| sink.retry()),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let drops = counters.dropped.load(Relaxed);
        if drops > drops_logged {
            tracing::warn!(dropped = drops - drops_logged, "alert queue full, alerts dropped");
            drops_logged = drops;
        }
    }
    sinks.iter_mut().for_each(|sink| sink.retry());
}
