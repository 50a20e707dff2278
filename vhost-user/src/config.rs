//! What a disk is to look like, and what it did.

use std::path::PathBuf;
use std::sync::Arc;

use spinblk_perf::QueueBoard;
use spinblk_reactor::Handle;

use crate::Error;

/// SET_VRING_KICK and its like name a queue by one byte.
const MAX_QUEUES: u16 = 256;

/// What a disk is to look like.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Its name, in messages.
    pub name: String,
    /// Where it listens.
    pub socket: PathBuf,
    /// Virtqueues, dealt over the reactors in turn.
    pub queues: u16,
    /// Entries that each may have at most; the client chooses.
    pub queue_size: u16,
    /// What the guest reads as serial number.
    pub serial: String,
    /// All cores that this process polls: the control thread keeps off them.
    pub polled_cores: Vec<usize>,
}

/// What is offered of the ring features; the client chooses among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingOptions {
    /// Indirect descriptors.
    pub indirect: bool,
    /// Interrupts at an index of the driver's choice.
    pub event_idx: bool,
    /// Packed rings.
    pub packed: bool,
}

impl Default for RingOptions {
    /// Everything.
    fn default() -> Self {
        Self { indirect: true, event_idx: true, packed: true }
    }
}

/// One queue's account, at any time.
#[derive(Clone)]
pub struct QueueReport {
    /// The queue.
    pub index: u16,
    /// The core that served it.
    pub core: usize,
    /// What it did, for all clients together.
    pub board: Arc<QueueBoard>,
}

/// What a disk did, told when it stops.
pub struct DiskReport {
    /// Its name.
    pub name: String,
    /// Where it listened.
    pub socket: PathBuf,
    /// Clients that it had.
    pub clients: u64,
    /// Its queues.
    pub queues: Vec<QueueReport>,
    /// What went wrong on our side, in sentences.
    pub problems: Vec<String>,
}

/// Whether a disk can be served like that.
pub(crate) fn check(config: &ServerConfig, reactors: &[Arc<Handle>]) -> Result<(), Error> {
    let bad = |reason: String| Err(Error::Config { name: config.name.clone(), reason });
    if reactors.is_empty() {
        return bad("it has no reactor to serve it".into());
    }
    if !(1..=MAX_QUEUES).contains(&config.queues) {
        return bad(format!("{} queues; 1 to {MAX_QUEUES} are possible", config.queues));
    }
    if !config.queue_size.is_power_of_two() {
        return bad(format!("queues of {} entries; a power of two is wanted", config.queue_size));
    }
    Ok(())
}
