//! The packed virtqueue, device side (section 2.8): one ring of descriptors that both sides write.
//!
//! ```text
//!   driver writes chains ──►  │ D D D │ D D D │ ...        available: AVAIL = the driver's wrap counter, USED = not
//!                              ▲ used  ▲ avail
//!   device overwrites ──────►  │ U     │                   used: AVAIL = USED = the device's wrap counter
//! ```
//! A wrap counter turns over each time its side passes the end of the ring. A used descriptor stands where the chain's
//! first place would be if chains were returned in order, and leaves its other places unwritten: both sides skip them.
//!
//! # Memory ordering
//!
//! | step | ordering | why |
//! |---|---|---|
//! | load a head's flags | Acquire | pairs with the driver's release of them, which it writes last: the rest of the chain is visible |
//! | store the batch's first used descriptor | Release | the driver looks at that one first; the later ones, data and status bytes are visible once it is |
//! | that store, then load the driver's event suppression | SeqCst fence between | as in the split ring: no interrupt is lost (2.8.14) |
//! | descriptors | volatile | the driver may change them at any time; each is read once into a copy |
//!
//! The device polls, so its own event suppression says DISABLE from the start and is never written again.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};

use crate::chain::{Buffer, Chain, ChainFault, Header};
use crate::descriptor::{
    DESC_BYTES, Descriptor, MAX_WALK, PackedDescriptor, Table, indirect_table, usual_table,
};
use crate::memory::CoreMemory;
use crate::virtqueue::{Head, Ring, ring_part};
use crate::{QueueError, RingConfig, RingState};

/// Descriptor flags beyond those of a split ring (2.8.1).
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Event suppression (2.8.10): flags.
const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_AT_DESCRIPTOR: u16 = 2;
const EVENT_BITS: u16 = 3;
/// Event suppression structures: where (and when, by the wrap counter), then flags.
const EVENT_BYTES: u64 = 4;
const MAX_ENTRIES: u16 = 1 << 15;

/// A place in the ring, and the wrap counter that it goes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) index: u16,
    pub(crate) wrap: bool,
}

impl Place {
    pub(crate) fn from_state(state: u16) -> Self {
        Self { index: state & !RingState::WRAP, wrap: state & RingState::WRAP != 0 }
    }

    pub(crate) fn state(self) -> u16 {
        self.index | if self.wrap { RingState::WRAP } else { 0 }
    }

    #[inline]
    pub(crate) fn advanced(self, places: u16, size: u16) -> Self {
        // Both are at most 32768: neither sum nor difference overflows.
        let index = u32::from(self.index) + u32::from(places);
        match index.checked_sub(size.into()) {
            Some(index) => Self { index: index as u16, wrap: !self.wrap },
            None => Self { index: index as u16, wrap: self.wrap },
        }
    }

    /// Places from here on to `later`, less than two rounds.
    #[inline]
    fn distance_to(self, later: Self, size: u16) -> u32 {
        let (round, size) = (2 * u32::from(size), u32::from(size));
        let line = |place: Self| u32::from(place.index) + if place.wrap { 0 } else { size };
        let distance = line(later) + round - line(self);
        if distance >= round { distance - round } else { distance }
    }
}

/// The device's end of a packed virtqueue. See [`Virtqueue`](crate::virtqueue::Virtqueue) for the contract.
#[derive(Clone)]
pub(crate) struct PackedQueue {
    ring: *mut u8,
    driver_event: *const u8,
    device_event: *mut u8,
    size: u16,
    event_idx: bool,
    /// Next chain to take.
    avail: Place,
    /// Next used descriptor to write.
    used: Place,
    /// Where the batch began that the driver has not been shown.
    shown: Place,
    /// Up to where it was asked whether it wants an interrupt, and how many places were used since: with a log that can be
    /// more than a round, because the driver is shown some and refills them meanwhile.
    published: Place,
    unpublished: u32,
    /// The batch's first used descriptor (its second half), which is written last.
    first_used: u64,
}

impl PackedQueue {
    /// Finds the ring in `memory` and starts at `state`.
    pub(crate) fn new(memory: &mut CoreMemory, config: RingConfig) -> Result<Self, QueueError> {
        let RingConfig { addresses: at, size, state, event_idx, .. } = config;
        if !(1..=MAX_ENTRIES).contains(&size) {
            return Err(QueueError::BadSize(size));
        }
        let place = |what, state| match Place::from_state(state) {
            place if place.index < size => Ok(place),
            Place { index, .. } => Err(QueueError::BadState { what, place: index, size }),
        };
        let (avail, used) = (place("avail place", state.avail)?, place("used place", state.used)?);
        let ring = ring_part(memory, "descriptor ring", at.desc, DESC_BYTES * u64::from(size), 16)?;
        let driver_event = ring_part(memory, "driver area", at.avail, EVENT_BYTES, 4)?;
        let device_event = ring_part(memory, "device area", at.used, EVENT_BYTES, 4)?;
        let queue = Self {
            ring,
            driver_event,
            device_event,
            size,
            event_idx,
            avail,
            used,
            shown: used,
            published: used,
            unpublished: 0,
            first_used: 0,
        };
        queue.suppress_kicks();
        Ok(queue)
    }

    pub(crate) fn state(&self) -> RingState {
        RingState { avail: self.avail.state(), used: self.used.state() }
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// The flags of a place of the ring.
    pub(crate) fn flags_at(&self, place: u16) -> u16 {
        u16::from_le(self.flags(place).load(Ordering::Relaxed))
    }

    /// Goes on at another state, of places of the ring, before anything was taken. What lies between `used` and `avail` are
    /// chains in flight, which may hold used descriptors that the driver was never shown: it would find them behind the
    /// first one that it is shown now, so they are made available again.
    pub(crate) fn go_on_at(&mut self, state: RingState) {
        (self.avail, self.used) = (Place::from_state(state.avail), Place::from_state(state.used));
        (self.shown, self.published, self.unpublished) = (self.used, self.used, 0);
        let mut place = self.used;
        while place != self.avail {
            let available = if place.wrap { AVAIL } else { USED };
            self.flags(place.index).store(available.to_le(), Ordering::Relaxed);
            place = place.advanced(1, self.size);
        }
    }

    /// The descriptors of the next chain, which takes so many places: read anew, for a log.
    #[inline]
    pub(crate) fn descriptors(&self, places: u16) -> impl Iterator<Item = PackedDescriptor> {
        let (first, size) = (self.avail, self.size);
        (0..places.min(size)).filter_map(move |nth| self.table().read(first.advanced(nth, size).index.into()))
    }

    #[inline]
    fn table(&self) -> Table {
        // SAFETY: `new` found `size` descriptors mapped at `ring`; whoever owns the queue keeps them mapped.
        unsafe { Table::new(self.ring, self.size.into()) }
    }

    /// Adds the next chain's buffers; its last descriptor may point to a table with the rest.
    fn walk_chain(&self, memory: &mut CoreMemory, chain: &mut Chain) -> Result<(), ChainFault> {
        let (mut index, mut places) = (self.avail.index, 1);
        // A chain holds no more descriptors than the ring (2.8.20.2).
        while u32::from(places) <= u32::from(self.size).min(MAX_WALK) {
            let desc: PackedDescriptor =
                self.table().read(index.into()).ok_or(ChainFault::BadIndex(index))?;
            if !add(desc, memory, chain)? {
                chain.set_head(Head { id: desc.id, places });
                return Ok(());
            }
            index = if index + 1 == self.size { 0 } else { index + 1 };
            places += 1;
        }
        Err(if u32::from(self.size) >= MAX_WALK { ChainFault::TooMany } else { ChainFault::Loop })
    }

    /// The flags of the next descriptor, which of them matter, and what these are when a chain is there.
    pub(crate) fn watched(&self) -> (*const u16, u16, u16) {
        let available = if self.avail.wrap { AVAIL } else { USED };
        (self.flags(self.avail.index).as_ptr(), (AVAIL | USED).to_le(), available.to_le())
    }

    /// Where the next used descriptor goes.
    #[inline]
    pub(crate) fn used(&self) -> Place {
        self.used
    }

    #[inline]
    pub(crate) fn has_unpublished(&self) -> bool {
        self.unpublished > 0
    }

    /// Whether used descriptors wait for the batch's first one.
    #[inline]
    pub(crate) fn has_unshown(&self) -> bool {
        self.used != self.shown
    }

    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        self.show();
        self.notify()
    }

    /// Shows the driver the batch.
    #[inline]
    pub(crate) fn show(&mut self) {
        self.used_half(self.shown.index).store(self.first_used, Ordering::Release);
        self.shown = self.used;
    }

    /// Goes behind the used descriptor of this chain.
    #[inline]
    fn advance_used(&mut self, head: Head) {
        self.used = self.used.advanced(head.places, self.size);
        self.unpublished += u32::from(head.places);
    }

    /// Takes the next chain, and returns its used descriptor's second half, which goes where [`used`](Self::used) was
    /// before.
    #[inline]
    pub(crate) fn answer_later(&mut self, head: Head, written_bytes: u32) -> u64 {
        let word = self.used_descriptor(head, written_bytes);
        self.keep(head);
        self.advance_used(head);
        word
    }

    /// Writes a used descriptor, which the driver is shown if it has been shown all before it.
    #[inline]
    pub(crate) fn write_used(&self, index: u16, word: u64) {
        self.used_half(index).store(word, Ordering::Release);
    }

    /// All used descriptors were written in order.
    #[inline]
    pub(crate) fn all_shown(&mut self) {
        self.shown = self.used;
    }

    /// Whether the driver wants an interrupt for what it has been shown since this was asked last.
    #[inline]
    pub(crate) fn notify(&mut self) -> bool {
        let (old, places) = (self.published, std::mem::take(&mut self.unpublished));
        self.published = self.used;
        // See the table at the head of this module.
        fence(Ordering::SeqCst);
        match u16::from_le(self.driver_event_word(1).load(Ordering::Relaxed)) & EVENT_BITS {
            EVENT_ENABLE => true,
            EVENT_AT_DESCRIPTOR if self.event_idx => {
                let at = Place::from_state(u16::from_le(self.driver_event_word(0).load(Ordering::Relaxed)));
                // A place that does not exist gets what it would get without this feature.
                at.index >= self.size || old.distance_to(at, self.size) < places
            }
            _ => false,
        }
    }

    /// Length, id and flags of the next used descriptor.
    #[inline]
    fn used_descriptor(&self, head: Head, written_bytes: u32) -> u64 {
        let mut flags = if self.used.wrap { AVAIL | USED } else { 0 };
        if written_bytes > 0 {
            flags |= Descriptor::WRITE;
        }
        (u64::from(written_bytes) | u64::from(head.id) << 32 | u64::from(flags) << 48).to_le()
    }

    fn suppress_kicks(&self) {
        // SAFETY: `new` found 4 bytes mapped at `device_event`, 4-byte aligned. An atomic is the one kind of reference
        // that others may read behind.
        let flags = unsafe { AtomicU16::from_ptr(self.device_event.cast::<u16>().add(1)) };
        flags.store(EVENT_DISABLE.to_le(), Ordering::Relaxed);
    }

    /// The flags of descriptor `index`.
    #[inline]
    fn flags(&self, index: u16) -> &AtomicU16 {
        debug_assert!(index < self.size);
        // SAFETY: `new` found `size` descriptors mapped at `ring`, 8-byte aligned, and every caller's index is a place of
        // the ring. An atomic is the one kind of reference that others may store behind.
        unsafe { AtomicU16::from_ptr(self.ring.add(usize::from(index) * DESC_BYTES as usize + 14).cast()) }
    }

    /// Length, id and flags of descriptor `index`: all that is written of a used one.
    #[inline]
    fn used_half(&self, index: u16) -> &AtomicU64 {
        debug_assert!(index < self.size);
        // SAFETY: as for `flags`.
        unsafe { AtomicU64::from_ptr(self.ring.add(usize::from(index) * DESC_BYTES as usize + 8).cast()) }
    }

    /// The driver's event suppression: place, then flags.
    #[inline]
    fn driver_event_word(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < 2);
        // SAFETY: `new` found 4 bytes mapped at `driver_event`, 4-byte aligned.
        unsafe { AtomicU16::from_ptr(self.driver_event.cast::<u16>().add(index).cast_mut()) }
    }
}

impl Ring for PackedQueue {
    fn position(&self) -> u16 {
        self.avail.index
    }

    #[inline]
    fn look(&mut self) -> Result<bool, QueueError> {
        Ok(self.has_next())
    }

    #[inline]
    fn has_next(&self) -> bool {
        let flags = u16::from_le(self.flags(self.avail.index).load(Ordering::Acquire));
        let wrap = self.avail.wrap;
        (flags & AVAIL != 0) == wrap && (flags & USED != 0) != wrap
    }

    #[inline(always)]
    fn usual(&self, memory: &CoreMemory) -> Option<(Head, [Buffer; 3])> {
        const SHAPE: u16 = Descriptor::NEXT | Descriptor::WRITE | Descriptor::INDIRECT;
        let at = self.avail.index;
        let first: PackedDescriptor = self.table().read(at.into())?;
        if first.flags & (Descriptor::NEXT | Descriptor::INDIRECT) == Descriptor::INDIRECT {
            let table = usual_table(memory, first.iova, first.len_bytes)?;
            let buffers = table.read_three(0)?.map(PackedDescriptor::buffer);
            let usual = !buffers[0].writable && buffers[2].writable;
            return usual.then_some((Head { id: first.id, places: 1 }, buffers));
        }
        // A chain that goes around the end of the ring takes the long road.
        let [header, data, status] = self.table().read_three::<PackedDescriptor>(at)?;
        let usual = header.flags & SHAPE == Descriptor::NEXT
            && data.flags & (Descriptor::NEXT | Descriptor::INDIRECT) == Descriptor::NEXT
            && status.flags & SHAPE == Descriptor::WRITE;
        let buffers = [header.buffer(), data.buffer(), status.buffer()];
        usual.then_some((Head { id: status.id, places: 3 }, buffers))
    }

    fn walk(&self, memory: &mut CoreMemory, chain: &mut Chain) -> Option<Header> {
        chain.fill(|chain| self.walk_chain(memory, chain))
    }

    #[inline]
    fn answer(&mut self, head: Head, written_bytes: u32) {
        let mark = self.keep(head);
        self.push_used(head, mark, written_bytes);
    }

    #[inline]
    fn keep(&mut self, head: Head) -> u16 {
        self.avail = self.avail.advanced(head.places, self.size);
        head.id
    }

    #[inline]
    fn push_used(&mut self, head: Head, _: u16, written_bytes: u32) {
        let word = self.used_descriptor(head, written_bytes);
        if self.has_unshown() {
            // Relaxed: the driver sees it after the batch's first one, which is released.
            self.used_half(self.used.index).store(word, Ordering::Relaxed);
        } else {
            self.first_used = word;
        }
        self.advance_used(head);
    }
}

/// Translates a chain that was taken from the ring before, as [`Ring::walk`] does with the next one. It takes as many places
/// as it has descriptors, whatever their flags say.
pub(crate) fn walk_saved(
    descriptors: &[PackedDescriptor],
    memory: &mut CoreMemory,
    chain: &mut Chain,
) -> Option<Header> {
    let id = descriptors.last().map_or(0, |last| last.id);
    chain.set_head(Head { id, places: descriptors.len() as u16 });
    chain.fill(|chain| {
        if descriptors.len() > MAX_WALK as usize {
            return Err(ChainFault::TooMany);
        }
        for (nth, desc) in descriptors.iter().enumerate() {
            if add(*desc, memory, chain)? != (nth + 1 < descriptors.len()) {
                return Err(ChainFault::Loop);
            }
        }
        Ok(())
    })
}

/// Adds what a descriptor of the ring points to; whether the chain goes on behind it.
fn add(desc: PackedDescriptor, memory: &mut CoreMemory, chain: &mut Chain) -> Result<bool, ChainFault> {
    let more = desc.flags & Descriptor::NEXT != 0;
    match desc.flags & Descriptor::INDIRECT != 0 {
        true if more => return Err(ChainFault::BadIndirect),
        true => add_table(indirect_table(memory, desc.iova, desc.len_bytes)?, memory, chain)?,
        false => chain.add(memory, desc.buffer()),
    }
    Ok(more)
}

/// Adds the buffers of an indirect table: all of it, in order; of their flags only WRITE means anything (2.8.7).
fn add_table(table: Table, memory: &mut CoreMemory, chain: &mut Chain) -> Result<(), ChainFault> {
    if table.entries() >= MAX_WALK {
        return Err(ChainFault::TooMany);
    }
    for desc in (0..table.entries()).map_while(|index| table.read::<PackedDescriptor>(index)) {
        chain.add(memory, desc.buffer());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Buffer, Driver, header};

    #[test]
    fn places_wrap_around_with_their_counter() {
        let at = |index, wrap| Place { index, wrap };
        assert_eq!(at(3, true).advanced(2, 5), at(0, false));
        assert_eq!(at(4, false).advanced(5, 5), at(4, true));
        assert_eq!(at(0, true).advanced(4, 5), at(4, true));
        assert_eq!(Place::from_state(0x8003), at(3, true));
        assert_eq!(at(3, false).state(), 3);
        let (size, most) = (32768, 32767);
        assert_eq!(at(most, true).advanced(size, size), at(most, false));
    }

    #[test]
    fn distances_count_places_over_two_rounds() {
        let at = |index, wrap| Place { index, wrap };
        for size in [1u16, 2, 5, 32768] {
            let mut place = at(0, true);
            let start = at(size - 1, false);
            let mut walked = start;
            for expected in 0..2 * u32::from(size) {
                assert_eq!(start.distance_to(walked, size), expected);
                walked = walked.advanced(1, size);
                place = place.advanced(1, size);
            }
            assert_eq!((walked, place), (start, at(0, true)));
        }
    }

    #[test]
    fn two_rounds_shown_in_one_poll_are_two_rounds_to_tell_of() {
        let mut driver = Driver::packed(4, 4096, true, 0);
        let mut core_ring = spinblk_reactor::Ring::new(8).unwrap();
        let mut memory = CoreMemory::new(driver.memory_map(), &mut core_ring);
        let mut queue = PackedQueue::new(&mut memory, driver.ring_config()).unwrap();
        let mut chain = Chain::default();
        for _ in 0..2 {
            while driver.submit(&[Buffer::Out(header(0, 0)), Buffer::In(1)], true, 0).is_some() {}
            while queue.has_next() {
                assert!(queue.walk(&mut memory, &mut chain).is_some());
                queue.answer(chain.head(), 0);
            }
            queue.show();
            assert_eq!(driver.completed().len(), 4);
        }
        assert!(queue.has_unpublished() && queue.notify() && !queue.has_unpublished());
    }
}
