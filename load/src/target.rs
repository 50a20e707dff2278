//! The seam between the generator and what it measures.
//!
//! Contract of a [`Lane`]: a slot is prepared only when it is not in flight; every prepared slot is reported by `reap`
//! exactly once, after the `publish` that followed it. No call blocks or allocates once the lane is open. A lane is
//! polled; it interrupts only between `arm` and `disarm`, and only where [`Geometry::interrupts`] says that it can.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::{Buffer, Error};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Device to memory.
    Read,
    /// Memory to device.
    Write,
}

impl Op {
    /// Its name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Why a request failed. One byte, because there is one in each completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A virtio status: IOERR.
    StatusIoerr,
    /// A virtio status: UNSUPP.
    StatusUnsupp,
    /// No virtio status.
    NoStatus,
    /// It reaches beyond the end of the device.
    OutOfRange,
    /// It does not fit the block size.
    Misaligned,
    /// It would write to a device that is read-only.
    ReadOnly,
    /// The device cannot do it.
    Unsupported,
    /// The device is full.
    NoSpace,
    /// The kernel says EIO.
    Eio,
    /// The kernel says anything else.
    OtherErrno,
}

impl Fault {
    /// For messages.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::StatusIoerr => "I/O error (status IOERR)",
            Self::StatusUnsupp => "not supported (status UNSUPP)",
            Self::NoStatus => "the device wrote no status",
            Self::OutOfRange => "range beyond the end of the device",
            Self::Misaligned => "offset or length not a multiple of the block size",
            Self::ReadOnly => "device is read-only",
            Self::Unsupported => "operation not supported",
            Self::NoSpace => "no space left on the target",
            Self::Eio => "I/O error (EIO)",
            Self::OtherErrno => "I/O error",
        }
    }
}

/// A completed request.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// The slot that it was prepared in.
    pub slot: u32,
    /// Why it failed, if it did.
    pub fault: Option<Fault>,
}

/// What a target is like.
#[derive(Clone, Debug)]
pub struct Geometry {
    /// Its name in messages: `vhost-user:/run/d0.sock`.
    pub name: Arc<str>,
    /// Its size.
    pub size_bytes: u64,
    /// Its logical block size; offsets and lengths are multiples of it.
    pub block_size: u32,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Queues that it offers.
    pub max_queues: u16,
    /// Requests that one queue can hold.
    pub max_depth: u32,
    /// Whether its lanes can interrupt, so that a thread may sleep meanwhile.
    pub interrupts: bool,
}

/// Something that can be put under load.
pub trait Target: Sync {
    /// One of its queues.
    type Lane: Lane;

    /// What it is like.
    fn geometry(&self) -> &Geometry;

    /// Opens a queue for `depth` requests of at most `block_bytes` each. Runs on the thread that will poll it; every
    /// index is opened once.
    ///
    /// # Errors
    /// [`Error`] says what the target lacks.
    fn open(&self, queue: u16, depth: u32, block_bytes: u32) -> Result<Self::Lane, Error>;

    /// Looks whether the target still lives; called a few times a second, from another thread.
    ///
    /// # Errors
    /// [`Error::Gone`].
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// One queue under load. See the contract at the head of this module.
pub trait Lane {
    /// Writes the request of a slot; the device may see it from now on, and does after [`publish`](Self::publish).
    fn prepare(&mut self, slot: u32, op: Op, offset_bytes: u64);

    /// Shows the device all that was prepared.
    ///
    /// # Errors
    /// [`Error`] when it cannot be told.
    fn publish(&mut self) -> Result<(), Error>;

    /// Appends what has completed to `done`, which has room for every slot.
    ///
    /// # Errors
    /// [`Error::Ring`] when the device broke the rules, and the lane is of no more use.
    fn reap(&mut self, done: &mut Vec<Done>) -> Result<(), Error>;

    /// The memory of a slot.
    fn buffer(&mut self, slot: u32) -> Buffer<'_>;

    /// Asks for an interrupt with the next completion. False when something has completed already, for which no
    /// interrupt may come: then reap, and do not sleep.
    fn arm(&mut self) -> bool {
        false
    }

    /// Asks for no more interrupts.
    fn disarm(&mut self) {}

    /// What becomes readable with each interrupt, and stays so.
    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Interrupts since the last call. Nobody may sleep meanwhile: it makes the descriptor unreadable.
    fn take_interrupts(&mut self) -> u64 {
        0
    }

    /// Notifications sent to the device so far.
    fn kicks(&self) -> u64 {
        0
    }
}
