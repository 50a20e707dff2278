//! The disks that must pass: every module by itself, and stacks.

use std::sync::Arc;
use std::time::Duration;

use spinblk_bdev::{Bdev, Delay, Direct, Faulty, IoError, Moved, Rule};
use tempfile::NamedTempFile;

use crate::common::{Disks, Joint, disk_dir, memory_dir};

const KIB: u64 = 1 << 10;
/// A little over a mebibyte, so that zeroing all of a malloc disk takes it more than one step.
const DISK_BYTES: u64 = 1088 * KIB;

/// Makes one disk.
pub(crate) type Make = fn(&mut Disks) -> Arc<dyn Bdev>;

/// A disk to try.
pub(crate) struct Target {
    pub(crate) bdev: Arc<dyn Bdev>,
    /// Whether reads give what was written; zeroes otherwise.
    pub(crate) keeps_data: bool,
    /// How many joints it has; the last is the one on top.
    pub(crate) joints: usize,
    /// Removed with it.
    _files: Vec<NamedTempFile>,
}

impl Target {
    /// A disk as it is.
    pub(crate) fn plain(make: Make) -> Self {
        Self::new(make, &|_, below| below)
    }

    /// A disk with something in its joints.
    pub(crate) fn new(make: Make, joint: Joint) -> Self {
        let mut disks = Disks::new(joint);
        let top = make(&mut disks);
        let keeps_data = top.kind() != "null";
        let bdev = disks.join(top);
        Self { bdev, keeps_data, joints: disks.joints, _files: disks.into_files() }
    }

    /// A disk from elsewhere.
    pub(crate) fn given(bdev: Arc<dyn Bdev>) -> Self {
        Self { bdev, keeps_data: true, joints: 0, _files: Vec::new() }
    }
}

pub(crate) fn null(disks: &mut Disks) -> Arc<dyn Bdev> {
    disks.null(DISK_BYTES)
}

pub(crate) fn malloc_512(disks: &mut Disks) -> Arc<dyn Bdev> {
    disks.malloc(DISK_BYTES, 512)
}

pub(crate) fn malloc_4096(disks: &mut Disks) -> Arc<dyn Bdev> {
    disks.malloc(DISK_BYTES, 4096)
}

pub(crate) fn aio_direct(disks: &mut Disks) -> Arc<dyn Bdev> {
    disks.aio(&disk_dir(), DISK_BYTES, Direct::On, 512)
}

pub(crate) fn aio_direct_4096(disks: &mut Disks) -> Arc<dyn Bdev> {
    disks.aio(&disk_dir(), DISK_BYTES, Direct::On, 4096)
}

pub(crate) fn aio_buffered(disks: &mut Disks) -> Arc<dyn Bdev> {
    disks.aio(&disk_dir(), DISK_BYTES, Direct::Off, 512)
}

pub(crate) fn aio_in_memory(disks: &mut Disks) -> Arc<dyn Bdev> {
    disks.aio(&memory_dir(), DISK_BYTES, Direct::Off, 512)
}

pub(crate) fn raid0_of_two(disks: &mut Disks) -> Arc<dyn Bdev> {
    let children = vec![disks.malloc(512 * KIB, 512), disks.malloc(512 * KIB, 512)];
    disks.raid0(16 * KIB, children)
}

/// Three zones, and children with something left over behind their last chunk.
pub(crate) fn raid0_of_three_unequal(disks: &mut Disks) -> Arc<dyn Bdev> {
    let sizes = [400 * KIB + 512, 96 * KIB + 3584, 555 * KIB];
    let children = sizes.map(|size_bytes| disks.malloc(size_bytes, 512)).to_vec();
    disks.raid0(4 * KIB, children)
}

pub(crate) fn crypto_512(disks: &mut Disks) -> Arc<dyn Bdev> {
    let child = disks.malloc(DISK_BYTES, 512);
    disks.crypto(512, child)
}

pub(crate) fn crypto_4096(disks: &mut Disks) -> Arc<dyn Bdev> {
    let child = disks.malloc(DISK_BYTES, 512);
    disks.crypto(4096, child)
}

/// Strikes nothing.
fn never() -> Rule {
    Rule { per_million: 0, ..Rule::default() }
}

pub(crate) fn delay_that_passes_all_on(disks: &mut Disks) -> Arc<dyn Bdev> {
    let child = malloc_512(disks);
    let child = disks.join(child);
    Arc::new(Delay::new("delay", never(), Duration::from_millis(1), child).unwrap())
}

pub(crate) fn error_that_passes_all_on(disks: &mut Disks) -> Arc<dyn Bdev> {
    let child = malloc_512(disks);
    let child = disks.join(child);
    Arc::new(Faulty::new("error", never(), IoError::Errno(libc::EIO), Moved::Part, child).unwrap())
}

pub(crate) fn crypto_over_raid0_over_aio(disks: &mut Disks) -> Arc<dyn Bdev> {
    let children = (0..2).map(|_| disks.aio(&disk_dir(), 512 * KIB, Direct::On, 512)).collect();
    let stripes = disks.raid0(16 * KIB, children);
    disks.crypto(512, stripes)
}

pub(crate) fn raid0_over_crypto_over_malloc(disks: &mut Disks) -> Arc<dyn Bdev> {
    let children = [512, 4096].map(|sector_bytes| {
        let child = disks.malloc(512 * KIB, 512);
        disks.crypto(sector_bytes, child)
    });
    disks.raid0(8 * KIB, children.to_vec())
}

pub(crate) fn raid0_over_raid0_over_slow_malloc(disks: &mut Disks) -> Arc<dyn Bdev> {
    let slow =
        |child| Arc::new(Delay::new("slow", Rule::default(), Duration::from_micros(5), child).unwrap());
    let halves = [true, false].map(|has_slow_leaf| {
        let leaf: Arc<dyn Bdev> = disks.malloc(256 * KIB, 512);
        let leaf = if has_slow_leaf { slow(leaf) } else { leaf };
        let children = vec![leaf, disks.malloc(320 * KIB, 512)];
        disks.raid0(4 * KIB, children)
    });
    disks.raid0(64 * KIB, halves.to_vec())
}
