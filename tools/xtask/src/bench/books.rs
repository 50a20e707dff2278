//! `cargo xtask bench books`: what always-on stages, histograms and slow-request records cost the null disk.
//!
//! Two builds of `null-queue`, one with the feature that leaves the books out, run in turn on one core.

use super::instructions::count;
use super::programs;
use super::spread::Spread;
use crate::error::{Error, Result};
use crate::process::{command, output};
use crate::programs::find;
use crate::workspace::Workspace;
use clap::Args;
use std::path::{Path, PathBuf};

const RUN_LIMIT_S: u64 = 120;
const PATTERN: &str = "*Device::turn*";
const DEPTHS: [u16; 2] = [1, 32];

#[derive(Args)]
pub(crate) struct Options {
    /// How many pairs are run
    #[arg(long, default_value_t = 10)]
    pairs: u32,
    /// Requests of each run
    #[arg(long, default_value_t = 4_000_000)]
    requests: u64,
    /// The core to measure on
    #[arg(long, default_value_t = 0)]
    core: usize,
}

/// Prints a table.
pub(super) fn books(workspace: &Workspace, options: &Options) -> Result<()> {
    let with = programs::build(workspace, &["spinblk-benches"])?.join("null-queue");
    let without = build_without(workspace)?;
    let folder = tempfile::tempdir().map_err(Error::file("create a folder in", &std::env::temp_dir()))?;
    println!(
        "| depth | ns with the books | ns without | rate with / without | instructions with | without |"
    );
    println!("|---:|---:|---:|---:|---:|---:|");
    for depth in DEPTHS {
        let (mut ns, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
        for pair in 0..options.pairs {
            let mut pair_ns = [0.0; 2];
            // Turned round each time, so that neither is always the first.
            for index in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
                pair_ns[index] = run([&with, &without][index], depth, options)?;
                ns[index].push(pair_ns[index]);
            }
            ratios.push(pair_ns[1] / pair_ns[0]);
        }
        let words = ["--direct".to_owned(), format!("--depth={depth}")];
        let [more, less] = [&with, &without].map(|program| count(program, &words, PATTERN, folder.path()));
        let [with_ns, without_ns] = ns;
        let (Some(with_ns), Some(without_ns), Some(ratio)) =
            (Spread::of(with_ns), Spread::of(without_ns), Spread::of(ratios))
        else {
            return Err(Error::Lab("--pairs 0 measures nothing".to_owned()));
        };
        println!(
            "| {depth} | {with_ns:.1} | {without_ns:.1} | {ratio:.3} | {:.0} | {:.0} |",
            more?.total(),
            less?.total()
        );
    }
    Ok(())
}

fn build_without(workspace: &Workspace) -> Result<PathBuf> {
    let target = workspace.target.join("unobserved");
    let features = ["--features", "spinblk-benches/unobserved", "--target-dir"];
    programs::build_with(workspace, &["spinblk-benches"], |cargo| {
        cargo.args(features).arg(&target);
    })?;
    Ok(target.join("release/null-queue"))
}

/// Nanoseconds per request of one run.
fn run(program: &Path, depth: u16, options: &Options) -> Result<f64> {
    let mut line = command(&find("taskset")?.to_string_lossy(), ["-c", &options.core.to_string()]);
    line.arg(program).args([
        "--direct",
        &format!("--depth={depth}"),
        &format!("--count={}", options.requests),
    ]);
    let text = output(line, RUN_LIMIT_S)?;
    let value: serde_json::Value = serde_json::from_str(&text)
        .map_err(|source| Error::Json { what: "null-queue's answer".to_owned(), source })?;
    value["ns_per_request"].as_f64().ok_or_else(|| Error::Lab(format!("null-queue prints no time: {text}")))
}
