//! A vhost-user disk whose daemon dies, over and over, under a driver that checks every byte.
//!
//! ```text
//!   story   which daemon dies when: killed, killed in starts, stopped, frozen
//!     ├─ daemon      `spinblk serve` on an image file
//!     └─ load        a thread with random requests ──► contents: what each block must hold
//!          ├─ driver      the rings and requests of two queues: the `virtio-driver` crate's virtqueues, which we did not write
//!          └─ connection  what outlives a server: memory, rings, its in-flight log; given to the next one
//! ```
//! No client that others wrote can take a vhost-user disk over such a death but QEMU: those of the `blkio` and `virtio-driver`
//! crates ask for no in-flight log and never connect again, and the latter's transports cannot be written outside of the
//! crate. Its virtqueues can be used without them.
//!
//! Contract: everything is bounded in time. The client waits for interrupts and for nothing else, so one that is lost shows as
//! a request that hangs. An error of a request, a wrong byte, an answer that nobody asked for or a second one end the story.

mod connection;
mod daemon;
mod driver;
mod error;
mod load;
mod memory;
mod story;

pub use error::Error;
pub use story::{Story, Tally};
