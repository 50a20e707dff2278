//! A disk of spinblk inside of a container: checksums and a file system, through io_uring under the profile of system calls
//! that users are given, and nothing but that disk.

use crate::block::attribute;
use crate::container::Container;
use crate::fail::{Fail, ensure};
use crate::fio::FioJob;
use crate::lab::Lab;
use crate::scenarios::demo::say_where;
use crate::spinblk::{Daemon, Disk};
use crate::vdpa;
use std::path::Path;

const PART_MIB: u32 = 40;
const JOBS: u32 = 2;
const DISK_MIB: u64 = (PART_MIB * JOBS) as u64;
/// What /proc/self/status says under a filter of system calls.
const FILTERED: &str = "Seccomp:\t2";

pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let daemon = Daemon::start(lab, "1", &[Disk::malloc("d0", DISK_MIB), Disk::malloc("neighbour", 16)])?;
    let (device, neighbour) = (vdpa::block_device("d0")?, vdpa::block_device("neighbour")?);
    let locked = daemon.locked_memory();
    ensure!(!matches!(locked.as_str(), "" | "0 kB"), "spinblk has locked {locked:?} of its memory");
    let container = Container::over(&device)?;

    let job = FioJob::new("verify", &device, "randwrite", "4k-256k").depth(32).jobs(JOBS, PART_MIB).verify();
    let result = job.run_in(lab, &container)?;
    let (written, read) = (result.write.io_bytes, result.read.io_bytes);
    ensure!(written >= DISK_MIB << 20, "fio wrote only {written} bytes of {DISK_MIB} MiB");
    ensure!(read >= written, "fio wrote {written} bytes and read only {read} back");
    lab.say(&format!("{} writes and {} reads agree", result.write.total_ios, result.read.total_ios));

    only_this_disk(&container, &device, &neighbour)?;
    let disk = device.display();
    // Mounting is an administrator's work even inside of a container.
    container.shell(
        &format!(
            "/usr/bin/mke2fs -q -F -t ext4 {disk}; mount -t ext4 {disk} /mnt
             cp /usr/bin/fio /usr/bin/e2fsck /mnt; umount /mnt; /usr/bin/e2fsck -f -n {disk}
             mount -t ext4 -o ro {disk} /mnt
             cmp /usr/bin/fio /mnt/fio; cmp /usr/bin/e2fsck /mnt/e2fsck; umount /mnt"
        ),
        &["CAP_SYS_ADMIN"],
    )?;
    lab.say("a file system made, filled, checked and read in the container");

    let report = daemon.stop()?;
    let (issued, counted) = (result.write.total_ios, report.disk("d0")?.data_ios());
    ensure!(counted >= issued, "spinblk counts {counted} requests, fio alone made {issued} writes");
    Ok(())
}

/// The container is one: a filter is active, and a disk that was not passed in cannot be read, whatever node is made for it.
fn only_this_disk(container: &Container, device: &Path, neighbour: &Path) -> Result<(), Fail> {
    let status = container.shell("cat /proc/self/status", &[])?;
    ensure!(status.lines().any(|line| line == FILTERED), "no filter of system calls is active:\n{status}");
    for (disk, expected) in [(device, "read\n"), (neighbour, "refused\n")] {
        let numbers = attribute(disk, "dev").replace(':', " ");
        let read = "dd if=/dev/new of=/dev/null bs=4096 count=1 && echo read || echo refused";
        let said = container.shell(&format!("mknod /dev/new b {numbers}; {read}"), &["CAP_MKNOD"])?;
        ensure!(said.ends_with(expected), "{} through a node of the container's own: {said}", disk.display());
    }
    Ok(())
}

/// The same for show: what fio and spinblk say.
pub(super) fn demo(lab: &mut Lab) -> Result<(), Fail> {
    let seconds = lab.setting("seconds", 5)?;
    lab.load_vduse()?;
    let (mut daemon, device) = Daemon::start_one(lab, Disk::malloc("demo", 256))?;
    let container = Container::over(&device)?;
    for rw in ["randread", "randwrite"] {
        lab.say(&format!("fio in a container (crun): {rw} 4k, 32 deep, {seconds} s"));
        FioJob::new(rw, &device, rw, "4k").depth(32).seconds(seconds).run_aloud_in(&container)?;
    }
    let before = daemon.text();
    let log = daemon.stop_and_read()?;
    println!("spinblk, at its end:\n{}", log.strip_prefix(&before).unwrap_or(&log));
    say_where(lab, "spinblk's reactor on CPU 1, fio in a container")
}
