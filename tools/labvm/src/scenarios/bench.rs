//! Side by side, in one machine: spinblk, qemu-storage-daemon and ublk, all serving nothing, and null_blk as the
//! ceiling. Each is set up, measured and torn down in turn, because a polling daemon would take a CPU from the
//! others; the order rotates from repeat to repeat.

mod summary;

use crate::command::{Cmd, Job};
use crate::fail::Fail;
use crate::fio::FioJob;
use crate::lab::Lab;
use crate::null_blk::NullBlk;
use crate::qsd::{Export, Qsd};
use crate::spinblk::{Daemon, Disk};
use crate::wait::wait_for;
use serde::Serialize;
use std::path::{Path, PathBuf};
use summary::Summary;

const SIZE_MIB: u64 = 1024;
const QUEUES: u32 = 2;
const QUEUE_SIZE: u32 = 256;
const DEPTHS: [u32; 2] = [1, 32];

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Target {
    #[serde(rename = "spinblk null")]
    Spinblk,
    #[serde(rename = "qemu-storage-daemon null-co")]
    Qsd,
    #[serde(rename = "ublk null (rublk)")]
    Ublk,
    #[serde(rename = "null_blk (ceiling)")]
    NullBlk,
}

const TARGETS: [Target; 4] = [Target::Spinblk, Target::Qsd, Target::Ublk, Target::NullBlk];

/// One fio run.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    target: Target,
    depth: u32,
    iops: f64,
    p50_us: f64,
    p99_us: f64,
}

pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    let repeats: usize = lab.setting("repeats", 5)?;
    let runtime_s: u64 = lab.setting("runtime_s", 5)?;
    lab.load_vduse()?;
    lab.modprobe(&["ublk_drv"])?;
    let mut samples = Vec::new();
    for repeat in 0..repeats {
        for at in 0..TARGETS.len() {
            let target = TARGETS[(at + repeat) % TARGETS.len()];
            lab.say(&format!("repeat {} of {repeats}: {target:?}", repeat + 1));
            samples.extend(measure(lab, target, runtime_s)?);
        }
    }
    let summary = Summary::of(lab, &samples, repeats, runtime_s)?;
    println!("\n{}", summary.markdown());
    lab.save("bench.md", &summary.markdown())?;
    lab.save("bench.json", &summary.json()?)
}

fn measure(lab: &Lab, target: Target, runtime_s: u64) -> Result<Vec<Sample>, Fail> {
    let served = Served::start(lab, target)?;
    let mut samples = Vec::new();
    for depth in DEPTHS {
        let name = format!("{target:?}-qd{depth}").to_lowercase();
        let job = FioJob::new(&name, served.device(), "randread", "4k").depth(depth).seconds(runtime_s);
        // The first moments belong to caches and to the emulator's translation.
        let read = job.set("ramp_time", 1).run(lab)?.read;
        let us = |percent| read.percentile_ns(percent) as f64 / 1000.0;
        samples.push(Sample { target, depth, iops: read.iops, p50_us: us(50.0), p99_us: us(99.0) });
    }
    served.stop()?;
    Ok(samples)
}

/// A target that is set up.
enum Served {
    Spinblk(Daemon, PathBuf),
    Qsd(Qsd, PathBuf),
    Ublk(Job, PathBuf),
    NullBlk(NullBlk),
}

impl Served {
    fn start(lab: &Lab, target: Target) -> Result<Served, Fail> {
        match target {
            Target::Spinblk => {
                let disk = Disk::null("bench0", SIZE_MIB).set("queues", QUEUES).set("queue-size", QUEUE_SIZE);
                Daemon::start_one(lab, disk).map(|(daemon, device)| Served::Spinblk(daemon, device))
            }
            Target::Qsd => {
                let export = Export::null("bench0", SIZE_MIB).queues(QUEUES, QUEUE_SIZE);
                Qsd::serve(lab, &export).map(|(qsd, device)| Served::Qsd(qsd, device))
            }
            Target::Ublk => start_rublk(lab),
            Target::NullBlk => NullBlk::without_memory(lab, "ceiling", SIZE_MIB).map(Served::NullBlk),
        }
    }

    fn device(&self) -> &Path {
        match self {
            Served::Spinblk(_, device) | Served::Qsd(_, device) | Served::Ublk(_, device) => device,
            Served::NullBlk(null_blk) => null_blk.path(),
        }
    }

    fn stop(self) -> Result<(), Fail> {
        match self {
            Served::Spinblk(daemon, _) => daemon.stop().map(drop),
            Served::Qsd(qsd, _) => qsd.stop(),
            Served::Ublk(mut job, device) => {
                Cmd::new("rublk").args(["del", "-n", "0"]).run()?;
                job.finish(20)?;
                wait_for(&format!("{} to go", device.display()), 20, || !device.exists())
            }
            Served::NullBlk(_) => Ok(()),
        }
    }
}

fn start_rublk(lab: &Lab) -> Result<Served, Fail> {
    let device = PathBuf::from("/dev/ublkb0");
    let job = Cmd::new("rublk")
        .args([
            "add",
            "null",
            "-n",
            "0",
            "-q",
            &QUEUES.to_string(),
            "-d",
            &QUEUE_SIZE.to_string(),
            "--foreground",
        ])
        .spawn_into(&lab.out_dir().join("rublk.log"))?;
    wait_for(&device.display().to_string(), 20, || device.exists())?;
    Ok(Served::Ublk(job, device))
}
