//! One layout, two drivers: what the kernel's own one writes, spinblk reads, and the other way round, everywhere.

use crate::block::DirectDisk;
use crate::fail::{Fail, ensure};
use crate::fio::FioJob;
use crate::kernel_driver::KernelDriver;
use crate::lab::Lab;
use crate::loop_device::Loop;
use crate::null_blk::NullBlk;
use crate::pattern::Pattern;
use crate::stack::{Stack, key_file};
use std::path::Path;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const CHUNKS: [u64; 3] = [4 * KIB, 64 * KIB, 512 * KIB];
/// The children's sizes. The last ones make three zones and end inside a chunk of any size. The smallest of them has an
/// odd number of whole ones, so that the layout that kernels before 3.14 wrote would be another.
const CHILDREN: [&[u64]; 3] = [&[2 * MIB; 2], &[2 * MIB; 3], &[3079 * KIB, 1605 * KIB, 2114 * KIB]];
const NAMES: [&str; 3] = ["child0", "child1", "child2"];

const BY_KERNEL: Pattern = Pattern(1);
const BY_SPINBLK: Pattern = Pattern(2);

/// AES-256-XTS as dm-crypt has it, in sectors of either size.
pub(super) fn crypto(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    lab.modprobe(&["dm_crypt", "xts", "aesni_intel"])?;
    let key = key_file()?;
    for sector_bytes in [512, 4096] {
        let backing = NullBlk::with_memory(lab, "backing", 16)?;
        let stack =
            Stack::new().aio("a", backing.path(), "auto").crypto("c", "a", sector_bytes).disk("d0", "c");
        both_ways(lab, &stack, || KernelDriver::crypt(backing.path(), key, sector_bytes))?;
        // What lies below must not look like what is seen above.
        let below = BY_SPINBLK.expect(&DirectDisk::open(backing.path())?, 0..4 * KIB);
        ensure!(below.is_err(), "{} holds data that is not encrypted", backing.path().display());
        lab.say(&format!("sectors of {sector_bytes} bytes: dm-crypt and spinblk agree"));
    }
    Ok(())
}

/// Stripes as `mdadm --build` makes them, over equal and unequal children.
pub(super) fn raid0(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    lab.modprobe(&["raid0"])?;
    for sizes in CHILDREN {
        for chunk_bytes in CHUNKS {
            let create = |(name, size): (&&str, &u64)| Loop::create(lab, Path::new("/tmp"), name, *size);
            let loops = NAMES.iter().zip(sizes).map(create).collect::<Result<Vec<Loop>, Fail>>()?;
            let children: Vec<&Path> = loops.iter().map(Loop::path).collect();
            let names = &NAMES[..children.len()];
            let leaves = names.iter().zip(&children);
            let stack = leaves.fold(Stack::new(), |stack, (name, path)| stack.aio(name, path, "auto"));
            let stack = stack.raid0("s", names, chunk_bytes).disk("d0", "s");
            both_ways(lab, &stack, || KernelDriver::raid0(&children, chunk_bytes))?;
            lab.say(&format!("chunks of {} KiB over {sizes:?}: md and spinblk agree", chunk_bytes / KIB));
        }
    }
    Ok(())
}

/// The kernel writes it all, spinblk reads it and writes anew, the kernel reads that.
fn both_ways(
    lab: &Lab,
    stack: &Stack,
    kernel_driver: impl Fn() -> Result<KernelDriver, Fail>,
) -> Result<(), Fail> {
    let reference = kernel_driver()?;
    let disk = DirectDisk::open(reference.path())?;
    let size_bytes = disk.size_bytes()?;
    BY_KERNEL.write(&disk, 0..size_bytes)?;
    drop(disk);
    reference.close()?;

    let (daemon, device) = stack.start_one(lab, "d0")?;
    let disk = DirectDisk::open(&device)?;
    let found_bytes = disk.size_bytes()?;
    ensure!(found_bytes == size_bytes, "{found_bytes} bytes under spinblk, {size_bytes} under the kernel");
    BY_KERNEL.expect(&disk, 0..size_bytes)?;
    let middle = size_bytes / 2 / (4 * KIB) * (4 * KIB);
    BY_SPINBLK.write(&disk, 0..middle)?;
    // Many at once, from the middle on.
    let fio = FioJob::new("many", &device, "randwrite", "4k-256k").depth(16);
    fio.set("offset", middle).set("size", size_bytes - middle).verify().run(lab)?;
    let written = disk.fingerprint()?;
    drop(disk);
    daemon.stop()?;

    let reference = kernel_driver()?;
    let disk = DirectDisk::open(reference.path())?;
    BY_SPINBLK.expect(&disk, 0..middle)?;
    let read = disk.fingerprint()?;
    ensure!(read == written, "{} differs from what spinblk served", reference.path().display());
    drop(disk);
    reference.close()
}
