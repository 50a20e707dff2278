//! Who may touch a disk's log: one process at a time, and none before the last I/O of the one before it has ended.
//!
//! ```text
//!   NAME.lock ──flock──► Claim ──► create, open, remove the log; make, take over, destroy the device
//!                          └─────► registered with the io_uring of each queue's core
//! ```
//! A process that is killed leaves reads in the storage, and they still land in the guest's memory when it is gone. Its rings
//! live until those are answered, and with them the files that are registered there. So the lock is free when nothing can come
//! any more. (Images that are written have a lock of their own that lasts as long; images that are only read are shared.)
//!
//! The lock file goes with the log. Whoever locked one that was removed meanwhile has locked nothing, and tries again.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spinblk_reactor::{FileId, Ring};
use tracing::warn;

use super::folder::{Failed, Folder};
use super::{failed, folder};
use crate::Error;

/// How long a claim that another has is waited for, and how often it is tried.
const LIMIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(5);

/// Holds a disk's log against other processes until dropped and out of all rings.
pub(crate) struct Claim {
    pub(super) folder: Folder,
    pub(super) name: String,
    lock: Arc<File>,
}

impl Claim {
    /// Claims the log of disk `name` in the folder at `path`, which is made if need be.
    ///
    /// # Errors
    /// [`Error::LogFile`]: somebody else has it, the name is too long, or the folder cannot be used.
    pub(crate) fn make(path: &Path, name: &str) -> Result<Self, Error> {
        let failed = failed(path, name);
        let too_long = "choose a name of at most 250 bytes, or do without a log (resume = false)";
        if name.len() > folder::MAX_NAME_BYTES {
            return Err(failed(("name", io::Error::other(too_long))));
        }
        let folder = Folder::make(path).map_err(&failed)?;
        Self::lock(folder, name, LIMIT).map_err(failed)
    }

    /// As [`make`](Self::make) where there is such a folder, and may be such a log.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn find(path: &Path, name: &str) -> Result<Option<Self>, Error> {
        let failed = failed(path, name);
        if name.len() > folder::MAX_NAME_BYTES {
            return Ok(None);
        }
        let Some(folder) = Folder::open(path).map_err(&failed)? else { return Ok(None) };
        Self::lock(folder, name, LIMIT).map(Some).map_err(failed)
    }

    pub(super) fn lock(folder: Folder, name: &str, limit: Duration) -> Result<Self, Failed> {
        let deadline = Instant::now() + limit;
        loop {
            let file = folder.open_lock(name)?;
            match file.try_lock() {
                Ok(()) if folder.is_lock(name, &file)? => {
                    return Ok(Self { folder, name: name.into(), lock: Arc::new(file) });
                }
                Ok(()) | Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(RETRY);
                }
                Err(TryLockError::Error(e)) => return Err(("lock", e)),
                Ok(()) | Err(TryLockError::WouldBlock) => {
                    let why = "another process serves this disk, or I/O of one that was killed is still in the storage below";
                    return Err(("lock", io::Error::other(why)));
                }
            }
        }
    }

    /// What a queue takes to its reactor.
    pub(crate) fn for_ring(&self) -> Hold {
        Hold { lock: Arc::clone(&self.lock), id: None }
    }

    /// Removes the log, finished or not, and then the lock. Only of a device that nothing can drive any more.
    ///
    /// # Errors
    /// [`Error::LogFile`].
    pub(crate) fn remove(self) -> Result<(), Error> {
        let Self { folder, name, .. } = &self;
        folder.remove(name).map_err(failed(folder.path(), name))
    }
}

/// A claim that lasts as long as any I/O of a core's ring, even when the process is killed.
pub(crate) struct Hold {
    lock: Arc<File>,
    id: Option<FileId>,
}

impl Hold {
    /// Another one, to take the place of this one without a gap.
    pub(crate) fn another(&self) -> Self {
        Self { lock: Arc::clone(&self.lock), id: None }
    }

    /// Hands it to the ring. Where that has no room, the claim ends with the process.
    pub(crate) fn open(&mut self, ring: &mut Ring) {
        let fd: RawFd = self.lock.as_raw_fd();
        self.id = ring.register_file(fd);
        if self.id.is_none() {
            warn!(
                "a core's io_uring has no room for a log's lock: should this process be killed, the next one does not wait for its reads"
            );
        }
    }

    /// Takes it back, once nothing is in flight that it stands for.
    pub(crate) fn close(&mut self, ring: &mut Ring) {
        if let Some(id) = self.id.take() {
            ring.unregister_file(id);
        }
    }
}
