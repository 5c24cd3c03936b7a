//! Days of honest traffic: nobody may be called.

use std::thread;

use synwatch_core::observe::Severity;

use crate::service::{Listener, Service};
use crate::traffic::{DAY, Kind, Traffic};

const BACKLOGS: [u32; 3] = [128, 511, 4_096];

/// What a day brought.
#[derive(Clone, Copy, Debug, Default)]
struct Day {
    /// Times that the severity rose to warning or critical.
    pages: u32,
    /// Times that there was something to tell.
    infos: u32,
}

/// `steps` of a kind of traffic, from a cold start.
fn watch(kind: Kind, backlog: u32, seed: u64, steps: u32) -> Day {
    let mut traffic = Traffic::new(kind, seed);
    let mut service = Service::new(Listener::with_cookies(backlog), seed ^ 0x5eed);
    let mut day = Day::default();
    let mut before = None;
    for step in 0..steps {
        let severity = service.step(traffic.next(), 0.0);
        let pages = |severity: Option<Severity>| severity >= Some(Severity::Warning);
        if pages(severity) && !pages(before) {
            day.pages += 1;
            eprintln!(
                "page: {kind:?}, backlog {backlog}, seed {seed}, {:.2} h: {:?}, {:.1}/s, {:?}",
                f64::from(step) / 14_400.0,
                severity,
                service.detector.excess_rate(),
                service.detector.reason(),
            );
        }
        day.infos += u32::from(severity.is_some() && before.is_none());
        before = severity;
    }
    day
}

/// `days` of each kind at each backlog; every day begins cold.
fn table(kinds: &[Kind], days: u64, steps: u32) -> Vec<(Kind, u32, Day)> {
    let days_of = |kind: Kind, backlog: u32| {
        (1..=days).map(|seed| watch(kind, backlog, seed, steps)).fold(Day::default(), |sum, day| {
            Day { pages: sum.pages + day.pages, infos: sum.infos + day.infos }
        })
    };
    let rows: Vec<_> = thread::scope(|scope| {
        let workers = BACKLOGS.map(|backlog| {
            scope.spawn(move || {
                kinds.iter().map(|kind| (*kind, backlog, days_of(*kind, backlog))).collect()
            })
        });
        workers.into_iter().flat_map(|worker| -> Vec<_> { worker.join().unwrap() }).collect()
    });
    let hours = f64::from(steps) / 14_400.0;
    println!("\n{days} runs of {hours:.1} h each, seeds 1 to {days}, each from a cold start");
    println!("\n| traffic | backlog | days | pages | infos |\n|---|---|---|---|---|");
    for (kind, backlog, day) in &rows {
        let total = hours / 24.0 * days as f64;
        println!("| {kind:?} | {backlog} | {total:.1} | {} | {} |", day.pages, day.infos);
    }
    rows
}

#[test]
#[ignore = "service-days: a minute in the release profile"]
fn false_pages() {
    let days = 8;
    let rows = table(&Kind::QUIET, days, DAY);
    let stress = table(&[Kind::Stress], days, DAY);
    for (kind, backlog, day) in rows {
        assert_eq!(day.pages, 0, "{kind:?} at backlog {backlog}");
    }
    let pages: u32 = stress.iter().map(|(_, _, day)| day.pages).sum();
    let per_day = f64::from(pages) / (days as f64 * stress.len() as f64);
    println!("\nstress: {per_day:.2} pages a day");
    assert!(per_day < 0.3, "{per_day:.2} pages a day under stress");
}

#[test]
fn an_hour_of_each_kind_pages_nobody() {
    let mut kinds = Kind::QUIET.to_vec();
    kinds.push(Kind::Stress);
    for (kind, backlog, day) in table(&kinds, 1, DAY / 24) {
        assert_eq!(day.pages, 0, "{kind:?} at backlog {backlog}");
    }
}
