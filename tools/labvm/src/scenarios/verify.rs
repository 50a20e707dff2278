//! Data written through spinblk comes back unchanged: mixed sizes, several jobs, deep queues, every backend.

use crate::block::{Mount, allocate_file, attribute};
use crate::fail::{Fail, ensure};
use crate::fio::FioJob;
use crate::lab::Lab;
use crate::null_blk::NullBlk;
use crate::spinblk::{Daemon, Disk};
use crate::vdpa;
use std::path::Path;

const PART_MIB: u32 = 40;
const JOBS: u32 = 4;
const DISK_MIB: u64 = (PART_MIB * JOBS) as u64;
/// Bit of VIRTIO_F_RING_PACKED.
const RING_PACKED: usize = 34;

/// Four jobs write 4k-256k at random with checksums, 32 deep, then read it all back.
fn mixed(name: &str, device: &Path) -> FioJob {
    FioJob::new(name, device, "randwrite", "4k-256k").depth(32).jobs(JOBS, PART_MIB).verify()
}

fn write_and_check(lab: &Lab, disk: Disk) -> Result<(), Fail> {
    let (daemon, device) = Daemon::start_one(lab, disk)?;
    let result = mixed("mixed", &device).run(lab)?;
    let (written, read) = (result.write.io_bytes, result.read.io_bytes);
    ensure!(written >= DISK_MIB << 20, "fio wrote only {written} bytes of {DISK_MIB} MiB");
    ensure!(read >= written, "fio wrote {written} bytes and read only {read} back");
    lab.say(&format!("{} writes and {} reads agree", result.write.total_ios, result.read.total_ios));
    let report = daemon.stop()?;
    let counted = report.disks[0].data_ios();
    let issued = result.write.total_ios;
    ensure!(counted >= issued, "spinblk counts {counted} requests, fio alone made {issued} writes");
    Ok(())
}

pub(super) fn malloc(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    write_and_check(lab, Disk::malloc("d0", DISK_MIB))
}

pub(super) fn aio_block(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let backing = NullBlk::with_memory(lab, "backing", DISK_MIB)?;
    write_and_check(lab, Disk::aio("d0", backing.path()))
}

/// On a device with a poll queue every read and write is completed by polling it.
pub(super) fn aio_polled(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let backing = NullBlk::polled(lab, "backing", DISK_MIB)?;
    let (daemon, device) = Daemon::start_one(lab, Disk::aio("d0", backing.path()))?;
    mixed("mixed", &device).run(lab)?;
    let report = daemon.stop()?;
    let disk = report.disk("d0")?;
    let (polled, all) = (disk.polled_ios, disk.data_ios());
    ensure!(polled >= all && all > 0, "{polled} of {all} requests were completed by polling");
    lab.say(&format!("{polled} I/Os of {all} requests were completed by polling"));
    Ok(())
}

/// On ext4 over RAM, because tmpfs would not show direct I/O.
pub(super) fn aio_file(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let backing = NullBlk::with_memory(lab, "backing", DISK_MIB + 64)?;
    Mount::format(backing.path())?;
    let mount = Mount::open(backing.path(), "backing")?;
    let image = mount.place().join("disk.img");
    allocate_file(&image, DISK_MIB)?;
    write_and_check(lab, Disk::aio("d0", &image))?;
    mount.close()
}

/// Packed virtqueues over VDUSE, before and after a reset of the driver.
pub(super) fn packed(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let (daemon, device) = Daemon::start_one(lab, Disk::malloc("d0", DISK_MIB).set("packed", true))?;
    // One letter for each feature, from bit 0 on: those that driver and device have agreed upon.
    let features = attribute(&device, "device/features");
    ensure!(features.as_bytes().get(RING_PACKED) == Some(&b'1'), "not packed: the features are {features}");
    let before = mixed("before", &device).run(lab)?;
    vdpa::unbind("d0")?;
    let device = vdpa::bind("d0")?;
    let after = mixed("after", &device).run(lab)?;
    let report = daemon.stop()?;
    let (issued, counted) = (before.write.total_ios + after.write.total_ios, report.disks[0].data_ios());
    ensure!(counted >= issued, "spinblk counts {counted} requests, fio alone made {issued} writes");
    lab.say(&format!("{issued} writes through packed virtqueues agree with what is read"));
    Ok(())
}

/// Without a single free hugepage, ordinary pages have to do.
pub(super) fn plain_pages(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let setting = Path::new("/proc/sys/vm/nr_hugepages");
    let before = crate::state::text_of(setting);
    let set = |count: &str| std::fs::write(setting, count).map_err(Fail::file("write", setting));
    set("0")?;
    let result = write_and_check(lab, Disk::malloc("d0", DISK_MIB));
    set(&before)?;
    result
}

/// Two disks written at the same time do not get in each other's way, or in each other's data.
pub(super) fn two_disks(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let names = ["d0", "d1"];
    let daemon = Daemon::start(lab, "1", &names.map(|name| Disk::malloc(name, 64)))?;
    let mut running = Vec::new();
    for (seed, name) in names.iter().enumerate() {
        let device = vdpa::block_device(name)?;
        let job = FioJob::new(name, &device, "randwrite", "4k-64k").depth(16).jobs(1, 64).verify();
        // fio checks the seed that stands in each block: a block of the other disk would not pass.
        running.push(job.set("randseed", seed + 1).start()?);
    }
    for (name, fio) in names.iter().zip(&mut running) {
        let result = fio.finish()?;
        ensure!(result.error == 0, "fio on {name} reports error {}", result.error);
    }
    let report = daemon.stop()?;
    for name in names {
        let ios = report.disk(name)?.data_ios();
        ensure!(ios > 0, "spinblk counts no request on {name}");
    }
    Ok(())
}

/// The two queues of one disk, each on a core of its own.
pub(super) fn two_reactors(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let daemon = Daemon::start(lab, "1,2", &[Disk::malloc("d0", 64)])?;
    let device = vdpa::block_device("d0")?;
    // A job on every CPU, so that every queue is used.
    let job = FioJob::new("spread", &device, "randwrite", "4k-64k").depth(16).jobs(3, 16).verify();
    job.set("cpus_allowed", "0-2").set("cpus_allowed_policy", "split").run(lab)?;
    let report = daemon.stop()?;
    let queues = &report.disk("d0")?.queues;
    ensure!(queues.len() == 2, "the disk has {} queues, not 2", queues.len());
    ensure!(queues[0].core != queues[1].core, "both queues are on core {}", queues[0].core);
    for (index, queue) in queues.iter().enumerate() {
        ensure!(queue.requests > 0, "queue {index} on core {} served no request", queue.core);
    }
    Ok(())
}
