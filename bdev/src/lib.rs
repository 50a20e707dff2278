//! Block devices and how they stack.
//!
//! ```text
//!   Bdev      what it is: name, size, limits, what it *really* can do.  One per disk, shared by all cores.
//!     │ open(ring, depth)
//!     ▼
//!   Channel   one core's road into it.  submit(io) ─► done at once, or later in poll() ─► Completion{tag, result}
//! ```
//!
//! # The contract
//!
//! A **bdev** describes itself truthfully: a capability is advertised only when everything below can do it.
//! `open` is called on the reactor's thread; the channel it gives stays there and is closed there.
//!
//! A **channel**
//! - takes an [`Io`] and either finishes it at once (`submit` returns the result) or reports it exactly once from a
//!   later `poll`, by tag. It never does both, never reports a tag that it does not hold, and loses none.
//! - never blocks, allocates or locks once it is open;
//! - is given at most `depth` I/Os at a time, tags below `depth`, each tag in flight once (the caller's duty);
//! - checks every I/O itself ([`Info::check`]): nothing that the caller says can make it touch a block outside the
//!   device. Bad ones end in an [`IoError`]; the device stays usable;
//! - continues short transfers until they are whole or fail. A failed read or write has moved an unknown part of
//!   its data;
//! - promises no order between I/Os in flight together. A flush covers every write *reported* before the flush was
//!   submitted: after it succeeds, these survive a power cut;
//! - reports completions in batches: `poll` appends to a vector with room for `depth` entries.
//!
//! Discarded blocks read as anything until written again; blocks after a write-zeroes read as zeroes.
//!
//! # Backends
//!
//! | module   | what                                    | flush | discard | write-zeroes |
//! |----------|-----------------------------------------|-------|---------|--------------|
//! | `null`   | no data at all                          | yes   | yes     | yes          |
//! | `malloc` | RAM in hugepages, gone at exit          | yes   | yes     | yes          |
//! | `aio`    | file or block device through io_uring   | yes   | probed  | probed       |
//!
//! A new backend is one new file here. It imports the reactor's ring and nothing from above.

mod aio;
mod broken;
mod error;
mod info;
mod io;
mod malloc;
mod null;

pub use aio::{Aio, AioOptions, Direct};
pub use broken::BrokenChannel;
pub use error::{Error, IoError};
pub use info::{Capabilities, Info};
pub use io::{Completion, Io, IoResult, Op, Segment, segments_len_bytes};
pub use malloc::Malloc;
pub use null::{Null, NullReads};
use spinblk_reactor::Ring;

/// A block device: what it is, and the door to it.
pub trait Bdev: Send + Sync {
    /// What it is and can do; fixed for its life.
    fn info(&self) -> &Info;

    /// Opens one core's channel for at most `depth` I/Os at a time. Runs on the core's thread; may allocate.
    ///
    /// # Errors
    /// [`Error`] names the device and what it lacks.
    fn open(&self, ring: &mut Ring, depth: usize) -> Result<Box<dyn Channel>, Error>;
}

/// One core's road into a block device. See the contract at the head of this crate.
pub trait Channel {
    /// Takes one I/O. `Some` means that it is done already; `None` that `poll` will report `io.tag`.
    fn submit(&mut self, io: &Io, ring: &mut Ring) -> Option<IoResult>;

    /// Appends what has completed since the last call to `done`, which has room for `depth` entries.
    fn poll(&mut self, ring: &mut Ring, done: &mut Vec<Completion>);

    /// How many I/Os went through registered (fixed) buffers so far.
    fn fixed_buffer_ios(&self) -> u64 {
        0
    }

    /// Gives back what it registered with the ring; called once, with nothing in flight.
    fn close(&mut self, ring: &mut Ring);
}
