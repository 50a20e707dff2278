//! Virtqueues from the driver's side, whoever serves them.
//!
//! ```text
//!   rings         all of a session, for the transport to tell the device of
//!   layout        where in a queue's memory everything lies, and how long its ring must be
//!   memory        one memfd with rings, headers, data of all queues
//!   slots         requests: headers, data, statuses
//!   events        kicks and interrupts
//!   split packed  the driver's side of a ring, one file for each format; place: arithmetic of the latter
//! ```
//! Contract: knows no transport. That brings the memory to the device, tells it where the rings are (the same
//! [`Layout`] on both sides) and hands it the event descriptors; see `rings`.

pub(crate) mod events;
pub(crate) mod layout;
pub(crate) mod memory;
mod packed;
mod place;
pub(crate) mod rings;
mod slots;
mod split;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use layout::RingFormat;
pub use packed::PackedLane;
pub use split::SplitLane;

use crate::{Buffer, Done, Error, Lane, Op};
use events::Events;
use layout::{Layout, Shape};
use memory::SharedMemory;
use slots::Slots;

/// Tells the device not to interrupt on `queue`; call it before the device knows the ring.
fn suppress_interrupts(memory: &SharedMemory, queue: u16, shape: Shape, event_idx: bool) {
    let layout = Layout::new(queue, shape);
    match shape.format {
        RingFormat::Split => SplitLane::suppress_interrupts(memory, &layout, event_idx),
        RingFormat::Packed => PackedLane::suppress_interrupts(memory, &layout),
    }
}

/// One virtqueue under load; which of the two it is, a processor guesses right every time. What is done for each
/// request is inlined whatever the compiler thinks of it: the call costs more than what it calls.
pub enum RingLane {
    /// Its ring is split.
    Split(SplitLane),
    /// Its ring is packed.
    Packed(PackedLane),
}

/// Calls the method of whichever ring it is.
macro_rules! either {
    ($self:ident, $lane:ident => $call:expr) => {
        match $self {
            RingLane::Split($lane) => $call,
            RingLane::Packed($lane) => $call,
        }
    };
}

impl RingLane {
    /// The driver of `queue`, whose memory nobody but [`suppress_interrupts`] has touched so far.
    pub(crate) fn new(
        memory: Arc<SharedMemory>,
        queue: u16,
        shape: Shape,
        events: Events,
        event_idx: bool,
    ) -> Self {
        let slots = Slots::new(memory, Layout::new(queue, shape));
        match shape.format {
            RingFormat::Split => Self::Split(SplitLane::new(slots, events, event_idx)),
            RingFormat::Packed => {
                Self::Packed(PackedLane::new(slots, events, event_idx, shape.entries_per_slot()))
            }
        }
    }
}

impl Lane for RingLane {
    #[inline(always)]
    fn prepare(&mut self, slot: u32, op: Op, offset_bytes: u64) {
        either!(self, lane => lane.prepare(slot, op, offset_bytes));
    }

    #[inline(always)]
    fn publish(&mut self) -> Result<(), Error> {
        either!(self, lane => lane.publish())
    }

    #[inline(always)]
    fn reap(&mut self, done: &mut Vec<Done>) -> Result<(), Error> {
        either!(self, lane => lane.reap(done))
    }

    fn buffer(&mut self, slot: u32) -> Buffer<'_> {
        either!(self, lane => lane.buffer(slot))
    }

    fn arm(&mut self) -> bool {
        either!(self, lane => lane.arm())
    }

    fn disarm(&mut self) {
        either!(self, lane => lane.disarm());
    }

    fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        either!(self, lane => lane.interrupt())
    }

    fn take_interrupts(&mut self) -> u64 {
        either!(self, lane => lane.take_interrupts())
    }

    fn kicks(&self) -> u64 {
        either!(self, lane => lane.kicks())
    }
}
