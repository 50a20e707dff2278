//! What people do with a disk: a file system, a partition table, discarding, zeroing, reading its attributes.

use crate::block::{DirectDisk, Mount, attribute, check_filesystem, checksums, queue_count};
use crate::command::Cmd;
use crate::fail::{Fail, ensure};
use crate::lab::Lab;
use crate::null_blk::NullBlk;
use crate::spinblk::{Daemon, Disk};
use crate::state::text_of;
use crate::vdpa;
use crate::wait::wait_for;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// Format, copy, sync, unmount, check, mount again, compare.
pub(super) fn filesystem(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let (daemon, device) = Daemon::start_one(lab, Disk::malloc("d0", 256))?;
    Mount::format(&device)?;
    let mount = Mount::open(&device, "disk")?;
    Cmd::new("cp").args(["-r", "/usr/bin", "/usr/lib"]).path(mount.place()).limit_s(120).run()?;
    Cmd::new("sync").limit_s(60).run()?;
    let before = checksums(mount.place())?;
    mount.close()?;
    check_filesystem(&device)?;
    let mount = Mount::open(&device, "disk")?;
    let after = checksums(mount.place())?;
    mount.close()?;
    ensure!(before.lines().count() > 10, "only {} files were copied", before.lines().count());
    ensure!(before == after, "checksums differ after mounting {} again", device.display());
    lab.say(&format!("{} files are the same after mounting again", before.lines().count()));
    daemon.stop().map(drop)
}

pub(super) fn discard_malloc(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    discard_and_zero(lab, Disk::malloc("d0", 64), true)
}

pub(super) fn discard_aio(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let backing = NullBlk::with_memory(lab, "backing", 64)?;
    discard_and_zero(lab, Disk::aio("d0", backing.path()), false)
}

/// A range in the middle is discarded, another one zeroed; both read as zeroes and their neighbours are untouched.
fn discard_and_zero(lab: &Lab, disk: Disk, must_discard: bool) -> Result<(), Fail> {
    let (daemon, device) = Daemon::start_one(lab, disk)?;
    let direct = DirectDisk::open(&device)?;
    direct.fill(0, 32 * MIB, 0xa5)?;
    let largest = attribute(&device, "queue/discard_max_bytes");
    if must_discard || largest != "0" {
        blkdiscard(&device, &[], 4 * MIB, 3 * MIB + 4096)?;
        direct.expect(4 * MIB, 3 * MIB + 4096, 0)?;
        lab.say("discarded blocks read as zeroes");
    } else {
        lab.say("this backend cannot discard, and does not say that it can");
        direct.fill(4 * MIB, 3 * MIB + 4096, 0)?;
    }
    blkdiscard(&device, &["--zeroout"], 16 * MIB + 4096, 5 * MIB)?;
    direct.expect(16 * MIB + 4096, 5 * MIB, 0)?;
    lab.say("zeroed blocks read as zeroes");
    direct.expect(0, 4 * MIB, 0xa5)?;
    direct.expect(7 * MIB + 4096, 9 * MIB, 0xa5)?;
    direct.expect(21 * MIB + 4096, 11 * MIB - 4096, 0xa5)?;
    drop(direct);
    daemon.stop().map(drop)
}

fn blkdiscard(device: &Path, options: &[&str], offset: u64, len_bytes: u64) -> Result<(), Fail> {
    let range = ["--offset".to_owned(), offset.to_string(), "--length".to_owned(), len_bytes.to_string()];
    // Forced: its check for a file system opens the device exclusively, and the scenario has it open.
    let command = Cmd::new("blkdiscard").arg("--force").args(options.iter().copied()).args(range);
    command.path(device).limit_s(60).run().map(drop)
}

/// Asks for the mask of CPUs that run the interrupt handlers of d0's queues.
fn irq_cpus_are(mask: &str) -> Result<(), Fail> {
    for queue in 0..2 {
        let path = format!("/sys/class/vduse/d0/vq{queue}/irq_cb_affinity");
        let found = text_of(&path);
        ensure!(found.trim() == mask, "{path} is {:?}, not {mask:?}", found.trim());
    }
    Ok(())
}

/// Serial, size, queues and features are what was asked for.
pub(super) fn attributes(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let (daemon, device) = Daemon::start_one(lab, Disk::malloc("d0", 64).set("serial", "ABC-0123456789"))?;
    let expected = [
        ("serial", "ABC-0123456789"),
        ("size", "131072"),
        ("ro", "0"),
        ("queue/logical_block_size", "512"),
        ("queue/write_cache", "write back"),
    ];
    for (name, value) in expected {
        let found = attribute(&device, name);
        ensure!(found == value, "{} of {} is `{found}`, not `{value}`", name, device.display());
    }
    let queues = queue_count(&device);
    ensure!(queues == 2, "{} has {queues} queues, not 2", device.display());
    // CPU 0 alone takes interrupts, because CPU 1 is polled; a new probe of the driver does not change that.
    irq_cpus_are("1")?;
    vdpa::unbind("d0")?;
    vdpa::bind("d0")?;
    irq_cpus_are("1")?;
    daemon.stop().map(drop)
}

/// A read-only disk can be read, and refuses to be written.
pub(super) fn read_only(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let backing = NullBlk::with_memory(lab, "backing", 64)?;
    let disk = Disk::aio("d0", backing.path()).set("read-only", "true");
    let (daemon, device) = Daemon::start_one(lab, disk)?;
    let ro = attribute(&device, "ro");
    ensure!(ro == "1", "{} says ro={ro}", device.display());
    let input = format!("if={}", device.display());
    Cmd::new("dd").args([&input, "of=/dev/null", "bs=64k", "count=16"]).run()?;
    let output = format!("of={}", device.display());
    let write =
        Cmd::new("dd").args(["if=/dev/zero", &output, "bs=4k", "count=1", "conv=notrunc"]).output()?;
    ensure!(
        !write.status.success(),
        "writing to the read-only {} succeeded:\n{}",
        device.display(),
        write.text
    );
    daemon.stop().map(drop)
}

/// Partitions written before the first probe, and after it, appear with the next probe.
pub(super) fn partitions(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let backing = NullBlk::with_memory(lab, "backing", 64)?;
    partition(backing.path(), "2048,32768\n")?;
    let (daemon, device) = Daemon::start_one(lab, Disk::aio("d0", backing.path()))?;
    wait_for_partition(&device, 1)?;
    lab.say("the first probe finds the partition");
    partition(&device, "2048,32768\n40960,32768\n")?;
    vdpa::unbind("d0")?;
    let device = vdpa::bind("d0")?;
    wait_for_partition(&device, 2)?;
    lab.say("the second probe finds the new one");
    daemon.stop().map(drop)
}

fn partition(device: &Path, table: &str) -> Result<(), Fail> {
    let script = format!("printf 'label: dos\\n{}' | sfdisk --no-reread --force", table.replace('\n', "\\n"));
    Cmd::new("sh").args(["-c", &format!("{script} {}", device.display())]).run().map(drop)
}

fn wait_for_partition(device: &Path, number: u32) -> Result<(), Fail> {
    let node = format!("{}{number}", device.display());
    wait_for(&node, 10, || Path::new(&node).exists())
}
