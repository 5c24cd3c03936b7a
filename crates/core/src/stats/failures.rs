//! Who the failing attempts come from: a bounded sample of attempts, judged when they are mature.
//!
//! Up to 64 attempts of every step are drawn (all of them below 256 attempts a second, a uniform
//! sample above; [`BottomK`](super::BottomK)), and looked up again when their step is mature. Those
//! that failed form the set that sources are judged on. Prefixes of IPv4 are /8, /16, /24 and the
//! address; those of IPv6 /32, /48 and /64, since one host owns a /64.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::{Fingerprint, PrefixShare};
use crate::stats::completions::Completions;
use crate::stats::fingerprint::SeenSyn;
use crate::stats::sample::Attempt;
use crate::time::Timestamp;
use crate::wire::Address;

/// Failures that sources are judged on: at N = 200 the spread over /16s tells random forgery apart
/// without error, more adds nothing.
const KEPT: usize = 256;
/// The fewest, however many services have some: enough to name a kind by.
const LEAST: usize = 64;
/// Failures that are kept of all services together, as long as that leaves each the fewest.
const OF_ALL: usize = 16_384;
/// Failures older than this say nothing of what happens now.
const MAX_AGE: Duration = Duration::from_secs(30);
/// Routable /16 prefixes of IPv4: what sources drawn at random spread over.
const ROUTABLE_16: f64 = 56_000.0;

/// What is known of a failed attempt.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// The attempt.
    pub attempt: Attempt,
    /// Its SYN was repeated as a TCP stack does: an honest client out of luck, or its path.
    pub retransmitted: bool,
    /// A reset ended it, so long after its SYN.
    pub reset: Option<Duration>,
    /// Its source has not completed a handshake here for long.
    pub new: bool,
    /// Its source has failed here before, of late.
    pub returning: bool,
    /// The part of its life that it holds a place in the queue: 1, or less where a reset gave the
    /// place back.
    pub weight: f64,
    /// An outage would explain it: its SYN was repeated as honest clients do, or a client of its
    /// network completed a handshake within the hour.
    pub excused: bool,
    /// Nobody answered it.
    pub unanswered: bool,
    /// A scanner made it, which is told as a scan.
    pub scanned: bool,
}

/// What the failures of a step count for, each on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// As [`Failure::weight`].
    pub weight: f64,
    /// The part that an outage would explain, not above the weight.
    pub excused: f64,
}

/// The failures of one service, as far as they are kept.
#[derive(Clone, Debug)]
pub struct Failures {
    kept: VecDeque<Failure>,
    completed: Completions,
    limit: usize,
}

impl Share {
    fn mean<'a>(failures: impl ExactSizeIterator<Item = &'a Failure>) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "at most a few hundred")]
        let each = 1.0 / failures.len() as f64;
        failures.fold(Self { weight: 0.0, excused: 0.0 }, |mean, failure| Self {
            weight: mean.weight + each * failure.weight,
            excused: mean.excused + if failure.excused { each * failure.weight } else { 0.0 },
        })
    }
}

impl Default for Failures {
    fn default() -> Self {
        Self { kept: VecDeque::new(), completed: Completions::default(), limit: KEPT }
    }
}

impl Failures {
    /// How many failures of each service may be kept, where these are all services: the more of
    /// them have some, the fewer of each.
    pub fn limit<'a>(all: impl Iterator<Item = &'a Self>) -> usize {
        let failing = all.filter(|failures| !failures.kept.is_empty()).count();
        (OF_ALL / failing.max(1)).clamp(LEAST, KEPT)
    }

    /// Keeps no more than [`Self::limit`], neither of failures nor of what completed.
    pub fn resize(&mut self, limit: usize) {
        self.limit = limit;
        if self.kept.len() > limit {
            self.kept.drain(..self.kept.len() - limit);
            self.kept.shrink_to(limit);
        }
        self.completed.resize(limit);
    }

    /// Keeps a failure, and forgets those that are too old or too many.
    pub fn keep(&mut self, failure: Failure) {
        if self.kept.len() >= self.limit {
            self.kept.pop_front();
        }
        self.kept.push_back(failure);
    }

    /// Takes in the sampled attempts of a step that did complete.
    pub fn contrast(&mut self, completed: &[Attempt]) {
        self.completed.add(completed);
    }

    /// The kept failures.
    pub fn kept(&self) -> impl ExactSizeIterator<Item = &Failure> {
        self.kept.iter()
    }

    /// What the kept failures and `younger` ones looked like, and what each counts for.
    pub fn failing<'a>(
        &'a self,
        younger: &'a [Failure],
    ) -> impl Iterator<Item = (SeenSyn, f64)> + Clone + 'a {
        let failures = self.kept.iter().chain(younger);
        failures.map(|failure| (SeenSyn::from(&failure.attempt), failure.weight))
    }

    /// What handshakes that completed looked like, now and before.
    #[must_use]
    pub const fn completed(&self) -> &Completions {
        &self.completed
    }

    /// Forgets failures too old to count at `now`.
    pub fn forget(&mut self, now: Timestamp) {
        while self.kept.front().is_some_and(|failure| now - failure.attempt.at > MAX_AGE) {
            self.kept.pop_front();
        }
    }

    /// The earliest kept failure that began at `since` or later.
    #[must_use]
    pub fn first_since(&self, since: Timestamp) -> Option<Timestamp> {
        self.kept.iter().map(|failure| failure.attempt.at).filter(|at| *at >= since).min()
    }

    /// What the failures of a step count for on average. Where hardly any fail, none of the sampled
    /// may have: then that of the kept ones.
    #[must_use]
    pub fn share(&self, sampled: &[Failure]) -> Share {
        match (sampled, self.kept.is_empty()) {
            ([], true) => Share { weight: 1.0, excused: 0.0 },
            ([], false) => Share::mean(self.kept.iter()),
            (sampled, _) => Share::mean(sampled.iter()),
        }
    }

    /// Entropy of the sources of the kept failures over the highest that their number allows.
    #[must_use]
    pub fn entropy_ratio(&self) -> f64 {
        Tally::of(self.kept.iter().map(|failure| source_of(failure.attempt.source))).entropy_ratio()
    }

    /// Judges the sources of the kept failures and of `younger` ones that have not matured yet.
    #[must_use]
    pub fn profile(&self, younger: &[Failure]) -> SourceProfile {
        let failures: Vec<&Failure> = self.kept.iter().chain(younger).collect();
        let mut profile = SourceProfile::of(&failures);
        if let Some(fingerprint) = &mut profile.fingerprint {
            fingerprint.completed_share = self.completed.share_of(fingerprint);
        }
        profile
    }

    /// Whom the kept failures were meant for.
    #[must_use]
    pub fn targets(&self) -> TargetProfile {
        TargetProfile::of(&self.kept)
    }
}

/// Whom failing attempts were meant for.
#[derive(Clone, Copy, Debug, Default)]
pub struct TargetProfile {
    /// Distinct services among them.
    pub services: usize,
    /// Share of the service that got most of them.
    pub top_service: f64,
    /// The host that got most of them, and its share.
    pub top_host: (Option<Address>, f64),
    /// Share of the network (/24, IPv6: /64) that got most of them.
    pub top_network: f64,
    /// The longest prefix that holds all of them.
    pub prefix: Option<IpNet>,
}

impl TargetProfile {
    fn of(failures: &VecDeque<Failure>) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "at most a few hundred")]
        let share = |part: usize| part as f64 / failures.len().max(1) as f64;
        let attempts = || failures.iter().map(|failure| failure.attempt);
        let mut services = Tally::of(attempts().map(|attempt| (attempt.destination, attempt.port)));
        let (host, to_host) = Tally::of(attempts().map(|attempt| attempt.destination)).top();
        let networks = attempts().map(|attempt| subnet_of(attempt.destination));
        let hosts = attempts().map(|attempt| attempt.destination);
        Self {
            services: services.distinct(),
            top_service: share(services.top().1),
            top_host: (host, share(to_host)),
            top_network: share(Tally::of(networks).top().1),
            prefix: common_prefix(hosts),
        }
    }
}

/// What the sources of failing attempts look like.
#[derive(Clone, Debug, Default)]
pub struct SourceProfile {
    /// How many failures were judged.
    pub failures: usize,
    /// Distinct sources among them.
    pub sources: usize,
    /// Distinct /16 (IPv6: /32) prefixes, in proportion to what as many random addresses would
    /// have.
    pub spread: f64,
    /// Share of the commonest source (IPv6: /64).
    pub top_source: (Option<Address>, f64),
    /// Share of the commonest prefix, of whichever length of /8, /16, /24 (IPv6: /32, /48).
    pub top_prefix: (Option<IpNet>, f64),
    /// The prefixes that evidence is given of: the commonest at each length, with a share above a
    /// tenth.
    pub top_prefixes: Vec<PrefixShare>,
    /// Share of sources that never completed here.
    pub new: f64,
    /// Share of sources that had failed before.
    pub returning: f64,
    /// Probability that two failures have the same source: one over the number of sources where all
    /// send as much.
    pub collision: f64,
    /// Collision entropy of the sources over the highest that their number allows, 0 to 1.
    pub entropy_ratio: f64,
    /// The commonest SYN.
    pub fingerprint: Option<Fingerprint>,
    /// The address that most of them were sent to, and its share.
    pub top_destination: (Option<Address>, f64),
}

impl SourceProfile {
    fn of(failures: &[&Failure]) -> Self {
        if failures.is_empty() {
            return Self::default();
        }
        let count = failures.len();
        #[expect(clippy::cast_precision_loss, reason = "at most a few hundred")]
        let share = |part: usize| part as f64 / count as f64;
        let sources = || failures.iter().map(|failure| source_of(failure.attempt.source));
        let mut by_source = Tally::of(sources());
        let (top_source, top_count) = by_source.top();

        let mut top_prefix = (None, 0.0);
        let mut top_prefixes = Vec::new();
        for level in [0, 1, 2] {
            let (prefix, part) = Tally::of(
                failures.iter().filter_map(|failure| prefix_at(failure.attempt.source, level)),
            )
            .top();
            let prefix =
                prefix.and_then(|(address, length)| IpNet::new(IpAddr::from(address), length).ok());
            // Of two that hold as much the longer says more.
            if share(part) >= top_prefix.1 && part > 0 {
                top_prefix = (prefix, share(part));
            }
            if let Some(prefix) = prefix.filter(|_| share(part) > 0.1) {
                top_prefixes.push(PrefixShare { prefix, share: share(part) });
            }
        }

        let (fingerprint, fingerprint_count) =
            Tally::of(failures.iter().map(|f| f.attempt.fingerprint)).top();
        let (destination, to_destination) =
            Tally::of(failures.iter().map(|f| f.attempt.destination)).top();
        let part = |test: fn(&Failure) -> bool| share(failures.iter().filter(|f| test(f)).count());
        Self {
            failures: count,
            sources: by_source.distinct(),
            spread: spread(failures),
            top_source: (top_source, share(top_count)),
            top_prefix,
            top_prefixes,
            new: part(|failure| failure.new),
            returning: part(|failure| failure.returning),
            collision: by_source.collision(),
            entropy_ratio: by_source.entropy_ratio(),
            fingerprint: fingerprint.map(|fingerprint| Fingerprint {
                share: share(fingerprint_count),
                completed_share: None,
                ttl: fingerprint.ttl,
                window: fingerprint.window,
                mss: fingerprint.mss,
                options: fingerprint.options,
            }),
            top_destination: (destination, share(to_destination)),
        }
    }
}

/// Distinct /16 (IPv6: /32) prefixes over the number that as many uniform random sources would
/// have; IPv6 is taken to have more /32s than are ever drawn.
fn spread(failures: &[&Failure]) -> f64 {
    let prefixes = |v4: bool, length: u8| {
        let of_family = failures.iter().map(|f| f.attempt.source).filter(|a| a.is_ipv4() == v4);
        let drawn = of_family.clone().count();
        (drawn, Tally::of(of_family.map(|address| address.prefix(length))).distinct())
    };
    let (drawn4, distinct4) = prefixes(true, 16);
    let (drawn6, distinct6) = prefixes(false, 32);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "at most a few hundred"
    )]
    let expected =
        ROUTABLE_16 * (1.0 - (1.0 - 1.0 / ROUTABLE_16).powi(drawn4 as i32)) + drawn6 as f64;
    #[expect(clippy::cast_precision_loss, reason = "at most a few hundred")]
    let distinct = (distinct4 + distinct6) as f64;
    distinct / expected
}

/// What counts as one source: an IPv4 address, an IPv6 /64.
pub(crate) const fn source_of(address: Address) -> Address {
    if address.is_ipv4() { address } else { address.prefix(64) }
}

/// The network that clients share: an IPv4 /24, an IPv6 /48.
pub(crate) const fn network_of(address: Address) -> Address {
    address.prefix(if address.is_ipv4() { 24 } else { 48 })
}

/// The network that a host stands in: an IPv4 /24, an IPv6 /64.
pub(crate) const fn subnet_of(address: Address) -> Address {
    address.prefix(if address.is_ipv4() { 24 } else { 64 })
}

/// The longest prefix that holds all of some addresses; `None` where IPv4 and IPv6 are mixed.
pub(crate) fn common_prefix(mut addresses: impl Iterator<Item = Address>) -> Option<IpNet> {
    let first = addresses.next()?;
    // IPv4 stands in the last 32 bits.
    let offset = if first.is_ipv4() { 96 } else { 0 };
    let mut length = 128 - offset;
    for address in addresses {
        if address.is_ipv4() != first.is_ipv4() {
            return None;
        }
        let common = (address.to_bits() ^ first.to_bits()).leading_zeros();
        length = length.min(common.saturating_sub(offset));
    }
    let length = u8::try_from(length).ok()?;
    IpNet::new(IpAddr::from(first.prefix(length)), length).ok()
}

/// The prefix at one of three levels, shortest first, with its length.
const fn prefix_at(address: Address, level: usize) -> Option<(Address, u8)> {
    let length = match (address.is_ipv4(), level) {
        (true, 0) => 8,
        (true, 1) => 16,
        (true, 2) => 24,
        (false, 0) => 32,
        (false, 1) => 48,
        _ => return None,
    };
    Some((address.prefix(length), length))
}

/// How often each of some things occurs.
struct Tally<T>(Vec<(T, usize)>);

impl<T: Copy + Ord> Tally<T> {
    fn of(things: impl Iterator<Item = T>) -> Self {
        let mut things: Vec<T> = things.collect();
        things.sort_unstable();
        Self(things.chunk_by(PartialEq::eq).map(|run| (run[0], run.len())).collect())
    }

    fn distinct(&self) -> usize {
        self.0.len()
    }

    fn top(&mut self) -> (Option<T>, usize) {
        let top = self.0.iter().max_by_key(|(_, count)| *count);
        (top.map(|(thing, _)| *thing), top.map_or(0, |(_, count)| *count))
    }

    /// All ordered pairs of two things, and those of two equal ones.
    #[expect(clippy::cast_precision_loss, reason = "at most a few hundred")]
    fn pairs(&self) -> (f64, f64) {
        let pairs = |count: usize| count as f64 * count.saturating_sub(1) as f64;
        let total = self.0.iter().map(|(_, count)| count).sum();
        (pairs(total), self.0.iter().map(|(_, count)| pairs(*count)).sum())
    }

    /// Share of the pairs that are equal.
    fn collision(&self) -> f64 {
        let (pairs, equal) = self.pairs();
        equal / pairs.max(1.0)
    }

    /// The nearly unbiased collision estimate of the entropy, -log2 of the share of equal pairs,
    /// over the highest that can be told from so many draws.
    fn entropy_ratio(&self) -> f64 {
        let (pairs, equal) = self.pairs();
        if pairs < 2.0 {
            return 0.0;
        }
        // Without any equal pair all that is known is that the entropy is at least this.
        (pairs / equal.max(2.0)).log2() / (pairs / 2.0).log2().max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{FlowHash, state_test_segment};
    use crate::wire::Flags;

    fn failures(sources: impl Iterator<Item = Address>) -> Failures {
        let mut failures = Failures::default();
        for source in sources {
            let mut syn = state_test_segment(Flags::SYN, 1, 0);
            syn.source = source;
            failures.keep(Failure {
                attempt: Attempt::new(FlowHash(0), Timestamp::EPOCH, &syn),
                retransmitted: false,
                reset: None,
                new: true,
                returning: false,
                weight: 1.0,
                excused: false,
                unanswered: false,
                scanned: false,
            });
        }
        failures
    }

    fn scattered(number: u32) -> u32 {
        number.wrapping_mul(2_654_435_761).rotate_left(7)
    }

    #[test]
    fn random_sources_spread_over_prefixes() {
        let sources = (0..200).map(|n| Address::v4((scattered(n) | 1).to_be_bytes()));
        let profile = failures(sources).profile(&[]);
        assert!(profile.spread > 0.95, "{profile:?}");
        assert!(profile.top_prefix.1 < 0.2);
        assert!((profile.entropy_ratio - 1.0).abs() < 1e-9);
        assert_eq!(profile.sources, 200);
    }

    #[test]
    fn one_subnet_is_found_at_its_length() {
        let sources = (0..200).map(|n: u32| Address::v4([203, 0, 113, n as u8]));
        let profile = failures(sources).profile(&[]);
        assert!(profile.spread < 0.1);
        assert_eq!(profile.top_prefix.0.expect("a prefix").to_string(), "203.0.113.0/24");
        assert!((profile.top_prefix.1 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn one_source_has_no_entropy() {
        let profile = failures((0..100).map(|_| Address::v4([203, 0, 113, 9]))).profile(&[]);
        assert!((profile.top_source.1 - 1.0).abs() < 1e-9);
        assert!(profile.entropy_ratio < 0.01);
        assert_eq!(profile.sources, 1);
    }

    #[test]
    fn targets_are_summed_up() {
        let mut failures = failures((0..40).map(|n| Address::v4([203, 0, 113, n])));
        for (n, failure) in failures.kept.iter_mut().enumerate() {
            failure.attempt.destination = Address::v4([192, 0, 2, 64 + (n % 20) as u8]);
            failure.attempt.port = 443;
        }
        let targets = failures.targets();
        assert_eq!(targets.services, 20);
        assert!((targets.top_service - 0.05).abs() < 1e-9);
        assert!((targets.top_network - 1.0).abs() < 1e-9);
        assert_eq!(targets.prefix.expect("one").to_string(), "192.0.2.64/27");
        let mixed = [Address::v4([192, 0, 2, 1]), Address::from_bits(0x2001_0db8 << 96)];
        assert_eq!(common_prefix(mixed.into_iter()), None);
    }

    #[test]
    fn ipv6_sources_are_their_64s() {
        let sources = (0..100_u128).map(|n| Address::from_bits(0x2001_0db8 << 96 | n));
        let profile = failures(sources).profile(&[]);
        assert_eq!(profile.sources, 1);
        assert_eq!(profile.top_prefix.0.expect("a prefix").to_string(), "2001:db8::/48");
    }
}
