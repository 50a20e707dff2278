//! Disks come and go: attach and detach over and over, reset under load, end under load; nothing may be left.

use crate::block::DirectDisk;
use crate::fail::{Fail, ensure};
use crate::fio::{FioJob, RunningFio};
use crate::lab::Lab;
use crate::null_blk::NullBlk;
use crate::pattern::Pattern;
use crate::spinblk::{Daemon, Disk, Report};
use crate::state::{leftovers, text_of};
use crate::vdpa;
use crate::wait::wait_for;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

const CYCLES: u32 = 20;
/// After so many cycles everything that is allocated once has been.
const WARM_UP: u32 = 3;
/// A disk that is restarted while it is written.
const RESTARTED_BYTES: u64 = 64 << 20;
const RESTARTS: u64 = 5;
const WRITER_FLUSHES_BYTES: u64 = 1 << 20;
const WRITER_LIMIT_S: u64 = 30;

/// Twenty resets and probes do not make the daemon grow.
pub(super) fn reattach(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let (daemon, _) = Daemon::start_one(lab, Disk::malloc("d0", 64))?;
    let mut warm = daemon.holdings();
    for cycle in 1..=CYCLES {
        vdpa::unbind("d0")?;
        let device = vdpa::bind("d0")?;
        // Enough requests to bring up the bounce region and its registration.
        FioJob::new("touch", &device, "randrw", "4k")
            .depth(8)
            .set("number_ios", 64)
            .set("size", "16M")
            .run(lab)?;
        if cycle == WARM_UP {
            warm = daemon.holdings();
        }
    }
    let (fds, mappings) = daemon.holdings();
    lab.say(&format!("{fds} descriptors and {mappings} mappings after {CYCLES} cycles"));
    ensure!(fds <= warm.0, "descriptors grew from {} to {fds} in {} cycles", warm.0, CYCLES - WARM_UP);
    ensure!(mappings <= warm.1, "mappings grew from {} to {mappings} in {} cycles", warm.1, CYCLES - WARM_UP);
    daemon.stop().map(drop)
}

/// Twenty whole lives of the daemon leave nothing in the kernel.
pub(super) fn restart(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let before = free_hugepages();
    for _ in 0..CYCLES {
        let (daemon, device) = Daemon::start_one(lab, Disk::malloc("d0", 64))?;
        FioJob::new("touch", &device, "randrw", "4k")
            .depth(8)
            .set("number_ios", 64)
            .set("size", "16M")
            .run(lab)?;
        daemon.stop()?;
    }
    let after = free_hugepages();
    ensure!(after == before, "free hugepages: {before} before, {after} after {CYCLES} lives of spinblk");
    Ok(())
}

fn free_hugepages() -> String {
    let text = text_of("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    line.unwrap_or_default().trim().to_owned()
}

fn load(device: &Path) -> Result<RunningFio, Fail> {
    let job = FioJob::new("load", device, "randrw", "4k-64k").depth(32).set("size", "64M").seconds(120);
    let fio = job.start()?;
    sleep(Duration::from_secs(3));
    Ok(fio)
}

/// The driver goes away under load and comes back; the disk works as before.
pub(super) fn rebind_under_load(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let (daemon, mut device) = Daemon::start_one(lab, Disk::malloc("d0", 64))?;
    for round in 1..=3 {
        let mut fio = load(&device)?;
        ensure!(!fio.has_ended(), "fio ended before the reset of round {round}");
        vdpa::unbind("d0")?;
        fio.finish_with_errors_allowed()?;
        device = vdpa::bind("d0")?;
        let check = FioJob::new("after", &device, "randwrite", "4k-64k").depth(16).jobs(1, 16).verify();
        check.run(lab)?;
        lab.say(&format!("round {round}: the disk works after the reset"));
    }
    daemon.stop().map(drop)
}

/// SIGTERM under load: the daemon drains, detaches and destroys, and tells what it did.
pub(super) fn stop_under_load(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let (daemon, device) = Daemon::start_one(lab, Disk::malloc("d0", 64))?;
    let mut fio = load(&device)?;
    ensure!(!fio.has_ended(), "fio ended before spinblk was asked to");
    let report: Report = daemon.stop()?;
    fio.finish_with_errors_allowed()?;
    let ios = report.disk("d0")?.data_ios();
    ensure!(ios > 0, "spinblk's report counts no request");
    ensure!(leftovers().is_none(), "{}", leftovers().unwrap_or_default());
    let shown = vdpa::show()?;
    ensure!(shown.trim().is_empty(), "`vdpa dev show` still prints:\n{shown}");
    lab.say(&format!("spinblk served {ios} requests and left nothing behind"));
    Ok(())
}

/// SIGTERM under load takes the disk from its user, who sees an error; what was acknowledged and flushed before is there when the
/// daemon has been started anew.
pub(super) fn restart_under_load(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let backing = NullBlk::slow_with_memory(lab, "backing", RESTARTED_BYTES >> 20)?;
    let disk = || Disk::aio("d0", backing.path());
    let (mut daemon, mut device) = Daemon::start_one(lab, disk())?;
    for round in 1..=RESTARTS {
        let writer = Writer::start(&device, Pattern(round))?;
        let started = || writer.flushed_bytes() >= WRITER_FLUSHES_BYTES;
        wait_for("the writer's first flush", WRITER_LIMIT_S, started)?;
        sleep(Duration::from_millis(100 * round));
        ensure!(!writer.thread.is_finished(), "the writer ended before spinblk was told to");
        daemon.stop()?;
        let flushed_bytes = writer.finish()?;
        (daemon, device) = Daemon::start_one(lab, disk())?;
        Pattern(round).expect(&DirectDisk::open(&device)?, 0..flushed_bytes)?;
        lab.say(&format!("round {round}: {} KiB were flushed, and are there", flushed_bytes >> 10));
    }
    daemon.stop().map(drop)
}

/// Writes a disk from its beginning until it is taken away, and flushes now and then.
struct Writer {
    thread: JoinHandle<Result<(), Fail>>,
    flushed_bytes: Arc<AtomicU64>,
}

impl Writer {
    fn start(device: &Path, pattern: Pattern) -> Result<Writer, Fail> {
        let disk = DirectDisk::open(device)?;
        let flushed_bytes = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&flushed_bytes);
        let write = move || {
            for start in (0..RESTARTED_BYTES).step_by(WRITER_FLUSHES_BYTES as usize) {
                let end = start + WRITER_FLUSHES_BYTES;
                pattern.write(&disk, start..end)?;
                disk.flush()?;
                told.store(end, Ordering::Relaxed);
            }
            Ok(())
        };
        Ok(Writer { thread: std::thread::spawn(write), flushed_bytes })
    }

    fn flushed_bytes(&self) -> u64 {
        self.flushed_bytes.load(Ordering::Relaxed)
    }

    /// It must have been interrupted.
    fn finish(self) -> Result<u64, Fail> {
        let Writer { thread, flushed_bytes } = self;
        let ended = thread.join().map_err(|_| Fail::Check("the writer panicked".to_owned()))?;
        ensure!(ended.is_err(), "the writer has written everything to a disk that was taken away");
        Ok(flushed_bytes.load(Ordering::Relaxed))
    }
}
