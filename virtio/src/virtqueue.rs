//! A virtqueue of either format, device side, behind one face.
//!
//! ```text
//!                        split (2.7)                      packed (2.8)
//!   look, has_next       avail.idx                        flags of the next descriptor
//!   walk                 avail entry ─► descriptor table  descriptors in ring order
//!   answer, push_used    used entries                     used descriptors
//!   publish              used.idx                         the first one's flags, last
//! ```
//! Whoever serves a ring is generic over [`Ring`] and chooses once per poll which of the two it is.

use spinblk_reactor::Watch;

use crate::chain::{Buffer, Chain, Header};
use crate::in_flight::{PackedLog, SplitLog};
use crate::logged::Logged;
use crate::memory::CoreMemory;
use crate::packed::PackedQueue;
use crate::split::SplitQueue;
use crate::{InFlightError, InFlightLog, QueueError, RingConfig, RingKind, RingState};

/// A chain as the ring names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Split: its first descriptor. Packed: its buffer id.
    pub(crate) id: u16,
    /// Places of the ring that it takes: always 1 in a split avail ring, its descriptors in a packed ring.
    pub(crate) places: u16,
}

/// The hot side of a ring. Work is done in batches: `look` once per poll, then for each chain `usual` or `walk`, and when
/// its request was started, `answer` if it is done and `keep` if not; `push_used` for each that was kept and is done; then
/// [`Virtqueue::publish`] once.
pub(crate) trait Ring {
    /// Whether a chain waits; one cache line when none does.
    ///
    /// # Errors
    /// [`QueueError::AvailOverrun`] when the driver claims more than the ring holds.
    fn look(&mut self) -> Result<bool, QueueError>;

    /// Whether one more chain waits, of those that the last [`look`](Self::look) found.
    fn has_next(&self) -> bool;

    /// The buffers of the next chain if it has the usual form of three descriptors: readable, either, writable. The chain
    /// stays in the ring until it is answered or kept.
    fn usual(&self, memory: &CoreMemory) -> Option<(Head, [Buffer; 3])>;

    /// Translates the next chain, whatever its form, which stays in the ring likewise. `None` when it is faulty or has no
    /// header or status: [`Chain::fault`] and [`Chain::is_broken`] say more.
    fn walk(&self, memory: &mut CoreMemory, chain: &mut Chain) -> Option<Header>;

    /// Takes the next chain and returns it: its request is done already. The driver sees it after [`Virtqueue::publish`] at
    /// the latest.
    fn answer(&mut self, head: Head, written_bytes: u32);

    /// Takes the next chain, whose request goes on. Returns what the ring's log calls it; nothing that means anything without
    /// a log.
    fn keep(&mut self, head: Head) -> u16;

    /// Returns a chain that was kept; the driver sees it after [`Virtqueue::publish`] at the latest. A driver that offers a
    /// chain again before it was returned can lose entries, its own only.
    fn push_used(&mut self, head: Head, mark: u16, written_bytes: u32);

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
    /// Section 2.7, with a log.
    LoggedSplit(Box<Logged<SplitLog>>),
    /// Section 2.8, with a log.
    LoggedPacked(Box<Logged<PackedLog>>),
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

    /// Notes everything in `log` from now on, and shows first what that says was in flight. Before the first look at the ring.
    ///
    /// # Errors
    /// [`InFlightError`] when the log does not go with the ring: the queue cannot be used then.
    pub(crate) fn attach(&mut self, log: InFlightLog) -> Result<(), InFlightError> {
        *self = match (&*self, log) {
            (Self::Split(ring), InFlightLog::Split(log)) => {
                Self::LoggedSplit(Box::new(Logged::new(ring.clone(), log)?))
            }
            (Self::Packed(ring), InFlightLog::Packed(log)) => {
                Self::LoggedPacked(Box::new(Logged::new(ring.clone(), log)?))
            }
            _ => return Err(InFlightError::WrongKind),
        };
        Ok(())
    }

    /// Chains that the log told of and that are still to be started.
    pub(crate) fn pending(&self) -> usize {
        match self {
            Self::Split(_) | Self::Packed(_) => 0,
            Self::LoggedSplit(logged) => logged.pending(),
            Self::LoggedPacked(logged) => logged.pending(),
        }
    }

    /// Where the device stands.
    pub(crate) fn state(&self) -> RingState {
        match self {
            Self::Split(ring) => ring.state(),
            Self::Packed(ring) => ring.state(),
            Self::LoggedSplit(logged) => logged.ring().state(),
            Self::LoggedPacked(logged) => logged.ring().state(),
        }
    }

    /// The word that changes when the next chain comes.
    ///
    /// # Safety
    /// The ring must stay mapped for as long as the watch is used.
    pub(crate) unsafe fn watch(&self) -> Watch {
        let split = |ring: &SplitQueue| {
            let (word, value) = ring.watched();
            // SAFETY: the ring found this word mapped and aligned; our caller keeps it so.
            unsafe { Watch::while_equal(word, value) }
        };
        let packed = |ring: &PackedQueue| {
            let (word, mask, value) = ring.watched();
            // SAFETY: as above.
            unsafe { Watch::until_equal(word, mask, value) }
        };
        match self {
            Self::Split(ring) => split(ring),
            Self::Packed(ring) => packed(ring),
            Self::LoggedSplit(logged) => split(logged.ring()),
            Self::LoggedPacked(logged) => packed(logged.ring()),
        }
    }

    /// Whether chains were returned that the driver has not been shown.
    #[inline]
    pub(crate) fn has_unpublished(&self) -> bool {
        match self {
            Self::Split(ring) => ring.has_unpublished(),
            Self::Packed(ring) => ring.has_unpublished(),
            Self::LoggedSplit(logged) => logged.ring().has_unpublished(),
            Self::LoggedPacked(logged) => logged.ring().has_unpublished(),
        }
    }

    /// Shows the driver all that was returned and says whether it wants an interrupt for that.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        match self {
            Self::Split(ring) => ring.publish(),
            Self::Packed(ring) => ring.publish(),
            Self::LoggedSplit(logged) => logged.publish(),
            Self::LoggedPacked(logged) => logged.publish(),
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
