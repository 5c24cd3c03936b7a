//! What was learned, over a restart.

use super::*;
use crate::detect::SavedSeries;

const DAY: Duration = Duration::from_secs(86_400);

fn saved(port: u16, learned_at: Timestamp) -> SavedBaseline {
    let series =
        SavedSeries { steps: 2_400, completed: 25.0, failed: 0.5, spread: 1.0, noise: 0.0 };
    SavedBaseline {
        address: VICTIM.into(),
        port,
        learned_at,
        usual_completion_rate: 100.0,
        failing: series,
        unanswered: SavedSeries { failed: 0.0, ..series },
    }
}

/// An engine that was started with these baselines.
fn restarted(saved: Vec<SavedBaseline>) -> (World, usize) {
    let mut world = World::new();
    let used = world.engine.restore(saved);
    (world, used)
}

#[test]
fn a_baseline_outlives_its_engine() {
    let mut world = World::new();
    world.clients(0.0, 200.0, 100.0, 4).until(200.0);
    let learned = world.engine.baselines();
    assert_eq!(learned.len(), 1);
    assert_eq!((learned[0].address, learned[0].port), (IpAddr::from(VICTIM), 443));
    assert!((190.0..201.0).contains(&seconds(learned[0].learned_at)));
    assert!((90.0..105.0).contains(&learned[0].usual_completion_rate), "{learned:?}");
    assert!((0.7..1.3).contains(&learned[0].failing.failed), "{learned:?}");

    let (mut world, used) = restarted(learned.clone());
    assert_eq!(used, 1);
    let waits = SavedBaseline { learned_at: START, ..learned[0].clone() };
    assert_eq!(world.engine.baselines(), [waits], "for its service");
    world.clients(0.0, 15.0, 100.0, 4).until(15.0);
    let now = world.engine.baselines();
    assert_eq!(now.len(), 1);
    assert!(now[0].failing.steps > learned[0].failing.steps, "it goes on learning");
    assert!(now[0].learned_at < learned[0].learned_at);
    // It is no cold start: a crowd is known after seconds.
    world.clients(15.0, 30.0, 1_000.0, 4).until(30.0);
    assert_eq!(world.detection().class, Class::FlashCrowd);
}

#[test]
fn a_flood_is_paged_at_once_whatever_was_restored() {
    for number in [0.0, 1.0, 1e12, f64::MAX] {
        let series = SavedSeries {
            steps: u32::MAX,
            completed: number,
            failed: number,
            spread: number,
            noise: number,
        };
        let baseline = SavedBaseline {
            usual_completion_rate: number,
            failing: series,
            unanswered: series,
            ..saved(443, START)
        };
        let (mut world, used) = restarted(vec![baseline]);
        assert_eq!(used, 1);
        world.clients(0.0, 45.0, 100.0, 2).flood(20.0, 45.0, 1_000.0, Random::address);
        world.until(45.0).warned(20.0, 2.0);
    }
}

#[test]
fn what_is_old_or_no_number_is_not_used() {
    let (_, used) =
        restarted(vec![saved(1, START.before(DAY * 29)), saved(2, START.before(DAY * 31))]);
    assert_eq!(used, 1);
    for wrong in [f64::NAN, f64::INFINITY, -1.0] {
        let mut baselines = vec![saved(1, START); 6];
        baselines[0].usual_completion_rate = wrong;
        baselines[1].failing.completed = wrong;
        baselines[2].failing.failed = wrong;
        baselines[3].failing.spread = wrong;
        baselines[4].unanswered.noise = wrong;
        assert_eq!(restarted(baselines).1, 1);
    }
    // From a clock that went ahead: as of now, so that it grows old like any other.
    let (world, used) = restarted(vec![saved(1, START + DAY * 1_000)]);
    assert_eq!((used, world.engine.baselines()[0].learned_at), (1, START));
}

#[test]
fn baselines_are_bounded_by_the_number_of_services() {
    let many = (0..500).map(|n| saved(n + 1, START.before(Duration::from_secs(u64::from(n)))));
    let (world, used) = restarted(many.rev().collect());
    let kept = world.engine.baselines();
    assert_eq!((used, kept.len()), (64, 64));
    assert!(kept.iter().all(|one| one.port <= 64), "the newest");
}

#[test]
fn a_service_that_has_begun_to_learn_keeps_its_own() {
    let mut world = World::new();
    world.clients(0.0, 20.0, 100.0, 2).until(20.0);
    assert_eq!(world.engine.restore(vec![saved(443, START)]), 0);
    assert!(world.engine.baselines()[0].failing.steps < 100);
}

#[test]
fn nothing_is_learned_from_an_incident() {
    let mut world = World::new();
    world.clients(0.0, 120.0, 100.0, 2).flood(60.0, 120.0, 1_000.0, Random::address);
    world.until(60.0);
    let before = world.engine.baselines()[0].failing;
    world.until(120.0);
    let after = world.engine.baselines()[0].failing;
    // But for the steps until it was noticed.
    assert!(after.steps - before.steps <= 8, "{before:?} {after:?}");
    assert!(after.failed < before.failed + 0.2);
}
