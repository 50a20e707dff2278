//! Pinned threads that never sleep, and what each of them owns.
//!
//! ```text
//!   control threads                        one reactor = one thread pinned to one core
//!   ───────────────                        ─────────────────────────────────────────────
//!   Handle::call(job) ──► Mailbox ───────► jobs ► pollers ► ring.enter() ► (again, forever)
//!                                                  │              │
//!                                                  └─ push SQEs ──┘ inboxes ◄── CQEs
//! ```
//!
//! Contract:
//! - Everything a [`Reactor`] owns is touched by its thread alone; other threads reach it through the bounded
//!   [`Mailbox`], by sending a job. Nothing on the hot path is shared, locked or allocated.
//! - A [`Poller`] does a bounded amount of work per call and never blocks. One that found nothing to do may name a word of
//!   memory to [watch](Watch); it is polled again when that changes, or a job has run.
//! - The [`Ring`] is all that pollers know of io_uring: one instance for the core, and a second one, made when first asked
//!   for, for devices that are polled. Leaves of bdev stacks push operations into it and find completions in their inbox
//!   one iteration later.
//! - Stopping is orderly: pollers are asked to fall quiet, polled until they are, and only then dropped.
//!
//! Knows nothing of disks or queues: it is the lowest floor, beside `spinblk-perf` (whose clock it uses).

mod core_claim;
mod error;
mod mailbox;
mod memory;
mod reactor;
mod ring;
mod thread;
mod watch;

pub use core_claim::CoreClaim;
pub use error::Error;
pub use io_uring::{opcode, squeue, types};
pub use mailbox::{Mailbox, PostError};
pub use memory::{HugepagePool, Hugepages, Memory, page_bytes};
pub use reactor::{Core, Poller, PollerId, Progress, Reactor, ReactorCounters};
pub use ring::{BufId, Completion, FileId, OwnerId, Ring, RingCounters, RingFile, fixed_file, plain_file};
pub use thread::{Config, Handle, IdlePolicy, Job, off_reactor_cores};
pub use watch::Watch;
