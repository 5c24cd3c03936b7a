//! Counters of `/proc/net/netstat` and `/proc/net/snmp` that tell what a flood did to this host.

use std::collections::BTreeMap;

/// Counters of the calling thread's network namespace. `/proc/self/net` (what `/proc/net` points
/// to) would be that of the process's first thread.
pub(super) const NETSTAT: &str = "/proc/thread-self/net/netstat";
/// The counters of RFC 1213, see [`NETSTAT`].
pub(super) const SNMP: &str = "/proc/thread-self/net/snmp";

/// The `TcpExt` counters that are kept (kernel: `include/uapi/linux/snmp.h`, `net/ipv4/proc.c`).
///
/// `TCPTimeouts` is left out: it mixes timers of requests with those of open connections;
/// `TCPSynRetrans` counts the SYN and SYN-ACK retransmissions alone.
const TCP_EXT: &[&str] = &[
    // ACKs with a bad cookie; SYN-ACKs with a cookie; connections made from a cookie.
    "SyncookiesFailed",
    "SyncookiesSent",
    "SyncookiesRecv",
    // The SYN queue was full: dropped, or answered with a cookie.
    "TCPReqQFullDrop",
    "TCPReqQFullDoCookies",
    // The accept queue was full; SYNs and ACKs dropped for this or any other reason.
    "ListenOverflows",
    "ListenDrops",
    // Requests ended by a RST (also `tcp_abort_on_overflow`).
    "EmbryonicRsts",
    // SYNs and SYN-ACKs sent again.
    "TCPSynRetrans",
    // Bare ACKs that TCP_DEFER_ACCEPT left waiting for data.
    "TCPDeferAcceptDrop",
];

/// The `Tcp` counters that are kept: connections accepted, attempts that failed.
const TCP: &[&str] = &["PassiveOpens", "AttemptFails"];

/// The kept `TcpExt` counters in the text of `/proc/net/netstat`.
pub(super) fn tcp_ext(netstat: &str) -> BTreeMap<&'static str, u64> {
    section(netstat, "TcpExt:", TCP_EXT)
}

/// The kept `Tcp` counters in the text of `/proc/net/snmp`.
pub(super) fn tcp(snmp: &str) -> BTreeMap<&'static str, u64> {
    section(snmp, "Tcp:", TCP)
}

/// Picks `wanted` from the two lines (names, values) that begin with `prefix`. Which counters exist
/// depends on the kernel's version, so one that is missing or unreadable is left out.
fn section(text: &str, prefix: &str, wanted: &[&'static str]) -> BTreeMap<&'static str, u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return BTreeMap::new();
    };
    names
        .split_ascii_whitespace()
        .zip(values.split_ascii_whitespace())
        .filter_map(|(name, value)| {
            let name = wanted.iter().find(|wanted| **wanted == name)?;
            Some((*name, value.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETSTAT: &str = "\
TcpExt: SyncookiesSent SyncookiesRecv SyncookiesFailed EmbryonicRsts PruneCalled ListenOverflows ListenDrops TCPTimeouts TCPReqQFullDoCookies TCPReqQFullDrop TCPSynRetrans
TcpExt: 48211 12 3 4 5 6 7 8 9 10 18446744073709551615
IpExt: InNoRoutes InTruncatedPkts SyncookiesSent
IpExt: 0 0 99
";

    #[test]
    fn wanted_counters_are_picked_by_name() {
        let counters = tcp_ext(NETSTAT);
        assert_eq!(counters["SyncookiesSent"], 48211);
        assert_eq!(counters["TCPReqQFullDrop"], 10);
        assert_eq!(counters["TCPSynRetrans"], u64::MAX);
        assert!(!counters.contains_key("PruneCalled"));
        assert!(!counters.contains_key("TCPDeferAcceptDrop"), "absent in this kernel");
        assert_eq!(counters.len(), 9);
    }

    #[test]
    fn tcp_values_may_be_negative() {
        let snmp = "Tcp: RtoMin MaxConn PassiveOpens AttemptFails\nTcp: 200 -1 7 -1\n";
        assert_eq!(tcp(snmp), BTreeMap::from([("PassiveOpens", 7)]));
    }

    #[test]
    fn broken_text_gives_no_counters() {
        for text in ["", "TcpExt:", "TcpExt: SyncookiesSent\n", "TcpExt: SyncookiesSent\nTcpExt: x"]
        {
            assert!(tcp_ext(text).is_empty(), "{text:?}");
        }
    }
}
