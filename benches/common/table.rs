//! Figures for people: medians, and tables in Markdown.

use std::fmt::Display;
use std::fs;
use std::thread;

/// The median of some figures, the mean of the middle two where their number is even; NaN of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        Some(upper) if values.len() % 2 == 1 => *upper,
        Some(upper) => f64::midpoint(values[middle - 1], *upper),
        None => f64::NAN,
    }
}

/// The lowest and the highest of some figures.
pub fn range(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    values.into_iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

/// Begins a table. The first column is text, all others are numbers.
pub fn head(columns: &[&str]) {
    row(columns);
    println!("|:--{}|", "|--:".repeat(columns.len().saturating_sub(1)));
}

/// A row of a table.
pub fn row<T: Display>(cells: &[T]) {
    let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
    println!("| {} |", cells.join(" | "));
}

/// A figure with two or three digits that count.
pub fn figure(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "?".to_owned(),
        size if size >= 100.0 => thousands(value.round() as i64),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Octets in MiB.
pub fn mebibytes(octets: u64) -> f64 {
    octets as f64 / f64::from(1 << 20)
}

/// A whole number, its thousands set apart.
pub fn thousands(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0 { format!("-{text}") } else { text }
}

/// The machine in a few words: what its figures depend on most.
pub fn machine() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version: Vec<&str> = release.trim().split(['.', '-']).take(2).collect();
    format!("{cores} cores, Linux {}", version.join("."))
}
