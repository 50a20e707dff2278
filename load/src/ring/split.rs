//! The driver's side of one split virtqueue (section 2.7 of the virtio specification), as cheap as it can be.
//!
//! ```text
//!   slot s: descriptors 4s → 4s+1 → 4s+2          made once; chains never change, so they stay in the device's cache
//!           header (16 bytes) → data → status     (indirect: the same three in a table, and descriptor s names it)
//!   request: sector into the header, the head into the avail ring;  once per batch: the avail index, a kick if wanted
//! ```
//!
//! # Memory ordering
//!
//! | step | ordering | why |
//! |---|---|---|
//! | store avail.idx | Release (and more, below) | headers and avail entries are visible to whoever sees the new index |
//! | avail.idx, then load avail_event or used.flags | both SeqCst | the device writes these, fences and looks at avail.idx again before it sleeps; we store the index and then read them: one of the two sees the other's store, so no kick is lost (2.7.13) |
//! | load used.idx | Acquire | pairs with the device's release: data, status bytes and used entries are visible |
//! | used_event or avail.flags, then load used.idx | SeqCst fence between | the same the other way round, before we sleep (2.7.10) |
//! | entries | volatile | another process reads and writes them; each is touched once |
//!
//! # Notifications
//!
//! A driver that polls tells the device never to interrupt: with EVENT_IDX by a used_event that the device has passed
//! already (moved along before 16-bit indices wrap around to it), else by NO_INTERRUPT.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use super::events::Events;
use super::layout::{DESC_BYTES, Layout, TABLE_BYTES, TABLE_DESCS};
use super::memory::SharedMemory;
use super::slots::{DESC_F_INDIRECT, DESC_F_NEXT, Piece, Slots};
use crate::{Buffer, Done, Error, Lane, Op};

const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;
/// used_event is moved along when the ring has run this far past it.
const USED_EVENT_STRIDE: u16 = 0x4000;

/// One split ring under load.
pub struct SplitLane {
    slots: Slots,
    events: Events,
    event_idx: bool,
    /// Descriptors from one slot's head to the next one's.
    head_stride: u32,
    /// Next avail entry to write.
    next_avail: u16,
    /// avail.idx as the device sees it.
    published_avail: u16,
    /// Next used entry to read.
    next_used: u16,
    /// What used_event was last set to.
    used_event: u16,
}

impl SplitLane {
    /// The driver of a ring that lies in the slots' memory, is all zeroes but for
    /// [`suppress_interrupts`](Self::suppress_interrupts), and starts at index 0.
    pub(crate) fn new(slots: Slots, events: Events, event_idx: bool) -> Self {
        let head_stride = if slots.layout().indirect { 1 } else { TABLE_DESCS };
        let depth = slots.layout().depth;
        let mut lane = Self {
            slots,
            events,
            event_idx,
            head_stride,
            next_avail: 0,
            published_avail: 0,
            next_used: 0,
            used_event: u16::MAX,
        };
        (0..depth).for_each(|slot| lane.write_chain(slot));
        lane
    }

    /// Tells the device not to interrupt; call it before the device knows the ring.
    pub(crate) fn suppress_interrupts(memory: &SharedMemory, layout: &Layout, event_idx: bool) {
        let (at, value) = match event_idx {
            true => (2 + usize::from(layout.ring_size), u16::MAX),
            false => (0, AVAIL_F_NO_INTERRUPT),
        };
        word(memory, layout.driver, at).store(value.to_le(), Ordering::Relaxed);
    }

    /// Writes the descriptors of a slot, which stay until it does something else.
    fn write_chain(&mut self, slot: u32) {
        let layout = *self.slots.layout();
        let head = slot * self.head_stride;
        let (table, first) = match layout.indirect {
            true => (layout.table_of(slot), 0),
            false => (layout.desc + head as usize * DESC_BYTES, head),
        };
        let [header, data, status] = self.slots.pieces(slot);
        self.write_desc(table, Piece { flags: DESC_F_NEXT, ..header }, first + 1);
        self.write_desc(table + DESC_BYTES, Piece { flags: data.flags | DESC_F_NEXT, ..data }, first + 2);
        self.write_desc(table + 2 * DESC_BYTES, status, 0);
        if layout.indirect {
            let address = self.slots.memory().guest_address(table);
            let len_bytes = (TABLE_BYTES - DESC_BYTES) as u32;
            let at = layout.desc + head as usize * DESC_BYTES;
            self.write_desc(at, Piece { address, len_bytes, flags: DESC_F_INDIRECT }, 0);
        }
    }

    fn write_desc(&mut self, offset: usize, piece: Piece, next: u32) {
        let high = u64::from(piece.len_bytes) | u64::from(piece.flags) << 32 | u64::from(next) << 48;
        debug_assert!(offset + DESC_BYTES <= self.slots.layout().end && offset.is_multiple_of(DESC_BYTES));
        // SAFETY: `write_chain` stays within the ring's or a slot's own descriptors, which lie in the memory (see
        // `Slots::new`) and are 16-byte aligned.
        unsafe {
            let at = self.slots.memory().start().add(offset).cast::<u64>();
            at.write_volatile(piece.address.to_le());
            at.add(1).write_volatile(high.to_le());
        }
    }

    /// The avail ring as 16-bit words: flags, idx, ring[size], used_event.
    #[inline]
    fn avail_word(&self, index: usize) -> &AtomicU16 {
        word(self.slots.memory(), self.slots.layout().driver, index)
    }

    /// The used ring as 16-bit words: flags, idx, ring[size] of four words, avail_event.
    #[inline]
    fn used_word(&self, index: usize) -> &AtomicU16 {
        word(self.slots.memory(), self.slots.layout().device, index)
    }

    #[inline]
    fn used_index(&self) -> u16 {
        u16::from_le(self.used_word(1).load(Ordering::Acquire))
    }

    fn set_used_event(&mut self, index: u16) {
        self.used_event = index;
        let at = 2 + usize::from(self.slots.layout().ring_size);
        self.avail_word(at).store(index.to_le(), Ordering::Relaxed);
    }

    /// Whether the device wants to be told of the entries from `old` to `new`; both loads are SeqCst, see above.
    #[inline]
    fn device_wants_kick(&self, old: u16, new: u16) -> bool {
        if self.event_idx {
            let at = 2 + 4 * usize::from(self.slots.layout().ring_size);
            let avail_event = u16::from_le(self.used_word(at).load(Ordering::SeqCst));
            // 2.7.7.2, as for interrupts: avail_event lies in [old, new).
            new.wrapping_sub(avail_event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            u16::from_le(self.used_word(0).load(Ordering::SeqCst)) & USED_F_NO_NOTIFY == 0
        }
    }

    /// The device interrupts when its index passes used_event; keep that behind it, out of reach of a wrap-around.
    #[inline]
    fn keep_interrupts_suppressed(&mut self) {
        if self.event_idx && self.next_used.wrapping_sub(self.used_event) > USED_EVENT_STRIDE {
            // The device may have shown the last entries and not looked here yet: further back than all that it can show at once.
            let behind = self.slots.layout().depth as u16 + 1;
            self.set_used_event(self.next_used.wrapping_sub(behind));
        }
    }

    /// Reads the used entry at `next_used`, and the status of its slot.
    #[inline]
    fn take_used(&mut self) -> Result<Done, Error> {
        let layout = self.slots.layout();
        let position = usize::from(self.next_used & (layout.ring_size - 1));
        // SAFETY: the used ring has `ring_size` entries, lies in the memory (see `Slots::new`), and entries are 4-byte
        // aligned.
        let id = u32::from_le(unsafe {
            let entry = self.slots.memory().start().add(layout.device + 4 + 8 * position);
            entry.cast::<u32>().read_volatile()
        });
        // The stride is a power of two, 1 or 4.
        let slot = id >> self.head_stride.trailing_zeros();
        let is_head = id & (self.head_stride - 1) == 0;
        let Some(done) = is_head.then(|| self.slots.end(slot)).flatten() else {
            let what = format!("used entry {position} names the chain {id}, which is not in flight");
            return Err(self.events.broken(what));
        };
        self.next_used = self.next_used.wrapping_add(1);
        Ok(done)
    }
}

impl Lane for SplitLane {
    #[inline(always)]
    fn prepare(&mut self, slot: u32, op: Op, offset_bytes: u64) {
        if self.slots.begin(slot, op, offset_bytes) {
            self.write_chain(slot);
        }
        let position = usize::from(self.next_avail & (self.slots.layout().ring_size - 1));
        let head = (slot * self.head_stride) as u16;
        // Relaxed: ordered by the store of the index.
        self.avail_word(2 + position).store(head.to_le(), Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    #[inline]
    fn publish(&mut self) -> Result<(), Error> {
        let (old, new) = (self.published_avail, self.next_avail);
        if old == new {
            return Ok(());
        }
        self.avail_word(1).store(new.to_le(), Ordering::SeqCst);
        self.published_avail = new;
        if self.device_wants_kick(old, new) { self.events.kick() } else { Ok(()) }
    }

    #[inline]
    fn reap(&mut self, done: &mut Vec<Done>) -> Result<(), Error> {
        let index = self.used_index();
        let count = index.wrapping_sub(self.next_used);
        if count == 0 {
            return Ok(());
        }
        if u32::from(count) > self.slots.in_flight() {
            let (from, in_flight) = (self.next_used, self.slots.in_flight());
            let what = format!("used index went from {from} to {index} with {in_flight} in flight");
            return Err(self.events.broken(what));
        }
        for _ in 0..count {
            let used = self.take_used()?;
            done.push(used);
        }
        self.keep_interrupts_suppressed();
        Ok(())
    }

    fn buffer(&mut self, slot: u32) -> Buffer<'_> {
        self.slots.buffer(slot)
    }

    fn arm(&mut self) -> bool {
        if self.event_idx {
            self.set_used_event(self.next_used);
        } else {
            self.avail_word(0).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.used_index() == self.next_used
    }

    fn disarm(&mut self) {
        // With EVENT_IDX nothing is to be done: the device interrupts once when it passes used_event, and no more.
        if !self.event_idx {
            self.avail_word(0).store(AVAIL_F_NO_INTERRUPT.to_le(), Ordering::Relaxed);
        }
    }

    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        Some(self.events.interrupt())
    }

    fn take_interrupts(&mut self) -> u64 {
        self.events.take_interrupts()
    }

    fn kicks(&self) -> u64 {
        self.events.kicks()
    }
}

/// A 16-bit word of a ring part that starts at `part`.
#[inline]
fn word(memory: &SharedMemory, part: usize, index: usize) -> &AtomicU16 {
    debug_assert!(part + 2 * index + 2 <= memory.len_bytes());
    // SAFETY: callers stay within their part, which `Slots::new` (and the session, which sized the memory by the same
    // layout) found in the memory; parts are 128-byte aligned. An atomic is the one kind of reference that others may
    // store behind.
    unsafe { AtomicU16::from_ptr(memory.start().add(part).cast::<u16>().add(index)) }
}
