//! A virtqueue of either format, device side, behind one face.
//!
//! ```text
//!                        split (2.7)                      packed (2.8)
//!   look, has_next       avail.idx                        flags of the next descriptor
//!   walk, advance        avail entry ─► descriptor table  descriptors in ring order
//!   push_used, publish   used entries, then used.idx      used descriptors, the first one's flags last
//! ```
//! Whoever serves a ring is generic over [`Ring`] and chooses once per poll which of the two it is.

use spinblk_reactor::Watch;

use crate::chain::{Buffer, Chain, Header};
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

/// The hot side of a ring. Work is done in batches: `look` once per poll, then `usual` or `walk`, and `advance`, for each chain;
/// `push_used` for each finished one, then [`Virtqueue::publish`] once.
pub(crate) trait Ring {
    /// Whether a chain waits; one cache line when none does.
    ///
    /// # Errors
    /// [`QueueError::AvailOverrun`] when the driver claims more than the ring holds.
    fn look(&mut self) -> Result<bool, QueueError>;

    /// Whether one more chain waits, of those that the last [`look`](Self::look) found.
    fn has_next(&self) -> bool;

    /// The buffers of the next chain if it has the usual form of three descriptors: readable, either, writable. The chain
    /// stays in the ring until [`advance`](Self::advance).
    fn usual(&self, memory: &CoreMemory) -> Option<(Head, [Buffer; 3])>;

    /// Translates the next chain, whatever its form, which stays in the ring until [`advance`](Self::advance). `None` when it
    /// is faulty or has no header or status: [`Chain::fault`] and [`Chain::is_broken`] say more.
    fn walk(&self, memory: &mut CoreMemory, chain: &mut Chain) -> Option<Header>;

    /// Takes the chain that was shown.
    fn advance(&mut self, head: Head);

    /// Returns a chain; the driver sees it after [`Virtqueue::publish`]. A driver that offers a chain again before it was
    /// returned can lose entries, its own only.
    fn push_used(&mut self, head: Head, written_bytes: u32);

    /// Where the next chain stands, for messages.
    fn position(&self) -> u16;
}

/// A ring in guest memory, and how far the device has come in it. The mapped ring must outlive it: whoever owns it keeps
/// the [`CoreMemory`] that it was made from.
pub(crate) enum Virtqueue {
    /// Section 2.7.
    Split(SplitQueue),
    /// Section 2.8.
    Packed(PackedQueue),
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
        match self {
            Self::Split(ring) => ring.state(),
            Self::Packed(ring) => ring.state(),
        }
    }

    /// The word that changes when the next chain comes.
    ///
    /// # Safety
    /// The ring must stay mapped for as long as the watch is used.
    pub(crate) unsafe fn watch(&self) -> Watch {
        // SAFETY: both rings found these words mapped and aligned; our caller keeps them so.
        unsafe {
            match self {
                Self::Split(ring) => {
                    let (word, value) = ring.watched();
                    Watch::while_equal(word, value)
                }
                Self::Packed(ring) => {
                    let (word, mask, value) = ring.watched();
                    Watch::until_equal(word, mask, value)
                }
            }
        }
    }

    /// Whether chains were returned that the driver has not been shown.
    #[inline]
    pub(crate) fn has_unpublished(&self) -> bool {
        match self {
            Self::Split(ring) => ring.has_unpublished(),
            Self::Packed(ring) => ring.has_unpublished(),
        }
    }

    /// Shows the driver all that was returned and says whether it wants an interrupt for that.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        match self {
            Self::Split(ring) => ring.publish(),
            Self::Packed(ring) => ring.publish(),
        }
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
