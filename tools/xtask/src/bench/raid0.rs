//! `cargo xtask bench raid0`: what striping adds to a request, in time and in instructions.

use super::instructions::count;
use super::programs;
use crate::error::{Error, Result};
use crate::process::{command, run};
use crate::workspace::Workspace;
use clap::Args;
use std::path::Path;

const PROGRAM_LIMIT_S: u64 = 3600;
const PATTERN: &str = "*Stack::turn*";
const REQUESTS_KIB: [u32; 2] = [4, 128];
/// None stands for the null disk itself.
const CHILDREN: [u32; 4] = [0, 1, 2, 4];

#[derive(Args)]
pub(crate) struct Options {
    /// How often each case is measured
    #[arg(long, default_value_t = 9)]
    repeats: u32,
    /// How long each measurement takes
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
}

/// Prints two tables.
pub(super) fn raid0(workspace: &Workspace, options: &Options) -> Result<()> {
    let program = programs::build(workspace, &["spinblk-benches"])?.join("raid0");
    let Options { repeats, seconds } = options;
    let words = [format!("--repeats={repeats}"), format!("--seconds={seconds}")];
    run(command(&program.to_string_lossy(), words), PROGRAM_LIMIT_S)?;
    print!("{}", instructions(&program)?);
    Ok(())
}

fn instructions(program: &Path) -> Result<String> {
    let folder = tempfile::tempdir().map_err(Error::file("create a folder in", &std::env::temp_dir()))?;
    let mut out = String::from(
        "\nInstructions per request, under callgrind:\n\n| request | children | all | of it bdev | more than null |\n\
         |---|---:|---:|---:|---:|\n",
    );
    for kib in REQUESTS_KIB {
        let mut null = None;
        for children in CHILDREN {
            let words = [format!("--children={children}"), format!("--kib={kib}")];
            let cost = count(program, &words, PATTERN, folder.path())?;
            let (all, bdev) = (cost.total(), cost.part("bdev"));
            let more = all - *null.get_or_insert(all);
            out += &format!("| {kib} KiB | {children} | {all:.1} | {bdev:.1} | {more:.1} |\n");
        }
    }
    Ok(out + "\nNo children: the null disk itself, driven directly.\n")
}
