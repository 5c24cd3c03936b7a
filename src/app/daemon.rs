//! The daemon: watch until told to stop.
//!
//! # Order of the start
//!
//! 1. Open the HTTP port, where synwatch was started; enter the network namespace to look into; open what else
//!    needs privileges or may fail: capture socket, event file, kernel reader. Every failure up to
//!    here ends the program with one line.
//! 2. Start the kernel thread, which alone keeps what it takes to name other users' processes.
//! 3. Drop all other privileges and enter the sandbox; both hold for the threads started from here on.
//! 4. Start the threads for the state file and for alerts and the capture thread, which owns the engine, and once it knows
//!    the listeners starts those that work on shards; last the asynchronous runtime with HTTP and signals on the first
//!    thread.
//!
//! The capture thread waits for nobody: reports go out through a channel that keeps the latest, alerts
//! through a bounded queue, baselines through a queue of one, kernel samples come in through one that it only looks into.

use std::io::{self, Write};
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use synwatch_core::engine::{Action, Engine, SavedBaseline};
use synwatch_core::metrics::Exporter;
use synwatch_core::observe::{Document, KernelSample, Snapshot};
use synwatch_core::sampling::Hasher;
use synwatch_core::time::Timestamp;
use synwatch_core::wire::Fragments;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::alert::{self, Alert, Alerts, Change, Counters, Sink};
use crate::app::feed::{Selector, catch_up, feed, selection};
use crate::app::team::Team;
use crate::app::{self, Clock, Host, LiveError, Load, Taps, render, settings, take_sample};
use crate::capture::{self, Source};
use crate::config::{Backend, Config, LogFormat};
use crate::http;
use crate::kernel;
use crate::state::{self, StateFile};
use crate::sys::memory::share_heap;
use crate::sys::privileges::{self, Capability};
use crate::sys::{sandbox, service};

/// Why the daemon does not start or go on.
#[derive(Debug, Error)]
pub enum Error {
    /// The wire cannot be watched, and not for want of privilege.
    #[error(transparent)]
    Capture(#[from] capture::Error),
    /// Something that both live faces need is missing.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// The HTTP port cannot be had.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The event file cannot be had.
    #[error(transparent)]
    Alert(#[from] alert::Error),
    /// Neither the wire nor the kernel can be watched.
    #[error("nothing to watch: {capture}, and {kernel}")]
    NoWitness {
        /// Why not the wire.
        capture: String,
        /// Why not the kernel.
        kernel: String,
    },
    /// The state file has no thread.
    #[error(transparent)]
    State(#[from] state::Error),
    /// Privileges remain that should not.
    #[error(transparent)]
    Privileges(#[from] privileges::Error),
    /// A thread, the runtime or a signal handler cannot be had.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// The capture thread is gone.
    #[error("the capture thread ended: {0}")]
    Ended(String),
}

/// How often what was learned is written to the state file.
const KEEP_INTERVAL: Duration = Duration::from_mins(10);
/// How long the end waits for each thing that is still to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the threads tell one another.
struct Shared {
    stop: AtomicBool,
    /// Rises with every turn of the capture thread: what the watchdog looks at.
    turns: AtomicU64,
    capture_ok: AtomicBool,
    kernel_ok: AtomicBool,
    counters: Arc<Counters>,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Where it cannot start, or cannot go on.
pub fn run(config: &Config) -> Result<(), Error> {
    share_heap();
    app::logging::start(&config.log);
    let listener = match config.web.enabled {
        true => Some(http::bind(config.web.listen_address.0)?),
        false => None,
    };
    app::enter_namespace(config)?;
    let host = Host::look();
    let mut engine_settings = settings(config, &host, false)?;
    let ranks = *Hasher::new(engine_settings.key).sampling_key();
    let (taps, no_wire) = match Taps::open(config, &ranks) {
        Ok(taps) => (Some(taps), None),
        Err(error @ capture::Error::Permission) => (None, Some(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let counters = Arc::new(Counters::default());
    let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(alert::Log)];
    if let Some(path) = &config.events.path {
        sinks.push(Box::new(alert::Events::open(path.as_path(), Arc::clone(&counters))?));
    }
    let (reader, no_kernel) = match config.kernel.enabled.then(kernel::Reader::open) {
        Some(Ok(reader)) => (Some(reader), None),
        Some(Err(error)) => (None, Some(error.to_string())),
        None => (None, Some("the kernel is not asked (kernel.enabled = false)".to_owned())),
    };
    if let (Some(capture), Some(kernel)) = (&no_wire, &no_kernel) {
        return Err(Error::NoWitness { capture: capture.clone(), kernel: kernel.clone() });
    }
    let state_file = state_file(config);
    let (learned, state_failing) = state_file.as_ref().map_or_else(Default::default, load);
    engine_settings.kernel_only = taps.is_none();
    let clock = Clock::start();
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        turns: AtomicU64::new(0),
        capture_ok: AtomicBool::new(taps.is_some()),
        kernel_ok: AtomicBool::new(reader.is_some()),
        counters: Arc::clone(&counters),
    });

    let samples = match reader {
        Some(reader) => Some(start_kernel(reader, config.kernel.interval.get(), clock, &shared)?),
        None => None,
    };
    confine(config, state_file.as_ref())?;
    announce(config, taps.as_ref().and_then(Taps::any), no_wire.as_deref(), no_kernel.as_deref());

    let shards = taps.as_ref().map_or(NonZeroUsize::MIN, Taps::shards);
    let mut engine = Engine::sharded(engine_settings, shards);
    engine.reach(clock.now());
    let (baselines, keeper) = match state_file {
        Some(file) => {
            let path = file.path().display().to_string();
            let (baselines, keeper) = state::start(file, state_failing)?;
            let services = engine.restore(learned);
            tracing::info!(services, path, "what was learned is kept in the state file");
            (Some(baselines), Some(keeper))
        }
        None => (None, None),
    };
    let (alerts, worker) = alert::start(sinks, counters)?;
    let (reports, latest) = watch::channel(Arc::new(engine.snapshot(clock.now())));
    let (ended, capture_end) = oneshot::channel();
    let capture = Capture {
        engine,
        wire: Wire::Nothing,
        samples,
        reports,
        alerts: alerts.clone(),
        baselines,
        clock,
        load: Load::start(),
        config: config.clone(),
        host,
        shared: Arc::clone(&shared),
    };
    let thread = thread::Builder::new().name("capture".to_owned()).spawn(move || {
        // Where the receiver is gone the daemon is ending anyway.
        let _ = ended.send(capture.run(taps));
    })?;

    let outcome = serve(config, listener, latest, &shared, &alerts, capture_end);
    service::stopping();
    shared.stop.store(true, Ordering::Relaxed);
    if thread.join().is_err() {
        return Err(Error::Ended("panic".to_owned()));
    }
    if !worker.stop(PATIENCE) {
        tracing::warn!("the last alerts could not be delivered within 2 s");
    }
    if keeper.is_some_and(|keeper| !keeper.stop(PATIENCE)) {
        tracing::warn!("the state file could not be written within 2 s");
    }
    outcome
}

/// The state file asked for, or else that in the service manager's directory.
fn state_file(config: &Config) -> Option<StateFile> {
    let asked = || config.state.path.as_ref().map(|path| path.as_path().to_owned());
    let given = || service::state_directory().map(|directory| directory.join("baselines.json"));
    let path = config.state.enabled.then(|| asked().or_else(given)).flatten();
    path.map(StateFile::new)
}

/// What was learned before, and whether the file cannot be read, which is told here.
fn load(file: &StateFile) -> (Vec<SavedBaseline>, bool) {
    match file.load() {
        Ok(baselines) => (baselines, false),
        Err(error) => {
            tracing::warn!("{error}; starting without what was learned");
            (Vec::new(), matches!(error, state::Error::Read { .. }))
        }
    }
}

/// The thread that asks the kernel.
fn start_kernel(
    mut reader: kernel::Reader,
    interval: Duration,
    clock: Clock,
    shared: &Arc<Shared>,
) -> io::Result<Receiver<KernelSample>> {
    let (sender, receiver) = sync_channel(1);
    let shared = Arc::clone(shared);
    thread::Builder::new().name("kernel".to_owned()).spawn(move || {
        reader.prepare();
        let keep = [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH];
        if let Err(error) = privileges::drop_except(&keep) {
            tracing::warn!(%error, "the kernel thread keeps its privileges");
        }
        let mut told: Vec<String> = Vec::new();
        while !shared.stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            match reader.sample(clock.now()) {
                Ok(sample) => {
                    shared.kernel_ok.store(true, Ordering::Relaxed);
                    if !hand_over(&sender, sample) {
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
    })?;
    Ok(receiver)
}

/// Hands a sample to the capture thread, or drops it where that has not taken the last one; false
/// where nobody takes any.
fn hand_over(sender: &SyncSender<KernelSample>, sample: KernelSample) -> bool {
    !matches!(sender.try_send(sample), Err(TrySendError::Disconnected(_)))
}

/// Gives up privileges and the view of the file system.
fn confine(config: &Config, state: Option<&StateFile>) -> Result<(), Error> {
    // pnet opens a socket for every interface that comes up. XDP's counters are read for each processor
    // that there may be.
    let (keep, readable): (&[Capability], &[&Path]) = match config.capture.backend {
        Backend::Ring => (&[], &[]),
        Backend::Pnet => (&[Capability::CAP_NET_RAW], &[]),
        Backend::Xdp => (&[], &[Path::new("/sys/devices/system/cpu")]),
    };
    privileges::drop_except(keep)?;
    let directory = config.events.path.as_ref().and_then(|path| path.as_path().parent());
    let writable: Vec<&Path> = directory.into_iter().collect();
    let replaceable: Vec<&Path> = state.map(StateFile::directory).into_iter().collect();
    tracing::debug!("{}", sandbox::confine(readable, &writable, &replaceable));
    Ok(())
}

/// Says what is watched and what is not.
fn announce(
    config: &Config,
    source: Option<&dyn Source>,
    no_wire: Option<&str>,
    no_kernel: Option<&str>,
) {
    if let Some(source) = source {
        let interfaces = source.interfaces().join(", ");
        tracing::info!(interfaces, backend = source.name(), "watching the wire");
    }
    if let Some(missing) = no_wire {
        tracing::warn!("not watching the wire: {missing}; this is the kernel's word only");
    }
    match no_kernel {
        Some(missing) => tracing::warn!("not watching the kernel: {missing}"),
        None => tracing::info!(interval = ?config.kernel.interval.get(), "asking the kernel"),
    }
    if config.web.enabled {
        let address = config.web.listen_address.0;
        let path = config.web.telemetry_path.as_str();
        tracing::info!("metrics at http://{address}{path}, status at http://{address}/");
    }
}

/// Whether somebody started it by hand who wants to see what it sees.
fn greets(config: &Config) -> bool {
    !service::stderr_is_journal() && matches!(config.log.format, LogFormat::Auto | LogFormat::Text)
}

/// Who looks at packets.
enum Wire {
    /// Nobody may.
    Nothing,
    /// The capture thread itself.
    One { source: Box<dyn Source>, selector: Selector },
    /// A thread for each shard.
    Many { team: Team, loads: Vec<Load> },
}

impl Wire {
    /// Begins to look.
    fn start(taps: Taps, engine: &mut Engine, host: &Host, clock: Clock) -> io::Result<Self> {
        Ok(match taps {
            Taps::One(source) => Self::One { source, selector: Selector::default() },
            Taps::Many(rings) => Self::Many {
                loads: rings.iter().map(|_| Load::of_new_thread()).collect(),
                team: Team::start(rings, engine, host, clock)?,
            },
        })
    }

    /// Runs `work` while the engine has all of its shards.
    fn assemble<T>(&self, engine: &mut Engine, work: impl FnOnce(&mut Engine) -> T) -> T {
        match self {
            Self::Many { team, .. } => team.assemble(engine, work),
            _ => work(engine),
        }
    }
}

/// The capture thread: owner of the engine.
struct Capture {
    engine: Engine,
    wire: Wire,
    samples: Option<Receiver<KernelSample>>,
    reports: watch::Sender<Arc<Snapshot>>,
    alerts: Alerts,
    baselines: Option<state::Baselines>,
    clock: Clock,
    load: Load,
    config: Config,
    host: Host,
    shared: Arc<Shared>,
}

impl Capture {
    fn run(mut self, taps: Option<Taps>) -> Result<(), Error> {
        let outcome = self.watch(taps);
        self.keep_baselines();
        outcome
    }

    fn watch(&mut self, taps: Option<Taps>) -> Result<(), Error> {
        // The listeners have their places before the first SYN comes.
        if let Some(sample) =
            self.samples.as_ref().and_then(|s| s.recv_timeout(Duration::from_secs(1)).ok())
        {
            self.take_sample(sample);
        }
        if let Some(taps) = taps {
            self.wire = Wire::start(taps, &mut self.engine, &self.host, self.clock)?;
        }
        let mut fragments = Fragments::new(self.engine.hasher().state());
        let mut next_tick = Instant::now();
        // The first time at once: whether it can be written is known when it was just started.
        let mut next_keep = next_tick;
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.shared.turns.fetch_add(1, Ordering::Relaxed);
            let left = next_tick.saturating_duration_since(Instant::now());
            match &mut self.wire {
                Wire::Nothing => thread::sleep(left),
                Wire::One { source, .. } => {
                    let correction = || self.clock.correction();
                    let (engine, source) = (&mut self.engine, source.as_mut());
                    feed(engine, source, left, correction, &self.host, &mut fragments)?;
                }
                Wire::Many { team, .. } => {
                    thread::sleep(left);
                    if let Some(end) = team.ended() {
                        return Ok(end?);
                    }
                }
            }
            self.take_samples();
            let now = Instant::now();
            if now >= next_tick {
                let settled = self.clock.settled();
                if let Wire::One { source, .. } = &mut self.wire {
                    let (engine, source) = (&mut self.engine, source.as_mut());
                    catch_up(engine, source, &self.clock, &self.host, &mut fragments)?;
                }
                self.tick(settled);
                next_tick = self.clock.when_settled(self.engine.step_end());
            }
            if now >= next_keep {
                next_keep = now + KEEP_INTERVAL;
                self.keep_baselines();
            }
        }
        Ok(())
    }

    fn keep_baselines(&self) {
        if let Some(baselines) = &self.baselines {
            baselines.keep(self.engine.baselines());
        }
    }

    fn take_sample(&mut self, sample: KernelSample) {
        let Self { engine, wire, host, config, .. } = self;
        wire.assemble(engine, |engine| take_sample(engine, host, config, sample));
        if let Wire::Many { team, .. } = wire {
            team.learn(host);
        }
    }

    fn take_samples(&mut self) {
        loop {
            let Some(samples) = &self.samples else { return };
            match samples.try_recv() {
                Ok(sample) => self.take_sample(sample),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.shared.kernel_ok.store(false, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    /// Lets time pass up to `now`, and tells what comes of it.
    fn tick(&mut self, now: Timestamp) {
        let Self { engine, wire, .. } = self;
        let load = match wire {
            Wire::Nothing => self.load.share(),
            Wire::One { source, .. } => {
                engine.handle_capture(source.stats());
                self.load.share()
            }
            Wire::Many { team, loads } => {
                engine.handle_capture(team.stats());
                // The one that has most to do counts.
                let shares =
                    loads.iter_mut().zip(team.used()).map(|(load, used)| load.share_of(used));
                shares.fold(0.0, f64::max)
            }
        };
        engine.handle_load(load);
        let (actions, mut snapshot) = wire.assemble(engine, |engine| {
            let actions = engine.tick(now);
            (actions, engine.snapshot(engine.now()))
        });
        for action in actions {
            let (change, detection) = match action {
                Action::Raised(detection) => (Change::Raised, detection),
                Action::Updated(detection) => (Change::Updated, detection),
                Action::Cleared(detection) => (Change::Cleared, detection),
            };
            self.alerts.send(Alert { change, detection, at: engine.now() });
        }
        let report = &mut snapshot.document;
        let selected = selection(engine, report);
        match wire {
            Wire::Nothing => {}
            Wire::One { source, selector } => {
                report.capture.source = source.name().into();
                report.capture.interfaces = source.interfaces();
                selector.select(source.as_mut(), &selected);
            }
            Wire::Many { team, .. } => {
                report.capture.source = team.name().into();
                report.capture.interfaces = team.interfaces();
                team.select(selected);
            }
        }
        self.reports.send_replace(Arc::new(snapshot));
    }
}

/// HTTP, signals and the watchdog, until the end.
fn serve(
    config: &Config,
    listener: Option<TcpListener>,
    latest: watch::Receiver<Arc<Snapshot>>,
    shared: &Arc<Shared>,
    alerts: &Alerts,
    capture_end: oneshot::Receiver<Result<(), Error>>,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (stop, stopped) = oneshot::channel::<()>();
        let server = match listener {
            Some(listener) => {
                let state = http::State::new(
                    latest.clone(),
                    exporter(config, shared),
                    config.web.telemetry_path.as_str(),
                );
                let max = usize::try_from(config.web.max_connections.get()).unwrap_or(usize::MAX);
                let settings = http::Settings { max_connections: max, ..http::Settings::default() };
                Some(tokio::spawn(http::serve(listener, state, settings, async {
                    let _ = stopped.await;
                })))
            }
            None => None,
        };
        service::ready("watching");
        if greets(config) {
            tokio::spawn(greet(latest.clone(), config.kernel.enabled));
        }
        let watchdog = tokio::spawn(watch_over(Arc::clone(shared), latest));
        let mut capture_end = std::pin::pin!(capture_end);
        let outcome = loop {
            tokio::select! {
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                _ = hangup.recv() => {
                    service::reloading();
                    alerts.reopen();
                    if config.events.path.is_some() {
                        tracing::info!("event file opened anew");
                    }
                    service::ready("watching");
                }
                end = &mut capture_end => break match end {
                    Ok(end) => end,
                    Err(_) => Err(Error::Ended("panic".to_owned())),
                },
            }
        };
        tracing::info!("stopping");
        watchdog.abort();
        drop(stop);
        if let Some(server) = server {
            // It ends by itself within its connection timeout; longer nobody waits.
            let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
        }
        outcome
    })
}

/// Prints the first report that the kernel has a part in: what there is to see right now.
async fn greet(mut latest: watch::Receiver<Arc<Snapshot>>, asks_kernel: bool) {
    while latest.changed().await.is_ok() {
        let report = Arc::clone(&latest.borrow());
        if report.document.kernel.available || !asks_kernel {
            let text = render::text(&report, &render::Limits::default(), &[], false);
            // On a thread of its own, since nobody may read; then nobody misses it either.
            thread::spawn(move || io::stdout().write_all(text.as_bytes()));
            return;
        }
    }
}

/// What the metrics say of the program itself.
fn exporter(config: &Config, shared: &Arc<Shared>) -> impl Fn() -> Exporter + Send + Sync + use<> {
    let shared = Arc::clone(shared);
    let asks_kernel = config.kernel.enabled;
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
            alerts_dropped: count(&shared.counters.dropped),
            event_write_errors: count(&shared.counters.write_errors),
            events_lost: count(&shared.counters.lost),
            ..Exporter::default()
        }
    }
}

/// Tells the service manager that all is well as long as the capture thread turns.
async fn watch_over(shared: Arc<Shared>, latest: watch::Receiver<Arc<Snapshot>>) {
    let interval = service::watchdog_interval().unwrap_or(Duration::from_secs(10));
    let mut turns = shared.turns.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(interval).await;
        let now = shared.turns.load(Ordering::Relaxed);
        if now != turns {
            turns = now;
            service::watchdog();
        }
        service::status(&status_line(&latest.borrow().document));
    }
}

/// The line that `systemctl status` shows.
fn status_line(report: &Document) -> String {
    let active = report.detections.iter().filter(|detection| detection.cleared_at.is_none());
    format!(
        "{}: {} half-open, {} active detections",
        report.status.word(),
        report.totals.half_open.max(report.kernel.syn_recv.unwrap_or(0)),
        active.count()
    )
}
