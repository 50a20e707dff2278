//! One queue's client: keeps its slots in flight and records how long each took.
//!
//! ```text
//!   reap ─► one clock reading ─► (check contents) ─► prepare the next of each slot ─► publish ─► record
//! ```
//! Recording comes last, so that the device works meanwhile.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use spinblk_perf::{Clock, OpStats, Ticks};

use crate::intervals::Handover;
use crate::ledger::Ledger;
use crate::picker::Picker;
use crate::rng::Rng;
use crate::stamp::{Stamp, poison};
use crate::target::{Done, Fault, Lane, Op};
use crate::{Error, LaneOutcome, VerifyCounts};

/// The device is shown half of what is in flight at a time, but no fewer requests than these: it works on the one half
/// while the client prepares the other. Shown everything at once, the two would wait for each other in turn; shown more
/// often, they would fight over the cache line that shows it.
const LEAST_PART: usize = 4;

/// What a slot holds.
#[derive(Clone, Copy)]
struct Slot {
    started: Ticks,
    op: Op,
    block: u64,
}

/// Completions of one batch that are recorded alike: requests that replaced those of one batch share its stamp.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    started: Ticks,
    op: Op,
    ok: bool,
}

/// The part of the device that a client has to itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) first_block: u64,
    pub(crate) blocks: u64,
    pub(crate) block_bytes: u32,
}

/// The books of a verified run.
pub(crate) struct Verifier {
    ledger: Ledger,
    salt: u64,
    counts: VerifyCounts,
}

impl Verifier {
    pub(crate) fn new(part: Part, salt: u64) -> Self {
        // The job's check has bounded the number of blocks.
        let ledger = Ledger::new(usize::try_from(part.blocks).unwrap_or(0));
        Self { ledger, salt, counts: VerifyCounts::default() }
    }
}

/// One queue under load.
pub(crate) struct Client<L> {
    lane: L,
    queue: u16,
    part: Part,
    clock: Clock,
    picker: Picker,
    slots: Box<[Slot]>,
    /// Requests that the device is shown at a time.
    part_len: usize,
    in_flight: usize,
    done: Vec<Done>,
    /// What this batch held, in runs of the same kind.
    finished: Vec<(Kind, u64)>,
    verifier: Option<Verifier>,
    recording: bool,
    reads: OpStats,
    writes: OpStats,
    batches: u64,
    first_fault: Option<String>,
    /// Who gets the recorders at the end of each interval.
    handover: Option<Handover>,
    /// Requests in the recorders that were given away.
    handed_over: u64,
    /// Requests recorded so far, for whoever watches.
    progress: Arc<CachePadded<AtomicU64>>,
}

impl<L: Lane> Client<L> {
    pub(crate) fn new(
        lane: L,
        queue: u16,
        depth: u32,
        part: Part,
        verifier: Option<Verifier>,
        progress: Arc<CachePadded<AtomicU64>>,
        handover: Option<Handover>,
    ) -> Self {
        let depth = depth as usize;
        let mut client = Self {
            lane,
            queue,
            part,
            clock: Clock::get(),
            picker: Picker::sweep(Op::Read, 0),
            slots: vec![Slot { started: 0, op: Op::Read, block: 0 }; depth].into(),
            part_len: (depth / 2).max(LEAST_PART),
            in_flight: 0,
            done: Vec::with_capacity(depth),
            finished: Vec::with_capacity(depth),
            verifier,
            recording: false,
            reads: OpStats::new(),
            writes: OpStats::new(),
            batches: 0,
            first_fault: None,
            handover,
            handed_over: 0,
            progress,
        };
        client.fill_buffers();
        client
    }

    /// Requests under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Starts a workload: every slot goes into flight. Nothing must be in flight before.
    pub(crate) fn begin(&mut self, picker: Picker) -> Result<(), Error> {
        self.picker = picker;
        let now = self.clock.now();
        for slot in 0..self.slots.len() {
            self.start(slot, now);
        }
        self.lane.publish()
    }

    /// Asks for an interrupt, if anything is under way. False when the client has something to do.
    pub(crate) fn arm(&mut self) -> bool {
        self.in_flight == 0 || self.lane.arm()
    }

    /// Asks for no more interrupts.
    pub(crate) fn disarm(&mut self) {
        self.lane.disarm();
    }

    /// What becomes readable with an interrupt.
    pub(crate) fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        self.lane.interrupt()
    }

    /// From `now` on completions count.
    pub(crate) fn begin_recording(&mut self, now: Ticks) {
        self.recording = true;
        self.handover.iter_mut().for_each(|handover| handover.begin(now));
    }

    /// Completions count no more.
    pub(crate) fn end_recording(&mut self) {
        self.recording = false;
    }

    /// Takes what has completed and starts as many again, if `refill`. Returns the clock if anything had completed.
    #[inline]
    pub(crate) fn step(&mut self, refill: bool) -> Result<Option<Ticks>, Error> {
        self.lane.reap(&mut self.done)?;
        if self.done.is_empty() {
            return Ok(None);
        }
        let now = self.clock.now();
        // Taken out, so that the loop may have the rest of the client.
        let mut done = std::mem::take(&mut self.done);
        self.in_flight -= done.len();
        for part in done.chunks(self.part_len) {
            part.iter().for_each(|done| self.turn_over(*done, refill, now));
            self.lane.publish()?;
        }
        done.clear();
        self.done = done;
        self.record(now);
        Ok(Some(now))
    }

    /// Counts a completion, and puts the next request into its place.
    #[inline(always)]
    fn turn_over(&mut self, done: Done, refill: bool, now: Ticks) {
        let index = done.slot as usize;
        let slot = self.slots[index];
        if done.fault.is_some() || self.verifier.is_some() {
            self.look_closely(index, slot, done.fault);
        }
        self.count(Kind { started: slot.started, op: slot.op, ok: done.fault.is_none() });
        if refill {
            self.start(index, now);
        }
    }

    // Always: there are two callers, and the one in `turn_over` is the hot path.
    #[inline(always)]
    fn start(&mut self, index: usize, now: Ticks) {
        let Some((op, mut block)) = self.picker.next() else { return };
        if self.verifier.is_some() {
            match self.choose_verified(index, op, block) {
                Some(chosen) => block = chosen,
                None => return,
            }
        }
        self.slots[index] = Slot { started: now, op, block };
        self.in_flight += 1;
        self.lane.prepare(index as u32, op, self.part.offset_bytes(block));
    }

    #[inline]
    fn count(&mut self, kind: Kind) {
        match self.finished.last_mut() {
            Some((last, ios)) if *last == kind => *ios += 1,
            _ => self.finished.push((kind, 1)),
        }
    }

    #[inline]
    fn record(&mut self, now: Ticks) {
        if self.recording {
            let block_bytes = u64::from(self.part.block_bytes);
            for &(kind, ios) in &self.finished {
                let stats = if kind.op == Op::Read { &mut self.reads } else { &mut self.writes };
                let latency_ns = self.clock.ns_between(kind.started, now);
                stats.record_many(ios, latency_ns, ios * block_bytes, kind.ok);
            }
            self.batches += 1;
            let recorded = self.reads.ios + self.writes.ios;
            self.progress.store(self.handed_over + recorded, Ordering::Relaxed);
            if let Some(handover) = &mut self.handover
                && handover.turn(now, &mut self.reads, &mut self.writes)
            {
                self.handed_over += recorded;
            }
        }
        self.finished.clear();
    }

    /// Finds a block that is not in flight (and, in a sweep of reads, known), and stamps or poisons the buffer.
    fn choose_verified(&mut self, index: usize, op: Op, block: u64) -> Option<u64> {
        let verifier = self.verifier.as_mut()?;
        let buffer = self.lane.buffer(index as u32);
        let sweeping = matches!(self.picker, Picker::Sweep { .. });
        let start = usize::try_from(block).ok()?;
        let chosen = match (sweeping, op) {
            (true, Op::Read) => verifier.ledger.known_from(start)?,
            (true, Op::Write) => start,
            (false, _) => verifier.ledger.free_from(start),
        };
        if chosen != start && sweeping {
            self.picker.skip_to_after(chosen as u64);
        }
        match op {
            Op::Read => poison(buffer),
            Op::Write => {
                verifier.counts.written += 1;
                let generation = verifier.ledger.next_generation(chosen);
                let offset_bytes = self.part.offset_bytes(chosen as u64);
                Stamp { offset_bytes, generation, salt: verifier.salt }.write(buffer);
            }
        }
        verifier.ledger.begin(chosen);
        Some(chosen as u64)
    }

    /// A request that failed, or whose content is to be checked, has completed.
    #[inline(never)]
    fn look_closely(&mut self, index: usize, slot: Slot, fault: Option<Fault>) {
        let offset_bytes = self.part.offset_bytes(slot.block);
        if let Some(fault) = fault
            && self.first_fault.is_none()
        {
            let op = slot.op.name();
            let (len_bytes, why) = (self.part.block_bytes, fault.text());
            self.first_fault =
                Some(format!("queue {}: {op} of {len_bytes} bytes at {offset_bytes}: {why}", self.queue));
        }
        let Some(verifier) = &mut self.verifier else { return };
        // It came from the ledger, so it fits.
        let block = slot.block as usize;
        if slot.op == Op::Write {
            verifier.ledger.end_write(block, fault.is_none());
            return;
        }
        verifier.ledger.end_read(block);
        let Some(generation) = verifier.ledger.generation(block) else { return };
        if fault.is_some() {
            return;
        }
        verifier.counts.checked += 1;
        let stamp = Stamp { offset_bytes, generation, salt: verifier.salt };
        if let Err(mismatch) = stamp.check(self.lane.buffer(index as u32)) {
            verifier.counts.mismatches += 1;
            if verifier.counts.first.is_none() {
                let queue = self.queue;
                verifier.counts.first = Some(format!(
                    "queue {queue}: block at {offset_bytes}, generation {generation}: {mismatch}"
                ));
            }
        }
    }

    /// Writes that are not verified carry random data, so that nothing below can squeeze it.
    fn fill_buffers(&mut self) {
        let mut rng = Rng::new(u64::from(self.queue));
        for index in 0..self.slots.len() {
            let buffer = self.lane.buffer(index as u32);
            (0..buffer.words()).for_each(|word| buffer.set(word, rng.next()));
        }
    }

    /// What it found out; `core` is where it ran.
    pub(crate) fn finish(mut self, core: usize, elapsed_ns: u64, involuntary_switches: u64) -> LaneOutcome {
        LaneOutcome {
            queue: self.queue,
            core,
            elapsed_ns,
            last_began_ns: self.handover.as_ref().map_or(0, Handover::began_ns),
            batches: self.batches,
            kicks: self.lane.kicks(),
            interrupts: self.lane.take_interrupts(),
            involuntary_switches,
            first_fault: self.first_fault,
            verify: self.verifier.map(|verifier| verifier.counts),
            reads: self.reads,
            writes: self.writes,
        }
    }
}

impl Part {
    #[inline]
    fn offset_bytes(self, block: u64) -> u64 {
        (self.first_block + block) * u64::from(self.block_bytes)
    }
}
