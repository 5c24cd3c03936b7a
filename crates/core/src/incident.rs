//! Detections as incidents: raised, updated, cleared, and the same again when they come back.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::document::{Detection, SeverityChange};
use crate::findings::{Class, Onset};
use crate::model::{Severity, Variant};
use crate::time::Timestamp;
use crate::wire::Address;

/// A re-onset within this time is the same incident.
const REOPEN: Duration = Duration::from_secs(600);
/// Cleared incidents that are kept for the API.
const HISTORY: usize = 100;
/// An incident must look like another kind for this part of its age before it is called that, and
/// at most for so long: first impressions are revised at once, but near a limit it must not go to
/// and fro.
const REVISION: u32 = 4;
const REVISION_MAX: Duration = Duration::from_secs(5);

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

/// What an incident is about, the same over its life whatever was hit most.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Subject {
    /// An address and port.
    Service(Address, u16),
    /// All ports of a host.
    Host(Address),
    /// All hosts of a network: a /24 of IPv4, a /64 of IPv6.
    Network(Address),
    /// All that is captured.
    Capture,
    /// What one source does.
    Source(Address),
    /// The host that synwatch runs on, as a whole.
    ThisHost,
}

#[derive(Debug)]
struct Active {
    detection: Detection,
    /// When its cause was last there.
    last: Timestamp,
    /// A kind that it may turn into, and since when it looks like that.
    revision: Option<(Variant, Timestamp)>,
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
            (Some(active), Some(onset)) => {
                active.last = now;
                let action = active.refresh(now, onset);
                if let (Some(Action::Updated(_)), Some(last)) =
                    (&action, active.detection.severity_history.last())
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
        let change = SeverityChange { at: now, severity: onset.severity };
        let detection = match again.and_then(|place| self.past.remove(place)) {
            Some((_, mut detection)) => {
                detection.cleared_at = None;
                remember(&mut detection.severity_history, change);
                detection.severity = detection.severity.max(onset.severity);
                detection.variant = onset.variant.or(detection.variant);
                detection.confidence = onset.confidence();
                tell(&mut detection, onset);
                detection
            }
            None => Detection {
                id: format!("{:016x}", identify(subject, now)),
                class: onset.class(),
                variant: onset.variant,
                severity: onset.severity,
                confidence: onset.confidence(),
                severity_history: vec![change],
                target: onset.target,
                target_prefix: onset.target_prefix,
                attacker: onset.attacker,
                first_packet_at: onset.first_packet_at.min(now),
                raised_at: now,
                cleared_at: None,
                explanation: onset.explanation(),
                advice: onset.advice(),
                evidence: onset.evidence,
            },
        };
        let active = Active { detection: detection.clone(), last: now, revision: None };
        self.active.insert(subject, active);
        Action::Raised(detection)
    }

    /// Has the incidents of one subject, active and past, be those of another; where that has an
    /// active one of the same class, each stays its own.
    pub fn rename(&mut self, before: Subject, after: Subject) {
        for class in Class::ALL {
            if !self.is_active(class, after)
                && let Some(active) = self.active.remove(&(class, before))
            {
                self.active.insert((class, after), active);
            }
        }
        for ((_, subject), _) in &mut self.past {
            if *subject == before {
                *subject = after;
            }
        }
    }

    /// Clears those incidents of `class` whose subject is `concerned` and whose cause has not been
    /// there for `calm`.
    pub fn lapse(
        &mut self,
        now: Timestamp,
        class: Class,
        calm: Duration,
        concerned: impl Fn(&Subject) -> bool,
    ) -> Vec<Action> {
        let over: Vec<Subject> = self
            .active
            .iter()
            .filter(|((of, _), active)| *of == class && now - active.last >= calm)
            .filter(|((_, subject), _)| concerned(subject))
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

impl Active {
    /// Brings it up to date; an action where its severity or kind changed.
    fn refresh(&mut self, now: Timestamp, onset: Onset) -> Option<Action> {
        // The tail of an attack says nothing of what it was.
        let (rate, highest) = (onset.evidence.syn_rate, self.detection.evidence.syn_rate.value);
        let present = rate.value >= 0.5 * highest;
        let revised = present && self.is_revised(now, onset.variant);
        let detection = &mut self.detection;
        let last = detection.severity_history.last().map(|change| change.severity);
        let graver = last.is_none_or(|last| onset.severity > last);
        if graver {
            let change = SeverityChange { at: now, severity: onset.severity };
            remember(&mut detection.severity_history, change);
            detection.severity = detection.severity.max(onset.severity);
        }
        if revised {
            detection.variant = onset.variant;
        }
        detection.confidence = detection.confidence.max(onset.confidence());
        // The evidence is what the attack looked like at its height. Of estimates that differ by no
        // more than their errors the latest counts: the highest would be the luckiest.
        let doubt = 3.0 * rate.stderr.unwrap_or_default();
        let high = rate.value + doubt >= 0.95 * highest;
        if high || graver || revised {
            tell(detection, onset);
        } else {
            let peak = &mut detection.evidence.half_open_peak.value;
            *peak = onset.evidence.half_open_peak.value.max(*peak);
        }
        (graver || revised).then(|| Action::Updated(detection.clone()))
    }

    /// Whether it has looked like another kind for long enough to be called that; at once where it
    /// had none.
    fn is_revised(&mut self, now: Timestamp, variant: Option<Variant>) -> bool {
        let Some(variant) = variant.filter(|_| variant != self.detection.variant) else {
            self.revision = None;
            return false;
        };
        let since = match self.revision {
            Some((before, since)) if before == variant => since,
            _ => now,
        };
        self.revision = Some((variant, since));
        let hold = ((now - self.detection.raised_at) / REVISION).min(REVISION_MAX);
        self.detection.variant.is_none() || now - since >= hold
    }
}

/// Puts the present figures and words into a detection; its peak stays.
fn tell(detection: &mut Detection, onset: Onset) {
    let peak = detection.evidence.half_open_peak.value.max(onset.evidence.half_open_peak.value);
    detection.explanation = onset.explanation();
    detection.advice = onset.advice();
    detection.target_prefix = onset.target_prefix;
    detection.attacker = onset.attacker;
    detection.target = onset.target;
    detection.evidence = onset.evidence;
    detection.evidence.half_open_peak.value = peak;
}

/// An id that no other incident of this or another host is likely to have (FNV-1a over what it is
/// about and when it began).
fn identify((class, subject): (Class, Subject), at: Timestamp) -> u64 {
    let (kind, address, port) = match subject {
        Subject::Service(address, port) => (0, address, port),
        Subject::Host(address) => (0, address, 0),
        Subject::Network(address) => (1, address, 0),
        Subject::Capture => (2, Address::from_bits(0), 0),
        Subject::Source(address) => (3, address, 0),
        Subject::ThisHost => (4, Address::from_bits(0), 0),
    };
    let bytes = address
        .to_bits()
        .to_be_bytes()
        .into_iter()
        .chain(port.to_be_bytes())
        .chain(at.as_nanos().to_be_bytes());
    let start = 0xcbf2_9ce4_8422_2325 ^ class as u64 ^ (kind << 8);
    bytes.fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
