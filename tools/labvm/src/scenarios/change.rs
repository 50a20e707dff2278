//! Disks change while others are under load: one comes and goes, one grows, and the neighbour sees nothing of it.

use crate::block::{DirectDisk, attribute};
use crate::ctl::{SOCKET, ask, list};
use crate::fail::{Fail, ensure};
use crate::fio::{FioJob, RunningFio};
use crate::lab::Lab;
use crate::spinblk::Daemon;
use crate::stack::Stack;
use crate::state::vduse_nodes;
use crate::vdpa;
use crate::wait::wait_for;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

const D1: &str = "name=d1,type=malloc,size=64MiB,queues=2";
/// Longer than all changes take, on a machine that is emulated.
const NEIGHBOUR_S: u64 = 75;
const FILE_MIB: u64 = 64;
const GROWN_MIB: u64 = 96;
const SECTORS_PER_MIB: u64 = 2048;
const RESIZE_LIMIT_S: u64 = 20;

fn load(name: &str, device: &Path, seconds: u64) -> Result<RunningFio, Fail> {
    let job =
        FioJob::new(name, device, "randrw", "4k-64k").depth(8).set("size", "48M").set("cpus_allowed", 0);
    // A fio that opens its device again when that has gone must not make a file of its name.
    job.set("allow_file_create", 0).seconds(seconds).start()
}

/// A disk is added, verified and removed under load; a removed disk's driver is detached as at the end of spinblk, so its
/// users get errors. The neighbour's do not.
pub(super) fn hot_change(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let stack = Stack::new().bdev("m", "malloc", "size = \"64MiB\"").disk("d0", "m").control(SOCKET);
    let (daemon, d0) = stack.start_one(lab, "d0")?;
    let mut neighbour = load("neighbour", &d0, NEIGHBOUR_S)?;
    for round in 1..=2 {
        let d1 = add(lab)?;
        FioJob::new("d1", &d1, "randwrite", "4k-64k").depth(8).jobs(1, 8).verify().run(lab)?;
        let mut fio = load("removed", &d1, 60)?;
        sleep(Duration::from_secs(2));
        ensure!(!fio.has_ended(), "fio ended before d1 was removed");
        ask(&["disk", "remove", "d1"])?;
        fio.finish_with_errors_allowed()?;
        is_gone(&d1)?;
        lab.say(&format!("round {round}: d1 was used and removed under load"));
    }
    let d1 = add(lab)?;
    ensure!(!neighbour.has_ended(), "the neighbour's fio ended before the changes did");
    let fio = neighbour.finish()?;
    ensure!(fio.error == 0, "the neighbour's fio reports error {}", fio.error);
    FioJob::new("last", &d1, "randwrite", "4k").depth(8).jobs(1, 4).verify().run(lab)?;
    all_is_reported(lab, daemon, fio.read.total_ios + fio.write.total_ios)
}

fn add(lab: &Lab) -> Result<PathBuf, Fail> {
    let added = ask(&["disk", "add", D1])?;
    let device = vdpa::block_device("d1")?;
    ensure!(added["disk"]["path"] == device.display().to_string(), "{added}: d1 is {}", device.display());
    lab.say(&format!("d1 is {}", device.display()));
    Ok(device)
}

fn is_gone(device: &Path) -> Result<(), Fail> {
    ensure!(!device.exists(), "{} is still there", device.display());
    ensure!(vduse_nodes() == ["d0"], "VDUSE devices: {:?}", vduse_nodes());
    ensure!(!vdpa::show()?.contains("d1"), "d1 is still on the bus");
    let disks = ask(&["disks"])?;
    ensure!(list(&disks["disks"]).len() == 1, "spinblk still shows {disks}");
    Ok(())
}

fn all_is_reported(lab: &Lab, daemon: Daemon, neighbour_ios: u64) -> Result<(), Fail> {
    let report = daemon.stop()?;
    ensure!(report.disks.len() == 4, "the report tells of {} disks, not of 4", report.disks.len());
    let (d0, d1) = (report.disk("d0")?.data_ios(), report.disk("d1")?.data_ios());
    ensure!(
        d0 >= neighbour_ios && d1 > 0,
        "spinblk counts {d0} requests of d0, fio {neighbour_ios}; {d1} of d1"
    );
    lab.say(&format!("the neighbour made {neighbour_ios} requests meanwhile, none of which failed"));
    Ok(())
}

/// A disk's file grows, and the guest sees and uses what is new while it works on the rest.
pub(super) fn resize(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let image = Path::new("/tmp/grows.img");
    let set_len = |mib: u64| {
        let file = File::options().create(true).write(true).truncate(false).open(image);
        file.and_then(|file| file.set_len(mib << 20)).map_err(Fail::file("set the length of", image))
    };
    set_len(FILE_MIB)?;
    let stack = Stack::new().aio("a", image, "auto").disk("d0", "a").control(SOCKET);
    let (daemon, device) = stack.start_one(lab, "d0")?;
    let mut fio = load("meanwhile", &device, 20)?;
    set_len(GROWN_MIB)?;
    let resized = ask(&["resize", "d0"])?;
    ensure!(resized["disk_size_bytes"] == GROWN_MIB << 20, "{resized}");
    let want = (GROWN_MIB * SECTORS_PER_MIB).to_string();
    wait_for(&format!("{} to have {want} sectors", device.display()), RESIZE_LIMIT_S, || {
        attribute(&device, "size") == want
    })?;
    let disk = DirectDisk::open(&device)?;
    disk.fill(FILE_MIB << 20, (GROWN_MIB - FILE_MIB) << 20, 0x5a)?;
    disk.expect(FILE_MIB << 20, (GROWN_MIB - FILE_MIB) << 20, 0x5a)?;
    fio.finish()?;
    lab.say(&format!("{FILE_MIB} MiB became {GROWN_MIB} MiB under load"));
    drop(disk);
    daemon.stop().map(drop)
}
