//! A flood of a server that repeats its SYN-ACKs later than Linux does.

use std::net::Ipv4Addr;

use crate::threads::{Tcp, Timed, in_order, mixed, of_file, pcap};

/// Attempts a second.
const RATE: u32 = 40;
/// Microseconds from an answer to its repeats: it waits 3 s, and each time twice as long.
const REPEATS: [u64; 4] = [0, 3_000_000, 9_000_000, 21_000_000];

/// Attempts for 25 s, all of which the server keeps.
fn flood() -> Vec<Timed> {
    let mut frames = Vec::new();
    for number in 0..25 * RATE {
        let client = Tcp {
            from: (Ipv4Addr::from(mixed(number) | 0x0100_0000), 40_000),
            to: (Ipv4Addr::new(192, 0, 2, 10), 443),
            seq: mixed(number + 2_000_000),
            ack: mixed(number + 3_000_000),
        };
        let asked = u64::from(number) * 1_000_000 / u64::from(RATE);
        let answer = client.answer(1, 0).frame("SA", &[]);
        frames.push((asked, client.frame("S", &[])));
        frames.extend(REPEATS.map(|repeat| (asked + 100 + repeat, answer.clone())));
    }
    frames
}

#[test]
fn what_the_server_keeps_is_counted_between_its_repeats() {
    let frames = in_order(&[flood()]);
    // What is kept, and what of it is given up all the same, when the capture ends after so many
    // seconds.
    let given_up = |seconds: f64| {
        let end = frames.partition_point(|(at, _)| (*at as f64) < seconds * 1e6);
        let totals = &of_file("a flood", &pcap(&frames[..end]))["totals"];
        let [kept, half_open, timed_out] =
            ["syn", "half_open", "handshakes_timed_out"].map(|name| totals[name].as_u64().unwrap());
        assert_eq!(kept, half_open + timed_out, "{totals:#}");
        (kept, timed_out)
    };
    assert!(matches!(given_up(2.99), (120, 70..)), "before the first repeats");
    // It takes the repeats of half a second to learn it; these are given the time of Linux up to
    // their next.
    for seconds in [6.8, 7.9, 8.9] {
        let (kept, timed_out) = given_up(seconds);
        assert!(timed_out <= 20, "{timed_out} of {kept} after {seconds} s");
    }
    for (seconds, kept) in [(9.6, 384), (12.0, 480), (18.0, 720), (24.9, 996)] {
        assert_eq!(given_up(seconds), (kept, 0), "after {seconds} s");
    }
}
