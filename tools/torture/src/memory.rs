//! The memory that client and server share: one memfd, mapped here and handed to each server in turn.
//!
//! Contract: a server may write to it at any time, so it is never given out as a reference but to the virtqueues, whose crate
//! wants it so; data is copied in and out.

use crate::error::Error;
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use vhost::VhostUserMemoryRegionInfo;

/// Zeroes at first. The addresses that servers are told are those of this mapping.
pub(crate) struct Memory {
    file: File,
    map: MmapRaw,
}

impl Memory {
    pub(crate) fn new(len_bytes: usize) -> Result<Memory, Error> {
        let file = memfd_create(c"spinblk-torture", MFdFlags::MFD_CLOEXEC);
        let file = File::from(file.map_err(|e| Error::system("memfd_create")(e.into()))?);
        file.set_len(len_bytes as u64).map_err(Error::system("set the length of the shared memory"))?;
        let map = MmapOptions::new().len(len_bytes).map_raw(&file);
        Ok(Memory { file, map: map.map_err(Error::system("map the shared memory"))? })
    }

    /// The address of a byte.
    pub(crate) fn address(&self, offset: usize) -> u64 {
        self.map.as_ptr().addr() as u64 + offset as u64
    }

    /// As the `vhost` crate puts it.
    pub(crate) fn region(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: self.address(0),
            memory_size: self.map.len() as u64,
            userspace_addr: self.address(0),
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }

    /// The first byte of a range.
    pub(crate) fn pointer(&self, range: &Range<usize>) -> *mut u8 {
        assert!(range.start <= range.end && range.end <= self.map.len(), "{range:?} lies in the memory");
        self.map.as_mut_ptr().wrapping_add(range.start)
    }

    /// Copies bytes to an offset.
    pub(crate) fn put(&self, offset: usize, bytes: &[u8]) {
        let to = self.pointer(&(offset..offset + bytes.len()));
        // SAFETY: `pointer` has checked the range; the source is borrowed and nobody's memory but this process's.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Copies bytes from an offset.
    pub(crate) fn get(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.pointer(&(offset..offset + bytes.len()));
        // SAFETY: as in `put`.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
    }

    /// A word that the server counts with.
    pub(crate) fn word(&self, offset: usize) -> u16 {
        let at = self.pointer(&(offset..offset + 2)).cast::<u16>();
        assert!(at.is_aligned(), "words of rings are aligned");
        // SAFETY: in the memory and aligned, see above; an atomic is the one kind of reference that others may store behind.
        u16::from_le(unsafe { AtomicU16::from_ptr(at) }.load(Ordering::Acquire))
    }
}
