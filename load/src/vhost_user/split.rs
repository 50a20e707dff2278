//! The driver's side of one split virtqueue (section 2.7 of the virtio specification), as cheap as it can be.
//!
//! ```text
//!   slot s: descriptors 4s → 4s+1 → 4s+2          made once; chains never change, so they stay in the device's cache
//!           header (16 bytes) → data → status
//!   request: sector into the header, 4s into the avail ring;  once per batch: the avail index, a kick if wanted
//! ```
//!
//! # Memory ordering
//!
//! | step | ordering | why |
//! |---|---|---|
//! | store avail.idx | Release (and more, below) | headers and avail entries are visible to whoever sees the new index |
//! | avail.idx, then load avail_event or used.flags | both SeqCst | the device writes these, fences and looks at avail.idx again before it sleeps; we store the index and then read them: one of the two sees the other's store, so no kick is lost (2.7.13) |
//! | load used.idx | Acquire | pairs with the device's release: data, status bytes and used entries are visible |
//! | headers, entries, statuses | volatile | another process reads and writes them; each is touched once |
//!
//! # Notifications
//!
//! The driver polls, so the device is told never to interrupt: with EVENT_IDX by a used_event that it has passed
//! already (moved along before 16-bit indices wrap around to it), else by NO_INTERRUPT.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use virtio_bindings::virtio_blk as blk;
use vmm_sys_util::eventfd::EventFd;

use super::layout::{DESC_BYTES, DESCS_PER_SLOT, HEADER_BYTES, Layout};
use super::memory::SharedMemory;
use crate::{Buffer, Done, Error, Lane, Op};

const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;
/// used_event is moved along when the ring has run this far past it.
const USED_EVENT_STRIDE: u16 = 0x4000;
/// A status that no device writes.
const NO_STATUS: u8 = 0xFF;
const SECTOR_SHIFT: u32 = 9;

/// What the driver remembers of a slot, because the device might change what is in shared memory.
#[derive(Clone, Copy)]
struct Slot {
    in_flight: bool,
    /// What header and data descriptor say now.
    op: Op,
}

/// One split ring under load.
pub struct SplitLane {
    target: Arc<str>,
    queue: u16,
    memory: Arc<SharedMemory>,
    layout: Layout,
    event_idx: bool,
    kick: EventFd,
    kicks: u64,
    slots: Box<[Slot]>,
    in_flight: u16,
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
    /// The driver of a ring that lies in `memory` as `layout` says, is all zeroes but for
    /// [`suppress_interrupts`](Self::suppress_interrupts), and starts at index 0.
    pub(super) fn new(
        target: Arc<str>,
        queue: u16,
        memory: Arc<SharedMemory>,
        layout: Layout,
        event_idx: bool,
        kick: EventFd,
    ) -> Self {
        assert!(layout.end <= memory.len_bytes(), "the layout is the one that the memory was made for");
        let mut lane = Self {
            target,
            queue,
            memory,
            layout,
            event_idx,
            kick,
            kicks: 0,
            slots: vec![Slot { in_flight: false, op: Op::Read }; layout.depth as usize].into(),
            in_flight: 0,
            next_avail: 0,
            published_avail: 0,
            next_used: 0,
            used_event: u16::MAX,
        };
        (0..layout.depth).for_each(|slot| lane.make_chain(slot));
        lane
    }

    /// Tells the device not to interrupt; call it before the device knows the ring.
    pub(super) fn suppress_interrupts(memory: &SharedMemory, layout: &Layout, event_idx: bool) {
        let (at, value) = match event_idx {
            true => (2 + usize::from(layout.ring_size), u16::MAX),
            false => (0, AVAIL_F_NO_INTERRUPT),
        };
        word(memory, layout.avail, at).store(value.to_le(), Ordering::Relaxed);
    }

    /// Writes what stays the same for all requests of a slot.
    fn make_chain(&mut self, slot: u32) {
        let head = slot * DESCS_PER_SLOT;
        let header = self.layout.headers + slot as usize * HEADER_BYTES;
        let status = self.layout.statuses + slot as usize;
        self.write_desc(head, header, HEADER_BYTES as u32, DESC_F_NEXT, head + 1);
        self.write_desc(head + 2, status, 1, DESC_F_WRITE, 0);
        self.write_op(slot, Op::Read);
        // SAFETY: the status byte lies in the memory (see `new`).
        unsafe { self.memory.start().add(status).write_volatile(NO_STATUS) };
    }

    /// Makes a slot a read or a write: its data descriptor and the type in its header.
    fn write_op(&mut self, slot: u32, op: Op) {
        let (kind, flags) = match op {
            Op::Read => (blk::VIRTIO_BLK_T_IN, DESC_F_NEXT | DESC_F_WRITE),
            Op::Write => (blk::VIRTIO_BLK_T_OUT, DESC_F_NEXT),
        };
        let data = slot * DESCS_PER_SLOT + 1;
        self.write_desc(data, self.layout.data_of(slot), self.layout.block_bytes as u32, flags, data + 1);
        let header = self.layout.headers + slot as usize * HEADER_BYTES;
        // SAFETY: the header lies in the memory (see `new`) and is 16-byte aligned.
        unsafe { self.memory.start().add(header).cast::<u32>().write_volatile(kind.to_le()) };
        self.slots[slot as usize].op = op;
    }

    fn write_desc(&mut self, index: u32, offset: usize, len_bytes: u32, flags: u16, next: u32) {
        debug_assert!(index < self.layout.ring_size.into());
        let low = self.memory.guest_address(offset);
        let high = u64::from(len_bytes) | u64::from(flags) << 32 | u64::from(next) << 48;
        // SAFETY: the table has `ring_size` descriptors, lies in the memory (see `new`) and is 128-byte aligned.
        unsafe {
            let at = self.memory.start().add(self.layout.desc + index as usize * DESC_BYTES).cast::<u64>();
            at.write_volatile(low.to_le());
            at.add(1).write_volatile(high.to_le());
        }
    }

    /// The avail ring as 16-bit words: flags, idx, ring[size], used_event.
    #[inline]
    fn avail_word(&self, index: usize) -> &AtomicU16 {
        word(&self.memory, self.layout.avail, index)
    }

    /// The used ring as 16-bit words: flags, idx, ring[size] of four words, avail_event.
    #[inline]
    fn used_word(&self, index: usize) -> &AtomicU16 {
        word(&self.memory, self.layout.used, index)
    }

    /// Whether the device wants to be told of the entries from `old` to `new`; both loads are SeqCst, see above.
    #[inline]
    fn device_wants_kick(&self, old: u16, new: u16) -> bool {
        if self.event_idx {
            let at = 2 + 4 * usize::from(self.layout.ring_size);
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
            self.used_event = self.next_used.wrapping_sub(1);
            let at = 2 + usize::from(self.layout.ring_size);
            self.avail_word(at).store(self.used_event.to_le(), Ordering::Relaxed);
        }
    }

    /// Reads the used entry at `next_used`, and the status of its slot.
    #[inline]
    fn take_used(&mut self) -> Result<Done, Error> {
        let position = usize::from(self.next_used & (self.layout.ring_size - 1));
        // SAFETY: the used ring has `ring_size` entries, lies in the memory (see `new`), and entries are 4-byte aligned.
        let id = u32::from_le(unsafe {
            self.memory.start().add(self.layout.used + 4 + 8 * position).cast::<u32>().read_volatile()
        });
        let slot = id / DESCS_PER_SLOT;
        let known =
            id % DESCS_PER_SLOT == 0 && slot < self.layout.depth && self.slots[slot as usize].in_flight;
        if !known {
            return Err(
                self.broken(format!("used entry {position} names the chain {id}, which is not in flight"))
            );
        }
        self.slots[slot as usize].in_flight = false;
        self.next_used = self.next_used.wrapping_add(1);
        // SAFETY: the status byte lies in the memory (see `new`).
        let status = unsafe { self.memory.start().add(self.layout.statuses + slot as usize).read_volatile() };
        Ok(Done { slot, fault: fault(status) })
    }

    #[cold]
    fn broken(&self, what: String) -> Error {
        Error::Ring { target: self.target.to_string(), queue: self.queue, what }
    }
}

impl Lane for SplitLane {
    #[inline]
    fn prepare(&mut self, slot: u32, op: Op, offset_bytes: u64) {
        let state = &mut self.slots[slot as usize];
        debug_assert!(!state.in_flight, "slot {slot} is in flight");
        state.in_flight = true;
        if state.op != op {
            self.write_op(slot, op);
        }
        let header = self.layout.headers + slot as usize * HEADER_BYTES;
        let sector = offset_bytes >> SECTOR_SHIFT;
        // SAFETY: the slot exists (it was indexed above), so its header lies in the memory (see `new`), 16-byte aligned.
        unsafe { self.memory.start().add(header + 8).cast::<u64>().write_volatile(sector.to_le()) };
        let position = usize::from(self.next_avail & (self.layout.ring_size - 1));
        let head = (slot * DESCS_PER_SLOT) as u16;
        // Relaxed: ordered by the store of the index.
        self.avail_word(2 + position).store(head.to_le(), Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.in_flight += 1;
    }

    #[inline]
    fn publish(&mut self) -> Result<(), Error> {
        let (old, new) = (self.published_avail, self.next_avail);
        if old == new {
            return Ok(());
        }
        self.avail_word(1).store(new.to_le(), Ordering::SeqCst);
        self.published_avail = new;
        if self.device_wants_kick(old, new) {
            self.kicks += 1;
            self.kick.write(1).map_err(|source| Error::Event {
                target: self.target.to_string(),
                queue: self.queue,
                source,
            })?;
        }
        Ok(())
    }

    #[inline]
    fn reap(&mut self, done: &mut Vec<Done>) -> Result<(), Error> {
        let index = u16::from_le(self.used_word(1).load(Ordering::Acquire));
        let count = index.wrapping_sub(self.next_used);
        if count == 0 {
            return Ok(());
        }
        if count > self.in_flight {
            let (from, in_flight) = (self.next_used, self.in_flight);
            return Err(
                self.broken(format!("used index went from {from} to {index} with {in_flight} in flight"))
            );
        }
        for _ in 0..count {
            let used = self.take_used()?;
            done.push(used);
        }
        self.in_flight -= count;
        self.keep_interrupts_suppressed();
        Ok(())
    }

    fn buffer(&mut self, slot: u32) -> Buffer<'_> {
        assert!(slot < self.layout.depth);
        // SAFETY: the slot's data lies in the memory (see `new`), on a multiple of 512 bytes from a page, and is mapped
        // as long as the lane, which is borrowed.
        unsafe { Buffer::new(self.memory.start().add(self.layout.data_of(slot)), self.layout.block_bytes) }
    }

    fn kicks(&self) -> u64 {
        self.kicks
    }
}

/// A 16-bit word of a ring that starts at `ring`.
#[inline]
fn word(memory: &SharedMemory, ring: usize, index: usize) -> &AtomicU16 {
    debug_assert!(ring + 2 * index + 2 <= memory.len_bytes());
    // SAFETY: callers stay within their ring, whose parts `SplitLane::new` (and the session, which sized the memory by
    // the same layout) found in the memory; rings are 128-byte aligned. An atomic is the one kind of reference that
    // others may store behind.
    unsafe { AtomicU16::from_ptr(memory.start().add(ring).cast::<u16>().add(index)) }
}

fn fault(status: u8) -> Option<&'static str> {
    match u32::from(status) {
        blk::VIRTIO_BLK_S_OK => None,
        blk::VIRTIO_BLK_S_IOERR => Some("I/O error (status IOERR)"),
        blk::VIRTIO_BLK_S_UNSUPP => Some("not supported (status UNSUPP)"),
        _ => Some("the device wrote no status"),
    }
}
