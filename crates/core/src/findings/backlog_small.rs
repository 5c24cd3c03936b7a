//! Honest clients come in bursts that the SYN queue has no room for: not an attack, but some of
//! them wait.

use std::time::Duration;

use crate::findings::{Onset, Room};
use crate::time::Timestamp;

/// So many looks at the kernel within this time must show that requests were turned away.
const LOOKS: u32 = 3;
const MEMORY: Duration = Duration::from_secs(60);
/// Share of the attempts that complete, at least, where clients are honest: with cookies nearly all
/// do, and without them those that ask again.
const HONEST: f64 = 0.5;

/// A SYN queue that is too short for its clients.
#[derive(Clone, Copy, Debug)]
pub struct BacklogSmall {
    /// SYNs in the last burst, and the time that it was counted over.
    pub arrivals: u32,
    /// See `arrivals`.
    pub span: Duration,
    /// Looks at the kernel that showed it, of late.
    pub looks: u32,
    /// The backlog of one listening socket, where it is known.
    pub listen: Option<u32>,
    /// `net.core.somaxconn`, where it is known.
    pub somaxconn: Option<u32>,
}

/// What it is judged by, at a look at the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burst {
    /// The kernel has turned requests away since the look before, because a queue was full.
    pub turned_away: bool,
    /// SYNs that have come meanwhile.
    pub arrivals: u32,
    /// How many fit into the queue.
    pub room: u32,
    /// Share of the attempts that completed.
    pub completed: f64,
}

impl Burst {
    /// Whether honest clients have overrun the queue. The kernel does not say whose queue was full;
    /// it can only have been one that as many came to as have room there.
    const fn overruns(self) -> bool {
        self.turned_away && self.arrivals >= self.room && self.completed >= HONEST
    }
}

/// How often honest clients have overrun a queue of late.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Overruns {
    looks: u32,
    arrivals: u32,
    last: Timestamp,
}

impl Overruns {
    /// Takes in what a look at the kernel has shown.
    pub(crate) const fn look(&mut self, at: Timestamp, burst: Burst) {
        if burst.overruns() {
            self.looks = self.looks(at).saturating_add(1);
            (self.arrivals, self.last) = (burst.arrivals, at);
        }
    }

    /// Such looks as of `at`.
    const fn looks(&self, at: Timestamp) -> u32 {
        if at.since(self.last).as_nanos() < MEMORY.as_nanos() { self.looks } else { 0 }
    }

    /// SYNs of the last burst, and the looks that showed one, where these are enough.
    pub(crate) fn enough(&self, at: Timestamp) -> Option<(u32, u32)> {
        let looks = self.looks(at);
        (looks >= LOOKS).then_some((self.arrivals, looks))
    }
}

impl Room for BacklogSmall {
    const TITLE: &'static str = "small backlog";
    const EVENT: u32 = 10;
    const CATEGORY: &'static str = "Misc activity";

    fn sentence(&self, onset: &Onset) -> String {
        format!(
            "Bursts of clients overflow the SYN queue of {}: {} SYNs came within {:.1} s, and {} \
             fit. {} looks at the kernel showed requests turned away, and {:.0} % of the attempts \
             complete: not an attack.",
            onset.place(),
            self.arrivals,
            self.span.as_secs_f64(),
            onset.evidence.backlog.unwrap_or_default(),
            self.looks,
            onset.completed()
        )
    }

    fn advice(&self, _: &Onset) -> Vec<String> {
        let Some(listen) = self.listen else { return Vec::new() };
        vec![match self.somaxconn {
            Some(somaxconn) if listen >= somaxconn => format!(
                "net.core.somaxconn={somaxconn} limits the backlog: raise it, let the application \
                 ask listen() for as much, and restart the application."
            ),
            _ => format!(
                "The backlog of the socket is {listen}: let the application ask listen() for more, \
                 and restart it."
            ),
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: Burst = Burst { turned_away: true, arrivals: 60, room: 5, completed: 0.9 };

    /// Whether it is told after a burst every `seconds`.
    fn told(times: u64, seconds: u64, burst: Burst) -> bool {
        let mut overruns = Overruns::default();
        let mut at = Timestamp::EPOCH + Duration::from_secs(1_000);
        for _ in 0..times {
            at = at + Duration::from_secs(seconds);
            overruns.look(at, burst);
        }
        overruns.enough(at).is_some()
    }

    #[test]
    fn honest_bursts_are_told_once_they_come_again() {
        assert!(told(3, 3, BURST));
        assert!(!told(2, 3, BURST));
        assert!(!told(9, 60, BURST), "one a minute");
        assert!(!told(9, 3, Burst { turned_away: false, ..BURST }));
        assert!(!told(9, 3, Burst { arrivals: 4, ..BURST }), "the queue of another service");
        assert!(!told(9, 3, Burst { completed: 0.4, ..BURST }), "not honest");
    }
}
