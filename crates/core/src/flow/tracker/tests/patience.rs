//! Servers that repeat their answers later than Linux does.

use super::*;

/// When Linux repeats an answer, and when a server does that first waits 3 s.
const LINUX: [f64; 5] = [1.0, 3.0, 7.0, 15.0, 31.0];
const PATIENT: [f64; 3] = [3.0, 9.0, 21.0];

/// Segments and when they come.
type Traffic = Vec<(f64, Segment)>;

/// An attempt of its own port, answered after `distance`, and the answer again after so many
/// seconds each.
fn attempt(port: u16, start: f64, distance: f64, repeats: &[f64]) -> Traffic {
    let answer = of_port(server(SYN_ACK, 300, 101), port);
    let answered = start + distance;
    let syn = (start, of_port(client(SYN, 100, 0), port));
    let repeats = repeats.iter().map(|repeat| (answered + repeat, answer));
    [syn, (answered, answer)].into_iter().chain(repeats).collect()
}

/// Such attempts from `start` on, `rate` a second.
fn flood(ports: Range<u16>, start: f64, rate: f64, repeats: &[f64]) -> Traffic {
    let starts = (0..).map(|n| start + f64::from(n) / rate);
    ports.zip(starts).flat_map(|(port, start)| attempt(port, start, 0.000_1, repeats)).collect()
}

impl Scene {
    /// Plays what comes before `end`, and checks at each segment.
    fn play(&mut self, mut traffic: Traffic, end: f64, check: impl Fn(&Self)) -> &mut Self {
        traffic.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        for (at, segment) in traffic.into_iter().filter(|(at, _)| *at < end) {
            check(self.at(at));
            self.sees(segment);
        }
        self.at(end)
    }

    /// A scene at 6 s, of a server that is known to wait 3 s.
    fn of_patient_server() -> Self {
        let mut scene = Self::with_capacity(1 << 16);
        scene.play(flood(0..16, 0.0, 100.0, &[3.0]), 6.0, |_| {});
        assert_eq!(scene.ports.patience, THREE_SECONDS);
        scene
    }
}

const THREE_SECONDS: Patience = Patience::of(Bins(48));

#[test]
fn once_it_is_learned_nothing_is_given_up_between_repeats() {
    let mut scene = Scene::with_capacity(1 << 16);
    let traffic = flood(0..800, 0.0, 40.0, &PATIENT);
    let (before, after): (Traffic, Traffic) = traffic.into_iter().partition(|(at, _)| *at < 2.9);
    scene.play(before, 2.9, |_| {});
    assert!(scene.tracker.timed_out() > 60, "{} of 116", scene.tracker.timed_out());
    scene.play(after, 20.0, |scene| {
        let (at, timed_out) = (scene.now.as_secs_f64(), scene.tracker.timed_out());
        // Those whose answer was repeated before are given the time of Linux up to their next
        // repeat.
        let most = if at < 6.6 {
            i64::MAX
        } else if at < 9.6 {
            20
        } else {
            0
        };
        assert!(timed_out <= most, "{timed_out} at {at} s");
        assert_eq!(scene.attempts, scene.undecided());
    });
    assert_eq!(scene.half_open().0, 800);
    // The last repeat is that after 21 s, so the last of all is given up 24 * 1.1 s after that.
    scene.at(80.0);
    assert_eq!((scene.half_open(), scene.tracker.timed_out()), ((0, 0), 800));
    scene.states();
}

#[test]
fn where_only_answers_are_seen_it_is_learned_too() {
    let mut scene = Scene::with_capacity(1 << 16);
    scene.ports.answers_only = true;
    let answers = |traffic: Traffic| -> Traffic {
        traffic.into_iter().filter(|(_, segment)| segment.flags.is_syn_ack()).collect()
    };
    scene.play(answers(flood(0..16, 0.0, 100.0, &[3.0])), 6.0, |_| {});
    assert_eq!(scene.ports.patience, THREE_SECONDS);
    scene.play(answers(flood(100..140, 10.0, 100.0, &PATIENT)), 18.9, |_| {});
    assert_eq!(scene.half_open(), (40, 0), "up to the second repeat");
}

#[test]
fn linux_is_never_learned_from_a_capture_that_loses_a_third() {
    // One after the other, a few at a time, many, and all at once and then nothing for 10 s.
    let gaps: [fn(u16) -> f64; 5] =
        [|_| 5.0, |_| 0.3, |_| 0.05, |_| 0.002, |n| if n % 150 == 0 { 10.0 } else { 0.000_1 }];
    for gap in gaps {
        let mut scene = Scene::with_capacity(1 << 16);
        let mut traffic = Traffic::new();
        let mut start = 0.0;
        for port in 0..3_000 {
            start += gap(port);
            traffic.extend(attempt(port, start, 0.000_1, &LINUX));
        }
        let count = traffic.len();
        traffic = (0_u32..)
            .zip(traffic)
            .filter(|(n, (_, segment))| {
                segment.flags.is_syn() || (n ^ n >> 7).wrapping_mul(0x9e37_79b1) >> 16 >= 0x5555
            })
            .map(|(_, seen)| seen)
            .collect();
        assert!((0.6..0.8).contains(&(traffic.len() as f64 / count as f64)));
        scene.play(traffic, start + 40.0, |scene| {
            assert_eq!(scene.ports.patience, Patience::LINUX, "{:?}", scene.now);
        });
    }
}

#[test]
fn the_distance_of_a_server_is_no_patience() {
    let mut scene = Scene::with_capacity(1 << 16);
    let attempts = (0..100).flat_map(|n| attempt(n, f64::from(n) / 20.0, 0.6, &LINUX));
    scene.play(attempts.collect(), 50.0, |scene| {
        assert_eq!(scene.ports.patience, Patience::LINUX);
    });
}

#[test]
fn linux_takes_over() {
    let mut scene = Scene::of_patient_server();
    let traffic = flood(100..140, 10.0, 20.0, &LINUX);
    scene.play(traffic, 24.9, |scene| {
        // Those of before were forgotten.
        let timed_out = scene.tracker.timed_out();
        assert!(scene.now.as_secs_f64() < 10.0 || timed_out == 16, "{timed_out}");
    });
    assert_eq!(scene.ports.patience, Patience::LINUX);
    assert_eq!(scene.half_open(), (40, 0));
    scene.play(flood(200..220, 26.0, 100.0, &[]), 27.0, |_| {});
    assert_eq!(scene.tracker.half_open(HTTPS).unconfirmed, 20);
    assert_eq!(scene.at(27.4).tracker.half_open(HTTPS).unconfirmed, 0, "given 1 s again");
}

#[test]
fn up_to_three_and_a_half_seconds_are_learned() {
    for (first, learned) in
        [(1.2, 16), (1.3, 21), (2.0, 32), (3.4, 55), (3.5, 56), (3.6, 16), (6.0, 16)]
    {
        let mut scene = Scene::with_capacity(1 << 16);
        let repeats = [first, 3.0 * first, 7.0 * first];
        scene.play(flood(0..64, 0.001, 64.0, &repeats), 9.0, |_| {});
        assert_eq!(scene.ports.patience, Patience::of(Bins(learned)), "{first} s");
        scene.play(flood(100..110, 50.0, 1_000.0, &repeats), 50.0 + 0.97 * first, |_| {});
        assert!(learned == 16 || scene.half_open() == (10, 10), "{first} s");
    }
}

#[test]
fn first_repeats_that_do_not_agree_teach_nothing() {
    let mut scene = Scene::with_capacity(1 << 16);
    let spread = |n: u16| attempt(n, f64::from(n) / 20.0, 0.0, &[1.5 + f64::from(n % 10) / 5.0]);
    scene.play((0..400).flat_map(spread).collect(), 30.0, |scene| {
        assert_eq!(scene.ports.patience, Patience::LINUX);
    });
}

#[test]
fn who_is_half_open_when_it_changes_is_counted_by_the_patience_of_before() {
    let mut scene = Scene::of_patient_server();
    scene.at(10.0).opens_halfway();
    scene.at(11.0).sees(client(SYN, 100, 0));
    assert_eq!(scene.sees(server(SYN_ACK, 300, 101)), Event::AnswerRepeated);
    scene.ports.learner = Learner::default();
    scene.at(11.4).sees(server(SYN_ACK, 300, 101));
    assert_eq!((scene.ports.patience, scene.half_open()), (Patience::LINUX, (1, 1)), "a copy");
    scene.at(14.0).sees(server(SYN_ACK, 300, 101));
    assert_eq!(scene.half_open(), (1, 0), "3 s after the last answer");

    let mut scene = Scene::new();
    scene.opens_halfway().at(0.5).sees(client(SYN, 100, 0));
    scene.sees(server(SYN_ACK, 300, 101));
    scene.ports.patience = THREE_SECONDS;
    scene.sees(server(SYN_ACK, 300, 101));
    assert_eq!(scene.half_open(), (1, 1), "a copy");
    assert_eq!(scene.at(1.7).half_open(), (0, 0), "1 s after the last answer");
}
