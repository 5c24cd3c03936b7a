//! SYNs in the name of a victim: the answers are the attack, and hit the victim.
//!
//! Few networks "ask", and ask the same services again. A victim resets the answers after one round
//! trip, since it did not ask; who floods a queue would free its places by that. One behind a
//! firewall resets nothing, and is only told from who floods by asking several services, none of
//! which gets most of it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::findings::{Configured, Finding, Grounds, Onset, Room};
use crate::model::{Evidence, PrefixShare, Severity, Target};
use crate::stats::{Failure, common_prefix};
use crate::time::Timestamp;
use crate::wire::Address;

/// Answers to victims per second: as many as are backscatter at the other end.
const LIMIT: u32 = 100;
/// Half of that in one step will do.
const PART_OF_LIMIT: f64 = 0.5;
/// The most networks that are victims at once, and the answers per second that make each one.
const NETWORKS: usize = 8;
const PER_NETWORK: f64 = 20.0;
/// Share of the answers that victims reset, since they did not ask.
const RESET: f64 = 0.5;
/// A reset comes after one round trip: before the server repeats its answer (RFC 6298: 1 s).
const ROUND_TRIP: Duration = Duration::from_secs(1);
/// Services that are asked where the victims reset nothing, and the share that each may have.
const SERVICES: usize = 3;
const SERVICE_SHARE: f64 = 0.5;
/// Who asks each service only once scans.
const PER_SERVICE: usize = 2;
/// Failures that have to be looked at.
const ENOUGH: usize = 16;
/// The time that attempts are counted over.
const SPAN: Duration = Duration::from_secs(1);
/// How long victims are remembered: longer than a detector takes to clear.
const MEMORY: Duration = Duration::from_secs(120);

/// Attempts whose sources did not make them.
#[derive(Clone, Debug)]
pub struct SynAckReflection {
    /// Such attempts per second.
    pub rate: f64,
    /// The limit.
    pub limit: u32,
    /// Share that the victims reset within a round trip.
    pub reset: f64,
    /// The limit of that share.
    pub reset_limit: f64,
    /// Services that they were sent to, among the sampled ones.
    pub services: usize,
    /// Distinct sources among these.
    pub sources: usize,
    /// How many were looked at.
    sampled: usize,
    /// The longest prefix of each network that holds its victims, the most frequent first.
    victims: Vec<PrefixShare>,
    target: Target,
    target_prefix: Option<ipnet::IpNet>,
}

/// Attempts that were answered and failed, as many as one of the sampled stands for.
#[derive(Clone, Copy)]
struct Asked {
    /// The end of the step that they were judged in.
    at: Timestamp,
    source: Address,
    service: (Address, u16),
    /// Reset within a round trip.
    reset: bool,
    count: f64,
}

/// Looks for victims among the sources of the attempts that fail.
#[derive(Default)]
pub(crate) struct Reflections {
    /// The attempts of the last second.
    asked: VecDeque<Asked>,
    /// The networks of the victims, and when each was last seen.
    victims: Vec<(Address, Timestamp)>,
}

impl Reflections {
    /// Takes in `failures` that were judged at `at`, each of which stands for `count`. Repeated as
    /// honest clients do, they are no victim's.
    pub fn take_in<'a>(
        &mut self,
        at: Timestamp,
        failures: impl Iterator<Item = &'a Failure>,
        count: f64,
    ) {
        let asked = failures.filter(|failure| !failure.retransmitted);
        self.asked.extend(asked.map(|failure| Asked {
            at,
            source: failure.attempt.source,
            service: (failure.attempt.destination, failure.attempt.port),
            reset: failure.reset.is_some_and(|after| after < ROUND_TRIP),
            count,
        }));
    }

    /// Judges the attempts of the last second.
    pub fn judge(&mut self, at: Timestamp) -> Option<SynAckReflection> {
        while self.asked.front().is_some_and(|asked| at - asked.at >= SPAN) {
            self.asked.pop_front();
        }
        self.victims.retain(|(_, seen)| at - *seen < MEMORY);
        let asked: Vec<Asked> = self.asked.iter().copied().collect();
        self.judge_all(at, asked)
    }

    /// Judges `younger` failures of one second that have not matured, each of which stands for
    /// `count`: what was reset is decided.
    pub fn look_ahead(
        &mut self,
        at: Timestamp,
        younger: &[Failure],
        count: f64,
    ) -> Option<SynAckReflection> {
        let mut ahead = Self::default();
        ahead.take_in(at, younger.iter(), count);
        self.judge_all(at, ahead.asked.into())
    }

    fn judge_all(&mut self, at: Timestamp, asked: Vec<Asked>) -> Option<SynAckReflection> {
        let found = SynAckReflection::judge(at, asked)?;
        for victim in &found.victims {
            let network = network_of(victim.prefix.addr().into());
            self.victims.retain(|(known, _)| *known != network);
            self.victims.push((network, at));
        }
        Some(found)
    }

    /// Whether failures are those of a reflection: at least half of them bear a victim's name. As
    /// long as victims are remembered, nothing else follows from a few.
    pub fn explains<'a>(&self, failures: impl Iterator<Item = &'a Failure>) -> bool {
        if self.victims.is_empty() {
            return false;
        }
        let (mut all, mut explained) = (0, 0);
        for failure in failures {
            let network = network_of(failure.attempt.source);
            all += 1;
            explained += usize::from(self.victims.iter().any(|(known, _)| *known == network));
        }
        all < ENOUGH || explained * 2 >= all
    }
}

impl SynAckReflection {
    /// Judges answered attempts of the last second that failed.
    fn judge(now: Timestamp, mut asked: Vec<Asked>) -> Option<Self> {
        asked.sort_unstable_by_key(|asked| (network_of(asked.source), asked.source));
        let sum = |asked: &[Asked]| asked.iter().map(|asked| asked.count).sum::<f64>();
        let mut networks: Vec<&[Asked]> = asked
            .chunk_by(|a, b| network_of(a.source) == network_of(b.source))
            .filter(|network| network.len() > 2 && sum(network) >= PER_NETWORK)
            .collect();
        if networks.is_empty() || networks.len() > NETWORKS {
            return None;
        }
        networks.sort_by(|a, b| sum(b).total_cmp(&sum(a)));
        let mut to_victims = networks.concat();
        let total = sum(&to_victims);
        let share = |part: f64| part / total;
        let part = |test: &dyn Fn(&Asked) -> bool| {
            to_victims.iter().filter(|asked| test(asked)).map(|asked| asked.count).sum::<f64>()
        };
        let limit = f64::from(LIMIT);
        let sudden = part(&|asked| asked.at == now) >= PART_OF_LIMIT * limit;
        if to_victims.len() < ENOUGH || (total < limit && !sudden) {
            return None;
        }
        let reset = share(part(&|asked| asked.reset));
        let sources = to_victims.chunk_by(|a, b| a.source == b.source).count();
        let prefix = |network: &[Asked]| common_prefix(network.iter().map(|asked| asked.source));
        let victims = networks.iter().filter_map(|network| {
            Some(PrefixShare { prefix: prefix(network)?, share: share(sum(network)) })
        });
        let victims = victims.collect();

        to_victims.sort_unstable_by_key(|asked| asked.service);
        let most = |same: fn(&Asked, &Asked) -> bool| {
            let of_most = to_victims.chunk_by(same).max_by(|a, b| sum(a).total_cmp(&sum(b)));
            of_most.map_or((None, 0.0), |most| (Some(most[0].service), share(sum(most))))
        };
        let (service, of_service) = most(|a, b| a.service == b.service);
        let (host, of_host) = most(|a, b| a.service.0 == b.service.0);
        let services = to_victims.chunk_by(|a, b| a.service == b.service).count();
        let spread = services >= SERVICES && of_service < SERVICE_SHARE;
        let again = to_victims.len() >= PER_SERVICE * services;
        let host = host.filter(|_| of_host >= 0.5).map(|(host, _)| host.into());
        let hosts = to_victims.iter().map(|asked| asked.service.0);
        (again && (reset >= RESET || spread)).then(|| Self {
            rate: total,
            limit: LIMIT,
            reset,
            reset_limit: RESET,
            services,
            sources,
            sampled: to_victims.len(),
            victims,
            target: Target {
                address: host,
                port: service.filter(|_| of_service >= 0.5).map(|(_, port)| port),
            },
            target_prefix: common_prefix(hosts)
                .filter(|prefix| host.is_none() && prefix.prefix_len() >= 8),
        })
    }

    /// Whether the victims say themselves that they did not ask.
    fn is_certain(&self) -> bool {
        self.reset >= self.reset_limit
    }

    /// The finding at `at`.
    pub(crate) fn onset(self, at: Timestamp, half_open_peak: u64, dropping: bool) -> Onset {
        let level = if self.is_certain() { self.rate / f64::from(self.limit) } else { 1.0 };
        Onset {
            variant: None,
            severity: Severity::Warning,
            target: self.target,
            target_prefix: self.target_prefix,
            attacker: None,
            first_packet_at: at.before(SPAN),
            evidence: Evidence {
                syn_rate: self.rate.into(),
                half_open_peak: half_open_peak.into(),
                sources: self.sources as u64,
                top_prefixes: self.victims.clone(),
                ..Evidence::default()
            },
            grounds: Grounds { level, failures: self.sampled, dropping, ..Grounds::default() },
            configured: Configured::default(),
            finding: Finding::SynAckReflection(self),
        }
    }
}

/// The network that the victims of a reflection share.
const fn network_of(address: Address) -> Address {
    address.prefix(if address.is_ipv4() { 20 } else { 48 })
}

impl Room for SynAckReflection {
    const TITLE: &'static str = "SYN-ACK reflection";
    const EVENT: u32 = 4;
    const CATEGORY: &'static str = "Attempted Denial of Service";

    fn sentence(&self, onset: &Onset) -> String {
        let names = match &onset.evidence.top_prefixes[..] {
            [] => "few networks".to_owned(),
            [one] => one.prefix.to_string(),
            [first, others @ ..] => format!("{} and {} more", first.prefix, others.len()),
        };
        let conclusion = if self.is_certain() {
            format!(
                "{:.0} % of the answers are reset within a round trip (limit: {:.0} %): who resets \
                 them did not ask, and is the victim of a reflection.",
                100.0 * self.reset,
                100.0 * self.reset_limit
            )
        } else {
            format!(
                "{:.0} % of the answers are reset: possibly a reflection, whose victim sends no \
                 RST because it sits behind a firewall.",
                100.0 * self.reset
            )
        };
        format!(
            "{:.0} SYN/s in the name of {names} arrive at {} services of {} (limit: {}/s) and do \
             not complete, and {conclusion}",
            self.rate,
            self.services,
            onset.place(),
            self.limit
        )
    }

    fn advice(&self, _: &Onset) -> Vec<String> {
        vec![
            "Do not block the sources, they are the victims: limit the SYN-ACKs per second to each \
             destination, so that this host adds little to the attack."
                .to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{FlowHash, state_test_segment};
    use crate::stats::Attempt;
    use crate::wire::Flags;

    const NOW: Timestamp = Timestamp::from_nanos(10_000_000_000);
    const QUICK: Option<Duration> = Some(Duration::from_millis(40));
    const LATE: Option<Duration> = Some(Duration::from_millis(1_400));

    /// 40 failures of a step: those of the n-th by its source, port and time until its reset.
    fn failures(of: impl Fn(u32) -> (Address, u16, Option<Duration>)) -> Vec<Failure> {
        let failure = |n| {
            let (source, port, reset) = of(n);
            let syn = state_test_segment(Flags::SYN, n, 0);
            let attempt = Attempt::new(FlowHash(n.into()), NOW, &syn);
            let attempt = Attempt { source, port, ..attempt };
            let (retransmitted, new, returning) = (false, true, false);
            Failure {
                attempt,
                retransmitted,
                reset,
                new,
                returning,
                weight: 1.0,
                excused: false,
                unanswered: false,
                scanned: false,
            }
        };
        (0..40).map(failure).collect()
    }

    /// What is found where each of them stands for `count`.
    fn found(failures: &[Failure], count: f64) -> Option<SynAckReflection> {
        let mut reflections = Reflections::default();
        reflections.take_in(NOW, failures.iter(), count);
        reflections.judge(NOW)
    }

    const ONE: Address = Address::v4([203, 0, 113, 9]);

    fn one_of_20(n: u32) -> Address {
        Address::v4([203, 0, 112 + (n % 16) as u8, n as u8])
    }

    #[test]
    fn quick_resets_of_few_networks_are_enough_on_one_port() {
        let of = |n: u32| (ONE, 443, if n.is_multiple_of(5) { None } else { QUICK });
        let one = found(&failures(of), 1.5).expect("a reflection");
        assert!(one.is_certain());
        assert_eq!((one.services, one.sources, one.target.port), (1, 1, Some(443)));
        assert_eq!(one.victims[0].prefix.to_string(), "203.0.113.9/32");
        assert!(found(&failures(of), 1.0).is_none(), "40 in a step are not yet 100 in a second");
        assert!(found(&failures(|n| (one_of_20(n), 443, QUICK)), 1.5).is_some());
        let three = |n: u32| (Address::v4([20 + (n % 3) as u8, 0, 0, 1]), 443, QUICK);
        let three = found(&failures(three), 2.0).expect("a reflection");
        assert_eq!((three.sources, three.victims.len()), (3, 3));
    }

    #[test]
    fn silent_victims_are_asked_for_at_several_services() {
        let spread = |n: u32| (one_of_20(n), [443, 80, 22, 25, 53][n as usize % 5], None);
        let possible = found(&failures(spread), 2.0).expect("a reflection");
        assert!(!possible.is_certain());
        let onset = possible.onset(NOW, 0, false);
        assert!(onset.explanation().contains("possibly"), "{}", onset.explanation());
        assert!(!onset.advice().iter().any(|advice| advice.contains("203.0")));
    }

    #[test]
    fn floods_scans_and_honest_clients_are_none() {
        let random = |n: u32| Address::v4(n.wrapping_mul(2_654_435_761).to_be_bytes());
        type Of<'a> = &'a dyn Fn(u32) -> (Address, u16, Option<Duration>);
        let innocent: [Of<'_>; 6] = [
            &|_| (ONE, 443, None),
            &|n| (one_of_20(n), 443, None),
            &|_| (ONE, 443, LATE),
            &|n| (random(n), 443, QUICK),
            &|n| (ONE, n as u16, QUICK),
            &|n| (Address::v4([20 + (n % 10) as u8, 0, 0, 1]), 443, QUICK),
        ];
        for of in innocent {
            assert!(found(&failures(of), 10.0).is_none(), "{:?}", of(1));
        }
        let mut outage = failures(|n| (ONE, [443, 80, 22][n as usize % 3], None));
        outage.iter_mut().for_each(|failure| failure.retransmitted = true);
        assert!(found(&outage, 10.0).is_none());
    }

    #[test]
    fn a_reflection_explains_what_bears_its_victims_names() {
        let mut reflections = Reflections::default();
        let victims = failures(|_| (ONE, 443, QUICK));
        assert!(!reflections.explains(std::iter::empty()), "nothing was reflected");
        assert!(reflections.look_ahead(NOW, &victims, 5.0).is_some());
        let flood = failures(|n| (Address::v4([n as u8, 1, 2, 3]), 443, None));
        assert!(reflections.explains(victims.iter()));
        assert!(reflections.explains(victims.iter().chain(&flood)));
        assert!(!reflections.explains(victims[1..].iter().chain(&flood)));
        assert!(reflections.explains(flood[..ENOUGH - 1].iter()), "too few to tell");
        assert!(reflections.judge(NOW + MEMORY).is_none());
        assert!(!reflections.explains(victims.iter()), "forgotten");
    }
}
