//! A daemon is killed with its disk attached; the next one takes the disk over, if it is the same disk.

use crate::command::Cmd;
use crate::fail::{Fail, ensure};
use crate::fio::FioJob;
use crate::lab::Lab;
use crate::null_blk::NullBlk;
use crate::spinblk::{Daemon, Disk};
use crate::vdpa;
use std::path::Path;

const DISK_MIB: u64 = 64;

fn fingerprint(device: &Path) -> Result<String, Fail> {
    // O_DIRECT, so that the disk answers and not the page cache.
    let copy = Cmd::new("dd").args(["bs=1M", "iflag=direct", "of=/tmp/copy"]);
    copy.arg(format!("if={}", device.display())).run()?;
    let sum = Cmd::new("md5sum").arg("/tmp/copy").run()?;
    std::fs::remove_file("/tmp/copy").map_err(Fail::file("remove", Path::new("/tmp/copy")))?;
    Ok(sum)
}

/// The disk survives `kill -9` of an idle daemon; an impostor does not get it.
pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let backing = NullBlk::with_memory(lab, "backing", DISK_MIB)?;
    let disk = || Disk::aio("d0", backing.path()).set("serial", "KEEP-ME");
    let (daemon, device) = Daemon::start_one(lab, disk())?;
    FioJob::new("fill", &device, "randwrite", "4k-64k").depth(16).set("size", "32M").run(lab)?;
    let before = fingerprint(&device)?;
    daemon.kill()?;
    ensure!(device.exists(), "{} went away with the daemon", device.display());

    let impostors = [
        Disk::malloc("d0", DISK_MIB / 2).set("serial", "KEEP-ME"),
        disk().set("read-only", true),
        disk().set("queues", 1),
    ];
    for impostor in impostors {
        let Err(refusal) = Daemon::start(lab, "1", &[impostor]) else {
            return Err(Fail::Check("a disk with other settings took d0 over".into()));
        };
        let text = refusal.to_string();
        ensure!(text.contains("attached already"), "the refusal does not say why: {text}");
        ensure!(device.exists(), "a refused start took {} away", device.display());
    }

    let (daemon, again) = Daemon::start_one(lab, disk())?;
    ensure!(again == device, "d0 was {} and is {}", device.display(), again.display());
    let after = fingerprint(&device)?;
    ensure!(after == before, "the data changed: {before} before, {after} after");
    FioJob::new("work", &device, "randwrite", "4k-64k").depth(16).jobs(1, 16).verify().run(lab)?;
    // The driver's own reset and probe work as before.
    vdpa::unbind("d0")?;
    vdpa::bind("d0")?;
    daemon.stop().map(drop)
}
