//! `cargo xtask bench aio`: a file on a disk through fio, through the bdev alone, and through the whole server, in turn.
//!
//! ```text
//!   fio, io_uring                        core C ─► file
//!   the same while core D polls          core C ─► file
//!   spinblk perf --target aio            core C ─► file
//!   spinblk perf --target vhost-user     core D ─ring─► spinblk serve on core C ─► file
//!
//!   repeat 1:  random reads, random writes at depth 1, 32, 128 with each of them   ──► ratios to fio
//!   repeat 2:  the same, backwards                                                 ──► more
//! ```
//! All use O_DIRECT, registered buffers and files, 4 KiB. The file is written in full beforehand, so that no I/O has blocks to
//! allocate. fio keeps its defaults of `--iodepth_batch*`: one submission in each system call.

mod file;
mod report;
mod run;

use super::programs;
use super::raw::Load;
use crate::error::{Error, Result};
use crate::packages::Packages;
use crate::workspace::{Workspace, make_dir};
use clap::Args;
use run::{Bench, Case, Measured, Target};
use std::path::PathBuf;
use std::time::Duration;

const DEPTHS: [u16; 3] = [1, 32, 128];
const SHORTEST: Duration = Duration::from_millis(500);
const FIO: (&str, u32) = ("fio", 0);

#[derive(Args)]
pub(crate) struct Options {
    /// How often everything is measured
    #[arg(long, default_value_t = 5)]
    repeats: u32,
    /// How long each measurement takes
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The folder where the file is made and removed again; it needs O_DIRECT [default: cargo's target directory]
    #[arg(long, value_name = "FOLDER")]
    path: Option<PathBuf>,
    /// The file's size
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    size_mib: u32,
    /// The depths
    #[arg(long, value_delimiter = ',', default_values_t = DEPTHS, value_parser = clap::value_parser!(u16).range(1..=1024))]
    depths: Vec<u16>,
    /// The core of what is measured
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// The core of the load generator in front of the server
    #[arg(long, default_value_t = 0)]
    client_core: usize,
    /// Measure this program instead of building it: another commit's, say
    #[arg(long, value_name = "FILE")]
    spinblk: Option<PathBuf>,
}

/// Measures everything, prints a table.
pub(super) fn aio(workspace: &Workspace, options: &Options) -> Result<()> {
    let time = Duration::try_from_secs_f64(options.seconds).ok().filter(|time| *time >= SHORTEST);
    let time = time.ok_or_else(|| Error::Lab(format!("--seconds {}: 0.5 at least", options.seconds)))?;
    Packages::new(workspace)?.ensure(&[FIO])?;
    let spinblk = match &options.spinblk {
        Some(program) => program.clone(),
        None => programs::build(workspace, &["spinblk"])?.join("spinblk"),
    };
    let disk_folder = options.path.as_ref().unwrap_or(&workspace.target);
    make_dir(disk_folder)?;
    let file = file::written(disk_folder, options.size_mib)?;
    // A short path, because the kernel allows no long one for sockets.
    let folder = tempfile::Builder::new().prefix("spinblk-bench-").tempdir();
    let folder = folder.map_err(Error::file("create a folder in", &std::env::temp_dir()))?;
    let bench = Bench {
        spinblk,
        file: file.path().to_path_buf(),
        core: options.core,
        client_core: options.client_core,
        time,
        folder: folder.path().to_path_buf(),
    };
    let cases = cases(&options.depths);
    let measured = rounds(&bench, options.repeats, &cases)?;
    print!("{}", report::report(options, &cases, &measured));
    Ok(())
}

fn cases(depths: &[u16]) -> Vec<Case> {
    let mut cases = Vec::new();
    for load in [Load::Randread, Load::Randwrite] {
        for &depth in depths {
            cases.extend(Target::ALL.map(|target| Case { target, load, depth }));
        }
    }
    cases
}

fn rounds(bench: &Bench, repeats: u32, cases: &[Case]) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for repeat in 0..repeats {
        let mut order = cases.to_vec();
        if repeat % 2 == 1 {
            order.reverse();
        }
        for case in order {
            let measured = bench.measure(case, repeat)?;
            eprintln!(
                "  {}/{repeats}  {}, {} at depth {}: {:.0} IOPS",
                repeat + 1,
                case.target.name(),
                case.load.name(),
                case.depth,
                measured.iops,
            );
            all.push(measured);
        }
    }
    Ok(all)
}
