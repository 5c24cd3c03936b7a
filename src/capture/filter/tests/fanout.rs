//! The kernel divides flows as user space does.

use proptest::prelude::*;
use synwatch_core::sampling::{HashKey, Hasher, SamplingHash, SamplingLevel};

use super::sampling::{Path, decoded, parts};
use super::*;

/// What the program returns for a packet that comes in or goes out.
fn divide(program: &[sock_filter], packet: &Packet, outgoing: bool) -> SamplingHash {
    SamplingHash(if outgoing {
        execute(program, &Packet { packet_type: libc::PACKET_OUTGOING, ..packet.clone() })
    } else {
        // The link header is not part of the data yet.
        let data = packet.data[packet.network..].to_vec();
        execute(program, &Packet { data, network: 0, ..*packet })
    })
}

fn sampling_key(key: [u8; 16]) -> SamplingKey {
    *Hasher::new(HashKey(key)).sampling_key()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever it carries, whichever way it goes, as IPv4 and as its IPv4-mapped form.
    #[test]
    fn every_segment_gets_the_rank_of_its_flow(
        key in any::<[u8; 16]>(),
        parts in parts(),
        mapped in any::<bool>(),
    ) {
        let sampling_key = sampling_key(key);
        let program = fanout(&sampling_key);
        let there = parts.packet(mapped);
        let sampling_hash = sampling_key.of(sampling_key.ends(&decoded(&there).unwrap()));
        let mut answer = parts.clone();
        answer.ends.reverse();
        for packet in [there, answer.packet(mapped)] {
            prop_assert_eq!(divide(&program, &packet, false), sampling_hash);
            // What goes out on a loopback device the filter drops.
            let loopback = matches!(parts.path, Path::Loopback);
            let expected = if loopback { SamplingHash(0) } else { sampling_hash };
            prop_assert_eq!(divide(&program, &packet, true), expected);
        }
    }

    /// Whatever is wrong with a frame: if the filter finds a flow in it and user space can read it,
    /// then this program finds the same flow, and never another one.
    #[test]
    fn a_damaged_frame_gets_the_rank_that_the_filter_samples_it_by(
        parts in parts(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
        outgoing in any::<bool>(),
    ) {
        let sampling_key = sampling_key([3; 16]);
        let mut packet = parts.packet(false);
        for (index, value) in &damage {
            *index.get_mut(&mut packet.data) = *value;
        }
        // What the kernel says of the frame is what it has read there.
        if packet.hardware_type != libc::ARPHRD_NONE {
            packet.protocol = u16::from_be_bytes([packet.data[12], packet.data[13]]);
        }
        if outgoing {
            packet.packet_type = libc::PACKET_OUTGOING;
        }
        let filter = |general| {
            let flows = Some((sampling_key, Sampling { general, heavy: Vec::new() }));
            let selection = Selection { data: true, flows };
            Filter { loopback: true, selection, ..Filter::default() }
        };
        // What it finds no flow in passes at any level.
        let sampled = run(&filter(SamplingLevel::ALL), &packet) != run(&filter(SamplingLevel::MAX), &packet);
        let divided = divide(&fanout(&sampling_key), &packet, outgoing);
        if (sampled || divided != SamplingHash(0)) && let Some(segment) = decoded(&packet) {
            prop_assert_eq!(divided, sampling_key.of(sampling_key.ends(&segment)), "{:?}", segment);
        }
    }
}

#[test]
fn what_the_program_cannot_tell_is_of_the_first_shard() {
    let program = fanout(&sampling_key([4; 16]));
    let later_fragment = {
        let mut fragment = ipv4(6, 0, &tcp(ACK, 0, 0));
        fragment[7] = 0x01;
        fragment
    };
    let first_fragment = {
        let mut fragment = ipv4(6, 0, &tcp(SYN, 0, 0));
        fragment[6] = 0x20;
        fragment
    };
    let mut options = vec![6, 0, 1, 4, 0, 0, 0, 0];
    options.extend(tcp(SYN, 0, 0));
    let udp = [0xff; 28];
    for packet in [
        ethernet(0x0800, &ipv4(17, 0, &udp)),
        ethernet(0x0800, &ipv4(17, 4, &udp)),
        ethernet(0x86dd, &ipv6(17, &udp)),
        ethernet(0x86dd, &ipv6(44, &options)),
        ethernet(0x86dd, &ipv6(51, &options)),
        ethernet(0x0800, &later_fragment),
        ethernet(0x0800, &first_fragment),
        ethernet(0x0806, &udp),
        tagged(&[0x8100, 0x8100, 0x8100], &ipv4(6, 0, &tcp(SYN, 0, 0))),
        raw(0x0806, 0, &udp),
        raw(0x0800, 4, &ipv4(17, 0, &udp)),
        raw(0x86dd, 4, &ipv6(44, &options)),
    ] {
        for outgoing in [false, true] {
            assert_eq!(divide(&program, &packet, outgoing), SamplingHash(0), "{packet:?}");
        }
    }
}

#[test]
fn extension_headers_do_not_hide_a_flow() {
    let sampling_key = sampling_key([4; 16]);
    let program = fanout(&sampling_key);
    for count in 1..=2 {
        let packet = ethernet(0x86dd, &behind(&[(60, 24)].repeat(count), &tcp(SYN, 0, 0)));
        let segment = decoded(&packet).unwrap();
        assert_eq!(
            divide(&program, &packet, false),
            sampling_key.of(sampling_key.ends(&segment)),
            "{count}"
        );
    }
}
