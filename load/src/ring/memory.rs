//! The memory that driver and server share: one memfd, mapped here and handed to the server.
//!
//! Hugepages when enough are free. The memory is never given out as a reference: a server may write to it at any time.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use spinblk_reactor::HugepagePool;

use crate::Error;

/// Where the memory starts in the addresses that descriptors use. Not 0 and not the address of the mapping, so that
/// taking one for the other is seen at once.
const GUEST_BASE: u64 = 0x1_0000_0000;

/// Shared memory, zeroed and touched.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    file: File,
    map: MmapRaw,
}

impl SharedMemory {
    pub(crate) fn new(len_bytes: usize) -> Result<Self, Error> {
        if let Some(pool) = HugepagePool::read()
            && pool.pages_for(len_bytes) <= pool.free_pages
            && let Ok(memory) =
                Self::with_flags(len_bytes.next_multiple_of(pool.page_bytes), MFdFlags::MFD_HUGETLB)
        {
            return Ok(memory);
        }
        Self::with_flags(len_bytes, MFdFlags::empty())
    }

    fn with_flags(len_bytes: usize, flags: MFdFlags) -> Result<Self, Error> {
        let failed = |action| move |source| Error::SharedMemory { len_bytes, action, source };
        let fd = memfd_create(c"spinblk-load", flags | MFdFlags::MFD_CLOEXEC)
            .map_err(|e| failed("memfd_create")(e.into()))?;
        let file = File::from(fd);
        file.set_len(len_bytes as u64).map_err(failed("ftruncate"))?;
        let map = MmapOptions::new().len(len_bytes).populate().map_raw(&file).map_err(failed("mmap"))?;
        Ok(Self { file, map })
    }

    /// First byte here.
    pub(crate) fn start(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The address of an offset as descriptors name it.
    pub(crate) fn guest_address(&self, offset: usize) -> u64 {
        GUEST_BASE + offset as u64
    }

    /// The address of an offset as vhost-user names rings: in this process.
    pub(crate) fn user_address(&self, offset: usize) -> u64 {
        (self.start().addr() + offset) as u64
    }
}
