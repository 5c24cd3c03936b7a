//! The first thread while all others run: HTTP, signals, the service manager's watchdog, and the
//! end.

use std::io::{self, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use synwatch_core::metrics::Exporter;
use synwatch_core::observe::{Document, Snapshot};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::start::Running;
use super::{Error, Shared};
use crate::app::render;
use crate::config::{Config, LogFormat};
use crate::http;
use crate::sys::systemd;
use crate::sys::threads::Confined;

/// How long the end waits for each thing that is still to be written.
const PATIENCE: Duration = Duration::from_secs(2);

impl Running<'_> {
    /// Serves until SIGTERM or SIGINT, or until the capture thread ends; then ends all threads.
    pub(super) fn serve(mut self) -> Result<(), Error> {
        let runtime = self.confined.runtime();
        let outcome = runtime
            .map_err(Error::from)
            .and_then(|runtime| runtime.block_on(self.until_told_to_stop()));
        self.stop(outcome)
    }

    async fn until_told_to_stop(&mut self) -> Result<(), Error> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let server = self.listener.take().map(|listener| Server::start(listener, self));
        systemd::ready("watching");
        let mut greets = greets(self.config);
        let greeting = greeting(self.latest.clone(), self.config.kernel.enabled);
        let mut greeting = std::pin::pin!(greeting);
        let watchdog = tokio::spawn(watch_over(Arc::clone(&self.shared), self.latest.clone()));
        let outcome = loop {
            tokio::select! {
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                _ = hangup.recv() => self.reload(),
                text = &mut greeting, if greets => {
                    greets = false;
                    self.print(text);
                }
                end = &mut self.capture_end => break match end {
                    Ok(end) => end,
                    Err(_) => Err(Error::Ended("panic".to_owned())),
                },
            }
        };
        tracing::info!("stopping");
        watchdog.abort();
        if let Some(server) = server {
            server.stop().await;
        }
        outcome
    }

    /// What SIGHUP asks for.
    fn reload(&self) {
        systemd::reloading();
        self.alerts.reopen();
        if self.config.events.path.is_some() {
            tracing::info!("events file reopened");
        }
        systemd::ready("watching");
    }

    /// Prints on a thread of its own, since nobody may read; then nobody misses it either.
    fn print(&self, text: Option<String>) {
        if let Some(text) = text {
            let write = move |_: &Confined| io::stdout().write_all(text.as_bytes());
            let _ = self.confined.spawn("greeting", write);
        }
    }

    /// Has the threads end, each within its time.
    fn stop(self, outcome: Result<(), Error>) -> Result<(), Error> {
        systemd::stopping();
        self.shared.stop.store(true, Ordering::Relaxed);
        if self.capture.join().is_err() {
            return Err(Error::Ended("panic".to_owned()));
        }
        if !self.worker.stop(PATIENCE) {
            tracing::warn!("the last alerts could not be delivered within 2 s");
        }
        if self.keeper.is_some_and(|keeper| !keeper.stop(PATIENCE)) {
            tracing::warn!("the state file could not be written within 2 s");
        }
        outcome
    }

    /// What the metrics say of the program itself.
    fn exporter(&self) -> impl Fn() -> Exporter + Send + Sync + use<> {
        let (shared, counters) = (Arc::clone(&self.shared), Arc::clone(&self.counters));
        let asks_kernel = self.config.kernel.enabled;
        move || {
            let get = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
            let mut collectors = std::collections::BTreeMap::new();
            collectors.insert("capture", get(&shared.capture_ok));
            if asks_kernel {
                collectors.insert("kernel", get(&shared.kernel_ok));
            }
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            Exporter {
                collectors,
                alerts_dropped: count(&counters.dropped),
                event_write_errors: count(&counters.write_errors),
                events_lost: count(&counters.lost),
                ..Exporter::default()
            }
        }
    }
}

/// The HTTP server, as a task of the runtime.
struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), http::Error>>,
}

impl Server {
    fn start(listener: TcpListener, running: &Running<'_>) -> Self {
        let web = &running.config.web;
        let path = web.telemetry_path.as_str();
        let state = http::State::new(running.latest.clone(), running.exporter(), path);
        let max_connections = usize::try_from(web.max_connections.get()).unwrap_or(usize::MAX);
        let settings = http::Settings { max_connections, ..http::Settings::default() };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(http::serve(listener, state, settings, async {
            let _ = stopped.await;
        }));
        Self { stop, task }
    }

    /// It ends by itself within its connection timeout; longer nobody waits.
    async fn stop(self) {
        drop(self.stop);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.task).await;
    }
}

/// Whether somebody started it by hand who wants to see what it sees.
fn greets(config: &Config) -> bool {
    !systemd::stderr_is_journal() && matches!(config.log.format, LogFormat::Auto | LogFormat::Text)
}

/// The first report that the kernel has a part in: what there is to see right now.
async fn greeting(mut latest: watch::Receiver<Arc<Snapshot>>, asks_kernel: bool) -> Option<String> {
    loop {
        latest.changed().await.ok()?;
        let snapshot = Arc::clone(&latest.borrow());
        if snapshot.document.kernel.available || !asks_kernel {
            return Some(render::text(&snapshot, &render::Limits::default(), &[], false));
        }
    }
}

/// Tells the service manager that all is well as long as the capture thread turns.
async fn watch_over(shared: Arc<Shared>, latest: watch::Receiver<Arc<Snapshot>>) {
    let interval = systemd::watchdog_interval().unwrap_or(Duration::from_secs(10));
    let mut turns = shared.turns.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(interval).await;
        let now = shared.turns.load(Ordering::Relaxed);
        if now != turns {
            turns = now;
            systemd::watchdog();
        }
        systemd::status(&status_line(&latest.borrow().document));
    }
}

/// The line that `systemctl status` shows.
fn status_line(report: &Document) -> String {
    let active = report.detections.iter().filter(|detection| detection.cleared_at.is_none());
    format!(
        "{}: {} half-open, {} active detections",
        report.status.word(),
        report.totals.half_open.value.max(report.kernel.syn_recv.unwrap_or(0)),
        active.count()
    )
}
