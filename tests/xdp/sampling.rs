//! The program looks at the very flows that user space would.

use synwatch::capture::{Selection, Source};
use synwatch_core::sampling::{HashKey, Hasher, Sampling, SamplingLevel};
use synwatch_core::wire::{Address, Flags};

use crate::live::{open, read};
use crate::mirror::{Identity, Mirror, Shape, identity, segment};
use crate::support::lab::{self, Lab};
use crate::support::requires_root;

/// Flows of each shape.
const FLOWS: u32 = 400;

#[test]
fn sampling_agrees_with_user_space_flow_by_flow() {
    if !requires_root() {
        return;
    }
    let lab = Lab::new(lab::Settings::default());
    let (mut xdp, mut mirror) = (open(&lab), Mirror::new(&lab));
    let mut frames = Vec::new();
    for shape in Shape::ALL {
        for number in 0..FLOWS {
            let (client, server) = shape.connection(number);
            frames.push(shape.frame(client, server, Flags::SYN, b""));
            frames.push(shape.frame(server, client, Flags::SYN | Flags::ACK, b""));
        }
    }
    let segments: Vec<_> = frames.iter().map(|frame| segment(frame)).collect();

    for (key, general, heavy) in [
        (1, 0, 0..0),
        (1, 1, 0..0),
        (2, 3, 0..0),
        (3, 6, 0..0),
        // Some servers at levels of their own, none of them the general one.
        (4, 0, 0..3),
        (5, 2, 1..2),
        (6, 4, 0..Sampling::HEAVY as u32),
    ] {
        let sampling_key = *Hasher::new(HashKey([key; 16])).sampling_key();
        let heavy = heavy.map(|number| {
            let server = Shape::ALL[number as usize % 6].connection(number / 6).1;
            let end = sampling_key.end(Address::from(server.ip()), server.port());
            (end, SamplingLevel::new((number as u8 + 3) % 8))
        });
        let sampling = Sampling { general: SamplingLevel::new(general), heavy: heavy.collect() };
        let expected: Vec<Identity> = segments
            .iter()
            .filter(|segment| {
                let ends = sampling_key.ends(segment);
                sampling.level(ends).includes(sampling_key.of(ends))
            })
            .map(identity)
            .collect();
        let before = xdp.counts();
        xdp.select(&Selection { data: false, flows: Some((sampling_key, sampling.clone())) })
            .unwrap();
        frames.iter().for_each(|frame| mirror.send(frame));
        let seen: Vec<Identity> = read(&mut xdp);
        assert_eq!(seen, expected, "{sampling:?}");

        // What is not looked at is counted all the same.
        let (after, all) = (xdp.counts(), frames.len() as u64);
        assert_eq!(after.segments - before.segments, all);
        assert_eq!((after.syn - before.syn, after.syn_ack - before.syn_ack), (all / 2, all / 2));
        assert_eq!(after.passed - before.passed, expected.len() as u64);
        assert_eq!(after.lost, 0);
    }
}
