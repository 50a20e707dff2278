//! `cargo xtask bench instructions`: what a request costs in instructions, by part of the data plane.
//!
//! ```text
//!   null-queue --count N   ─┐ callgrind, inside Device::turn only
//!   null-queue --count 2N  ─┴─► the difference, over N: no set-up in it
//! ```
//! Instructions do not depend on the machine's load, so a commit can be compared with another one: `--save` one,
//! `--against` it on the other. They are not time: a miss in a cache counts as much as a hit. And they depend on the
//! compiler, which is saved with them.

use super::attribution::{OTHER, PARTS, attribute};
use super::callgrind::Counts;
use super::programs;
use crate::error::{Error, Result};
use crate::process::{command, output};
use crate::workspace::Workspace;
use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Requests of the shorter run; both depths divide it.
const REQUESTS: u64 = 6400;
const DEPTHS: [u16; 2] = [1, 32];
const PATTERN: &str = "*Device::turn*";
/// Parts that differ less are not shown.
const SHOWN_DIFFERENCE: f64 = 0.05;
const FUNCTIONS_SHOWN: usize = 40;
const COMPILER_LIMIT_S: u64 = 30;

#[derive(Args)]
pub(crate) struct Options {
    /// Save the results to this file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Print the differences from saved results
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Print the functions that cost most, too
    #[arg(long)]
    functions: bool,
}

/// Instructions per request: by part, and by function.
#[derive(Default)]
pub(super) struct Cost {
    parts: BTreeMap<&'static str, f64>,
    functions: BTreeMap<String, f64>,
}

/// Counts, prints a table, saves and compares.
pub(super) fn instructions(workspace: &Workspace, options: &Options) -> Result<()> {
    let before = options.against.as_deref().map(load).transpose()?;
    let program = programs::build(workspace, &["spinblk-benches"])?.join("null-queue");
    let folder = tempfile::tempdir().map_err(Error::file("create a folder in", &std::env::temp_dir()))?;
    let mut results = Vec::new();
    for (name, arguments) in cases() {
        results.push((name, count(&program, &arguments, PATTERN, folder.path())?));
    }
    print!("{}", table(&results));
    if options.functions {
        print!("{}", functions(&results));
    }
    let now = to_json(&results, &compiler()?);
    if let Some(path) = &options.save {
        fs::write(path, format!("{now:#}\n")).map_err(Error::file("write", path))?;
    }
    if let Some(before) = before {
        print!("{}", differences(&before, &now));
    }
    Ok(())
}

/// Name, and arguments of `null-queue`.
fn cases() -> Vec<(String, Vec<String>)> {
    let mut cases = Vec::new();
    for (kind, kind_flag) in [("split", None), ("packed", Some("--packed"))] {
        for (chain, chain_flag) in [("direct", Some("--direct")), ("indirect", None)] {
            for regions in [1, 8] {
                for depth in DEPTHS {
                    let flags = kind_flag.into_iter().chain(chain_flag).map(str::to_owned);
                    let numbers = [format!("--regions={regions}"), format!("--depth={depth}")];
                    let plural = if regions == 1 { "" } else { "s" };
                    let name = format!("{kind} {chain}, {regions} region{plural}, depth {depth}");
                    cases.push((name, flags.chain(numbers).collect()));
                }
            }
        }
    }
    // What a disk has that survives `kill -9`.
    for (kind, kind_flag) in [("split", None), ("packed", Some("--packed"))] {
        for depth in DEPTHS {
            let flags = kind_flag.into_iter().chain(["--direct", "--log"]).map(str::to_owned);
            let name = format!("{kind} direct, 1 region, depth {depth}, with a log");
            cases.push((name, flags.chain([format!("--depth={depth}")]).collect()));
        }
    }
    cases
}

/// Inside the functions that fit the pattern: the difference of two runs, so that nothing is left of what happens once.
pub(super) fn count(program: &Path, arguments: &[String], pattern: &str, folder: &Path) -> Result<Cost> {
    let run = |requests: u64| {
        let arguments = [arguments, &[format!("--count={requests}")]].concat();
        Counts::of(program, &arguments, pattern, folder)
    };
    let (short, long) = (run(REQUESTS)?, run(2 * REQUESTS)?);
    let each = |long: u64, short: u64| (long as f64 - short as f64) / REQUESTS as f64;
    let places = attribute(program, long.own.keys().copied())?;
    let mut cost = Cost::default();
    for (address, &executed) in &long.own {
        let instructions = each(executed, short.own.get(address).copied().unwrap_or(0));
        let (part, function) = places.get(address).cloned().unwrap_or((OTHER, String::new()));
        *cost.parts.entry(part).or_default() += instructions;
        *cost.functions.entry(function).or_default() += instructions;
    }
    *cost.parts.entry(OTHER).or_default() += each(long.elsewhere, short.elsewhere);
    Ok(cost)
}

impl Cost {
    pub(super) fn total(&self) -> f64 {
        self.parts.values().sum()
    }

    pub(super) fn part(&self, name: &str) -> f64 {
        self.parts.get(name).copied().unwrap_or(0.0)
    }
}

fn table(results: &[(String, Cost)]) -> String {
    let mut out = String::from("Instructions per request:\n\n| case | all |");
    for part in PARTS {
        let _ = write!(out, " {part} |");
    }
    out += "\n|---|---:|";
    out += &"---:|".repeat(PARTS.len());
    out.push('\n');
    for (name, cost) in results {
        let _ = write!(out, "| {name} | {:.1} |", cost.total());
        for part in PARTS {
            let _ = write!(out, " {:.1} |", cost.part(part));
        }
        out.push('\n');
    }
    out + "\n"
}

fn functions(results: &[(String, Cost)]) -> String {
    let mut out = String::new();
    for (name, cost) in results {
        let mut sorted: Vec<(&String, f64)> =
            cost.functions.iter().map(|(name, cost)| (name, *cost)).collect();
        sorted.sort_by(|one, other| other.1.total_cmp(&one.1));
        let _ = writeln!(out, "{name}:");
        for (function, cost) in
            sorted.iter().take(FUNCTIONS_SHOWN).filter(|(_, cost)| *cost >= SHOWN_DIFFERENCE)
        {
            let _ = writeln!(out, "{cost:8.1}  {function}");
        }
        out.push('\n');
    }
    out
}

fn compiler() -> Result<String> {
    Ok(output(command("rustc", ["--version"]), COMPILER_LIMIT_S)?.trim().to_owned())
}

fn to_json(results: &[(String, Cost)], compiler: &str) -> Value {
    // Rounded, so that a file changes only when something has changed.
    let round = |value: f64| (value * 100.0).round() / 100.0;
    let mut cases = Map::new();
    for (name, cost) in results {
        let parts: Map<String, Value> =
            cost.parts.iter().map(|(part, cost)| ((*part).to_owned(), json!(round(*cost)))).collect();
        cases.insert(name.clone(), Value::Object(parts));
    }
    json!({ "compiler": compiler, "instructions_per_request": cases })
}

fn load(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
    serde_json::from_str(&text).map_err(|source| Error::Json { what: path.display().to_string(), source })
}

/// Cases that cost more or less than before, and in which parts.
fn differences(before: &Value, now: &Value) -> String {
    const CASES: &str = "instructions_per_request";
    let mut out = String::from("Differences:\n\n");
    if before["compiler"] != now["compiler"] {
        let _ = writeln!(out, "other compilers: {} before, {} now\n", before["compiler"], now["compiler"]);
    }
    out += "| case | before | now | difference | of it |\n|---|---:|---:|---:|---|\n";
    let of = |value: &Value, part: &str| value[part].as_f64().unwrap_or(0.0);
    let total = |value: &Value| PARTS.iter().map(|part| of(value, part)).sum::<f64>();
    for (name, new) in now[CASES].as_object().into_iter().flatten() {
        let old = &before[CASES][name];
        if old.is_null() {
            let _ = writeln!(out, "| {name} | | {:.1} | | not measured before |", total(new));
            continue;
        }
        let changes = PARTS.iter().map(|part| (part, of(new, part) - of(old, part)));
        let changes = changes.filter(|(_, change)| change.abs() >= SHOWN_DIFFERENCE);
        let words: Vec<String> = changes.map(|(part, change)| format!("{part} {change:+.1}")).collect();
        let (old, new) = (total(old), total(new));
        let _ = writeln!(out, "| {name} | {old:.1} | {new:.1} | {:+.1} | {} |", new - old, words.join(", "));
    }
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_by_part() {
        let saved = |queue: f64, compiler: &str| json!({"compiler": compiler, "instructions_per_request": {"a": {"queue": queue, "bdev": 2.0}}});
        let text = differences(&saved(10.0, "1"), &saved(7.5, "1"));
        assert!(text.contains("| a | 12.0 | 9.5 | -2.5 | queue -2.5 |"), "{text}");
        assert!(!text.contains("compilers"), "{text}");
        assert!(differences(&saved(1.0, "1"), &saved(1.0, "2")).contains("other compilers"));
        assert!(differences(&json!({}), &saved(1.0, "1")).contains("not measured before"));
    }

    #[test]
    fn all_cases_have_names_of_their_own() {
        let mut names: Vec<String> = cases().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 20);
        names.dedup();
        assert_eq!(names.len(), 20);
    }
}
