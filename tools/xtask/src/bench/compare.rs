//! `cargo xtask bench compare`: spinblk, qemu-storage-daemon and the bare ring on the same two cores, in turn.
//!
//! ```text
//!   repeat 1:  bare ring, spinblk, qemu-storage-daemon at depth 1, 4, ...; malloc    ──► one ratio for each depth
//!   repeat 2:  the same, backwards                                                   ──► one more
//! ```
//! Ratios are taken within a repeat, between measurements that lie seconds apart, and only then summed up. Every
//! measurement has a server of its own, so that where its memory happens to lie is part of what varies.

use super::client::Bench;
use super::noise::DISTURBED_PERCENT;
use super::raw::{Case, Load, Measured};
use super::servers::{TUNINGS, Target, Tuning};
use super::{machine, programs, report};
use crate::error::{Error, Result};
use crate::workspace::Workspace;
use clap::Args;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The depth at which malloc is measured, and the tunings of the peer.
const MIDDLE_DEPTH: u16 = 32;
/// Rounds of the peer's tunings, and how long each takes.
const TUNING_ROUNDS: u32 = 2;
const TUNING_TIME: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(crate) struct Options {
    /// How often everything is measured
    #[arg(long, default_value_t = 5)]
    repeats: u32,
    /// How long each measurement takes
    #[arg(long, default_value_t = 2.0)]
    time_s: f64,
    /// Requests in flight
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "1,4,32,128",
        value_parser = clap::value_parser!(u16).range(1..=128))]
    depths: Vec<u16>,
    /// Measure packed rings, too
    #[arg(long)]
    packed: bool,
    /// Use indirect descriptors, as Linux does: one ring entry for a request
    #[arg(long)]
    indirect: bool,
    /// Measure again what was disturbed, so many times at most, and keep the least disturbed
    #[arg(long, default_value_t = 0)]
    retries: u32,
    /// The core of spinblk's reactor, and of the peer
    #[arg(long, default_value_t = 1)]
    server_core: usize,
    /// The core of the load generator
    #[arg(long, default_value_t = 0)]
    client_core: usize,
    /// Measure this program instead of building it: another commit's, say
    #[arg(long, value_name = "FILE")]
    spinblk: Option<PathBuf>,
    /// Write all measurements to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures everything, prints tables.
pub(super) fn compare(workspace: &Workspace, options: &Options) -> Result<()> {
    let time = Duration::try_from_secs_f64(options.time_s).ok().filter(|time| *time >= TUNING_TIME);
    let time = time.ok_or_else(|| Error::Lab(format!("--time-s {}: 0.5 at least", options.time_s)))?;
    let release = programs::build(workspace, &["spinblk", "spinblk-benches"])?;
    // A short path, because the kernel allows no long one for sockets.
    let folder = tempfile::Builder::new().prefix("spinblk-bench-").tempdir();
    let folder = folder.map_err(Error::file("create a folder in", &std::env::temp_dir()))?;
    let mut bench = Bench {
        spinblk: options.spinblk.clone().unwrap_or_else(|| release.join("spinblk")),
        server: None,
        bare_ring: release.join("bare-ring"),
        client_core: options.client_core,
        server_core: options.server_core,
        indirect: options.indirect,
        time: TUNING_TIME,
        folder: folder.path().to_path_buf(),
    };
    let tuning = best_tuning(&bench)?;
    bench.time = time;
    let cases = cases(options, tuning);
    let measured = rounds(&bench, &cases, options)?;
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", to_json(options, tuning, &measured));
        fs::write(path, text).map_err(Error::file("write", path))?;
    }
    print!("{}", heading(options, tuning));
    print!("{}", report::tables(&cases, &measured));
    Ok(())
}

/// The peer's settings that give the most requests at the middle depth and below, each round's best taken.
fn best_tuning(bench: &Bench) -> Result<Tuning> {
    let mut best = (TUNINGS[0], 0.0);
    let mut scores = [0.0f64; TUNINGS.len()];
    for round in 0..TUNING_ROUNDS {
        for (tuning, score) in TUNINGS.iter().zip(&mut scores) {
            let mut product = 1.0;
            for depth in [1, MIDDLE_DEPTH] {
                let case = Case { target: Target::Qsd(*tuning), load: Load::Randread, depth };
                product *= bench.measure(case, round)?.iops;
            }
            // Noise only slows down.
            *score = score.max(product.sqrt());
            if *score > best.1 {
                best = (*tuning, *score);
            }
        }
    }
    for (tuning, score) in TUNINGS.iter().zip(scores) {
        eprintln!(
            "  peer  {}: {:.2} M IOPS, geometric mean of depths 1 and {MIDDLE_DEPTH}",
            tuning.describe(),
            score / 1e6
        );
    }
    Ok(best.0)
}

fn cases(options: &Options, tuning: Tuning) -> Vec<Case> {
    let mut targets = vec![Target::BareRing, Target::Null];
    if options.packed {
        targets.push(Target::NullPacked);
    }
    targets.push(Target::Qsd(tuning));
    let mut cases = Vec::new();
    for &depth in &options.depths {
        cases.extend(targets.iter().map(|&target| Case { target, load: Load::Randread, depth }));
    }
    let malloc = |load| Case { target: Target::Malloc, load, depth: MIDDLE_DEPTH };
    cases.extend([Load::Randread, Load::Randwrite].map(malloc));
    cases
}

fn rounds(bench: &Bench, cases: &[Case], options: &Options) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for repeat in 0..options.repeats {
        let mut order = cases.to_vec();
        if repeat % 2 == 1 {
            order.reverse();
        }
        for case in order {
            let measured = least_disturbed(bench, case, repeat, options.retries)?;
            eprintln!(
                "  {}/{}  {}, {} at depth {}: {:.2} M IOPS{}",
                repeat + 1,
                options.repeats,
                case.target.name(),
                case.load.name(),
                case.depth,
                measured.iops / 1e6,
                if measured.noise.is_disturbed() { ", disturbed" } else { "" }
            );
            all.push(measured);
        }
    }
    Ok(all)
}

/// Chosen by what was seen of the machine, never by the result.
fn least_disturbed(bench: &Bench, case: Case, repeat: u32, retries: u32) -> Result<Measured> {
    let mut best = bench.measure(case, repeat)?;
    for _ in 0..retries {
        if !best.noise.is_disturbed() {
            break;
        }
        let again = bench.measure(case, repeat)?;
        if again.noise.worst_percent() < best.noise.worst_percent() {
            best = again;
        }
    }
    Ok(best)
}

fn heading(options: &Options, tuning: Tuning) -> String {
    let Options { repeats, time_s, server_core, client_core, retries, .. } = options;
    let chains = if options.indirect { "indirect" } else { "direct" };
    format!(
        "{}\n\n4 KiB blocks, {chains} descriptors; server on core {server_core}, load generator on core {client_core}.\n\
         {repeats} repeats of {time_s} s each, in turn; {retries} retries of disturbed ones. Medians, with the least and \
         the greatest.\nqemu-storage-daemon: {}, the best of the settings tried.\n\n",
        machine::describe(),
        tuning.describe()
    )
}

fn to_json(options: &Options, tuning: Tuning, measured: &[Measured]) -> Value {
    json!({
        "machine": machine::describe(),
        "repeats": options.repeats,
        "time_s": options.time_s,
        "indirect": options.indirect,
        "retries": options.retries,
        "server_core": options.server_core,
        "client_core": options.client_core,
        "peer_settings": tuning.describe(),
        "disturbed_from_percent": DISTURBED_PERCENT,
        "measurements": measured.iter().map(Measured::to_json).collect::<Vec<_>>(),
    })
}
