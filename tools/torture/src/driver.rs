//! Requests on the virtqueues of the `virtio-driver` crate, and the memory that they lie in.
//!
//! ```text
//!   | queue 0: rings, headers and statuses | queue 1 | data of queue 0, buffer 0, 1, … | data of queue 1 |
//! ```
//! A request is known by its chain's number. One that comes back without being in flight, twice for example, is an error.

use crate::connection::{Connection, Ring};
use crate::error::Error;
use crate::memory::Memory;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;
use virtio_driver::virtqueue::{Virtqueue, VirtqueueLayout};
use virtio_driver::{
    IovaTranslator, VhostUser, VirtioBlkConfig, VirtioBlkFeatureFlags, VirtioBlkReqBuf, VirtioFeatureFlags,
    VirtioTransport, iovec,
};

pub(crate) const QUEUES: usize = 2;
/// Requests in flight on each.
pub(crate) const DEPTH: usize = 32;
/// The longest request.
pub(crate) const MAX_BYTES: usize = 64 << 10;
/// Room for chains of three.
const RING_SIZE: u16 = 128;
const HEADER_BYTES: usize = 16;
const SECTOR_BYTES: u64 = 512;
/// No server writes it.
const NO_STATUS: u8 = 0xff;
const PAGE: usize = 4096;

/// What a request does; the numbers are those of the virtio specification (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Op {
    Read = 0,
    Write = 1,
    Flush = 4,
}

/// A request's header and status, where the server sees them.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Frame {
    kind: u32,
    reserved: u32,
    sector: u64,
    status: u8,
}

struct Queue<T> {
    ring: Virtqueue<'static, Frame>,
    /// By chain: what it is for, and its buffer.
    in_flight: Vec<Option<(T, usize)>>,
    free_buffers: Vec<usize>,
}

/// A disk's driver; what `T` tells of a request comes back with it.
pub(crate) struct Driver<T> {
    // Before the memory that they lie in.
    queues: Vec<Queue<T>>,
    connection: Connection,
    memory: Arc<Memory>,
    data: usize,
}

impl<T> Driver<T> {
    /// Connects to the server at `socket`, with rings that are new.
    pub(crate) fn open(socket: &Path, packed: bool) -> Result<Driver<T>, Error> {
        let mut features = VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX;
        features.set(VirtioFeatureFlags::RING_PACKED, packed);
        let layout = VirtqueueLayout::new::<Frame>(1, RING_SIZE.into(), features)
            .map_err(Error::system("lay a virtqueue out"))?;
        let queue_bytes = layout.end_offset.next_multiple_of(PAGE);
        let data = QUEUES * queue_bytes;
        let memory = Arc::new(Memory::new(data + QUEUES * DEPTH * MAX_BYTES)?);
        let (mut queues, mut rings) = (Vec::new(), Vec::new());
        for (at, translator) in (0..data).step_by(queue_bytes).zip(translators(socket)?) {
            // SAFETY: the bytes are mapped for as long as the driver, which drops its queues first; each queue has its own,
            // and no server knows of them yet. Later it writes there, by the rules of rings, which the crate takes into account.
            let bytes = unsafe {
                std::slice::from_raw_parts_mut(memory.pointer(&(at..at + queue_bytes)), queue_bytes)
            };
            let ring = Virtqueue::new(translator, bytes, RING_SIZE, features);
            let mut ring = ring.map_err(Error::system("make a virtqueue"))?;
            ring.set_used_notif_enabled(true);
            let in_flight = (0..RING_SIZE).map(|_| None).collect();
            queues.push(Queue { ring, in_flight, free_buffers: (0..DEPTH).collect() });
            let (driver, device) = (at + layout.driver_area_offset, at + layout.device_area_offset);
            rings.push(Ring::new(RING_SIZE, at, driver, device)?);
        }
        let wanted = features.bits() | VirtioBlkFeatureFlags::FLUSH.bits() | VirtioBlkFeatureFlags::MQ.bits();
        let connection = Connection::open(socket.to_owned(), wanted, packed, memory.clone(), rings)?;
        Ok(Driver { queues, connection, memory, data })
    }

    /// Whether the queue has room for one more request.
    pub(crate) fn has_room(&self, queue: usize) -> bool {
        !self.queues[queue].free_buffers.is_empty()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.queues.iter().map(|queue| DEPTH - queue.free_buffers.len()).sum()
    }

    /// Begins a request on a queue that has room. `data` is written, or is as long as what is to be read.
    pub(crate) fn begin(
        &mut self,
        queue: usize,
        op: Op,
        offset_bytes: u64,
        data: &[u8],
        what: T,
    ) -> Result<(), Error> {
        let number = queue;
        let queue = &mut self.queues[number];
        let Some(buffer) = queue.free_buffers.pop() else {
            return Err(Error::Wrong(format!("queue {number} has no room")));
        };
        let at = self.data + (number * DEPTH + buffer) * MAX_BYTES;
        self.memory.put(at, data);
        let data =
            iovec { iov_base: self.memory.pointer(&(at..at + data.len())).cast(), iov_len: data.len() };
        let chain = queue.ring.add_request(|frame, add| {
            let sector = offset_bytes / SECTOR_BYTES;
            *frame = Frame { kind: op as u32, reserved: 0, sector, status: NO_STATUS };
            let header = (&raw mut *frame).cast();
            let status = (&raw mut frame.status).cast();
            add(iovec { iov_base: header, iov_len: HEADER_BYTES }, false)?;
            if data.iov_len > 0 {
                add(data, op == Op::Read)?;
            }
            add(iovec { iov_base: status, iov_len: 1 }, true)
        });
        let chain = chain.map_err(Error::system("put a request into a ring"))?;
        let before = queue.in_flight[usize::from(chain)].replace((what, buffer));
        debug_assert!(before.is_none(), "chain {chain} is in flight");
        Ok(())
    }

    /// Tells the server of what was begun, if it wants to be told.
    pub(crate) fn submit(&mut self, queue: usize) -> Result<(), Error> {
        if self.queues[queue].ring.avail_notif_needed() {
            self.connection.rings()[queue].kick()?;
        }
        Ok(())
    }

    /// Waits for an interrupt; whether the server was lost and there is a new one.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<bool, Error> {
        let is_there = self.connection.wait(limit)?;
        if !is_there {
            self.connection.connect_again()?;
        }
        Ok(!is_there)
    }

    /// The next request that has come back on a queue that interrupted. What was read is copied to `data`, as much as there
    /// is room.
    pub(crate) fn next_done(&mut self, queue: usize, data: &mut [u8]) -> Result<Option<T>, Error> {
        let number = queue;
        let queue = &mut self.queues[number];
        let mut done = queue.ring.completions().next();
        if done.is_none() {
            // The crate's packed ring says from where on it wants an interrupt, and does not order that before its next look.
            fence(Ordering::SeqCst);
            done = queue.ring.completions().next();
        }
        let Some(done) = done else { return Ok(None) };
        let Some((what, buffer)) = queue.in_flight.get_mut(usize::from(done.id)).and_then(Option::take)
        else {
            return Err(Error::Wrong(format!(
                "queue {number}: chain {} came back and is not in flight",
                done.id
            )));
        };
        queue.free_buffers.push(buffer);
        if done.req.status != 0 {
            let Frame { kind, sector, status, .. } = done.req;
            return Err(Error::Wrong(format!("request of type {kind} at sector {sector}: status {status}")));
        }
        self.memory.get(self.data + (number * DEPTH + buffer) * MAX_BYTES, data);
        Ok(Some(what))
    }

    /// Whether the queue has interrupted since the last question.
    pub(crate) fn was_called(&self, queue: usize) -> bool {
        self.connection.rings()[queue].was_called()
    }

    /// Queues with something to see.
    pub(crate) fn unseen(&mut self) -> usize {
        self.queues.iter_mut().map(|queue| usize::from(queue.ring.completions().has_next())).sum()
    }
}

/// They leave addresses as they are. The crate gives them to those alone who have a transport of its own: a connection for
/// it is made and closed.
fn translators(socket: &Path) -> Result<[Box<dyn IovaTranslator>; QUEUES], Error> {
    let path = socket.to_string_lossy();
    let features = VirtioFeatureFlags::VERSION_1.bits();
    let transport = VhostUser::<VirtioBlkConfig, VirtioBlkReqBuf>::new(&path, features);
    let transport = transport.map_err(Error::system("connect the virtio-driver crate's transport"))?;
    Ok(std::array::from_fn(|_| transport.iova_translator()))
}
