//! The seam between the generator and what it measures.
//!
//! Contract of a [`Lane`]: a slot is prepared only when it is not in flight; every prepared slot is reported by `reap`
//! exactly once, after the `publish` that followed it. No call blocks or allocates once the lane is open.

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

/// A completed request.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// The slot that it was prepared in.
    pub slot: u32,
    /// Why it failed, if it did.
    pub fault: Option<&'static str>,
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

    /// Notifications sent to the device so far.
    fn kicks(&self) -> u64 {
        0
    }
}
