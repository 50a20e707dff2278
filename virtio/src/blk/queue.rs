//! One virtqueue of a virtio-blk device, served by one reactor: the hot path.
//!
//! ```text
//!   poll():  channel.poll ─► finish each       (what the ring completed since the last iteration)
//!            avail ring ─► slot ─► channel.submit ─► finish those that were done at once
//!            used index published once, one interrupt if wanted, then the account
//! ```
//!
//! Every request has a slot, taken from a stack, so that the one used last, which the caches still hold, is used next:
//! nothing is searched or allocated. When an address is not
//! mapped the queue *parks*: it asks its host for the mapping, takes nothing new, and goes on when
//! [`BlkQueue::set_memory`] brings a new map. A request whose address is still missing then fails alone.

use std::sync::Arc;

use spinblk_bdev::{Channel, Completion, Io, IoError, IoResult, Op, Segment};
use spinblk_perf::{Clock, OpKind, QueueStats, Ticks};
use spinblk_reactor::{Core, Poller, Progress, Ring};
use tracing::debug;
use virtio_bindings::virtio_blk as blk;

use super::Device;
use super::coalesce::Coalescer;
use super::request::{Action, SERIAL_BYTES, Status, parse_rare, transfer_offset};
use crate::chain::{Chain, ChainFault};
use crate::memory::CoreMemory;
use crate::virtqueue::Virtqueue;
use crate::{MAX_SEGMENTS, MemoryMap, QueueError, RingConfig, RingState};

/// Chains taken per poll: keeps one busy queue from holding up its neighbours on the core.
const BATCH: u32 = 64;
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

/// One request. What most requests touch comes first, side by side with the front of the chain.
#[repr(C)]
#[derive(Default)]
struct Slot {
    kind: OpKind,
    seen: Ticks,
    bytes: u64,
    chain: Chain,
}

impl Slot {
    /// Starts what the chain asks for; the result if it is done at once.
    #[inline]
    fn start(
        &mut self,
        index: u16,
        channel: &mut dyn Channel,
        serial: &[u8],
        ring: &mut Ring,
    ) -> Option<IoResult> {
        let chain = &self.chain;
        self.bytes = 0;
        let Some([kind, sector]) = chain.header() else {
            // Also without a place for the status: nobody could be told how it went, so nothing is done.
            self.kind = OpKind::Other;
            return Some(Err(IoError::Misaligned));
        };
        let (op, len_bytes, (segments, buf)) = match kind as u32 {
            blk::VIRTIO_BLK_T_IN => {
                self.kind = OpKind::Read;
                (Op::Read, chain.writable_bytes(), chain.writable())
            }
            blk::VIRTIO_BLK_T_OUT => {
                self.kind = OpKind::Write;
                (Op::Write, chain.readable_bytes(), chain.readable())
            }
            kind => return self.start_rare(kind, index, channel, serial, ring),
        };
        let Some(offset_bytes) = transfer_offset(sector, len_bytes) else {
            return Some(Err(IoError::Misaligned));
        };
        self.bytes = len_bytes;
        // SAFETY: the segments lie in this slot, which is not touched again until the I/O's result is reported (it is not
        // in `free` until then); their memory is part of the queue's `memory`, which is replaced only by a map that still
        // holds it, or when the queue is quiet, and readable and writable as all regions are.
        let io = unsafe { Io::new(op, offset_bytes, len_bytes, segments, buf, u32::from(index)) };
        channel.submit(&io, ring)
    }

    #[inline(never)]
    fn start_rare(
        &mut self,
        kind: u32,
        index: u16,
        channel: &mut dyn Channel,
        serial: &[u8],
        ring: &mut Ring,
    ) -> Option<IoResult> {
        let (kind, action) = parse_rare(kind, &self.chain);
        self.kind = kind;
        match action {
            Action::Io { op, offset_bytes, len_bytes } => {
                self.bytes = len_bytes;
                // SAFETY: there are no segments.
                let io = unsafe { Io::new(op, offset_bytes, len_bytes, &[], None, u32::from(index)) };
                channel.submit(&io, ring)
            }
            Action::GetId(segments) => {
                self.bytes = write_bytes(segments, serial);
                Some(Ok(()))
            }
            Action::Refuse(error) => Some(Err(error)),
        }
    }

    /// Writes the status byte and the used entry; the driver sees them when the batch is published.
    #[inline(always)]
    fn finish(&self, result: IoResult, ring: &mut Virtqueue, account: &mut Account) {
        let ok = result.is_ok();
        let written_bytes = match self.chain.status() {
            Some(at) if ok => {
                // SAFETY: a mapped byte that the walk found; the map still holds it (see `start`).
                unsafe { at.write_volatile(Status::Ok as u8) };
                match self.kind {
                    // A read's length was checked: it fits.
                    OpKind::Read => self.bytes as u32 + 1,
                    _ => self.odd_written_bytes(true),
                }
            }
            Some(at) => self.fail(at, result),
            None => 0,
        };
        ring.push_used(self.chain.head(), written_bytes);
        account.add(self.seen, self.kind, ok, self.bytes);
    }

    /// Writes the status of a request that failed; returns how many bytes of it count as written.
    #[cold]
    fn fail(&self, at: *mut u8, result: IoResult) -> u32 {
        let status = result.map_or_else(Status::from, |()| Status::Ok);
        // SAFETY: as in `finish`.
        unsafe { at.write_volatile(status as u8) };
        self.odd_written_bytes(false)
    }

    /// The bytes written from the front on without a gap (2.7.8.2): what a get-id filled; nothing of a request that failed,
    /// but for a lone status.
    #[inline(never)]
    fn odd_written_bytes(&self, ok: bool) -> u32 {
        let data = self.chain.written_data_bytes();
        let filled = if ok && self.kind == OpKind::Other { self.bytes.min(data) } else { 0 };
        let whole = filled == data && self.chain.fault().is_none();
        u32::try_from(if whole { data + 1 } else { filled }).unwrap_or(u32::MAX)
    }
}

/// Finished requests that were seen together and ended alike.
#[derive(Default)]
struct Finished {
    seen: Ticks,
    kind: OpKind,
    ok: bool,
    ios: u64,
    bytes: u64,
}

/// Finished requests of one poll on their way into the statistics, which take the time once for all of them.
struct Account {
    /// What the last one joined.
    current: Finished,
    others: Vec<Finished>,
}

impl Account {
    /// An account for polls that finish at most `room` requests.
    fn new(room: usize) -> Self {
        Self { current: Finished::default(), others: Vec::with_capacity(room) }
    }

    #[inline(always)]
    fn add(&mut self, seen: Ticks, kind: OpKind, ok: bool, bytes: u64) {
        let current = &mut self.current;
        if current.seen != seen || current.kind != kind || current.ok != ok {
            self.turn_over(seen, kind, ok);
        }
        self.current.ios += 1;
        self.current.bytes += bytes;
    }

    #[inline(never)]
    fn turn_over(&mut self, seen: Ticks, kind: OpKind, ok: bool) {
        let last = std::mem::replace(&mut self.current, Finished { seen, kind, ok, ios: 0, bytes: 0 });
        if last.ios > 0 {
            self.others.push(last);
        }
    }

    /// Enters everything as finished at `now`.
    fn settle(&mut self, now: Ticks, clock: &Clock, stats: &mut QueueStats) {
        self.turn_over(0, OpKind::Other, false);
        for f in self.others.drain(..) {
            stats.op_mut(f.kind).record_many(f.ios, clock.ns_between(f.seen, now), f.bytes, f.ok);
        }
    }
}

/// One virtqueue and all it needs, on one core.
pub struct BlkQueue {
    ring: Virtqueue,
    memory: CoreMemory,
    slots: Box<[Slot]>,
    free: Vec<u16>,
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
    account: Account,
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
        let virtqueue = match Virtqueue::new(&mut memory, config) {
            Ok(virtqueue) => virtqueue,
            Err(e) => {
                memory.release(ring);
                channel.close(ring);
                return Err(e);
            }
        };
        host.open(ring);
        let size = config.size;
        // Those of one batch may finish at once, and all others in the same poll.
        let room = usize::from(size) + BATCH as usize;
        Ok(Self {
            ring: virtqueue,
            memory,
            slots: (0..size).map(|_| Slot::default()).collect(),
            free: (0..size).rev().collect(),
            channel,
            host,
            serial: device.serial(),
            state: State::Running,
            in_flight: 0,
            missing: None,
            parks: 0,
            coalescer: Coalescer::new(device.coalesces(), &Clock::get()),
            done: Vec::with_capacity(room),
            account: Account::new(room),
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

    /// How far it has come in the ring: the queue's state as VDUSE and vhost mean it, when it is quiet.
    #[must_use]
    pub fn state(&self) -> RingState {
        self.ring.state()
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
        match self.ring.look() {
            Ok(false) => return false,
            Ok(true) => {}
            Err(e) => {
                self.break_down(e);
                return true;
            }
        }
        let (mut taken, mut bytes) = (0, 0);
        while taken < BATCH && bytes < BATCH_BYTES && self.ring.has_next() {
            match self.take_one(core) {
                Ok(Some(count)) => bytes += count,
                Ok(None) => break,
                Err(e) => {
                    self.break_down(e);
                    break;
                }
            }
            taken += 1;
        }
        self.stats.requests += u64::from(taken);
        self.stats.batches += u64::from(taken > 0);
        if taken > 0 {
            self.coalescer.arrived(taken, core.now);
        }
        // One that parked or broke has done something, too.
        true
    }

    /// Takes the next chain, starts what it asks for, and returns how many bytes that moves; `None` when the queue parked
    /// instead and the chain waits in the ring.
    #[inline]
    fn take_one(&mut self, core: &mut Core) -> Result<Option<u64>, QueueError> {
        let Some(&index) = self.free.last() else {
            return Err(QueueError::TooMany { size: self.slots.len() as u16 });
        };
        let slot = &mut self.slots[usize::from(index)];
        let walked = self.ring.walk(&mut self.memory, &mut slot.chain);
        if !slot.chain.is_sound() || self.parks > 0 {
            let fault = slot.chain.fault();
            if !self.is_to_be_served(walked, fault)? {
                return Ok(None);
            }
        }
        let slot = &mut self.slots[usize::from(index)];
        self.ring.advance(slot.chain.head());
        slot.seen = core.now;
        match slot.start(index, &mut *self.channel, &self.serial, &mut core.ring) {
            Some(result) => slot.finish(result, &mut self.ring, &mut self.account),
            None => {
                self.free.pop();
                self.in_flight += 1;
            }
        }
        Ok(Some(slot.bytes))
    }

    /// What becomes of a chain that has a fault, or follows one that the queue parked for: false when the queue parks.
    #[cold]
    fn is_to_be_served(&mut self, walked: bool, fault: Option<ChainFault>) -> Result<bool, QueueError> {
        let position = self.ring.position();
        if let Some(fault) = fault {
            if let ChainFault::Unmapped(iova) = fault
                && self.missing != Some(iova)
                && self.parks < MAX_PARKS
            {
                self.park(iova);
                return Ok(false);
            }
            debug!("request at position {position}: {fault}");
            if !walked {
                return Err(QueueError::BadChain { position, fault });
            }
        }
        self.missing = None;
        self.parks = 0;
        Ok(true)
    }

    #[cold]
    fn park(&mut self, iova: u64) {
        self.missing = Some(iova);
        self.parks += 1;
        self.state = State::Parked;
        self.stats.mapping_faults += 1;
        self.host.unmapped(iova);
    }

    /// An I/O that was in flight has ended.
    #[inline]
    fn finish(&mut self, index: u16, result: IoResult) {
        self.slots[usize::from(index)].finish(result, &mut self.ring, &mut self.account);
        self.free.push(index);
        self.in_flight -= 1;
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
        self.account.settle(now, &core.clock, &mut self.stats);
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
