//! The vhost-user transport: a vhost-user-blk server, one unix socket per disk, for VMs and for any other client that
//! shares its memory.
//!
//! ```text
//!   client ──messages, fds──► Session (control thread of the disk) ──jobs──► reactors: Served = BlkQueue + Call
//!      │                        │ Table: client's files, mapped                  │               │
//!      │                        └────────────── MemoryMap ──────────────────────►│               │
//!      ├────────────── shared memory: rings and data ────────────────────────────┘               │
//!      │◄───────────── call eventfd, written through the core's io_uring ────────────────────────┤
//!      ├────────────── in-flight logs: the client keeps them, queues write them ─────────────────┘
//!      └◄── backend channel: "the configuration has changed"
//! ```
//!
//! Contract:
//! - A disk has one socket, one control thread and one client at a time; a second client waits in the socket's backlog
//!   until the first leaves. Clients of different disks never meet.
//! - The client is hostile until checked. Whatever it sends ends, at worst, its own session: its queues are drained
//!   and removed, its memory is unmapped, its descriptors are closed, and the socket listens again.
//! - Memory is never unmapped under I/O. Queues are drained first; a queue that cannot be drained keeps its mappings.
//! - What was in flight when this process died is done by the next one, if the client keeps the logs (INFLIGHT_SHMFD): it
//!   asks for their memory, or brings memory that a server before this one wrote. They are laid out and written as the
//!   protocol says, so that server may have been another program. A reset of the device empties them.
//! - Nothing waits for the client: a backend channel that it does not read loses messages, an eventfd that it filled loses
//!   interrupts that it has been told of already.
//! - The hot path is `virtio`'s; this crate adds to it one look at a flag per poll and one SQE per interrupt.
//!
//! Protocol features: MQ, REPLY_ACK, CONFIG, CONFIGURE_MEM_SLOTS, RESET_DEVICE, INFLIGHT_SHMFD, BACKEND_REQ, STATUS. Rings:
//! split and packed, with EVENT_IDX and indirect descriptors; a server can offer less ([`RingOptions`]).
//! - The vhost crate reads and frames messages; three of them are taken before it sees them (`aside.rs`).
//! - Status 0 resets as RESET_DEVICE does, and keeps memory and features: clients send it when a VM pauses, and give neither
//!   again. FEATURES_OK needs VERSION_1. A ring that broke shows as DEVICE_NEEDS_RESET until the next reset.
//! - Bases of packed rings are 32 bits (avail place, used place); 0 is the start unless GET_VRING_BASE has just said 0.

mod aside;
mod call;
mod channel;
mod checks;
mod config;
mod error;
mod guard;
mod handler;
mod log;
mod mapping;
mod memory;
mod queue;
mod server;
mod session;
mod socket;
mod status;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod vring;

pub use config::{DiskReport, QueueReport, RingOptions, ServerConfig};
pub use error::Error;
pub use server::Server;
