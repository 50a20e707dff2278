//! A file or block device through the core's io_uring: O_DIRECT where the file allows it, straight between the disk and
//! the guest's memory.
//!
//! ```text
//!   target    what the file is and really can do; opened once, shared by all cores
//!     ├─ opening   the steps of opening it, each with what it refuses
//!     ├─ create    makes the file, if it is missing and its size was given
//!     ├─ grow      makes it longer, or finds that it has become so
//!     └─ probe     the questions put to the kernel to learn that
//!   channel   one core's side: slots, completions
//!     ├─ refusal    what becomes of an I/O whose operation failed: its error, or another try
//!     ├─ active     one I/O under way, and its next operation
//!     ├─ transfer   the next operation of a read or write, whole or continued
//!     └─ bounce     copies for I/O whose memory is not aligned for O_DIRECT
//! ```
//!
//! # One road to the file
//! All I/O of a disk takes the same road: all of it O_DIRECT, or all of it through the page cache. An O_DIRECT disk
//! copies I/O in unaligned memory through bounce buffers; it does not send it through the page cache, though that
//! would be simpler: the kernel keeps the two roads coherent only one after the other. In flight together they collide:
//! a buffered write of one sector reads its whole page in, an O_DIRECT write then changes the next sector of it on
//! disk, and writeback of the page puts the old sector back. Where the kernel notices, it fails the next fdatasync with
//! EIO; where not, a write is lost that was acknowledged and flushed.
//!
//! # When the file changes under the disk
//! - It grows: the disk keeps the size that it had until [`Bdev::resize`] looks.
//! - It shrinks: reads beyond its end fail (ENODATA); a write there makes a regular file longer again.
//! - It is unlinked or renamed: the disk goes on with it, for as long as it is open.
//! - It fills up: what needs new blocks fails with [`IoError::NoSpace`](crate::IoError), the rest goes on.
//! - The device goes away: all fails with what the kernel says (EIO, ENXIO, ENODEV).
//!
//! # Polling the device
//! A block device with poll queues (`/sys/block/DEVICE/queue/io_poll` is 1; for NVMe: `nvme.poll_queues=N` on the kernel's
//! command line) completes O_DIRECT reads and writes without interrupts: they go to the polled side of the core's ring,
//! all else to the other. When the kernel refuses that after all, the disk does without for the rest of its life.

mod active;
mod bounce;
mod channel;
mod create;
mod grow;
mod opening;
mod probe;
mod refusal;
mod target;
mod transfer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use channel::AioChannel;
use spinblk_reactor::Ring;
use target::Target;
use tracing::warn;

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

/// Whether reads and writes complete by polling the device instead of by interrupts. Takes O_DIRECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Poll {
    /// On a block device that has poll queues.
    #[default]
    Auto,
    /// On anything, until the kernel refuses. Files on a device with poll queues can do it on some file systems.
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
    /// Whether to poll the device.
    pub poll: Poll,
    /// The size that a regular file must have, in whole blocks (of 4096 bytes, where `block_size` is `None`). A missing one
    /// is created, sparse and for this user alone, unless it is only to be read; one that is there is never changed.
    pub create_bytes: Option<u64>,
}

/// A disk on a regular file or a block device.
#[derive(Debug)]
pub struct Aio {
    info: Info,
    target: Arc<Target>,
    path: PathBuf,
    create_bytes: Option<u64>,
    /// Held while the file is made longer: of two at once, the second could cut off what the first has added.
    resizing: Mutex<()>,
}

impl Aio {
    /// Opens `path` and learns what it can do. The probes leave a file's contents, size and allocation as they were.
    /// A block device opened for writing is taken exclusively: one that is mounted is refused.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::FileInUse`], [`Error::NotStorage`], [`Error::FileTooSmall`], [`Error::BlockSize`],
    /// [`Error::BlockSizeBelowTarget`], [`Error::NoDirect`], [`Error::Option`].
    pub fn open(name: &str, path: impl AsRef<Path>, options: AioOptions) -> Result<Self, Error> {
        let (info, target) = target::open(name, path.as_ref(), options)?;
        let (path, create_bytes) = (path.as_ref().to_owned(), options.create_bytes);
        Ok(Self { info, target: Arc::new(target), path, create_bytes, resizing: Mutex::new(()) })
    }

    /// Whether I/O bypasses the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.target.direct.is_some()
    }

    /// Makes the file as long as was asked for.
    fn lengthen(&self, wanted_bytes: u64) -> Result<(), Error> {
        let file = &self.target.file;
        if grow::is_block_device(file).map_err(self.failed("stat"))? {
            let why = "it is on a block device, which others make larger; then ask without a size";
            return Err(self.info.cannot_resize(why));
        }
        let len_bytes = grow::length_bytes(file).map_err(self.failed("stat"))?;
        grow::check(&self.info, len_bytes, wanted_bytes)?;
        if len_bytes >= wanted_bytes {
            return Ok(());
        }
        grow::lengthen(file, wanted_bytes).map_err(self.failed("make longer"))
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> Error {
        let (name, path) = (self.info.name.clone(), self.path.clone());
        move |source| Error::File { name, action, path, source }
    }
}

impl Bdev for Aio {
    fn info(&self) -> &Info {
        &self.info
    }

    fn kind(&self) -> &'static str {
        "aio"
    }

    /// A regular file is made longer, or looked at anew; a block device is only looked at.
    fn resize(&self, size_bytes: Option<u64>) -> Result<u64, Error> {
        let _one_at_a_time = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wanted_bytes) = size_bytes {
            self.lengthen(wanted_bytes)?;
        }
        let len_bytes = grow::length_bytes(&self.target.file).map_err(self.failed("read the size of"))?;
        let size_bytes = self.info.grow_with(len_bytes)?;
        if let Some(create_bytes) = self.create_bytes.filter(|&bytes| bytes != size_bytes) {
            let name = &self.info.name;
            warn!(
                "bdev {name}: has {size_bytes} bytes now; its create_size of {create_bytes} would be refused: change it"
            );
        }
        Ok(size_bytes)
    }

    fn open(&self, ring: &mut Ring, depth: usize) -> Result<Box<dyn Channel>, Error> {
        let channel = AioChannel::open(&self.info, Arc::clone(&self.target), ring, depth)
            .map_err(|source| Error::Reactor { name: self.info.name.clone(), source })?;
        Ok(Box::new(channel))
    }
}
