//! `cargo xtask torture`: the daemon is killed for as many cycles as one has patience. VDUSE disks are tortured in the lab, by
//! one of its scenarios, vhost-user disks on this machine.

use crate::error::{Error, Result};
use crate::lab::{self, Lab, Report, Verdict};
use crate::process::interrupted;
use crate::workspace::Workspace;
use clap::{Args, ValueEnum};
use labvm::scenarios;
use spinblk_torture::Story;
use std::ops::Range;
use std::time::{Duration, Instant};

/// A cycle on a slow machine, and what comes before the first one and after the last.
const CYCLE_S: u64 = 30;
const REST_S: u64 = 300;
/// How long a disk on this machine works between two kills.
const WORK_MS: Range<u64> = 20..1500;
const FREEZE: Duration = Duration::from_secs(20);

#[derive(Args)]
pub(crate) struct Options {
    /// How often the daemon is killed
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    cycles: u32,
    /// How the disk is exported
    #[arg(long, value_enum, default_value_t = Transport::Vduse)]
    transport: Transport,
    /// With packed virtqueues
    #[arg(long)]
    packed: bool,
    /// Decides when the daemon is killed; another number, other moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Transport {
    /// A container's disk, with fio
    Vduse,
    /// A machine's disk, with the blkio crate's driver; split virtqueues only
    VhostVdpa,
    /// A machine's disk on this host, with the virtio-driver crate's virtqueues; besides, as many SIGTERMs and 20 s of SIGSTOP
    VhostUser,
}

/// Kills, restarts, and verifies.
pub(crate) fn torture(options: &Options) -> Result<Report> {
    let name = match (options.transport, options.packed) {
        (Transport::Vduse, false) => "kill-vduse",
        (Transport::Vduse, true) => "kill-vduse-packed",
        (Transport::VhostVdpa, false) => "kill-vhost-vdpa",
        (Transport::VhostUser, _) => return on_this_machine(options),
        (Transport::VhostVdpa, true) => {
            return Err(Error::Lab(
                "--packed: the blkio crate's driver knows no packed virtqueues".to_owned(),
            ));
        }
    };
    let missing = || Error::Lab(format!("no scenario is named {name}"));
    let scenario = scenarios::find(name).ok_or_else(missing)?;
    let mut lab = Lab::prepare(&Workspace::find()?, true)?;
    lab.settings.insert("cycles".to_owned(), options.cycles.to_string());
    lab.settings.insert("seed".to_owned(), options.seed.to_string());
    let bound_s = u64::from(options.cycles) * CYCLE_S + REST_S;
    lab.run(&[scenario], Some(bound_s))?.pop().ok_or_else(missing)
}

fn on_this_machine(options: &Options) -> Result<Report> {
    let workspace = Workspace::find()?;
    let program = lab::spinblk(&workspace)?;
    let temporary = std::env::temp_dir();
    // A short path, because the kernel allows no long one for a socket.
    let folder = tempfile::tempdir().map_err(Error::file("create a folder in", &temporary))?;
    let story = Story {
        program: &program,
        folder: folder.path(),
        packed: options.packed,
        cycles: options.cycles,
        seed: options.seed,
        work_ms: WORK_MS,
        freeze: Some(FREEZE),
        say: &|line| println!("{line}"),
        stop: &interrupted,
    };
    let report = told(&story);
    if interrupted() { Err(Error::Interrupted) } else { Ok(report) }
}

fn told(story: &Story<'_>) -> Report {
    let started = Instant::now();
    let (verdict, message) = match story.run() {
        Ok(tally) => (Verdict::Passed, tally.to_string()),
        Err(error) => (Verdict::Failed, error.to_string()),
    };
    let seconds = started.elapsed().as_secs_f64();
    match verdict {
        Verdict::Passed => println!("== torture passed in {seconds:.1} s: {message}"),
        _ => println!("== torture FAILED after {seconds:.1} s: {message}"),
    }
    Report { name: "torture".to_owned(), verdict, seconds, message }
}
