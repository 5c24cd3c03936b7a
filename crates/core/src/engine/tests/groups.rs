//! What services have in common does not hide one of them.

use super::*;
use crate::incident::Subject;

#[test]
fn a_carpet_does_not_hide_the_service_that_gets_most() {
    let mut world = World::with(Settings { services: 512, ..settings() });
    for n in 0..35_000_u32 {
        let source = world.random.address();
        let host = Address::v4([192, 0, 2, 1 + world.random.below(250) as u8]);
        world.request(f64::from(n) / 500.0, source, host);
    }
    world.flood(30.0, 70.0, 1_000.0, Random::address).until(29.0);
    let carpet = world.detection();
    assert_eq!(carpet.variant, Some(Variant::Carpet));
    world.until(60.0);
    let detections = world.report().detections;
    let of_service = detections.iter().find(|detection| detection.target.port.is_some());
    let of_service = of_service.expect("the service's own");
    assert_eq!(of_service.target.address, Some(VICTIM.into()));
    assert!(seconds(of_service.raised_at) <= 34.0);
    assert_eq!(detections.len(), 2, "{detections:#?}");
}

#[test]
fn the_tail_of_a_flood_is_told_of_no_other() {
    let mut world = World::new();
    world.clients(0.0, 200.0, 100.0, 5).flood(30.0, 60.0, 1_000.0, Random::address);
    // Now and then somebody tries another host.
    for n in 0..800_u32 {
        let source = world.random.address();
        let host = Address::v4([192, 0, 2 + (n % 40) as u8, n as u8]);
        world.request(f64::from(n) / 4.0, source, host);
    }
    world.until(200.0);
    let detection = world.detection();
    assert_eq!(detection.target.port, Some(443));
    assert!(detection.cleared_at.is_some());
    let of_others = world.engine.judge.incidents().active(Class::SynFlood, Subject::Capture);
    assert!(of_others.is_none());
}
