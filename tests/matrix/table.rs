//! The matrix as Markdown tables.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use synwatch_core::observe::Severity;

use crate::rivals;
use crate::scenario::{Rank, Scenario};
use crate::stage::{self, Job};
use crate::verdict::Outcome;
use crate::wire::Wire;

/// Plays seeds 1 to 20 of every row, prints both tables, and asserts that each row is right on as
/// many seeds as it says.
pub fn print(scenarios: &[Scenario]) {
    let rows = stage::rows(scenarios).into_iter();
    let played = Played::new(rows.map(|(scenario, cold)| Job::plain(scenario, cold, 0)));
    println!(
        "| # | event | expected | right | to warning: median / 95 % | deadline | to critical: \
         median / 95 % | deadline |\n|---|---|---|---|---|---|---|---|"
    );
    for (job, outcomes) in played.rows() {
        print_row(job, outcomes);
    }
    println!();
    print_confusion(&played.jobs, &played.outcomes);
    println!();
    played.finish();
}

/// The same of the main rows on every wire: on how many seeds each is right, and when 95 % of them
/// warned.
pub fn print_wires(scenarios: &[Scenario]) {
    let rows = stage::rows_by_wire(scenarios);
    let played = Played::new(rows.iter().flat_map(|(scenario, wires)| {
        let wires = wires.iter().flatten();
        wires.map(|wire| Job { wire: *wire, ..Job::plain(scenario, false, 0).shorter() })
    }));
    println!("| # | event | {} |", Wire::COLUMNS.join(" | "));
    println!("|---|---|{}", "---|".repeat(Wire::COLUMNS.len()));
    let mut cells = played.rows();
    for (scenario, wires) in &rows {
        let cells = wires.map(|wire| {
            let (_, outcomes) = wire.and_then(|_| cells.next())?;
            let time = quantiles(outcomes, Severity::Warning).map(|[_, time]| time);
            let time = time.map_or(String::new(), |time| format!(", {time:.2} s"));
            Some(format!("{}/{}{time}", right(outcomes), outcomes.len()))
        });
        let cells = cells.map(Option::unwrap_or_default).join(" | ");
        println!("| {} | {} | {cells} |", scenario.row, scenario.title);
    }
    println!();
    played.finish();
}

/// On how many seeds of each row the rivals are right, and on how many rows they are right as often
/// as the row says.
pub fn print_rivals(scenarios: &[Scenario]) {
    let rows = stage::rows(scenarios).into_iter();
    let rows = rows.filter(|(scenario, _)| scenario.once.is_none());
    let played = Played::new(
        rows.map(|(scenario, cold)| Job { rivals: true, ..Job::plain(scenario, cold, 0) }),
    );
    let names = rivals::names();
    println!("| # | event | right is | synwatch | {} |", names.join(" | "));
    println!("|---|---|---|---|{}", "---|".repeat(names.len()));
    let mut rows_right = vec![0; 1 + names.len()];
    let mut beaten = Vec::new();
    for (job, outcomes) in played.rows() {
        let is_right = |outcome: &Outcome, n: usize| match n {
            0 => outcome.is_right(),
            _ => outcome.rivals[n - 1],
        };
        let right: Vec<_> = (0..=names.len())
            .map(|n| outcomes.iter().filter(|outcome| is_right(outcome, n)).count())
            .collect();
        let Job { scenario, cold, .. } = job;
        let enough = |right: usize| right as f64 >= scenario.expect.share * played.seeds as f64;
        for (rows, right) in rows_right.iter_mut().zip(&right) {
            *rows += usize::from(enough(*right));
        }
        if !enough(right[0]) && right[1..].iter().any(|right| enough(*right)) {
            beaten.push(job.name());
        }
        let cells: Vec<_> = right.iter().map(usize::to_string).collect();
        println!(
            "| {} | {}{} | {} | {} |",
            scenario.row,
            scenario.title,
            if *cold { ", cold" } else { "" },
            rivals::wanted(&scenario.expect).name(),
            cells.join(" | ")
        );
    }
    let rows = played.jobs.len() / played.seeds;
    let cells: Vec<_> = rows_right.iter().map(|right| format!("**{right}**")).collect();
    println!("| | **rows right, of {rows}** | | {} |\n", cells.join(" | "));
    println!("a rival is right and synwatch is not: {}", beaten.join(", "));
}

/// All seeds of some rows.
struct Played<'a> {
    seeds: usize,
    jobs: Vec<Job<'a>>,
    outcomes: Vec<Outcome>,
    took: Duration,
}

impl<'a> Played<'a> {
    fn new(rows: impl Iterator<Item = Job<'a>>) -> Self {
        let seeds = stage::seeds(1..=20);
        let of_row = |row| seeds.iter().map(move |seed| Job { seed: *seed, ..row });
        let jobs: Vec<_> = rows.flat_map(of_row).collect();
        let started = Instant::now();
        let outcomes = stage::play(&jobs);
        Self { seeds: seeds.len(), jobs, outcomes, took: started.elapsed() }
    }

    /// By row.
    fn rows(&self) -> impl Iterator<Item = (&Job<'a>, &[Outcome])> {
        self.jobs.iter().step_by(self.seeds).zip(self.outcomes.chunks(self.seeds))
    }

    /// Prints what was wrong, and asserts that each row is right on as many seeds as it says.
    fn finish(&self) {
        for (job, outcome) in self.jobs.iter().zip(&self.outcomes) {
            if !outcome.is_right() {
                println!("{}, seed {}: {}", job.name(), job.seed, outcome.problems.join("; "));
            }
        }
        let packets: u64 = self.outcomes.iter().map(|outcome| outcome.packets).sum();
        println!(
            "{} performances, {:.1} million packets, in {:.1?}",
            self.jobs.len(),
            packets as f64 / 1e6,
            self.took
        );
        report_pending(self.jobs.iter().zip(&self.outcomes));
        let missed: Vec<String> = self
            .rows()
            .filter(|(job, outcomes)| {
                let scenario = job.scenario;
                scenario.pending.is_none()
                    && (right(outcomes) as f64) < scenario.expect.share * self.seeds as f64
            })
            .map(|(job, outcomes)| format!("{} ({}/{})", job.name(), right(outcomes), self.seeds))
            .collect();
        assert!(missed.is_empty(), "not right on enough seeds: {}", missed.join(", "));
    }
}

fn right(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.is_right()).count()
}

/// Prints how far the pending rows are from what they expect, past the output of tests that pass:
/// one that is right is to be pending no more.
pub fn report_pending<'a>(played: impl Iterator<Item = (&'a Job<'a>, &'a Outcome)>) {
    let mut rows: BTreeMap<_, (&str, Vec<&Outcome>)> = BTreeMap::new();
    for (job, outcome) in played {
        if let Some(reason) = &job.scenario.pending {
            let row = rows.entry(&job.scenario.name).or_insert_with(|| (reason, Vec::new()));
            row.1.push(outcome);
        }
    }
    let mut out = io::stderr().lock();
    for (name, (reason, outcomes)) in rows {
        let right = outcomes.iter().filter(|outcome| outcome.is_right()).count();
        let first = outcomes.iter().find(|outcome| !outcome.is_right());
        let problem = first.map_or("take the mark off", |outcome| &outcome.problems[0]);
        let of = outcomes.len();
        writeln!(out, "pending ({reason}): {name} {right}/{of}: {problem}").expect("an output");
    }
}

/// The times until half and 95 % of those had the severity that ever did.
fn quantiles(outcomes: &[Outcome], severity: Severity) -> Option<[f64; 2]> {
    let mut times: Vec<f64> =
        outcomes.iter().filter_map(|outcome| outcome.times[severity as usize]).collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get(((times.len() as f64 * share).ceil() as usize).max(1) - 1);
    Some([*at(0.5)?, *at(0.95)?])
}

fn print_row(job: &Job<'_>, outcomes: &[Outcome]) {
    let Job { scenario, cold, .. } = job;
    let by = scenario.expect.by;
    let times = |severity| match quantiles(outcomes, severity) {
        Some([half, most]) => format!("{half:.2} / {most:.2} s"),
        None => "-".to_owned(),
    };
    let deadline =
        |deadline: Option<f64>| deadline.map_or("-".to_owned(), |deadline| format!("{deadline} s"));
    println!(
        "| {} | {}{} | {} | {}/{}{} | {} | {} | {} | {} |",
        scenario.row,
        scenario.title,
        if *cold { ", cold" } else { "" },
        expected(scenario),
        right(outcomes),
        outcomes.len(),
        if scenario.pending.is_some() { ", pending" } else { "" },
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
    if expect.optional && expect.at_most == Rank::Info {
        parts.push("no page".to_owned());
    }
    if !expect.status.is_empty() {
        let status: Vec<_> = expect.status.iter().map(|status| status.word()).collect();
        parts.push(format!("status {}", status.join(" or ")));
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
