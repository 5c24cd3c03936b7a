//! The matrix as two Markdown tables.

use std::collections::BTreeMap;
use std::time::Instant;

use synwatch::observe::Severity;

use crate::scenario::{Rank, Scenario};
use crate::stage::{self, Job};
use crate::verdict::Outcome;

/// Plays seeds 1 to 20 of every row, prints both tables, and asserts that each row is right on as many
/// seeds as it says.
pub fn print(scenarios: &[Scenario]) {
    let seeds = stage::seeds(1..=20);
    let rows = stage::rows(scenarios);
    let jobs: Vec<_> = rows
        .iter()
        .flat_map(|(scenario, cold)| {
            let (scenario, cold, warm_up) = (*scenario, *cold, scenario.warm_up);
            seeds.iter().map(move |seed| Job { scenario, cold, seed: *seed, warm_up })
        })
        .collect();
    let started = Instant::now();
    let outcomes = stage::play(&jobs);
    let took = started.elapsed();

    println!(
        "| # | event | expected | right | to warning: median / 95 % | deadline | to critical: \
         median / 95 % | deadline |\n|---|---|---|---|---|---|---|---|"
    );
    let mut missed = Vec::new();
    for (job, outcomes) in jobs.chunks(seeds.len()).zip(outcomes.chunks(seeds.len())) {
        let job = &job[0];
        let right = outcomes.iter().filter(|outcome| outcome.problems.is_empty()).count();
        print_row(job, outcomes, right);
        if (right as f64) < job.scenario.expect.share * seeds.len() as f64 {
            missed.push(format!("{} ({right}/{})", job.name(), seeds.len()));
        }
    }

    println!();
    print_confusion(&jobs, &outcomes);

    println!();
    for (job, outcome) in jobs.iter().zip(&outcomes) {
        if !outcome.problems.is_empty() {
            println!("{}, seed {}: {}", job.name(), job.seed, outcome.problems.join("; "));
        }
    }
    let packets: u64 = outcomes.iter().map(|outcome| outcome.packets).sum();
    println!(
        "{} performances, {:.1} million packets, in {took:.1?}",
        jobs.len(),
        packets as f64 / 1e6
    );
    assert!(missed.is_empty(), "not right on enough seeds: {}", missed.join(", "));
}

fn print_row(job: &Job<'_>, outcomes: &[Outcome], right: usize) {
    let Job { scenario, cold, .. } = job;
    let by = scenario.expect.by;
    let times = |severity: Severity| {
        let mut times: Vec<f64> =
            outcomes.iter().filter_map(|outcome| outcome.times[severity as usize]).collect();
        times.sort_by(f64::total_cmp);
        if times.is_empty() {
            return "-".to_owned();
        }
        let at = |share: f64| times[((times.len() as f64 * share).ceil() as usize).max(1) - 1];
        format!("{:.2} / {:.2} s", at(0.5), at(0.95))
    };
    let deadline =
        |deadline: Option<f64>| deadline.map_or("-".to_owned(), |deadline| format!("{deadline} s"));
    println!(
        "| {} | {}{} | {} | {right}/{} | {} | {} | {} | {} |",
        scenario.row,
        scenario.title,
        if *cold { ", cold" } else { "" },
        expected(scenario),
        outcomes.len(),
        times(Severity::Warning),
        deadline(by.warning),
        times(Severity::Critical),
        deadline(by.critical),
    );
}

/// What a scenario expects, in words.
fn expected(scenario: &Scenario) -> String {
    let expect = &scenario.expect;
    let mut parts = Vec::new();
    if let Some(class) = &expect.class {
        let variants = expect.variants.join(" or ");
        let or = if expect.optional { " or nothing" } else { "" };
        parts.push(format!("{class} {variants}").trim_end().to_owned() + or);
    }
    if let (Some(by), None) = (expect.by.info, expect.by.warning) {
        parts.push(format!("info in {by} s, no page"));
    } else if expect.class.is_none() {
        parts.push(
            match expect.others_at_most {
                Rank::None => "nothing",
                Rank::Info => "no page",
                Rank::Warning | Rank::Critical => "anything",
            }
            .to_owned(),
        );
    }
    parts.extend(expect.limits.iter().map(|limit| format!("`{limit}`")));
    parts.extend(expect.never.iter().map(|class| format!("no {class}")));
    parts.join(", ")
}

/// What was played by what was said of it.
fn print_confusion(jobs: &[Job<'_>], outcomes: &[Outcome]) {
    let mut counts: BTreeMap<String, BTreeMap<&str, usize>> = BTreeMap::new();
    let mut columns = BTreeMap::new();
    for (job, outcome) in jobs.iter().zip(outcomes) {
        let expect = &job.scenario.expect;
        let played = match (&expect.class, expect.variants.first()) {
            (Some(class), Some(variant)) => format!("{class} {variant}"),
            (Some(class), None) => class.clone(),
            (None, _) => "none".to_owned(),
        };
        *counts.entry(played).or_default().entry(&outcome.said).or_default() += 1;
        columns.insert(&outcome.said[..], ());
    }
    let columns: Vec<_> = columns.into_keys().collect();
    println!("| played | {} |\n|---|{}", columns.join(" | "), "---|".repeat(columns.len()));
    for (played, said) in counts {
        let cells = columns.iter().map(|column| match said.get(column) {
            Some(count) => count.to_string(),
            None => String::new(),
        });
        println!("| {played} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}
