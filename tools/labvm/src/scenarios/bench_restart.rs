//! How soon a disk is served again after `kill -9` of its daemon: spinblk and qemu-storage-daemon, in turn, with nobody who
//! waits a second before the restart. Both keep a log of what is in flight, so no request is lost, and a read that was on its
//! way just takes that long.
//!
//! ```text
//!   reader   ─read─read─read════════════ the read that waits ════════════╡read─read─
//!   daemon              kill ─── gone, next one started ─── first I/O ────┘
//! ```

mod reader;
mod summary;

use crate::fail::{Fail, ensure};
use crate::lab::Lab;
use crate::null_blk::NullBlk;
use crate::qsd::{Export, Qsd};
use crate::spinblk::{Daemon, Disk};
use crate::vdpa;
use crate::wait::wait_some;
use reader::Reader;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;
use summary::Summary;

const NAME: &str = "restart0";
const SIZE_MIB: u64 = 64;
const QUEUES: u32 = 2;
const QUEUE_SIZE: u32 = 256;
/// Instead of the 64 MiB that it has by itself.
const SMALL_BOUNCE_MIB: u64 = 8;
/// Reads before the kill, so that there is one on its way at nearly any moment, and after the restart.
const WARM_READS: u64 = 200;
const SERVE_LIMIT_S: u64 = 60;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Target {
    #[serde(rename = "spinblk null")]
    SpinblkNull,
    #[serde(rename = "spinblk null, small bounce region")]
    SpinblkSmall,
    #[serde(rename = "qemu-storage-daemon null-co")]
    QsdNull,
    #[serde(rename = "spinblk aio on a block device")]
    SpinblkAio,
    #[serde(rename = "qemu-storage-daemon host_device, io_uring")]
    QsdBlock,
}

const TARGETS: [Target; 5] =
    [Target::SpinblkNull, Target::SpinblkSmall, Target::QsdNull, Target::SpinblkAio, Target::QsdBlock];

/// One kill.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    target: Target,
    repeat: usize,
    /// From the kill until the process was there no more.
    gone_ms: f64,
    /// From the kill until the read that waited was done.
    first_io_ms: f64,
    /// More than one where the first found its files still in use.
    starts: u32,
}

pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    let repeats: usize = lab.setting("repeats", 9)?;
    lab.load_vduse()?;
    let backing = NullBlk::with_memory(lab, "backing", SIZE_MIB)?;
    let mut samples = Vec::new();
    for repeat in 0..repeats {
        for at in 0..TARGETS.len() {
            let target = TARGETS[(at + repeat) % TARGETS.len()];
            let sample = measure(lab, target, repeat, backing.path())?;
            lab.say(&format!(
                "repeat {} of {repeats}: {target:?} first I/O after {:.1} ms",
                repeat + 1,
                sample.first_io_ms
            ));
            samples.push(sample);
        }
    }
    let summary = Summary::of(lab, &samples, repeats)?;
    println!("\n{}", summary.markdown());
    lab.save("bench-restart.md", &summary.markdown())?;
    lab.save("bench-restart.json", &summary.json()?)
}

fn measure(lab: &Lab, target: Target, repeat: usize, backing: &Path) -> Result<Sample, Fail> {
    let recipe = Recipe::of(target, backing);
    let (daemon, device) = recipe.serve(lab)?;
    let reader = Reader::start(&device)?;
    reader.wait_for_reads(WARM_READS, SERVE_LIMIT_S)?;

    reader.watch();
    let killed = Instant::now();
    daemon.kill()?;
    let gone = Instant::now();
    let before = reader.reads();
    let mut daemon = recipe.spawn(lab)?;
    let mut starts = 1;
    wait_some("reads after the kill", SERVE_LIMIT_S, || {
        if daemon.has_ended() {
            starts += 1;
            match recipe.spawn(lab) {
                Ok(next) => daemon = next,
                Err(fail) => return Some(Err(fail)),
            }
        }
        // One may have been done before the kill and seen after it; so many were not.
        (reader.has_ended() || reader.reads() >= before + WARM_READS).then_some(Ok(()))
    })??;

    let longest = reader.finish()?;
    ensure!(longest.ended > gone, "{target:?}: no read waited for the next daemon");
    daemon.stop()?;
    let ms = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1000.0;
    Ok(Sample { target, repeat, gone_ms: ms(killed, gone), first_io_ms: ms(killed, longest.ended), starts })
}

/// What a target is started with, each time.
enum Recipe {
    Spinblk(Disk),
    Qsd(Export),
}

impl Recipe {
    fn of(target: Target, backing: &Path) -> Recipe {
        let spinblk = |disk: Disk| Recipe::Spinblk(disk.set("queues", QUEUES).set("queue-size", QUEUE_SIZE));
        let qsd = |export: Export| Recipe::Qsd(export.queues(QUEUES, QUEUE_SIZE));
        match target {
            Target::SpinblkNull => spinblk(Disk::null(NAME, SIZE_MIB)),
            Target::SpinblkSmall => {
                spinblk(Disk::null(NAME, SIZE_MIB).set("bounce-size", format!("{SMALL_BOUNCE_MIB}MiB")))
            }
            Target::SpinblkAio => spinblk(Disk::aio(NAME, backing)),
            Target::QsdNull => qsd(Export::null(NAME, SIZE_MIB)),
            Target::QsdBlock => qsd(Export::block_device(NAME, backing)),
        }
    }

    /// Starts a daemon with the disk, and waits for its block device.
    fn serve(&self, lab: &Lab) -> Result<(Running, PathBuf), Fail> {
        match self {
            Recipe::Spinblk(disk) => {
                let daemon = Daemon::spawn(lab, disk)?.wait_until_ready()?;
                Ok((Running::Spinblk(daemon), vdpa::block_device(NAME)?))
            }
            Recipe::Qsd(export) => Qsd::serve(lab, export).map(|(qsd, device)| (Running::Qsd(qsd), device)),
        }
    }

    /// Starts one more for the same disk, and waits for nothing.
    fn spawn(&self, lab: &Lab) -> Result<Running, Fail> {
        match self {
            Recipe::Spinblk(disk) => Daemon::spawn(lab, disk).map(Running::Spinblk),
            Recipe::Qsd(export) => Qsd::spawn(lab, export).map(Running::Qsd),
        }
    }
}

/// A daemon of either kind.
enum Running {
    Spinblk(Daemon),
    Qsd(Qsd),
}

impl Running {
    fn kill(self) -> Result<(), Fail> {
        match self {
            Running::Spinblk(daemon) => daemon.kill(),
            Running::Qsd(qsd) => qsd.kill(),
        }
    }

    fn has_ended(&mut self) -> bool {
        match self {
            Running::Spinblk(daemon) => daemon.has_ended(),
            Running::Qsd(qsd) => qsd.has_ended(),
        }
    }

    fn stop(self) -> Result<(), Fail> {
        match self {
            // It cleans up behind itself only once it has come so far.
            Running::Spinblk(daemon) => daemon.wait_until_ready()?.stop().map(drop),
            Running::Qsd(qsd) => qsd.stop(),
        }
    }
}
