use proptest::prelude::*;

use super::*;
use crate::wire::testing::{ethernet, ipv4, ipv6, is_syn, syn, tcp, udp};
use crate::wire::{Flags, decode};

const START: Timestamp = Timestamp::from_nanos(1_000_000_000_000);

fn store() -> Fragments {
    Fragments::new(SipHasher13::new_with_key(&[7; 16]))
}

impl Fragments {
    fn frame(&mut self, at: Timestamp, frame: &[u8]) -> Result<Segment, Skip> {
        self.frame_on(at, 1, frame)
    }

    fn frame_on(&mut self, at: Timestamp, on: u32, frame: &[u8]) -> Result<Segment, Skip> {
        let length = u32::try_from(frame.len()).unwrap();
        match decode(LinkType::Ethernet, frame, length) {
            Err(Skip::Fragment) => {
                let mut segment = Segment::default();
                self.join(at, on, LinkType::Ethernet, frame, length, &mut segment).map(|()| segment)
            }
            outcome => outcome,
        }
    }
}

/// A frame with the part from `start` to `end` of the payload of an IPv4 datagram.
fn part_v4(id: u16, protocol: u8, payload: &[u8], start: usize, end: usize) -> Vec<u8> {
    let mut packet = ipv4(protocol, &payload[start..end]);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    let more = if end < payload.len() { 0x2000 } else { 0 };
    let field = u16::try_from(start / 8).unwrap() | more;
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    ethernet(0x0800, &packet)
}

/// The same of IPv6, with `upper` after the fragment header.
fn part_v6(id: u16, upper: u8, payload: &[u8], start: usize, end: usize) -> Vec<u8> {
    let more = u16::from(end < payload.len());
    let field = u16::try_from(start).unwrap() | more;
    let mut octets = vec![upper, 0];
    octets.extend(field.to_be_bytes());
    octets.extend(u32::from(id).to_be_bytes());
    octets.extend(&payload[start..end]);
    ethernet(0x86dd, &ipv6(44, &octets))
}

type Part = fn(u16, u8, &[u8], usize, usize) -> Vec<u8>;
const BOTH: [Part; 2] = [part_v4, part_v6];

#[test]
fn a_syn_in_two_fragments_counts_when_both_are_there() {
    for (part, split) in [(part_v4 as Part, 8), (part_v4, 16), (part_v6, 8), (part_v6, 16)] {
        let (first, last) = (part(1, 6, &syn(), 0, split), part(1, 6, &syn(), split, 20));
        let mut store = store();
        assert_eq!(store.frame(START, &first), Err(Skip::FragmentKept));
        assert_eq!(store.frame(START, &first), Err(Skip::FragmentKept), "a copy");
        assert!(is_syn(store.frame(START, &last)));
        // Another datagram of the same identification, the other way around.
        assert_eq!(store.frame(START, &last), Err(Skip::FragmentKept));
        assert!(is_syn(store.frame(START, &first)));
    }
}

#[test]
fn a_first_fragment_with_the_whole_header_waits_for_the_rest() {
    let segment = tcp(0x02, &[], &[7; 30]);
    for part in BOTH {
        let mut store = store();
        let first = part(1, 6, &segment, 0, 24);
        assert_eq!(store.frame(START, &first), Err(Skip::FragmentKept));
        let whole = store.frame(START, &part(1, 6, &segment, 24, 50)).unwrap();
        assert_eq!((whole.flags, whole.payload_len), (Flags::SYN, 30));
    }
}

#[test]
fn fragments_of_other_datagrams_are_not_joined() {
    let (first, last) = (part_v4(1, 6, &syn(), 0, 8), part_v4(1, 6, &syn(), 8, 20));
    let mut other_id = last.clone();
    other_id[19] = 2;
    let mut other_source = last.clone();
    other_source[29] ^= 1;
    let mut other_protocol = last.clone();
    other_protocol[23] = 17;
    let mut store = store();
    for frame in [&first, &other_id, &other_source, &other_protocol] {
        assert_eq!(store.frame(START, frame), Err(Skip::FragmentKept));
    }
    assert_eq!(store.frame_on(START, 2, &last), Err(Skip::FragmentKept));
    assert!(is_syn(store.frame(START, &last)));
}

#[test]
fn overlaps_end_a_datagram() {
    let segment = tcp(0x02, &[], &[7; 44]);
    for part in BOTH {
        let mut store = store();
        assert_eq!(store.frame(START, &part(1, 6, &segment, 0, 16)), Err(Skip::FragmentKept));
        assert_eq!(store.frame(START, &part(1, 6, &segment, 8, 32)), Err(Skip::Fragment));
        assert_eq!(store.frame(START, &part(1, 6, &segment, 16, 64)), Err(Skip::FragmentKept));
        // Two ends.
        assert_eq!(store.frame(START, &part(1, 6, &segment[..56], 8, 56)), Err(Skip::Fragment));
    }
}

#[test]
fn what_is_late_is_not_joined() {
    for (part, lifetime) in [(part_v4 as Part, LIFETIME_V4), (part_v6, LIFETIME_V6)] {
        let (first, last) = (part(1, 6, &syn(), 0, 8), part(1, 6, &syn(), 8, 20));
        for (after, joined) in [(lifetime, true), (lifetime + Duration::from_secs(1), false)] {
            let mut store = store();
            assert_eq!(store.frame(START, &first), Err(Skip::FragmentKept));
            assert_eq!(store.frame(START + after, &last).is_ok(), joined);
        }
    }
}

#[test]
fn tunnels_in_fragments_are_followed() {
    let frame = ethernet(0x0800, &ipv4(6, &syn()));
    let vxlan = udp(4789, &[&[8, 0, 0, 0, 0, 0, 7, 0], &frame[..]].concat());
    let mut store = store();
    let first = store.frame(START, &part_v4(3, 17, &vxlan, 0, 16));
    assert_eq!(first, Err(Skip::FragmentKept));
    assert!(is_syn(store.frame(START, &part_v4(3, 17, &vxlan, 16, vxlan.len()))));
    let dns = udp(53, &[7; 92]);
    assert_eq!(store.frame(START, &part_v4(4, 17, &dns, 0, 16)), Err(Skip::FragmentKept));
    assert_eq!(store.frame(START, &part_v4(4, 17, &dns, 16, 100)), Err(Skip::NotTcp));
}

#[test]
fn extension_headers_in_fragments_are_followed() {
    for units in [0_u8, 10, 25, 100] {
        let mut payload = vec![6, units];
        payload.resize(8 * (usize::from(units) + 1), 0);
        payload.extend(syn());
        let mut store = store();
        let first = store.frame(START, &part_v6(3, 60, &payload, 0, 8));
        assert_eq!(first, Err(Skip::FragmentKept));
        // Not the first fragment's word on what follows.
        let last = part_v6(3, 17, &payload, 8, payload.len());
        assert!(is_syn(store.frame(START, &last)), "{units}");
    }
}

#[test]
fn a_full_store_says_so_and_others_go_on() {
    let mut store = store();
    let mut full = 0;
    for number in 0..100_000_u32 {
        let mut frame = part_v4(1, 6, &syn(), 0, 8);
        frame[26..30].copy_from_slice(&number.to_be_bytes());
        full += u32::from(store.frame(START, &frame) == Err(Skip::Fragment));
        if number % 1_000 == 999 {
            let id = u16::try_from(number % 60_000).unwrap();
            let _ = store.frame(START, &part_v4(id, 6, &syn(), 0, 8));
            assert!(is_syn(store.frame(START, &part_v4(id, 6, &syn(), 8, 20))));
        }
    }
    assert_eq!(store.places.len(), SETS * WAYS);
    assert!((90_000..100_000).contains(&full), "{full}");
}

#[test]
fn lengths_are_checked() {
    let mut store = store();
    let segment = tcp(0x02, &[], &[7; 20]);
    // Not in units of 8: IPv4 is cut to them, IPv6 dropped.
    assert_eq!(store.frame(START, &part_v4(1, 6, &segment, 0, 20)), Err(Skip::FragmentKept));
    assert!(store.frame(START, &part_v4(1, 6, &segment, 16, 40)).is_ok());
    assert_eq!(store.frame(START, &part_v6(1, 6, &segment, 0, 20)), Err(Skip::BadIpHeader));
    let mut far = part_v4(2, 6, &segment, 0, 40);
    far[20..22].copy_from_slice(&0x1fff_u16.to_be_bytes());
    assert_eq!(store.frame(START, &far), Err(Skip::BadIpHeader));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// However it is cut, in whatever order, with whatever copies: a segment is what it was whole.
    #[test]
    fn any_fragments_in_any_order_give_the_whole(
        flags in any::<u8>(),
        options in prop::collection::vec(any::<u8>(), 0..40),
        payload in 0_usize..400,
        is_v6 in any::<bool>(),
        cuts in prop::collection::btree_set(1_usize..58, 1..20),
        order in any::<u64>(),
        copies in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let segment = tcp(flags, &options, &vec![7; payload]);
        let (part, whole) = if is_v6 {
            (part_v6 as Part, ethernet(0x86dd, &ipv6(6, &segment)))
        } else {
            (part_v4 as Part, ethernet(0x0800, &ipv4(6, &segment)))
        };
        let length = u32::try_from(whole.len()).unwrap();
        let expected = decode(LinkType::Ethernet, &whole, length);
        let mut ends: Vec<usize> =
            cuts.iter().map(|cut| 8 * cut).filter(|end| *end < segment.len()).collect();
        prop_assume!(!ends.is_empty());
        ends.push(segment.len());
        let mut start = 0;
        let mut parts = Vec::new();
        for end in ends {
            parts.push(part(9, 6, &segment, start, end));
            start = end;
        }
        let mut random = order | 1;
        parts.sort_by_cached_key(|_| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            random >> 32
        });
        let last = parts.pop().unwrap();
        let copies: Vec<_> = copies.iter().map(|index| index.get(&parts).clone()).collect();
        let mut store = store();
        for frame in parts.iter().chain(&copies) {
            prop_assert_eq!(store.frame(START, frame), Err(Skip::FragmentKept));
        }
        prop_assert_eq!(store.frame(START, &last), expected);
        prop_assert!(store.places.iter().all(Option::is_none));
    }

    #[test]
    fn arbitrary_fragments_never_panic(
        frames in prop::collection::vec((any::<bool>(), any::<u16>(), 0_usize..60, 0_u8..4), 1..60),
    ) {
        let mut store = store();
        for (is_v6, field, length, id) in frames {
            let payload = vec![6; length];
            let mut frame = if is_v6 {
                part_v6(id.into(), 6, &payload, 0, length)
            } else {
                part_v4(id.into(), 6, &payload, 0, length)
            };
            let at = if is_v6 { 56 } else { 20 };
            frame[at..at + 2].copy_from_slice(&field.to_be_bytes());
            let _ = store.frame(START, &frame);
        }
    }
}

#[test]
fn a_cut_head_is_truncated() {
    let mut store = store();
    let frame = part_v4(1, 6, &syn(), 0, 16);
    let mut segment = Segment::default();
    let mut join = |frame: &[u8], length| {
        store.join(START, 0, LinkType::Ethernet, frame, length, &mut segment)
    };
    assert_eq!(join(&frame[..44], 50), Err(Skip::FragmentKept));
    assert_eq!(join(&part_v4(1, 6, &syn(), 16, 20), 38), Err(Skip::Truncated));
}
