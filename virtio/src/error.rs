//! What ends a queue.

use crate::chain::ChainFault;

/// Why a queue cannot go on; it stays stopped until the driver resets the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// A size that the format does not allow.
    #[error("queue size {0}: from 1 to 32768 entries are wanted, a power of two for a split ring")]
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
    /// A chain that cannot be walked to its end, so that its status byte cannot be found. Returning it unanswered could be
    /// taken for success.
    #[error("the chain at position {position} of the ring: {fault}")]
    BadChain {
        /// Where in the (avail) ring it was offered.
        position: u16,
        /// What is wrong.
        fault: ChainFault,
    },
    /// More chains than the ring has entries: some were offered again before they were returned.
    #[error("more than {size} chains in flight in a ring of {size} entries")]
    TooMany {
        /// Entries of the ring.
        size: u16,
    },
    /// A place of a packed ring that does not exist.
    #[error("{what} {place} is beyond a packed ring of {size} entries")]
    BadState {
        /// Which place.
        what: &'static str,
        /// The place, without its wrap counter.
        place: u16,
        /// Entries of the ring.
        size: u16,
    },
}
