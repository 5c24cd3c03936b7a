//! Counts of one service by step.

use std::time::Duration;

use crate::flow::{BIN, Standing};

/// The detector's step, D: 250 ms, four bins of the flow calendars.
pub const STEP: Duration = Duration::from_millis(250);
/// Bins per step.
pub(crate) const BINS: u32 = 4;
const _: () = assert!(BIN.as_nanos() * BINS as u128 == STEP.as_nanos());

/// A step since the engine's start.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Step(pub u32);

impl Step {
    /// An attempt that has not completed after tau = 1.5 s has failed; so many steps after its own
    /// a step is judged.
    pub const MATURE: u32 = 6;
    /// The same where the server's data has to show that an attempt completed: all steps that the
    /// [`Windows`] hold, 3.75 s.
    pub const MATURE_BY_DATA: u32 = Windows::KEPT as u32 - 1;

    /// The step `steps` earlier; `None` before the start.
    #[must_use]
    pub fn before(self, steps: u32) -> Option<Self> {
        self.0.checked_sub(steps).map(Self)
    }
}

/// What happened to the attempts that began in one step.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Window {
    /// SYNs that arrived, repeats included.
    pub syn: u32,
    /// SYN-ACKs that the service sent, repeats included.
    pub syn_ack: u32,
    /// Attempts without an answer (yet).
    pub unanswered: u32,
    /// Attempts with an answer.
    pub answered: u32,
    /// Those of the answered that completed.
    pub completed: u32,
    /// Those of the answered that their client reset.
    pub reset: u32,
    /// Attempts that the service refused.
    pub refused: u32,
    /// SYN-ACKs that came again after the client had acknowledged them, by the step that they came
    /// in.
    pub resent_after_ack: u32,
    /// Attempts from muted sources, which count nowhere else.
    pub ignored: u32,
}

impl Window {
    /// Answered attempts that did not complete.
    #[must_use]
    pub const fn failed(&self) -> u32 {
        self.answered.saturating_sub(self.completed)
    }

    /// What the differences come to. Only where the level of sampling changes in an attempt's life
    /// can they come to less than nothing: each of those taken off may stand for more than each of
    /// those counted.
    const fn sum(&self) -> Self {
        const fn count(sum: u32) -> u32 {
            if sum.cast_signed() < 0 { 0 } else { sum }
        }
        Self {
            syn: self.syn,
            syn_ack: self.syn_ack,
            unanswered: count(self.unanswered),
            answered: count(self.answered),
            completed: count(self.completed),
            reset: count(self.reset),
            refused: count(self.refused),
            resent_after_ack: self.resent_after_ack,
            ignored: self.ignored,
        }
    }

    /// Adds the differences that were counted elsewhere. What is taken off an earlier step is below
    /// zero there, modulo 2^32; the sum over all who count is not.
    pub const fn add(&mut self, other: &Self) {
        self.syn = self.syn.wrapping_add(other.syn);
        self.syn_ack = self.syn_ack.wrapping_add(other.syn_ack);
        self.unanswered = self.unanswered.wrapping_add(other.unanswered);
        self.answered = self.answered.wrapping_add(other.answered);
        self.completed = self.completed.wrapping_add(other.completed);
        self.reset = self.reset.wrapping_add(other.reset);
        self.refused = self.refused.wrapping_add(other.refused);
        self.resent_after_ack = self.resent_after_ack.wrapping_add(other.resent_after_ack);
        self.ignored = self.ignored.wrapping_add(other.ignored);
    }
}

/// What was counted of the attempts that began in one step, as differences: what is taken off an
/// attempt that was counted elsewhere is below zero here, modulo 2^32.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// SYNs that arrived, repeats included.
    pub syn: u32,
    /// SYN-ACKs that the service sent, repeats included.
    pub syn_ack: u32,
    /// As [`Window::resent_after_ack`].
    pub resent_after_ack: u32,
    /// As [`Window::ignored`].
    pub ignored: u32,
    /// Attempts by where they stand.
    standings: [u32; Standing::COUNT],
}

impl Changes {
    /// Counts `weight` attempts more that stand so.
    #[inline]
    pub const fn enter(&mut self, standing: Standing, weight: u32) {
        let count = &mut self.standings[standing as usize];
        *count = count.wrapping_add(weight);
    }

    /// Takes `weight` attempts off that stood so.
    #[inline]
    pub const fn leave(&mut self, standing: Standing, weight: u32) {
        let count = &mut self.standings[standing as usize];
        *count = count.wrapping_sub(weight);
    }

    /// The same as differences of a window.
    #[must_use]
    pub fn window(&self) -> Window {
        let count = |standings: &[Standing]| {
            let counts = standings.iter().map(|standing| self.standings[*standing as usize]);
            counts.fold(0, u32::wrapping_add)
        };
        let completed = count(&[Standing::Completed, Standing::Presumed]);
        let reset = count(&[Standing::ResetByClient]);
        let half_open = count(&[Standing::HalfOpen]);
        Window {
            syn: self.syn,
            syn_ack: self.syn_ack,
            unanswered: count(&[Standing::Asked, Standing::Withdrawn]),
            answered: half_open.wrapping_add(completed).wrapping_add(reset),
            completed,
            reset,
            refused: count(&[Standing::Refused, Standing::ResetByServer]),
            resent_after_ack: self.resent_after_ack,
            ignored: self.ignored,
        }
    }
}

/// The windows of the last 16 steps, 4 s.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    ring: [Window; Self::KEPT],
    now: Step,
}

impl Windows {
    /// Steps that are kept; the place of a step is its number modulo this.
    pub const KEPT: usize = 16;

    /// Begins step `now`; steps in between were empty.
    pub fn begin(&mut self, now: Step) {
        let passed = now.0.saturating_sub(self.now.0) as usize;
        for step in 0..passed.min(Self::KEPT) {
            self.ring[(now.0 as usize - step) % Self::KEPT] = Window::default();
        }
        self.now = now;
    }

    /// The window of `step` for counting, where it is still kept.
    pub fn at(&mut self, step: Step) -> Option<&mut Window> {
        let kept = step <= self.now && self.now.0 - step.0 < Self::KEPT as u32;
        kept.then(|| &mut self.ring[step.0 as usize % Self::KEPT])
    }

    /// The window in a place, but for the oldest, whose place is that of the step to come.
    pub fn in_place(&mut self, place: usize) -> Option<&mut Window> {
        let next = (self.now.0 as usize + 1) % Self::KEPT;
        (place != next).then(|| &mut self.ring[place])
    }

    /// The window of `step`; empty where it is not kept.
    #[must_use]
    pub fn get(&self, step: Step) -> Window {
        let kept = step <= self.now && self.now.0 - step.0 < Self::KEPT as u32;
        if kept { self.ring[step.0 as usize % Self::KEPT].sum() } else { Window::default() }
    }

    /// The sum of the windows from `youngest` to `oldest` steps before the present one.
    #[must_use]
    pub fn sum(&self, youngest: u32, oldest: u32) -> Window {
        let mut sum = Window::default();
        for step in (youngest..=oldest).filter_map(|ago| self.now.before(ago)) {
            sum.add(&self.get(step));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_kept_for_sixteen_steps() {
        let mut windows = Windows::default();
        windows.at(Step(0)).expect("the present step").syn = 7;
        windows.begin(Step(15));
        assert_eq!(windows.get(Step(0)).syn, 7);
        assert_eq!(windows.sum(15, 15).syn, 7);
        windows.begin(Step(16));
        assert_eq!(windows.get(Step(0)).syn, 0);
        assert!(windows.at(Step(0)).is_none());
        assert!(windows.at(Step(17)).is_none());
        windows.at(Step(16)).expect("the present step").syn = 1;
        windows.begin(Step(4_000));
        assert_eq!(windows.sum(0, 15), Window::default());
    }
}
