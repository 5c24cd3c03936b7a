//! What an operator can do against a SYN flood.

use ipnet::IpNet;

use crate::findings::Onset;
use crate::findings::syn_flood::{Filter, SOON, SynFlood};
use crate::model::Variant;

/// Share of the queue from which on its size and the time that requests stay matter.
const PRESSED: f64 = 0.25;
/// Repeats of the SYN-ACK from which on fewer are advised, and how many: a request then goes after
/// 7 s, and an honest client has had three answers.
const MANY_RETRIES: u8 = 4;
const FEW_RETRIES: u8 = 2;
/// A filter that hits more of the completed handshakes than this does not tell them apart.
const HARMFUL: f64 = 0.05;
/// Completed handshakes that a filter must have been held against before it may drop anything.
const ENOUGH_COMPLETED: usize = 20;
/// New connections per second that are left to each source, more than a browser opens; a limit is
/// of use against sources that send at least twice that.
const PER_SOURCE: u32 = 10;

impl SynFlood {
    /// What the kernel's settings could do better in this incident.
    pub(super) fn advice_on_queue(&self, onset: &Onset) -> Vec<String> {
        let queue = &self.queue;
        let sysctls = queue.sysctls;
        let mut advice = Vec::new();
        let cookies_off = sysctls.syncookies == Some(0);
        if cookies_off {
            advice.push(
                "SYN cookies are off: sysctl -w net.ipv4.tcp_syncookies=1 keeps honest clients \
                 served while the queue is full."
                    .to_owned(),
            );
        } else if sysctls.syncookies.is_none() {
            advice.push(
                "Check that SYN cookies are on where the service runs (net.ipv4.tcp_syncookies=1)."
                    .to_owned(),
            );
        }
        let soon_full = queue.seconds_to_full.is_some_and(|seconds| seconds < SOON);
        let occupancy = onset.evidence.occupancy_ratio;
        if !soon_full && occupancy.is_none_or(|occupancy| occupancy < PRESSED) {
            return advice;
        }
        let listen = queue.listen_backlog;
        // With cookies off `tcp_conn_request` stops at three quarters of it.
        if let (Some(listen), Some(max)) = (listen, sysctls.max_syn_backlog)
            && cookies_off
            && max - max / 4 < listen
        {
            advice.push(format!(
                "While SYN cookies are off net.ipv4.tcp_max_syn_backlog={max} ends the queue at {} \
                 requests, below the backlog of {listen}: sysctl -w \
                 net.ipv4.tcp_max_syn_backlog={} makes room for all of it.",
                max - max / 4,
                (u64::from(listen) * 4).div_ceil(3)
            ));
        }
        if let (Some(listen), Some(somaxconn)) = (listen, sysctls.somaxconn)
            && listen < somaxconn
        {
            let place = onset.target.port.map_or_else(String::new, |port| {
                format!(" (ss -ltn 'sport = :{port}' shows it as Send-Q)")
            });
            advice.push(format!(
                "The application's listen() asks for a backlog of {listen} while \
                 net.core.somaxconn allows {somaxconn}: raise it in the application{place}."
            ));
        }
        if let Some(retries @ MANY_RETRIES..) = sysctls.synack_retries
            && cookies_off
        {
            advice.push(format!(
                "With {retries} repeats of the SYN-ACK a forged request holds its place for up to \
                 {} s: sysctl -w net.ipv4.tcp_synack_retries={FEW_RETRIES} frees it after {} s.",
                seconds_held(retries),
                seconds_held(FEW_RETRIES)
            ));
        }
        advice
    }

    /// What a packet filter could do, and whom it would hit.
    pub(super) fn advice_on_filter(&self, onset: &Onset) -> Option<String> {
        let filter = self.sources.filter?;
        let (failing, completed) = (100.0 * filter.failing_share, 100.0 * filter.completed_share);
        if filter.completed >= ENOUGH_COMPLETED && filter.completed_share > HARMFUL {
            return Some(format!(
                "No rule on their SYNs tells the failing attempts from the handshakes that \
                 complete: the best one would match {failing:.0} % of the failing and \
                 {completed:.1} % of these."
            ));
        }
        let rule = format!("{}{filter}", syns_to_target(onset, filter.ipv4));
        let unproved = filter.completed < ENOUGH_COMPLETED;
        let (harm, end) = if unproved {
            (
                "; too few handshakes have completed to tell whom else, so it only counts"
                    .to_owned(),
                "",
            )
        } else {
            (format!(" and {completed:.1} % of the handshakes that complete"), " drop")
        };
        let mut advice = format!(
            "This rule would match {failing:.0} % of the failing attempts{harm} (printed, not \
             applied): {}",
            command("", &format!("{rule} counter{end}"))
        );
        if let Some(prefix) = filter.prefix() {
            advice +=
                &format!(" The real owners of {prefix} are hit too where they look the same.");
        }
        Some(advice)
    }

    /// What can be done about the sources. Addresses that have completed nothing are nobody's
    /// fault.
    pub(super) fn advice_on_sources(&self, onset: &Onset) -> Vec<String> {
        let sources = &self.sources;
        let mut advice = Vec::new();
        let useful = sources.real && sources.rate_each >= f64::from(2 * PER_SOURCE);
        let advice_on_address = match onset.variant {
            Some(Variant::SingleSource) if sources.real => {
                "One source sends most of it, and it has completed handshakes here before: limit \
                 new connections per source rather than block the address, which others may share."
            }
            Some(Variant::SingleSource) => {
                "One source sends most of it; it completed no handshake and may be forged: \
                 rate-limit new connections per source upstream rather than block the address."
            }
            Some(Variant::SpoofedSubnet) => {
                "The sources are probably forged inside one prefix: ask upstream to filter it at \
                 the edge that it cannot come from; blocking it here also blocks its real owners."
            }
            Some(Variant::Distributed) if sources.real && !useful => {
                "The sources return and are probably real, but each of them sends no more than \
                 honest clients may: a limit per source does not help, ask upstream for help."
            }
            Some(Variant::Distributed) => {
                "The sources return and are probably real: limit new connections per source, and \
                 ask upstream for help."
            }
            _ => {
                "Do not block the source addresses: they completed no handshake and are probably \
                 forged. Ask upstream for SYN filtering, or put a SYN proxy in front."
            }
        };
        advice.push(advice_on_address.to_owned());
        if useful {
            advice.push(format!(
                "The sources are probably real and send {:.0} SYN/s each: this rule leaves \
                 {PER_SOURCE}/s to each (printed, not applied): {}",
                sources.rate_each,
                self.limit_per_source(onset)
            ));
        }
        advice
    }

    /// A limit for each source (IPv6: each /64), which are forgotten after a minute.
    fn limit_per_source(&self, onset: &Onset) -> String {
        let ipv4 = match (onset.target.address, onset.target_prefix, self.sources.filter) {
            (Some(address), ..) if !address.is_unspecified() => address.is_ipv4(),
            (_, Some(IpNet::V4(_)), _) => true,
            (_, Some(IpNet::V6(_)), _) => false,
            (.., filter) => filter.is_none_or(|filter: Filter| filter.ipv4),
        };
        let (kind, source) = if ipv4 {
            ("ipv4_addr", "ip saddr")
        } else {
            ("ipv6_addr", "ip6 saddr & ffff:ffff:ffff:ffff::")
        };
        let set = format!(
            "add set inet synwatch sources {{ type {kind}; size 65535; flags dynamic,timeout; \
             timeout 1m; }}; "
        );
        let burst = 2 * PER_SOURCE;
        let rule = format!(
            "{} update @sources {{ {source} limit rate over {PER_SOURCE}/second burst {burst} \
             packets }} counter drop",
            syns_to_target(onset, ipv4)
        );
        command(&set, &rule)
    }
}

/// The part of a rule that picks the SYNs to the target.
fn syns_to_target(onset: &Onset, ipv4: bool) -> String {
    let network = match (onset.target.address, onset.target_prefix) {
        (Some(address), _) if !address.is_unspecified() => Some(IpNet::from(address)),
        (_, prefix) => prefix,
    };
    let version = if ipv4 { "ip" } else { "ip6" };
    let address = match network {
        Some(net) if net.addr().is_ipv4() == ipv4 && net.prefix_len() == net.max_prefix_len() => {
            format!("{version} daddr {}", net.addr())
        }
        Some(net) if net.addr().is_ipv4() == ipv4 => format!("{version} daddr {net}"),
        _ => format!("meta nfproto {}", if ipv4 { "ipv4" } else { "ipv6" }),
    };
    let port = onset.target.port.map_or_else(String::new, |port| format!(" tcp dport {port}"));
    format!("{address}{port} tcp flags & (fin | syn | rst | ack) == syn")
}

/// The end of a sentence: a command that sets up a rule in a table of its own, so that it needs
/// nothing and can be taken away again. It stands before connection tracking, whose table a flood
/// fills too.
fn command(set: &str, rule: &str) -> String {
    format!(
        "nft 'add table inet synwatch; {set}add chain inet synwatch syn {{ type filter hook \
         prerouting priority raw; }}; add rule inet synwatch syn {rule}'; nft list table inet \
         synwatch shows what it hits, nft delete table inet synwatch takes it away."
    )
}

/// Seconds until a server gives up a request whose answer it repeats so often: it waits 1 s after
/// the first and twice as long after each further one, but at most 120 s (`TCP_TIMEOUT_INIT`,
/// `TCP_RTO_MAX`).
fn seconds_held(retries: u8) -> u32 {
    (0..=u32::from(retries)).map(|n| (1 << n.min(7)).min(120)).sum()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::findings::syn_flood::{QueueState, Sources};
    use crate::findings::{Configured, Grounds};
    use crate::model::{Evidence, Severity, Sysctls, Target};
    use crate::stats::{SeenSyn, SynFingerprint};
    use crate::time::Timestamp;
    use crate::wire::Address;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// 200 attempts with this window that fail, and handshakes that complete with a larger one, but
    /// for `alike` of them.
    fn filter(source: &str, window: u16, alike: usize, completed: usize) -> Option<Filter> {
        let source = Address::from(ip(source));
        let syn = |window| SeenSyn {
            source,
            fingerprint: SynFingerprint { ttl: 64, window, ..SynFingerprint::default() },
        };
        let completed: Vec<SeenSyn> =
            (0..completed).map(|n| syn(if n < alike { window } else { 64_240 })).collect();
        Filter::find((0..200).map(|_| (syn(window), 1.0)), completed.iter(), None)
    }

    /// A flood and its finding.
    fn flood(variant: Variant, queue: QueueState, sources: Sources) -> (SynFlood, Onset) {
        let found = SynFlood { queue, sources, ..SynFlood::default() };
        let onset = Onset {
            variant: Some(variant),
            severity: Severity::Critical,
            target: Target { address: Some(ip("192.0.2.10")), port: Some(443) },
            target_prefix: None,
            attacker: None,
            first_packet_at: Timestamp::EPOCH,
            evidence: Evidence { occupancy_ratio: Some(0.9), ..Evidence::default() },
            grounds: Grounds::default(),
            configured: Configured::default(),
            finding: found.into(),
        };
        (found, onset)
    }

    fn advice_on(filter: Option<Filter>) -> String {
        let sources = Sources { filter, ..Sources::default() };
        let (found, onset) = flood(Variant::SpoofedRandom, QueueState::default(), sources);
        found.advice_on_filter(&onset).expect("advice")
    }

    #[test]
    fn a_rule_comes_with_its_harm() {
        let advice = advice_on(filter("198.51.100.7", 512, 1, 200));
        assert_eq!(
            advice,
            "This rule would match 100 % of the failing attempts and 0.5 % of the handshakes that \
             complete (printed, not applied): nft 'add table inet synwatch; add chain inet \
             synwatch syn { type filter hook prerouting priority raw; }; add rule inet synwatch \
             syn ip daddr 192.0.2.10 tcp dport 443 tcp flags & (fin | syn | rst | ack) == syn tcp \
             window 512 tcp doff 5 ip ttl 64 counter drop'; nft list table inet \
             synwatch shows what it hits, nft delete table inet synwatch takes it away."
        );
    }

    #[test]
    fn a_rule_that_cannot_be_judged_only_counts() {
        let filter = filter("2001:db8::7", 512, 0, 19);
        let sources = Sources { filter, ..Sources::default() };
        let (found, onset) = flood(Variant::SpoofedRandom, QueueState::default(), sources);
        let target = Target { address: Some(ip("::")), port: Some(443) };
        let advice = found.advice_on_filter(&Onset { target, ..onset }).expect("advice");
        assert!(advice.contains("syn meta nfproto ipv6 tcp dport 443"), "{advice}");
        assert!(advice.contains("ip6 hoplimit 64 counter'"), "{advice}");
        assert!(!advice.contains("drop'"), "{advice}");
    }

    #[test]
    fn no_rule_is_given_that_hits_clients() {
        let advice = advice_on(filter("198.51.100.7", 512, 11, 200));
        assert!(advice.starts_with("No rule"), "{advice}");
        assert!(advice.contains("5.5 % of these"), "{advice}");
        assert!(!advice.contains("nft"), "{advice}");
    }

    #[test]
    fn sources_are_limited_where_they_are_real_and_greedy() {
        let greedy = Sources { real: true, rate_each: 40.0, ..Sources::default() };
        let rule = |variant, sources| {
            let (found, onset) = flood(variant, QueueState::default(), sources);
            found.advice_on_sources(&onset).join(" ")
        };
        let limit = "update @sources { ip saddr limit rate over 10/second burst 20 packets }";
        assert!(rule(Variant::Distributed, greedy).contains(limit));
        assert!(rule(Variant::SingleSource, greedy).contains(limit));
        let humble = Sources { rate_each: 4.0, ..greedy };
        assert!(!rule(Variant::Distributed, humble).contains("nft"));
        let forged = Sources { real: false, ..greedy };
        assert!(!rule(Variant::SingleSource, forged).contains("nft"));
    }

    #[test]
    fn settings_are_named_where_they_matter() {
        let sysctls = Sysctls {
            syncookies: Some(0),
            synack_retries: Some(5),
            max_syn_backlog: Some(512),
            somaxconn: Some(4_096),
        };
        let queue = QueueState { sysctls, listen_backlog: Some(511), ..QueueState::default() };
        let (found, onset) = flood(Variant::SpoofedRandom, queue, Sources::default());
        let advice = found.advice_on_queue(&onset);
        assert_eq!(advice.len(), 4, "{advice:#?}");
        assert!(advice[1].contains("ends the queue at 384 requests"), "{}", advice[1]);
        assert!(advice[1].contains("tcp_max_syn_backlog=682 "), "{}", advice[1]);
        assert!(advice[2].contains("a backlog of 511 while net.core.somaxconn allows 4096"));
        assert!(advice[3].contains("for up to 63 s: sysctl -w net.ipv4.tcp_synack_retries=2"));

        let empty = Evidence { occupancy_ratio: Some(0.01), ..Evidence::default() };
        assert_eq!(found.advice_on_queue(&Onset { evidence: empty, ..onset }).len(), 1);
        let cookies = Sysctls { syncookies: Some(1), somaxconn: Some(511), ..sysctls };
        let queue = QueueState { sysctls: cookies, ..queue };
        let (found, onset) = flood(Variant::SpoofedRandom, queue, Sources::default());
        assert!(found.advice_on_queue(&onset).is_empty());
    }

    #[test]
    fn a_request_is_held_until_its_last_repeat_is_overdue() {
        assert_eq!(seconds_held(0), 1);
        assert_eq!(seconds_held(5), 63);
        assert_eq!(seconds_held(8), 367);
    }
}
