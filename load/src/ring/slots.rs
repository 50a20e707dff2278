//! The requests of one queue, whatever the format of its ring: headers, data, statuses, and which are in flight.
//!
//! Contract: what a device may have changed in shared memory is never believed about a slot; whether it is in flight
//! and what it does are kept here. Headers and statuses are volatile: another process reads and writes them, and each
//! is touched once a request.

use std::sync::Arc;

use virtio_bindings::virtio_blk as blk;

use super::layout::{HEADER_BYTES, Layout};
use super::memory::SharedMemory;
use crate::{Buffer, Done, Fault, Op};

/// Descriptor flags of both formats (2.7.5, 2.8.1).
pub(crate) const DESC_F_NEXT: u16 = 1;
pub(crate) const DESC_F_WRITE: u16 = 2;
pub(crate) const DESC_F_INDIRECT: u16 = 4;
/// A status that no device writes.
const NO_STATUS: u8 = 0xFF;
const SECTOR_SHIFT: u32 = 9;

#[derive(Clone, Copy)]
struct State {
    in_flight: bool,
    /// What the header says, and whatever describes the data.
    op: Op,
}

/// A descriptor of a request: where, how long, and `WRITE` or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) address: u64,
    pub(crate) len_bytes: u32,
    pub(crate) flags: u16,
}

/// All slots of a queue.
pub(crate) struct Slots {
    memory: Arc<SharedMemory>,
    layout: Layout,
    states: Box<[State]>,
    in_flight: u32,
}

impl Slots {
    /// The slots that lie in `memory` as `layout` says; all are reads, and none is in flight.
    ///
    /// # Panics
    /// When the layout is not one that the memory was made for.
    pub(crate) fn new(memory: Arc<SharedMemory>, layout: Layout) -> Self {
        assert!(layout.end <= memory.len_bytes(), "the layout is the one that the memory was made for");
        let states = vec![State { in_flight: false, op: Op::Read }; layout.depth as usize].into();
        let mut slots = Self { memory, layout, states, in_flight: 0 };
        for slot in 0..layout.depth {
            slots.write_op(slot, Op::Read);
            // SAFETY: the status byte lies in the memory, see above.
            unsafe { slots.memory.start().add(layout.status_of(slot)).write_volatile(NO_STATUS) };
        }
        slots
    }

    pub(crate) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Requests that the device has, or is about to be shown.
    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Writes a request's header. Returns whether the slot did something else before, so that its descriptors change.
    #[inline]
    pub(crate) fn begin(&mut self, slot: u32, op: Op, offset_bytes: u64) -> bool {
        let state = &mut self.states[slot as usize];
        debug_assert!(!state.in_flight, "slot {slot} is in flight");
        state.in_flight = true;
        self.in_flight += 1;
        let changes = state.op != op;
        if changes {
            self.write_op(slot, op);
        }
        let sector = offset_bytes >> SECTOR_SHIFT;
        // SAFETY: the slot exists (it was indexed above), so its header lies in the memory (see `new`), 16-byte aligned.
        unsafe {
            let header = self.memory.start().add(self.layout.header_of(slot));
            header.add(8).cast::<u64>().write_volatile(sector.to_le());
        }
        changes
    }

    /// A request has come back; `None` when it was not in flight.
    #[inline]
    pub(crate) fn end(&mut self, slot: u32) -> Option<Done> {
        let state = self.states.get_mut(slot as usize).filter(|state| state.in_flight)?;
        state.in_flight = false;
        self.in_flight -= 1;
        // SAFETY: the slot exists, so its status byte lies in the memory (see `new`).
        let status = unsafe { self.memory.start().add(self.layout.status_of(slot)).read_volatile() };
        Some(Done { slot, fault: fault(status) })
    }

    /// The descriptors of a slot as it is now: header, data, status.
    #[inline]
    pub(crate) fn pieces(&self, slot: u32) -> [Piece; 3] {
        let at = |offset| self.memory.guest_address(offset);
        let data_flags = match self.states[slot as usize].op {
            Op::Read => DESC_F_WRITE,
            Op::Write => 0,
        };
        let len_bytes = self.layout.block_bytes as u32;
        [
            Piece { address: at(self.layout.header_of(slot)), len_bytes: HEADER_BYTES as u32, flags: 0 },
            Piece { address: at(self.layout.data_of(slot)), len_bytes, flags: data_flags },
            Piece { address: at(self.layout.status_of(slot)), len_bytes: 1, flags: DESC_F_WRITE },
        ]
    }

    /// The memory of a slot.
    pub(crate) fn buffer(&mut self, slot: u32) -> Buffer<'_> {
        assert!(slot < self.layout.depth);
        // SAFETY: the slot's data lies in the memory (see `new`), on a multiple of 512 bytes from a page, and is mapped
        // as long as `self`, which is borrowed.
        unsafe { Buffer::new(self.memory.start().add(self.layout.data_of(slot)), self.layout.block_bytes) }
    }

    /// Makes a slot a read or a write.
    fn write_op(&mut self, slot: u32, op: Op) {
        let kind = match op {
            Op::Read => blk::VIRTIO_BLK_T_IN,
            Op::Write => blk::VIRTIO_BLK_T_OUT,
        };
        self.states[slot as usize].op = op;
        // SAFETY: the slot exists, so its header lies in the memory (see `new`) and is 16-byte aligned.
        unsafe {
            let header = self.memory.start().add(self.layout.header_of(slot));
            header.cast::<u32>().write_volatile(kind.to_le());
        }
    }
}

#[inline]
fn fault(status: u8) -> Option<Fault> {
    match u32::from(status) {
        blk::VIRTIO_BLK_S_OK => None,
        blk::VIRTIO_BLK_S_IOERR => Some(Fault::StatusIoerr),
        blk::VIRTIO_BLK_S_UNSUPP => Some(Fault::StatusUnsupp),
        _ => Some(Fault::NoStatus),
    }
}
