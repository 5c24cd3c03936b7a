//! Alerts as log events with structured fields; under systemd they become journald fields.

use synwatch_core::observe::Severity;
use tracing::{error, info, warn};

use crate::alert::{Alert, Sink};

/// Writes every alert to the program's log.
#[derive(Debug, Default)]
pub struct Log;

/// One event with the fields of `alert`; the level of a `tracing` event must be a constant.
macro_rules! event {
    ($level:ident, $alert:expr) => {{
        let detection = &$alert.detection;
        let evidence = &detection.evidence;
        $level!(
            event = $alert.change.name(),
            detection_id = %detection.id,
            class = detection.class.name(),
            variant = detection.variant.map(|variant| variant.name()),
            severity = $alert.severity().name(),
            confidence = detection.confidence,
            target_address = detection.target.address.map(tracing::field::display),
            target_port = detection.target.port,
            target_prefix = detection.target_prefix.map(tracing::field::display),
            attacker = detection.attacker.map(tracing::field::display),
            half_open_peak = evidence.half_open_peak.value,
            backlog = evidence.backlog,
            syn_rate = evidence.syn_rate.value,
            completion_ratio = evidence.completion_ratio.value,
            sources = evidence.sources,
            source_entropy_ratio = evidence.source_entropy_ratio,
            explanation = %detection.explanation,
            "{} {}",
            detection,
            $alert.change.name()
        );
    }};
}

impl Sink for Log {
    fn deliver(&mut self, alert: &Alert) {
        match alert.severity() {
            Severity::Critical => event!(error, alert),
            Severity::Warning => event!(warn, alert),
            Severity::Info => event!(info, alert),
        }
    }
}
