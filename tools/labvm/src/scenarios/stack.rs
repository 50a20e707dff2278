//! Layers on each other: encryption over stripes over two files, used as people use a disk.

use crate::block::{Mount, allocate_file, check_filesystem, checksums};
use crate::command::Cmd;
use crate::fail::{Fail, ensure};
use crate::fio::FioJob;
use crate::lab::Lab;
use crate::null_blk::NullBlk;
use crate::stack::{Stack, key_file};

const FILE_MIB: u64 = 40;
const JOBS: u32 = 4;
const PART_MIB: u32 = 16;
const CHUNK_BYTES: u64 = 64 << 10;

/// Checksums, then a file system that outlives the daemon.
pub(super) fn vduse(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    key_file()?;
    // ext4 over RAM, because tmpfs would not show direct I/O.
    let backing = NullBlk::with_memory(lab, "backing", 2 * FILE_MIB + 64)?;
    Mount::format(backing.path())?;
    let below = Mount::open(backing.path(), "backing")?;
    let images = ["0.img", "1.img"].map(|name| below.place().join(name));
    for image in &images {
        allocate_file(image, FILE_MIB)?;
    }
    let stack = Stack::new().aio("a", &images[0], "auto").aio("b", &images[1], "auto");
    let stack = stack.raid0("s", &["a", "b"], CHUNK_BYTES).crypto("c", "s", 512).disk("d0", "c");

    let (daemon, device) = stack.start_one(lab, "d0")?;
    let mixed = FioJob::new("mixed", &device, "randwrite", "4k-256k").depth(32).jobs(JOBS, PART_MIB).verify();
    let result = mixed.run(lab)?;
    lab.say(&format!("{} writes and {} reads agree", result.write.total_ios, result.read.total_ios));
    Mount::format(&device)?;
    let mount = Mount::open(&device, "disk")?;
    Cmd::new("cp").args(["-r", "/usr/bin"]).path(mount.place()).limit_s(120).run()?;
    let before = checksums(mount.place())?;
    mount.close()?;
    check_filesystem(&device)?;
    let report = daemon.stop()?;
    let (counted, issued) = (report.disk("d0")?.data_ios(), result.write.total_ios);
    ensure!(counted >= issued, "spinblk counts {counted} requests, fio alone made {issued} writes");

    let (daemon, device) = stack.start_one(lab, "d0")?;
    check_filesystem(&device)?;
    let mount = Mount::open(&device, "disk")?;
    let after = checksums(mount.place())?;
    mount.close()?;
    let count = before.lines().count();
    ensure!(count > 10, "only {count} files were copied");
    ensure!(before == after, "files differ: first\n{before}\nand under the next spinblk\n{after}");
    lab.say(&format!("{count} files are the same under the next spinblk"));
    daemon.stop()?;
    below.close()
}
