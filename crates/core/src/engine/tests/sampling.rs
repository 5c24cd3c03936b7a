//! More traffic than the budget: the same verdicts, and estimates as good as they say they are.

use super::*;
use crate::document::{Limit, ServiceReport};
use crate::model::Estimate;

/// The victim and a service beside it.
const VICTIM: (Address, u16) = (Address::v4([192, 0, 2, 10]), 443);
const BESIDE: (Address, u16) = (Address::v4([192, 0, 2, 10]), 25);

/// The same traffic, looked at whole and by sample.
struct Pair {
    exact: Engine,
    sampled: Engine,
    now: Timestamp,
    random: u64,
    /// Packets that the sampled one looked at in the last second.
    handled: u64,
}

impl Pair {
    fn new(budget: u32, key: u8) -> Self {
        let settings = Settings { key: HashKey([key; 16]), ..Settings::default() };
        let budget = Settings { packet_budget: Some(budget), ..settings.clone() };
        let start = Timestamp::EPOCH + Duration::from_secs(1_000);
        Self {
            exact: Engine::new(settings, start),
            sampled: Engine::new(budget, start),
            now: start,
            random: u64::from(key),
            handled: 0,
        }
    }

    fn draw(&mut self) -> u32 {
        // splitmix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 32) as u32
    }

    fn see(&mut self, segment: &Segment) {
        self.exact.handle_segment(self.now, segment, 0);
        self.sampled.handle_segment(self.now, segment, 0);
    }

    /// A client's SYN, the answer to it, and, where it is honest, its ACK.
    fn handshake(&mut self, to: (Address, u16), honest: bool) {
        let template = state_test_segment(SYN, self.draw(), 0);
        let syn = Segment {
            source: Address::v4(self.draw().to_be_bytes()),
            source_port: (self.draw() % 60_000) as u16 + 1_024,
            destination: to.0,
            destination_port: to.1,
            ..template
        };
        let isn = self.draw();
        let answer = Segment {
            source: syn.destination,
            source_port: syn.destination_port,
            destination: syn.source,
            destination_port: syn.source_port,
            flags: SYN_ACK,
            seq: SeqNumber(isn),
            ack: syn.seq + 1,
            ..syn
        };
        self.see(&syn);
        self.see(&answer);
        if honest {
            let ack = Segment { flags: ACK, seq: syn.seq + 1, ack: answer.seq + 1, ..syn };
            self.see(&ack);
        }
    }

    /// A second of traffic: so many forged SYNs at the victim, and 20 honest clients each.
    fn second(&mut self, forged: u32) {
        let before = self.sampled.snapshot(self.now).document.capture.tcp_segments;
        let all = forged + 40;
        for n in 0..all {
            self.now = self.now + Duration::from_secs(1) / all;
            match n * 40 / all != (n + 1) * 40 / all {
                true => self.handshake(if n % 2 == 0 { VICTIM } else { BESIDE }, true),
                false => self.handshake(VICTIM, false),
            }
        }
        self.exact.tick(self.now);
        self.sampled.tick(self.now);
        self.handled = self.sampled.snapshot(self.now).document.capture.tcp_segments - before;
    }
}

fn service(report: &Document, (address, port): (Address, u16)) -> &ServiceReport {
    let is_it =
        |service: &&ServiceReport| (service.address, service.port) == (address.into(), port);
    report.services.iter().find(is_it).expect("the service")
}

/// How far figures are from the truth, in their standard errors.
fn deviations(sampled: &Document, exact: &Document) -> [(&'static str, f64); 3] {
    let count = |sampled: Estimate<u64>, exact: Estimate<u64>| {
        let error = sampled.stderr.expect("an error");
        (sampled.value as f64 - exact.value as f64) / error as f64
    };
    let [rate, true_rate] = [sampled, exact].map(|report| service(report, VICTIM).syn_rate);
    [
        ("SYNs", count(sampled.totals.syn, exact.totals.syn)),
        ("half-open", count(sampled.totals.half_open, exact.totals.half_open)),
        ("rate", (rate.value - true_rate.value) / rate.stderr.expect("an error")),
    ]
}

#[test]
fn a_flood_beyond_the_budget_is_judged_by_sample() {
    const BUDGET: u32 = 400;
    for (key, times) in [(1, 10), (5, 50), (4, 250)] {
        let mut pair = Pair::new(BUDGET, key);
        (0..5).for_each(|_| pair.second(0));
        assert_eq!(
            pair.sampled.snapshot(pair.now).document,
            pair.exact.snapshot(pair.now).document
        );
        for second in 0..8 {
            pair.second(BUDGET / 2 * times);
            assert!(second == 0 || pair.handled <= u64::from(BUDGET) * 6 / 5, "{}", pair.handled);
        }
        let (exact, sampled) =
            (pair.exact.snapshot(pair.now).document, pair.sampled.snapshot(pair.now).document);
        assert!(sampled.capture.sampling_ratio < 1.0);
        assert!(sampled.capture.limits.contains(&Limit::Sampled));
        assert_eq!(sampled.status, Status::Critical);
        let told = |report: &Document| {
            let told = report.detections.iter().map(|told| (told.class, told.variant, told.target));
            told.collect::<Vec<_>>()
        };
        assert_eq!(told(&sampled), told(&exact), "{times} times the budget");

        let (estimate, truth) = (service(&sampled, VICTIM), service(&exact, VICTIM));
        for (what, deviation) in deviations(&sampled, &exact) {
            assert!(deviation.abs() <= 3.0, "{what}: {deviation} standard errors off");
        }
        let (sources, all) = (estimate.sources as f64, truth.sources as f64);
        assert!((sources / all - 1.0).abs() < 0.15, "{sources} sources of {all}");

        // Who is not attacked is looked at whole.
        let (beside, truth) = (service(&sampled, BESIDE), service(&exact, BESIDE));
        assert_eq!((beside.syn, beside.syn_rate), (truth.syn, truth.syn_rate));

        // And after it everything is.
        (0..70).for_each(|_| pair.second(0));
        let report = pair.sampled.snapshot(pair.now).document;
        assert_eq!(report.capture.sampling_ratio, 1.0);
        assert_eq!(
            report.totals.half_open.value,
            pair.exact.snapshot(pair.now).document.totals.half_open.value
        );
        let before = report.totals.syn.value;
        pair.second(0);
        assert_eq!(pair.sampled.snapshot(pair.now).document.totals.syn.value, before + 40);
    }
}

/// Errors are neither too small nor too large: over many keys estimates scatter as they say they
/// do.
#[test]
fn standard_errors_are_honest() {
    const KEYS: u8 = 24;
    let mut squares = [0.0; 3];
    for key in 100..100 + KEYS {
        let mut pair = Pair::new(400, key);
        (0..4).for_each(|second| pair.second(if second == 0 { 0 } else { 8_000 }));
        let (exact, sampled) =
            (pair.exact.snapshot(pair.now).document, pair.sampled.snapshot(pair.now).document);
        for (square, (_, deviation)) in squares.iter_mut().zip(deviations(&sampled, &exact)) {
            *square += deviation * deviation / f64::from(KEYS);
        }
    }
    // The mean square of 24 standard normal numbers is within this but for one case in a thousand.
    assert!(squares.iter().all(|square| (0.25..2.2).contains(square)), "{squares:?}");
}

#[test]
fn a_full_table_is_sampled_and_not_emptied_of_the_innocent() {
    let mut pair = Pair::new(u32::MAX, 7);
    let settings = Settings { flows: 1 << 12, ..Settings::default() };
    pair.sampled = Engine::new(settings, pair.now);
    for _ in 0..20 {
        pair.second(8_000);
    }
    let exact = pair.exact.snapshot(pair.now).document;
    let Snapshot { document: sampled, internals } = pair.sampled.snapshot(pair.now);
    assert!(sampled.capture.sampling_ratio < 1.0);
    assert!(internals.flow_table_capacity <= 1 << 12);
    let evicted = internals.flows_evicted;
    for _ in 0..5 {
        pair.second(8_000);
    }
    let evicted = pair.sampled.snapshot(pair.now).internals.flows_evicted - evicted;
    assert!(evicted < 400, "{evicted} of 40,000 evicted while sampling");
    assert_eq!((sampled.status, exact.status), (Status::Critical, Status::Critical));
}
