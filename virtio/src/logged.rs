//! A ring that notes in a log what it takes and returns, and begins with what the log of a process before it says was in
//! flight.
//!
//! ```text
//!   ring ──► usual, walk ──► request ──┬─ done at once ──► answer: not noted          ─┐
//!                                      └─ goes on ──► keep: noted ─► push_used: noted ─┴─► shown, settled
//!
//!   log ──recover──► pending chains ──► Past ──► walk ──► request ──┬─ done at once ──► push_used: noted
//!                                                                   └─ goes on ──► keep: is noted already
//! ```
//! Contract:
//! - Chains of the past come before new ones, in the order in which they were taken, by the long road; they are in the log
//!   already. While one is left the ring is served through [`Past`], which shows no new chain, so that a queue that takes
//!   nothing new can finish them.
//! - What was returned is shown and the log settled before new chains are looked at, and again before a chain is noted
//!   behind others that were answered.
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

    /// Whether the driver has been shown all that was returned, and the log says so.
    fn is_settled(&self, ring: &Self::Ring) -> bool;

    /// Shows the driver all that was returned and notes that.
    fn settle(&mut self, ring: &mut Self::Ring);

    /// As [`Ring::answer`]; the log is settled, but for other chains that were answered.
    fn answer(&mut self, ring: &mut Self::Ring, head: Head, written_bytes: u32);

    /// As [`Ring::keep`]; the log is settled.
    fn keep(&mut self, ring: &mut Self::Ring, head: Head) -> u16;

    /// Notes that a chain that was kept goes into the batch.
    fn returning(&mut self, mark: u16);

    /// Whether the driver wants an interrupt for what it has been shown since this was asked last.
    fn notify(ring: &mut Self::Ring) -> bool;
}

/// A ring and its log.
pub(crate) struct Logged<L: Log> {
    ring: L::Ring,
    log: L,
    /// Chains of the past that are still to be started, the next one last.
    pending: Vec<L::Saved>,
}

/// The chains of the past of a ring and its log.
pub(crate) struct Past<'a, L: Log>(&'a mut Logged<L>);

impl<L: Log> Logged<L> {
    /// Joins a ring that has not been looked at yet to its log, and does what the log says.
    ///
    /// # Errors
    /// [`InFlightError`] when the log does not go with the ring.
    pub(crate) fn new(mut ring: L::Ring, mut log: L) -> Result<Self, InFlightError> {
        let mut pending = log.recover(&mut ring)?;
        pending.reverse();
        Ok(Self { ring, log, pending })
    }

    pub(crate) fn ring(&self) -> &L::Ring {
        &self.ring
    }

    /// How many chains of the past are still to be started.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What is to be served instead of the ring while there are some.
    pub(crate) fn past(&mut self) -> Option<Past<'_, L>> {
        (!self.pending.is_empty()).then_some(Past(self))
    }

    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        self.settle();
        L::notify(&mut self.ring)
    }

    #[inline]
    fn settle(&mut self) {
        if !self.log.is_settled(&self.ring) {
            self.settle_now();
        }
    }

    /// Once per batch; out of the way of what is done for each request.
    #[inline(never)]
    fn settle_now(&mut self) {
        self.log.settle(&mut self.ring);
    }
}

impl<L: Log> Ring for Logged<L> {
    fn position(&self) -> u16 {
        self.ring.position()
    }

    #[inline]
    fn look(&mut self) -> Result<bool, QueueError> {
        self.settle();
        self.ring.look()
    }

    #[inline]
    fn has_next(&self) -> bool {
        self.ring.has_next()
    }

    #[inline(always)]
    fn usual(&self, memory: &CoreMemory) -> Option<(Head, [Buffer; 3])> {
        self.ring.usual(memory)
    }

    fn walk(&self, memory: &mut CoreMemory, chain: &mut Chain) -> Option<Header> {
        self.ring.walk(memory, chain)
    }

    #[inline]
    fn answer(&mut self, head: Head, written_bytes: u32) {
        self.log.answer(&mut self.ring, head, written_bytes);
    }

    #[inline]
    fn keep(&mut self, head: Head) -> u16 {
        self.settle();
        self.log.keep(&mut self.ring, head)
    }

    #[inline]
    fn push_used(&mut self, head: Head, mark: u16, written_bytes: u32) {
        self.log.returning(mark);
        self.ring.push_used(head, mark, written_bytes);
    }
}

impl<L: Log> Past<'_, L> {
    /// What the log calls the next chain, which is there (`has_next`).
    fn take(&mut self) -> u16 {
        self.0.pending.pop().map_or(0, |saved| L::mark(&saved))
    }
}

impl<L: Log> Ring for Past<'_, L> {
    fn position(&self) -> u16 {
        self.0.ring.position()
    }

    fn look(&mut self) -> Result<bool, QueueError> {
        Ok(self.has_next())
    }

    fn has_next(&self) -> bool {
        !self.0.pending.is_empty()
    }

    fn usual(&self, _: &CoreMemory) -> Option<(Head, [Buffer; 3])> {
        None
    }

    fn walk(&self, memory: &mut CoreMemory, chain: &mut Chain) -> Option<Header> {
        L::walk(&self.0.ring, self.0.pending.last()?, memory, chain)
    }

    fn answer(&mut self, head: Head, written_bytes: u32) {
        let mark = self.take();
        self.push_used(head, mark, written_bytes);
    }

    fn keep(&mut self, _: Head) -> u16 {
        self.take()
    }

    fn push_used(&mut self, head: Head, mark: u16, written_bytes: u32) {
        self.0.push_used(head, mark, written_bytes);
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
    fn is_settled(&self, ring: &SplitQueue) -> bool {
        ring.state().used == self.used_idx()
    }

    #[inline]
    fn settle(&mut self, ring: &mut SplitQueue) {
        let used = ring.state().used;
        self.publishing(used);
        ring.show();
        self.returned(used);
    }

    #[inline]
    fn answer(&mut self, ring: &mut SplitQueue, head: Head, written_bytes: u32) {
        self.answered(head.id);
        ring.answer(head, written_bytes);
    }

    #[inline]
    fn keep(&mut self, ring: &mut SplitQueue, head: Head) -> u16 {
        self.taken(head.id);
        ring.keep(head)
    }

    #[inline]
    fn returning(&mut self, mark: u16) {
        SplitLog::returning(self, mark);
    }

    #[inline]
    fn notify(ring: &mut SplitQueue) -> bool {
        ring.notify()
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
    fn is_settled(&self, ring: &PackedQueue) -> bool {
        ring.used() == self.settled()
    }

    #[inline]
    fn settle(&mut self, ring: &mut PackedQueue) {
        if self.has_answers() {
            self.show_answers(ring.used(), |index, word| ring.write_used(index, word));
            ring.all_shown();
        } else {
            self.publishing(ring.used());
            ring.show();
        }
        self.returned();
    }

    #[inline]
    fn answer(&mut self, ring: &mut PackedQueue, head: Head, written_bytes: u32) {
        let used = ring.used();
        let word = ring.answer_later(head, written_bytes);
        if !self.answered(used, ring.used(), word) {
            self.settle(ring);
        }
    }

    #[inline]
    fn keep(&mut self, ring: &mut PackedQueue, head: Head) -> u16 {
        // No room: the driver offers places again that it was not given back, and loses track of its own requests only.
        let slot = self.taken(ring.descriptors(head.places)).unwrap_or(u16::MAX);
        ring.keep(head);
        slot
    }

    #[inline]
    fn returning(&mut self, mark: u16) {
        PackedLog::returning(self, mark);
    }

    #[inline]
    fn notify(ring: &mut PackedQueue) -> bool {
        ring.notify()
    }
}
