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
//! - is given at most `depth` I/Os at a time, tags below `depth`, each tag in flight once (the caller's duty). That is all
//!   the back-pressure there is: within it, "busy" is no answer; what runs short of something waits inside;
//! - checks every I/O itself ([`Info::check`]): nothing that the caller says can make it touch a block outside the
//!   device. Bad ones end in an [`IoError`]; the device stays usable;
//! - takes I/O of any length and alignment of memory, across any boundary of its own: what it cannot pass on whole it
//!   splits. It takes [`MAX_SEGMENTS`] segments; more it may take or refuse ([`IoError::TooManySegments`]);
//! - continues short transfers until they are whole or fail. A failed read or write has moved an unknown part of
//!   its data, and a failed I/O says nothing about its neighbours: they end as they would have without it;
//! - reports completions in batches: `poll` appends to a vector with room for `depth` entries;
//! - is closed when nothing is in flight. Dropped earlier (a thread that unwinds), it leaks what the kernel may still
//!   write to.
//!
//! **Order and durability.** There is no order between I/Os in flight together, and of two that overlap any mixture may
//! stay. A read sees every write *reported* before it was submitted, by whichever channel. A write is atomic in no more
//! than one logical block, and there only as far as the target's own sector writes are. A flush covers every write
//! reported before the flush was submitted: after it succeeds, these survive a power cut. There is no FUA: nothing but a
//! flush makes durable.
//!
//! **Discard and write-zeroes.** Discarded blocks read as anything until written again, blocks after a write-zeroes as
//! zeroes. Both may be of any length, and flushes cover them as they do writes.
//!
//! **Size.** It can grow while channels are open ([`Bdev::resize`]) and never gets smaller. Once `resize` has returned, every
//! channel takes I/O in the new part, whatever the target holds there; before, it answers [`IoError::OutOfRange`]. What
//! lies in the old part stays as it is. A flush covers the new size too.
//!
//! # Backends
//!
//! | module   | what                                          | flush      | discard    | write-zeroes | grows      |
//! |----------|-----------------------------------------------|------------|------------|--------------|------------|
//! | `null`   | no data at all                                | yes        | yes        | yes          | yes        |
//! | `malloc` | RAM in hugepages, gone at exit                | yes        | yes        | yes          | no         |
//! | `aio`    | file or block device through io_uring         | yes        | probed     | probed       | as it does |
//! | `raid0`  | stripes over children, as Linux md lays them  | children's | children's | children's   | no         |
//! | `crypto` | AES-256-XTS, as dm-crypt lays it              | child's    | if allowed | no           | as child   |
//! | `delay`  | holds I/Os back, for tests                    | child's    | child's    | child's      | as child   |
//! | `error`  | fails I/Os on purpose, for tests              | child's    | child's    | child's      | as child   |
//!
//! A new backend is one new file here. It imports the reactor's ring and nothing from above; one that stands on
//! others owns their channels and knows them by these two traits only. docs/WRITE_A_BDEV.md is a walk through one.

mod aio;
mod broken;
mod counters;
mod crypto;
mod delay;
mod error;
mod faulty;
mod gather;
mod info;
mod io;
mod malloc;
mod null;
mod pool;
mod raid0;
mod resize;
mod rule;

pub use aio::{Aio, AioOptions, Direct, Poll};
pub use broken::BrokenChannel;
pub use counters::ChannelCounters;
pub use crypto::{Crypto, CryptoOptions, XtsKey};
pub use delay::Delay;
pub use error::{Error, IoError};
pub use faulty::{Faulty, Moved};
pub use info::{Capabilities, Info};
pub use io::{Completion, Io, IoResult, MAX_SEGMENTS, Op, Segment, segments_len_bytes};
pub use malloc::Malloc;
pub use null::{Null, NullReads};
pub use raid0::Raid0;
pub use resize::Size;
pub use rule::{Ops, Rule};

use std::sync::Arc;

use spinblk_reactor::Ring;

/// A block device: what it is, and the door to it.
pub trait Bdev: Send + Sync {
    /// What it is and can do; all but its size is fixed for its life.
    fn info(&self) -> &Info;

    /// Its type's name, as configuration spells it.
    fn kind(&self) -> &'static str;

    /// What it stands on, in order.
    fn children(&self) -> &[Arc<dyn Bdev>] {
        &[]
    }

    /// Makes it larger while it is used: `None` takes over what it stands on has grown to, `Some` grows that first to so
    /// many bytes. Gives the size that it has then; its open channels have it too. Not for reactors: it may wait.
    ///
    /// # Errors
    /// [`Error::Resize`] when it cannot, or would get smaller; [`Error::File`]. The size stays what it was.
    fn resize(&self, size_bytes: Option<u64>) -> Result<u64, Error> {
        let _ = size_bytes;
        Err(self.info().cannot_resize(format!("a {} disk keeps the size that it was made with", self.kind())))
    }

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

    /// What it did so far; a layer adds up what its children say.
    fn counters(&self) -> ChannelCounters {
        ChannelCounters::default()
    }

    /// Gives back what it registered with the ring; called once, with nothing in flight.
    fn close(&mut self, ring: &mut Ring);
}

#[cfg(doctest)]
#[doc = include_str!("../../docs/WRITE_A_BDEV.md")]
struct WriteABdev;
