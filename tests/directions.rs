//! Who may use whom: a table, which docs/architecture.md shows, against the imports and paths in
//! the sources.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, iter};

/// A module of either package, and what it may use: rows below it only, so there are no circles.
/// Adapters (`alert` to `baseline_file`) use `sys` and the core, never one another.
#[rustfmt::skip]
const TABLE: [(&str, &str); 24] = [
    ("main", "app cli config observe"),
    ("app", "cli config alert capture http kernel baseline_file sys engine metrics \
            observe sampling wire time"),
    ("cli", "config observe"),
    ("config", ""),
    ("alert", "sys observe time"),
    ("capture", "sys observe sampling wire time"),
    ("http", "metrics observe"),
    ("kernel", "sys observe time"),
    ("baseline_file", "sys engine time"),
    ("sys", ""),
    ("testing", "findings detect stats"),
    ("engine", "incident document findings detect stats flow model wire time"),
    ("metrics", "document findings model wire"),
    ("observe", "document findings model"),
    ("incident", "document findings model wire time"),
    ("document", "findings model time"),
    ("findings", "detect stats flow model wire time"),
    ("detect", "stats model time"),
    ("stats", "flow model wire time"),
    ("sampling", "flow"),
    ("flow", "model wire time"),
    ("model", "wire time"),
    ("wire", "time"),
    ("time", ""),
];
const ADAPTERS: [&str; 5] = ["alert", "capture", "http", "kernel", "baseline_file"];
const ARCHITECTURE: &str = include_str!("../docs/architecture.md");

/// Modules by name, each with those that it uses.
type Uses<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn table() -> Uses<'static> {
    TABLE.iter().map(|(module, uses)| (*module, uses.split_whitespace().collect())).collect()
}

/// The sources below a folder, but for those of tests: a test may use what it likes.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries
        .filter(|path| path.file_stem().is_some_and(|name| name != "tests"))
        .partition(|path| path.is_dir());
    let deeper = folders.iter().flat_map(|folder| sources(folder));
    files.into_iter().filter(|path| path.extension() == Some("rs".as_ref())).chain(deeper).collect()
}

/// Words and signs of a source, without comments and the tests at its end.
fn tokens(source: &str) -> Vec<&str> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().map(|line| line.split("//").next().unwrap());
    lines.flat_map(line_tokens).collect()
}

fn line_tokens(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line.trim_start();
    iter::from_fn(move || {
        let first = rest.chars().next()?;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        let (token, behind) = rest.split_at(length);
        rest = behind.trim_start();
        Some(token)
    })
}

/// Reads the path at the start of `tokens`, or each path of a group, and puts `path` before it.
/// Returns the tokens behind.
fn read_paths<'t, 's>(
    mut tokens: &'t [&'s str],
    mut path: Vec<&'s str>,
    paths: &mut Vec<Vec<&'s str>>,
) -> &'t [&'s str] {
    while let [first, rest @ ..] = tokens {
        tokens = rest;
        if *first == "{" {
            while let [next, rest @ ..] = tokens {
                match *next {
                    "}" => return rest,
                    "," => tokens = rest,
                    "as" => tokens = &rest[1..],
                    _ => tokens = read_paths(tokens, path.clone(), paths),
                }
            }
            return tokens;
        }
        path.push(first);
        match tokens {
            ["::", rest @ ..] => tokens = rest,
            _ => break,
        }
    }
    paths.push(path);
    tokens
}

/// The top modules that the code of the module `here` names.
fn used<'s>(tokens: &[&'s str], here: &[&'s str]) -> BTreeSet<&'s str> {
    const ROOTS: [&str; 4] = ["crate", "super", "synwatch", "synwatch_core"];
    let mut paths = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let begins = index.checked_sub(1).is_none_or(|before| tokens[before] != "::");
        if begins && ROOTS.contains(token) && tokens.get(index + 1) == Some(&"::") {
            read_paths(&tokens[index..], Vec::new(), &mut paths);
        }
    }
    let top = |path: Vec<&'s str>| {
        let ups = path.iter().take_while(|part| **part == "super").count();
        match path[0] {
            // Inside of its own module.
            "super" if ups < here.len() => None,
            "super" => path.get(ups).copied(),
            _ => path.get(1).copied(),
        }
    };
    paths.into_iter().filter_map(top).filter(|top| *top != here[0]).collect()
}

/// A path below the sources as a path of modules: `flow/state.rs` is `flow`, `state`.
fn module(path: &Path) -> Vec<&str> {
    let mut parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
    let file = parts.pop().unwrap();
    parts.extend(Some(file.trim_end_matches(".rs")).filter(|name| *name != "mod"));
    parts
}

#[test]
fn modules_use_those_of_the_table_only() {
    let table = table();
    let mut seen = BTreeSet::new();
    for root in ["src", "crates/core/src"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
        for file in sources(&root) {
            let source = fs::read_to_string(&file).unwrap();
            let here = module(file.strip_prefix(&root).unwrap());
            let used = used(&tokens(&source), &here);
            // The roots of the libraries only name their modules.
            if here[0] == "lib" {
                assert_eq!(used, BTreeSet::new(), "{}", file.display());
                continue;
            }
            seen.insert(here[0].to_owned());
            let may = table.get(here[0]).unwrap_or_else(|| panic!("{} has no row", here[0]));
            let wrong: Vec<_> = used.difference(may).collect();
            assert!(wrong.is_empty(), "{} uses {wrong:?}, and may not", file.display());
        }
    }
    assert!(seen.iter().eq(table.keys()), "{seen:?} have sources");
}

#[test]
fn the_table_goes_down_and_keeps_adapters_apart() {
    for (row, (module, uses)) in TABLE.iter().enumerate() {
        for used in uses.split_whitespace() {
            let below = TABLE[row + 1..].iter().any(|(name, _)| *name == used);
            assert!(below, "{module} uses {used}, which is not below it");
            assert!(!(ADAPTERS.contains(module) && ADAPTERS.contains(&used)), "{module}, {used}");
        }
    }
}

#[test]
fn the_documentation_has_the_same_table() {
    let rows = ARCHITECTURE.lines().skip_while(|line| *line != "| module | may use |").skip(2);
    let rows = rows.map_while(|line| line.strip_prefix("| `")).map(|row| {
        let (module, uses) = row.split_once('|').unwrap();
        let uses = uses.trim_matches([' ', '|']).replace('`', "");
        (module.trim_matches(['`', ' ']).to_owned(), uses)
    });
    let table = TABLE.map(|(module, uses)| (module.to_owned(), uses.to_owned()));
    assert_eq!(rows.collect::<Vec<_>>(), table);
}

/// That the test can fail.
#[test]
fn imports_and_paths_of_every_kind_are_found() {
    for (source, found) in [
        ("use crate::http::Settings;", "http"),
        ("pub use synwatch_core::engine::{Action, Engine};", "engine"),
        ("use crate::{\n    app::Live,\n    capture as c, http::{self, State},\n};", "app http"),
        ("use super::super::kernel::Reader;", "kernel"),
        ("use super::super::{kernel, alert::Log};", "alert kernel"),
        ("fn f() -> crate::state::Saved { synwatch_core::time::now() }", "state time"),
        ("use super::input::Input; use crate::capture::{Batch, Frame};", ""),
        ("// crate::http\nlet text = 1; /// [`crate::http`]\n", ""),
        ("#[cfg(test)]\nmod tests {\n    use crate::config::Port;\n}", ""),
        ("use std::net::http; use foo::crate_::x; pub(crate) struct A;", ""),
    ] {
        let used = used(&tokens(source), &["capture", "pcap"]);
        assert_eq!(used, found.split_whitespace().collect(), "{source}");
    }
}
