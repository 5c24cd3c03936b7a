//! Netfilter's connection tracking: under a flood its table often fills before the SYN queue does.

use std::fs;

use synwatch_core::observe::Conntrack;

const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const STAT: &str = "/proc/thread-self/net/stat/nf_conntrack";

/// The table of the calling thread's network namespace; `None` where the module is not loaded or
/// `/proc/sys` is hidden.
pub(super) fn read() -> Option<Conntrack> {
    let number = |path| fs::read_to_string(path).ok()?.trim().parse().ok();
    Some(Conntrack {
        entries: number(COUNT)?,
        limit: number(MAX)?,
        dropped: fs::read_to_string(STAT).map_or(0, |stat| dropped(&stat)),
    })
}

/// Packets dropped, summed over the CPUs: the column `drop` of `/proc/net/stat/nf_conntrack` (one
/// line of hexadecimal numbers per CPU under a line of names).
///
/// That is packets for which the table had no room and, from Linux 5.8 on, packets that lost a race
/// to insert the same flow. `early_drop` is no packet (an entry evicted to make room), and
/// `insert_failed` counts the lost races a second time, on older kernels even those that cost no
/// packet.
fn dropped(stat: &str) -> u64 {
    let mut lines = stat.lines();
    let Some(column) = lines
        .next()
        .and_then(|names| names.split_ascii_whitespace().position(|name| name == "drop"))
    else {
        return 0;
    };
    lines
        .filter_map(|line| line.split_ascii_whitespace().nth(column))
        .filter_map(|value| u64::from_str_radix(value, 16).ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_sums_the_cpus() {
        let stat = "\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
00000400  00000000 00000000 00000000 00000003 00000000 00000000 00000000 00000000 00000002 0000000a 00000007 00000000  00000000 00000000 00000000 00000000
00000400  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000010 00000000 00000000  00000000 00000000 00000000 00000000
";
        assert_eq!(dropped(stat), 26);
    }

    #[test]
    fn unknown_columns_drop_nothing() {
        assert_eq!(dropped(""), 0);
        assert_eq!(dropped("entries found\n0000 0000\n"), 0);
        assert_eq!(dropped("entries drop\n0000 zz\n0000\n"), 0);
    }
}
