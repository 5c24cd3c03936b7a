//! A verdict in words: one sentence with the figures, and what an operator can do.

use std::net::IpAddr;

use crate::detect::change::Reason;
use crate::observe::{Class, Evidence, Severity, Sysctls, Target, Variant};

/// What surrounds a detection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// Excess failures per second.
    pub excess_rate: f64,
    /// Which limit the severity comes from.
    pub reason: Reason,
    /// Failures that sources were judged on.
    pub failures: usize,
    /// How many sources these had.
    pub sampled_sources: usize,
    /// CUSUM in units of its limit.
    pub level: f64,
    /// Half-open connections now, by the better witness.
    pub half_open: u64,
    /// How many of them have had their SYN-ACK re-sent, where the kernel alone was asked.
    pub resent: Option<u64>,
    /// Seconds until the queue is full, where it fills.
    pub seconds_to_full: Option<f64>,
    /// Whether the kernel's word supports it: SYN_RECV counts, drops or cookies.
    pub kernel_agrees: bool,
    /// Only one direction is seen.
    pub one_way: bool,
    /// The capture loses packets.
    pub dropping: bool,
    /// The usual is not known yet.
    pub cold: bool,
    /// Kernel settings, where known.
    pub sysctls: Sysctls,
}

/// How sure the verdict is, 0 to 1: one half where the evidence just reaches its limit.
#[must_use]
pub fn confidence(circumstances: &Circumstances, backlog: u32) -> f64 {
    let page = (f64::from(backlog) / 20.0).min(40.0);
    let mut confidence = 0.5 + 0.15 * (circumstances.level - 1.0).clamp(0.0, 1.0);
    if circumstances.excess_rate >= 2.0 * page {
        confidence += 0.15;
    }
    if circumstances.failures >= 200 {
        confidence += 0.1;
    }
    if circumstances.kernel_agrees {
        confidence += 0.1;
    }
    if circumstances.cold {
        confidence -= 0.02;
    }
    if circumstances.dropping {
        confidence -= 0.1;
    }
    let limit = if circumstances.one_way { 0.75 } else { 1.0 };
    (confidence.clamp(0.0, limit) * 100.0).round() / 100.0
}

fn place(target: Target) -> String {
    match (target.address, target.port) {
        (Some(IpAddr::V6(address)), Some(port)) => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        (Some(address), None) => address.to_string(),
        (None, Some(port)) => format!("port {port}"),
        (None, None) => "this network".to_owned(),
    }
}

/// One sentence: what was measured, over which window, against which limit.
#[must_use]
pub fn explanation(
    class: Class,
    variant: Option<Variant>,
    severity: Severity,
    target: Target,
    evidence: &Evidence,
    circumstances: &Circumstances,
) -> String {
    let place = place(target);
    let rate = evidence.syn_rate;
    let completed = 100.0 * evidence.completion_ratio;
    if class == Class::FlashCrowd {
        return format!(
            "{rate:.0} SYN/s arrive at {place}, far more than usual, and {completed:.0} % of the \
             handshakes complete: many clients, not an attack."
        );
    }
    let sources = sources_in_words(variant, evidence, circumstances);
    if let Some(resent) = circumstances.resent {
        return format!(
            "The kernel holds {} half-open connections to {place} of {} that fit in the SYN queue, \
             and has re-sent the SYN-ACK of {resent} of them in vain{sources}.",
            circumstances.half_open,
            evidence.backlog.unwrap_or_default()
        );
    }
    let queue = match (evidence.backlog, target.port) {
        (Some(backlog), Some(_)) => format!(
            "; {} of {backlog} places in the SYN queue are half-open{}",
            circumstances.half_open,
            match circumstances.seconds_to_full {
                Some(seconds) if seconds < 600.0 => format!(" (full in {seconds:.0} s)"),
                _ => String::new(),
            }
        ),
        _ => String::new(),
    };
    let backlog = f64::from(evidence.backlog.unwrap_or_default());
    let limit = match (circumstances.reason, severity) {
        (Reason::Rate, Severity::Critical) => {
            format!(" (limit: 1/10 of the backlog a second, {:.0}/s)", backlog / 10.0)
        }
        (Reason::Rate, _) => format!(" (limit: {:.0}/s)", (backlog / 20.0).min(40.0)),
        (Reason::Young, Severity::Critical) => {
            format!(" (limit within the first seconds: {:.0}/s)", backlog / 5.0)
        }
        (Reason::Young, _) => {
            format!(" (limit within the first seconds: {:.0}/s)", (backlog / 10.0).max(200.0))
        }
        (Reason::Occupancy, Severity::Critical) => " (the queue is full: limit 95 %)".to_owned(),
        (Reason::Occupancy, _) => " (a quarter of the queue is taken for 10 s)".to_owned(),
        (Reason::QueueFull, _) => " (and the kernel found the queue full)".to_owned(),
        (Reason::FullTilt, _) => " (limit: 5000/s from one source)".to_owned(),
        (Reason::Change, _) => " (a change, but below the rates that page)".to_owned(),
    };
    format!(
        "{rate:.0} SYN/s arrive at {place} and {completed:.0} % of the attempts complete, {:.0}/s \
         more fail than usual{limit}{queue}{sources}.",
        circumstances.excess_rate
    )
}

fn sources_in_words(
    variant: Option<Variant>,
    evidence: &Evidence,
    circumstances: &Circumstances,
) -> String {
    let top = evidence.top_prefixes.last();
    match variant {
        Some(Variant::SpoofedRandom) => format!(
            "; {} sampled failures come from {} sources spread like random numbers: forged",
            circumstances.failures, circumstances.sampled_sources
        ),
        Some(Variant::SpoofedSubnet) => top.map_or_else(String::new, |top| {
            format!("; {:.0} % of the failing sources lie in {}", 100.0 * top.share, top.prefix)
        }),
        Some(Variant::SingleSource) => "; most failing attempts come from one source".to_owned(),
        Some(Variant::Distributed) => format!(
            "; {} sampled failures come from {} sources that return: probably real hosts",
            circumstances.failures, circumstances.sampled_sources
        ),
        None => "; too few failures so far to judge their sources".to_owned(),
    }
}

/// What an operator can do.
#[must_use]
pub fn advice(
    class: Class,
    variant: Option<Variant>,
    evidence: &Evidence,
    circumstances: &Circumstances,
) -> Vec<String> {
    if class == Class::FlashCrowd {
        return vec!["No defence is needed; watch the capacity of the service.".to_owned()];
    }
    let mut advice = Vec::new();
    match circumstances.sysctls.syncookies {
        Some(0) => advice.push(
            "SYN cookies are off: sysctl -w net.ipv4.tcp_syncookies=1 keeps honest clients served \
             while the queue is full."
                .to_owned(),
        ),
        Some(_) => {}
        None => advice.push(
            "Check that SYN cookies are on where the service runs (net.ipv4.tcp_syncookies=1)."
                .to_owned(),
        ),
    }
    if let (Some(backlog), Some(somaxconn)) = (evidence.backlog, circumstances.sysctls.somaxconn)
        && circumstances.kernel_agrees
        && backlog < somaxconn
    {
        advice.push(format!(
            "The application's listen() asks for a backlog of {backlog} while net.core.somaxconn \
             allows {somaxconn}: raise it there."
        ));
    }
    advice.push(match variant {
        Some(Variant::SingleSource) => {
            "One source sends most of it; it completed no handshake and may be forged: rate-limit \
             new connections per source upstream rather than block the address."
        }
        Some(Variant::SpoofedSubnet) => {
            "The sources are probably forged inside one prefix: ask upstream to filter it at the \
             edge that it cannot come from; blocking it here also blocks its real owners."
        }
        Some(Variant::Distributed) => {
            "The sources return and are probably real: limit new connections per source, and ask \
             upstream for help."
        }
        Some(Variant::SpoofedRandom) | None => {
            "Do not block the source addresses: they completed no handshake and are probably \
             forged. Ask upstream for SYN filtering, or put a SYN proxy in front."
        }
    }
    .to_owned());
    advice
}
