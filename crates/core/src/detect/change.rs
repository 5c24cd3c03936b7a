//! When a service is under attack, and how badly.

use std::net::IpAddr;
use std::time::Duration;

use crate::detect::baseline::{Baseline, D, Ewma};
use crate::detect::configured::RateLimits;
use crate::detect::saved::SavedBaseline;
use crate::observe::Severity;
use crate::stats::Step;
use crate::time::Timestamp;

/// The figures of one service at the end of a step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observation {
    /// End of the step.
    pub at: Timestamp,
    /// The step that has matured now.
    pub matured: Step,
    /// Nothing has matured yet: only the young attempts can speak.
    pub immature: bool,
    /// Its attempts that completed.
    pub completed: f64,
    /// Its attempts that were answered and failed, weighted.
    pub failed: f64,
    /// The same, each counted fully.
    pub undiscounted: f64,
    /// Its attempts that nobody answered, weighted.
    pub unanswered: f64,
    /// Attempts that are 0.5 to 1.5 s old.
    pub young: u32,
    /// Those of them that are not complete.
    pub young_incomplete: u32,
    /// Most of the failing attempts are repeated as honest clients do: the path is broken.
    pub path_outage: bool,
    /// Half-open connections by the better witness.
    pub half_open: u64,
    /// Those of them whose SYN-ACK has been repeated.
    pub old: u64,
    /// The limit of the SYN queue.
    pub backlog: u32,
    /// Limits that are set instead of derived from the backlog.
    pub limits: RateLimits,
    /// The kernel keeps every request to the end of its life (cookies are off, and the limit is not above
    /// half of the listen backlog, from where on it prunes).
    pub unpruned: bool,
    /// The kernel has dropped requests or answered them with cookies because the queue was full.
    pub queue_full: bool,
    /// Attempts that each one counted stands for; 0 is 1.
    pub weight: u32,
}

/// What a severity comes from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Reason {
    /// The CUSUM alone: a change, not yet of a rate that matters.
    #[default]
    Change,
    /// The rate of failures would fill the queue.
    Rate,
    /// Attempts that are young, but too many of them are not complete.
    Young,
    /// The queue is full, or a quarter of it is taken for long.
    Occupancy,
    /// The kernel turned requests away, or answered them with cookies.
    QueueFull,
    /// One source at a rate that is a flood whatever the ports.
    FullTilt,
}

/// The detector of one service.
#[derive(Clone, Debug)]
pub struct Detector {
    failing: Baseline,
    /// All failures at full weight: what discounts hide shows here.
    undiscounted: Baseline,
    unanswered: Baseline,
    completion_rate: Ewma,
    usual_completion_rate: Ewma,
    fill_rate: Ewma,
    half_open: u64,
    steps: u32,
    /// After so many steps what is usual is known.
    settled_after: u32,
    /// When something was last learned.
    learned_at: Timestamp,
    /// The first step that shows what is going on now.
    onset: Option<Step>,
    severity: Option<Severity>,
    raised_at: Timestamp,
    calm_since: Option<Timestamp>,
    usual_occupancy: Ewma,
    occupied_since: Option<Timestamp>,
    stale_since: Option<Timestamp>,
    /// The discounts are ignored.
    distrustful: bool,
    cleared_at: Option<Timestamp>,
    crowded: bool,
    fast: bool,
    reason: Reason,
    /// The first page came by what the queue holds.
    slow: bool,
    filling_rate: f64,
    /// Young attempts per second that are not complete, while they give the alarm.
    young_rate: f64,
}

/// An incident of severity warning or less is over after so much calm.
const CALM: Duration = Duration::from_secs(30);
/// A critical one.
const CALM_CRITICAL: Duration = Duration::from_secs(60);
/// How long after an incident nothing is learned.
const FREEZE: Duration = Duration::from_secs(60);
/// A change that has lasted so long and did not page is the new normal.
const RELEARN: Duration = Duration::from_secs(30 * 60);
/// A quarter of the queue for this long is worth a word.
const OCCUPIED: Duration = Duration::from_secs(10);
/// Occupancy that pages at any rate beyond the normal: pruning holds a queue near one half (`reqsk_timer_handler`).
const SLOWLY_FILLED: f64 = 0.75;
/// With old requests in near to half of the queue for this long no failure is discounted.
const STALE: Duration = Duration::from_secs(30);
/// A request lives so many seconds where it is not pruned (`net.ipv4.tcp_synack_retries` = 5).
const LIFETIME: f64 = 63.0;
/// And about so many in a queue that is nearly full where it is.
const PRUNED_LIFETIME: f64 = 10.0;
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
            failing: Baseline::new(),
            undiscounted: Baseline::new(),
            unanswered: Baseline::new(),
            completion_rate: Ewma::new(10.0 / D),
            usual_completion_rate: Ewma::new(600.0 / D),
            fill_rate: Ewma::new(5.0 / D),
            half_open: 0,
            steps: 0,
            settled_after: SETTLED,
            learned_at: Timestamp::EPOCH,
            onset: None,
            severity: None,
            raised_at: Timestamp::EPOCH,
            calm_since: None,
            usual_occupancy: Ewma::new(600.0 / D),
            occupied_since: None,
            stale_since: None,
            distrustful: false,
            cleared_at: None,
            crowded: false,
            fast: false,
            reason: Reason::default(),
            slow: false,
            filling_rate: 0.0,
            young_rate: 0.0,
        }
    }
}

impl Detector {
    /// Takes in a step and returns the severity of the SYN flood that there is now, if any.
    pub fn observe(&mut self, seen: &Observation) -> Option<Severity> {
        let backlog = f64::from(seen.backlog);
        // The baseline is frozen until a minute after the end of an incident.
        let frozen = self.cleared_at.is_some_and(|cleared| seen.at - cleared < FREEZE);
        let (clear, settled) = match self.severity {
            None => (!frozen, false),
            // That the queue is occupied is no reason not to learn; what that comes from is.
            Some(Severity::Info) => {
                (self.reason == Reason::Occupancy, seen.at - self.raised_at >= RELEARN)
            }
            Some(_) => (false, false),
        };
        let learns = |baseline: &Baseline| settled || (clear && baseline.level() < 0.5);
        if clear || settled {
            self.learned_at = seen.at;
        }
        self.steps = self.steps.saturating_add(1);
        // Steps that nothing is known of must not thin out the rates of the first that mature.
        let (warning, _) = seen.limits.rates(backlog / 10.0);
        if !seen.immature {
            // Where a lower rate is to page, a change must be seen at that rate.
            let backlog = backlog.min(20.0 * warning);
            for (baseline, failures) in [
                (&mut self.failing, seen.failed),
                (&mut self.undiscounted, seen.undiscounted),
                (&mut self.unanswered, seen.unanswered),
            ] {
                let learns = learns(baseline);
                baseline.weigh(seen.weight);
                baseline.step(seen.completed, failures, backlog, learns);
            }
            self.completion_rate.add(seen.completed / D);
        }
        // What was there before the first look did not come within a step.
        let before = if self.steps == 1 { seen.half_open } else { self.half_open };
        #[expect(clippy::cast_precision_loss, reason = "a queue has at most 2^32 places")]
        self.fill_rate.add((seen.half_open as f64 - before as f64) / D);
        self.half_open = seen.half_open;
        self.filling_rate = filling_rate(seen);
        self.watch_queue(seen, clear || settled);

        // Of attempts that are still young, and may complete, twice the rate is asked.
        let fast_limit = (2.0 * warning).max(200.0).max(YOUNG * f64::from(seen.weight));
        self.fast = f64::from(seen.young_incomplete) > fast_limit
            && f64::from(seen.young_incomplete) > 0.7 * f64::from(seen.young)
            && (!seen.path_outage || self.distrustful);
        self.young_rate = if self.fast { f64::from(seen.young_incomplete) } else { 0.0 };
        self.note_onset(seen);
        let judged = self.judge(seen);
        let now = judged.map(|(severity, _)| severity);
        // What is told is why it is as grave as it is.
        if let Some((severity, reason)) = judged
            && self.severity.is_none_or(|before| severity >= before)
        {
            self.reason = reason;
        }
        if now >= Some(Severity::Warning) && self.severity < Some(Severity::Warning) {
            // Of a rate that is still rising the last two seconds tell more than the mean over five.
            let rate = self.baselines().map(Baseline::present_rate).fold(0.0, f64::max);
            self.slow = (self.reason == Reason::Occupancy && rate < backlog / 20.0)
                || (seen.unpruned && rate < backlog / 10.0 && !self.fast);
        }
        self.watch_crowd(seen.weight);

        self.severity = match (self.severity, now) {
            (Some(before), now) => {
                let severity = now.map_or(before, |now| now.max(before));
                let wait = if severity == Severity::Critical { CALM_CRITICAL } else { CALM };
                // A queue that stays occupied is still worth the word that it is.
                let stays = severity == Severity::Info && self.is_occupied(seen.at);
                if self.is_calm() && !stays {
                    let since = *self.calm_since.get_or_insert(seen.at);
                    if seen.at - since >= wait {
                        // What is left in the CUSUM belongs to the incident that is over.
                        self.failing.restart();
                        self.undiscounted.restart();
                        self.unanswered.restart();
                        self.cleared_at = Some(seen.at);
                        None
                    } else {
                        Some(severity)
                    }
                } else {
                    self.calm_since = None;
                    Some(severity)
                }
            }
            (None, now) => {
                self.calm_since = None;
                self.raised_at = seen.at;
                now
            }
        };
        self.severity
    }

    /// The severity that this step alone would give.
    fn judge(&self, seen: &Observation) -> Option<(Severity, Reason)> {
        let occupancy = self.occupancy(seen.backlog);
        let suspect = !seen.path_outage || self.distrustful;
        let changed = suspect && self.level() > 1.0;
        let sustained = suspect && self.baselines().any(Baseline::is_sustained);
        let rate = self.matured_excess();
        let filling = filling_rate(seen);
        let (warning, critical) = seen.limits.rates(filling);
        let much = rate >= 40.0 && rate >= 0.25 * self.completion_rate.mean();
        let paging = sustained && (rate >= warning || (much && seen.limits.warning.is_none()));
        if paging || self.fast {
            // A rate that fills the queue within seconds, a queue that is full, or one that the
            // kernel says was. 30 s to full only counts at such a rate too, so it adds nothing.
            return Some(if paging && rate >= critical {
                (Severity::Critical, Reason::Rate)
            } else if self.young_rate >= 2.0 * critical {
                (Severity::Critical, Reason::Young)
            } else if occupancy >= 0.95 {
                (Severity::Critical, Reason::Occupancy)
            } else if seen.queue_full && changed {
                (Severity::Critical, Reason::QueueFull)
            } else if paging {
                (Severity::Warning, Reason::Rate)
            } else {
                (Severity::Warning, Reason::Young)
            });
        }
        // A rate that is low for the queue, and fills it nevertheless.
        let probable = suspect && self.baselines().any(Baseline::is_probable);
        if probable && occupancy >= SLOWLY_FILLED {
            let full = occupancy >= 0.95;
            let severity = if full { Severity::Critical } else { Severity::Warning };
            return Some((severity, Reason::Occupancy));
        }
        if self.is_occupied(seen.at) {
            return Some((Severity::Info, Reason::Occupancy));
        }
        changed.then_some((Severity::Info, Reason::Change))
    }

    /// Follows how much of the queue is taken, and by what.
    fn watch_queue(&mut self, seen: &Observation, learns: bool) {
        let occupancy = self.occupancy(seen.backlog);
        // A short queue may be half full of honest failures at any time: that is not worth a word.
        // Not knowing better, it is taken to be a third full: pruning keeps it near one half.
        let usual = if self.is_cold() { 1.0 / 3.0 } else { self.usual_occupancy.mean().min(0.5) };
        let unusual = 1.5 * usual;
        let since = |since: Option<Timestamp>, holds: bool| holds.then(|| since.unwrap_or(seen.at));
        self.occupied_since = since(self.occupied_since, occupancy >= unusual.max(0.25));
        let stale = occupancy >= unusual.max(0.45) && seen.old * 10 >= seen.half_open * 7;
        self.stale_since = since(self.stale_since, stale);
        // Honest clients too may leave many requests behind: what is discounted has to fill the queue.
        self.distrustful = self.stale_since.is_some_and(|since| seen.at - since >= STALE)
            && self.undiscounted.excess_rate() >= filling_rate(seen);
        if learns {
            self.usual_occupancy.add(occupancy);
        }
    }

    fn is_occupied(&self, at: Timestamp) -> bool {
        self.occupied_since.is_some_and(|since| at - since >= OCCUPIED)
    }

    /// Those baselines whose word counts now.
    fn baselines(&self) -> impl Iterator<Item = &Baseline> {
        let undiscounted = self.distrustful.then_some(&self.undiscounted);
        [&self.failing, &self.unanswered].into_iter().chain(undiscounted)
    }

    fn note_onset(&mut self, seen: &Observation) {
        let quiet = self.failing.is_empty() && self.unanswered.is_empty();
        if self.fast && quiet {
            // The attempts that it saw are up to 1.5 s old and not yet matured.
            self.onset = self.onset.or(Some(Step(seen.matured.0 + u32::from(!seen.immature))));
        } else if quiet && self.severity.is_none() {
            self.onset = None;
        } else if self.onset.is_none() {
            self.onset = Some(seen.matured);
        }
    }

    /// Many more clients than usual, and they do complete.
    fn watch_crowd(&mut self, weight: u32) {
        let (now, usual) = (self.completion_rate.mean(), self.usual_completion_rate.mean());
        let noise = 20.0 * f64::from(weight.max(1));
        self.crowded =
            !self.is_cold() && now > if self.crowded { 2.0 } else { 4.0 } * usual + noise;
        // While a crowd is there the usual is not learned, or it would be the crowd.
        if !self.crowded && self.severity.is_none() {
            self.usual_completion_rate.add(now);
        }
    }

    /// The first step of what is going on, where anything is.
    #[must_use]
    pub const fn onset(&self) -> Option<Step> {
        self.onset
    }

    /// The severity of the incident that there is, if any.
    #[must_use]
    pub const fn severity(&self) -> Option<Severity> {
        self.severity
    }

    /// Whether the incident was first worth a page for what its queue holds, not for its rate.
    #[must_use]
    pub const fn is_slow(&self) -> bool {
        self.slow
    }

    /// Whether the queue itself is in trouble, by the witness of its own occupancy or of the kernel.
    #[must_use]
    pub const fn is_queue_full(&self) -> bool {
        matches!(self.reason, Reason::Occupancy | Reason::QueueFull)
    }

    /// Whether there is an incident.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.severity.is_some() || self.crowded
    }

    /// Whether attempts too young to be judged one by one gave the alarm.
    #[must_use]
    pub const fn is_fast(&self) -> bool {
        self.fast
    }

    /// Whether there is a flash crowd.
    #[must_use]
    pub const fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// The higher CUSUM in units of its limit; at least 1 where the young gave the alarm.
    #[must_use]
    pub fn evidence_level(&self) -> f64 {
        self.level().max(if self.fast { 1.0 } else { 0.0 })
    }

    fn level(&self) -> f64 {
        self.baselines().map(Baseline::level).fold(0.0, f64::max)
    }

    /// Failing attempts per second beyond the normal; of attempts too young to be judged one by one
    /// where they gave the alarm.
    #[must_use]
    pub fn excess_rate(&self) -> f64 {
        self.matured_excess().max(self.young_rate)
    }

    fn matured_excess(&self) -> f64 {
        let undiscounted = if self.distrustful { self.undiscounted.excess_rate() } else { 0.0 };
        let failing = self.failing.excess_rate().max(undiscounted);
        failing.max(0.0) + self.unanswered.excess_rate().max(0.0)
    }

    /// Failures per second that fill the queue in the end.
    #[must_use]
    pub const fn filling_rate(&self) -> f64 {
        self.filling_rate
    }

    /// What the severity comes from.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// Seconds until the queue is full, where it fills.
    #[must_use]
    pub fn seconds_to_full(&self, backlog: u32) -> Option<f64> {
        let rate = self.fill_rate.mean();
        #[expect(clippy::cast_precision_loss, reason = "a queue has at most 2^32 places")]
        let left = f64::from(backlog) - self.half_open as f64;
        (rate > 0.5 && left > 0.0).then(|| left / rate)
    }

    /// Half-open connections in proportion to the limit.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a queue has at most 2^32 places")]
    pub fn occupancy(&self, backlog: u32) -> f64 {
        self.half_open as f64 / f64::from(backlog.max(1))
    }

    /// Whether the detector has seen too little yet to know what is normal.
    #[must_use]
    pub const fn is_cold(&self) -> bool {
        self.steps < self.settled_after
    }

    /// What was learned of the service at `address` and `port`, where it was seen for 10 s or longer.
    #[must_use]
    pub fn saved(&self, address: IpAddr, port: u16) -> Option<SavedBaseline> {
        let failing = self.failing.saved();
        (failing.steps >= RESUMED).then(|| SavedBaseline {
            address,
            port,
            learned_at: self.learned_at,
            usual_completion_rate: self.usual_completion_rate.mean(),
            failing,
            undiscounted: self.undiscounted.saved(),
            unanswered: self.unanswered.saved(),
        })
    }

    /// Goes on from what was learned before. To be called before the first step, with what
    /// [is sound](SavedBaseline::is_sound).
    pub fn restore(&mut self, saved: &SavedBaseline) {
        self.failing.restore(&saved.failing);
        self.undiscounted.restore(&saved.undiscounted);
        self.unanswered.restore(&saved.unanswered);
        let usual = saved.usual_completion_rate.min(1e7);
        self.usual_completion_rate.resume(usual, saved.failing.steps);
        self.settled_after = SETTLED.saturating_sub(saved.failing.steps).max(RESUMED);
        self.learned_at = saved.learned_at;
    }

    /// Whether nothing was seen yet.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.steps == 0
    }

    fn is_calm(&self) -> bool {
        self.baselines().all(Baseline::is_calm) && !self.fast
    }

    /// Whether nothing is left to see: another empty step would change nothing that matters.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.failing.is_empty()
            && self.unanswered.is_empty()
            && self.half_open == 0
            && self.completion_rate.mean() < 0.01
    }
}

/// Failures per second that fill the queue in the end.
fn filling_rate(seen: &Observation) -> f64 {
    f64::from(seen.backlog) / if seen.unpruned { LIFETIME } else { PRUNED_LIFETIME }
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
        let mut last = detector.severity;
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
            young_incomplete: 2,
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
            young_incomplete: if step < 1_202 { 500 } else { 1_000 },
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

    #[test]
    fn an_outage_of_the_path_does_not_page() {
        let mut detector = Detector::default();
        let outage = |_| Observation {
            failed: 250.0,
            young: 1_000,
            young_incomplete: 900,
            path_outage: true,
            ..calm(0)
        };
        assert_eq!(run(&mut detector, 0..200, outage), []);
    }

    #[test]
    fn kernel_counters_alone_never_page() {
        let mut detector = Detector::default();
        let drops = |_| Observation { queue_full: true, ..calm(0) };
        assert_eq!(run(&mut detector, 0..200, drops), []);
        let deferred = |_| Observation { half_open: 4_000, ..calm(0) };
        let changes = run(&mut detector, 200..1_000, deferred);
        assert_eq!(changes.len(), 1, "raised once and for good: {changes:?}");
        assert_eq!(changes[0].1, Some(Severity::Info));
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
    fn what_is_discounted_pages_once_it_fills_the_queue_for_long() {
        let mut detector = Detector::default();
        let small = |_| Observation { backlog: 128, ..calm(0) };
        run(&mut detector, 0..1_200, small);
        let repeated = |_| Observation {
            undiscounted: 8.0,
            path_outage: true,
            half_open: 120,
            old: 110,
            ..small(0)
        };
        let raised = run(&mut detector, 1_200..1_400, repeated);
        let page = raised.iter().find(|(_, severity)| *severity == Some(Severity::Critical));
        assert!(page.is_some_and(|(step, _)| (1_318..1_325).contains(step)), "{raised:?}");
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
            young_incomplete: 40,
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
