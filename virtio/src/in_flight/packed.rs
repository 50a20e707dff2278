//! The log of a packed ring. A used descriptor may overwrite those of a chain that is still in flight, so the log keeps a
//! copy of each chain, in entries (*slots*) linked from a list of free ones.
//!
//! ```text
//!   free_head ──► slot ──► slot ──► ... ──► end           a chain: head slot ──► ... ──► last
//!   old_free_head, old_used_idx, old_used_wrap: as they were when the driver was last shown something
//! ```

use super::{Region, VERSION, VERSION_AT, apart, side_by_side};
use crate::descriptor::PackedDescriptor;
use crate::packed::Place;

/// free_head and old_free_head lie behind version and desc_num in one word, all used_* fields in the next.
pub(super) const USED_AT: usize = 16;
const ENTRIES_AT: usize = 32;
pub(super) const ENTRY_BYTES: usize = 32;
/// Within an entry.
pub(super) const IN_FLIGHT: usize = 0;
pub(super) const NEXT: usize = 2;
pub(super) const LAST: usize = 4;
pub(super) const NUM: usize = 6;
pub(super) const COUNTER: usize = 8;
pub(super) const ID: usize = 16;
pub(super) const FLAGS: usize = 18;
pub(super) const LEN: usize = 20;
pub(super) const ADDR: usize = 24;
/// Descriptor flags that say whose it is (virtio 2.8.1).
pub(super) const AVAIL: u16 = 1 << 7;
pub(super) const USED: u16 = 1 << 15;

pub(super) fn need_bytes(queue_size: u16) -> usize {
    ENTRIES_AT + ENTRY_BYTES * usize::from(queue_size)
}

/// What is known privately of a slot, so that the client cannot change it.
#[derive(Clone, Copy, Default)]
pub(super) struct Slot {
    pub(super) next: u16,
    /// Of a head: the chain's last slot, and its length.
    pub(super) last: u16,
    pub(super) num: u16,
}

/// A used descriptor that is to be shown alone.
#[derive(Clone, Copy, Default)]
struct Answer {
    /// What the log says meanwhile: its place, and the one behind it.
    used: u64,
    /// Its second half.
    word: u64,
}

/// The log of a packed ring.
pub struct PackedLog {
    pub(super) region: Region,
    pub(super) ring_size: u16,
    pub(super) counter: u64,
    pub(super) slots: Box<[Slot]>,
    /// As committed: the same in `free_head` and `old_free_head`, but for a batch that is being returned.
    pub(super) free_head: u16,
    /// As the log says it: used_*, and old_used_*.
    pub(super) used: Place,
    pub(super) settled: Place,
    /// Slots that are being returned, in order.
    batch: Vec<u16>,
    /// Chains that were done at once and are to be shown: room for them, and how many there are.
    answers: Box<[Answer]>,
    answered: usize,
}

impl PackedLog {
    pub(super) fn new(region: Region) -> Self {
        let (ring_size, entries) = (region.entries, usize::from(region.entries));
        Self {
            region,
            ring_size,
            counter: 0,
            slots: vec![Slot::default(); entries].into(),
            free_head: 0,
            used: Place::default(),
            settled: Place::default(),
            batch: Vec::with_capacity(entries),
            answers: vec![Answer::default(); entries].into(),
            answered: 0,
        }
    }

    /// Up to where the driver has been shown used descriptors, but for those of chains that were done at once.
    #[inline]
    pub(crate) fn settled(&self) -> Place {
        self.settled
    }

    /// A chain is taken from the ring, and its request goes on. Returns its slot; `None` when it has no descriptors or more
    /// than there is room for, which is more than the ring has places.
    #[inline]
    pub(crate) fn taken(&mut self, descriptors: impl Iterator<Item = PackedDescriptor>) -> Option<u16> {
        let (head, mut at, mut last, mut num) = (self.free_head, self.free_head, None, 0);
        let words = &self.region.words;
        for desc in descriptors {
            let next = self.slots.get(usize::from(at))?.next;
            words.store_u16(entry(at) + ID, desc.id);
            words.store_u16(entry(at) + FLAGS, desc.flags);
            words.store_u32(entry(at) + LEN, desc.len_bytes);
            words.store_u64(entry(at) + ADDR, desc.iova);
            (last, at) = (Some(at), next);
            num += 1;
        }
        let last = last?;
        words.store_u16(entry(head) + LAST, last);
        words.store_u16(entry(head) + NUM, num);
        words.store_u64(entry(head) + COUNTER, self.counter);
        words.store_u8(entry(head) + IN_FLIGHT, 1);
        self.counter = self.counter.wrapping_add(1);
        let slot = &mut self.slots[usize::from(head)];
        (slot.last, slot.num) = (last, num);
        self.free_head = at;
        // Until here the slots are free: this is the step that counts.
        self.store_free(at, at);
        Some(head)
    }

    /// A chain was taken whose request was done at once: its used descriptor, of which this is the second half, belongs at
    /// `used`, the next one at `behind`. Nothing may be in the batch. False: there is no room for another one.
    #[inline]
    pub(crate) fn answered(&mut self, used: Place, behind: Place, word: u64) -> bool {
        if let Some(answer) = self.answers.get_mut(self.answered) {
            *answer = Answer { used: used_word(behind, used), word };
            self.answered += 1;
        }
        self.answered < self.answers.len()
    }

    #[inline]
    pub(crate) fn has_answers(&self) -> bool {
        self.answered > 0
    }

    /// Shows the driver the chains that were answered, one right behind the other; `behind` is behind all of them, and
    /// `write` puts a second half at a place. Each alone, because a used descriptor that is not the first overwrites a chain
    /// that the driver has not been shown, and the log has no copy of these.
    #[inline]
    pub(crate) fn show_answers(&mut self, behind: Place, mut write: impl FnMut(u16, u64)) {
        for &Answer { used, word } in &self.answers[..self.answered] {
            self.region.words.store_u64(USED_AT, used);
            let [_, index, ..] = apart(used);
            write(index, word);
        }
        self.answered = 0;
        self.used = behind;
    }

    /// A chain that was kept is done; its used descriptor comes behind those of the batch so far.
    #[inline]
    pub(crate) fn returning(&mut self, slot: u16) {
        // There is room for every slot once, and none is returned twice; a mistake would cost only its own entry.
        if slot < self.region.entries && self.batch.len() < self.batch.capacity() {
            self.batch.push(slot);
        }
    }

    /// The batch is about to be shown to the driver; `used` is behind it.
    #[inline]
    pub(crate) fn publishing(&mut self, used: Place) {
        if self.used != self.settled {
            // Else a batch that was taken back would take back with it what was answered before.
            self.store_used(self.used, self.used);
        }
        let mut free = self.free_head;
        for &head in &self.batch {
            let Slot { last, .. } = self.slots[usize::from(head)];
            self.region.words.store_u16(entry(last) + NEXT, free);
            self.slots[usize::from(last)].next = free;
            free = head;
        }
        self.store_free(free, self.free_head);
        self.store_used(used, self.used);
        (self.free_head, self.used) = (free, used);
    }

    /// The driver was shown the batch, if there was one, and all that was answered.
    #[inline]
    pub(crate) fn returned(&mut self) {
        if !self.batch.is_empty() {
            for head in self.batch.drain(..) {
                self.region.words.store_u8(entry(head) + IN_FLIGHT, 0);
            }
            self.store_free(self.free_head, self.free_head);
        }
        self.store_used(self.used, self.used);
        self.settled = self.used;
    }

    pub(super) fn store_free(&self, now: u16, old: u16) {
        self.region.words.store_u64(VERSION_AT, side_by_side([VERSION, self.region.entries, now, old]));
    }

    pub(super) fn store_used(&self, now: Place, old: Place) {
        self.region.words.store_u64(USED_AT, used_word(now, old));
    }
}

/// All used_* fields.
#[inline]
fn used_word(now: Place, old: Place) -> u64 {
    let wraps = u16::from_ne_bytes([now.wrap.into(), old.wrap.into()]);
    side_by_side([now.index, old.index, wraps, 0])
}

/// Where entry `slot` begins.
pub(super) fn entry(slot: u16) -> usize {
    ENTRIES_AT + ENTRY_BYTES * usize::from(slot)
}
