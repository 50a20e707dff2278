//! A ring that notes in a log what it takes and returns, and begins with what the log of a process before it says was in
//! flight.
//!
//! ```text
//!   log ──recover──► pending chains ──┐
//!                                     ├──► walk, advance: noted as taken ──► push_used: noted as returning
//!   ring, behind those ───────────────┘                                  └─► publish: noted as returned
//! ```
//! Contract:
//! - Chains of the past come before new ones, in the order in which they were taken, by the long road; they are in the log
//!   already. While one is left, the ring shows no new chain, so that a queue that takes nothing new can finish them.
//! - The log is written before what it tells of can be seen: `advance` comes before a request is started.
//!
//! A queue without a log does not go through here and pays nothing.

use crate::chain::{Buffer, Chain, Header};
use crate::in_flight::{PackedLog, SavedChain, SplitLog};
use crate::memory::CoreMemory;
use crate::packed::{self, PackedQueue};
use crate::split::SplitQueue;
use crate::virtqueue::{Head, Ring};
use crate::{InFlightError, QueueError};

/// What a ring and its log do together.
pub(crate) trait Log {
    /// The ring that it is for.
    type Ring: Ring;
    /// A chain of the past.
    type Saved;

    /// Finds out what was in flight, oldest first, and sets the ring behind it.
    ///
    /// # Errors
    /// [`InFlightError`] when the log does not go with the ring.
    fn recover(&mut self, ring: &mut Self::Ring) -> Result<Vec<Self::Saved>, InFlightError>;

    /// Translates a chain of the past, as [`Ring::walk`] does with the next one.
    fn walk(
        ring: &Self::Ring,
        saved: &Self::Saved,
        memory: &mut CoreMemory,
        chain: &mut Chain,
    ) -> Option<Header>;

    /// What the log calls a chain of the past.
    fn mark(saved: &Self::Saved) -> u16;

    /// Notes the next chain, which the ring still shows; returns what the log calls it.
    fn taken(&mut self, ring: &Self::Ring, head: Head) -> u16;

    /// Notes that a chain goes into the batch.
    fn returning(&mut self, mark: u16);

    /// Shows the driver the batch and notes that; whether it wants an interrupt.
    fn publish(&mut self, ring: &mut Self::Ring) -> bool;
}

/// A ring and its log.
pub(crate) struct Logged<L: Log> {
    ring: L::Ring,
    log: L,
    /// Chains of the past that are still to be started, the next one last.
    pending: Vec<L::Saved>,
    /// The last `look` found some of them.
    recovers: bool,
}

impl<L: Log> Logged<L> {
    /// Joins a ring that has not been looked at yet to its log, and does what the log says.
    ///
    /// # Errors
    /// [`InFlightError`] when the log does not go with the ring.
    pub(crate) fn new(mut ring: L::Ring, mut log: L) -> Result<Self, InFlightError> {
        let mut pending = log.recover(&mut ring)?;
        pending.reverse();
        Ok(Self { ring, log, pending, recovers: false })
    }

    pub(crate) fn ring(&self) -> &L::Ring {
        &self.ring
    }

    /// How many chains of the past are still to be started.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        self.log.publish(&mut self.ring)
    }
}

impl<L: Log> Ring for Logged<L> {
    fn position(&self) -> u16 {
        self.ring.position()
    }

    #[inline]
    fn look(&mut self) -> Result<bool, QueueError> {
        self.recovers = !self.pending.is_empty();
        if self.recovers { Ok(true) } else { self.ring.look() }
    }

    #[inline]
    fn has_next(&self) -> bool {
        if self.recovers { !self.pending.is_empty() } else { self.ring.has_next() }
    }

    #[inline]
    fn usual(&self, memory: &CoreMemory) -> Option<(Head, [Buffer; 3])> {
        if self.recovers { None } else { self.ring.usual(memory) }
    }

    fn walk(&self, memory: &mut CoreMemory, chain: &mut Chain) -> Option<Header> {
        match self.pending.last() {
            Some(saved) => L::walk(&self.ring, saved, memory, chain),
            None => self.ring.walk(memory, chain),
        }
    }

    #[inline]
    fn advance(&mut self, head: Head, mark: &mut u16) {
        if let Some(saved) = self.pending.pop() {
            *mark = L::mark(&saved);
        } else {
            *mark = self.log.taken(&self.ring, head);
            self.ring.advance(head, mark);
        }
    }

    #[inline]
    fn push_used(&mut self, head: Head, mark: u16, written_bytes: u32) {
        self.log.returning(mark);
        self.ring.push_used(head, mark, written_bytes);
    }
}

/// A chain is known by its first descriptor, in the ring as in the log.
impl Log for SplitLog {
    type Ring = SplitQueue;
    type Saved = u16;

    fn recover(&mut self, ring: &mut SplitQueue) -> Result<Vec<u16>, InFlightError> {
        let recovery = SplitLog::recover(self, ring.state(), ring.size())?;
        ring.go_on_at(recovery.next_avail);
        Ok(recovery.heads)
    }

    fn walk(ring: &SplitQueue, saved: &u16, memory: &mut CoreMemory, chain: &mut Chain) -> Option<Header> {
        ring.walk_from(*saved, memory, chain)
    }

    fn mark(saved: &u16) -> u16 {
        *saved
    }

    #[inline]
    fn taken(&mut self, _: &SplitQueue, head: Head) -> u16 {
        SplitLog::taken(self, head.id);
        head.id
    }

    #[inline]
    fn returning(&mut self, mark: u16) {
        SplitLog::returning(self, mark);
    }

    #[inline]
    fn publish(&mut self, ring: &mut SplitQueue) -> bool {
        let wants_interrupt = ring.publish();
        self.returned(ring.state().used);
        wants_interrupt
    }
}

/// A chain is known by its slot in the log: its places of the ring may be overwritten before it is done.
impl Log for PackedLog {
    type Ring = PackedQueue;
    type Saved = SavedChain;

    fn recover(&mut self, ring: &mut PackedQueue) -> Result<Vec<SavedChain>, InFlightError> {
        let (state, size) = (ring.state(), ring.size());
        let recovery = PackedLog::recover(self, state, size, |place| ring.flags_at(place))?;
        ring.go_on_at(recovery.state);
        Ok(recovery.chains)
    }

    fn walk(
        _: &PackedQueue,
        saved: &SavedChain,
        memory: &mut CoreMemory,
        chain: &mut Chain,
    ) -> Option<Header> {
        packed::walk_saved(&saved.descriptors, memory, chain)
    }

    fn mark(saved: &SavedChain) -> u16 {
        saved.slot
    }

    #[inline]
    fn taken(&mut self, ring: &PackedQueue, head: Head) -> u16 {
        // No room: the driver offers places again that it was not given back, and loses track of its own requests only.
        PackedLog::taken(self, ring.descriptors(head.places)).unwrap_or(u16::MAX)
    }

    #[inline]
    fn returning(&mut self, mark: u16) {
        PackedLog::returning(self, mark);
    }

    #[inline]
    fn publish(&mut self, ring: &mut PackedQueue) -> bool {
        self.publishing();
        let wants_interrupt = ring.publish();
        self.returned();
        wants_interrupt
    }
}
