//! A polled load generator: what a disk can do, seen by a client that wastes nothing.
//!
//! ```text
//!   Job ──► run(job, target) ──► one pinned thread per core, queues dealt over them
//!                                  Client = Picker + slots + recorders  ──prepare, publish──►  Lane
//!                                                                       ◄────────reap────────
//! ```
//!
//! - A [`Target`] is what is measured: a bdev in this process ([`BdevTarget`]) or a vhost-user-blk server
//!   ([`VhostUser`]). A new one (a vhost-vdpa device, say) is one new file that implements [`Target`] and [`Lane`].
//! - A [`Lane`] is one queue of it. Its thread polls it; nothing sleeps, and nothing allocates after the start.
//!
//! # What is measured
//!
//! The latency of a request runs from before it was written into the ring to the poll that found it completed. The
//! clock is read once per batch of completions; the requests that replace them carry that stamp, and reach the
//! device before the completions are recorded, so that recording delays no request. Failed requests count as I/Os and
//! as errors; nothing is left out of the percentiles. Requests that complete after the time is up are not counted.

mod bdev_target;
mod buffer;
mod client;
mod error;
mod job;
mod ledger;
mod outcome;
mod picker;
mod rng;
mod run;
mod stamp;
mod target;
mod vhost_user;
mod worker;

pub use bdev_target::{BdevLane, BdevTarget};
pub use buffer::Buffer;
pub use error::Error;
pub use job::{Access, Job};
pub use outcome::{LaneOutcome, Outcome, VerifyCounts};
pub use run::{Phase, Progress, run};
pub use target::{Done, Geometry, Lane, Op, Target};
pub use vhost_user::{SplitLane, VhostUser, VhostUserOptions};
