//! Who makes us answer a victim, and what of the failures is due to that.

use crate::engine::judge::fates::Fates;
use crate::engine::judge::flood::young_steps;
use crate::engine::judge::moment::Moment;
use crate::engine::judge::{CALM, Judge};
use crate::engine::services::{Service, Services};
use crate::findings::{Class, SynAckReflection};
use crate::incident::Subject;
use crate::model::Severity;
use crate::stats::{Failure, Window, source_of};
use crate::time::Timestamp;

impl Judge {
    /// Takes in the failures of a service in its matured step, but for those of scanners.
    pub(super) fn note_reflected(
        &mut self,
        at: Timestamp,
        services: &Services,
        service: &Service,
        moment: &Moment,
        fates: &Fates,
    ) {
        let Some(step) = moment.matured(service).filter(|_| !service.is_muted()) else { return };
        let incidents = &self.incidents;
        let failures = fates.failed.iter().filter(|failure| {
            let source = Subject::Source(source_of(failure.attempt.source));
            services.is_watched(failure.attempt.destination)
                && !incidents.is_active(Class::PortScan, source)
        });
        let count = each(&service.windows.get(step), fates.failed.len());
        self.reflections.take_in(at, failures, count);
    }

    /// Judges all that was reflected in the last second.
    pub(super) fn judge_reflection(&mut self, at: Timestamp, services: &Services, moment: &Moment) {
        if let Some(found) = self.reflections.judge(at) {
            self.tell_reflection(at, services, moment, found);
        }
        self.lapse(at, Class::SynAckReflection, CALM, |_| true);
    }

    /// Whether what fails at a service is due to a reflection. Where its young attempts gave the
    /// alarm they are judged at once, since what was reset is decided.
    pub(super) fn is_reflected(
        &mut self,
        at: Timestamp,
        services: &Services,
        service: &Service,
        young: &[Failure],
        moment: &Moment,
    ) -> bool {
        if service.detector.is_fast() {
            let steps = young_steps(service);
            let window = service.windows.sum(steps.start, steps.end - 1);
            let count = each(&window, young.len());
            if let Some(found) = self.reflections.look_ahead(at, young, count) {
                self.tell_reflection(at, services, moment, found);
            }
        }
        self.reflections.explains(service.failures.kept().chain(young))
    }

    /// The same of a group, unless it is critical by its rate.
    pub(super) fn is_group_reflected(&self, subject: Subject, severity: Severity) -> bool {
        let failures = self.groups.failures(subject);
        severity < Severity::Critical
            && failures.is_some_and(|failures| self.reflections.explains(failures.kept()))
    }

    fn tell_reflection(
        &mut self,
        at: Timestamp,
        services: &Services,
        moment: &Moment,
        found: SynAckReflection,
    ) {
        let half_open_peak = moment.shards.half_open_total();
        let onset = found.onset(at, half_open_peak, moment.capture.is_dropping());
        let class = Class::SynAckReflection;
        self.tell(at, services, moment, Subject::Capture, class, Some(onset));
    }
}

/// How many failures of a window each of the sampled ones stands for.
#[expect(clippy::cast_precision_loss, reason = "at most a few hundred")]
fn each(window: &Window, sampled: usize) -> f64 {
    f64::from(window.failed()) / sampled.max(1) as f64
}
