//! The program's counts against the labels'.

use crate::labels::{Capture, captures};
use crate::program::Totals;
use crate::reference::{Counts, Fate, Rule, count};
use crate::segments;

/// Up to so many sources HyperLogLog keeps them all: 3/4 of 2^11 for 2^14 registers.
const EXACT_SOURCES: u64 = 1_536;
/// Relative standard error of HyperLogLog with 2^14 registers: 1.04 / sqrt(2^14).
const SOURCES_ERROR: f64 = 0.0081;

/// How much a rule explains.
#[derive(Clone, Copy, Default)]
struct Excused {
    files: u64,
    /// Attempts that it makes fare otherwise.
    attempts: u64,
    /// By how much it changes the number of those that completed.
    completed: i64,
}

/// The reference count by the labels' definitions gives the labels' numbers; the same with the
/// rules gives the program's. So whatever is between a label and the program is the sum of what the
/// rules change, one after the other, and nothing else.
#[test]
fn counts_equal_the_labels_but_for_the_rules() {
    let mut excused = [Excused::default(); Rule::ALL.len()];
    let mut estimated = 0;
    let mut wrong = Vec::new();
    for capture in captures() {
        let Some(report) = capture.report() else { continue };
        let (_, segments) = segments::read(&capture.path).unwrap();
        let steps: Vec<Counts> =
            (0..=Rule::ALL.len()).map(|rules| count(&segments, &Rule::ALL[..rules])).collect();
        wrong.extend(compare_to_label(capture, &steps[0]));
        wrong.extend(compare_to_program(capture, &steps[Rule::ALL.len()], &report.totals));
        estimated += u64::from(capture.label.distinct_sources > EXACT_SOURCES);
        for (pair, excused) in steps.windows(2).zip(&mut excused) {
            let attempts = pair[0].differences(&pair[1]);
            excused.files += u64::from(attempts > 0);
            excused.attempts += attempts;
            let [before, after] = [&pair[0], &pair[1]].map(|counts| counts.fates(Fate::Completed));
            excused.completed += after.cast_signed() - before.cast_signed();
        }
    }
    eprintln!("{:<16} {:>5} {:>8} {:>9}  cause", "rule", "files", "attempts", "completed");
    for (rule, Excused { files, attempts, completed }) in Rule::ALL.iter().zip(excused) {
        let (rule, cause) = (format!("{rule:?}"), rule.cause());
        eprintln!("{rule:<16} {files:>5} {attempts:>8} {completed:>+9}  {cause}");
    }
    eprintln!(
        "{:<16} {estimated:>5} {:>8} {:>9}  more than {EXACT_SOURCES} sources are estimated \
         (HyperLogLog)",
        "Estimated", "-", "-"
    );
    eprintln!("{} files compared", captures().len());
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Where the reference, by the labels' definitions, differs from a label.
fn compare_to_label(capture: &Capture, reference: &Counts) -> Option<String> {
    let label = &capture.label;
    let ours = [
        ("SYNs", reference.syns, label.syns),
        ("SYN-ACKs", reference.syn_acks, label.synacks),
        ("completed", reference.fates(Fate::Completed), label.completed_handshakes),
        ("refused", reference.fates(Fate::Refused), label.refused),
        ("reset by the client", reference.fates(Fate::ResetByClient), label.reset_by_client),
        ("sources", reference.sources.len() as u64, label.distinct_sources),
    ];
    difference(capture, "reference count and label", &ours)
}

/// Where the program differs from the reference with all rules.
fn compare_to_program(capture: &Capture, reference: &Counts, totals: &Totals) -> Option<String> {
    let sources = reference.sources.len() as u64;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let error = totals.sources.abs_diff(sources) as f64 / sources.max(1) as f64;
    let estimate = sources > EXACT_SOURCES && error <= 3.0 * SOURCES_ERROR;
    let ours = [
        ("SYNs", totals.syn, reference.syns),
        ("SYN-ACKs", totals.syn_ack, reference.syn_acks),
        ("completed", totals.handshakes_completed, reference.fates(Fate::Completed)),
        ("sources", if estimate { sources } else { totals.sources }, sources),
    ];
    difference(capture, "program and reference count with all rules", &ours)
}

fn difference(capture: &Capture, of: &str, counts: &[(&str, u64, u64)]) -> Option<String> {
    let differences: Vec<String> = counts
        .iter()
        .filter(|(_, left, right)| left != right)
        .map(|(name, left, right)| format!("{name} {left} and {right}"))
        .collect();
    (!differences.is_empty())
        .then(|| format!("{}: {of}: {}", capture.label.file, differences.join(", ")))
}
