//! One virtqueue of a virtio-blk device, served by one reactor: the hot path.
//!
//! ```text
//!   poll():  channel.poll ─► finish each       (what the ring completed since the last iteration)
//!            avail ring ─► slot ─► channel.submit ─► finish those that were done at once
//!            used index published once, one interrupt if wanted, then the account
//! ```
//!
//! Every request has a slot, found by the head of its chain: nothing is searched or allocated. When an address is not
//! mapped the queue *parks*: it asks its host for the mapping, takes nothing new, and goes on when
//! [`BlkQueue::set_memory`] brings a new map. A request whose address is still missing then fails alone.

use std::sync::Arc;

use spinblk_bdev::{Channel, Completion, Io, IoError, IoResult, Segment};
use spinblk_perf::{Clock, OpKind, QueueStats, Ticks};
use spinblk_reactor::{Core, Poller, Progress, Ring};
use tracing::debug;

use super::Device;
use super::coalesce::Coalescer;
use super::request::{Action, Request, SERIAL_BYTES, Status};
use crate::chain::{Chain, ChainFault};
use crate::memory::CoreMemory;
use crate::split::SplitQueue;
use crate::{MAX_SEGMENTS, MemoryMap, QueueError, RingConfig};

/// Chains taken per poll: keeps one busy queue from holding up its neighbours on the core.
const BATCH: u16 = 64;
/// Bytes after which a poll takes no more chains, for the same reason.
const BATCH_BYTES: u64 = 1 << 20;
/// Mappings asked for while one chain waits, one per segment at most; past that its buffers count as unmapped.
const MAX_PARKS: u8 = MAX_SEGMENTS as u8;

/// What a queue needs of its transport. Called on the reactor; must not block.
pub trait QueueHost: Send {
    /// The queue is set up on its core.
    fn open(&mut self, ring: &mut Ring) {
        let _ = ring;
    }
    /// The queue is quiet and goes; gives back what `open` took of the ring.
    fn close(&mut self, ring: &mut Ring) {
        let _ = ring;
    }
    /// Interrupts the driver, once for a batch; may go through the core's ring, to cost no system call of its own.
    fn interrupt(&mut self, ring: &mut Ring);
    /// Asks for `iova` to be mapped; answered, in any case, through [`BlkQueue::set_memory`].
    fn unmapped(&mut self, iova: u64);
    /// The ring cannot be served any more; it stays silent until it is set up anew.
    fn broken(&mut self, error: QueueError);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Takes requests.
    Running,
    /// Waits for a mapping.
    Parked,
    /// Told to take nothing.
    Paused,
    /// The driver broke the ring.
    Broken,
    /// Given up with I/O in flight: only waits for it to come back, and touches nothing of the driver's.
    Abandoned,
}

struct Slot {
    chain: Chain,
    status: Option<*mut u8>,
    seen: Ticks,
    bytes: u64,
    kind: OpKind,
    in_flight: bool,
}

/// A finished request on its way into the account.
struct Finished {
    seen: Ticks,
    bytes: u64,
    kind: OpKind,
    ok: bool,
}

/// One virtqueue and all it needs, on one core.
pub struct BlkQueue {
    ring: SplitQueue,
    memory: CoreMemory,
    slots: Box<[Slot]>,
    channel: Box<dyn Channel>,
    host: Box<dyn QueueHost>,
    serial: [u8; SERIAL_BYTES],
    state: State,
    in_flight: usize,
    /// The missing address that the queue parked for last, and how often it parked for the chain that it waits with.
    missing: Option<u64>,
    parks: u8,
    coalescer: Coalescer,
    done: Vec<Completion>,
    finished: Vec<Finished>,
    stats: QueueStats,
}

impl BlkQueue {
    /// Sets a queue up on its core: finds the ring in `map`, registers the memory, makes the slots. Starts running.
    ///
    /// # Errors
    /// [`QueueError`] when the ring lies outside the map or is misaligned; nothing stays registered.
    pub fn new(
        device: &Device,
        mut channel: Box<dyn Channel>,
        mut host: Box<dyn QueueHost>,
        map: Arc<MemoryMap>,
        config: RingConfig,
        ring: &mut Ring,
    ) -> Result<Self, QueueError> {
        let mut memory = CoreMemory::new(map, ring);
        let split = match SplitQueue::new(&mut memory, config) {
            Ok(split) => split,
            Err(e) => {
                memory.release(ring);
                channel.close(ring);
                return Err(e);
            }
        };
        host.open(ring);
        let slot = || Slot {
            chain: Chain::default(),
            status: None,
            seen: 0,
            bytes: 0,
            kind: OpKind::Other,
            in_flight: false,
        };
        let size = config.size;
        let room = usize::from(size) + usize::from(BATCH);
        Ok(Self {
            ring: split,
            memory,
            slots: (0..size).map(|_| slot()).collect(),
            channel,
            host,
            serial: device.serial(),
            state: State::Running,
            in_flight: 0,
            missing: None,
            parks: 0,
            coalescer: Coalescer::new(device.coalesces(), &Clock::get()),
            done: Vec::with_capacity(room),
            finished: Vec::with_capacity(room),
            stats: QueueStats::new(),
        })
    }

    /// Takes nothing new from now on; what is in flight goes on.
    pub fn pause(&mut self) {
        match self.state {
            State::Broken | State::Abandoned => return,
            // The question is asked again when it goes on; its answer may come too late or not at all.
            State::Parked => self.missing = None,
            State::Running | State::Paused => {}
        }
        self.state = State::Paused;
    }

    /// Gives the queue up while I/O is in flight: the driver's rings are not touched any more and the host is let go, but
    /// the memory stays mapped until the storage has answered. Then the reactor drops the queue, and `until_gone` with it.
    pub fn abandon(&mut self, until_gone: Arc<()>, ring: &mut Ring) {
        self.state = State::Abandoned;
        self.host.close(ring);
        self.host = Box::new(Gone(until_gone));
    }

    /// Takes requests again.
    pub fn resume(&mut self) {
        if self.state == State::Paused {
            self.state = State::Running;
        }
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.in_flight == 0
    }

    /// The avail index taken next: the queue's state as VDUSE and vhost mean it, when it is quiet.
    #[must_use]
    pub fn next_avail(&self) -> u16 {
        self.ring.next_avail()
    }

    /// The account so far.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        let mut stats = self.stats.clone();
        stats.fixed_buffer_ios = self.channel.fixed_buffer_ios();
        stats
    }

    /// Brings a new map; a parked queue goes on if the map holds what it waits for. Segments of I/O in flight keep pointing
    /// into the old map, so the new one must hold all its regions unless the queue is quiet, and the ring in any case.
    pub fn set_memory(&mut self, map: Arc<MemoryMap>, ring: &mut Ring) {
        if self.state == State::Abandoned {
            return;
        }
        let found = self.missing.is_some_and(|iova| map.contains(iova));
        // New before old: regions in both stay registered throughout.
        let mut old = std::mem::replace(&mut self.memory, CoreMemory::new(map, ring));
        old.release(ring);
        if self.state == State::Parked && found {
            self.state = State::Running;
        }
    }

    /// Answers the queue's question for `iova` with a map, which may still lack it: the request then fails. An answer to a
    /// question that is not open any more is just a new map.
    pub fn answer(&mut self, iova: u64, map: Arc<MemoryMap>, ring: &mut Ring) {
        self.set_memory(map, ring);
        if self.state == State::Parked && self.missing == Some(iova) {
            self.state = State::Running;
        }
    }

    /// Takes a batch of chains. Returns whether there was anything to do.
    #[inline]
    fn take(&mut self, core: &mut Core) -> bool {
        let waiting = match self.ring.waiting() {
            Ok(0) => return false,
            Ok(waiting) => waiting.min(BATCH),
            Err(e) => {
                self.break_down(e);
                return true;
            }
        };
        let (mut taken, mut bytes) = (0u32, 0);
        for _ in 0..waiting {
            match self.take_one(core) {
                Ok(Some(count)) => bytes += count,
                Ok(None) => break,
                Err(e) => {
                    self.break_down(e);
                    break;
                }
            }
            taken += 1;
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        self.stats.requests += u64::from(taken);
        self.stats.batches += u64::from(taken > 0);
        if taken > 0 {
            self.coalescer.arrived(taken, core.now);
        }
        // One that parked or broke has done something, too.
        true
    }

    /// Takes the next chain and returns how many bytes it moves; `None` when the queue parked instead.
    #[inline]
    fn take_one(&mut self, core: &mut Core) -> Result<Option<u64>, QueueError> {
        let head = self.ring.peek()?;
        if self.slots[usize::from(head)].in_flight {
            return Err(QueueError::HeadInFlight { head });
        }
        self.start(head, core)
    }

    /// Starts the request at `head`; `None` when the queue parked instead and the chain waits in the avail ring.
    #[inline]
    fn start(&mut self, head: u16, core: &mut Core) -> Result<Option<u64>, QueueError> {
        let slot = &mut self.slots[usize::from(head)];
        let walked = slot.chain.walk(&self.ring, &mut self.memory, head);
        if let Some(fault) = walked.err().or(slot.chain.fault()) {
            if let ChainFault::Unmapped(iova) = fault
                && self.missing != Some(iova)
                && self.parks < MAX_PARKS
            {
                self.park(iova);
                return Ok(None);
            }
            debug!("request at descriptor {head}: {fault}");
        }
        walked.map_err(|fault| QueueError::BadChain { head, fault })?;
        self.missing = None;
        self.parks = 0;
        self.ring.advance();
        let slot = &mut self.slots[usize::from(head)];
        slot.seen = core.now;
        slot.in_flight = true;
        slot.bytes = 0;
        self.in_flight += 1;
        slot.status = slot.chain.last_writable_byte();
        if slot.status.is_none() {
            // Nowhere to say how it went, so nothing is done.
            slot.kind = OpKind::Other;
            self.finish(head, Err(IoError::Misaligned));
            return Ok(Some(0));
        }
        let request = Request::parse(&mut slot.chain);
        slot.kind = request.kind;
        let done = match request.action {
            Action::Io { op, offset_bytes, len_bytes, segments, buf } => {
                slot.bytes = len_bytes;
                // SAFETY: the segments lie in this slot, which is not touched again until the I/O's result is reported
                // (`in_flight` guards it); their memory is part of `self.memory`, which is replaced only by a map that
                // still holds it, or when the queue is quiet, and readable and writable as all regions are.
                let io = unsafe { Io::new(op, offset_bytes, len_bytes, segments, buf, u32::from(head)) };
                self.channel.submit(&io, &mut core.ring)
            }
            Action::GetId(segments) => {
                slot.bytes = write_bytes(segments, &self.serial);
                Some(Ok(()))
            }
            Action::Finish(Status::Ok) => Some(Ok(())),
            Action::Finish(Status::IoErr) => Some(Err(IoError::Misaligned)),
            Action::Finish(Status::Unsupported) => Some(Err(IoError::Unsupported)),
        };
        let bytes = slot.bytes;
        if let Some(result) = done {
            self.finish(head, result);
        }
        Ok(Some(bytes))
    }

    #[cold]
    fn park(&mut self, iova: u64) {
        self.missing = Some(iova);
        self.parks += 1;
        self.state = State::Parked;
        self.stats.mapping_faults += 1;
        self.host.unmapped(iova);
    }

    /// Writes the status byte and the used entry; the driver sees them when the batch is published.
    #[inline]
    fn finish(&mut self, head: u16, result: IoResult) {
        let slot = &mut self.slots[usize::from(head)];
        let status = result.map_or_else(Status::from, |()| Status::Ok);
        let mut written_bytes = 0;
        if let Some(at) = slot.status {
            // SAFETY: a mapped byte that the walk found; the map still holds it (see `start`).
            unsafe { at.write_volatile(status as u8) };
            // The bytes written from the front on without a gap (2.7.8.2): all of a good read, else none but a lone status.
            let data = slot.chain.writable_bytes() - 1;
            let filled = match (slot.kind, status) {
                (OpKind::Read, Status::Ok) => data,
                (OpKind::Other, Status::Ok) => slot.bytes.min(data),
                _ => 0,
            };
            let whole = filled == data && slot.chain.fault().is_none();
            written_bytes = u32::try_from(if whole { data + 1 } else { filled }).unwrap_or(u32::MAX);
        }
        slot.in_flight = false;
        self.in_flight -= 1;
        self.ring.push_used(head, written_bytes);
        let ok = status == Status::Ok;
        self.finished.push(Finished { seen: slot.seen, bytes: slot.bytes, kind: slot.kind, ok });
    }

    /// Shows the driver the batch, interrupts it if it wants that, and does the books.
    #[inline]
    fn publish(&mut self, core: &mut Core) {
        if !self.ring.publish() {
            self.stats.interrupts_suppressed += 1;
        } else if self.coalescer.wanted(core.now) {
            self.interrupt(&mut core.ring);
        }
        let now = core.clock.now();
        for f in self.finished.drain(..) {
            self.stats.op_mut(f.kind).record(core.clock.ns_between(f.seen, now), f.bytes, f.ok);
        }
    }

    #[inline]
    fn interrupt(&mut self, ring: &mut Ring) {
        self.host.interrupt(ring);
        self.stats.interrupts_sent += 1;
    }

    #[cold]
    fn break_down(&mut self, error: QueueError) {
        self.state = State::Broken;
        self.host.broken(error);
    }
}

/// Stands in for the host of an abandoned queue.
struct Gone(#[allow(dead_code, reason = "held, not read")] Arc<()>);

impl QueueHost for Gone {
    fn interrupt(&mut self, _: &mut Ring) {}
    fn unmapped(&mut self, _: u64) {}
    fn broken(&mut self, _: QueueError) {}
}

impl Poller for BlkQueue {
    #[inline]
    fn poll(&mut self, core: &mut Core) -> Progress {
        if self.in_flight > 0 {
            self.channel.poll(&mut core.ring, &mut self.done);
            if self.state == State::Abandoned {
                self.in_flight -= self.done.len();
                self.done.clear();
            }
            for i in 0..self.done.len() {
                let Completion { tag, result } = self.done[i];
                self.finish(tag as u16, result);
            }
            self.done.clear();
        }
        if self.state == State::Abandoned {
            return if self.in_flight == 0 { Progress::Finished } else { Progress::Idle };
        }
        let mut busy = self.state == State::Running && self.take(core);
        if self.ring.has_unpublished() {
            self.publish(core);
            busy = true;
        }
        if self.coalescer.is_holding() {
            busy = true;
            if self.coalescer.due(core.now) {
                self.interrupt(&mut core.ring);
            }
        }
        if busy { Progress::Busy } else { Progress::Idle }
    }

    fn quiesce(&mut self) -> bool {
        self.pause();
        self.is_quiet()
    }

    fn close(&mut self, ring: &mut Ring) {
        // Nothing may touch the rings through a queue that was closed.
        self.state = State::Broken;
        if self.coalescer.release() {
            self.interrupt(ring);
        }
        self.channel.close(ring);
        self.host.close(ring);
        self.memory.release(ring);
    }
}

impl Drop for BlkQueue {
    /// A queue dropped with I/O in flight (a reactor that ended in a panic) leaves behind what the kernel may still use.
    fn drop(&mut self) {
        if self.in_flight > 0 {
            std::mem::forget(self.memory.map().clone());
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

/// Scatters `bytes` over `segments` as far as they go; returns how many were written.
fn write_bytes(segments: &[Segment], bytes: &[u8]) -> u64 {
    let mut left = bytes;
    for segment in segments {
        let (now, rest) = left.split_at(segment.len_bytes().min(left.len()));
        // SAFETY: a mapped, device-writable segment of the chain being served, at least `now.len()` long; guest memory
        // never overlaps the serial, which is ours.
        unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), segment.as_ptr(), now.len()) };
        left = rest;
    }
    (bytes.len() - left.len()) as u64
}
