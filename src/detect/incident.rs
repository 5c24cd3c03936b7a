//! Detections as incidents: raised, updated, cleared, and the same again when they come back.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::observe::{Class, Detection, Evidence, Severity, SeverityChange, Target, Variant};
use crate::time::Timestamp;
use crate::wire::Address;

/// A re-onset within this time is the same incident.
const REOPEN: Duration = Duration::from_secs(600);
/// Cleared incidents that are kept for the API.
const HISTORY: usize = 100;

/// Something for the owner of the engine to do: tell the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A detection has begun, or has come back.
    Raised(Detection),
    /// Its severity or its kind has changed.
    Updated(Detection),
    /// It is over.
    Cleared(Detection),
}

/// What a detector says of one target now.
#[derive(Clone, Debug)]
pub struct Onset {
    /// What it is.
    pub class: Class,
    /// Its kind, where known.
    pub variant: Option<Variant>,
    /// How grave it is now.
    pub severity: Severity,
    /// How sure, 0 to 1.
    pub confidence: f64,
    /// What is under attack.
    pub target: Target,
    /// The first attempt that belongs to it.
    pub first_packet_at: Timestamp,
    /// The figures.
    pub evidence: Evidence,
    /// The sentence.
    pub explanation: String,
    /// What to do.
    pub advice: Vec<String>,
}

/// What an incident is about, the same over its life whatever address was hit most: an address, and a
/// port or none.
pub type Subject = (Address, Option<u16>);

#[derive(Debug)]
struct Active {
    detection: Detection,
    /// When its cause was last there.
    last: Timestamp,
}

/// The incidents, active and past.
#[derive(Debug, Default)]
pub struct Incidents {
    active: BTreeMap<(Class, Subject), Active>,
    past: VecDeque<((Class, Subject), Detection)>,
    raised: BTreeMap<(Class, Severity), u64>,
}

impl Incidents {
    /// Takes in what is the case at `now` for a subject; `None` where nothing (any more) is.
    pub fn update(
        &mut self,
        now: Timestamp,
        class: Class,
        subject: Subject,
        onset: Option<Onset>,
    ) -> Option<Action> {
        let subject = (class, subject);
        match (self.active.get_mut(&subject), onset) {
            (Some(Active { detection: active, last }), Some(onset)) => {
                *last = now;
                let action = refresh(active, now, onset);
                if let (Some(Action::Updated(_)), Some(last)) =
                    (&action, active.severity_history.last())
                    && last.at == now
                {
                    *self.raised.entry((class, last.severity)).or_default() += 1;
                }
                action
            }
            (None, Some(onset)) => {
                *self.raised.entry((class, onset.severity)).or_default() += 1;
                Some(self.raise(now, subject, onset))
            }
            (Some(_), None) => {
                let mut detection = self.active.remove(&subject)?.detection;
                detection.cleared_at = Some(now);
                if self.past.len() == HISTORY {
                    self.past.pop_front();
                }
                self.past.push_back((subject, detection.clone()));
                Some(Action::Cleared(detection))
            }
            (None, None) => None,
        }
    }

    fn raise(&mut self, now: Timestamp, subject: (Class, Subject), onset: Onset) -> Action {
        let again = self.past.iter().rposition(|(past, detection)| {
            *past == subject && detection.cleared_at.is_some_and(|cleared| now - cleared < REOPEN)
        });
        let detection = match again.and_then(|place| self.past.remove(place)) {
            Some((_, mut detection)) => {
                detection.cleared_at = None;
                let change = SeverityChange { at: now, severity: onset.severity };
                remember(&mut detection.severity_history, change);
                detection.severity = detection.severity.max(onset.severity);
                detection.variant = onset.variant.or(detection.variant);
                detection.confidence = onset.confidence;
                let peak = detection.evidence.half_open_peak.max(onset.evidence.half_open_peak);
                detection.evidence = Evidence { half_open_peak: peak, ..onset.evidence };
                detection.explanation = onset.explanation;
                detection.advice = onset.advice;
                detection
            }
            None => Detection {
                id: format!("{:016x}", identify(subject, now)),
                class: onset.class,
                variant: onset.variant,
                severity: onset.severity,
                confidence: onset.confidence,
                severity_history: vec![SeverityChange { at: now, severity: onset.severity }],
                target: onset.target,
                target_prefix: None,
                attacker: None,
                first_packet_at: onset.first_packet_at.min(now),
                raised_at: now,
                cleared_at: None,
                evidence: onset.evidence,
                explanation: onset.explanation,
                advice: onset.advice,
            },
        };
        self.active.insert(subject, Active { detection: detection.clone(), last: now });
        Action::Raised(detection)
    }

    /// Clears those incidents of `class` that `concerned` picks and whose cause has not been there
    /// for `calm`.
    pub fn lapse(
        &mut self,
        now: Timestamp,
        class: Class,
        calm: Duration,
        concerned: impl Fn(&Detection) -> bool,
    ) -> Vec<Action> {
        let over: Vec<Subject> = self
            .active
            .iter()
            .filter(|((of, _), active)| *of == class && now - active.last >= calm)
            .filter(|(_, active)| concerned(&active.detection))
            .map(|((_, subject), _)| *subject)
            .collect();
        over.into_iter().filter_map(|subject| self.update(now, class, subject, None)).collect()
    }

    /// Whether there is an active incident of a subject.
    #[must_use]
    pub fn is_active(&self, class: Class, subject: Subject) -> bool {
        self.active.contains_key(&(class, subject))
    }

    /// The active incident of a subject.
    #[must_use]
    pub fn active(&self, class: Class, subject: Subject) -> Option<&Detection> {
        self.active.get(&(class, subject)).map(|active| &active.detection)
    }

    /// All active incidents.
    pub fn all_active(&self) -> impl Iterator<Item = &Detection> {
        self.active.values().map(|active| &active.detection)
    }

    /// Active incidents and past ones, the latest onset first.
    #[must_use]
    pub fn list(&self) -> Vec<Detection> {
        let past = self.past.iter().map(|(_, detection)| detection);
        let mut list: Vec<_> = self.all_active().chain(past).cloned().collect();
        list.sort_by_key(|detection| {
            (detection.cleared_at.is_some(), std::cmp::Reverse(detection.raised_at))
        });
        list
    }

    /// How often each severity of each class was reached.
    #[must_use]
    pub const fn raised(&self) -> &BTreeMap<(Class, Severity), u64> {
        &self.raised
    }
}

/// Adds a change; of a long history the onset and the latest are kept.
fn remember(history: &mut Vec<SeverityChange>, change: SeverityChange) {
    const KEPT: usize = 64;
    if history.len() >= KEPT {
        history.remove(1);
    }
    history.push(change);
}

/// Brings an active incident up to date; an action where its severity or kind changed.
fn refresh(active: &mut Detection, now: Timestamp, onset: Onset) -> Option<Action> {
    let last = active.severity_history.last().map(|change| change.severity);
    let graver = last.is_none_or(|last| onset.severity > last);
    if graver {
        let change = SeverityChange { at: now, severity: onset.severity };
        remember(&mut active.severity_history, change);
        active.severity = active.severity.max(onset.severity);
    }
    // The tail of an attack says nothing of what it was.
    let present = onset.evidence.syn_rate >= 0.5 * active.evidence.syn_rate;
    let revised = present && onset.variant.is_some() && onset.variant != active.variant;
    if revised {
        active.variant = onset.variant;
    }
    active.confidence = active.confidence.max(onset.confidence);
    let peak = active.evidence.half_open_peak.max(onset.evidence.half_open_peak);
    // The evidence is what the attack looked like at its height.
    if onset.evidence.syn_rate >= 0.95 * active.evidence.syn_rate || graver || revised {
        active.evidence = onset.evidence;
        active.explanation = onset.explanation;
        active.advice = onset.advice;
        if onset.target.address.is_some() {
            active.target = onset.target;
        }
    }
    active.evidence.half_open_peak = peak;
    (graver || revised).then(|| Action::Updated(active.clone()))
}

/// An id that no other incident of this or another host is likely to have (FNV-1a over what it is about
/// and when it began).
fn identify((class, (address, port)): (Class, Subject), at: Timestamp) -> u64 {
    let bytes = address
        .to_bits()
        .to_be_bytes()
        .into_iter()
        .chain(port.unwrap_or_default().to_be_bytes())
        .chain(at.as_nanos().to_be_bytes());
    let start = 0xcbf2_9ce4_8422_2325 ^ class as u64;
    bytes.fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
