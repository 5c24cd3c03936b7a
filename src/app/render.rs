//! A report as text, for `--once` and `replay`: the first line for Nagios and people alike, the
//! rest for people.

use std::net::SocketAddr;

use synwatch_core::observe::{
    Detection, Document, ServiceInternals, ServiceReport, Severity, Snapshot, Status, Unknown,
};

use crate::app::range::Range;

/// The first line has fewer characters than this before the bar: what fits into a text message.
const HEADLINE: usize = 80;

/// Cells of the occupancy bar.
const BAR: usize = 10;

/// Limits on the number of half-open connections that the user set beside the detector.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// `--warning`.
    pub warning: Option<Range>,
    /// `--critical`.
    pub critical: Option<Range>,
}

impl Limits {
    /// The status that the half-open count alone leads to, and the option that says so.
    fn judge(&self, half_open: u64) -> (Status, String) {
        let broken = |range: &Option<Range>| range.filter(|range| range.alerts(float(half_open)));
        if let Some(range) = broken(&self.critical) {
            (Status::Critical, format!("--critical {range}"))
        } else if let Some(range) = broken(&self.warning) {
            (Status::Warning, format!("--warning {range}"))
        } else {
            (Status::Ok, String::new())
        }
    }
}

/// The detector's verdict or that of the user's limits, whichever is graver; a count that breaks a
/// limit does so whatever is unknown, where there is a count.
#[must_use]
pub fn status(report: &Document, limits: &Limits) -> Status {
    let by_limits = limits.judge(half_open(report)).0;
    let counted = !report.unknown.contains(&Unknown::NoWitness);
    if report.status == Status::Unknown && counted && by_limits > Status::Ok {
        return by_limits;
    }
    report.status.max(by_limits)
}

/// The whole text; `unseen` says in a sentence each what could not be seen and why.
#[must_use]
pub fn text(snapshot: &Snapshot, limits: &Limits, unseen: &[String], colour: bool) -> String {
    let report = &snapshot.document;
    let paint = Paint(colour);
    let status = status(report, limits);
    let mut lines = vec![format!(
        "SYNWATCH {}: {} | {}",
        paint.status(status),
        headline(report, limits),
        performance_data(report, limits)
    )];
    if !(report.services.is_empty() && Others::of(report).is_none()) {
        lines.push(String::new());
        lines.extend(service_table(snapshot, paint));
    }
    for detection in &report.detections {
        lines.push(String::new());
        lines.extend(detection_lines(detection, paint));
    }
    lines.push(String::new());
    lines.push(capture_line(report));
    lines.extend(unseen.iter().map(|reason| format!("Not seen: {reason}")));
    lines.push(String::new());
    lines.join("\n")
}

/// The half-open count that limits apply to: what the kernel holds, and what the wire shows of
/// services that are not this host's. It is the sum of the rows.
fn half_open(report: &Document) -> u64 {
    let others = Others::of(report);
    report.services.iter().map(held).sum::<u64>() + others.kernel.unwrap_or(others.wire)
}

/// Half-open connections that belong to no row: to services beyond those listed.
#[derive(Clone, Copy)]
struct Others {
    /// As the kernel counts them, where it was asked.
    kernel: Option<u64>,
    wire: u64,
}

impl Others {
    fn of(report: &Document) -> Self {
        let sum = |of: fn(&ServiceReport) -> u64| report.services.iter().map(of).sum::<u64>();
        let kernel = sum(|service| service.half_open_kernel.unwrap_or(0));
        Self {
            kernel: report.kernel.syn_recv.map(|all| all.saturating_sub(kernel)),
            wire: report
                .totals
                .half_open
                .value
                .saturating_sub(sum(|service| service.half_open.value)),
        }
    }

    const fn is_none(self) -> bool {
        matches!(self, Self { kernel: None | Some(0), wire: 0 })
    }

    /// Their row of the table.
    fn row(self) -> [String; COLUMNS.len()] {
        let mut row = COLUMNS.map(|_| "-".to_owned());
        "other".clone_into(&mut row[0]);
        if let Some(kernel) = self.kernel {
            row[2] = kernel.to_string();
        }
        row[3] = self.wire.to_string();
        "in no row above".clone_into(&mut row[COLUMNS.len() - 1]);
        row
    }
}

/// Half-open connections that take room in the service's queue, as far as that is known: the wire
/// also shows those that a SYN cookie answered.
fn held(service: &ServiceReport) -> u64 {
    service.half_open_kernel.unwrap_or(service.half_open.value)
}

/// What follows the status word, as much of it as fits.
fn headline(report: &Document, limits: &Limits) -> String {
    let half_open = half_open(report);
    let (limit_status, option) = limits.judge(half_open);
    let status = status(report, limits);
    let mut headline = Headline::new(status);
    match gravest(report) {
        _ if limit_status > Status::Ok && limit_status == status && status != report.status => {
            headline.push(&format!("{half_open} half-open breaks {option}"));
        }
        _ if report.status == Status::Unknown => {
            for why in &report.unknown {
                headline.push(&why.to_string());
            }
        }
        Some(detection) if detection.severity.status() != Status::Ok => {
            if !headline.push(&detection.to_string()) {
                headline.push(detection.class.title());
            }
            headline.push(&queue(report, detection));
            let more = report.detections.len() - 1;
            if more > 0 {
                headline.push(&format!("{more} more"));
            }
        }
        other => {
            headline.push(&format!("{half_open} half-open"));
            let services = report.services.len();
            let plural = if services == 1 { "" } else { "s" };
            headline.push(&format!("{services} service{plural}"));
            headline.push(witnesses(report));
            if let Some(detection) = other {
                headline.push(&detection.to_string());
            }
        }
    }
    headline.parts.join(", ")
}

/// Which of the witnesses of a host was not asked; empty where that is none of two.
fn witnesses(report: &Document) -> &'static str {
    match (&*report.capture.source, report.kernel.available) {
        ("none", _) => "by the kernel alone",
        ("pcap", _) | (_, true) => "",
        (_, false) => "by the wire alone",
    }
}

/// Parts of the first line that fit.
struct Headline {
    parts: Vec<String>,
    length: usize,
}

impl Headline {
    fn new(status: Status) -> Self {
        Self { parts: Vec::new(), length: "SYNWATCH : ".len() + status.word().len() }
    }

    /// Takes the part if there is one and it fits.
    fn push(&mut self, part: &str) -> bool {
        if part.is_empty() {
            return false;
        }
        let separator = if self.parts.is_empty() { 0 } else { ", ".len() };
        let length = self.length + separator + part.chars().count();
        let fits = length < HEADLINE;
        if fits {
            self.length = length;
            self.parts.push(part.to_owned());
        }
        fits
    }
}

/// The detection to name first: an active one before those that are over, then the graver one.
fn gravest(report: &Document) -> Option<&Detection> {
    report.detections.iter().max_by_key(|d| (d.current_severity(), d.severity))
}

/// How full the queue of the detection's target is, or was.
fn queue(report: &Document, detection: &Detection) -> String {
    let of = |entries: u64, limit: Option<u32>| match limit {
        Some(limit) => format!("{entries}/{limit} half-open"),
        None => format!("{entries} half-open"),
    };
    let target = detection.target;
    let service = report.services.iter().find(|service| {
        Some(service.port) == target.port
            && (Some(service.address) == target.address || service.address.is_unspecified())
    });
    match service {
        Some(service) if detection.cleared_at.is_none() => of(held(service), Some(service.backlog)),
        _ => format!(
            "peak {}",
            of(detection.evidence.half_open_peak.value, detection.evidence.backlog)
        ),
    }
}

/// `label=value[unit];[warning];[critical];[minimum];[maximum]`, as the plugin guideline has it.
fn performance_data(report: &Document, limits: &Limits) -> String {
    let range = |range: Option<Range>| range.map_or_else(String::new, |range| range.to_string());
    let mut data = vec![format!(
        "half_open={};{};{};0;",
        half_open(report),
        range(limits.warning),
        range(limits.critical)
    )];
    // The sum of nothing is -0.
    let syn_rate = report.services.iter().fold(0.0, |sum, service| sum + service.syn_rate.value);
    let active = report.detections.iter().filter(|d| d.cleared_at.is_none()).count();
    data.push(format!("half_open_wire={};;;0;", report.totals.half_open.value));
    data.push(format!("syn_rate={};;;0;", number(syn_rate)));
    data.push(format!("sources={};;;0;", report.totals.sources));
    data.push(format!("detections={active};;;0;"));
    data.push(format!("dropped={}c;;;0;", report.capture.dropped));
    data.join(" ")
}

/// The table's heads; those of figures are aligned to the right.
const COLUMNS: [(&str, Align); 11] = [
    ("SERVICE", Align::Left),
    ("OWNER", Align::Left),
    ("SYN_RECV", Align::Right),
    ("ON WIRE", Align::Right),
    ("BACKLOG", Align::Right),
    ("OCCUPANCY", Align::Right),
    ("SYN/s", Align::Right),
    ("DONE", Align::Right),
    ("SOURCES", Align::Right),
    ("ENTROPY", Align::Right),
    ("VERDICT", Align::Last),
];

#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
    /// Neither padded nor always plain.
    Last,
}

fn service_table(snapshot: &Snapshot, paint: Paint) -> Vec<String> {
    let mut rows = vec![COLUMNS.map(|(head, _)| head.to_owned())];
    rows.extend(snapshot.services().map(|(service, hidden)| service_row(service, hidden)));
    let others = Others::of(&snapshot.document);
    if !others.is_none() {
        rows.push(others.row());
    }
    let mut widths = [0; COLUMNS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let verdicts = snapshot.internals.services.iter().map(|hidden| hidden.verdict);
    let severities = verdicts.map(|verdict| verdict.map(|(_, _, severity)| severity));
    let severities = std::iter::once(None).chain(severities).chain(std::iter::once(None));
    rows.iter()
        .zip(severities)
        .map(|(row, severity)| {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(widths).zip(COLUMNS) {
                line.push_str(&match (align, severity) {
                    (Align::Left, _) => format!("{cell:<width$}  "),
                    (Align::Right, _) => format!("{cell:>width$}  "),
                    (Align::Last, Some(severity)) => paint.severity(severity, cell),
                    (Align::Last, None) => cell.clone(),
                });
            }
            line
        })
        .collect()
}

fn service_row(service: &ServiceReport, hidden: &ServiceInternals) -> [String; COLUMNS.len()] {
    let unknown = || "-".to_owned();
    let owner = service.process.as_ref().and_then(|process| {
        let name = process.name.as_deref().or(process.unit.as_deref()).map(printable)?;
        Some(process.pid.map_or_else(|| name.clone(), |pid| format!("{name}[{pid}]")))
    });
    let assumed = if hidden.backlog_known { "" } else { "~" };
    [
        SocketAddr::new(service.address, service.port).to_string(),
        owner.unwrap_or_else(unknown),
        service.half_open_kernel.map_or_else(unknown, |count| count.to_string()),
        service.half_open.value.to_string(),
        format!("{assumed}{}", service.backlog),
        format!("{} {:>4}", bar(service.occupancy_ratio), percent(service.occupancy_ratio)),
        number(service.syn_rate.value),
        if service.syn.value == 0 { unknown() } else { percent(service.completion_ratio.value) },
        service.sources.to_string(),
        format!("{:.2}", service.source_entropy_ratio),
        match hidden.verdict {
            None => "ok".to_owned(),
            Some((class, None, severity)) => format!("{} {}", severity.name(), class.name()),
            Some((class, Some(variant), severity)) => {
                format!("{} {}/{}", severity.name(), class.name(), variant.name())
            }
        },
    ]
}

fn detection_lines(detection: &Detection, paint: Paint) -> Vec<String> {
    let word = detection.severity.name().to_uppercase();
    let variant = detection.variant.map_or_else(String::new, |v| format!(" ({})", v.name()));
    let end = match detection.cleared_at {
        Some(at) => format!("from {} to {at}", detection.raised_at),
        None => format!("since {}", detection.raised_at),
    };
    let mut lines = vec![
        format!(
            "{}: {detection}{variant}, {end}, confidence {}",
            paint.severity(detection.severity, &word),
            percent(detection.confidence)
        ),
        format!("  {}", printable(&detection.explanation)),
    ];
    lines.extend(detection.advice.iter().map(|advice| format!("  - {}", printable(advice))));
    lines
}

fn capture_line(report: &Document) -> String {
    let capture = &report.capture;
    if capture.source == "none" {
        return "Capture: none, the kernel was asked only".to_owned();
    }
    let on = if capture.interfaces.is_empty() {
        String::new()
    } else {
        format!(" on {}", printable(&capture.interfaces.join(", ")))
    };
    let mut line = format!(
        "Capture: {}{on}, {:.1} s, {} packets, {} dropped",
        capture.source, report.observed.seconds, capture.packets, capture.dropped
    );
    if capture.sampling_ratio < 1.0 {
        line.push_str(&format!(", {} of the flows tracked", percent(capture.sampling_ratio)));
    }
    line
}

/// Occupancy as a bar that shows something as soon as there is something.
fn bar(ratio: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "such a cast saturates"
    )]
    let filled = ((ratio * float(BAR as u64)).ceil() as usize).min(BAR);
    format!("{}{}", "#".repeat(filled), ".".repeat(BAR - filled))
}

fn percent(ratio: f64) -> String {
    format!("{:.0}%", ratio * 100.0)
}

/// A rate with as many digits as mean something.
fn number(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Text from outside (a process may name itself as it likes) without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a count of connections is far below 2^53")]
const fn float(value: u64) -> f64 {
    value as f64
}

/// Whether to colour words (ECMA-48 SGR).
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn status(self, status: Status) -> String {
        let code = match status {
            Status::Ok => "32",
            Status::Warning => "33",
            Status::Critical => "1;31",
            Status::Unknown => "35",
        };
        self.paint(code, status.word())
    }

    fn severity(self, severity: Severity, text: &str) -> String {
        let code = match severity {
            Severity::Info => "36",
            Severity::Warning => "33",
            Severity::Critical => "1;31",
        };
        self.paint(code, text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
