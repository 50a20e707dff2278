//! What the programs of this crate share. Each program in `src/bin/` is one measurement:
//!
//! | program | measures |
//! |---|---|
//! | `bare-ring` | the memory traffic of a split ring between two cores, and nothing else: the physical reference |
//! | `null-queue` | what one request costs the device, with warm caches |
//! | `micro` | the parts: rings, mailbox, the reactor's idle loop |
//! | `idle-queues` | one busy queue, alone and among 63 idle ones of its disk |
//! | `in-flight-log` | what the log of requests in flight takes of a disk's rate |
//! | `two-reactors` | one disk on one core, and on two |
//! | `crypto` | what encryption leaves of aws-lc's own rate |
//! | `raid0` | what striping adds to a request |
//!
//! ```text
//!   cargo run --release -p spinblk-benches --bin micro -- --help
//! ```
//! `--json` prints the results for programs to read; whether the machine was quiet is told on stderr. [`Driver`] is the other end of a queue, as lean as it can be;
//! [`Device`] is the queue on the calling thread, over the null disk; [`Stack`] is a stack of block devices without a queue.

mod across;
mod arena;
mod bare_ring;
mod device;
mod driver;
mod error;
mod harness;
mod layout;
mod stack;
mod xts;

pub use across::{Pair, add_queue, rate_across};
pub use bare_ring::{Load, Measured, Traffic, bare_ring};
pub use device::{Device, keep_log, null_disk, open_queue};
pub use driver::Driver;
pub use error::Error;
pub use harness::{Spread, interleaved, main_with, ns_per, ns_per_for, pin, print_json, seconds, two_cores};
pub use layout::{CHAINS, Shape};
pub use stack::{DEPTH, Stack};
pub use xts::{Direction, KEY_BYTES, Xts};
