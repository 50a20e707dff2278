//! `cargo xtask bench`: measurements on this machine, without a VM.
//!
//! | command | measures |
//! |---|---|
//! | `compare` | spinblk, qemu-storage-daemon and the bare ring, in turn, over vhost-user |
//! | `instructions` | instructions per request, by part, under callgrind |
//! | `books` | what always-on histograms cost, against a build without them |
//! | `raid0` | what striping adds to a request, in time and in instructions |
//! | `aio` | a file through spinblk and through fio, in turn |
//! | `crypto` `null-queue` `bare-ring` `micro` `idle-queues` `in-flight-log` `two-reactors` | what the program of that name in `benches/` says |
//!
//! None of them fails because something is slow.

mod aio;
mod attribution;
mod books;
mod callgrind;
mod client;
mod compare;
mod instructions;
mod machine;
mod noise;
mod pinned;
mod programs;
mod raid0;
mod raw;
mod report;
mod servers;
mod spread;
mod watched;

use crate::error::Result;
use crate::process::{command, run};
use crate::workspace::Workspace;
use clap::{Args, Subcommand};

/// Enough for any of the programs with its longest sensible arguments.
const PROGRAM_LIMIT_S: u64 = 3600;

#[derive(Subcommand)]
pub(crate) enum BenchTask {
    /// Compare spinblk with qemu-storage-daemon and the bare ring, in turn, over vhost-user
    Compare(compare::Options),
    /// Count instructions per request under callgrind, by part
    Instructions(instructions::Options),
    /// What one request costs the device
    NullQueue(Passed),
    /// A split ring's memory traffic between two cores: the physical reference
    BareRing(Passed),
    /// A split ring's lines against a packed ring's, one request at a time
    PackedRing(Passed),
    /// What the parts cost: rings, mailbox, idle iteration
    Micro(Passed),
    /// What 63 idle queues cost a busy one
    IdleQueues(Passed),
    /// What the log of requests in flight takes of the null disk's rate, in pairs of runs
    InFlightLog(Passed),
    /// What a second reactor adds to a disk
    TwoReactors(Passed),
    /// What encryption leaves of aws-lc's own rate
    Crypto(Passed),
    /// What striping adds to a request, in time and in instructions
    Raid0(raid0::Options),
    /// What always-on histograms cost the null disk, against a build without them
    Books(books::Options),
    /// Compare a file through spinblk with the same through fio, in turn
    Aio(aio::Options),
}

#[derive(Args)]
pub(crate) struct Passed {
    /// Passed on to the program; `-- --help` shows what it takes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs what was asked for; results go to stdout.
pub(crate) fn bench(task: &BenchTask) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        BenchTask::Compare(options) => compare::compare(&workspace, options),
        BenchTask::Instructions(options) => instructions::instructions(&workspace, options),
        BenchTask::NullQueue(passed) => program(&workspace, "null-queue", passed),
        BenchTask::BareRing(passed) => program(&workspace, "bare-ring", passed),
        BenchTask::PackedRing(passed) => program(&workspace, "packed-ring", passed),
        BenchTask::Micro(passed) => program(&workspace, "micro", passed),
        BenchTask::IdleQueues(passed) => program(&workspace, "idle-queues", passed),
        BenchTask::InFlightLog(passed) => program(&workspace, "in-flight-log", passed),
        BenchTask::TwoReactors(passed) => program(&workspace, "two-reactors", passed),
        BenchTask::Crypto(passed) => program(&workspace, "crypto", passed),
        BenchTask::Raid0(options) => raid0::raid0(&workspace, options),
        BenchTask::Books(options) => books::books(&workspace, options),
        BenchTask::Aio(options) => aio::aio(&workspace, options),
    }
}

fn program(workspace: &Workspace, name: &str, passed: &Passed) -> Result<()> {
    let path = programs::build(workspace, &["spinblk-benches"])?.join(name);
    run(command(&path.to_string_lossy(), &passed.arguments), PROGRAM_LIMIT_S)
}
