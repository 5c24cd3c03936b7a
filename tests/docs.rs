//! The README says what the program does: every metric and every option, no more and no less.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sample;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use synwatch_core::metrics::{Exporter, families};

const README: &str = include_str!("../README.md");

/// The cells of all table rows whose first cell begins with `start`.
fn rows(start: &str) -> Vec<Vec<&str>> {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    let rows = README.lines().filter(|line| line.starts_with('|')).map(cells);
    rows.filter(|row: &Vec<&str>| row[0].starts_with(start)).collect()
}

/// The texts between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// Type and labels.
type Form = (String, BTreeSet<String>);

fn form(family: &MetricFamily) -> Form {
    let metrics = family.get_metric().iter();
    let labels = metrics.flat_map(|metric| metric.get_label()).map(|label| label.name().to_owned());
    (format!("{:?}", family.get_field_type()).to_lowercase(), labels.collect())
}

fn assert_same<T: Debug + PartialEq>(documented: &BTreeMap<String, T>, real: &BTreeMap<String, T>) {
    for (name, form) in real {
        assert_eq!(documented.get(name), Some(form), "{name} in README.md and in the program");
    }
    for name in documented.keys() {
        assert!(real.contains_key(name), "{name} is in README.md only");
    }
}

#[test]
fn metrics_are_those_of_the_readme() {
    let exporter =
        Exporter { collectors: BTreeMap::from([("kernel", true)]), ..Exporter::default() };
    let mut real = families(&sample::flooded(), &exporter);
    real.extend(ProcessCollector::for_self().collect());
    let real = real.iter().map(|family| (family.name().to_owned(), form(family))).collect();

    let documented = ["`synwatch_", "`process_"].into_iter().flat_map(rows).map(|row| {
        assert_eq!(row.len(), 4, "{row:?}");
        (quoted(row[0]).next().unwrap(), (row[1].to_owned(), quoted(row[2]).collect()))
    });
    assert_same(&documented.collect::<BTreeMap<String, Form>>(), &real);
}

#[test]
fn options_are_those_of_the_readme() {
    let help = Command::new(env!("CARGO_BIN_EXE_synwatch")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let long = |text: &str| {
        let option = text.trim_start().split([' ', ',']).find(|word| word.starts_with("--"))?;
        Some((option.to_owned(), ()))
    };
    let real = help.lines().filter(|line| line.trim_start().starts_with('-')).filter_map(long);
    let real: BTreeMap<String, ()> = real.collect();
    assert!(real.len() > 10, "{help}");

    let names = |row: Vec<&str>| quoted(row[0]).filter_map(|text| long(&text)).collect::<Vec<_>>();
    assert_same(&rows("`-").into_iter().flat_map(names).collect(), &real);
}

#[test]
fn links_of_the_documentation_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    files.extend(root.join("docs").read_dir().unwrap().map(|entry| entry.unwrap().path()));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let path = file.parent().unwrap().join(target.split('#').next().unwrap());
            assert!(path.exists(), "{} links to {target}", file.display());
        }
    }
}

/// The files below a path.
fn files(path: PathBuf) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path];
    }
    let entries = path.read_dir().unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(files).collect()
}

#[test]
fn commands_name_tests_and_benchmarks_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [
        "README.md",
        "CONTRIBUTING.md",
        "docs",
        ".ci",
        "benches",
        "crates",
        "fuzz/regressions",
        "src",
        "tests",
    ];
    let mut found = 0;
    for file in places.into_iter().flat_map(|place| files(root.join(place))) {
        // Captures are no text.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for (option, folder) in [("--test ", "tests"), ("--bench ", "benches")] {
            let names = text.split(option).skip(1);
            let names = names.map(|rest| rest.split(|c: char| c != '_' && !c.is_alphanumeric()));
            for name in names.filter_map(|mut words| words.next()).filter(|name| !name.is_empty()) {
                let path = root.join(folder).join(name);
                let exists = path.join("main.rs").exists() || path.with_extension("rs").exists();
                assert!(exists, "{} names {option}{name}", file.display());
                found += 1;
            }
        }
    }
    assert!(found > 10, "{found}");
}
