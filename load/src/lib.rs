//! A polled load generator: what a disk can do, seen by a client that wastes nothing.
//!
//! ```text
//!   Job ──► run(job, target) ──► one pinned thread per core, queues dealt over them
//!                                  Client = Picker + slots + recorders  ──prepare, publish──►  Lane
//!                                                                       ◄────────reap────────
//! ```
//!
//! - A [`Target`] is what is measured: a bdev in this process ([`BdevTarget`]) or a vhost-user-blk server
//!   ([`VhostUser`]). A new one is one new file that implements [`Target`].
//! - A [`Lane`] is one queue of it. Its thread polls it, and nothing sleeps; only with [`Completions::Interrupt`] the
//!   thread asks for interrupts and sleeps whenever it has nothing to do. Nothing allocates after the start.
//! - A virtqueue's lane, [`RingLane`], knows no transport (`ring/`). The place of a target for `/dev/vhost-vdpa-N` is
//!   `vhost_vdpa.rs` beside `vhost_user/`, with the same lane: it would map the lanes' memory through the device's
//!   IOTLB where `vhost_user/handshake.rs` shares it by descriptor, read the size from the device's configuration
//!   space, set the rings up by ioctl, and say in `Target::check` whether the device is still there.
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
mod worker;

pub use bdev_target::{BdevLane, BdevTarget};
pub use buffer::Buffer;
pub use error::Error;
pub use job::{Access, Completions, Job};
pub use outcome::{LaneOutcome, Outcome, VerifyCounts};
pub use ring::{PackedLane, RingFormat, RingLane, SplitLane};
pub use run::{Phase, Progress, run};
pub use target::{Done, Fault, Geometry, Lane, Op, Target};
pub use vhost_user::{VhostUser, VhostUserOptions};
