//! The start, state by state.

use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use synwatch_core::engine::{Engine, SavedBaseline, Settings};
use synwatch_core::observe::{KernelSample, Snapshot};
use synwatch_core::sampling::Hasher;
use tokio::sync::{oneshot, watch};

use super::capture::Capture;
use super::{Error, Shared, kernel};
use crate::alert::{self, Alerts, Counters, Sink, Worker};
use crate::app::{self, Clock, Host, Session, open_sources};
use crate::baseline_file::{self, Baselines, Keeper, StateFile};
use crate::capture::{self, Source};
use crate::config::Config;
use crate::http;
use crate::kernel::Reader;
use crate::sys::threads::{Confined, Unconfined};
use crate::sys::{Needs, systemd};

/// Everything is open that needs privileges, or may not be there.
pub(super) struct Opened<'a> {
    parts: Parts<'a>,
    /// Or why not.
    kernel: Result<Reader, String>,
    unconfined: Unconfined,
}

/// What goes on from state to state.
struct Parts<'a> {
    config: &'a Config,
    listener: Option<TcpListener>,
    host: Host,
    settings: Settings,
    /// The sources of the wire, or why there is none.
    wire: Result<Vec<Box<dyn Source>>, String>,
    sinks: Vec<Box<dyn Sink>>,
    counters: Arc<Counters>,
    learned: Option<Learned>,
}

/// The state file, and what was learned before.
struct Learned {
    file: StateFile,
    baselines: Vec<SavedBaseline>,
    /// It cannot be read, which is told.
    failing: bool,
}

impl<'a> Opened<'a> {
    /// Opens all that the configuration asks for.
    pub(super) fn open(config: &'a Config) -> Result<Self, Error> {
        let unconfined = Unconfined::of_this_thread();
        let address = config.web.enabled.then_some(config.web.listen_address.0);
        let listener = address.map(http::bind).transpose()?;
        app::enter_namespace(config)?;
        let host = Host::look();
        let mut settings = app::settings(config, &host, false)?;
        let wire = open_wire(config, &settings)?;
        settings.kernel_only = wire.is_err();
        settings.asks_kernel = config.kernel.enabled;
        let counters = Arc::default();
        let sinks = open_sinks(config, &counters)?;
        let kernel = open_kernel(config);
        if let (Err(capture), Err(kernel)) = (&wire, &kernel) {
            return Err(Error::NoWitness { capture: capture.clone(), kernel: kernel.clone() });
        }
        let learned = state_file(config).map(Learned::load);
        let parts = Parts { config, listener, host, settings, wire, sinks, counters, learned };
        Ok(Self { parts, kernel, unconfined })
    }

    /// Starts the kernel thread, which keeps some privileges, and gives up what the parts do not
    /// need.
    pub(super) fn confine(self) -> Result<Ready<'a>, Error> {
        let Self { parts, kernel, unconfined } = self;
        let clock = Clock::start();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            capture_ok: AtomicBool::new(parts.wire.is_ok()),
            kernel_ok: AtomicBool::new(kernel.is_ok()),
        });
        let interval = parts.config.kernel.interval.get();
        let start = |reader| kernel::start(&unconfined, reader, interval, clock, &shared);
        let (samples, no_kernel) = match kernel {
            Ok(reader) => (Some(start(reader)?), None),
            Err(missing) => (None, Some(missing)),
        };
        let confined = unconfined.confine(&parts.needs())?;
        parts.announce(no_kernel.as_deref());
        Ok(Ready { parts, samples, clock, shared, confined })
    }
}

impl Parts<'_> {
    /// What all of them together need from now on.
    fn needs(&self) -> Needs {
        let sources = self.wire.iter().flatten().map(|source| source.needs());
        let sinks = self.sinks.iter().map(|sink| sink.needs());
        let learned = self.learned.iter().map(|learned| learned.file.needs());
        sources.chain(sinks).chain(learned).sum()
    }

    /// Says what is watched and what is not.
    fn announce(&self, no_kernel: Option<&str>) {
        let Self { config, wire, .. } = self;
        match wire.as_deref() {
            Ok([source, ..]) => {
                let interfaces = source.interfaces().join(", ");
                tracing::info!(interfaces, backend = source.name(), "capturing packets");
            }
            Ok([]) => {}
            Err(missing) => {
                tracing::warn!(
                    "not capturing packets: {missing}; only the kernel's counts are used"
                );
            }
        }
        match no_kernel {
            Some(missing) => tracing::warn!("not asking the kernel: {missing}"),
            None => tracing::info!(interval = ?config.kernel.interval.get(), "asking the kernel"),
        }
        if config.web.enabled {
            let address = config.web.listen_address.0;
            let path = config.web.telemetry_path.as_str();
            tracing::info!("metrics at http://{address}{path}, status at http://{address}/");
        }
    }
}

/// The first thread is confined, and the kernel thread runs.
pub(super) struct Ready<'a> {
    parts: Parts<'a>,
    samples: Option<Receiver<KernelSample>>,
    clock: Clock,
    shared: Arc<Shared>,
    confined: Confined,
}

impl<'a> Ready<'a> {
    /// Starts all other threads.
    pub(super) fn start(self) -> Result<Running<'a>, Error> {
        let Self { parts, samples, clock, shared, confined } = self;
        let Parts { config, listener, host, settings, wire, sinks, counters, learned } = parts;
        let sources = wire.unwrap_or_default();
        let shards = NonZeroUsize::new(sources.len()).unwrap_or(NonZeroUsize::MIN);
        let mut engine = Engine::sharded(settings, shards);
        engine.reach(clock.now());
        let (baselines, keeper) = match learned {
            Some(learned) => {
                let (baselines, keeper) = learned.restore(&mut engine, &confined)?;
                (Some(baselines), Some(keeper))
            }
            None => (None, None),
        };
        let (alerts, worker) = alert::start(&confined, sinks, Arc::clone(&counters))?;
        let mut session = Session::new(engine, host, clock, config);
        let (reports, latest) = watch::channel(Arc::new(session.snapshot()));
        let (ended, capture_end) = oneshot::channel();
        let capture = Capture {
            session,
            samples,
            reports,
            alerts: alerts.clone(),
            baselines,
            shared: Arc::clone(&shared),
            unknown: Vec::new(),
        };
        let capture = confined.spawn("capture", move |confined| {
            // Where the receiver is gone the daemon is ending anyway.
            let _ = ended.send(capture.run(sources, confined));
        })?;
        Ok(Running {
            config,
            listener,
            latest,
            shared,
            counters,
            alerts,
            worker,
            keeper,
            capture,
            capture_end,
            confined,
        })
    }
}

/// All threads run.
pub(super) struct Running<'a> {
    pub(super) config: &'a Config,
    pub(super) listener: Option<TcpListener>,
    pub(super) latest: watch::Receiver<Arc<Snapshot>>,
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    pub(super) alerts: Alerts,
    pub(super) worker: Worker,
    /// Where there is a state file.
    pub(super) keeper: Option<Keeper>,
    pub(super) capture: JoinHandle<()>,
    /// How the capture thread ended.
    pub(super) capture_end: oneshot::Receiver<Result<(), Error>>,
    pub(super) confined: Confined,
}

impl Learned {
    /// What was learned before.
    fn load(file: StateFile) -> Self {
        match file.load() {
            Ok(baselines) => Self { file, baselines, failing: false },
            Err(error) => {
                tracing::warn!("{error}; starting without learned baselines");
                let failing = matches!(error, baseline_file::Error::Read { .. });
                Self { file, baselines: Vec::new(), failing }
            }
        }
    }

    /// Hands it to the engine, and starts the thread that keeps it.
    fn restore(
        self,
        engine: &mut Engine,
        confined: &Confined,
    ) -> Result<(Baselines, Keeper), Error> {
        let path = self.file.path().display().to_string();
        let kept = baseline_file::start(confined, self.file, self.failing)?;
        let services = engine.restore(self.baselines);
        tracing::info!(services, path, "learned baselines are kept in the state file");
        Ok(kept)
    }
}

/// The wire, or why it may not be watched.
fn open_wire(
    config: &Config,
    settings: &Settings,
) -> Result<Result<Vec<Box<dyn Source>>, String>, capture::Error> {
    match open_sources(config, Hasher::new(settings.key).sampling_key()) {
        Err(error @ capture::Error::Permission) => Ok(Err(error.to_string())),
        sources => sources.map(Ok),
    }
}

/// The log, and the event file where there is one.
fn open_sinks(config: &Config, counters: &Arc<Counters>) -> Result<Vec<Box<dyn Sink>>, Error> {
    let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(alert::Log)];
    if let Some(path) = &config.events.path {
        sinks.push(Box::new(alert::Events::open(path.as_path(), Arc::clone(counters))?));
    }
    Ok(sinks)
}

/// The kernel, or why it is not asked.
fn open_kernel(config: &Config) -> Result<Reader, String> {
    match config.kernel.enabled {
        true => Reader::open().map_err(|error| error.to_string()),
        false => Err("the kernel is switched off (kernel.enabled = false)".to_owned()),
    }
}

/// The state file asked for, or else that in the service manager's directory.
fn state_file(config: &Config) -> Option<StateFile> {
    let asked = || config.state.path.as_ref().map(|path| path.as_path().to_owned());
    let given = || systemd::state_directory().map(|directory| directory.join("baselines.json"));
    let path = config.state.enabled.then(|| asked().or_else(given)).flatten();
    path.map(StateFile::new)
}
