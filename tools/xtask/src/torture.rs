//! `cargo xtask torture`: a scenario of the lab that kills the daemon, for as many cycles as one has patience.

use crate::error::{Error, Result};
use crate::lab::{Lab, Report};
use crate::workspace::Workspace;
use clap::{Args, ValueEnum};
use labvm::scenarios;

/// A cycle on a slow machine, and what comes before the first one and after the last.
const CYCLE_S: u64 = 30;
const REST_S: u64 = 300;

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
}

/// Kills, restarts, and verifies.
pub(crate) fn torture(options: &Options) -> Result<Report> {
    let name = match (options.transport, options.packed) {
        (Transport::Vduse, false) => "kill-vduse",
        (Transport::Vduse, true) => "kill-vduse-packed",
        (Transport::VhostVdpa, false) => "kill-vhost-vdpa",
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
