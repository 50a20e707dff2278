//! Memory for disks and bounce regions: hugepages where there are any, ordinary pages where not.
//!
//! Hugepages save page-table walks and let the kernel pin a region in a few entries. The hugepage allocator is the
//! `hugepage-rs` crate; it returns null when the pool is empty and panics where the kernel has no hugepage size at
//! all, so the pool is looked at first. Both kinds come zeroed and are unmapped on drop.

use std::alloc::Layout;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use tracing::warn;

use crate::Error;

const MEMINFO: &str = "/proc/meminfo";

/// Whether memory is to come from the hugepage pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// From the pool when it has enough free pages, else ordinary pages with a warning.
    #[default]
    Try,
    /// From the pool, or fail.
    Require,
    /// Ordinary pages.
    Off,
}

/// The machine's pool of default-sized hugepages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugepagePool {
    /// Size of one page in bytes.
    pub page_bytes: usize,
    /// Pages free, reserved ones not counted.
    pub free_pages: usize,
}

impl HugepagePool {
    /// The pool's state now; `None` where the kernel has no hugepages.
    #[must_use]
    pub fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string(MEMINFO).ok()?)
    }

    fn parse(meminfo: &str) -> Option<Self> {
        let field = |name: &str| -> Option<usize> {
            let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
            rest.trim_start_matches(':').split_whitespace().next()?.parse().ok()
        };
        let page_bytes = field("Hugepagesize")?.checked_mul(1024)?;
        let free_pages = field("HugePages_Free")?.saturating_sub(field("HugePages_Rsvd").unwrap_or(0));
        (page_bytes > 0).then_some(Self { page_bytes, free_pages })
    }

    /// Pages needed for `len_bytes`.
    #[must_use]
    pub fn pages_for(&self, len_bytes: usize) -> usize {
        len_bytes.div_ceil(self.page_bytes)
    }
}

#[derive(Debug)]
enum Kind {
    Huge(Layout),
    Ordinary,
}

/// A zeroed, page-aligned region of anonymous memory, touched (so that no fault comes later) and owned.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<u8>,
    len_bytes: NonZeroUsize,
    kind: Kind,
}

// SAFETY: the region is plain memory with no thread affinity; all access goes through raw pointers whose users
// synchronise it themselves.
unsafe impl Send for Memory {}
// SAFETY: as above: a shared reference gives out nothing but the address and length.
unsafe impl Sync for Memory {}

impl Memory {
    /// Allocates `len_bytes` (rounded up to whole pages). `purpose` names the user in messages: `"disk d0"`.
    ///
    /// # Errors
    /// [`Error::NoHugepages`] when they are required and too few are free; [`Error::NoMemory`] when the kernel refuses.
    pub fn new(len_bytes: usize, hugepages: Hugepages, purpose: &str) -> Result<Self, Error> {
        let rounded = len_bytes.max(1).checked_next_multiple_of(page_bytes());
        let Some(len) = rounded.and_then(NonZeroUsize::new) else {
            return Err(Error::NoMemory { purpose: purpose.into(), len_bytes, source: nix::Error::ENOMEM });
        };
        if hugepages != Hugepages::Off {
            let pool = HugepagePool::read();
            if let Some(memory) = pool.and_then(|pool| Self::huge(len, pool)) {
                return Ok(memory);
            }
            let (need_pages, free_pages) =
                pool.map_or((0, 0), |pool| (pool.pages_for(len.get()), pool.free_pages));
            if hugepages == Hugepages::Require {
                return Err(Error::NoHugepages { purpose: purpose.into(), need_pages, free_pages });
            }
            warn!(
                "{purpose}: {free_pages} hugepages free, {need_pages} needed: using ordinary pages (more TLB misses, \
                 slower pinning); fix: sysctl vm.nr_hugepages=N"
            );
        }
        Self::ordinary(len, purpose)
    }

    /// Address of the first byte; page-aligned.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Length in bytes, a multiple of the page size.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes.get()
    }

    /// Whether the region lies in hugepages.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        matches!(self.kind, Kind::Huge(_))
    }

    fn huge(len: NonZeroUsize, pool: HugepagePool) -> Option<Self> {
        if pool.pages_for(len.get()) > pool.free_pages {
            return None;
        }
        let layout = Layout::from_size_align(len.get(), pool.page_bytes).ok()?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { hugepage_rs::alloc(layout) })?;
        let memory = Self { start, len_bytes: len, kind: Kind::Huge(layout) };
        memory.touch(pool.page_bytes);
        Some(memory)
    }

    fn ordinary(len: NonZeroUsize, purpose: &str) -> Result<Self, Error> {
        let refused = |source| Error::NoMemory { purpose: purpose.into(), len_bytes: len.get(), source };
        let flags = MapFlags::MAP_PRIVATE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }
            .map_err(refused)?;
        // SAFETY: the range was mapped just above. A refusal costs speed only.
        let _ = unsafe { madvise(start, len.get(), MmapAdvise::MADV_HUGEPAGE) };
        let memory = Self { start: start.cast(), len_bytes: len, kind: Kind::Ordinary };
        // Touching more than there is would wake the OOM killer: the kernel says so here instead.
        // SAFETY: as above.
        unsafe { madvise(start, len.get(), MmapAdvise::MADV_POPULATE_WRITE) }.map_err(refused)?;
        Ok(memory)
    }

    fn touch(&self, stride_bytes: usize) {
        for offset in (0..self.len_bytes()).step_by(stride_bytes) {
            // SAFETY: offset < len_bytes, and the region is mapped writable and not shared with anyone yet.
            unsafe { self.as_ptr().add(offset).write_volatile(0) };
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.kind {
            // SAFETY: allocated by `hugepage_rs::alloc` with this very layout.
            Kind::Huge(layout) => unsafe { hugepage_rs::dealloc(self.as_ptr(), layout) },
            Kind::Ordinary => {
                // SAFETY: mapped by `ordinary` with this length, and unmapped only here.
                if let Err(e) = unsafe { munmap(self.start.cast(), self.len_bytes()) } {
                    warn!("munmap of {} bytes: {e}", self.len_bytes());
                }
            }
        }
    }
}

/// The machine's page size in bytes.
#[must_use]
pub fn page_bytes() -> usize {
    // SAFETY: sysconf reads a constant.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_read_or_absent() {
        let text = "HugePages_Total:      10\nHugePages_Free:        7\nHugePages_Rsvd:        2\nHugepagesize:       2048 kB\n";
        assert_eq!(HugepagePool::parse(text), Some(HugepagePool { page_bytes: 2 << 20, free_pages: 5 }));
        assert_eq!(HugepagePool::parse("MemTotal: 5 kB\n"), None);
        let pool = HugepagePool { page_bytes: 2 << 20, free_pages: 1 };
        assert_eq!((pool.pages_for(1), pool.pages_for(2 << 20), pool.pages_for((2 << 20) + 1)), (1, 1, 2));
    }

    #[test]
    fn memory_is_zeroed_aligned_and_writable() {
        let memory = Memory::new(5000, Hugepages::Try, "test").unwrap();
        assert_eq!(memory.len_bytes() % page_bytes(), 0);
        assert!(memory.len_bytes() >= 5000);
        assert_eq!(memory.as_ptr().addr() % page_bytes(), 0);
        // SAFETY: the region is ours alone and len_bytes long.
        let bytes = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.len_bytes()) };
        assert!(bytes.iter().all(|&b| b == 0));
        bytes[4999] = 1;
    }

    #[test]
    fn requiring_more_hugepages_than_there_are_is_an_error() {
        let error = Memory::new(1 << 46, Hugepages::Require, "disk big").unwrap_err();
        assert!(error.to_string().contains("disk big"), "{error}");
    }

    #[test]
    fn more_memory_than_there_is_is_an_error_and_no_crash() {
        assert!(Memory::new(usize::MAX - 10, Hugepages::Off, "too big").is_err());
        assert!(Memory::new(1 << 46, Hugepages::Off, "too big").is_err());
    }
}
