//! A virtqueue of either format, device side, behind one face.
//!
//! ```text
//!                        split (2.7)                      packed (2.8)
//!   look, has_next       avail.idx                        flags of the next descriptor
//!   walk, advance        avail entry ─► descriptor table  descriptors in ring order
//!   push_used, publish   used entries, then used.idx      used descriptors, the first one's flags last
//! ```
//! Work is done in batches: `look` once per poll, then `walk` and `advance` for each chain; `push_used` for each finished
//! one, then `publish` once. The formats differ by one predictable branch per call.

use crate::chain::Chain;
use crate::memory::CoreMemory;
use crate::packed::PackedQueue;
use crate::split::SplitQueue;
use crate::{QueueError, RingConfig, RingKind, RingState};

/// A chain as the ring names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Split: its first descriptor. Packed: its buffer id.
    pub(crate) id: u16,
    /// Places of the ring that it takes: always 1 in a split avail ring, its descriptors in a packed ring.
    pub(crate) places: u16,
}

/// A ring in guest memory, and how far the device has come in it. The mapped ring must outlive it: whoever owns it keeps
/// the [`CoreMemory`] that it was made from.
pub(crate) enum Virtqueue {
    /// Section 2.7.
    Split(SplitQueue),
    /// Section 2.8.
    Packed(PackedQueue),
}

/// Calls a method of whichever ring it is.
macro_rules! either {
    ($queue:expr, $ring:ident => $call:expr) => {
        match $queue {
            Virtqueue::Split($ring) => $call,
            Virtqueue::Packed($ring) => $call,
        }
    };
}

impl Virtqueue {
    /// Finds the ring in `memory` and tells the driver not to kick.
    ///
    /// # Errors
    /// [`QueueError`] when the size, the state or an address is bad.
    pub(crate) fn new(memory: &mut CoreMemory, config: RingConfig) -> Result<Self, QueueError> {
        match config.kind {
            RingKind::Split => SplitQueue::new(memory, config).map(Self::Split),
            RingKind::Packed => PackedQueue::new(memory, config).map(Self::Packed),
        }
    }

    /// Where the device stands.
    pub(crate) fn state(&self) -> RingState {
        either!(self, ring => ring.state())
    }

    /// Whether a chain waits; one cache line when none does.
    ///
    /// # Errors
    /// [`QueueError::AvailOverrun`] when the driver claims more than the ring holds.
    #[inline]
    pub(crate) fn look(&mut self) -> Result<bool, QueueError> {
        match self {
            Self::Split(ring) => ring.look(),
            Self::Packed(ring) => Ok(ring.has_next()),
        }
    }

    /// Whether one more chain waits, of those that the last [`look`](Self::look) found.
    #[inline]
    pub(crate) fn has_next(&self) -> bool {
        either!(self, ring => ring.has_next())
    }

    /// Translates the next chain, which stays in the ring until [`advance`](Self::advance). False when its structure is
    /// broken, so that nothing of it may be used; [`Chain::fault`] says why, and what is wrong with single buffers.
    #[inline]
    pub(crate) fn walk(&self, memory: &mut CoreMemory, chain: &mut Chain) -> bool {
        either!(self, ring => ring.walk(memory, chain))
    }

    /// Takes the chain that [`walk`](Self::walk) showed.
    #[inline]
    pub(crate) fn advance(&mut self, head: Head) {
        either!(self, ring => ring.advance(head));
    }

    /// Returns a chain; the driver sees it after [`publish`](Self::publish). A driver that offers a chain again before it was
    /// returned can lose entries, its own only.
    #[inline]
    pub(crate) fn push_used(&mut self, head: Head, written_bytes: u32) {
        either!(self, ring => ring.push_used(head, written_bytes));
    }

    /// Whether chains were returned that the driver has not been shown.
    #[inline]
    pub(crate) fn has_unpublished(&self) -> bool {
        either!(self, ring => ring.has_unpublished())
    }

    /// Shows the driver all that was returned and says whether it wants an interrupt for that.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        either!(self, ring => ring.publish())
    }

    /// Where the next chain stands, for messages.
    pub(crate) fn position(&self) -> u16 {
        either!(self, ring => ring.position())
    }
}

/// Finds one part of a ring, in one stretch and aligned.
pub(crate) fn ring_part(
    memory: &mut CoreMemory,
    part: &'static str,
    iova: u64,
    len_bytes: u64,
    align: u64,
) -> Result<*mut u8, QueueError> {
    let crooked = Err(QueueError::RingMisaligned { part, iova, align });
    if !iova.is_multiple_of(align) {
        return crooked;
    }
    match memory.contiguous(iova, len_bytes) {
        // A region whose own start is crooked makes a straight IOVA crooked.
        Some(host) if !(host.addr() as u64).is_multiple_of(align.min(8)) => crooked,
        Some(host) => Ok(host),
        None => Err(QueueError::RingUnmapped { part, iova, len_bytes }),
    }
}
