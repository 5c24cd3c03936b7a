//! What is set for single services, and how the verdict tells of it.

use super::*;
use crate::detect::RateLimits;

const PROBE: Address = Address::v4([198, 51, 100, 66]);

fn with(each: ServiceSettings) -> World {
    World::with(Settings { each: vec![ServiceSettings { port: 443, ..each }], ..settings() })
}

#[track_caller]
fn explains(world: &mut World, words: &str) {
    let explanation = world.detection().explanation;
    assert!(explanation.contains(words), "{explanation}");
}

#[test]
fn settings_under_the_own_address_stand_before_those_for_any() {
    let of = |address: Option<&str>, backlog| ServiceSettings {
        address: address.map(|address| address.parse().expect("an address")),
        port: 443,
        backlog: Some(backlog),
        ..ServiceSettings::default()
    };
    let each = [of(None, 1), of(Some("192.0.2.10"), 2), of(Some("::"), 3)];
    let find = |address: &str, port| {
        let address = Address::from(address.parse::<IpAddr>().expect("an address"));
        ServiceSettings::find(&each, address, port)?.backlog
    };
    assert_eq!(find("192.0.2.10", 443), Some(2));
    assert_eq!(find("192.0.2.11", 443), Some(1));
    assert_eq!(find("::", 443), Some(3));
    assert_eq!(find("192.0.2.10", 80), None);
}

#[test]
fn a_set_backlog_is_the_limit_and_is_told() {
    let mut world = with(ServiceSettings { backlog: Some(128), ..Default::default() });
    world.clients(0.0, 60.0, 100.0, 2).flood(30.0, 60.0, 20.0, Random::address);
    world.until(60.0).warned(30.0, 10.0);
    explains(&mut world, "the backlog of 128 is set in the configuration");
    assert_eq!(world.detection().evidence.backlog, Some(128));
}

#[test]
fn a_set_rate_pages_where_the_derived_would_not() {
    let limits = RateLimits { warning: Some(15.0), critical: None };
    let mut world = with(ServiceSettings { limits, ..Default::default() });
    world.clients(0.0, 90.0, 100.0, 2).flood(60.0, 90.0, 30.0, Random::address);
    assert_eq!(world.until(59.9).told(Severity::Warning), None);
    world.until(90.0).warned(60.0, 20.0);
    explains(&mut world, "(limit set in the configuration: 15/s)");
}

#[test]
fn a_set_rate_keeps_the_derived_from_paging() {
    let limits = RateLimits { warning: Some(2_000.0), critical: None };
    let mut world = with(ServiceSettings { limits, ..Default::default() });
    world.clients(0.0, 60.0, 100.0, 2).flood(30.0, 60.0, 1_000.0, Random::address).until(60.0);
    assert_eq!(world.detection().severity, Severity::Info);
    let mut world = with(ServiceSettings { limits, ..Default::default() });
    world.clients(0.0, 60.0, 100.0, 2).flood(30.0, 60.0, 5_000.0, Random::address);
    world.until(60.0).warned(30.0, 3.0);
    explains(&mut world, "(limit set in the configuration");
}

#[test]
fn a_muted_service_is_worth_info_with_the_reason() {
    let mut world = with(ServiceSettings { mute: Mute::Service, ..Default::default() });
    world.clients(0.0, 60.0, 100.0, 2).flood(30.0, 60.0, 1_000.0, Random::address).until(60.0);
    let detection = world.detection();
    assert_eq!((detection.severity, world.report().status), (Severity::Info, Status::Ok));
    explains(&mut world, "muted by the configuration, else critical");
    assert!(detection.evidence.syn_rate.value > 900.0, "it is measured all the same");
}

#[test]
fn attempts_from_muted_sources_are_in_the_totals_only() {
    let mute = Mute::Sources(vec!["198.51.100.64/28".parse().expect("a network")]);
    let mut world = with(ServiceSettings { mute, ..Default::default() });
    world.clients(0.0, 90.0, 100.0, 2).flood(10.0, 90.0, 200.0, |_| PROBE).until(60.0);
    // The queue is what it is.
    assert_eq!(world.told(Severity::Warning), None);
    let report = world.report();
    let syn = report.totals.syn.value;
    assert!((15_990..16_010).contains(&syn), "{syn}");
    assert!(report.services[0].completion_ratio.value > 0.9, "{:?}", report.services[0]);

    // A flood beside it is seen, and its sources are its own.
    world.flood(60.0, 90.0, 1_000.0, Random::address).until(90.0).warned(60.0, 2.0);
    assert_eq!(world.detection().variant, Some(Variant::SpoofedRandom));
    explains(
        &mut world,
        "/s more come from sources muted by the configuration and are not counted",
    );
}
