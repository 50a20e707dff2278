//! A file or block device through the core's io_uring: O_DIRECT where the file allows it, straight between the disk and
//! the guest's memory.
//!
//! ```text
//!   target    what the file is and really can do; opened once, shared by all cores
//!     └─ probe   the questions put to the kernel to learn that
//!   channel   one core's side: slots, completions, retries
//!     ├─ transfer   the next operation of a read or write, whole or continued
//!     └─ bounce     aligned memory for I/O whose own is not aligned for O_DIRECT
//! ```
//!
//! # One road to the file
//! All I/O of a disk takes the same road: all of it O_DIRECT, or all of it through the page cache. An O_DIRECT disk
//! copies I/O in unaligned memory through bounce buffers; it does not send it through the page cache, though that
//! would be simpler: the kernel keeps the two roads coherent only one after the other. In flight together they collide:
//! a buffered write of one sector reads its whole page in, an O_DIRECT write then changes the next sector of it on
//! disk, and writeback of the page puts the old sector back. Where the kernel notices, it fails the next fdatasync with
//! EIO; where not, a write is lost that was acknowledged and flushed.

mod bounce;
mod channel;
mod probe;
mod target;
mod transfer;

use std::path::Path;
use std::sync::Arc;

use channel::AioChannel;
use spinblk_reactor::Ring;
use target::Target;

use crate::{Bdev, Channel, Error, Info};

/// Whether the page cache is bypassed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direct {
    /// Where the file allows it.
    #[default]
    Auto,
    /// Always; a file that does not allow it is refused.
    On,
    /// Never.
    Off,
}

/// How to open a file as a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AioOptions {
    /// Open it for reading only.
    pub read_only: bool,
    /// Whether to use O_DIRECT.
    pub direct: Direct,
    /// Logical block size in bytes; `None` takes the target's own, for a file the least that O_DIRECT takes.
    pub block_size: Option<u32>,
}

/// A disk on a regular file or a block device.
#[derive(Debug)]
pub struct Aio {
    info: Info,
    target: Arc<Target>,
}

impl Aio {
    /// Opens `path` and learns what it can do. The probes leave a file's contents, size and allocation as they were.
    /// A block device opened for writing is taken exclusively: one that is mounted is refused.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::NotStorage`], [`Error::FileTooSmall`], [`Error::BlockSize`],
    /// [`Error::BlockSizeBelowTarget`], [`Error::NoDirect`].
    pub fn open(name: &str, path: impl AsRef<Path>, options: AioOptions) -> Result<Self, Error> {
        let (info, target) = target::open(name, path.as_ref(), options)?;
        Ok(Self { info, target: Arc::new(target) })
    }

    /// Whether I/O bypasses the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.target.direct.is_some()
    }
}

impl Bdev for Aio {
    fn info(&self) -> &Info {
        &self.info
    }

    fn open(&self, ring: &mut Ring, depth: usize) -> Result<Box<dyn Channel>, Error> {
        let channel = AioChannel::open(&self.info, Arc::clone(&self.target), ring, depth)
            .map_err(|source| Error::Reactor { name: self.info.name.clone(), source })?;
        Ok(Box::new(channel))
    }
}
