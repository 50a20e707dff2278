//! Disks come and go: attach and detach over and over, reset under load, end under load; nothing may be left.

use crate::fail::{Fail, ensure};
use crate::fio::{FioJob, RunningFio};
use crate::lab::Lab;
use crate::spinblk::{Daemon, Disk, Report};
use crate::state::{leftovers, text_of};
use crate::vdpa;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const CYCLES: u32 = 20;
/// After so many cycles everything that is allocated once has been.
const WARM_UP: u32 = 3;

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
