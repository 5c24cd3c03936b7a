//! Who tries service after service: sequential hypothesis testing per source (threshold random
//! walk; Jung, Paxson, Berger and Balakrishnan, "Fast Portscan Detection Using Sequential
//! Hypothesis Testing", 2004).
//!
//! Only the first contact of a source with a service counts. An honest client knows its services,
//! so most of its first contacts succeed; one that guesses mostly fails. Each outcome moves the
//! ratio of the likelihoods of both, until it is a million times as likely that the source guesses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::findings::{Configured, Finding, Grounds, Onset, Room};
use crate::flow::Hasher;
use crate::model::{Evidence, Severity, Target, Variant};
use crate::stats::{Keyed, common_prefix, source_of};
use crate::time::Timestamp;
use crate::wire::Address;

/// log4 of the ratio that decides. The chance of success is 0.8 for the honest and 0.2 for
/// guessers, so each failure multiplies the ratio by 4 and each success divides it by 4. With so
/// many sources to judge, a wrong verdict on one must be as rare as 1 in 4^10 = 10^6.
const DECIDED: u32 = 10;
/// The most sources that are followed at once.
const LIMIT: usize = 4_096;
/// A source that has made no first contact for so long is forgotten.
const MEMORY: Duration = Duration::from_secs(600);
/// The same where there are many.
const MEMORY_CROWDED: Duration = Duration::from_secs(30);
/// A source that comes back to what it knows is no scanner, however many of its contacts fail: so
/// many of its attempts must be first contacts (less than half: a scanner asks again where nobody
/// answers).
const FRESH: f64 = 0.3;
/// Who scans tries several hosts of a network. One host each of many networks is what a client with
/// a list of peers tries, most of which are gone; but never so many in a second.
const PER_NETWORK: f64 = 2.0;
const IN_A_SECOND: u32 = 200;
/// A prefix that is shorter says nothing of what is scanned.
const SHORTEST: u8 = 8;

const SECOND: Duration = Duration::from_secs(1);

/// A set of hashes of which only the size can be told: linear counting (Whang, Vander-Zanden and
/// Taylor 1990) in 64 N bits.
#[derive(Clone, Debug)]
struct Bits<const N: usize>([u64; N]);

impl<const N: usize> Default for Bits<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Bits<N> {
    /// Whether the hash (or, the fuller the set, another) was not in the set before.
    fn insert(&mut self, hash: u64) -> bool {
        let (word, bit) = ((hash >> 6) as usize % N, 1 << (hash & 63));
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// About how many there are.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand bits")]
    fn estimate(&self) -> f64 {
        let bits = (64 * N) as f64;
        let free: u32 = self.0.iter().map(|word| word.count_zeros()).sum();
        bits * (bits / f64::from(free.max(1))).ln()
    }
}

/// Hashes of what a source tried.
#[derive(Clone, Copy, Debug)]
struct Tried {
    service: u64,
    host: u64,
    /// The /16 (IPv6: /48) of the host.
    network: u64,
    port: u64,
}

/// All that a source tried.
#[derive(Clone, Debug, Default)]
struct AllTried {
    services: Bits<32>,
    hosts: Bits<8>,
    networks: Bits<8>,
    ports: Bits<32>,
}

impl AllTried {
    /// Whether the service was not tried before.
    fn insert(&mut self, tried: &Tried) -> bool {
        let new = self.services.insert(tried.service);
        self.hosts.insert(tried.host);
        self.networks.insert(tried.network);
        self.ports.insert(tried.port);
        new
    }
}

/// More scanners than this at once act in concert: what they do together is judged, not each.
const TOGETHER: usize = 16;

/// One source.
#[derive(Clone, Debug)]
struct Walk {
    /// log4 of the ratio of likelihoods; it does not go below 1, so that nobody can earn credit.
    ratio: u32,
    attempts: u32,
    failed: u32,
    first: Timestamp,
    /// Its last first contact.
    last: Timestamp,
    /// Its first contacts since the beginning of a second, and the most that there were in one.
    second: (Timestamp, u32),
    most: u32,
    first_tried: Tried,
    /// Where that is not all: most sources of a flood come once.
    tried: Option<Box<AllTried>>,
    /// One of its addresses: of IPv6 a /64 is one source.
    address: Address,
    /// What it tried last, and the prefix of all that it tried.
    target: (Address, u16),
    prefix: Option<IpNet>,
}

/// A source that scans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PortScan {
    /// What counts as one source: an address, of IPv6 its /64.
    pub source: Address,
    /// The address, or one of them.
    pub attacker: Address,
    /// Many ports, many hosts, or both.
    pub variant: Variant,
    /// What is scanned, where that is one host or one port.
    pub target: Target,
    /// The prefix that holds the hosts, where there are several.
    pub prefix: Option<IpNet>,
    /// Services tried (estimate).
    pub services: f64,
    /// Attempts that were looked at.
    pub attempts: u32,
    /// Those that failed.
    pub failed: u32,
    /// When it began.
    pub first: Timestamp,
    /// Its last contact with a service that it had not tried before.
    pub last: Timestamp,
}

/// The sources whose first contacts fail.
pub(crate) struct Scanners {
    map: HashMap<Address, Walk, Keyed>,
    hasher: Hasher,
}

impl Scanners {
    /// None yet.
    #[must_use]
    pub fn new(hasher: Hasher) -> Self {
        Self { map: HashMap::with_hasher(Keyed(hasher)), hasher }
    }

    /// Takes in the outcome of an attempt of `source` at `to` that began at `at`.
    pub fn observe(&mut self, at: Timestamp, address: Address, to: (Address, u16), success: bool) {
        let source = source_of(address);
        let host = self.hasher.address(to.0);
        let port = self.hasher.address(Address::from_bits(u128::from(to.1)));
        let network = to.0.prefix(if to.0.is_ipv4() { 16 } else { 48 });
        let network = self.hasher.address(network);
        let tried = Tried { service: host ^ port.rotate_left(32), host, network, port };
        // Without a failure there is nothing to tell: the ratio would stay at 1.
        let room = !success && self.map.len() < LIMIT;
        match self.map.get_mut(&source) {
            Some(walk) => walk.go_on(at, to, tried, success),
            None if room => {
                self.map.insert(source, Walk::new(at, address, to, tried));
            }
            None => {}
        }
    }

    /// Forgets sources that have made no first contact for long.
    pub fn forget(&mut self, now: Timestamp) {
        let memory = if self.map.len() * 2 > LIMIT { MEMORY_CROWDED } else { MEMORY };
        self.map.retain(|_, walk| now - walk.last < memory);
    }

    /// Whether one more may be reported beside so many.
    pub fn has_room(active: usize) -> bool {
        active < TOGETHER
    }

    /// The sources that scan and made a first contact at `since` or later.
    pub fn since(&self, since: Timestamp) -> impl Iterator<Item = PortScan> {
        let active = move |(_, walk): &(&Address, &Walk)| walk.last >= since && walk.is_scan();
        self.map.iter().filter(active).map(|(source, walk)| walk.scan(*source))
    }
}

impl Walk {
    /// A source whose first attempt fails.
    fn new(at: Timestamp, address: Address, to: (Address, u16), tried: Tried) -> Self {
        Self {
            ratio: 1,
            attempts: 1,
            failed: 1,
            first: at,
            last: at,
            second: (at, 1),
            most: 1,
            first_tried: tried,
            tried: None,
            address,
            target: to,
            prefix: common_prefix([to.0].into_iter()),
        }
    }

    fn go_on(&mut self, at: Timestamp, to: (Address, u16), tried: Tried, success: bool) {
        self.attempts += 1;
        self.failed += u32::from(!success);
        let first = &self.first_tried;
        if self.tried.is_none() && tried.service == first.service {
            return;
        }
        let all = self.tried.get_or_insert_with(|| {
            let mut all = Box::<AllTried>::default();
            all.insert(first);
            all
        });
        if !all.insert(&tried) {
            return;
        }
        self.ratio = if success { self.ratio.saturating_sub(1) } else { self.ratio + 1 };
        self.last = self.last.max(at);
        if at - self.second.0 >= SECOND {
            self.second = (at, 0);
        }
        self.second.1 += 1;
        self.most = self.most.max(self.second.1);
        self.target = to;
        self.prefix = self.prefix.and_then(|prefix| widened(prefix, to.0));
    }

    /// About how many of something it tried.
    fn count<const N: usize>(&self, of: impl Fn(&AllTried) -> &Bits<N>) -> f64 {
        self.tried.as_ref().map_or(1.0, |all| of(all).estimate())
    }

    fn is_scan(&self) -> bool {
        self.ratio >= DECIDED
            && self.count(|all| &all.services) >= FRESH * f64::from(self.attempts)
            && {
                let hosts = self.count(|all| &all.hosts);
                hosts < 1.5
                    || hosts >= PER_NETWORK * self.count(|all| &all.networks)
                    || self.most >= IN_A_SECOND
            }
    }

    fn scan(&self, source: Address) -> PortScan {
        let one_host = self.count(|all| &all.hosts) < 1.5;
        let one_port = self.count(|all| &all.ports) < 1.5;
        let (address, port) = self.target;
        PortScan {
            source,
            attacker: self.address,
            variant: match (one_host, one_port) {
                (true, _) => Variant::Vertical,
                (false, true) => Variant::Horizontal,
                (false, false) => Variant::Block,
            },
            target: Target {
                address: one_host.then_some(address.into()),
                port: one_port.then_some(port),
            },
            prefix: self.prefix.filter(|prefix| !one_host && prefix.prefix_len() >= SHORTEST),
            services: self.count(|all| &all.services),
            attempts: self.attempts,
            failed: self.failed,
            first: self.first,
            last: self.last,
        }
    }
}

impl PortScan {
    /// The finding on its source.
    pub(crate) fn onset(self, dropping: bool) -> Onset {
        Onset {
            variant: Some(self.variant),
            severity: Severity::Warning,
            target: self.target,
            target_prefix: self.prefix,
            attacker: Some(self.attacker.into()),
            first_packet_at: self.first,
            evidence: Evidence {
                syn_rate: (f64::from(self.attempts) / self.seconds()).into(),
                completion_ratio: (f64::from(self.attempts - self.failed)
                    / f64::from(self.attempts))
                .into(),
                sources: 1,
                ..Evidence::default()
            },
            grounds: Grounds {
                // It has been decided, and stays so.
                level: 2.0,
                failures: self.failed as usize,
                dropping,
                ..Grounds::default()
            },
            configured: Configured::default(),
            finding: Finding::PortScan(self),
        }
    }

    fn seconds(&self) -> f64 {
        (self.last - self.first).as_secs_f64().max(1.0)
    }
}

impl Room for PortScan {
    const TITLE: &'static str = "port scan";
    const EVENT: u32 = 3;
    const CATEGORY: &'static str = "Detection of a Network Scan";

    fn sentence(&self, onset: &Onset) -> String {
        format!(
            "{} tried {:.0} services on {} in {:.0} s, and {} of {} attempts looked at failed: \
             whoever knows its services succeeds with most first contacts.",
            IpAddr::from(self.attacker),
            self.services,
            onset.place(),
            self.seconds(),
            self.failed,
            self.attempts
        )
    }

    fn advice(&self, _: &Onset) -> Vec<String> {
        vec![
            "A scan looks for services and harms none by itself: close what need not be open; the \
             address may be blocked where its answers show that it is real."
                .to_owned(),
        ]
    }
}

/// The prefix, or the longest that holds it and an address.
fn widened(prefix: IpNet, address: Address) -> Option<IpNet> {
    if prefix.contains(&IpAddr::from(address)) {
        return Some(prefix);
    }
    common_prefix([prefix.network().into(), address].into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::HashKey;

    const ATTACKER: Address = Address::v4([203, 0, 113, 9]);

    fn scanners() -> Scanners {
        Scanners::new(Hasher::new(HashKey([5; 16])))
    }

    fn host(n: u8) -> Address {
        Address::v4([192, 0, 2, n])
    }

    /// A host in a network of its own.
    fn one_of_many(n: u32) -> Address {
        Address::v4((n.wrapping_mul(2_654_435_761)).to_be_bytes())
    }

    fn scans(scanners: &Scanners) -> Vec<PortScan> {
        scanners.since(Timestamp::EPOCH).collect()
    }

    #[test]
    fn ports_of_one_host_are_a_vertical_scan() {
        let mut scanners = scanners();
        for port in 1..=9 {
            scanners.observe(Timestamp::EPOCH, ATTACKER, (host(10), port), false);
        }
        assert!(scans(&scanners).is_empty(), "nine failures may be bad luck");
        for port in 10..=1_000 {
            scanners.observe(Timestamp::EPOCH, ATTACKER, (host(10), port), port % 250 == 0);
        }
        let scans = scans(&scanners);
        assert_eq!(scans.len(), 1);
        assert_eq!((scans[0].attacker, scans[0].variant), (ATTACKER, Variant::Vertical));
        assert_eq!(scans[0].target.address, Some(host(10).into()));
        assert_eq!((scans[0].target.port, scans[0].prefix), (None, None));
        assert!((900.0..1_100.0).contains(&scans[0].services), "{scans:?}");
    }

    #[test]
    fn hosts_on_one_port_are_a_horizontal_scan_and_both_a_block() {
        let mut scanners = scanners();
        let other = Address::v4([203, 0, 113, 10]);
        for n in 1..=100 {
            scanners.observe(Timestamp::EPOCH, ATTACKER, (host(n), 22), false);
            scanners.observe(Timestamp::EPOCH, other, (host(n), u16::from(n % 4)), false);
        }
        let scans = scans(&scanners);
        let of = |attacker| scans.iter().find(|scan| scan.attacker == attacker).expect("a scan");
        let horizontal = of(ATTACKER);
        assert_eq!(horizontal.variant, Variant::Horizontal);
        assert_eq!(horizontal.target, Target { address: None, port: Some(22) });
        assert_eq!(horizontal.prefix.expect("one").to_string(), "192.0.2.0/25");
        assert_eq!(of(other).variant, Variant::Block);
    }

    #[test]
    fn who_comes_back_or_succeeds_is_no_scanner() {
        let mut scanners = scanners();
        for n in 0..5_000_u32 {
            // A flood over a few ports, and a client that mostly succeeds.
            scanners.observe(Timestamp::EPOCH, ATTACKER, (host(10), (n % 20) as u16), false);
            let client = Address::v4([198, 51, 100, 7]);
            scanners.observe(Timestamp::EPOCH, client, (host((n % 200) as u8), 443), n % 3 > 0);
        }
        assert_eq!(scans(&scanners), []);
    }

    #[test]
    fn who_looks_for_its_peers_is_no_scanner() {
        let mut scanners = scanners();
        for n in 0..200_u32 {
            let at = Timestamp::EPOCH + Duration::from_millis(20) * n;
            scanners.observe(at, ATTACKER, (one_of_many(n), 6_346), n % 20 == 0);
        }
        assert_eq!(scans(&scanners), []);
    }

    #[test]
    fn who_tries_hundreds_of_networks_in_a_second_is_one() {
        let mut scanners = scanners();
        for n in 0..500_u32 {
            let at = Timestamp::EPOCH + Duration::from_millis(1) * n;
            scanners.observe(at, ATTACKER, (one_of_many(n), 443), n % 50 == 0);
        }
        let scans = scans(&scanners);
        assert_eq!((scans.len(), scans[0].variant), (1, Variant::Horizontal));
        assert_eq!((scans[0].target.port, scans[0].prefix), (Some(443), None));
    }

    #[test]
    fn memory_is_bounded() {
        let mut scanners = scanners();
        for n in 0..100_000_u32 {
            let source = Address::v4(n.to_be_bytes());
            scanners.observe(Timestamp::EPOCH, source, (host(10), 443), false);
        }
        assert_eq!(scanners.map.len(), LIMIT);
        scanners.forget(Timestamp::EPOCH + MEMORY_CROWDED);
        assert!(scanners.map.is_empty());
    }
}
