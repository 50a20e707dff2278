//! The vhost-user transport: a vhost-user-blk server, one unix socket per disk, for VMs and for any other client that
//! shares its memory.
//!
//! ```text
//!   client ──messages, fds──► Session (control thread of the disk) ──jobs──► reactors: Served = BlkQueue + Call
//!      │                        │ Table: client's files, mapped                  │               │
//!      │                        └────────────── MemoryMap ──────────────────────►│               │
//!      ├────────────── shared memory: rings and data ────────────────────────────┘               │
//!      └◄───────────── call eventfd, written through the core's io_uring ────────────────────────┘
//! ```
//!
//! Contract:
//! - A disk has one socket, one control thread and one client at a time; a second client waits in the socket's backlog
//!   until the first leaves. Clients of different disks never meet.
//! - The client is hostile until checked. Whatever it sends ends, at worst, its own session: its queues are drained
//!   and removed, its memory is unmapped, its descriptors are closed, and the socket listens again.
//! - Memory is never unmapped under I/O. Queues are drained first; a queue that cannot be drained keeps its mappings.
//! - The hot path is `virtio`'s; this crate adds to it one look at a flag per poll and one SQE per interrupt.

mod call;
mod error;
mod guard;
mod handler;
mod mapping;
mod memory;
mod queue;
mod server;
mod session;
mod socket;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod vring;

pub use error::Error;
pub use server::{DiskReport, QueueReport, Server, ServerConfig};
