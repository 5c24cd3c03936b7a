//! `synwatch --once`: look for a moment, answer, exit.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use synwatch_core::engine::Engine;
use synwatch_core::engine::STEP;
use synwatch_core::observe::{Document, Snapshot, Status, Unknown};
use thiserror::Error;

use crate::app::render;
use crate::app::{Clock, Host, Session, open_source, settings};
use crate::capture::Source;
use crate::cli::{Format, Output};
use crate::config::Config;
use crate::kernel;
use crate::sys::privileges::{self, Capability, INSPECT_PROCESSES};
use crate::{app, capture};

/// The privileges to ask for the lengths of long SYN queues: only where no packets of strangers are
/// decoded.
const WITHOUT_WIRE: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_PERFMON];

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum Error {
    /// `--warning` or `--critical` is no range.
    #[error(transparent)]
    Range(#[from] app::range::Error),
    /// The wire cannot be listened on, and not for want of privilege.
    #[error(transparent)]
    Capture(#[from] capture::Error),
    /// Something that both live faces need is missing.
    #[error(transparent)]
    Live(#[from] app::LiveError),
    /// The report is no JSON.
    #[error("cannot write the report: {0}")]
    Json(#[from] serde_json::Error),
    /// Standard output takes no more.
    #[error("cannot write the report: {0}")]
    Output(#[from] io::Error),
}

/// Listens for `duration`, asks the kernel, and prints the verdict.
///
/// # Errors
/// Wrong ranges, an unknown interface or namespace, or an output that is closed. A witness that
/// cannot be asked is no error: the answer says so.
pub fn run(config: &Config, duration: Duration, output: &Output) -> Result<Status, Error> {
    let limits = limits(output)?;
    app::enter_namespace(config)?;
    let mut unseen = Vec::new();
    let source = open_wire(config, duration, &mut unseen)?;
    let mut kernel = Kernel::open(config, &mut unseen);
    drop_privileges(source.as_deref(), &kernel);
    let has_wire = source.is_some();
    let mut session = session(config, has_wire)?;
    kernel.ask(&mut session);
    if let Some(source) = source {
        session = session.listen(source);
        listen(&mut session, duration)?;
        kernel.ask(&mut session);
    }
    let mut snapshot = session.finish()?;
    if !snapshot.document.kernel.available {
        if !has_wire {
            snapshot.document.doubt(Unknown::NoWitness);
        } else if kernel.is_asked() {
            snapshot.document.doubt(Unknown::KernelSilent);
        }
    }
    kernel.tell(&mut unseen);
    if config.watch.netns.is_none() && has_namespaces() {
        unseen.push(
            "listeners inside containers have their own network namespace: --netns".to_owned(),
        );
    }
    print(&snapshot, &limits, &unseen, output)?;
    Ok(render::status(&snapshot.document, &limits))
}

/// The wire, where it is to be listened on and may be.
fn open_wire(
    config: &Config,
    duration: Duration,
    unseen: &mut Vec<String>,
) -> Result<Option<Box<dyn Source>>, capture::Error> {
    if duration.is_zero() {
        unseen.push("the wire: --duration 0 asks the kernel only".to_owned());
        return Ok(None);
    }
    match open_source(config) {
        Err(error @ capture::Error::Permission) => {
            unseen.push(format!("the wire: {error}; only the kernel's counts are used"));
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// Gives up what is not needed any more. The kernel's answer is shorter without CAP_NET_ADMIN: it
/// leaves out the packet mark of each half-open connection.
fn drop_privileges(source: Option<&dyn Source>, kernel: &Kernel) {
    let mut keep = INSPECT_PROCESSES.to_vec();
    match source {
        None => keep.extend(WITHOUT_WIRE),
        Some(source) => {
            keep.extend(source.needs().capabilities);
            kernel.prepare();
        }
    }
    if let Err(error) = privileges::drop_except(&keep) {
        tracing::debug!(%error, "cannot drop privileges");
    }
}

fn session(config: &Config, has_wire: bool) -> Result<Session, Error> {
    let clock = Clock::start();
    let host = Host::look();
    let mut settings = settings(config, &host, !has_wire)?;
    if !has_wire {
        // Without a wire there is no flow, and a table of flows takes longer to fill than the
        // answer.
        settings.flows = 0;
    }
    // It is over soon: what it takes of the processor until then it may take.
    settings.cpu_share = f64::INFINITY;
    let engine = Engine::new(settings, clock.now());
    Ok(Session::new(engine, host, clock, config))
}

/// Takes in what comes in `duration`.
fn listen(session: &mut Session, duration: Duration) -> Result<(), capture::Error> {
    let begin = Instant::now();
    let mut next_tick = begin + STEP;
    while let Some(left) = duration.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
        session.feed(next_tick.saturating_duration_since(Instant::now()).min(left))?;
        let now = Instant::now();
        if now >= next_tick {
            next_tick = now + STEP;
            session.tick()?;
        }
    }
    Ok(())
}

/// The limits asked for on the command line.
///
/// # Errors
/// Where one is no range.
pub fn limits(output: &Output) -> Result<render::Limits, app::range::Error> {
    let parse = |range: &Option<String>| range.as_deref().map(str::parse).transpose();
    Ok(render::Limits { warning: parse(&output.warning)?, critical: parse(&output.critical)? })
}

/// Prints the report in the form asked for.
///
/// # Errors
/// Where standard output does not take it.
pub fn print(
    snapshot: &Snapshot,
    limits: &render::Limits,
    unseen: &[String],
    output: &Output,
) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match output.format {
        Format::Text => {
            let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
            out.write_all(render::text(snapshot, limits, unseen, colour).as_bytes())?;
        }
        Format::Json => {
            let document = &snapshot.document;
            let status = render::status(document, limits);
            let document = Document { status, ..document.clone() };
            serde_json::to_writer(&mut out, &document)?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    Ok(())
}

/// The kernel, where it may be asked.
struct Kernel(Option<kernel::Reader>);

impl Kernel {
    fn open(config: &Config, unseen: &mut Vec<String>) -> Self {
        if !config.kernel.enabled {
            unseen.push("the kernel: switched off in the configuration".to_owned());
            return Self(None);
        }
        match kernel::Reader::open() {
            Ok(reader) => Self(Some(reader)),
            Err(error) => {
                unseen.push(format!("the kernel: {error}"));
                Self(None)
            }
        }
    }

    /// Whether it is to be asked, and may be.
    const fn is_asked(&self) -> bool {
        self.0.is_some()
    }

    /// Has ready what takes privileges.
    fn prepare(&self) {
        if let Some(reader) = &self.0 {
            reader.prepare();
        }
    }

    fn ask(&mut self, session: &mut Session) {
        let Some(reader) = &mut self.0 else { return };
        match reader.sample(session.now()) {
            Ok(sample) => session.take_sample(sample),
            Err(error) => tracing::warn!(%error, "the kernel did not answer"),
        }
    }

    fn tell(&self, unseen: &mut Vec<String>) {
        if let Some(reader) = &self.0 {
            unseen.extend(reader.problems().iter().cloned());
        }
    }
}

/// Whether there are other network namespaces that have a name.
fn has_namespaces() -> bool {
    ["/run/netns", "/run/docker/netns"].iter().any(|directory| {
        std::fs::read_dir(Path::new(directory)).is_ok_and(|mut names| names.next().is_some())
    })
}
