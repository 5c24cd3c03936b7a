//! A report becomes Prometheus metrics: a pure function, no registry and no global state.
//!
//! Families are built by hand from the absolute values of the report, so counters keep their type
//! without a second set of counters beside the engine's own. A value that is not known is left out:
//! a zero would say that it was looked at. All label sets are bounded; addresses of sources never
//! appear (<https://prometheus.io/docs/practices/naming/>).

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::document::{Durations, Internals, ServiceInternals, ServiceReport, Snapshot, Unknown};
use crate::findings::Class;
use crate::model::{Estimate, Severity};

/// `Content-Type` of the text format that [`render`] writes.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// What the exporter knows beside the snapshot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exporter {
    /// Whether the last attempt of each collector (`capture`, `kernel`) gave something.
    pub collectors: BTreeMap<&'static str, bool>,
    /// Whether the configuration was valid when it was last read.
    pub config_last_reload_successful: bool,
    /// Alerts that were not handed on because the queue to the sinks was full.
    pub alerts_dropped: u64,
    /// Attempts to write to the events file that failed.
    pub event_write_errors: u64,
    /// Events that are lost for good because too many were waiting for the file.
    pub events_lost: u64,
    /// How many services get labels of their own; the rest is summed up as `other`.
    pub max_services: usize,
}

impl Exporter {
    /// Services with labels of their own where nothing else is configured.
    pub const DEFAULT_MAX_SERVICES: usize = 32;
}

impl Default for Exporter {
    fn default() -> Self {
        Self {
            collectors: BTreeMap::new(),
            config_last_reload_successful: true,
            alerts_dropped: 0,
            event_write_errors: 0,
            events_lost: 0,
            max_services: Self::DEFAULT_MAX_SERVICES,
        }
    }
}

/// All families in text format 0.0.4, in a fixed order.
#[must_use]
pub fn render(snapshot: &Snapshot, exporter: &Exporter) -> String {
    encode(&families(snapshot, exporter))
}

/// `families` in text format 0.0.4.
#[must_use]
pub fn encode(families: &[MetricFamily]) -> String {
    // The encoder refuses families without name or samples only, and `Family::push_to` lets none
    // of those through; the process collector makes none.
    TextEncoder::new().encode_to_string(families).unwrap_or_default()
}

/// All families, in a fixed order.
#[must_use]
pub fn families(snapshot: &Snapshot, exporter: &Exporter) -> Vec<MetricFamily> {
    let mut families = Vec::with_capacity(32);
    exporter_families(snapshot, exporter, &mut families);
    capture_families(snapshot, &mut families);
    handshake_families(snapshot, &mut families);
    service_families(snapshot, exporter.max_services, &mut families);
    flow_families(snapshot, &mut families);
    kernel_families(snapshot, &mut families);
    detection_families(snapshot, &mut families);
    families
}

fn exporter_families(snapshot: &Snapshot, exporter: &Exporter, out: &mut Vec<MetricFamily>) {
    Family::gauge("synwatch_build_info", "Version of synwatch; the value is always 1.")
        .with(&[("version", snapshot.document.version.as_ref())], 1.0)
        .push_to(out);
    let mut collectors = Family::gauge(
        "synwatch_collector_success",
        "Whether the last attempt of a collector succeeded (1) or failed (0).",
    );
    for (collector, success) in &exporter.collectors {
        collectors.add(&[("collector", collector)], f64::from(*success));
    }
    collectors.push_to(out);
    Family::gauge(
        "synwatch_config_last_reload_successful",
        "Whether the configuration was valid (1) or refused (0) when it was last read.",
    )
    .value(f64::from(exporter.config_last_reload_successful))
    .push_to(out);
    Family::counter(
        "synwatch_alerts_dropped_total",
        "Alerts lost because the queue to the log and the events file was full.",
    )
    .value(count(exporter.alerts_dropped))
    .push_to(out);
    Family::counter("synwatch_event_write_errors_total", "Failed writes to the events file.")
        .value(count(exporter.event_write_errors))
        .push_to(out);
    Family::counter(
        "synwatch_events_lost_total",
        "Events lost because too many were waiting for the events file.",
    )
    .value(count(exporter.events_lost))
    .push_to(out);
}

fn capture_families(snapshot: &Snapshot, out: &mut Vec<MetricFamily>) {
    let capture = &snapshot.document.capture;
    Family::counter("synwatch_packets_total", "Packets that the capture delivered.")
        .value(count(capture.packets))
        .push_to(out);
    Family::counter("synwatch_tcp_segments_total", "Packets that were TCP segments.")
        .value(count(capture.tcp_segments))
        .push_to(out);
    Family::counter(
        "synwatch_capture_dropped_packets_total",
        "Packets lost in the kernel because synwatch did not read them in time.",
    )
    .value(count(capture.dropped))
    .push_to(out);
    let mut skipped = Family::counter(
        "synwatch_skipped_packets_total",
        "Packets not decoded to a TCP segment or left out as copies, by reason.",
    );
    // Every reason is there from the start: a counter that appears with a value hides its increase.
    for reason in crate::wire::Skip::ALL.map(crate::wire::Skip::name) {
        let packets = capture.skipped.get(reason).copied().unwrap_or(0);
        skipped.add(&[("reason", reason)], count(packets));
    }
    skipped.push_to(out);
    Family::gauge("synwatch_sampling_ratio", "Share of the flows that is tracked; 1 means all.")
        .value(capture.sampling_ratio)
        .push_to(out);
}

fn handshake_families(snapshot: &Snapshot, out: &mut Vec<MetricFamily>) {
    let totals = &snapshot.document.totals;
    let handshakes = &snapshot.internals.handshakes;
    Family::counter("synwatch_syn_packets_total", "Segments with SYN and without ACK.")
        .value(count(totals.syn.value))
        .push_to(out);
    Family::counter("synwatch_syn_retransmitted_packets_total", "SYNs that repeat an attempt.")
        .value(count(totals.syn_retransmitted.value))
        .push_to(out);
    Family::counter("synwatch_syn_ack_packets_total", "Segments with SYN and ACK.")
        .value(count(totals.syn_ack.value))
        .push_to(out);
    Family::counter(
        "synwatch_handshakes_total",
        "Handshakes that ended, by result. Presumed: completed, but the SYN-ACK or the ACK was not \
         seen. Unanswered: no SYN-ACK came.",
    )
    .by_result([
        handshakes.completed,
        handshakes.reset,
        handshakes.timed_out,
        handshakes.presumed,
        handshakes.unanswered,
    ])
    .push_to(out);
    Family::gauge(
        "synwatch_syn_packets_stderr",
        "Standard error of the SYN count; 0 if all were counted.",
    )
    .value(count(error(totals.syn)))
    .push_to(out);
    Family::gauge(
        "synwatch_syn_ack_packets_stderr",
        "Standard error of the SYN-ACK count; 0 if all were counted.",
    )
    .value(count(error(totals.syn_ack)))
    .push_to(out);
    Family::gauge(
        "synwatch_handshakes_stderr",
        "Standard error of the handshake counts; 0 if all were counted.",
    )
    .by_result([
        error(totals.handshakes_completed),
        error(totals.handshakes_reset),
        error(totals.handshakes_timed_out),
        error(totals.handshakes_presumed),
        error(totals.syn_unanswered),
    ])
    .push_to(out);
    out.push(duration_family(&snapshot.internals.handshake_durations));
}

fn duration_family(durations: &Durations) -> MetricFamily {
    let mut cumulative = 0;
    let buckets = durations.counts.iter().zip(Durations::BOUNDS).map(|(observations, bound)| {
        cumulative += observations;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(durations.counts.iter().sum());
    histogram.set_sample_sum(durations.sum);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    let mut family = MetricFamily::default();
    family.set_name("synwatch_handshake_duration_seconds".to_owned());
    family.set_help("Time from the SYN to the final ACK of completed handshakes.".to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(vec![metric]);
    family
}

/// A figure of a service; `None` where it is not known.
type Figure = fn(Service<'_>) -> Option<f64>;

/// A service of the document, and what that does not say of it.
type Service<'a> = (&'a ServiceReport, &'a ServiceInternals);

/// Figures that add up over services.
const SUMMABLE: [(&str, &str, Figure); 5] = [
    (
        "synwatch_half_open_connections",
        "Half-open connections as seen in packets.",
        |(service, _)| Some(count(service.half_open.value)),
    ),
    (
        "synwatch_half_open_unconfirmed_connections",
        "Half-open connections too young for a SYN-ACK retransmission: the server holds them, or \
         answered with a SYN cookie.",
        |(service, _)| Some(count(service.half_open_unconfirmed.value)),
    ),
    (
        "synwatch_kernel_half_open_connections",
        "Connections in SYN_RECV as counted by the kernel.",
        |(service, _)| service.half_open_kernel.map(count),
    ),
    (
        "synwatch_listen_backlog_limit",
        "Listen backlog: the limit of the SYN queue and of the accept queue.",
        |(service, hidden)| hidden.backlog_known.then_some(f64::from(service.backlog)),
    ),
    ("synwatch_accept_queue_length", "Connections waiting for accept().", |(_, hidden)| {
        hidden.accept_queue.map(f64::from)
    }),
];

/// Ratios and counts of distinct things: they do not.
const SINGULAR: [(&str, &str, Figure); 4] = [
    (
        "synwatch_half_open_connections_stderr",
        "Standard error of the half-open connections; 0 if the service is not sampled.",
        |(service, _)| Some(count(error(service.half_open))),
    ),
    (
        "synwatch_source_addresses",
        "Distinct source addresses of SYNs since the start (estimate).",
        |(service, _)| Some(count(service.sources)),
    ),
    (
        "synwatch_source_entropy_ratio",
        "Entropy of the source addresses of failing attempts, divided by the highest possible.",
        |(service, _)| Some(service.source_entropy_ratio),
    ),
    (
        "synwatch_handshake_completion_ratio",
        "Share of the recent attempts that completed; refused ones do not count.",
        |(service, _)| Some(service.completion_ratio.value),
    ),
];

/// The busiest `max_services` (the report's order) have labels of their own; what adds up of the
/// rest is summed under `other`.
fn service_families(snapshot: &Snapshot, max_services: usize, out: &mut Vec<MetricFamily>) {
    let services: Vec<Service<'_>> = snapshot.services().collect();
    let (own, rest) = services.split_at(services.len().min(max_services));
    let of_own = |name, help, figure: Figure| {
        let mut family = Family::gauge(name, help);
        for service in own {
            if let Some(value) = figure(*service) {
                let (service, _) = service;
                let (address, port) = (service.address.to_string(), service.port.to_string());
                family.add(&[("address", &address), ("port", &port)], value);
            }
        }
        family
    };
    for (name, help, figure) in SUMMABLE {
        let mut family = of_own(name, help, figure);
        if let Some(sum) =
            rest.iter().filter_map(|service| figure(*service)).reduce(|sum, value| sum + value)
        {
            family.add(&[("address", "other"), ("port", "other")], sum);
        }
        family.push_to(out);
    }
    for (name, help, figure) in SINGULAR {
        of_own(name, help, figure).push_to(out);
    }
}

fn flow_families(snapshot: &Snapshot, out: &mut Vec<MetricFamily>) {
    let mut flows = Family::gauge("synwatch_flows", "Tracked connections by TCP state (RFC 9293).");
    let mut errors = Family::gauge(
        "synwatch_flows_stderr",
        "Standard error of the connections by TCP state; 0 if all are tracked.",
    );
    for (state, connections) in snapshot.document.flows.by_state() {
        flows.add(&[("state", state)], count(connections.value));
        errors.add(&[("state", state)], count(error(connections)));
    }
    flows.push_to(out);
    errors.push_to(out);
    let Internals {
        flow_table_entries, flow_table_capacity, flows_evicted, groups_evicted, ..
    } = snapshot.internals;
    Family::gauge("synwatch_flow_table_entries", "Connections in the flow table.")
        .value(count(flow_table_entries))
        .push_to(out);
    Family::gauge("synwatch_flow_table_capacity", "Connections that the flow table can hold.")
        .value(count(flow_table_capacity))
        .push_to(out);
    Family::counter(
        "synwatch_flows_evicted_total",
        "Live connections evicted because the flow table was full.",
    )
    .value(count(flows_evicted))
    .push_to(out);
    Family::counter(
        "synwatch_groups_evicted_total",
        "Hosts and networks with unusual failures that left the judged ones for others with more.",
    )
    .value(count(groups_evicted))
    .push_to(out);
}

fn kernel_families(snapshot: &Snapshot, out: &mut Vec<MetricFamily>) {
    let kernel = &snapshot.document.kernel;
    let mut counters = Family::counter(
        "synwatch_kernel_tcpext_total",
        "The kernel's TCP counters (TcpExt), by their kernel names.",
    );
    for (counter, value) in &kernel.counters {
        counters.add(&[("counter", counter)], count(*value));
    }
    counters.push_to(out);
    if let Some(conntrack) = &snapshot.internals.conntrack {
        Family::gauge("synwatch_conntrack_entries", "Entries in netfilter's connection table.")
            .value(count(conntrack.entries))
            .push_to(out);
        Family::gauge("synwatch_conntrack_limit", "Limit of netfilter's connection table.")
            .value(count(conntrack.limit))
            .push_to(out);
        Family::counter(
            "synwatch_conntrack_dropped_packets_total",
            "Packets dropped because netfilter's connection table was full or insertion failed.",
        )
        .value(count(conntrack.dropped))
        .push_to(out);
    }
}

/// Every class and severity is there from the start: a rule can only fire on a series that exists,
/// and `increase()` does not see the step from absent to 1.
fn detection_families(snapshot: &Snapshot, out: &mut Vec<MetricFamily>) {
    let mut unknown = Family::gauge(
        "synwatch_status_unknown",
        "1 while the reason keeps ok from being said. What it hides may be an attack.",
    );
    for why in Unknown::ALL {
        let holds = snapshot.document.unknown.contains(&why);
        unknown.add(&[("reason", why.name())], f64::from(u8::from(holds)));
    }
    unknown.push_to(out);
    let mut active = Family::gauge(
        "synwatch_detection_active",
        "Active detections by class and current severity.",
    );
    let mut total = Family::counter(
        "synwatch_detections_total",
        "How often detections have reached a severity since the start, by class.",
    );
    for class in Class::ALL {
        for severity in Severity::ALL {
            let labels = [("class", class.name()), ("severity", severity.name())];
            let now = snapshot
                .document
                .detections
                .iter()
                .filter(|d| d.class == class && d.current_severity() == Some(severity))
                .count();
            active.add(&labels, count(now as u64));
            let raised = snapshot.internals.detections_total.get(&(class, severity));
            total.add(&labels, count(raised.copied().unwrap_or(0)));
        }
    }
    active.push_to(out);
    total.push_to(out);
}

/// The text format knows floating point only; beyond 2^53 the last digits go.
#[expect(clippy::cast_precision_loss, reason = "samples are float64 in Prometheus")]
const fn count(value: u64) -> f64 {
    value as f64
}

/// A standard error, 0 where nothing was sampled.
fn error(estimate: Estimate<u64>) -> u64 {
    estimate.stderr.unwrap_or_default()
}

/// A family under construction.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    metrics: Vec<Metric>,
}

impl Family {
    const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::GAUGE, metrics: Vec::new() }
    }

    const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::COUNTER, metrics: Vec::new() }
    }

    fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut metric = Metric::default();
        metric.set_label(labels.iter().map(|(name, value)| label(name, value)).collect());
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    /// A series for each way that a handshake can end.
    fn by_result(mut self, counts: [u64; 5]) -> Self {
        let results = ["completed", "reset", "timed_out", "presumed", "unanswered"];
        for (result, handshakes) in results.into_iter().zip(counts) {
            self.add(&[("result", result)], count(handshakes));
        }
        self
    }

    fn with(mut self, labels: &[(&str, &str)], value: f64) -> Self {
        self.add(labels, value);
        self
    }

    fn value(self, value: f64) -> Self {
        self.with(&[], value)
    }

    /// Adds the family to `out`, unless it has no samples: the format knows no empty families.
    fn push_to(self, out: &mut Vec<MetricFamily>) {
        if self.metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(self.metrics);
        out.push(family);
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}
