//! Samples of attempts: a bounded number of each step, drawn as the SYNs come, and kept until their
//! fate is known.
//!
//! A sample is the attempts of the lowest *priorities* (a bottom-k sample; Cohen and Kaplan 2007).
//! A priority is a keyed hash of the attempt. So each attempt is as likely to be drawn as any
//! other, and no sender can choose its priority. The sample depends neither on the order in which
//! attempts come, nor on how they are divided among shards.

use crate::flow::FlowHash;
use crate::stats::fingerprint::SynFingerprint;
use crate::stats::window::Step;
use crate::time::Timestamp;
use crate::wire::{Address, Segment, SeqNumber};

/// Attempts that are drawn from a step, where few services have any.
const PER_STEP: usize = 64;
/// The fewest, however many services have some.
const LEAST: usize = 4;
/// Attempts that are drawn from a step of all services together.
const OF_ALL: usize = 1_024;
/// Steps whose samples are kept until they are mature.
const STEPS: usize = Step::MATURE_BY_DATA as usize + 2;

/// An attempt that was drawn.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The flow, to ask for its fate.
    pub flow: FlowHash,
    /// Its SYN's number.
    pub isn: SeqNumber,
    /// When the SYN came.
    pub at: Timestamp,
    /// Who sent it.
    pub source: Address,
    /// The address that it was sent to.
    pub destination: Address,
    /// The port that it was sent to.
    pub port: u16,
    /// What the SYN looked like.
    pub fingerprint: SynFingerprint,
}

impl Attempt {
    /// The attempt that `syn` begins.
    #[must_use]
    pub const fn new(flow: FlowHash, at: Timestamp, syn: &Segment) -> Self {
        Self {
            flow,
            isn: syn.seq,
            at,
            source: syn.source,
            destination: syn.destination,
            port: syn.destination_port,
            fingerprint: SynFingerprint::of(syn),
        }
    }

    /// The attempt that `answer` accepts, whose SYN was not seen.
    #[must_use]
    pub fn answered(flow: FlowHash, at: Timestamp, answer: &Segment) -> Self {
        let service = (answer.source, answer.source_port);
        let attempt = Self::known_by_kernel(at, answer.destination, service);
        Self { flow, isn: answer.ack - 1, ..attempt }
    }

    /// An attempt of which the kernel knows no more than the addresses and the port.
    #[must_use]
    pub fn known_by_kernel(at: Timestamp, source: Address, to: (Address, u16)) -> Self {
        let (destination, port) = to;
        let (flow, isn, fingerprint) = (FlowHash(0), SeqNumber(0), SynFingerprint::default());
        Self { flow, isn, at, source, destination, port, fingerprint }
    }
}

/// What an attempt is drawn by: the lowest are.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Priority(u64);

impl Priority {
    /// The priority of the attempt of `flow` that begins with the number `isn`. Of a sampled flow
    /// the leading bits of the hash are zero; multiplied, every bit of it counts.
    #[inline]
    #[must_use]
    pub const fn of(flow: FlowHash, isn: SeqNumber) -> Self {
        const ODD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9];
        let priority = (flow.0 ^ isn.0 as u64).wrapping_mul(ODD[0]);
        Self((priority ^ priority >> 32).wrapping_mul(ODD[1]))
    }
}

/// The sample of one step and service while it is drawn.
#[derive(Clone, Debug, Default)]
pub struct BottomK {
    /// Apart from the attempts, since they are looked through.
    priorities: Vec<Priority>,
    samples: Vec<Attempt>,
    /// Where the highest priority is, once there is room for no more.
    highest: Option<(Priority, usize)>,
    offered: u32,
}

impl BottomK {
    /// Offers an attempt to a sample of `size`.
    #[inline]
    pub fn offer(&mut self, size: usize, priority: Priority, attempt: impl FnOnce() -> Attempt) {
        self.offered += 1;
        match self.highest {
            Some((highest, _)) if priority >= highest => {}
            _ => self.take(size, priority, attempt()),
        }
    }

    fn take(&mut self, size: usize, priority: Priority, attempt: Attempt) {
        match self.highest {
            Some((_, place)) => (self.priorities[place], self.samples[place]) = (priority, attempt),
            None => {
                if self.samples.capacity() == 0 {
                    self.priorities.reserve_exact(size);
                    self.samples.reserve_exact(size);
                }
                self.priorities.push(priority);
                self.samples.push(attempt);
            }
        }
        if self.priorities.len() >= size {
            self.highest = self.priorities.iter().copied().zip(0..).max();
        }
    }

    /// Begins anew; the memory of a sample of `size` is kept where the last one needed any.
    fn clear(&mut self, size: usize) {
        let size = if self.offered > 0 { size } else { 0 };
        self.priorities.clear();
        self.priorities.shrink_to(size);
        self.samples.clear();
        self.samples.shrink_to(size);
        self.highest = None;
        self.offered = 0;
    }
}

/// The samples of one service, of the last steps.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    steps: [Vec<Attempt>; STEPS],
    /// Attempts that there were to draw from in the last step.
    offered: u32,
}

impl Samples {
    /// How many attempts of each service may be drawn in a step, where `all` are the samples that
    /// they have: the more of them there are, the fewer of each, so that neither memory nor the
    /// work at the end of a step grows with them.
    pub fn size<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> usize {
        let offered = all.map(|samples| samples.offered as usize);
        let mut size = PER_STEP;
        while size > LEAST
            && offered.clone().map(|offered| offered.min(size)).sum::<usize>() > OF_ALL
        {
            size /= 2;
        }
        size
    }

    /// Ends `step` with the sample of `size` of what all `draws` together were offered, and empties
    /// these for the next.
    pub fn end<'a>(
        &mut self,
        step: Step,
        size: usize,
        draws: impl Iterator<Item = &'a mut BottomK>,
    ) {
        let sample = &mut self.steps[step.0 as usize % STEPS];
        sample.clear();
        self.offered = 0;
        let (mut priorities, mut all): (Vec<(Priority, usize)>, Vec<Attempt>) = Default::default();
        for draw in draws {
            self.offered = self.offered.saturating_add(draw.offered);
            priorities.extend(draw.priorities.iter().copied().zip(all.len()..));
            all.extend_from_slice(&draw.samples);
            draw.clear(size);
        }
        priorities.sort_unstable();
        sample.extend(priorities.into_iter().take(size).map(|(_, place)| all[place]));
        sample.shrink_to(size);
    }

    /// The attempts drawn in `step`.
    #[must_use]
    pub fn of(&self, step: Step) -> &[Attempt] {
        &self.steps[step.0 as usize % STEPS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::state_test_segment;
    use crate::wire::Flags;

    fn attempts(round: u64) -> impl Iterator<Item = (Priority, Attempt)> {
        (0..100).map(move |n| {
            let flow = FlowHash((round * 100 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let syn = state_test_segment(Flags::SYN, n as u32, 0);
            (Priority::of(flow, syn.seq), Attempt::new(flow, Timestamp::EPOCH, &syn))
        })
    }

    fn isns(drawn: &Samples) -> Vec<u32> {
        drawn.of(Step(3)).iter().map(|attempt| attempt.isn.0).collect()
    }

    #[test]
    fn the_sample_of_a_step_is_uniform() {
        let mut times = [0_u32; 100];
        let (mut draw, mut drawn) = (BottomK::default(), Samples::default());
        for round in 0..2_000 {
            for (priority, attempt) in attempts(round) {
                draw.offer(PER_STEP, priority, || attempt);
            }
            drawn.end(Step(3), PER_STEP, std::iter::once(&mut draw));
            assert_eq!(drawn.of(Step(3)).len(), PER_STEP);
            for isn in isns(&drawn) {
                times[isn as usize] += 1;
            }
        }
        // 1,280 each are expected, with a standard deviation of 21.
        assert!(times.iter().all(|n| (1_160..1_400).contains(n)), "{times:?}");
    }

    #[test]
    fn neither_order_nor_division_changes_a_sample() {
        let (mut whole, mut parts) = (BottomK::default(), vec![BottomK::default(); 3]);
        for (priority, attempt) in attempts(1) {
            whole.offer(16, priority, || attempt);
        }
        let mut backwards: Vec<_> = attempts(1).collect();
        backwards.reverse();
        for (n, (priority, attempt)) in backwards.into_iter().enumerate() {
            parts[n % 3].offer(16, priority, || attempt);
        }
        let (mut one, mut merged) = (Samples::default(), Samples::default());
        one.end(Step(3), 16, std::iter::once(&mut whole));
        merged.end(Step(3), 16, parts.iter_mut());
        assert_eq!(isns(&one), isns(&merged));
        assert_eq!(one.offered, merged.offered);
        assert!(whole.samples.is_empty() && whole.highest.is_none());
    }
}
