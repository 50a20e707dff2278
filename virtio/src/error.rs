//! What ends a queue.

use crate::chain::ChainFault;

/// Why a queue cannot go on; it stays stopped until the driver resets the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// A size that is not a power of two up to 32768.
    #[error("queue size {0}: a power of two from 1 to 32768 is wanted")]
    BadSize(u16),
    /// A part of the ring is not mapped.
    #[error("the {part} at IOVA {iova:#x}, {len_bytes} bytes, lies outside the mapped memory")]
    RingUnmapped {
        /// Which part.
        part: &'static str,
        /// Where the driver put it.
        iova: u64,
        /// How long it is.
        len_bytes: u64,
    },
    /// A part of the ring is not aligned as the specification wants.
    #[error("the {part} at IOVA {iova:#x} is not aligned to {align} bytes")]
    RingMisaligned {
        /// Which part.
        part: &'static str,
        /// Where the driver put it.
        iova: u64,
        /// What is wanted.
        align: u64,
    },
    /// The avail index ran further than the ring is long.
    #[error("avail index {index} is more than {size} entries ahead of {next}")]
    AvailOverrun {
        /// What the driver wrote.
        index: u16,
        /// What the device takes next.
        next: u16,
        /// Entries of the ring.
        size: u16,
    },
    /// A head beyond the descriptor table.
    #[error("avail entry names descriptor {head}, the table has {size}")]
    BadHead {
        /// What the driver wrote.
        head: u16,
        /// Entries of the table.
        size: u16,
    },
    /// A chain that cannot be walked to its end, so that its status byte cannot be found. Returning it unanswered could be
    /// taken for success.
    #[error("the chain at descriptor {head}: {fault}")]
    BadChain {
        /// Its head.
        head: u16,
        /// What is wrong.
        fault: ChainFault,
    },
    /// A head that is in flight already.
    #[error("avail entry names descriptor {head}, which is still in flight")]
    HeadInFlight {
        /// What the driver wrote.
        head: u16,
    },
}
