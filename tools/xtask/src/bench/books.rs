//! `cargo xtask bench books`: what always-on stages, histograms and slow-request records cost the null disk.
//!
//! Two builds of `null-queue`, one with the feature that leaves the books out, run in turn on one core: nothing but the
//! queue, which is where a nanosecond shows. Then the same of `spinblk serve`, with the load on another core: what users get.

use super::client::Bench;
use super::instructions::count;
use super::programs;
use super::raw::{Case, Load, Measured};
use super::servers::Target;
use super::spread::Spread;
use crate::error::{Error, Result};
use crate::process::{command, output};
use crate::programs::find;
use crate::workspace::Workspace;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;

const RUN_LIMIT_S: u64 = 120;
const PACKAGES: [&str; 2] = ["spinblk-benches", "spinblk"];
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
    /// The core to measure on; of the load, where a server is measured
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// The core of the server
    #[arg(long, default_value_t = 1)]
    server_core: usize,
    /// How long each measurement of the server takes
    #[arg(long, default_value_t = 0.6)]
    time_s: f64,
}

/// The programs with the books, or without.
struct Build {
    null_queue: PathBuf,
    spinblk: PathBuf,
    bare_ring: PathBuf,
}

impl Build {
    fn of(folder: &Path) -> Self {
        let [null_queue, spinblk, bare_ring] =
            ["null-queue", "spinblk", "bare-ring"].map(|name| folder.join(name));
        Self { null_queue, spinblk, bare_ring }
    }
}

/// Prints two tables.
pub(super) fn books(workspace: &Workspace, options: &Options) -> Result<()> {
    let with = Build::of(&programs::build(workspace, &PACKAGES)?);
    let without = Build::of(&build_without(workspace)?);
    let folder = tempfile::tempdir().map_err(Error::file("create a folder in", &std::env::temp_dir()))?;
    queue_alone(&with, &without, folder.path(), options)?;
    println!();
    served(&with, &without, folder.path(), options)
}

fn queue_alone(with: &Build, without: &Build, folder: &Path, options: &Options) -> Result<()> {
    let [with, without] = [&with.null_queue, &without.null_queue];
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
                pair_ns[index] = run([with, without][index], depth, options)?;
                ns[index].push(pair_ns[index]);
            }
            ratios.push(pair_ns[1] / pair_ns[0]);
        }
        let words = ["--direct".to_owned(), format!("--depth={depth}")];
        let [more, less] = [with, without].map(|program| count(program, &words, PATTERN, folder));
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

/// The null disk over vhost-user, one server after the other.
fn served(with: &Build, without: &Build, folder: &Path, options: &Options) -> Result<()> {
    let mut bench = Bench {
        spinblk: with.spinblk.clone(),
        server: None,
        bare_ring: with.bare_ring.clone(),
        client_core: options.core,
        server_core: options.server_core,
        indirect: false,
        time: Duration::try_from_secs_f64(options.time_s)
            .map_err(|e| Error::Lab(format!("--time-s {}: {e}", options.time_s)))?,
        folder: folder.to_path_buf(),
    };
    println!("| served at depth | IOPS with the books | without | with / without | pairs not comparable |");
    println!("|---:|---:|---:|---:|---:|");
    for depth in DEPTHS {
        let case = Case { target: Target::Null, load: Load::Randread, depth };
        let (mut iops, mut ratios, mut left_out) = ([Vec::new(), Vec::new()], Vec::new(), 0);
        for pair in 0..options.pairs {
            let mut measured: [Option<Measured>; 2] = [None, None];
            for index in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
                bench.server = Some([with, without][index].spinblk.clone());
                let one = bench.measure(case, pair)?;
                iops[index].push(one.iops);
                measured[index] = Some(one);
            }
            match measured {
                [Some(with), Some(without)] if with.is_comparable_to(&without) => {
                    ratios.push(with.iops / without.iops);
                }
                _ => left_out += 1,
            }
        }
        let [with, without] = iops;
        let (Some(with), Some(without), Some(ratio)) =
            (Spread::of(with), Spread::of(without), Spread::of(ratios))
        else {
            return Err(Error::Lab("no two measurements can be compared".to_owned()));
        };
        println!("| {depth} | {with:.0} | {without:.0} | {ratio:.3} | {left_out} of {} |", options.pairs);
    }
    Ok(())
}

fn build_without(workspace: &Workspace) -> Result<PathBuf> {
    let target = workspace.target.join("unobserved");
    // Both are built at once, so that the feature holds for both.
    let features = ["--features", "spinblk-benches/unobserved", "--target-dir"];
    programs::build_with(workspace, &PACKAGES, |cargo| {
        cargo.args(features).arg(&target);
    })?;
    Ok(target.join("release"))
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
