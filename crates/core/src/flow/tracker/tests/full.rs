//! Who leaves when a table is full.

use super::*;

/// A table of one set, so that every flow is in the way of every other.
fn four_places() -> Scene {
    let scene = Scene::with_capacity(4);
    assert_eq!(scene.tracker.capacity(), 4);
    scene
}

/// Brings a flow of its own port into the state that so many segments of a handshake lead to.
fn flow(scene: &mut Scene, port: u16, segments: usize) {
    let handshake = [client(SYN, 100, 0), server(SYN_ACK, 300, 101), client(ACK, 101, 301)];
    for segment in handshake.into_iter().take(segments) {
        scene.sees(of_port(segment, port));
    }
}

#[test]
fn settled_connections_leave_first_and_half_open_ones_last() {
    let mut scene = four_places();
    flow(&mut scene, 1, 2);
    flow(&mut scene, 2, 2);
    flow(&mut scene, 3, 1);
    flow(&mut scene, 4, 3);
    assert_eq!(scene.states(), [("SYN_SENT", 1), ("SYN_RECV", 2), ("ESTABLISHED", 1)]);
    flow(&mut scene, 5, 2);
    assert_eq!(scene.states(), [("SYN_SENT", 1), ("SYN_RECV", 3)]);
    flow(&mut scene, 6, 2);
    assert_eq!(scene.states(), [("SYN_RECV", 4)]);
    assert_eq!(scene.tracker.evicted(), 2);
    flow(&mut scene, 7, 1);
    assert_eq!(scene.states(), [("SYN_SENT", 1), ("SYN_RECV", 3)]);
    assert_eq!((scene.tracker.evicted(), scene.tracker.timed_out()), (3, 1));
}

#[test]
fn of_equals_the_one_that_is_due_first_leaves() {
    let mut scene = four_places();
    for port in 1..=4 {
        scene.at(f64::from(port) * 0.1);
        flow(&mut scene, port, 2);
    }
    scene.at(0.5);
    flow(&mut scene, 5, 1);
    let oldest = scene.tracker.hasher().flow(&of_port(client(SYN, 100, 0), 1)).hash;
    assert_eq!(scene.tracker.fate(oldest, SeqNumber(100)).0, Fate::Unknown);
    scene.states();
}

#[test]
fn expired_flows_make_room_and_are_not_evicted() {
    let mut scene = four_places();
    for port in 1..=4 {
        flow(&mut scene, port, 2);
    }
    scene.at(2.0);
    for port in 5..=8 {
        flow(&mut scene, port, 2);
    }
    assert_eq!(scene.states(), [("SYN_RECV", 4)]);
    assert_eq!((scene.tracker.evicted(), scene.tracker.timed_out()), (0, 4));
}

#[test]
fn a_connection_picked_up_midstream_takes_no_handshakes_place() {
    let mut scene = four_places();
    for port in 1..=4 {
        flow(&mut scene, port, 1);
    }
    assert_eq!(scene.sees(of_port(client(ACK, 9_000, 9_000), 9)), Event::None);
    assert_eq!((scene.states(), scene.tracker.evicted()), (vec![("SYN_SENT", 4)], 0));
    flow(&mut scene, 1, 3);
    scene.sees(of_port(client(ACK, 9_000, 9_000), 9));
    assert_eq!(scene.states(), [("SYN_SENT", 3), ("ESTABLISHED", 1)]);
    assert_eq!(scene.tracker.evicted(), 1);
}

#[test]
fn an_evicted_request_that_completes_is_an_open_connection() {
    let mut scene = four_places();
    for port in 1..=5 {
        flow(&mut scene, port, 2);
    }
    assert_eq!(scene.tracker.evicted(), 1);
    scene.at(2.0);
    assert_eq!(scene.sees(of_port(client(ACK, 101, 301), 1)), Event::None);
    assert_eq!(scene.states(), [("ESTABLISHED", 1)]);
}
