//! One file of the client, mapped: checked before, guarded while, unmapped after.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

use libc::c_void;
use nix::sys::eventfd::EventFd;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};

use crate::guard::Guard;

/// File systems whose pages the kernel itself brings in. With others (FUSE above all) whoever serves them decides how
/// long a reactor waits for a page.
const TRUSTED: [FsType; 5] =
    [TMPFS_MAGIC, HUGETLBFS_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];

/// A shared mapping of a stretch of a file, whole pages around it.
pub(crate) struct Mapping {
    base: NonNull<c_void>,
    len_bytes: usize,
    /// Where the stretch begins in the mapping.
    lead_bytes: usize,
    guard: Option<Guard>,
}

// SAFETY: an address and a length; the memory is reached only through raw pointers, by queues that follow the virtio
// protocol.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared mapping gives out addresses only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `[offset, offset + len_bytes)` of `file`. `wake` is written to if the memory goes away later.
    ///
    /// # Errors
    /// What is wrong with the file, as the end of a sentence about the memory.
    pub(crate) fn new(file: &File, offset: u64, len_bytes: u64, wake: &Arc<EventFd>) -> Result<Self, String> {
        let file_bytes = file.metadata().map_err(|e| format!("has a file that tells nothing: {e}"))?.len();
        let end = offset.checked_add(len_bytes).ok_or("wraps around")?;
        if end > file_bytes {
            return Err(format!("ends at byte {end} of a file of {file_bytes} bytes"));
        }
        let page = page_bytes(file)?;
        let first = offset / page * page;
        let whole_bytes = end.next_multiple_of(page) - first;
        let whole = usize::try_from(whole_bytes).ok().and_then(NonZeroUsize::new).ok_or("is empty")?;
        let at = i64::try_from(first).map_err(|_| "lies too far out in its file")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing of ours.
        let base = unsafe { mmap(None, whole, protection, MapFlags::MAP_SHARED, file.as_fd(), at) }
            .map_err(|e| format!("cannot be mapped readable and writable: {e}"))?;
        // SAFETY: the range is the mapping just made. It is unmapped in `drop`, after the guard is gone, and reached
        // through raw pointers only.
        let guard = unsafe { Guard::new(base.as_ptr(), whole.get(), wake) };
        Ok(Self { base, len_bytes: whole.get(), lead_bytes: (offset - first) as usize, guard })
    }

    /// The first byte of the stretch that was asked for.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr().cast::<u8>().wrapping_add(self.lead_bytes)
    }

    /// Whether the file no longer holds what is mapped.
    pub(crate) fn is_gone(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::has_faulted)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: the mapping that `new` made, whole; whoever used it held an `Arc` of this.
        if let Err(e) = unsafe { munmap(self.base, self.len_bytes) } {
            tracing::error!("cannot unmap {} bytes of client memory: {e}", self.len_bytes);
        }
    }
}

/// The unit in which the file can be mapped: its hugepages, or ordinary pages.
fn page_bytes(file: &File) -> Result<u64, String> {
    let kind = fstatfs(file).map_err(|e| format!("has a file system that tells nothing: {e}"))?;
    if !TRUSTED.contains(&kind.filesystem_type()) {
        let magic = kind.filesystem_type().0;
        return Err(format!("lies on a file system of type {magic:#x}; use a memfd, /dev/shm or hugetlbfs"));
    }
    let bytes = if kind.filesystem_type() == HUGETLBFS_MAGIC {
        u64::try_from(kind.block_size()).unwrap_or(0)
    } else {
        spinblk_reactor::page_bytes() as u64
    };
    if bytes.is_power_of_two() { Ok(bytes) } else { Err(format!("has pages of {bytes} bytes")) }
}
