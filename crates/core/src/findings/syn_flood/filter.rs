//! Which SYNs a packet filter could drop: what the failing attempts have in common and the
//! handshakes that complete have not. What it finds is printed with the harm that it would do, and
//! never applied.
//!
//! Every field that a stateless rule can look at gives one test, true of the commonest value among
//! the failing attempts: window, maximum segment size, options, time to live, low half of the
//! sequence number, and the source prefix where that is what stands out. Of all sets of these tests
//! the best one counts. Tests speak of what nftables can say, not more: the order of options it
//! cannot.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;

use crate::stats::SeenSyn;

/// Failures that are needed before anything is said.
const ENOUGH: usize = 50;
/// A filter must match at least this share of the failing attempts.
const COVERAGE: f64 = 0.8;
/// So many failing attempts must be stopped to make up for one handshake that is.
const HARM: f64 = 10.0;
/// What each further test may cost in coverage: it spares clients that were not in the sample.
const PER_TEST: f64 = 0.005;
/// The times to live that are tested for are the narrowest range with this share of the failing
/// attempts: a tool sets one or two, and paths differ.
const TTL_SHARE: f64 = 0.95;
/// More hops than paths on the Internet have: a range that is wider tells nothing apart.
const TTL_RANGE: u8 = 32;
/// How many tests there are at most.
const TESTS: usize = 6;

/// The options that nftables can look for beside the maximum segment size, by kind.
const OPTIONS: [(u8, &str); 3] = [(3, "window"), (4, "sack-perm"), (8, "timestamp")];

/// A rule on SYNs of one IP version, and what it would hit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filter {
    /// Whether it is about IPv4.
    pub ipv4: bool,
    /// Share of the failing attempts that it matches, from 0 to 1.
    pub failing_share: f64,
    /// Share of the completed handshakes that it matches, from 0 to 1.
    pub completed_share: f64,
    /// How many completed handshakes that is a share of.
    pub completed: usize,
    tests: [Option<Test>; TESTS],
}

/// Something that a rule can ask of a SYN.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Test {
    From(IpNet),
    Window(u16),
    /// Its maximum segment size, or that it names none.
    Mss(Option<u16>),
    Options(Options),
    /// Time to live (hop limit) from, to.
    Ttl(u8, u8),
    /// The low half of the sequence number is zero.
    RoundIsn,
}

/// What can be said of a SYN's options.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Options {
    /// There is none at all.
    None,
    /// Which of [`OPTIONS`] there are.
    Some([bool; OPTIONS.len()]),
}

impl Filter {
    /// The best filter for the failing attempts, each with what it counts for, against handshakes
    /// that completed. `prefix` is where most of the sources lie, if that is to be used.
    ///
    /// `None` where there are too few failures, or no set of tests matches four fifths of them.
    #[must_use]
    pub fn find<'a>(
        failing: impl Iterator<Item = (SeenSyn, f64)>,
        completed: impl ExactSizeIterator<Item = &'a SeenSyn>,
        prefix: Option<IpNet>,
    ) -> Option<Self> {
        let mut syns: Vec<(SeenSyn, f64)> = failing.collect();
        let total: f64 = syns.iter().map(|(_, weight)| weight).sum();
        if syns.len() < ENOUGH || total <= 0.0 {
            return None;
        }
        let ipv4 = commonest(&syns, |syn| syn.source.is_ipv4())?;
        syns.retain(|(syn, _)| syn.source.is_ipv4() == ipv4);
        let tests = candidates(&syns, prefix);

        // How much there is of each combination of tests that a SYN passes.
        let mut failing = [0.0; 1 << TESTS];
        for (syn, weight) in &syns {
            failing[passed(&tests, syn)] += weight / total;
        }
        let count = completed.len();
        let mut completing = [0_u32; 1 << TESTS];
        for syn in completed.filter(|syn| syn.source.is_ipv4() == ipv4) {
            completing[passed(&tests, syn)] += 1;
        }

        let mut best = None;
        for set in 1..1_usize << TESTS {
            let hit = || (0..1 << TESTS).filter(|passed| passed & set == set);
            let failing_share: f64 = hit().map(|passed| failing[passed]).sum();
            let hits: u32 = hit().map(|passed| completing[passed]).sum();
            #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
            let completed_share = f64::from(hits) / count.max(1) as f64;
            let score =
                failing_share - HARM * completed_share + PER_TEST * f64::from(set.count_ones());
            if failing_share >= COVERAGE && best.is_none_or(|(highest, _)| score > highest) {
                let tests = std::array::from_fn(|n| tests[n].filter(|_| set & 1 << n != 0));
                let completed = count;
                let filter = Self { ipv4, failing_share, completed_share, completed, tests };
                best = Some((score, filter));
            }
        }
        best.map(|(_, filter)| filter)
    }

    /// The source prefix that it is limited to.
    #[must_use]
    pub fn prefix(&self) -> Option<IpNet> {
        self.tests.iter().flatten().find_map(|test| match test {
            Test::From(prefix) => Some(*prefix),
            _ => None,
        })
    }
}

impl fmt::Display for Filter {
    /// The tests as nftables has them, each with a space before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ip, ttl) = if self.ipv4 { ("ip", "ttl") } else { ("ip6", "hoplimit") };
        for test in self.tests.iter().flatten() {
            match test {
                Test::From(prefix) => write!(f, " {ip} saddr {prefix}")?,
                Test::Window(window) => write!(f, " tcp window {window}")?,
                Test::Mss(Some(size)) => write!(f, " tcp option maxseg size {size}")?,
                Test::Mss(None) => f.write_str(" tcp option maxseg missing")?,
                // A header of five words has no room for any.
                Test::Options(Options::None) => f.write_str(" tcp doff 5")?,
                Test::Options(Options::Some(present)) => {
                    for ((_, name), present) in OPTIONS.iter().zip(present) {
                        let word = if *present { "exists" } else { "missing" };
                        write!(f, " tcp option {name} {word}")?;
                    }
                }
                Test::Ttl(from, to) if from == to => write!(f, " {ip} {ttl} {from}")?,
                Test::Ttl(from, to) => write!(f, " {ip} {ttl} {from}-{to}")?,
                Test::RoundIsn => f.write_str(" tcp sequence & 0xffff == 0")?,
            }
        }
        Ok(())
    }
}

impl Test {
    fn is_passed_by(self, syn: &SeenSyn) -> bool {
        match self {
            Self::From(prefix) => prefix.contains(&std::net::IpAddr::from(syn.source)),
            Self::Window(window) => syn.fingerprint.window == window,
            Self::Mss(mss) => syn.fingerprint.mss == mss,
            Self::Options(options) => Options::of(syn) == options,
            Self::Ttl(from, to) => (from..=to).contains(&syn.fingerprint.ttl),
            Self::RoundIsn => syn.fingerprint.round_isn,
        }
    }
}

impl Options {
    fn of(syn: &SeenSyn) -> Self {
        let layout = syn.fingerprint.options;
        if layout.is_empty() {
            return Self::None;
        }
        Self::Some(OPTIONS.map(|(kind, _)| layout.contains(kind)))
    }
}

/// The tests that the most of the failing attempts pass, one of each kind.
fn candidates(failing: &[(SeenSyn, f64)], prefix: Option<IpNet>) -> [Option<Test>; TESTS] {
    let options = commonest(failing, Options::of);
    // Without any option there is no such size either.
    let mss = commonest(failing, |syn| syn.fingerprint.mss)
        .filter(|mss| mss.is_some() || options != Some(Options::None));
    let round = commonest(failing, |syn| syn.fingerprint.round_isn).filter(|round| *round);
    [
        prefix.map(Test::From),
        commonest(failing, |syn| syn.fingerprint.window).map(Test::Window),
        mss.map(Test::Mss),
        options.map(Test::Options),
        ttl_range(failing),
        round.map(|_| Test::RoundIsn),
    ]
}

/// Which of the tests a SYN passes, one bit each.
fn passed(tests: &[Option<Test>; TESTS], syn: &SeenSyn) -> usize {
    let passed = |test: &Option<Test>| test.is_some_and(|test| test.is_passed_by(syn));
    tests.iter().enumerate().fold(0, |bits, (n, test)| bits | usize::from(passed(test)) << n)
}

/// The property with the greatest weight in all; of equal ones the last.
fn commonest<T: Ord>(syns: &[(SeenSyn, f64)], property: impl Fn(&SeenSyn) -> T) -> Option<T> {
    let mut weights: BTreeMap<T, f64> = BTreeMap::new();
    for (syn, weight) in syns {
        *weights.entry(property(syn)).or_default() += weight;
    }
    weights.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(thing, _)| thing)
}

/// The narrowest range with nearly all of the weight, the lowest of several; `None` where it is
/// wide.
fn ttl_range(syns: &[(SeenSyn, f64)]) -> Option<Test> {
    let mut weights = [0.0; 256];
    for (syn, weight) in syns {
        weights[usize::from(syn.fingerprint.ttl)] += weight;
    }
    let wanted = TTL_SHARE * weights.iter().sum::<f64>();
    let ranges = (0..=u8::MAX).filter_map(|from| {
        let mut sum = 0.0;
        let to = (from..=u8::MAX).find(|ttl| {
            sum += weights[usize::from(*ttl)];
            sum >= wanted
        })?;
        Some((from, to))
    });
    let (from, to) = ranges.min_by_key(|(from, to)| to - from)?;
    (to - from <= TTL_RANGE).then_some(Test::Ttl(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::SynFingerprint;
    use crate::wire::{Address, OptionLayout};

    fn layout(kinds: &[u8]) -> OptionLayout {
        (0..).zip(kinds).fold(OptionLayout::default(), |layout, (n, kind)| layout.with(n, *kind))
    }

    fn linux() -> SynFingerprint {
        let options = layout(&[2, 4, 8, 1, 3]);
        SynFingerprint { ttl: 52, window: 64_240, mss: Some(1_460), options, round_isn: false }
    }

    fn windows() -> SynFingerprint {
        let options = layout(&[2, 1, 3, 1, 1, 4]);
        SynFingerprint { ttl: 115, window: 64_240, mss: Some(1_460), options, round_isn: false }
    }

    fn hping() -> SynFingerprint {
        SynFingerprint { ttl: 57, window: 512, ..SynFingerprint::default() }
    }

    fn from(number: u8, fingerprint: SynFingerprint) -> SeenSyn {
        SeenSyn { source: Address::v4([203, 0, 113, number]), fingerprint }
    }

    /// The filter for failing looks against completing ones, both given in turn to 200 SYNs.
    fn find(failing: &[SynFingerprint], completing: &[SynFingerprint]) -> Option<Filter> {
        let failing = (0..200)
            .zip(failing.iter().cycle())
            .map(|(n, fingerprint)| (from(n, *fingerprint), 1.0));
        let completing: Vec<SeenSyn> = (0..200)
            .zip(completing.iter().cycle())
            .map(|(n, fingerprint)| from(n, *fingerprint))
            .collect();
        Filter::find(failing, completing.iter(), None)
    }

    #[test]
    fn a_tool_is_told_from_operating_systems() {
        let filter = find(&[hping()], &[linux(), windows()]).expect("one");
        assert_eq!(filter.to_string(), " tcp window 512 tcp doff 5 ip ttl 57");
        assert!((filter.failing_share - 1.0).abs() < 1e-9);
        assert!(filter.completed_share < 1e-9);
        assert_eq!(filter.completed, 200);
    }

    #[test]
    fn what_varies_is_left_out() {
        let looks: Vec<SynFingerprint> = (0..200_u16)
            .map(|n| SynFingerprint { window: n * 300, ttl: n as u8, ..hping() })
            .collect();
        let filter = find(&looks, &[linux()]).expect("one");
        assert_eq!(filter.to_string(), " tcp doff 5");
    }

    #[test]
    fn two_times_to_live_are_a_range() {
        let other = SynFingerprint { ttl: 40, ..hping() };
        let filter = find(&[hping(), other], &[linux()]).expect("one");
        assert_eq!(filter.to_string(), " tcp window 512 tcp doff 5 ip ttl 40-57");
    }

    #[test]
    fn a_forged_stack_differs_in_what_is_left() {
        let forged = SynFingerprint { ttl: 240, round_isn: true, ..linux() };
        let filter = find(&[forged], &[linux(), windows()]).expect("one");
        let text = filter.to_string();
        assert!(text.ends_with(
            " tcp option maxseg size 1460 tcp option window exists tcp option sack-perm exists \
             tcp option timestamp exists ip ttl 240 tcp sequence & 0xffff == 0"
        ));
        assert!(filter.completed_share < 1e-9);
    }

    #[test]
    fn the_same_looks_are_not_told_apart() {
        let filter = find(&[linux()], &[linux()]).expect("one");
        assert!((filter.completed_share - 1.0).abs() < 1e-9);
        assert_eq!(find(&[linux(), windows(), hping()], &[linux()]), None);
    }

    #[test]
    fn honest_failures_count_for_less() {
        let failing = (0..200).map(|n| {
            let honest = n % 2 == 0;
            if honest { (from(n, linux()), 0.1) } else { (from(n, hping()), 1.0) }
        });
        let completing = [from(1, linux()), from(2, linux())];
        let filter = Filter::find(failing, completing.iter(), None).expect("one");
        assert!((filter.failing_share - 1.0 / 1.1).abs() < 1e-9);
        assert!(filter.completed_share < 1e-9);
    }

    #[test]
    fn a_prefix_narrows_what_else_would_hit_clients() {
        let failing = (0..200).map(|n| (from(n, linux()), 1.0));
        let client = |n| SeenSyn { source: Address::v4([198, 51, 100, n]), fingerprint: linux() };
        let completing: Vec<SeenSyn> = (0..200).map(client).collect();
        let prefix: IpNet = "203.0.113.0/24".parse().expect("a prefix");
        let filter = Filter::find(failing, completing.iter(), Some(prefix)).expect("one");
        assert_eq!(filter.prefix(), Some(prefix));
        assert!(filter.completed_share < 1e-9);
    }

    #[test]
    fn few_failures_say_nothing() {
        let failing = (0..49).map(|n| (from(n, hping()), 1.0));
        assert_eq!(Filter::find(failing, [].iter(), None), None);
    }
}
