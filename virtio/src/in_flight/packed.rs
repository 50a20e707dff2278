//! The log of a packed ring. A used descriptor may overwrite those of a chain that is still in flight, so the log keeps a
//! copy of each chain, in entries (*slots*) linked from a list of free ones.
//!
//! ```text
//!   free_head ──► slot ──► slot ──► ... ──► end           a chain: head slot ──► ... ──► last
//!   old_free_head, old_used_idx, old_used_wrap: as they were when the driver was last shown something
//! ```

use super::{InFlightError, Region, VERSION, VERSION_AT, side_by_side};
use crate::RingState;
use crate::descriptor::PackedDescriptor;

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

/// Where the device returns next, and the wrap counter that goes with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) index: u16,
    pub(super) wrap: bool,
}

/// What is known privately of a slot, so that the client cannot change it.
#[derive(Clone, Copy, Default)]
pub(super) struct Slot {
    pub(super) next: u16,
    /// Of a head: the chain's last slot, and its length.
    pub(super) last: u16,
    pub(super) num: u16,
}

/// The log of a packed ring.
pub struct PackedLog {
    pub(super) region: Region,
    pub(super) ring_size: u16,
    pub(super) counter: u64,
    pub(super) slots: Box<[Slot]>,
    /// As committed: the same in `free_head` and `old_free_head`, but for a batch that is being returned.
    pub(super) free_head: u16,
    pub(super) used: Place,
    /// Slots that are being returned, in order.
    batch: Vec<u16>,
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
            batch: Vec::with_capacity(entries),
        }
    }

    /// A chain was taken from the ring. Returns its slot; `None` when it has no descriptors or more than there is room for,
    /// which is more than the ring has places.
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

    /// A chain is done; its used descriptor comes behind those of the batch so far.
    #[inline]
    pub(crate) fn returning(&mut self, slot: u16) {
        // There is room for every slot once, and none is returned twice; a mistake would cost only its own entry.
        if slot < self.region.entries && self.batch.len() < self.batch.capacity() {
            self.batch.push(slot);
        }
    }

    /// The batch is about to be shown to the driver.
    #[inline]
    pub(crate) fn publishing(&mut self) {
        let (mut free, mut places) = (self.free_head, 0);
        for &head in &self.batch {
            let Slot { last, num, .. } = self.slots[usize::from(head)];
            self.region.words.store_u16(entry(last) + NEXT, free);
            self.slots[usize::from(last)].next = free;
            free = head;
            places += u32::from(num);
        }
        let used = self.used.advanced(places, self.ring_size);
        self.store_free(free, self.free_head);
        self.store_used(used, self.used);
        (self.free_head, self.used) = (free, used);
    }

    /// The driver was shown the batch.
    #[inline]
    pub(crate) fn returned(&mut self) {
        for head in self.batch.drain(..) {
            self.region.words.store_u8(entry(head) + IN_FLIGHT, 0);
        }
        self.store_free(self.free_head, self.free_head);
        self.store_used(self.used, self.used);
    }

    pub(super) fn store_free(&self, now: u16, old: u16) {
        self.region.words.store_u64(VERSION_AT, side_by_side([VERSION, self.region.entries, now, old]));
    }

    pub(super) fn store_used(&self, now: Place, old: Place) {
        let wraps = u16::from_ne_bytes([now.wrap.into(), old.wrap.into()]);
        self.region.words.store_u64(USED_AT, side_by_side([now.index, old.index, wraps, 0]));
    }
}

impl Place {
    pub(super) fn from_state(state: u16, size: u16) -> Result<Self, InFlightError> {
        match state & !RingState::WRAP {
            index if index < size => Ok(Self { index, wrap: state & RingState::WRAP != 0 }),
            index => Err(InFlightError::Damaged { what: "its ring stands at place", value: index.into() }),
        }
    }

    pub(super) fn state(self) -> u16 {
        self.index | if self.wrap { RingState::WRAP } else { 0 }
    }

    pub(super) fn advanced(self, places: u32, size: u16) -> Self {
        let (total, size) = (u32::from(self.index) + places, u32::from(size));
        if total < size {
            return Self { index: total as u16, wrap: self.wrap };
        }
        Self { index: (total % size) as u16, wrap: self.wrap ^ (total / size % 2 == 1) }
    }
}

/// Where entry `slot` begins.
pub(super) fn entry(slot: u16) -> usize {
    ENTRIES_AT + ENTRY_BYTES * usize::from(slot)
}
