//! Any traffic at all.

use proptest::prelude::*;

use super::*;

/// Some time, and then a segment of one of a few flows, often nearly right, on one of three
/// interfaces, and the patience of its server by then.
fn any_step() -> impl Strategy<Value = (u64, Segment, u32, Patience)> {
    let wait = prop_oneof![
        8 => Just(0_u64),
        4 => 1..200_u64,
        2 => 800..4_500_u64,
        1 => 5_000..70_000_u64,
        1 => Just(1_000_000_u64),
    ];
    let flags = prop_oneof![
        4 => Just(SYN),
        4 => Just(SYN_ACK),
        4 => Just(ACK),
        2 => Just(FIN_ACK),
        1 => Just(RST),
        1 => Just(RST_ACK),
        2 => any::<u8>().prop_map(Flags),
    ];
    let number = || prop_oneof![8 => 100_u32..104, 8 => 300_u32..304, 1 => any::<u32>()];
    let data = prop_oneof![4 => Just(0_u32), 1 => 1..2_000_u32, 1 => any::<u32>()];
    let patience = prop_oneof![Just(16_u32), 16_u32..=56].prop_map(|bins| Patience::of(Bins(bins)));
    let numbers = (number(), number());
    let place = (0_u16..24, 0_u32..3, patience);
    (wait, any::<bool>(), flags, numbers, data, place, any::<bool>()).prop_map(
        |(wait, by_client, flags, (seq, ack), data, (port, interface, patience), right)| {
            // Half of the segments have the numbers that a handshake and a close would have.
            let (seq, ack) = match (right, by_client, flags) {
                (false, ..) => (seq, ack),
                (true, true, SYN) => (100, 0),
                (true, true, _) => (101, 301),
                (true, false, SYN | SYN_ACK) => (300, 101),
                (true, false, _) => (301, 101),
            };
            let sent = if by_client { client } else { server };
            let sent = Segment { payload_len: data, ..sent(flags, seq, ack) };
            (wait, of_port(sent, port), interface, patience)
        },
    )
}

proptest! {
    /// Whatever comes in whatever order and at whatever time: the table keeps its limit, the
    /// counters balance, and after silence nothing is left.
    #[test]
    fn any_order_leaves_the_books_in_balance(
        steps in proptest::collection::vec(any_step(), 0..250),
        capacity in 1_usize..20,
        one_way: bool,
    ) {
        let mut scene = Scene::with_capacity(capacity);
        scene.ports.one_way = one_way;
        let (mut attempts, mut answered) = (0_i64, 0_i64);
        for (wait, segment, interface, patience) in steps {
            scene.interface = interface;
            scene.until(scene.now + Duration::from_millis(wait)).ports.patience = patience;
            let event = scene.sees(segment);
            attempts += i64::from(event == Event::Attempt);
            answered += i64::from(matches!(
                event,
                Event::Answered { .. } | Event::AnsweredMidway
            ));
            check_books(&scene.tracker);
            prop_assert!(scene.tracker.entries(false) <= scene.tracker.capacity() as u64);
            prop_assert!(scene.tracker.timed_out() <= attempts + answered);
            prop_assert!(scene.tracker.half_open_total().cast_signed() <= attempts + answered);
            prop_assert!(scene.unanswered <= attempts);
        }
        scene.until(scene.now + Duration::from_secs(1_000));
        check_books(&scene.tracker);
        prop_assert_eq!(flows(&scene.tracker), FlowCounts::default());
        prop_assert_eq!(scene.tracker.half_open_total(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// The law of sums, after every segment: attempts = those that a segment decided + unanswered +
    /// timed out + open. Nothing of it falls below zero.
    #[test]
    fn every_attempt_has_one_outcome(
        steps in proptest::collection::vec(any_step(), 0..40),
        capacity in 1_usize..20,
        one_way: bool,
        answers_only: bool,
        level in 0_u8..3,
    ) {
        let mut scene = Scene::with_capacity(capacity);
        scene.ports = Ports { one_way, answers_only, ..Ports::default() };
        scene.levels = (SamplingLevel::new(level), SamplingLevel::new(level));
        for (wait, segment, interface, patience) in steps {
            scene.interface = interface;
            let wait = Duration::from_millis(wait.min(70_000));
            scene.until(scene.now + wait).ports.patience = patience;
            let event = scene.sees(segment);
            prop_assert_eq!(scene.attempts, scene.decided + scene.undecided(), "{:?}", event);
            prop_assert!(scene.decided >= 0);
            prop_assert!(scene.tracker.unanswered() >= 0);
            prop_assert!(scene.tracker.timed_out() >= 0);
        }
    }
}
