//! `cargo xtask`: everything about this repository that is more than one command.

mod accel;
mod apt_sources;
mod archive;
mod bench;
mod cargo_tools;
mod daemon;
mod demo;
mod error;
mod initramfs;
mod kernel;
mod lab;
mod lines;
mod modules;
mod outcome;
mod packages;
mod process;
mod programs;
mod progress;
mod qmp;
mod rig;
mod test;
mod torture;
mod unpacked;
mod vm;
mod workspace;

use clap::{Parser, Subcommand};
use error::{Error, Result};
use lab::{Lab, Report, Verdict};
use labvm::scenarios::{self, Scenario};
use std::process::ExitCode;
use workspace::Workspace;

/// The exit status for "the lab itself is at fault".
const LAB_FAULT: u8 = 126;

#[derive(Parser)]
#[command(about = "Tests, demo and virtual lab of spinblk", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Scenarios in a virtual machine with VDUSE
    #[command(subcommand)]
    Lab(LabTask),
    /// Measurements on this machine, without a VM
    #[command(subcommand)]
    Bench(bench::BenchTask),
    /// Export a disk over VDUSE in the lab, and run fio on it
    Demo {
        /// Run fio inside of a container, with the disk passed in
        #[arg(long, conflicts_with = "vm")]
        container: bool,
        /// Run fio inside of a virtual machine, over vhost-user, with spinblk on this host
        #[arg(long)]
        vm: bool,
    },
    /// Kill the daemon under load, over and over, and verify the data
    Torture(torture::Options),
    /// Check everything: formatting, lints, licences, tests, models, fuzzing, scenarios
    Test,
}

#[derive(Subcommand)]
enum LabTask {
    /// Run scenarios; exits with 0, 1 (failed), 124 (timed out), 125 (guest died) or 126 (lab at fault)
    Run {
        /// Names of scenarios, see `lab list`
        #[arg(required = true)]
        names: Vec<String>,
        /// Replaces each scenario's own bound
        #[arg(long)]
        timeout_s: Option<u64>,
        /// Keep the machine's initramfs and say where it is
        #[arg(long)]
        keep: bool,
    },
    /// Show the scenarios
    List,
    /// Open a shell in the machine
    Shell,
    /// Compare spinblk with qemu-storage-daemon and ublk, in one boot
    Bench {
        /// How often each target is measured
        #[arg(long, default_value_t = 5)]
        repeats: u32,
        /// How long each measurement takes
        #[arg(long, default_value_t = 5)]
        runtime_s: u32,
    },
    /// Kill spinblk and qemu-storage-daemon in turn, in one boot, and compare how soon they serve again
    BenchRestart {
        /// How often each of them is killed
        #[arg(long, default_value_t = 9)]
        repeats: u32,
    },
}

fn main() -> ExitCode {
    process::catch_interrupts();
    let result = match Cli::parse().command {
        Task::Lab(LabTask::List) => list(),
        Task::Lab(LabTask::Run { names, timeout_s, keep }) => run(&names, timeout_s, keep),
        Task::Lab(LabTask::Shell) => shell(),
        Task::Lab(LabTask::Bench { repeats, runtime_s }) => {
            demo::bench(repeats, runtime_s).map(|one| exit_code(&[one]))
        }
        Task::Lab(LabTask::BenchRestart { repeats }) => {
            demo::bench_restart(repeats).map(|one| exit_code(&[one]))
        }
        Task::Bench(task) => bench::bench(&task).map(|()| ExitCode::SUCCESS),
        Task::Demo { container, vm } => {
            let place = if container {
                demo::Place::Container
            } else if vm {
                demo::Place::VirtualMachine
            } else {
                demo::Place::Host
            };
            demo::demo(place).map(|one| exit_code(&[one]))
        }
        Task::Torture(options) => torture::torture(&options).map(|one| exit_code(&[one])),
        Task::Test => {
            test::test().map(|tally| if tally.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(LAB_FAULT)
    })
}

fn list() -> Result<ExitCode> {
    for Scenario { name, what, in_test, .. } in scenarios::TABLE {
        println!("{name:<24} {} {what}", if *in_test { "test" } else { "    " });
    }
    Ok(ExitCode::SUCCESS)
}

fn run(names: &[String], timeout_s: Option<u64>, keep: bool) -> Result<ExitCode> {
    let find = |name: &String| {
        let unknown =
            || Error::Lab(format!("no scenario is named {name}; `cargo xtask lab list` shows them"));
        scenarios::find(name).ok_or_else(unknown)
    };
    let scenarios = names.iter().map(find).collect::<Result<Vec<&Scenario>>>()?;
    if let Some(bench) = scenarios.iter().find(|scenario| scenario.programs.contains(&"rublk")) {
        return Err(Error::Lab(format!(
            "{} needs its peers installed; run `cargo xtask lab bench`",
            bench.name
        )));
    }
    let with_spinblk = scenarios.iter().any(|scenario| scenario.programs.contains(&"spinblk"));
    let mut lab = Lab::prepare(&Workspace::find()?, with_spinblk)?;
    lab.keep = keep;
    Ok(exit_code(&lab.run(&scenarios, timeout_s)?))
}

/// The worst of all outcomes; what the guest could not say itself is said here.
fn exit_code(reports: &[Report]) -> ExitCode {
    for report in reports.iter().filter(|report| report.verdict == Verdict::GuestDied) {
        eprintln!("{}: {}", report.name, report.message);
    }
    ExitCode::from(reports.iter().map(|report| report.verdict.exit_code()).max().unwrap_or(LAB_FAULT))
}

fn shell() -> Result<ExitCode> {
    Lab::prepare(&Workspace::find()?, true)?.shell()?;
    Ok(ExitCode::SUCCESS)
}
