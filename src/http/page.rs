//! The status page: one self-contained document that reloads itself.

use std::fmt;
use std::net::SocketAddr;

use synwatch_core::observe::{
    Detection, Document, ServiceInternals, ServiceReport, Severity, Snapshot, Status,
};

const STYLE: &str = include_str!("page.css");

/// The page for `snapshot`.
pub(super) fn render(snapshot: &Snapshot, telemetry_path: &str) -> String {
    let report = &snapshot.document;
    let status = report.status.word();
    let tone = match report.status {
        Status::Ok => "ok",
        Status::Warning => "warning",
        Status::Critical => "critical",
        Status::Unknown => "unknown",
    };
    let services = snapshot.services().map(|(service, hidden)| service_row(service, hidden));
    let services: String = services.collect();
    let (active, over): (Vec<_>, Vec<_>) =
        report.detections.iter().partition(|detection| detection.cleared_at.is_none());
    let none = "<p class=\"quiet\">None.</p>";
    let list = |detections: Vec<&Detection>| match detections.is_empty() {
        true => none.to_owned(),
        false => detections.into_iter().map(article).collect(),
    };
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="5">
<title>{status} - synwatch</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>synwatch <span class="badge {tone}">{status}</span></h1>
<p>{capture}</p>
</header>
<main>
<h2>Active detections</h2>
{active}
<h2>Services</h2>
<div class="scroll"><table>
<thead><tr><th>Service</th><th>Owner</th><th class="n">SYN_RECV</th><th class="n">On wire</th>
<th class="n">Backlog</th><th>Occupancy</th><th class="n">SYN/s</th><th class="n">Completed</th>
<th class="n">Sources</th><th class="n">Entropy</th><th>Verdict</th></tr></thead>
<tbody>
{services}</tbody>
</table></div>
<h2>Past detections</h2>
{over}
</main>
<footer>
<p>synwatch {version}, as of {to}:
<a href="{telemetry_path}">metrics</a>, <a href="/api/v1/status">status</a> and
<a href="/api/v1/detections">detections</a> as JSON.</p>
</footer>
</body>
</html>
"#,
        capture = capture(report),
        active = list(active),
        over = list(over),
        version = Escaped(&report.version),
        to = report.observed.to,
        telemetry_path = Escaped(telemetry_path),
    )
}

fn capture(report: &Document) -> String {
    let capture = &report.capture;
    let half_open = report.totals.half_open.value;
    let kernel = report
        .kernel
        .syn_recv
        .map_or_else(|| "the kernel was not asked".to_owned(), |n| format!("{n} in the kernel"));
    if capture.source == "none" {
        return format!("Packets are not captured; {kernel}.");
    }
    format!(
        "{half_open} half-open on the wire, {kernel}; {} packets in {:.0} s from {} ({}), {} dropped, \
         {:.0}% of the flows tracked.",
        capture.packets,
        report.observed.seconds,
        Escaped(&capture.source),
        Escaped(&capture.interfaces.join(", ")),
        capture.dropped,
        capture.sampling_ratio * 100.0,
    )
}

fn service_row(service: &ServiceReport, hidden: &ServiceInternals) -> String {
    let owner = service.process.as_ref().map_or_else(String::new, |process| {
        let name = process.unit.as_deref().or(process.name.as_deref()).unwrap_or("");
        match process.pid {
            Some(pid) => format!("{} ({pid})", Escaped(name)),
            None => Escaped(name).to_string(),
        }
    });
    let kernel = service.half_open_kernel.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let assumed = if hidden.backlog_known { "" } else { "~" };
    let (tone, verdict) = match hidden.verdict {
        None => ("ok", "ok".to_owned()),
        Some((class, variant, severity)) => {
            let variant = variant.map_or_else(String::new, |v| format!(" ({})", v.name()));
            (severity.name(), format!("{}{variant}", class.title()))
        }
    };
    format!(
        "<tr><td><code>{address}</code></td><td>{owner}</td><td class=\"n\">{kernel}</td>\
         <td class=\"n\">{wire}</td><td class=\"n\">{assumed}{backlog}</td>\
         <td><meter min=\"0\" max=\"1\" low=\"0.25\" high=\"0.95\" optimum=\"0\" \
         value=\"{occupancy:.3}\">{percent}</meter> {percent}</td>\
         <td class=\"n\">{rate:.1}</td><td class=\"n\">{completed:.0}%</td>\
         <td class=\"n\">{sources}</td><td class=\"n\">{entropy:.2}</td>\
         <td><span class=\"badge {tone}\">{verdict}</span></td></tr>\n",
        address = SocketAddr::new(service.address, service.port),
        wire = service.half_open.value,
        backlog = service.backlog,
        occupancy = service.occupancy_ratio.min(1.0),
        percent = format_args!("{:.0}%", service.occupancy_ratio * 100.0),
        rate = service.syn_rate.value,
        completed = service.completion_ratio.value * 100.0,
        sources = service.sources,
        entropy = service.source_entropy_ratio,
    )
}

fn article(detection: &Detection) -> String {
    let tone = match detection.severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    };
    let variant = detection.variant.map_or("", |variant| variant.name());
    let end = detection.cleared_at.map_or_else(String::new, |at| format!(" to {at}"));
    let advice: String =
        detection.advice.iter().map(|text| format!("<li>{}</li>", Escaped(text))).collect();
    let sources: Vec<String> = (detection.attacker.iter().map(|address| format!("{address}")))
        .chain(
            detection
                .evidence
                .top_prefixes
                .iter()
                .map(|top| format!("{} ({:.0}%)", top.prefix, top.share * 100.0)),
        )
        .collect();
    let sources = match sources.is_empty() {
        true => String::new(),
        false => format!("<p>Most from <code>{}</code></p>", sources.join(", ")),
    };
    format!(
        "<article class=\"{tone}\"><h3><span class=\"badge {tone}\">{severity}</span> {title}</h3>\
         <p class=\"quiet\">{variant} since {since}{end}, confidence {confidence:.0}%</p>\
         <p>{explanation}</p>{sources}<ul>{advice}</ul></article>\n",
        severity = detection.severity.name(),
        title = Escaped(&detection.to_string()),
        since = detection.raised_at,
        confidence = detection.confidence * 100.0,
        explanation = Escaped(&detection.explanation),
    )
}

/// Text made safe between tags and within quoted attributes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        let escaped = Escaped("<a href=\"x\">'&'</a>").to_string();
        assert_eq!(escaped, "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
    }
}
