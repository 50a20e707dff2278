//! The in-flight logs of one device: a file on tmpfs that outlives this process, so that the next one can go on.
//!
//! ```text
//!   0        header: whose it is (header.rs), written before the file has its name, never changed
//!   512      driver: 0 nobody, 1 has split rings, 2 has packed rings
//!   4096     queue 0 │ queue 1 │ ...      each a log as vhost-user has them (virtio's InFlightLog)
//! ```
//! # Life
//!
//! Made with the device, before anything can drive it; found again by whoever opens a device that is on the bus; removed
//! when the device is off the bus. A device that is not on the bus is made anew, with a new log. All of it by whoever has
//! the disk's [`Claim`].
//!
//! # Lives of the driver
//!
//! What the queues' logs say counts only for the driver that has the device *now*. The kernel keeps a message that was not
//! answered and sends it to the next process, so each step below may happen twice, and may be cut anywhere:
//!
//! ```text
//!   reset:      queues stopped ──► driver = 0 ──► answered ──► the kernel resets
//!   DRIVER_OK:  driver = 0? then: regions zeroed ──► driver = kind ──► queues start ──► answered
//!   take-over:  driver = 0: nothing runs until DRIVER_OK comes, again or anew
//!               driver = kind: queues that are ready go on where their logs say, those without entries at their start
//! ```
//! So logs of an earlier driver are never looked at: between its end and the next DRIVER_OK `driver` is 0, and then they
//! are zeroed first. And no request is taken without a log of its life, so a log that is still all zeroes means that
//! nothing was taken. Inside a queue's log the order of stores is virtio's affair (`virtio/src/in_flight/`).
//!
//! # Trust
//!
//! The file and its folder must be this user's, out of the reach of others. It is checked all the same before it is used,
//! against accidents: another disk's, cut short, of another version. What a queue's log says is checked as a vhost-user
//! client's is.

mod claim;
mod folder;
mod header;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use spinblk_virtio::blk::BlkQueue;
use spinblk_virtio::{InFlightError, InFlightLog, RingKind};

pub(crate) use self::claim::{Claim, Hold};
use self::folder::Failed;
use self::header::HEADER_BYTES;
pub(crate) use self::header::Identity;
use crate::Error;

/// Where the word stands that says who has the device.
const DRIVER_AT: usize = 512;
/// Where the queues' logs begin.
const QUEUES_AT: usize = 4096;
const _: () = assert!(HEADER_BYTES <= DRIVER_AT);

/// Values of the word at [`DRIVER_AT`].
const NOBODY: u64 = 0;
const SPLIT: u64 = 1;
const PACKED: u64 = 2;

/// The logs of one device, mapped.
pub(crate) struct DeviceLog {
    identity: Identity,
    path: PathBuf,
    hold: Hold,
    mapping: Arc<Mapping>,
}

struct Mapping(MmapRaw);

impl DeviceLog {
    /// Makes an empty log, in place of one that an earlier device of that name may have left.
    pub(crate) fn create(claim: &Claim, identity: Identity) -> Result<Self, Error> {
        let Claim { folder, name, .. } = claim;
        let failed = failed(folder.path(), name);
        let len_bytes = len_bytes(&identity);
        let file = folder.create(name, &identity.to_bytes(), len_bytes).map_err(&failed)?;
        let mapping = map(&file, len_bytes).map_err(&failed)?;
        Ok(Self { identity, path: folder.log_path(name), hold: claim.for_ring(), mapping })
    }

    /// Finds the log of a device that another process made. `None`: it has none.
    pub(crate) fn open(claim: &Claim, identity: Identity) -> Result<Option<Self>, Error> {
        let Claim { folder, name, .. } = claim;
        let failed = failed(folder.path(), name);
        let Some((file, metadata)) = folder.open_log(name).map_err(&failed)? else { return Ok(None) };
        let path = folder.log_path(name);
        let refused = |reason| Error::Log { name: name.clone(), path: path.clone(), reason };
        let mut header = [0; HEADER_BYTES];
        if file.read_exact_at(&mut header, 0).is_err() {
            return Err(refused(format!("is damaged: it has {} bytes only", metadata.len())));
        }
        identity.check(&header).map_err(refused)?;
        let len_bytes = len_bytes(&identity);
        if metadata.len() != len_bytes as u64 {
            return Err(refused(format!(
                "is damaged: it has {} bytes instead of {len_bytes}",
                metadata.len()
            )));
        }
        let mapping = map(&file, len_bytes).map_err(&failed)?;
        let log = Self { identity, path, hold: claim.for_ring(), mapping };
        log.driver()?;
        Ok(Some(log))
    }

    /// Whether to go on with the queues of a process that died. `ready`: the driver has made a queue ready; `kind`: the
    /// format that it chose. If not, nothing is to be started before DRIVER_OK.
    ///
    /// # Errors
    /// [`Error::Log`] when it is damaged, or for rings of the other format.
    pub(crate) fn goes_on(&self, ready: bool, kind: RingKind) -> Result<bool, Error> {
        match self.driver()? {
            None => Ok(false),
            Some(_) if !ready => {
                // Reset while nobody was here to be told.
                self.driver_left();
                Ok(false)
            }
            Some(noted) if noted == kind => Ok(true),
            Some(_) => Err(self.refused("is for rings of the other format".into())),
        }
    }

    /// A driver says DRIVER_OK. If it is a new one, its queues begin with empty logs, and none may run yet.
    ///
    /// # Errors
    /// [`Error::Log`] when it is damaged.
    pub(crate) fn driver_ok(&self, kind: RingKind) -> Result<(), Error> {
        if self.driver()?.is_some() {
            return Ok(());
        }
        let len_bytes = self.mapping.0.len() - QUEUES_AT;
        // SAFETY: behind QUEUES_AT lie the mapped logs, which no queue uses now; nobody has a Rust reference to them.
        unsafe { self.mapping.0.as_mut_ptr().add(QUEUES_AT).write_bytes(0, len_bytes) };
        let word = match kind {
            RingKind::Split => SPLIT,
            RingKind::Packed => PACKED,
        };
        // The zeroes come before it, whoever looks at the file later.
        self.driver_word().store(word, Ordering::Release);
        Ok(())
    }

    /// No driver has the device; its queues are stopped.
    pub(crate) fn driver_left(&self) {
        self.driver_word().store(NOBODY, Ordering::Release);
    }

    /// The log of queue `index`.
    ///
    /// # Errors
    /// [`Error::Log`] when it is damaged.
    pub(crate) fn of_queue(&self, index: u16, kind: RingKind) -> Result<QueueLog, Error> {
        if index >= self.identity.queues {
            return Err(self.refused(format!("has no room for queue {index}")));
        }
        let len_bytes = self.identity.region_len_bytes();
        let start = self.mapping.0.as_mut_ptr().wrapping_add(QUEUES_AT + usize::from(index) * len_bytes);
        let keep = Arc::clone(&self.mapping);
        let refusal = Refusal { name: self.identity.name.clone(), path: self.path.clone(), queue: index };
        // SAFETY: `len_bytes` are mapped for each of `queues` queues, shared and writable, for as long as `mapping` lives,
        // and nothing makes a Rust reference into them.
        match unsafe { InFlightLog::new(kind, start, len_bytes, self.identity.queue_size, keep) } {
            Ok(log) => Ok(QueueLog { log, refusal }),
            Err(source) => Err(refusal.because(source)),
        }
    }

    /// What keeps it claimed for as long as a core's ring has I/O.
    pub(crate) fn hold(&self) -> Hold {
        self.hold.another()
    }

    /// The format of the rings of the driver that has the device; `None`: none has.
    fn driver(&self) -> Result<Option<RingKind>, Error> {
        match self.driver_word().load(Ordering::Acquire) {
            NOBODY => Ok(None),
            SPLIT => Ok(Some(RingKind::Split)),
            PACKED => Ok(Some(RingKind::Packed)),
            other => Err(self.refused(format!("is damaged: it says that driver {other} has the device"))),
        }
    }

    fn refused(&self, reason: String) -> Error {
        Error::Log { name: self.identity.name.clone(), path: self.path.clone(), reason }
    }

    fn driver_word(&self) -> &AtomicU64 {
        // SAFETY: DRIVER_AT is a multiple of 8 inside the mapping, which begins on a page; it is reached through atomics
        // only, the one kind of reference that others may store behind.
        unsafe { AtomicU64::from_ptr(self.mapping.0.as_mut_ptr().add(DRIVER_AT).cast()) }
    }
}

/// The log of one queue, on its way to the queue's reactor.
pub(crate) struct QueueLog {
    log: InFlightLog,
    refusal: Refusal,
}

impl QueueLog {
    /// Joins it to a queue that was not polled yet; returns how many requests that will do again.
    ///
    /// # Errors
    /// [`Error::Log`] when it does not go with the queue's ring.
    pub(crate) fn attach_to(self, queue: &mut BlkQueue) -> Result<usize, Error> {
        queue.attach_log(self.log).map_err(|source| self.refusal.because(source))
    }
}

/// What the error for a queue's log would say.
struct Refusal {
    name: String,
    path: PathBuf,
    queue: u16,
}

impl Refusal {
    fn because(self, source: InFlightError) -> Error {
        let reason = format!("cannot be used for queue {}: {source}", self.queue);
        Error::Log { name: self.name, path: self.path, reason }
    }
}

fn len_bytes(identity: &Identity) -> usize {
    QUEUES_AT + usize::from(identity.queues) * identity.region_len_bytes()
}

/// With all its pages, so that no reactor waits for one.
fn map(file: &File, len_bytes: usize) -> Result<Arc<Mapping>, Failed> {
    let mapped = MmapOptions::new().len(len_bytes).populate().map_raw(file);
    mapped.map(|mapping| Arc::new(Mapping(mapping))).map_err(|e| ("map", e))
}

fn failed(folder: &Path, name: &str) -> impl Fn(Failed) -> Error + use<> {
    let (name, path) = (name.to_owned(), folder.join(format!("{name}.log")));
    move |(action, source)| Error::LogFile { name: name.clone(), path: path.clone(), action, source }
}
