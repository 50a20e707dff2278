//! A polled load generator: what a disk can do, seen by a client that wastes nothing.
//!
//! ```text
//!   Job ──► run(job, target) ──► one pinned thread per core, queues dealt over them
//!                                  Client = Picker + slots + recorders  ──prepare, publish──►  Lane
//!                                                                       ◄────────reap────────
//! ```
//!
//! - A [`Target`] is what is measured: a bdev in this process ([`BdevTarget`]), a vhost-user-blk server
//!   ([`VhostUser`]) or a disk on the kernel's vhost-vdpa ([`VhostVdpa`]). A new one is one new file that implements
//!   [`Target`].
//! - A [`Lane`] is one queue of it. Its thread polls it, and nothing sleeps; only with [`Completions::Interrupt`] the
//!   thread asks for interrupts and sleeps whenever it has nothing to do. Nothing allocates after the start.
//! - A virtqueue's lane, [`RingLane`], knows no transport (`ring/`), and what a virtio-blk device says of itself is
//!   understood in one place (`virtio_blk`). A transport shares the rings' memory with the device, tells it where the
//!   rings are, and says in `Target::check` whether it still serves them.
//!
//! # What is measured
//!
//! The latency of a request runs from before it was written into the ring to the poll that found it completed; of a
//! thread that sleeps it includes waking up. The clock is read once per batch of completions; the requests that replace
//! them carry that stamp, and reach the device before the completions are recorded, so that recording delays no
//! request. Failed requests count as I/Os and as errors; nothing is left out of the percentiles. Requests that
//! complete after the time is up are not counted.

mod bdev_target;
mod buffer;
mod client;
mod error;
mod intervals;
mod job;
mod ledger;
mod outcome;
mod picker;
mod ring;
mod rng;
mod run;
mod sleeper;
mod stamp;
mod target;
mod vhost_user;
mod vhost_vdpa;
mod virtio_blk;
mod worker;

pub use bdev_target::{BdevLane, BdevTarget};
pub use buffer::Buffer;
pub use error::Error;
pub use intervals::Interval;
pub use job::{Access, Completions, Job};
pub use outcome::{LaneOutcome, Outcome, VerifyCounts};
pub use ring::{PackedLane, RingFormat, RingLane, SplitLane};
pub use run::{Phase, Progress, run};
pub use target::{Done, Fault, Geometry, Lane, Op, Target};
pub use vhost_user::VhostUser;
pub use vhost_vdpa::VhostVdpa;
pub use virtio_blk::RingOptions;
