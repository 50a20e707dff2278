//! The driver's side of one packed virtqueue (section 2.8 of the virtio specification), as cheap as it can be.
//!
//! ```text
//!   request of slot s:  | header, id s | data, id s | status, id s |     three places of the ring, written anew each time
//!            indirect:  | table of slot s, id s |                        one place; the table stays as it is
//!   completion:         the device overwrites a head's place, in the order in which it finishes: id, flags
//! ```
//! Each side keeps a place and a wrap counter, which turns over at the end of the ring. All chains of a lane have the
//! same number of places, so the next completion stands so many places behind the last, whichever request it names.
//!
//! # Publishing
//!
//! A head's id, length and flags are one 64-bit word, so a request costs one such store. Chains of a batch are written
//! whole, but for the word of the *first* head, which [`publish`](Lane::publish) stores last: the device goes through
//! the ring in order and sees nothing of the batch before. Showing each head as it is prepared would have the
//! device, which polls that very cache line (four descriptors), take it away in the middle of the writing; and
//! the order towards the look at the device's event suppression would be paid for by each request, not by each batch.
//!
//! # Memory ordering
//!
//! | step | ordering | why |
//! |---|---|---|
//! | store the batch's first head | Release (and more, below) | everything else of the batch is visible to whoever sees it |
//! | that store, then load the device's event suppression | both SeqCst | the device writes that, fences and looks at the ring again before it sleeps: no kick is lost (2.8.21) |
//! | load a used descriptor's word | Acquire | pairs with the device's release: id, data and status byte are visible |
//! | our event suppression, then load the next used descriptor | SeqCst fence between | the same the other way round, before we sleep |
//! | other descriptors | volatile | another process reads them; each is written once |

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::events::Events;
use super::layout::{DESC_BYTES, Layout, TABLE_BYTES};
use super::memory::SharedMemory;
use super::place::Place;
use super::slots::{DESC_F_INDIRECT, DESC_F_NEXT, Piece, Slots};
use crate::{Buffer, Done, Error, Lane, Op};

/// Event suppression (2.8.10): what the flags say, and the wrap counter beside the place.
const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_AT_PLACE: u16 = 2;
const EVENT_FLAGS: u16 = 3;
const EVENT_WRAP: u16 = 1 << 15;

/// The first head of a batch, not shown yet.
#[derive(Clone, Copy, Debug)]
struct Held {
    place: Place,
    word: u64,
}

/// One packed ring under load.
pub struct PackedLane {
    slots: Slots,
    events: Events,
    event_idx: bool,
    /// Places of a chain.
    stride: u16,
    /// Next place to write.
    avail: Place,
    held: Option<Held>,
    /// The address that stands at each place. Devices leave it there (2.8.22), and the same slot often comes to the same
    /// place: one store less into a line that the device polls, which takes it away in the middle of the writing.
    addresses: Box<[u64]>,
    /// Where the next completion will stand.
    used: Place,
}

impl PackedLane {
    /// The driver of a ring that lies in the slots' memory, is all zeroes but for
    /// [`suppress_interrupts`](Self::suppress_interrupts), and starts at its beginning with wrap counters of 1.
    pub(crate) fn new(slots: Slots, events: Events, event_idx: bool, stride: u16) -> Self {
        assert!(slots.layout().depth * u32::from(stride) <= u32::from(slots.layout().ring_size));
        let (depth, indirect) = (slots.layout().depth, slots.layout().indirect);
        let (avail, used) = (Place::START, Place::START);
        let addresses = vec![u64::MAX; usize::from(slots.layout().ring_size)].into();
        let mut lane = Self { slots, events, event_idx, stride, avail, held: None, addresses, used };
        if indirect {
            (0..depth).for_each(|slot| lane.write_table(slot));
        }
        lane
    }

    /// Tells the device not to interrupt; call it before the device knows the ring.
    pub(crate) fn suppress_interrupts(memory: &SharedMemory, layout: &Layout) {
        event_word(memory, layout.driver).store(suppression(0, EVENT_DISABLE), Ordering::Relaxed);
    }

    /// Writes the indirect table of a slot, which stays until it does something else.
    fn write_table(&mut self, slot: u32) {
        let table = self.slots.layout().table_of(slot);
        for (at, piece) in self.slots.pieces(slot).into_iter().enumerate() {
            // In a table the order is that of the descriptors; there is no NEXT and no id (2.8.7).
            self.write_address(table + at * DESC_BYTES, piece);
            self.write_word(table + at * DESC_BYTES, word_of(piece, 0, piece.flags));
        }
    }

    #[inline]
    fn write_address(&self, offset: usize, piece: Piece) {
        debug_assert!(offset + DESC_BYTES <= self.slots.layout().end && offset.is_multiple_of(DESC_BYTES));
        // SAFETY: callers stay within the ring's or a slot's own descriptors, which lie in the memory (see
        // `Slots::new`) and are 16-byte aligned.
        unsafe {
            self.slots.memory().start().add(offset).cast::<u64>().write_volatile(piece.address.to_le());
        }
    }

    #[inline]
    fn write_word(&self, offset: usize, word: u64) {
        debug_assert!(offset + DESC_BYTES <= self.slots.layout().end && offset.is_multiple_of(DESC_BYTES));
        // SAFETY: as in `write_address`.
        unsafe {
            self.slots.memory().start().add(offset + 8).cast::<u64>().write_volatile(word.to_le());
        }
    }

    /// The place's descriptor: where it lies.
    #[inline]
    fn offset_of(&self, place: Place) -> usize {
        debug_assert!(place.index < self.slots.layout().ring_size);
        self.slots.layout().desc + usize::from(place.index) * DESC_BYTES
    }

    /// The second word of the place's descriptor: length, id, flags.
    #[inline]
    fn word_of(&self, place: Place) -> &AtomicU64 {
        // SAFETY: a place lies in the ring (`Place::after` keeps it there), which lies in the memory (see `Slots::new`)
        // and is 16-byte aligned. An atomic is the one kind of reference that others may store behind.
        unsafe { AtomicU64::from_ptr(self.slots.memory().start().add(self.offset_of(place) + 8).cast()) }
    }

    /// Writes one descriptor of a chain, and shows it unless it is the first of its batch.
    #[inline]
    fn write_place(&mut self, place: Place, piece: Piece, id: u16, flags: u16) {
        let offset = self.offset_of(place);
        let written = &mut self.addresses[usize::from(place.index)];
        if *written != piece.address {
            *written = piece.address;
            self.write_address(offset, piece);
        }
        let word = word_of(piece, id, flags | place.available());
        if self.held.is_none() {
            self.held = Some(Held { place, word });
        } else {
            self.write_word(offset, word);
        }
    }

    /// Whether the device wants to be told of what stands from `old` on to the next place; the load is SeqCst, see above.
    #[inline]
    fn device_wants_kick(&self, old: Place) -> bool {
        let (memory, layout) = (self.slots.memory(), self.slots.layout());
        let event = u32::from_le(event_word(memory, layout.device).load(Ordering::SeqCst));
        let (place, flags) = (event as u16, (event >> 16) as u16 & EVENT_FLAGS);
        match flags {
            EVENT_DISABLE => false,
            EVENT_AT_PLACE if self.event_idx => {
                let wanted = Place { index: place & !EVENT_WRAP, wrap: place & EVENT_WRAP != 0 };
                let size = layout.ring_size;
                old.distance_to(wanted, size) < old.distance_to(self.avail, size)
            }
            _ => true,
        }
    }

    /// The next completion, if there is one: its id.
    #[inline]
    fn next_used(&self) -> Option<u16> {
        let word = u64::from_le(self.word_of(self.used).load(Ordering::Acquire));
        self.used.is_used((word >> 48) as u16).then_some((word >> 32) as u16)
    }

    fn set_event(&self, place: u16, flags: u16) {
        let word = event_word(self.slots.memory(), self.slots.layout().driver);
        word.store(suppression(place, flags), Ordering::Relaxed);
    }
}

impl Lane for PackedLane {
    #[inline(always)]
    fn prepare(&mut self, slot: u32, op: Op, offset_bytes: u64) {
        let changes = self.slots.begin(slot, op, offset_bytes);
        let (id, size, first) = (slot as u16, self.slots.layout().ring_size, self.avail);
        if self.slots.layout().indirect {
            if changes {
                self.write_table(slot);
            }
            let address = self.slots.memory().guest_address(self.slots.layout().table_of(slot));
            let table = Piece { address, len_bytes: (TABLE_BYTES - DESC_BYTES) as u32, flags: 0 };
            self.write_place(first, table, id, DESC_F_INDIRECT);
        } else {
            let [header, data, status] = self.slots.pieces(slot);
            let (second, third) = (first.after(1, size), first.after(2, size));
            self.write_place(first, header, id, DESC_F_NEXT);
            self.write_place(second, data, id, data.flags | DESC_F_NEXT);
            self.write_place(third, status, id, status.flags);
        }
        self.avail = first.after(self.stride, size);
    }

    #[inline]
    fn publish(&mut self) -> Result<(), Error> {
        let Some(first) = self.held.take() else { return Ok(()) };
        self.word_of(first.place).store(first.word.to_le(), Ordering::SeqCst);
        if self.device_wants_kick(first.place) { self.events.kick() } else { Ok(()) }
    }

    #[inline]
    fn reap(&mut self, done: &mut Vec<Done>) -> Result<(), Error> {
        // The bound is the number in flight: a device that returns one twice is found out by its id.
        for _ in 0..self.slots.in_flight() {
            let Some(id) = self.next_used() else { break };
            let Some(completed) = self.slots.end(id.into()) else {
                let index = self.used.index;
                let what = format!("used descriptor {index} names the buffer {id}, which is not in flight");
                return Err(self.events.broken(what));
            };
            self.used = self.used.after(self.stride, self.slots.layout().ring_size);
            done.push(completed);
        }
        Ok(())
    }

    fn buffer(&mut self, slot: u32) -> Buffer<'_> {
        self.slots.buffer(slot)
    }

    fn arm(&mut self) -> bool {
        if self.event_idx {
            let wrap = if self.used.wrap { EVENT_WRAP } else { 0 };
            self.set_event(self.used.index | wrap, EVENT_AT_PLACE);
        } else {
            self.set_event(0, EVENT_ENABLE);
        }
        fence(Ordering::SeqCst);
        self.next_used().is_none()
    }

    fn disarm(&mut self) {
        self.set_event(0, EVENT_DISABLE);
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

/// An event suppression structure as one word, so that its two halves are never seen apart.
fn suppression(place: u16, flags: u16) -> u32 {
    (u32::from(place) | u32::from(flags) << 16).to_le()
}

/// The event suppression structure that lies at `area`.
#[inline]
fn event_word(memory: &SharedMemory, area: usize) -> &AtomicU32 {
    debug_assert!(area + 4 <= memory.len_bytes());
    // SAFETY: both areas lie in the memory that the session sized by the same layout, and are 128-byte aligned. An
    // atomic is the one kind of reference that others may store behind.
    unsafe { AtomicU32::from_ptr(memory.start().add(area).cast()) }
}

/// A descriptor's other word: length, id, flags.
#[inline]
fn word_of(piece: Piece, id: u16, flags: u16) -> u64 {
    u64::from(piece.len_bytes) | u64::from(id) << 32 | u64::from(flags) << 48
}

#[cfg(test)]
mod tests;
