//! The commands that advice prints for nftables, run as they are printed: they load, they stop the
//! flood, and no client.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use synwatch_core::observe::{Evidence, Severity, Target, Variant};
use synwatch_core::testing::{
    Configured, Filter, Grounds, Onset, SeenSyn, Sources as FloodSources, SynFingerprint, SynFlood,
};
use synwatch_core::time::Timestamp;
use synwatch_core::wire::{Address, OptionLayout};

use crate::support;
use crate::support::flood::{Flood, Sources};
use crate::support::lab::{Family, Lab, Settings, service};
use crate::support::netns::Namespace;
use crate::support::program::Daemon;
use crate::support::traffic::{Service, connections};
use crate::support::turn::{CONNECTION, Turn};

/// The port of the flooded service.
const PORT: u16 = 4430;

#[test]
fn the_printed_filter_stops_the_flood_and_no_client() {
    if !support::requires_nft() {
        return;
    }
    thread::scope(|scope| {
        for family in Family::ALL {
            scope.spawn(move || {
                let flood = |target| Flood::random(target, 500, Duration::from_secs(20));
                stop(family, "This rule would match", flood, (60, 40));
            });
        }
    });
}

#[test]
fn the_printed_limit_stops_greedy_sources_and_no_client() {
    if !support::requires_nft() {
        return;
    }
    thread::scope(|scope| {
        for family in Family::ALL {
            scope.spawn(move || {
                let bots = Sources::fixed(12, family.victim());
                let flood = |target| Flood::random(target, 900, Duration::from_secs(20)).from(bots);
                // All clients of the IPv6 lab are in one /64.
                stop(family, "this rule leaves", flood, (24, 8));
            });
        }
    });
}

/// Runs the command of the advice with `words` in it while the flood is on; then so many clients
/// come, so many a second.
fn stop(
    family: Family,
    words: &str,
    flood: impl FnOnce(SocketAddr) -> Flood,
    (count, rate): (usize, u32),
) {
    let target = service(family, PORT);
    let flood = flood(target);
    let _turn = Turn::wait(flood.rate + 40 * CONNECTION);
    let lab = Lab::new(Settings::default());
    let _service = Service::start(&lab, target, 4096);
    let clients = lab.add_clients(family, 20);
    let daemon = Daemon::start(&lab);
    assert_eq!(connections(&lab, target, &clients, 60, 40), 60, "{family:?}: before the flood");

    let flood = flood.start(&lab);
    let advice = daemon.wait_for(Duration::from_secs(12), |daemon| {
        daemon.detections().iter().find_map(|found| advice_with(found, words))
    });
    let advice =
        advice.unwrap_or_else(|| panic!("{family:?}: no such advice: {:#?}", daemon.detections()));
    eprintln!("{family:?}: {advice}");
    run(&lab.victim, &command_in(&advice));
    thread::sleep(Duration::from_secs(1));
    let before = dropped(&lab);
    let served = connections(&lab, target, &clients, count, rate);
    assert_eq!(served, count as u64, "{family:?}: clients while the rule is in force");
    let during = dropped(&lab);
    assert!(before > 100 && during > before, "{family:?}: {before}, then {during} SYNs dropped");
    let sent = flood.join();
    let after = dropped(&lab);
    let served = connections(&lab, target, &clients, count, rate);
    assert_eq!(served, count as u64, "{family:?}: after the flood");
    assert_eq!(dropped(&lab), after, "{family:?}: clients were dropped");
    assert!(after < sent.count, "{family:?}: {after} dropped of {} sent", sent.count);

    assert!(advice.contains("nft delete table inet synwatch"), "{advice}");
    run(&lab.victim, "nft delete table inet synwatch");
    assert_eq!(run(&lab.victim, "nft list ruleset"), "");
}

/// Everything that a filter can say, in the tool's own judgement.
#[test]
fn every_test_of_a_filter_is_one_that_nft_knows() {
    if !support::requires_nft() {
        return;
    }
    let layout = |kinds: &[u8]| {
        (0..).zip(kinds).fold(OptionLayout::default(), |layout, (n, kind)| layout.with(n, *kind))
    };
    let none = SynFingerprint { ttl: 57, window: 512, ..SynFingerprint::default() };
    let linux = SynFingerprint { options: layout(&[2, 4, 8, 1, 3]), mss: Some(1460), ..none };
    let windows = SynFingerprint { options: layout(&[2, 1, 3, 1, 1, 4]), round_isn: true, ..linux };
    let no_mss = SynFingerprint { options: layout(&[8]), mss: None, ..none };
    let farther = SynFingerprint { ttl: 40, ..none };
    let namespace = Namespace::new('n');
    let mut prefixes = 0;
    for (source, prefix) in [("203.0.113.7", "203.0.113.0/24"), ("2001:db8::7", "2001:db8::/48")] {
        let source = source.parse().expect("an address");
        for looks in [[none; 2], [linux; 2], [windows; 2], [no_mss; 2], [none, farther]] {
            for (completed, prefix) in
                [(0, None), (0, Some(prefix)), (100, None), (100, Some(prefix))]
            {
                let advice = advice_against(source, looks, completed, prefix);
                let advice = advice.iter().find(|advice| advice.contains("nft '"));
                let advice = advice.unwrap_or_else(|| panic!("{looks:?}: no rule"));
                prefixes += usize::from(advice.contains("real owners"));
                run(&namespace, &command_in(advice));
            }
        }
    }
    assert_eq!(prefixes, 20);
    let rules = run(&namespace, "nft list ruleset");
    assert_eq!(rules.matches("counter packets 0 bytes 0").count(), 40, "{rules}");
}

/// The advice on a flood whose SYNs have these looks in turn, where those that complete look
/// otherwise.
fn advice_against(
    source: IpAddr,
    looks: [SynFingerprint; 2],
    completed: usize,
    prefix: Option<&str>,
) -> Vec<String> {
    let source = Address::from(source);
    let failing = (0..200).map(|n| (SeenSyn { source, fingerprint: looks[n % 2] }, 1.0));
    let other = SynFingerprint { ttl: 120, window: 8192, ..SynFingerprint::default() };
    let completed = vec![SeenSyn { source, fingerprint: other }; completed];
    let prefix = prefix.map(|prefix| prefix.parse().expect("a prefix"));
    let filter = Filter::find(failing, completed.iter(), prefix);
    let sources = FloodSources { filter, ..FloodSources::default() };
    let onset = Onset {
        finding: SynFlood { sources, ..SynFlood::default() }.into(),
        variant: Some(Variant::SpoofedSubnet),
        severity: Severity::Critical,
        target: Target { address: None, port: Some(443) },
        target_prefix: None,
        attacker: None,
        first_packet_at: Timestamp::EPOCH,
        evidence: Evidence::default(),
        grounds: Grounds::default(),
        configured: Configured::default(),
    };
    onset.advice()
}

fn advice_with(detection: &Value, words: &str) -> Option<String> {
    let advice = detection["advice"].as_array()?;
    let mut texts = advice.iter().filter_map(Value::as_str);
    texts.find(|text| text.contains(words) && text.contains("counter drop'")).map(str::to_owned)
}

/// The first command in an advice: from `nft` to its closing quote.
fn command_in(advice: &str) -> String {
    let (_, rest) = advice.split_once("nft '").expect("a command");
    let (commands, _) = rest.split_once('\'').expect("a closing quote");
    format!("nft '{commands}'")
}

/// SYNs that the rule has dropped.
fn dropped(lab: &Lab) -> u64 {
    let rules = run(&lab.victim, "nft list chain inet synwatch syn");
    let (_, rest) = rules.split_once("counter packets ").expect("a counter");
    rest.split(' ').next().and_then(|count| count.parse().ok()).expect("a count")
}

/// Runs a line as a shell would, inside a namespace, and returns what it prints.
fn run(namespace: &Namespace, line: &str) -> String {
    let mut shell: Command = namespace.command("sh");
    let output = shell.args(["-c", line]).output().expect("run sh");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
