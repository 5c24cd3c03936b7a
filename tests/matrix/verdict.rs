//! Whether what the engine said is what the scenario expects.

use std::collections::BTreeMap;
use std::net::IpAddr;

use synwatch_core::engine::Action;
use synwatch_core::observe::{Detection, Severity};

use crate::rivals;
use crate::scenario::{Expect, Rank, Scenario};
use crate::world::{Played, seconds};

/// What came of one performance.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why it is not right, in one line each.
    pub problems: Vec<String>,
    /// Seconds from the first packet of the event to a severity of the class, in the order of
    /// [`Severity::ALL`].
    pub times: [Option<f64>; 3],
    /// Class and variant of the gravest detection, or "none".
    pub said: String,
    /// Which rivals are right.
    pub rivals: Vec<bool>,
    pub packets: u64,
}

impl Outcome {
    pub fn is_right(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Judges a performance.
pub fn judge(scenario: &Scenario, played: &Played) -> Outcome {
    let expect = &scenario.expect;
    let judge = Judge { scenario, expect, played };
    let times = Severity::ALL.map(|severity| judge.time_to(severity));
    Outcome {
        problems: judge.problems(times),
        times,
        said: gravest(&played.end.detections),
        rivals: rivals::judge(expect, played).to_vec(),
        packets: played.packets,
    }
}

struct Judge<'a> {
    scenario: &'a Scenario,
    expect: &'a Expect,
    played: &'a Played,
}

impl Judge<'_> {
    fn problems(&self, times: [Option<f64>; 3]) -> Vec<String> {
        let mut problems = Vec::new();
        let expect = self.expect;
        let detections = &self.played.end.detections;
        let of_class = || detections.iter().filter(|detection| self.is_expected(detection));
        for (deadline, severity, time) in [expect.by.info, expect.by.warning, expect.by.critical]
            .into_iter()
            .zip(Severity::ALL)
            .zip(times)
            .map(|((deadline, severity), time)| (deadline, severity, time))
        {
            let Some(deadline) = deadline else { continue };
            match time {
                Some(time) if time <= deadline => {}
                Some(time) => problems
                    .push(format!("{} after {time:.2} s, not {deadline} s", severity.name())),
                None => problems.push(format!("{} never", severity.name())),
            }
        }
        if let Some(deadline) = expect.by.variant {
            let time = self.time_until(|detection| {
                paging(detection) && expect.variants.iter().any(|name| name == variant(detection))
            });
            if time.is_none_or(|time| time > deadline) {
                let variants = expect.variants.join(" or ");
                problems.push(format!("{variants} after {time:.2?} s, not {deadline} s"));
            }
        }
        if let (Some(class), false, None) = (&expect.class, expect.optional, of_class().next()) {
            problems.push(format!("no {class}"));
        }
        for detection in of_class() {
            let variant = variant(detection);
            if !expect.variants.is_empty() && !expect.variants.iter().any(|name| name == variant) {
                problems.push(format!("{} is {variant}", detection.class.name()));
            }
            if rank(detection) > expect.at_most {
                problems.push(format!("{} is {}", named(detection), detection.severity.name()));
            }
            if expect.attacker && detection.attacker != self.played.attacker {
                problems.push(format!("the attacker is {:?}", detection.attacker));
            }
            let paged =
                detection.severity_history.iter().find(|change| change.severity > Severity::Info);
            if paged.is_some_and(|change| change.at < self.first_packet()) {
                problems.push(format!("{} before the event", named(detection)));
            }
        }
        let incidents = of_class().filter(|detection| rank(detection) > Rank::Info).count();
        if incidents > expect.incidents {
            problems.push(format!("{incidents} incidents"));
        }
        for detection in detections {
            let forbidden = expect.never.iter().any(|class| class == detection.class.name());
            let other = !self.is_expected(detection) && rank(detection) > expect.others_at_most;
            if forbidden || other {
                problems.push(format!(
                    "{} ({}, {})",
                    detection,
                    variant(detection),
                    detection.severity.name()
                ));
            }
            if expect.cleared && detection.cleared_at.is_none() {
                problems.push(format!("{} is not cleared", named(detection)));
            }
        }
        let service = self.played.height.services.first();
        let completed = service.map_or(0.0, |service| service.completion_ratio.value);
        if completed < expect.completion_ratio {
            problems.push(format!("{completed:.3} completed"));
        }
        let status = self.played.height.status;
        if !expect.status.is_empty() && !expect.status.contains(&status) {
            problems.push(format!("status {status:?}"));
        }
        let limits = &self.played.height.capture.limits;
        for limit in &expect.limits {
            // Their names are those of the document.
            if !limits.iter().any(|held| serde_json::json!(held) == limit.as_str()) {
                problems.push(format!("no limit {limit}"));
            }
        }
        problems.sort();
        problems.dedup();
        problems
    }

    fn first_packet(&self) -> synwatch_core::time::Timestamp {
        crate::world::START + std::time::Duration::from_nanos(self.played.first_packet)
    }

    /// Whether a detection is of the class and on the target that are expected.
    fn is_expected(&self, detection: &Detection) -> bool {
        let expect = self.expect;
        if expect.class.as_deref() != Some(detection.class.name()) {
            return false;
        }
        if let Some(prefix) = expect.target_prefix {
            return detection.target_prefix == Some(prefix);
        }
        let victim = &self.scenario.victim;
        let target = match expect.target.as_deref() {
            Some("any") => return true,
            Some(target) => target.parse::<std::net::SocketAddr>().map_or_else(
                |_| (target.parse::<IpAddr>().ok(), None),
                |socket| (Some(socket.ip()), Some(socket.port())),
            ),
            None => (Some(victim.address), Some(victim.ports[0])),
        };
        (detection.target.address, detection.target.port) == target
    }

    fn time_to(&self, least: Severity) -> Option<f64> {
        self.time_until(|detection| detection.current_severity() >= Some(least))
    }

    /// Seconds from the first packet of the event to a state of the expected detection; 0 where it
    /// is in that state already.
    fn time_until(&self, reached: impl Fn(&Detection) -> bool) -> Option<f64> {
        let first = self.played.first_packet;
        let said = self.played.said.iter().map(|(at, action)| {
            let (Action::Raised(detection)
            | Action::Updated(detection)
            | Action::Cleared(detection)) = action;
            (*at, &detection.id, reached(detection) && self.is_expected(detection))
        });
        let before: BTreeMap<_, _> = (said.clone())
            .take_while(|(at, ..)| *at < first)
            .map(|(_, id, is_so)| (id, is_so))
            .collect();
        if before.into_values().any(|is_so| is_so) {
            return Some(0.0);
        }
        let (at, ..) = said.skip_while(|(at, ..)| *at < first).find(|(.., is_so)| *is_so)?;
        Some(seconds(at - first))
    }
}

fn paging(detection: &Detection) -> bool {
    detection.current_severity() >= Some(Severity::Warning)
}

fn rank(detection: &Detection) -> Rank {
    match detection.severity {
        Severity::Info => Rank::Info,
        Severity::Warning => Rank::Warning,
        Severity::Critical => Rank::Critical,
    }
}

fn variant(detection: &Detection) -> &'static str {
    detection.variant.map_or("none", |variant| variant.name())
}

fn named(detection: &Detection) -> String {
    match detection.variant {
        Some(variant) => format!("{} {}", detection.class.name(), variant.name()),
        None => detection.class.name().to_owned(),
    }
}

fn gravest(detections: &[Detection]) -> String {
    detections
        .iter()
        .max_by(|a, b| (a.severity.cmp(&b.severity)).then(a.confidence.total_cmp(&b.confidence)))
        .map_or("none".to_owned(), named)
}
