//! The law of sums, from segments to the document, however the flows are divided and whenever they
//! are counted.

use super::*;
use crate::stats::{Window, Windows};

/// How an attempt goes on.
#[derive(Clone, Copy, Debug)]
enum End {
    Unanswered,
    HalfOpen,
    Completes,
    Refused,
    ResetByClient,
    ResetByServer,
    Withdrawn,
}

#[derive(Clone, Debug)]
struct Plan {
    start: u32,
    answer_after: u32,
    end_after: u32,
    end: End,
    /// The SYN comes again after so many milliseconds.
    again: Option<u32>,
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let end = prop_oneof![
        1 => Just(End::Unanswered),
        1 => Just(End::HalfOpen),
        3 => Just(End::Completes),
        1 => Just(End::Refused),
        1 => Just(End::ResetByClient),
        1 => Just(End::ResetByServer),
        1 => Just(End::Withdrawn),
    ];
    let delay = || prop_oneof![Just(0_u32), 1_u32..40, 90_u32..300, 600_u32..1_400];
    (0_u32..1_500, delay(), delay(), end, proptest::option::of(delay())).prop_map(
        |(start, answer_after, end_after, end, again)| Plan {
            start,
            answer_after,
            end_after,
            end,
            again,
        },
    )
}

/// Plays the plans, with a report after so many milliseconds each; what the steps of the service
/// come to.
fn play(shards: usize, plans: &[Plan], reports: &[u32]) -> (Document, Vec<Window>) {
    let mut world = World::new();
    let shards = NonZeroUsize::new(shards).expect("some");
    world.engine = Engine::sharded(Settings { flows: 1 << 12, ..settings() }, shards);
    world.engine.reach(START);
    for (n, plan) in (0_u32..).zip(plans) {
        let source = Address::v4((0x1400_0000 + n * 65_537).to_be_bytes());
        let (syn, answer) = world.attempt(source, VICTIM);
        let at = |millis: u32| 0.000_3 + f64::from(millis) / 1_000.0;
        world.send(at(plan.start), syn);
        if let Some(again) = plan.again {
            world.send(at(plan.start + again), syn);
        }
        let (answered, ended) =
            (plan.start + plan.answer_after, plan.start + plan.answer_after + plan.end_after);
        let client = Segment { seq: syn.seq + 1, ack: answer.seq + 1, ..syn };
        match plan.end {
            End::Unanswered => {}
            End::Refused => world.send(at(answered), Segment { flags: RST_ACK, ..answer }),
            End::Withdrawn => world.send(at(answered), Segment { flags: Flags::RST, ..client }),
            End::HalfOpen => world.send(at(answered), answer),
            End::Completes => {
                world.send(at(answered), answer);
                world.send(at(ended), Segment { flags: ACK, ..client });
            }
            End::ResetByClient => {
                world.send(at(answered), answer);
                world.send(at(ended), Segment { flags: Flags::RST, ..client });
            }
            End::ResetByServer => {
                world.send(at(answered), answer);
                let reset = Segment { flags: Flags::RST, seq: answer.seq + 1, ..answer };
                world.send(at(ended), reset);
            }
        }
    }
    let mut reports = reports.to_vec();
    reports.sort_unstable();
    for report in reports {
        world.until(f64::from(report) / 1_000.0);
        law(&world.report());
    }
    world.until(f64::from(Windows::KEPT as u32 - 1) * STEP.as_secs_f64());
    let report = world.report();
    let service = world.engine.services.service(VICTIM, 443);
    let windows = &world.engine.services.get(service).windows;
    (report, (0..Windows::KEPT as u32).map(|step| windows.get(Step(step))).collect())
}

#[track_caller]
fn law(report: &Document) {
    let totals = &report.totals;
    let outcomes = totals.handshakes_completed.value
        + totals.handshakes_presumed.value
        + totals.handshakes_reset.value
        + totals.syn_unanswered.value
        + totals.handshakes_timed_out.value;
    let open = totals.half_open.value + report.flows.syn_sent.value;
    let attempts = totals.syn.value - totals.syn_retransmitted.value;
    assert_eq!(attempts, outcomes + open, "{totals:#?}");
    let capture = &report.capture;
    assert_eq!(capture.packets, capture.tcp_segments + capture.skipped.values().sum::<u64>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_count_is_true(
        plans in proptest::collection::vec(any_plan(), 1..40),
        shards in 1_usize..=8,
        reports in proptest::collection::vec(0_u32..3_700, 0..6),
    ) {
        let (report, steps) = play(shards, &plans, &reports);
        law(&report);
        let mut sum = Window::default();
        steps.iter().for_each(|step| sum.add(step));
        prop_assert_eq!(sum.unanswered + sum.answered + sum.refused, plans.len() as u32);
        for step in &steps {
            prop_assert!(step.completed + step.reset <= step.answered, "{:?}", step);
        }
        let (one, of_one) = play(1, &plans, &[]);
        prop_assert_eq!(of_one, steps);
        prop_assert_eq!(one.totals.handshakes_completed, report.totals.handshakes_completed);
        let completing = plans.iter().filter(|plan| matches!(plan.end, End::Completes)).count();
        prop_assert!(report.totals.handshakes_completed.value <= completing as u64);
    }
}
