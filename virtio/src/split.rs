//! The split virtqueue, device side (section 2.7).
//!
//! # Memory ordering
//!
//! | step | ordering | why |
//! |---|---|---|
//! | load avail.idx | Acquire | pairs with the driver's release of idx: the ring entries and descriptors below it are visible |
//! | store used.idx | Release | the data, status bytes and used entries are visible to whoever sees the new idx |
//! | used.idx, then load used_event or avail.flags | SeqCst fence between | the driver stores used_event, fences and re-reads used.idx; we store used.idx, fence and read used_event: one of the two sees the other's store, so no interrupt is lost (2.7.7.2, 2.7.10) |
//! | descriptors, avail entries | volatile | the driver may change them at any time; each is read once into a copy |
//!
//! # Notifications
//!
//! The device polls, so the driver is told never to kick: with EVENT_IDX by an avail_event that it has passed
//! already (moved along before 16-bit indices wrap around to it), else by NO_NOTIFY in used.flags.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use crate::chain::{Buffer, Chain, ChainFault, Header};
use crate::descriptor::{DESC_BYTES, Descriptor, MAX_WALK, Table, indirect_table, usual_table};
use crate::memory::CoreMemory;
use crate::virtqueue::{Head, Ring, ring_part};
use crate::{QueueError, RingConfig, RingState};

/// avail.flags: the driver wants no interrupt (2.7.6).
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// used.flags: the device wants no kick (2.7.8).
const USED_F_NO_NOTIFY: u16 = 1;
/// avail_event is moved along when the ring has run this far past it.
const AVAIL_EVENT_STRIDE: u16 = 0x4000;

/// The device's end of a split virtqueue. See [`Virtqueue`](crate::virtqueue::Virtqueue) for the contract.
#[derive(Clone)]
pub(crate) struct SplitQueue {
    desc: *const u8,
    avail: *const u8,
    used: *mut u8,
    size: u16,
    /// For indices in the ring.
    mask: u16,
    event_idx: bool,
    /// Next avail entry to take.
    next_avail: u16,
    /// avail.idx as the last `look` found it.
    seen_avail: u16,
    /// Next used entry to write.
    next_used: u16,
    /// Up to where the driver was asked whether it wants an interrupt.
    published_used: u16,
    /// What avail_event was last set to.
    avail_event: u16,
}

impl SplitQueue {
    /// Finds the ring in `memory` and starts at `state.avail`. Used entries go on behind those that the ring holds, which is
    /// the same number when nothing is in flight.
    pub(crate) fn new(memory: &mut CoreMemory, config: RingConfig) -> Result<Self, QueueError> {
        let RingConfig { addresses: at, size, state, event_idx, .. } = config;
        if !size.is_power_of_two() {
            return Err(QueueError::BadSize(size));
        }
        let entries = u64::from(size);
        let desc = ring_part(memory, "descriptor table", at.desc, DESC_BYTES * entries, 16)?;
        let avail = ring_part(memory, "avail ring", at.avail, 6 + 2 * entries, 2)?;
        let used = ring_part(memory, "used ring", at.used, 6 + 8 * entries, 4)?;
        let mut queue = Self {
            desc,
            avail,
            used,
            size,
            mask: size - 1,
            event_idx,
            next_avail: state.avail,
            seen_avail: state.avail,
            next_used: 0,
            published_used: 0,
            avail_event: 0,
        };
        queue.next_used = u16::from_le(queue.used_word(1).load(Ordering::Relaxed));
        queue.published_used = queue.next_used;
        queue.suppress_kicks();
        Ok(queue)
    }

    pub(crate) fn state(&self) -> RingState {
        RingState { avail: self.next_avail, used: self.next_used }
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Goes on at another avail index, before anything was taken.
    pub(crate) fn go_on_at(&mut self, next_avail: u16) {
        (self.next_avail, self.seen_avail) = (next_avail, next_avail);
        self.suppress_kicks();
    }

    /// Translates the chain that begins at descriptor `id`, as [`Ring::walk`] does with the next one.
    pub(crate) fn walk_from(&self, id: u16, memory: &mut CoreMemory, chain: &mut Chain) -> Option<Header> {
        chain.set_head(Head { id, places: 1 });
        chain.fill(|chain| walk(self.table(), id, memory, chain))
    }

    /// avail.idx, and what it holds while there is no chain.
    pub(crate) fn watched(&self) -> (*const u16, u16) {
        (self.avail_word(1).as_ptr(), self.next_avail.to_le())
    }

    #[inline]
    pub(crate) fn has_unpublished(&self) -> bool {
        self.next_used != self.published_used
    }

    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        self.show();
        self.notify()
    }

    /// Shows the driver all that was returned.
    #[inline]
    pub(crate) fn show(&mut self) {
        self.used_word(1).store(self.next_used.to_le(), Ordering::Release);
    }

    /// Whether the driver wants an interrupt for what it has been shown since this was asked last.
    #[inline]
    pub(crate) fn notify(&mut self) -> bool {
        let (old, new) = (self.published_used, self.next_used);
        self.published_used = new;
        self.keep_kicks_suppressed();
        // See the table at the head of this module.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let used_event =
                u16::from_le(self.avail_word(2 + usize::from(self.size)).load(Ordering::Relaxed));
            // 2.7.7.2: used_event lies in [old, new).
            new.wrapping_sub(used_event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            u16::from_le(self.avail_word(0).load(Ordering::Relaxed)) & AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// The first descriptor of the next chain, as the avail ring names it.
    #[inline]
    fn next_id(&self) -> u16 {
        let slot = usize::from(self.next_avail & self.mask);
        // Relaxed: ordered by the Acquire load of the index.
        u16::from_le(self.avail_word(2 + slot).load(Ordering::Relaxed))
    }

    #[inline]
    fn table(&self) -> Table {
        // SAFETY: `new` found `size` descriptors mapped at `desc`; whoever owns the queue keeps them mapped.
        unsafe { Table::new(self.desc, self.size.into()) }
    }

    fn suppress_kicks(&mut self) {
        if self.event_idx {
            self.used_word(0).store(0, Ordering::Relaxed);
            self.set_avail_event(self.next_avail.wrapping_sub(1));
        } else {
            self.used_word(0).store(USED_F_NO_NOTIFY.to_le(), Ordering::Relaxed);
        }
    }

    /// The driver kicks when its index passes avail_event; keep that behind it, out of reach of a wrap-around.
    #[inline]
    fn keep_kicks_suppressed(&mut self) {
        if self.event_idx && self.next_avail.wrapping_sub(self.avail_event) > AVAIL_EVENT_STRIDE {
            self.set_avail_event(self.next_avail.wrapping_sub(1));
        }
    }

    fn set_avail_event(&mut self, index: u16) {
        self.avail_event = index;
        self.used_word(2 + 4 * usize::from(self.size)).store(index.to_le(), Ordering::Relaxed);
    }

    /// The avail ring as 16-bit words: flags, idx, ring[size], used_event.
    #[inline]
    fn avail_word(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < 3 + usize::from(self.size));
        // SAFETY: `new` found 6 + 2 * size bytes mapped at `avail`, 2-byte aligned, and every caller's index is below
        // 3 + size. An atomic is the one kind of reference that others may store behind.
        unsafe { AtomicU16::from_ptr(self.avail.cast::<u16>().add(index).cast_mut()) }
    }

    /// The used ring as 16-bit words: flags, idx, ring[size] of four words, avail_event.
    #[inline]
    fn used_word(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < 3 + 4 * usize::from(self.size));
        // SAFETY: `new` found 6 + 8 * size bytes mapped at `used`, 4-byte aligned; callers use words 0, 1 and 2 + 4 * size.
        unsafe { AtomicU16::from_ptr(self.used.cast::<u16>().add(index)) }
    }
}

impl Ring for SplitQueue {
    fn position(&self) -> u16 {
        self.next_avail & self.mask
    }

    #[inline]
    fn look(&mut self) -> Result<bool, QueueError> {
        let index = u16::from_le(self.avail_word(1).load(Ordering::Acquire));
        if index.wrapping_sub(self.next_avail) > self.size {
            return Err(QueueError::AvailOverrun { index, next: self.next_avail, size: self.size });
        }
        self.seen_avail = index;
        Ok(self.has_next())
    }

    #[inline]
    fn has_next(&self) -> bool {
        self.seen_avail != self.next_avail
    }

    #[inline(always)]
    fn usual(&self, memory: &CoreMemory) -> Option<(Head, [Buffer; 3])> {
        let id = self.next_id();
        let first: Descriptor = self.table().read(id.into())?;
        let buffers = match first.flags {
            Descriptor::INDIRECT => {
                three_in_a_row(usual_table(memory, first.iova, first.len_bytes)?.read_three(0)?, 0)
            }
            _ => three_in_a_row(self.table().read_three(id)?, id),
        };
        Some((Head { id, places: 1 }, buffers?))
    }

    fn walk(&self, memory: &mut CoreMemory, chain: &mut Chain) -> Option<Header> {
        self.walk_from(self.next_id(), memory, chain)
    }

    #[inline]
    fn answer(&mut self, head: Head, written_bytes: u32) {
        let mark = self.keep(head);
        self.push_used(head, mark, written_bytes);
    }

    #[inline]
    fn keep(&mut self, head: Head) -> u16 {
        self.next_avail = self.next_avail.wrapping_add(head.places);
        head.id
    }

    #[inline]
    fn push_used(&mut self, head: Head, _: u16, written_bytes: u32) {
        let slot = usize::from(self.next_used & self.mask);
        let entry = (u64::from(head.id) | u64::from(written_bytes) << 32).to_le();
        // SAFETY: `new` found 6 + 8 * size bytes mapped at `used`, and slot < size. Nobody reads the entry before the
        // index is published, so a plain store will do; it may be 4-byte aligned only.
        unsafe { self.used.add(4 + 8 * slot).cast::<u64>().write_unaligned(entry) };
        self.next_used = self.next_used.wrapping_add(1);
    }
}

/// The buffers of three descriptors from `at` on, if they are a chain in this order: side by side, as descriptors are that
/// always go together.
#[inline(always)]
fn three_in_a_row([header, data, status]: [Descriptor; 3], at: u16) -> Option<[Buffer; 3]> {
    // NEXT and the successor, in one word.
    let link = u32::from(at) << 16 | u32::from(Descriptor::NEXT);
    let usual = header.link() == link + (1 << 16)
        && data.link() & !u32::from(Descriptor::WRITE) == link + (2 << 16)
        && status.flags == Descriptor::WRITE;
    usual.then(|| [header.buffer(), data.buffer(), status.buffer()])
}

/// Walks a chain of any shape, from descriptor `id` of the ring's own table on. The last descriptor there may point to a
/// table with the rest (2.7.5.3.2).
fn walk(table: Table, id: u16, memory: &mut CoreMemory, chain: &mut Chain) -> Result<(), ChainFault> {
    let first = table.read(id.into()).ok_or(ChainFault::BadIndex(id))?;
    if let Some(last) = follow(table, first, memory, chain)? {
        if last.flags & Descriptor::NEXT != 0 {
            return Err(ChainFault::BadIndirect);
        }
        let table = indirect_table(memory, last.iova, last.len_bytes)?;
        let first = table.read(0).ok_or(ChainFault::BadIndex(0))?;
        if follow(table, first, memory, chain)?.is_some() {
            return Err(ChainFault::BadIndirect);
        }
    }
    Ok(())
}

/// Adds the buffers from `first` on, as `next` links them. Ends after the last one, or at one that is an indirect table,
/// which it returns.
fn follow(
    table: Table,
    first: Descriptor,
    memory: &mut CoreMemory,
    chain: &mut Chain,
) -> Result<Option<Descriptor>, ChainFault> {
    let mut desc = first;
    for _ in 0..table.entries().min(MAX_WALK) {
        if desc.flags & Descriptor::INDIRECT != 0 {
            return Ok(Some(desc));
        }
        chain.add(memory, desc.buffer());
        if desc.flags & Descriptor::NEXT == 0 {
            return Ok(None);
        }
        desc = table.read(desc.next.into()).ok_or(ChainFault::BadIndex(desc.next))?;
    }
    Err(if table.entries() >= MAX_WALK { ChainFault::TooMany } else { ChainFault::Loop })
}
