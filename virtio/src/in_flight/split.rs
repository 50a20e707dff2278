//! The log of a split ring: one entry per head, and a list through those that are being returned.
//!
//! ```text
//!   last_batch_head ──► head ──► head ──► ... ──► head that was done at once, which leads to itself
//! ```
//! Who finds that used.idx is `n` further than the log says clears `n` entries along the list. Requests that were done at
//! once have no entries to clear, but count in `n`: for all of them together the list ends in one whose entry is clear
//! anyway, and stays there.

use super::{DESC_NUM, FEATURES, InFlightError, Region, VERSION, VERSION_AT, side_by_side};
use crate::RingState;

const LAST_BATCH_HEAD: usize = 12;
const USED_IDX: usize = 14;
const ENTRIES_AT: usize = 16;
const ENTRY_BYTES: usize = 16;
/// Within an entry.
const IN_FLIGHT: usize = 0;
const NEXT: usize = 6;
const COUNTER: usize = 8;

pub(super) fn need_bytes(queue_size: u16) -> usize {
    ENTRIES_AT + ENTRY_BYTES * usize::from(queue_size)
}

/// The log of a split ring.
pub struct SplitLog {
    pub(super) region: Region,
    /// What the next chain is numbered.
    counter: u64,
    /// As the log says it.
    used_idx: u16,
    last_batch_head: u16,
    /// Chains that were kept and are being returned, in order.
    batch: Vec<u16>,
    /// The last chain that was done at once.
    at_once: u16,
}

/// What a split ring's log says is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SplitRecovery {
    /// Where the avail ring goes on.
    pub(crate) next_avail: u16,
    /// Heads to submit again, in this order.
    pub(crate) heads: Vec<u16>,
}

impl SplitLog {
    pub(super) fn new(region: Region) -> Self {
        // A driver has each head in flight once; one that does not can lose entries, its own only.
        let batch = Vec::with_capacity(region.entries.into());
        Self { region, counter: 0, used_idx: 0, last_batch_head: 0, batch, at_once: 0 }
    }

    /// Finds out what was in flight; call it first, and once. `ring` is the client's base and the index found in the used
    /// ring, `ring_size` the entries of the ring.
    ///
    /// # Errors
    /// [`InFlightError`] when the log does not go with the ring; nothing may be submitted then.
    pub(crate) fn recover(
        &mut self,
        ring: RingState,
        ring_size: u16,
    ) -> Result<SplitRecovery, InFlightError> {
        self.region.check_ring(ring_size)?;
        self.used_idx = ring.used;
        if self.region.fresh {
            self.write_fresh(ring.used);
            return Ok(SplitRecovery { next_avail: ring.avail, heads: Vec::new() });
        }
        self.repair(ring.used)?;
        let mut found: Vec<(u64, u16)> = (0..self.region.entries)
            .filter(|&head| self.is_in_flight(head))
            .map(|head| (self.region.words.load_u64(entry(head) + COUNTER), head))
            .collect();
        if let Some((_, head)) = found.iter().find(|(_, head)| *head >= ring_size) {
            return Err(InFlightError::Damaged { what: "it names descriptor", value: (*head).into() });
        }
        found.sort_unstable();
        self.counter = found.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        let heads: Vec<u16> = found.into_iter().map(|(_, head)| head).collect();
        Ok(SplitRecovery { next_avail: ring.used.wrapping_add(heads.len() as u16), heads })
    }

    /// used.idx as the driver sees it, but between [`publishing`](Self::publishing) and [`returned`](Self::returned).
    #[inline]
    pub(crate) fn used_idx(&self) -> u16 {
        self.used_idx
    }

    /// A chain is taken from the avail ring, and its request goes on.
    #[inline]
    pub(crate) fn taken(&mut self, head: u16) {
        if head >= self.region.entries {
            return;
        }
        self.region.words.store_u64(entry(head) + COUNTER, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.region.words.store_u8(entry(head) + IN_FLIGHT, 1);
    }

    /// A chain is taken and returned: its request was done at once.
    #[inline]
    pub(crate) fn answered(&mut self, head: u16) {
        self.at_once = head;
    }

    /// A chain that was kept is put into the used ring, which the driver has not been shown.
    #[inline]
    pub(crate) fn returning(&mut self, head: u16) {
        if head < self.region.entries && self.batch.len() < self.batch.capacity() {
            self.batch.push(head);
        }
    }

    /// The batch is about to be shown to the driver, with this index.
    #[inline]
    pub(crate) fn publishing(&mut self, used_idx: u16) {
        let words = &self.region.words;
        let all = usize::from(used_idx.wrapping_sub(self.used_idx));
        if all > self.batch.len() && self.at_once < self.region.entries {
            words.store_u16(entry(self.at_once) + NEXT, self.at_once);
            self.last_batch_head = self.at_once;
        }
        for &head in &self.batch {
            words.store_u16(entry(head) + NEXT, self.last_batch_head);
            self.last_batch_head = head;
        }
        words.store_u16(LAST_BATCH_HEAD, self.last_batch_head);
    }

    /// The driver was shown the batch: `used_idx` is in the used ring.
    #[inline]
    pub(crate) fn returned(&mut self, used_idx: u16) {
        for head in self.batch.drain(..) {
            self.region.words.store_u8(entry(head) + IN_FLIGHT, 0);
        }
        self.used_idx = used_idx;
        self.region.words.store_u16(USED_IDX, used_idx);
    }

    /// Clears `count` entries along the list from `head` on.
    fn clear(&self, mut head: u16, count: u16) -> Result<(), InFlightError> {
        for _ in 0..count {
            if head >= self.region.entries {
                return Err(InFlightError::Damaged { what: "its last batch names", value: head.into() });
            }
            self.region.words.store_u8(entry(head) + IN_FLIGHT, 0);
            head = self.region.words.load_u16(entry(head) + NEXT);
        }
        Ok(())
    }

    /// The writer may have died after the driver was shown a batch, with the log not yet saying so.
    fn repair(&mut self, ring_used: u16) -> Result<(), InFlightError> {
        let head = self.region.words.load_u16(LAST_BATCH_HEAD);
        let batch = ring_used.wrapping_sub(self.region.words.load_u16(USED_IDX));
        if batch <= self.region.entries {
            self.clear(head, batch)?;
        } else if (0..self.region.entries).any(|head| self.is_in_flight(head)) {
            return Err(InFlightError::Damaged { what: "its last batch has", value: batch.into() });
        }
        // Else nothing is in flight and the ring began anew: the log follows it.
        self.region.words.store_u16(USED_IDX, ring_used);
        self.last_batch_head = if head < self.region.entries { head } else { 0 };
        Ok(())
    }

    fn is_in_flight(&self, head: u16) -> bool {
        self.region.words.load_u8(entry(head) + IN_FLIGHT) == 1
    }

    /// The version comes last: until then the region counts as unwritten.
    fn write_fresh(&mut self, used_idx: u16) {
        let Region { words, entries, .. } = &self.region;
        words.store_u16(VERSION_AT, 0);
        words.store_u64(FEATURES, 0);
        for at in (0..*entries).map(entry) {
            words.store_u64(at, 0);
            words.store_u64(at + COUNTER, 0);
        }
        words.store_u64(VERSION_AT, side_by_side([VERSION, *entries, 0, used_idx]));
        self.region.fresh = false;
    }
}

/// Where entry `head` begins.
fn entry(head: u16) -> usize {
    ENTRIES_AT + ENTRY_BYTES * usize::from(head)
}

const _: () = assert!(DESC_NUM == VERSION_AT + 2 && USED_IDX == VERSION_AT + 6, "one word, stored at once");
