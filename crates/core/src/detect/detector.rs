//! When a service is under attack, and how badly.
//!
//! A [`Detector`] is four parts that each follow one idea, and an episode: which failures an outage
//! explains ([`Outage`]), whether more of the others fail than usual ([`Change`]), what the queue
//! holds ([`Queue`]), whether many clients come who complete ([`Crowd`]). The severity of a step is
//! drawn from these; the [`Episode`] raises, keeps and clears.

use std::net::IpAddr;
use std::time::Duration;

use crate::detect::change::Change;
use crate::detect::crowd::Crowd;
use crate::detect::episode::Episode;
use crate::detect::limits::{Origin, RateLimit, RateLimits, Reason};
use crate::detect::observation::Observation;
use crate::detect::outage::Outage;
use crate::detect::queue::{FULL, OCCUPIED, OCCUPIED_PART, OVERFLOWING, Queue};
use crate::detect::saved::SavedBaseline;
use crate::model::Severity;
use crate::stats::Step;
use crate::time::Timestamp;

/// The detector of one service.
#[derive(Clone, Debug)]
pub struct Detector {
    outage: Outage,
    change: Change,
    queue: Queue,
    crowd: Crowd,
    episode: Episode,
    /// Young attempts, where these give the alarm.
    young: Option<Young>,
    steps: u32,
    /// After so many steps what is usual is known.
    settled_after: u32,
    /// When something was last learned.
    learned_at: Timestamp,
}

/// Attempts too young to be judged one by one, too many of which are not complete.
#[derive(Clone, Copy, Debug)]
struct Young {
    /// Those per second.
    rate: f64,
    limit: RateLimit,
}

/// Occupancy that pages at any rate beyond the normal: pruning holds a queue near one half
/// (`reqsk_timer_handler`).
const SLOWLY_FILLED: f64 = 0.75;
/// Excess failures per second that page however long the queue is, if they are this part of the
/// completions.
const MUCH: f64 = 40.0;
const MUCH_PART: f64 = 0.25;
/// SYNs per second that are dropped before the queue and are worth a warning, if they are this part
/// of the completions. (Of clients that ask again, few are never answered.)
const FILTERED: f64 = 20.0;
const FILTERED_PART: f64 = 0.1;
/// Incomplete young attempts per second that are asked for at least, and their share.
pub(crate) const YOUNG_RATE: f64 = 200.0;
const YOUNG_SHARE: f64 = 0.7;
/// So many young attempts must have been looked at, however many they stand for.
const YOUNG: f64 = 40.0;
/// Steps until a crowd can be told from a start: 120 s.
const SETTLED: u32 = 480;
/// Steps until the present rates are known, where the usual ones are from before: 10 s.
const RESUMED: u32 = 40;

impl Default for Detector {
    /// A detector that knows nothing yet.
    fn default() -> Self {
        Self {
            outage: Outage::new(),
            change: Change::new(),
            queue: Queue::new(),
            crowd: Crowd::new(),
            episode: Episode::default(),
            young: None,
            steps: 0,
            settled_after: SETTLED,
            learned_at: Timestamp::EPOCH,
        }
    }
}

impl Detector {
    /// Takes in a step and returns the severity of the SYN flood that there is now, if any.
    pub fn observe(&mut self, seen: &Observation) -> Option<Severity> {
        self.take_in(seen);
        self.young = self.young(seen);
        self.note_onset(seen);
        let judged = self.judge(seen);
        let (change, young) = (&self.change, self.young);
        self.episode.judge(judged, |reason| {
            let (rate, backlog) = (change.present_rate(), f64::from(seen.backlog));
            (matches!(reason, Reason::Occupancy { .. }) && rate < backlog / 20.0)
                || (seen.unpruned && rate < backlog / 10.0 && young.is_none())
        });
        self.crowd.judge(seen.weight, self.is_cold(), self.episode.severity().is_none());
        let now = judged.map(|(severity, _)| severity);
        let calm = self.is_calm() && !seen.overflows;
        if self.episode.end_step(seen.at, now, calm, self.queue.is_occupied(seen.at)) {
            self.change.restart();
        }
        self.episode.severity()
    }

    /// Lets the three parts take in the step.
    fn take_in(&mut self, seen: &Observation) {
        let learning = self.episode.learning(seen.at);
        if learning.any() {
            self.learned_at = seen.at;
        }
        self.steps = self.steps.saturating_add(1);
        // Steps that nothing is known of must not thin out the rates of the first that mature.
        if !seen.immature {
            // Where a lower rate is to page, a change must be seen at that rate.
            let backlog = f64::from(seen.backlog);
            let (warning, _) = seen.limits.rates(backlog / 10.0);
            let failures = self.outage.step(seen, self.episode.severity().is_none());
            self.change.step(seen, failures, backlog.min(20.0 * warning), learning);
            self.crowd.add(seen.completed);
        }
        self.queue.step(seen, self.steps == 1, self.is_cold(), learning.any());
    }

    /// The fast path. Of attempts that are still young, and may complete, twice the rate is asked.
    fn young(&self, seen: &Observation) -> Option<Young> {
        let limit = |limits: RateLimits| {
            let (warning, _) = limits.rates(f64::from(seen.backlog) / 10.0);
            (2.0 * warning).max(YOUNG_RATE).max(YOUNG * f64::from(seen.weight))
        };
        let limit =
            RateLimit::new(limit(seen.limits), limit(RateLimits::default()), Origin::Derived);
        let rate = self.outage.young(seen);
        let alarm = rate > limit.rate && rate > YOUNG_SHARE * f64::from(seen.young);
        alarm.then_some(Young { rate, limit })
    }

    fn note_onset(&mut self, seen: &Observation) {
        let quiet = self.change.is_empty();
        // The attempts that are young are up to 1.5 s old and not yet matured.
        let later = quiet && self.is_fast() && !seen.immature;
        let step = Step(seen.matured.0 + u32::from(later));
        self.episode.note_onset(step, !quiet || self.is_fast());
    }

    /// The severity that this step alone would give: by the wire, or by the kernel where that is
    /// graver.
    fn judge(&self, seen: &Observation) -> Option<(Severity, Reason)> {
        let by_wire = self.judge_failures(seen);
        let overflow = (Severity::Critical, Reason::Overflow { lasting: OVERFLOWING });
        by_wire
            .filter(|(severity, _)| !seen.overflows || *severity == Severity::Critical)
            .or_else(|| seen.overflows.then_some(overflow))
    }

    /// The severity of the failures that the wire shows, and of what its queue holds.
    fn judge_failures(&self, seen: &Observation) -> Option<(Severity, Reason)> {
        let occupancy = self.occupancy(seen.backlog);
        let changed = self.change.level() > 1.0;
        let occupied = |part| Reason::Occupancy { part, lasting: Duration::ZERO };
        if let Some(reason) = self.paging(seen) {
            // A rate that fills the queue within seconds, a queue that is full, or one that the
            // kernel says was. 30 s to full only counts at such a rate too, so it adds nothing.
            let critical = if let Some(reason) = self.critical(seen, reason) {
                Some(reason)
            } else if occupancy >= FULL {
                Some(occupied(FULL))
            } else {
                (seen.queue_full && changed).then_some(Reason::QueueFull)
            };
            return Some(critical.map_or((Severity::Warning, reason), |r| (Severity::Critical, r)));
        }
        // A rate that is low for the queue, and fills it nevertheless.
        if self.change.is_probable() && occupancy >= SLOWLY_FILLED {
            return Some(if occupancy >= FULL {
                (Severity::Critical, occupied(FULL))
            } else {
                (Severity::Warning, occupied(SLOWLY_FILLED))
            });
        }
        if self.queue.is_occupied(seen.at) {
            let occupied = Reason::Occupancy { part: OCCUPIED_PART, lasting: OCCUPIED };
            return Some((Severity::Info, occupied));
        }
        changed.then_some((Severity::Info, Reason::Change))
    }

    /// The rate that is worth a page, if any is.
    fn paging(&self, seen: &Observation) -> Option<Reason> {
        let filling = seen.filling_rate();
        let (warning, _) = seen.limits.rates(filling);
        let warning = RateLimit::new(warning, filling / 2.0, Origin::Derived);
        let much = MUCH.max(MUCH_PART * self.crowd.rate());
        let much = RateLimit { rate: much, origin: Origin::Derived };
        let limit = if seen.limits.warning.is_some() { warning } else { warning.min(much) };
        if self.change.is_sustained() && self.change.excess_rate() >= limit.rate {
            return Some(Reason::Rate(limit));
        }
        self.young.map(|young| Reason::Young(young.limit))
    }

    /// The rate that is critical, where one that pages is.
    fn critical(&self, seen: &Observation, paging: Reason) -> Option<Reason> {
        let filling = seen.filling_rate();
        let (_, critical) = seen.limits.rates(filling);
        if matches!(paging, Reason::Rate(_)) && self.change.excess_rate() >= critical {
            return Some(Reason::Rate(RateLimit::new(critical, filling, Origin::Filling)));
        }
        let young = self.young.is_some_and(|young| young.rate >= 2.0 * critical);
        let limit = RateLimit::new(2.0 * critical, 2.0 * filling, Origin::Filling);
        young.then_some(Reason::Young(limit))
    }

    /// The first step of what is going on, where anything is.
    #[must_use]
    pub const fn onset(&self) -> Option<Step> {
        self.episode.onset()
    }

    /// The severity of the incident that there is, if any.
    #[must_use]
    pub const fn severity(&self) -> Option<Severity> {
        self.episode.severity()
    }

    /// Whether the incident was first worth a page for what its queue holds, not for its rate.
    #[must_use]
    pub const fn is_slow(&self) -> bool {
        self.episode.is_slow()
    }

    /// Whether the queue itself is in trouble, by the witness of its own occupancy or of the
    /// kernel.
    #[must_use]
    pub const fn is_queue_full(&self) -> bool {
        matches!(
            self.reason(),
            Reason::Occupancy { .. } | Reason::QueueFull | Reason::Overflow { .. }
        )
    }

    /// Whether there is an incident.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.severity().is_some() || self.is_crowded()
    }

    /// Whether attempts too young to be judged one by one gave the alarm.
    #[must_use]
    pub const fn is_fast(&self) -> bool {
        self.young.is_some()
    }

    /// Whether nothing speaks for an attack (any more).
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.change.is_calm() && self.young.is_none()
    }

    /// Whether there is a flash crowd.
    #[must_use]
    pub const fn is_crowded(&self) -> bool {
        self.crowd.is_crowded()
    }

    /// Completions per second while all is well, where an outage makes them fail.
    #[must_use]
    pub fn outage(&self) -> Option<f64> {
        self.outage.is_on().then(|| self.outage.usual_rate())
    }

    /// SYNs per second beyond the usual that are dropped before the queue, where they are many, and
    /// the limit that they reached.
    #[must_use]
    pub fn filtered(&self) -> Option<(f64, f64)> {
        let rate = self.change.filtered_rate()?;
        let limit = FILTERED.max(FILTERED_PART * self.crowd.rate());
        (rate >= limit).then_some((rate, limit))
    }

    /// The higher CUSUM in units of its limit; at least 1 where the young gave the alarm.
    #[must_use]
    pub fn evidence_level(&self) -> f64 {
        self.change.level().max(if self.is_fast() { 1.0 } else { 0.0 })
    }

    /// Failing attempts per second beyond the normal; of attempts too young to be judged one by one
    /// where they gave the alarm.
    #[must_use]
    pub fn excess_rate(&self) -> f64 {
        self.change.excess_rate().max(self.young.map_or(0.0, |young| young.rate))
    }

    /// What the severity comes from.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.episode.reason()
    }

    /// Seconds until the queue is full, where it fills.
    #[must_use]
    pub fn seconds_to_full(&self, backlog: u32) -> Option<f64> {
        self.queue.seconds_to_full(backlog)
    }

    /// Half-open connections in proportion to the limit.
    #[must_use]
    pub fn occupancy(&self, backlog: u32) -> f64 {
        self.queue.occupancy(backlog)
    }

    /// Whether the detector has seen too little yet to know what is normal.
    #[must_use]
    pub const fn is_cold(&self) -> bool {
        self.steps < self.settled_after
    }

    /// What was learned of the service at `address` and `port`, where it was seen for 10 s or
    /// longer.
    #[must_use]
    pub fn saved(&self, address: IpAddr, port: u16) -> Option<SavedBaseline> {
        let [failing, unanswered] = self.change.saved();
        (failing.steps >= RESUMED).then(|| SavedBaseline {
            address,
            port,
            learned_at: self.learned_at,
            usual_completion_rate: self.crowd.usual_rate(),
            failing,
            unanswered,
        })
    }

    /// Goes on from what was learned before. To be called before the first step, with what
    /// [is sound](SavedBaseline::is_sound).
    pub fn restore(&mut self, saved: &SavedBaseline) {
        self.change.restore(saved);
        self.crowd.restore(saved.usual_completion_rate, saved.failing.steps);
        self.settled_after = SETTLED.saturating_sub(saved.failing.steps).max(RESUMED);
        self.learned_at = saved.learned_at;
    }

    /// Whether nothing was seen yet.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.steps == 0
    }

    /// Whether nothing is left to see: another empty step would change nothing that matters.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.change.is_empty() && self.queue.is_empty() && self.crowd.rate() < 0.01
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        detector: &mut Detector,
        steps: std::ops::Range<u32>,
        observation: impl Fn(u32) -> Observation,
    ) -> Vec<(u32, Option<Severity>)> {
        let mut changes = vec![];
        let mut last = detector.severity();
        for step in steps {
            let seen = Observation {
                at: Timestamp::EPOCH + Duration::from_millis(250) * (step + 1),
                matured: Step(step.saturating_sub(6)),
                ..observation(step)
            };
            let severity = detector.observe(&seen);
            if severity != last {
                changes.push((step, severity));
                last = severity;
            }
        }
        changes
    }

    fn calm(_: u32) -> Observation {
        Observation {
            completed: 24.0,
            failed: 0.5,
            young: 100,
            young_incomplete: 2.0,
            backlog: 4096,
            ..Default::default()
        }
    }

    #[test]
    fn a_flood_pages_at_once_and_clears_after_a_minute_of_calm() {
        let mut detector = Detector::default();
        assert_eq!(run(&mut detector, 0..1_200, calm), []);
        let flood = |step| Observation {
            failed: 250.5,
            young: 1_100,
            // In the first steps not all of the second that these cover is flooded.
            young_incomplete: if step < 1_202 { 500.0 } else { 1_000.0 },
            ..calm(0)
        };
        let raised = run(&mut detector, 1_200..1_240, flood);
        assert_eq!(raised[0], (1_200, Some(Severity::Info)), "one step may be a burst");
        assert_eq!(raised[1], (1_202, Some(Severity::Critical)));
        let cleared = run(&mut detector, 1_240..1_800, calm);
        assert_eq!(cleared.len(), 1);
        let (step, severity) = cleared[0];
        assert_eq!(severity, None);
        assert!((1_480..1_560).contains(&step), "cleared in step {step}");
    }

    #[test]
    fn a_low_rate_against_a_short_queue_pages() {
        let mut detector = Detector::default();
        let small = |_| Observation { backlog: 128, ..calm(0) };
        assert_eq!(run(&mut detector, 0..1_200, small), []);
        let flood = |_| Observation { failed: 5.5, ..small(0) };
        let raised = run(&mut detector, 1_200..1_260, flood);
        assert!(
            raised.iter().any(|(_, severity)| *severity == Some(Severity::Warning)),
            "{raised:?}"
        );
    }

    /// A step in which all clients repeat their SYN in vain, and `forged` ones do so too.
    fn outage(completed: f64, forged: f64) -> Observation {
        let failed = 24.5 - completed + forged;
        Observation {
            completed,
            failed,
            excused: failed,
            young: 100,
            young_incomplete: 4.0 * failed,
            young_excused: 4.0 * failed,
            ..calm(0)
        }
    }

    #[test]
    fn an_outage_takes_the_place_of_what_completes() {
        let mut detector = Detector::default();
        assert_eq!(run(&mut detector, 0..1_200, calm), []);
        assert_eq!(run(&mut detector, 1_200..1_400, |_| outage(0.0, 0.0)), []);
        assert!(detector.outage().is_some_and(|usual| (90.0..100.0).contains(&usual)));
        run(&mut detector, 1_400..1_600, calm);
        assert_eq!(detector.outage(), None);
    }

    #[test]
    fn what_is_added_to_the_usual_is_no_outage_however_it_looks() {
        for completed in [24.0, 0.0] {
            let mut detector = Detector::default();
            run(&mut detector, 0..1_200, calm);
            let raised = run(&mut detector, 1_200..1_400, |_| outage(completed, 75.0));
            let page = raised.iter().find(|(_, severity)| *severity >= Some(Severity::Warning));
            assert!(page.is_some_and(|(step, _)| *step < 1_212), "{raised:?}");
        }
    }

    #[test]
    fn what_a_filter_drops_is_no_flood() {
        let mut detector = Detector::default();
        run(&mut detector, 0..1_200, calm);
        let filtered = |_| Observation { filtered: 24.0, completed: 0.0, ..calm(0) };
        assert_eq!(run(&mut detector, 1_200..1_240, filtered), []);
        assert!(detector.filtered().is_some_and(|(rate, limit)| rate >= limit));
        run(&mut detector, 1_240..1_300, calm);
        assert_eq!(detector.filtered(), None);
    }

    #[test]
    fn drops_or_an_occupied_queue_alone_never_page() {
        let mut detector = Detector::default();
        let drops = |_| Observation { queue_full: true, ..calm(0) };
        assert_eq!(run(&mut detector, 0..200, drops), []);
        let deferred = |_| Observation { half_open: 4_000, ..calm(0) };
        let changes = run(&mut detector, 200..1_000, deferred);
        assert_eq!(changes.len(), 1, "raised once and for good: {changes:?}");
        assert_eq!(changes[0].1, Some(Severity::Info));
    }

    #[test]
    fn a_queue_that_overflows_is_critical_whatever_the_wire_says() {
        let mut detector = Detector::default();
        run(&mut detector, 0..1_200, calm);
        let full =
            |_| Observation { half_open: 4_096, queue_full: true, overflows: true, ..calm(0) };
        let changes = run(&mut detector, 1_200..1_300, full);
        assert_eq!(changes, [(1_200, Some(Severity::Critical))]);
        assert_eq!(detector.reason(), Reason::Overflow { lasting: OVERFLOWING });
        let cleared = run(&mut detector, 1_300..1_600, calm);
        assert_eq!(cleared, [(1_540, None)], "after a minute of calm");
    }

    #[test]
    fn one_burst_does_not_page_and_the_same_again_and_again_does() {
        let burst = |every: u32| {
            let mut detector = Detector::default();
            let changes = run(&mut detector, 0..200, |step| Observation {
                failed: if step % every == 10 { 257.0 } else { 0.5 },
                ..calm(0)
            });
            changes.iter().map(|(_, severity)| *severity).max().flatten()
        };
        assert_eq!(burst(1_000), Some(Severity::Info));
        assert_eq!(burst(11), Some(Severity::Warning));
    }

    #[test]
    fn without_pruning_a_low_rate_fills_the_queue() {
        let flood = |unpruned| {
            let mut detector = Detector::default();
            let limit = |_| Observation { backlog: 768, unpruned, failed: 8.0, ..calm(0) };
            let raised = run(&mut detector, 0..120, limit);
            raised.iter().map(|(_, severity)| *severity).max().flatten()
        };
        assert_eq!(flood(false), Some(Severity::Info));
        assert_eq!(flood(true), Some(Severity::Critical));
    }

    #[test]
    fn a_change_that_never_pages_becomes_the_normal() {
        let mut detector = Detector::default();
        run(&mut detector, 0..1_200, calm);
        let worse = |_| Observation { failed: 8.0, ..calm(0) };
        let changes = run(&mut detector, 1_200..20_000, worse);
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert_eq!(changes[0].1, Some(Severity::Info));
        assert!(changes[1].0 > 1_200 + 7_200 && changes[1].1.is_none(), "{changes:?}");
    }

    #[test]
    fn a_crowd_that_completes_is_a_crowd() {
        let mut detector = Detector::default();
        run(&mut detector, 0..1_200, calm);
        assert!(!detector.is_crowded());
        let crowd = |_| Observation {
            completed: 480.0,
            failed: 10.0,
            young: 2_000,
            young_incomplete: 40.0,
            ..calm(0)
        };
        let changes = run(&mut detector, 1_200..1_400, crowd);
        assert!(
            changes.iter().all(|(_, severity)| *severity < Some(Severity::Warning)),
            "{changes:?}"
        );
        assert!(detector.is_crowded());
        run(&mut detector, 1_400..1_800, calm);
        assert!(!detector.is_crowded());
    }
}
