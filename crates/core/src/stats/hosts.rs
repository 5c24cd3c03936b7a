//! What each watched host gets, over all of its ports: the view in which one source that tries port
//! after port at a flood's rate stands out.

use std::collections::HashMap;

use crate::flow::Hasher;
use crate::stats::failures::source_of;
use crate::stats::sketch::Keyed;
use crate::stats::window::Step;
use crate::wire::Address;

/// Hosts that are followed at once; further ones have to wait for a step without traffic.
const LIMIT: usize = 256;
const GUESSES: usize = 64;
/// So many segments that answer nothing must have been looked at, however many they stand for.
const STRAYS: u32 = 12;
/// Steps that are judged.
const JUDGED: usize = 3;
/// Steps that are kept: these, the one that has just ended, and the next, which may have begun.
const KEPT: usize = JUDGED + 2;

/// One step of a host.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    attempts: u32,
    completed: u32,
    /// The source that may hold the majority (Boyer and Moore 1981), its votes, and how many
    /// attempts it made since it was chosen.
    candidate: Option<Address>,
    votes: u32,
    made: u32,
    /// SYN-ACKs and RSTs towards it that answer nothing, and a bitmap of who sent them.
    strays: u32,
    senders: u64,
    /// How many of them were looked at.
    seen: u32,
}

impl Tally {
    /// Adds what was counted elsewhere of the same step and host. A source with the majority has it
    /// wherever its segments are counted, as they are divided by a hash of their ports too.
    fn add(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.completed += other.completed;
        if self.candidate == other.candidate {
            self.votes += other.votes;
            self.made += other.made;
        } else if self.votes < other.votes {
            (self.candidate, self.votes, self.made) = (other.candidate, other.votes, other.made);
        }
        self.strays += other.strays;
        self.senders |= other.senders;
        self.seen += other.seen;
    }
}

/// What hosts got in the last steps, the youngest first.
pub struct LastSteps(Vec<(Address, [Tally; JUDGED])>);

/// The hosts.
pub struct Hosts {
    list: Vec<(Address, [Tally; KEPT])>,
    places: HashMap<Address, usize, Keyed>,
    /// Where a host was found the last time, by the end of its address: right more often than not.
    guesses: [usize; GUESSES],
    hasher: Hasher,
    step: Step,
}

/// A source that sends more than a flood's worth of SYNs at one host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SingleSourceFlood {
    /// The host.
    pub host: Address,
    /// The source.
    pub source: Address,
    /// Its share of the attempts.
    pub share: f64,
    /// Attempts per second.
    pub rate: f64,
    /// Share of the attempts that completed.
    pub completed: f64,
}

/// A host that gets answers to what it never asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StrayAnswers {
    /// The host.
    pub host: Address,
    /// Such segments per second.
    pub rate: f64,
    /// Senders that can be told apart, 64 at most.
    pub senders: u32,
}

impl Hosts {
    /// No hosts yet.
    #[must_use]
    pub fn new(hasher: Hasher) -> Self {
        let places = HashMap::with_hasher(Keyed(hasher));
        Self { list: Vec::new(), places, guesses: [0; GUESSES], hasher, step: Step(0) }
    }

    /// Begins a step.
    pub fn begin(&mut self, step: Step) {
        let passed = (step.0 - self.step.0).min(KEPT as u32);
        for (_, tallies) in &mut self.list {
            for ago in 0..passed {
                tallies[(step.0 - ago) as usize % KEPT] = Tally::default();
            }
        }
        let before = self.list.len();
        self.list.retain(|(_, tallies)| tallies.iter().any(|t| t.attempts > 0 || t.strays > 0));
        if self.list.len() < before {
            self.places.clear();
            self.places.extend(self.list.iter().zip(0..).map(|((host, _), place)| (*host, place)));
        }
        self.step = step;
    }

    fn place(&mut self, host: Address) -> Option<usize> {
        let guess = (host.to_bits() % GUESSES as u128) as usize;
        let guessed = self.guesses[guess];
        if self.list.get(guessed).is_some_and(|(there, _)| *there == host) {
            return Some(guessed);
        }
        let place = *self.places.get(&host)?;
        self.guesses[guess] = place;
        Some(place)
    }

    fn tally(&mut self, host: Address) -> Option<&mut Tally> {
        let place = match self.place(host) {
            Some(place) => place,
            None if self.list.len() < LIMIT => {
                self.places.insert(host, self.list.len());
                self.list.push((host, Default::default()));
                self.list.len() - 1
            }
            None => return None,
        };
        Some(&mut self.list[place].1[self.step.0 as usize % KEPT])
    }

    /// Counts a SYN-ACK or RST towards `host` that answers nothing.
    pub fn stray(&mut self, host: Address, sender: Address, weight: u32) {
        let bit = 1 << (self.hasher.address(sender) % 64);
        if let Some(tally) = self.tally(host) {
            tally.strays += weight;
            tally.seen += 1;
            tally.senders |= bit;
        }
    }

    /// Counts an attempt.
    pub fn attempt(&mut self, host: Address, source: Address, weight: u32) {
        let Some(tally) = self.tally(host) else { return };
        let source = Some(source_of(source));
        tally.attempts += weight;
        if tally.votes == 0 {
            tally.candidate = source;
            tally.made = 0;
        }
        if tally.candidate == source {
            tally.votes += weight;
            tally.made += weight;
        } else {
            tally.votes = tally.votes.saturating_sub(weight);
        }
    }

    /// Counts a completion of an attempt that began in `step`.
    pub fn complete(&mut self, host: Address, step: Step, weight: u32) {
        if step <= self.step
            && self.step.0 - step.0 < KEPT as u32
            && let Some(place) = self.place(host)
        {
            self.list[place].1[step.0 as usize % KEPT].completed += weight;
        }
    }
}

impl LastSteps {
    /// What all of `parts` together have counted in the steps before `step`.
    #[must_use]
    pub fn before<'a>(step: Step, parts: impl Iterator<Item = &'a Hosts>) -> Self {
        let mut all: Vec<(Address, [Tally; JUDGED])> = Vec::new();
        for part in parts {
            all.extend(part.list.iter().map(|(host, tallies)| {
                let of = |ago| step.before(ago).map(|step| tallies[step.0 as usize % KEPT]);
                (*host, [1, 2, 3].map(|ago| of(ago).unwrap_or_default()))
            }));
        }
        all.sort_unstable_by_key(|(host, _)| *host);
        all.dedup_by(|(host, more), (kept, sum)| {
            let same = host == kept;
            if same {
                sum.iter_mut().zip(more).for_each(|(sum, more)| sum.add(more));
            }
            same
        });
        Self(all)
    }

    /// Hosts at which more than `per_step` segments that answer nothing arrived in each of the last
    /// steps.
    pub fn stray_answers(&self, per_step: u32) -> impl Iterator<Item = StrayAnswers> {
        self.0.iter().filter_map(move |(host, last)| {
            let strays: u32 = last.iter().map(|tally| tally.strays).sum();
            let attempts: u32 = last.iter().map(|tally| tally.attempts).sum();
            let senders = last.iter().fold(0, |senders, tally| senders | tally.senders);
            let steady = last.iter().all(|tally| tally.strays > per_step / 2);
            let seen = last.iter().map(|tally| tally.seen).sum::<u32>() >= STRAYS;
            (seen && steady && strays > per_step * 3 && strays > attempts).then(|| StrayAnswers {
                host: *host,
                rate: f64::from(strays) / 0.75,
                senders: senders.count_ones(),
            })
        })
    }

    /// Hosts at which one source sent at least `per_step` attempts in each of the last two steps,
    /// most of which did not complete.
    pub fn single_source_floods(&self, per_step: u32) -> impl Iterator<Item = SingleSourceFlood> {
        self.0.iter().filter_map(move |(host, [last, first, _])| {
            let pair = [first, last];
            let source = first.candidate?;
            let steady = pair.iter().all(|t| t.candidate == Some(source) && t.made >= per_step);
            let attempts: u32 = pair.iter().map(|tally| tally.attempts).sum();
            let completed: u32 = pair.iter().map(|tally| tally.completed).sum();
            let made: u32 = pair.iter().map(|tally| tally.made).sum();
            let completed = f64::from(completed) / f64::from(attempts.max(1));
            (steady && completed < 0.3).then(|| SingleSourceFlood {
                host: *host,
                source,
                share: f64::from(made) / f64::from(attempts),
                rate: f64::from(attempts) * 2.0,
                completed,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::HashKey;

    #[test]
    fn one_source_stands_out() {
        let mut hosts = Hosts::new(Hasher::new(HashKey([1; 16])));
        let (host, source) = (Address::v4([192, 0, 2, 1]), Address::v4([203, 0, 113, 5]));
        for step in 1..4 {
            hosts.begin(Step(step));
            for n in 0..1_500_u32 {
                let forged = Address::v4(n.to_be_bytes());
                hosts.attempt(host, if n % 5 == 0 { forged } else { source }, 1);
            }
        }
        let tilted = |hosts: &Hosts, per_step| {
            let last = LastSteps::before(Step(3), std::iter::once(hosts));
            last.single_source_floods(per_step).collect::<Vec<_>>()
        };
        let tilt = tilted(&hosts, 1_000);
        assert_eq!(tilt.len(), 1);
        assert_eq!((tilt[0].host, tilt[0].source), (host, source));
        assert!(tilted(&hosts, 1_400).is_empty());
        for _ in 0..600 {
            hosts.complete(host, Step(1), 1);
            hosts.complete(host, Step(2), 1);
        }
        assert!(tilted(&hosts, 1_000).is_empty(), "a benchmark completes");
        hosts.begin(Step(40));
        assert!(hosts.list.is_empty() && hosts.places.is_empty());
    }

    #[test]
    fn hosts_that_are_counted_in_parts_are_judged_as_one() {
        let hasher = Hasher::new(HashKey([1; 16]));
        let mut parts = [Hosts::new(hasher), Hosts::new(hasher)];
        let (host, source) = (Address::v4([192, 0, 2, 1]), Address::v4([203, 0, 113, 5]));
        for step in 1..4 {
            for (part, hosts) in (0..).zip(&mut parts) {
                hosts.begin(Step(step));
                for n in 0..750_u32 {
                    let forged = Address::v4((n << 1 | part).to_be_bytes());
                    hosts.attempt(host, if n % 5 == 0 { forged } else { source }, 1);
                    hosts.stray(host, forged, 3);
                }
            }
        }
        let last = LastSteps::before(Step(4), parts.iter());
        let tilt: Vec<_> = last.single_source_floods(1_000).collect();
        assert_eq!(tilt.len(), 1);
        assert_eq!((tilt[0].source, tilt[0].rate), (source, 3_000.0 * 2.0));
        let backscatter: Vec<_> = last.stray_answers(4_000).collect();
        assert_eq!((backscatter.len(), backscatter[0].rate), (1, 13_500.0 / 0.75));
    }
}
