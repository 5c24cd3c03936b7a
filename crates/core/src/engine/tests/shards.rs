//! However the flows are divided, the same comes out.

use super::*;

/// Clients, a flood, a scanner and one source that floods all ports; the end and all that was said.
fn run(shards: usize) -> (Snapshot, Vec<(f64, Action)>) {
    let mut world = World::new();
    let shards = NonZeroUsize::new(shards).expect("some");
    world.engine = Engine::sharded(Settings { flows: 1 << 18, ..settings() }, shards);
    world.engine.reach(START);
    world.clients(0.0, 50.0, 60.0, 2).flood(20.0, 40.0, 400.0, Random::address);
    let scanner = Address::v4([198, 51, 100, 9]);
    for n in 0..400_u16 {
        let syn = Segment {
            source: scanner,
            destination: VICTIM,
            source_port: 50_000 + n % 7,
            destination_port: 1_000 + n,
            ..state_test_segment(SYN, n.into(), 0)
        };
        world.send(5.0 + f64::from(n) * 0.003, syn);
    }
    for n in 0..12_000_u16 {
        let syn = Segment {
            source: Address::v4([203, 0, 113, 77]),
            destination: Address::v4([192, 0, 2, 99]),
            source_port: n,
            destination_port: n.wrapping_mul(7_919),
            ..state_test_segment(SYN, u32::from(n) * 65_536, 0)
        };
        world.send(42.0 + f64::from(n) / 8_000.0, syn);
    }
    world.until(50.0);
    (world.snapshot(), world.said)
}

/// Without what only approximates a whole, or is a matter of rounding: the most half-open
/// connections at once, one source's share of all, the capacity of the tables, a sum of many small
/// numbers.
fn comparable(mut snapshot: Snapshot) -> Snapshot {
    let Snapshot { document, internals } = &mut snapshot;
    document.totals.half_open_peak.value = 0;
    internals.flow_table_capacity = 0;
    internals.handshake_durations.sum = internals.handshake_durations.sum.round();
    for detection in &mut document.detections {
        if detection.target.port.is_none() {
            detection.evidence.top_prefixes.clear();
        }
    }
    snapshot
}

#[test]
fn shards_together_come_to_the_same_verdicts_as_one() {
    let (one, told) = run(1);
    let classes: std::collections::BTreeSet<_> =
        one.document.detections.iter().map(|d| (d.class, d.variant)).collect();
    assert!(classes.contains(&(Class::SynFlood, Some(Variant::SpoofedRandom))), "{classes:?}");
    assert!(classes.contains(&(Class::SynFlood, Some(Variant::SingleSource))), "{classes:?}");
    assert!(classes.contains(&(Class::PortScan, Some(Variant::Vertical))), "{classes:?}");
    for shards in [2, 3, 8] {
        let (many, said) = run(shards);
        let [peak, sum] = [&one, &many].map(|said| said.document.totals.half_open_peak.value);
        assert!(sum >= peak && sum <= peak + peak / 20, "{peak}, {sum}");
        assert_eq!(said.len(), told.len());
        let (many, one) = (comparable(many), comparable(one.clone()));
        assert_eq!(many.document.detections, one.document.detections, "{shards} shards");
        assert_eq!(many.document.services, one.document.services, "{shards} shards");
        assert!(many == one, "{shards} shards");
    }
}

/// What a monitor sees of a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum View {
    TwoWay,
    Ingress,
    Egress,
}

/// Honest traffic as a monitor near the clients sees it.
#[derive(Clone, Copy, Debug)]
struct Distant {
    shards: usize,
    backlog: u32,
    /// Attempts a second.
    rate: u32,
    /// Seconds from the SYN to its answer.
    delay: f64,
    view: View,
    /// The port is closed.
    refused: bool,
}

impl Distant {
    fn play(self) -> Document {
        let Self { rate, delay, view, .. } = self;
        let mut world = World::new();
        let shards = NonZeroUsize::new(self.shards).expect("some");
        let settings = Settings { flows: 1 << 17, backlog: self.backlog, ..settings() };
        world.engine = Engine::sharded(settings, shards);
        world.engine.reach(START);
        for n in 0..rate * 12 {
            let start = 0.01 + f64::from(n) / f64::from(rate);
            let source = Address::v4((0x1400_0000 + n * 251).to_be_bytes());
            let (syn, answer) = world.attempt(source, VICTIM);
            let mut sends = |after: f64, segment: Segment| {
                let by_client = segment.destination == VICTIM;
                if view == View::TwoWay || by_client == (view == View::Ingress) {
                    world.send(start + after, segment);
                }
            };
            sends(0.0, syn);
            // RFC 6298, section 2: a client asks again after a second, and is answered again.
            if delay > 1.0 {
                sends(1.0, syn);
                sends(1.0 + delay, answer);
            }
            if self.refused {
                sends(delay, Segment { flags: RST_ACK, ..answer });
                continue;
            }
            let ack = Segment { flags: ACK, seq: syn.seq + 1, ack: answer.seq + 1, ..syn };
            let reply = Segment { flags: ACK, seq: answer.seq + 1, ack: syn.seq + 301, ..answer };
            sends(delay, answer);
            sends(delay + 0.001, ack);
            sends(delay + 0.001, Segment { payload_len: 300, ..ack });
            sends(2.0 * delay + 0.001, Segment { payload_len: 900, ..reply });
        }
        world.until(11.0);
        world.report()
    }
}

#[test]
fn the_distance_to_a_server_is_no_attack() {
    for view in [View::TwoWay, View::Ingress, View::Egress] {
        for (shards, backlog) in [(1, 128), (1, 4_096), (3, 128), (3, 4_096)] {
            for rate in [20, 50, 200, 1_000, 5_000] {
                for delay in [0.001, 0.05, 0.1, 0.15, 0.25, 0.6, 2.5] {
                    let case = Distant { shards, backlog, rate, delay, view, refused: false };
                    let report = case.play();
                    assert!(report.detections.is_empty(), "{case:?}: {:#?}", report.detections);
                    let ratio =
                        report.services.first().map(|service| service.completion_ratio.value);
                    assert!(ratio >= Some(0.98), "{case:?}: {ratio:?}");
                }
            }
        }
    }
}

#[test]
fn a_port_that_refuses_late_is_no_attack() {
    for (shards, rate) in [(1, 20), (3, 50), (1, 200), (3, 1_000), (3, 5_000)] {
        let case =
            Distant { shards, backlog: 128, rate, delay: 0.15, view: View::TwoWay, refused: true };
        let report = case.play();
        assert!(report.detections.is_empty(), "{case:?}: {:#?}", report.detections);
    }
}

/// What completes shows by the server's data there, so a flood is told of when that is overdue.
#[test]
fn a_flood_of_which_only_the_answers_are_seen_is_paged() {
    let mut world = World::new();
    world.clients(0.0, 30.0, 100.0, 2).flood(20.0, 30.0, 1_000.0, Random::address);
    let World { traffic, segments, .. } = &mut world;
    traffic.retain(|Reverse((_, number))| segments[*number].source == VICTIM);
    world.until(20.0);
    assert_eq!(world.told(Severity::Info), None);
    world.until(30.0).warned(20.0, 3.5);
    let flood = world.detection();
    assert_eq!((flood.severity, flood.variant), (Severity::Critical, Some(Variant::SpoofedRandom)));
    assert_eq!(flood.evidence.fingerprint, None);
}
