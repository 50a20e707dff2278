//! The tables of registered buffers and files: which slots are taken, and by what. A slot means the same in each
//! io_uring of a core.

use std::io;
use std::os::fd::RawFd;

use io_uring::types;
use tracing::warn;

use super::Ring;

/// Slots for registered buffers, each up to 1 GiB (kernel limit per buffer).
pub(super) const BUFFER_SLOTS: usize = 256;
/// Slots for registered files.
pub(super) const FILE_SLOTS: usize = 512;
/// The kernel's limit for one registered buffer.
const MAX_BUFFER_BYTES: usize = 1 << 30;

/// Index of a buffer in the ring's table of registered buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufId(pub u16);

/// Index of a file in the ring's table of registered files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(pub u32);

/// One registered buffer.
#[derive(Clone, Copy)]
pub(super) struct Buffer {
    pub(super) addr: usize,
    pub(super) len_bytes: usize,
    users: u32,
}

/// Which buffers are registered.
pub(super) struct BufferTable(pub(super) Vec<Option<Buffer>>);

impl BufferTable {
    /// A free slot for a buffer of that length, which it must be able to have.
    pub(super) fn free_slot(&self, len_bytes: usize) -> Option<usize> {
        let fits = len_bytes > 0 && len_bytes <= MAX_BUFFER_BYTES;
        self.0.iter().position(Option::is_none).filter(|_| fits)
    }

    /// Fills a slot that was free, for one user.
    pub(super) fn fill(&mut self, slot: usize, addr: usize, len_bytes: usize) -> Option<BufId> {
        *self.0.get_mut(slot)? = Some(Buffer { addr, len_bytes, users: 1 });
        u16::try_from(slot).ok().map(BufId)
    }

    /// Counts one more user of a buffer that is there already.
    pub(super) fn share(&mut self, addr: usize, len_bytes: usize) -> Option<BufId> {
        let known = |b: &Option<Buffer>| matches!(b, Some(b) if b.addr == addr && b.len_bytes == len_bytes);
        let slot = self.0.iter().position(known)?;
        self.0[slot].as_mut()?.users += 1;
        u16::try_from(slot).ok().map(BufId)
    }

    /// Takes one user off. The slot, when that was the last one.
    pub(super) fn leave(&mut self, id: BufId) -> Option<usize> {
        let slot = usize::from(id.0);
        let buffer = self.0.get_mut(slot)?.as_mut()?;
        buffer.users -= 1;
        if buffer.users > 0 {
            return None;
        }
        self.0[slot] = None;
        Some(slot)
    }
}

impl Ring {
    /// Registers `[addr, addr + len_bytes)` as a fixed buffer, or counts one more user of it when it is registered
    /// already. `None` when the table is full, the buffer too long (1 GiB) or the kernel refuses (lockable
    /// memory): I/O on it then goes without.
    ///
    /// # Safety
    /// The range must be mapped, and stay mapped until the last user released it.
    pub unsafe fn acquire_buffer(&mut self, addr: *mut u8, len_bytes: usize) -> Option<BufId> {
        let addr = addr.expose_provenance();
        if let Some(id) = self.buffers.share(addr, len_bytes) {
            return Some(id);
        }
        let slot = self.buffers.free_slot(len_bytes)?;
        // SAFETY: our caller promises that the range is mapped for as long as it is registered.
        if let Err(e) = unsafe { self.main.set_buffer(slot, addr, len_bytes) } {
            self.refused_buffer(len_bytes, &e);
            return None;
        }
        // SAFETY: as above.
        self.repeat_in_polled(|polled| unsafe { polled.set_buffer(slot, addr, len_bytes) });
        self.buffers.fill(slot, addr, len_bytes)
    }

    /// Once: it would be said again for each queue and each change of its memory.
    fn refused_buffer(&mut self, len_bytes: usize, error: &io::Error) {
        if !std::mem::replace(&mut self.buffer_refused, true) {
            let fix = if error.raw_os_error() == Some(libc::ENOMEM) { "; raise RLIMIT_MEMLOCK" } else { "" };
            warn!(
                "io_uring: cannot register {len_bytes} bytes as a fixed buffer ({error}){fix}; I/O goes without"
            );
        }
    }

    /// Takes one user off a buffer; the last one unregisters it. I/O in flight keeps its pages pinned all the same.
    pub fn release_buffer(&mut self, id: BufId) {
        let Some(slot) = self.buffers.leave(id) else { return };
        // SAFETY: an empty entry names no memory; it clears the slot.
        if let Err(e) = unsafe { self.main.set_buffer(slot, 0, 0) } {
            warn!("io_uring: cannot unregister buffer {slot}: {e}");
        }
        // SAFETY: as above.
        self.repeat_in_polled(|polled| unsafe { polled.set_buffer(slot, 0, 0) });
    }

    /// Registers a file, to stay open until it is unregistered; `None` when the table is full or the kernel refuses, and
    /// the plain descriptor must do.
    pub fn register_file(&mut self, fd: RawFd) -> Option<FileId> {
        let slot = self.files.iter().position(Option::is_none)?;
        let id = u32::try_from(slot).ok()?;
        if let Err(e) = self.main.set_file(slot, fd) {
            warn!("io_uring: cannot register file descriptor {fd}: {e}");
            return None;
        }
        self.files[slot] = Some(fd);
        self.repeat_in_polled(|polled| polled.set_file(slot, fd));
        Some(FileId(id))
    }

    /// Takes a file out of the table; operations in flight keep it open.
    pub fn unregister_file(&mut self, id: FileId) {
        let slot = id.0 as usize;
        if let Err(e) = self.main.set_file(slot, -1) {
            warn!("io_uring: cannot unregister file {slot}: {e}");
        }
        self.repeat_in_polled(|polled| polled.set_file(slot, -1));
        if let Some(file) = self.files.get_mut(slot) {
            *file = None;
        }
    }
}

/// The file of an operation, registered where it could be.
#[derive(Clone, Copy, Debug)]
pub enum RingFile {
    /// An index into the ring's table.
    Registered(FileId),
    /// A plain descriptor.
    Plain(RawFd),
}

/// Builds an SQE with whichever form of file the [`RingFile`] has: `on_file!(file, |f| opcode::Fsync::new(f))`.
#[macro_export]
macro_rules! on_file {
    ($file:expr, |$f:ident| $build:expr) => {
        match $file {
            $crate::RingFile::Registered(id) => {
                let $f = $crate::fixed_file(id);
                $build
            }
            $crate::RingFile::Plain(fd) => {
                let $f = $crate::plain_file(fd);
                $build
            }
        }
    };
}

/// The io_uring crate's form of a registered file.
#[must_use]
pub fn fixed_file(id: FileId) -> types::Fixed {
    types::Fixed(id.0)
}

/// The io_uring crate's form of a plain descriptor.
#[must_use]
pub fn plain_file(fd: RawFd) -> types::Fd {
    types::Fd(fd)
}
