//! All rings of a session in their shared memory: made before the device knows of them, opened one by one for the load.
//!
//! Contract: a transport brings [`memory`](Rings::memory) to the device, tells it of each ring that
//! [`each`](Rings::each) yields, and then may have their lanes opened. Rings are new: zeroes, no interrupts wanted.

use std::io;
use std::sync::Arc;

use vhost::VringConfigData;

use super::RingLane;
use super::events::Events;
use super::layout::{Layout, Shape};
use super::memory::SharedMemory;
use super::suppress_interrupts;
use crate::Error;

/// No guest has less memory, and devices may treat small regions in ways of their own.
const MIN_MEMORY_BYTES: usize = 2 << 20;

/// The rings of a session.
pub(crate) struct Rings {
    target: Arc<str>,
    memory: Arc<SharedMemory>,
    shape: Shape,
    event_idx: bool,
    /// One for each queue.
    events: Vec<Events>,
}

/// A ring that a device is to be told of.
pub(crate) struct Ring<'a> {
    pub(crate) queue: u16,
    pub(crate) layout: Layout,
    pub(crate) events: &'a Events,
}

impl Rings {
    /// New rings for `queues` queues, at least one.
    pub(crate) fn new(target: Arc<str>, queues: u16, shape: Shape, event_idx: bool) -> Result<Self, Error> {
        let len_bytes = Layout::new(queues.saturating_sub(1), shape).end.max(MIN_MEMORY_BYTES);
        let memory = Arc::new(SharedMemory::new(len_bytes)?);
        (0..queues).for_each(|queue| suppress_interrupts(&memory, queue, shape, event_idx));
        let events = (0..queues).map(|queue| Events::new(target.clone(), queue)).collect::<Result<_, _>>()?;
        Ok(Self { target, memory, shape, event_idx, events })
    }

    pub(crate) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// The rings, in order.
    pub(crate) fn each(&self) -> impl Iterator<Item = Ring<'_>> {
        (0u16..).zip(&self.events).map(|(queue, events)| Ring {
            queue,
            layout: Layout::new(queue, self.shape),
            events,
        })
    }

    /// The driver of a ring that the device knows.
    pub(crate) fn open(&self, queue: u16, depth: u32, block_bytes: u32) -> Result<RingLane, Error> {
        let events = self.events.get(usize::from(queue)).ok_or_else(|| Error::Event {
            target: self.target.to_string(),
            queue,
            source: io::Error::other("the queue was not set up"),
        })?;
        // The rings were set up for as much; asking for less would move what lies behind them.
        debug_assert_eq!((depth, block_bytes), (self.shape.depth, self.shape.block_bytes));
        Ok(RingLane::new(self.memory.clone(), queue, self.shape, events.try_clone()?, self.event_idx))
    }

    /// The device has a limit below the size that this shape takes.
    pub(crate) fn size_refused(&self, why: String) -> Error {
        Error::RingSize {
            target: self.target.to_string(),
            entries: self.shape.ring_size(),
            depth: self.shape.depth,
            each: self.shape.entries_per_slot(),
            why,
        }
    }
}

impl Ring<'_> {
    /// Its number as the `vhost` crate counts.
    pub(crate) fn index(&self) -> usize {
        self.queue.into()
    }

    /// Where it lies, as the `vhost` crate puts it; `address` turns an offset in memory into what the device knows.
    pub(crate) fn place(&self, address: impl Fn(usize) -> u64) -> VringConfigData {
        VringConfigData {
            queue_max_size: self.layout.ring_size,
            queue_size: self.layout.ring_size,
            flags: 0,
            desc_table_addr: address(self.layout.desc),
            used_ring_addr: address(self.layout.device),
            avail_ring_addr: address(self.layout.driver),
            log_addr: None,
        }
    }
}
