//! Somebody makes us answer victims: that is told as what it is, and as no flood.

use super::*;

impl World {
    /// Attempts at the ports of the host in turn, `rate` a second, in the names that `source` says;
    /// four in five are reset after a round trip where the victims are not silent.
    fn reflect(
        &mut self,
        (from, to): (f64, f64),
        rate: f64,
        ports: &[u16],
        silent: bool,
        source: impl Fn(&mut Random) -> Address,
    ) -> &mut Self {
        for n in 0..((to - from) * rate) as usize {
            let source = source(&mut self.random);
            let (syn, answer) = self.attempt(source, VICTIM);
            let port = ports[n % ports.len()];
            let syn = Segment { destination_port: port, ..syn };
            let start = from + n as f64 / rate;
            self.send(start, syn);
            self.send(start + 0.000_1, Segment { source_port: port, ..answer });
            if !silent && n % 5 != 0 {
                let seq = syn.seq + 1;
                self.send(start + 0.04, Segment { flags: Flags::RST, seq, ..syn });
            }
        }
        self
    }
}

const PORTS: [u16; 5] = [443, 80, 22, 25, 53];

fn one(_: &mut Random) -> Address {
    Address::v4([203, 0, 113, 9])
}

fn one_of_20(random: &mut Random) -> Address {
    Address::v4([203, 0, 112 + random.below(16) as u8, random.next() as u8])
}

fn one_of_three(random: &mut Random) -> Address {
    Address::v4([20 + random.below(3) as u8, 0, 0, 1])
}

#[test]
fn a_reflection_is_no_flood_while_it_lasts_nor_after_it() {
    let sources: [fn(&mut Random) -> Address; 3] = [one, one_of_20, one_of_three];
    for (ports, silent) in [(&PORTS[..1], false), (&PORTS, false), (&PORTS, true)] {
        for source in sources {
            let mut world = World::new();
            world.clients(0.0, 180.0, 100.0, 2).reflect((30.0, 60.0), 200.0, ports, silent, source);
            world.until(40.0);
            let detection = world.detection();
            assert_eq!(detection.class, Class::SynAckReflection, "{detection:#?}");
            assert_eq!(detection.severity, Severity::Warning);
            assert!(seconds(detection.raised_at) <= 35.0);
            world.until(180.0);
            assert!(world.detection().cleared_at.is_some());
        }
    }
}

#[test]
fn a_reflection_at_a_high_rate_is_found_before_its_attempts_mature() {
    let mut world = World::new();
    world.clients(0.0, 40.0, 100.0, 2).reflect((30.0, 40.0), 2_000.0, &PORTS[..1], false, one);
    world.until(40.0);
    let detection = world.detection();
    assert_eq!(detection.class, Class::SynAckReflection, "{detection:#?}");
    assert_eq!(detection.target.port, Some(443));
}

#[test]
fn a_flood_beside_a_reflection_is_told_too() {
    let mut world = World::new();
    world.clients(0.0, 60.0, 100.0, 2).reflect((30.0, 60.0), 200.0, &PORTS, false, one);
    world.flood(45.0, 60.0, 1_000.0, Random::address);
    world.until(60.0).warned(45.0, 3.0);
    assert_eq!(world.report().detections.len(), 2);
}
