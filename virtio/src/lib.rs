//! Virtqueues over mapped guest memory, and the virtio-blk device that joins a queue to a bdev stack.
//!
//! ```text
//!            guest memory                               one reactor
//!   ┌───────────────────────────┐     ┌─────────────────────────────────────────┐
//!   │ descriptors  avail  used  │     │ BlkQueue (a Poller)                     │
//!   │      ▲         │      ▲   │     │                                         │
//!   │      │         ▼      │   │     │  Virtqueue ─ Chain ─ Request ─► Channel │──► bdev stack
//!   │      └── read once ───┼───┼─────┤  (split or packed)                 │    │
//!   │                       └───┼─────┤      └──── used entries ◄── done ──┘     │──► QueueHost::interrupt
//!   └───────────────────────────┘     └─────────────────────────────────────────┘
//! ```
//!
//! Contract:
//! - Knows no transport. Whoever maps the memory hands in a [`MemoryMap`] and a [`QueueHost`].
//! - The driver is hostile until checked: each descriptor and header is copied once, the copy is checked, and only
//!   the copy is used. What is wrong with one request fails that request; what is wrong with the ring itself stops
//!   that queue ([`QueueHost::broken`]) and nothing else. No input makes it panic, loop without bound or touch memory
//!   outside the map.
//! - The driver's kicks are suppressed for as long as the queue is polled; interrupts go out once per batch, when the
//!   driver asked for them.
//!
//! Section numbers in comments are those of the virtio 1.3 specification.

pub mod blk;
mod chain;
mod config;
mod descriptor;
mod error;
mod in_flight;
mod logged;
mod memory;
mod packed;
mod split;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod virtqueue;

pub use chain::ChainFault;
pub use config::{RingAddresses, RingConfig, RingKind, RingState};
pub use error::QueueError;
pub use in_flight::{InFlightError, InFlightLog};
pub use memory::{MemoryMap, Region};
