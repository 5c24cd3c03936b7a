//! `synwatch --once`: look for a moment, answer, exit.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use synwatch_core::engine::Engine;
use synwatch_core::observe::{Report, Status};
use synwatch_core::stats::STEP;
use synwatch_core::wire::Fragments;
use thiserror::Error;

use crate::app::feed::{Selector, catch_up, feed, selection};
use crate::app::render;
use crate::app::{Clock, Host, open_source, settings};
use crate::capture::Source;
use crate::cli::{Format, Output};
use crate::config::Config;
use crate::kernel;
use crate::sys::privileges::{self, Capability, INSPECT_PROCESSES};
use crate::{app, capture};

/// The privileges to ask for the lengths of long SYN queues: only where no packets of strangers are decoded.
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
    let mut source: Option<Box<dyn Source>> = None;
    if duration.is_zero() {
        unseen.push("the wire: --duration 0 asks the kernel only".to_owned());
    } else {
        match open_source(config) {
            Ok(opened) => source = Some(opened),
            Err(error @ capture::Error::Permission) => {
                unseen.push(format!("the wire: {error}; this is the kernel's word only"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut kernel = Kernel::open(config, &mut unseen);
    let mut keep = INSPECT_PROCESSES.to_vec();
    match &source {
        None => keep.extend(WITHOUT_WIRE),
        Some(source) => {
            keep.extend(source.needs().capabilities);
            if let Some(reader) = &kernel.0 {
                reader.prepare();
            }
        }
    }
    // Nothing more is opened that needs a privilege, and the kernel's answer is shorter without
    // CAP_NET_ADMIN: it leaves out the packet mark of each half-open connection.
    if let Err(error) = privileges::drop_except(&keep) {
        tracing::debug!(%error, "keeps its privileges");
    }
    let clock = Clock::start();
    let mut host = Host::look();
    let mut settings = settings(config, &host, source.is_none())?;
    if source.is_none() {
        // Without a wire there is no flow, and a table of flows takes longer to fill than the answer.
        settings.flows = 0;
    }
    let mut engine = Engine::new(settings, clock.now());
    kernel.ask(&mut engine, &mut host, config, &clock);
    let begin = Instant::now();
    if let Some(source) = &mut source {
        let mut selector = Selector::default();
        let mut fragments = Fragments::new(engine.hasher().state());
        let mut next_tick = begin + STEP;
        while let Some(left) = duration.checked_sub(begin.elapsed()).filter(|left| !left.is_zero())
        {
            let pause = next_tick.saturating_duration_since(Instant::now()).min(left);
            let correction = || clock.correction();
            feed(&mut engine, source.as_mut(), pause, correction, &host, &mut fragments)?;
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + STEP;
                let settled = clock.settled();
                catch_up(&mut engine, source.as_mut(), &clock, &host, &mut fragments)?;
                engine.handle_capture(source.stats());
                engine.tick(settled);
                let report = engine.snapshot(engine.now());
                selector.select(source.as_mut(), &selection(&engine, &report));
            }
        }
        kernel.ask(&mut engine, &mut host, config, &clock);
        let asked = clock.now();
        catch_up(&mut engine, source.as_mut(), &clock, &host, &mut fragments)?;
        engine.handle_capture(source.stats());
        engine.tick(asked);
        engine.consult_kernel();
    }
    let mut report = engine.snapshot(clock.now());
    if let Some(source) = &source {
        report.capture.source = source.name();
        report.capture.interfaces = source.interfaces();
    }
    if !report.kernel.available && source.is_none() {
        report.status = Status::Unknown;
    }
    kernel.tell(&mut unseen);
    if config.watch.netns.is_none() && has_namespaces() {
        unseen.push(
            "listeners inside containers have their own network namespace: --netns".to_owned(),
        );
    }
    print(&report, &limits, &unseen, output)?;
    Ok(render::status(&report, &limits))
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
    report: &Report,
    limits: &render::Limits,
    unseen: &[String],
    output: &Output,
) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match output.format {
        Format::Text => {
            let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
            out.write_all(render::text(report, limits, unseen, colour).as_bytes())?;
        }
        Format::Json => {
            let report = Report { status: render::status(report, limits), ..report.clone() };
            serde_json::to_writer(&mut out, &report)?;
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

    fn ask(&mut self, engine: &mut Engine, host: &mut Host, config: &Config, clock: &Clock) {
        let Some(reader) = &mut self.0 else { return };
        match reader.sample(clock.now()) {
            Ok(sample) => app::take_sample(engine, host, config, sample),
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
