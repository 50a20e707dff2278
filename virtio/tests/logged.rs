//! Queues that keep a log of what is in flight: a process that dies anywhere is followed by another one, which returns
//! every request that the first one had, once; and the log is hostile memory.

#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use spinblk_bdev::{Bdev, Channel, Completion, Error, Info, Io, IoResult};
use spinblk_reactor::{Poller, Ring};
use spinblk_virtio::testing::{BASE, Buffer, Driver, Rig, header};
use spinblk_virtio::{InFlightError, InFlightLog, RingKind};

const KINDS: [RingKind; 2] = [RingKind::Split, RingKind::Packed];
const IOERR: u8 = 1;

thread_local! {
    /// Tags of I/Os that are held.
    static HELD: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static ANSWERS: RefCell<Vec<Completion>> = const { RefCell::new(Vec::new()) };
    /// Sectors at which I/Os began, since the process did.
    static STARTED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    /// The process dies in the submission after so many.
    static LIVES: Cell<Option<usize>> = const { Cell::new(None) };
    /// Sectors whose I/Os are done at once: those of the bits that are set, modulo 64.
    static AT_ONCE: Cell<u64> = const { Cell::new(0) };
}

/// Holds every I/O until it is answered, but for some, and remembers what was asked for.
struct Recorder(Info);

struct RecorderChannel;

impl Recorder {
    fn new() -> Self {
        Self(Info::new("recorder", 1 << 40, 512).unwrap())
    }
}

impl Bdev for Recorder {
    fn info(&self) -> &Info {
        &self.0
    }
    fn kind(&self) -> &'static str {
        "test"
    }

    fn open(&self, _: &mut Ring, _: usize) -> Result<Box<dyn Channel>, Error> {
        Ok(Box::new(RecorderChannel))
    }
}

impl Channel for RecorderChannel {
    fn submit(&mut self, io: &Io, _: &mut Ring) -> Option<IoResult> {
        match LIVES.get() {
            Some(0) => resume_unwind(Box::new("the process dies")),
            left => LIVES.set(left.map(|left| left - 1)),
        }
        let sector = io.offset_bytes() / 512;
        STARTED.with_borrow_mut(|started| started.push(sector));
        if AT_ONCE.get() >> (sector % 64) & 1 == 1 {
            return Some(Ok(()));
        }
        HELD.with_borrow_mut(|held| held.push(io.tag));
        None
    }
    fn poll(&mut self, _: &mut Ring, done: &mut Vec<Completion>) {
        ANSWERS.with_borrow_mut(|answers| done.append(answers));
    }
    fn close(&mut self, _: &mut Ring) {}
}

fn held() -> usize {
    HELD.with_borrow(Vec::len)
}

fn started() -> Vec<u64> {
    STARTED.with_borrow(Clone::clone)
}

/// Lets one of the I/Os that are held end.
fn answer(nth: usize) {
    HELD.with_borrow_mut(|held| {
        if !held.is_empty() {
            let tag = held.remove(nth % held.len());
            ANSWERS.with_borrow_mut(|answers| answers.push(Completion { tag, result: Ok(()) }));
        }
    });
}

/// The memory of a log, which outlives queues.
struct Memory {
    words: Arc<Vec<u64>>,
    kind: RingKind,
    entries: u16,
}

impl Memory {
    fn new(kind: RingKind, entries: u16) -> Self {
        let len_bytes = InFlightLog::region_len_bytes(kind, entries);
        Self { words: Arc::new(vec![0; len_bytes / 8]), kind, entries }
    }

    fn open(&self) -> Result<InFlightLog, InFlightError> {
        let (start, keep) = (self.words.as_ptr().cast_mut().cast(), Arc::clone(&self.words));
        // SAFETY: the vector lives as long as `keep`; it is read and written through raw pointers on this thread only.
        unsafe { InFlightLog::new(self.kind, start, self.words.len() * 8, self.entries, keep) }
    }

    /// Writes a byte as a client gone mad would.
    fn poke(&self, offset: usize, byte: u8) {
        let start: *mut u8 = self.words.as_ptr().cast_mut().cast();
        // SAFETY: inside the vector; nobody has a reference to its elements.
        unsafe { start.add(offset % (self.words.len() * 8)).write_volatile(byte) };
    }
}

/// Requests of every shape, by number; each at a sector that tells which it is.
fn submit(driver: &mut Driver, shape: u16, sector: u64) -> Option<u16> {
    let read = || Buffer::Out(header(0, sector));
    let write = || Buffer::Out(header(1, sector));
    let out = || Buffer::Out(vec![7; 512]);
    match shape % 5 {
        0 => driver.submit(&[read(), Buffer::In(512), Buffer::In(1)], false, 0),
        1 => driver.submit(&[write(), out(), Buffer::In(1)], true, 8),
        2 => driver.submit(&[write(), out(), out(), Buffer::In(1)], false, 8),
        3 => driver.submit(&[read(), Buffer::In(513)], false, 0),
        // Answered at once, and no I/O.
        _ => driver.submit(&[Buffer::Out(header(8, 0)), Buffer::In(20), Buffer::In(1)], true, 0),
    }
}

/// A driver, the queue of the process that is alive, and the log.
struct World {
    bdev: Recorder,
    memory: Memory,
    rig: Option<Rig>,
    submitted: u64,
    /// Ids that the driver waits for.
    waiting: Vec<u16>,
}

impl World {
    fn new(kind: RingKind, size: u16, entries: u16, event_idx: bool, start: u16) -> Self {
        AT_ONCE.set(0);
        let driver = Driver::with_ring(kind, size, 4096, event_idx, start);
        let memory = Memory::new(kind, entries);
        let mut world = Self { bdev: Recorder::new(), memory, rig: None, submitted: 0, waiting: vec![] };
        assert_eq!(world.begin(driver).unwrap(), 0);
        world
    }

    fn rig(&mut self) -> &mut Rig {
        self.rig.as_mut().unwrap()
    }

    /// A process begins; returns how many requests it found.
    fn begin(&mut self, driver: Driver) -> Result<usize, InFlightError> {
        HELD.take();
        ANSWERS.take();
        STARTED.take();
        LIVES.set(None);
        let mut rig = Rig::new(driver, &self.bdev);
        let again = self.memory.open().and_then(|log| rig.queue.attach_log(log));
        self.rig = Some(rig);
        again
    }

    /// The process dies without a word, and another one begins.
    fn die(&mut self) -> Result<usize, InFlightError> {
        let Rig { driver, .. } = self.rig.take().unwrap();
        self.begin(driver)
    }

    fn submit(&mut self, shape: u16) {
        let sector = self.submitted;
        if let Some(id) = submit(&mut self.rig().driver, shape, sector) {
            self.submitted += 1;
            self.waiting.push(id);
        }
    }

    /// False: the process died in it.
    fn poll(&mut self) -> bool {
        let rig = self.rig.as_mut().unwrap();
        catch_unwind(AssertUnwindSafe(|| rig.poll())).is_ok()
    }

    fn collect(&mut self) {
        for (id, _) in self.rig().driver.completed() {
            let at = self.waiting.iter().position(|&waiting| waiting == id);
            self.waiting.remove(at.unwrap_or_else(|| panic!("{id} is returned and nobody waits for it")));
        }
        assert!(started().is_sorted_by(|a, b| a < b), "requests begin in order: {:?}", started());
        assert_eq!(self.rig().log.broken.load(Ordering::Relaxed), 0);
    }

    fn finish(&mut self) {
        for _ in 0..10_000 {
            assert!(self.poll());
            self.collect();
            if self.waiting.is_empty() {
                break;
            }
            (0..held()).for_each(answer);
        }
        assert_eq!(self.waiting, [0; 0], "requests are lost");
        assert!(self.rig().queue.is_quiet());
    }
}

#[test]
fn a_successor_does_again_what_was_in_flight() {
    for kind in KINDS {
        let mut world = World::new(kind, 32, 32, true, 7);
        (0..6).for_each(|shape| world.submit(shape));
        world.poll();
        // GET_ID was answered, one more is; four are left.
        answer(2);
        world.poll();
        world.collect();
        assert_eq!((world.waiting.len(), held()), (4, 4), "{kind:?}");
        world.submit(0);
        let again = world.die().unwrap();
        assert_eq!(again, 4, "{kind:?}");
        assert!(!world.rig().queue.is_quiet(), "there is something to do");
        world.poll();
        assert_eq!(started(), [0, 1, 3, 5], "what is new waits for the next poll");
        world.poll();
        assert_eq!(started(), [0, 1, 3, 5, 6], "{kind:?}");
        world.finish();
        assert_eq!(world.die().unwrap(), 0);
        (0..9).for_each(|shape| world.submit(shape));
        world.finish();
    }
}

/// Where the process died, and what had been started before: sectors 1 and 4 go on, the others are done at once.
#[test]
fn requests_done_at_once_are_noted_nowhere_and_done_again_from_the_ring() {
    for kind in KINDS {
        let begin = || {
            let world = World::new(kind, 32, 32, false, 10);
            AT_ONCE.set(!0b10010);
            world
        };
        for (lives, noted, shown) in [(1, 0, 0), (2, 1, 1), (3, 1, 1), (4, 1, 1), (5, 2, 3)] {
            let mut world = begin();
            (0..6).for_each(|_| world.submit(0));
            LIVES.set(Some(lives));
            assert!(!world.poll());
            world.collect();
            // They are shown when something behind them is noted.
            assert_eq!(6 - world.waiting.len(), shown, "{kind:?}, {lives} lives");
            assert_eq!(world.die().unwrap(), noted, "{kind:?}, {lives} lives");
            world.finish();
        }
    }
}

/// A log may come from a program that notes every request, and some of what it noted may be done at once now.
#[test]
fn what_went_on_before_may_be_done_at_once_now() {
    for kind in KINDS {
        let mut world = World::new(kind, 16, 16, true, 3);
        (0..5).for_each(|shape| world.submit(shape % 4));
        world.poll();
        AT_ONCE.set(!0b1000);
        assert_eq!(world.die().unwrap(), 5);
        world.poll();
        world.collect();
        assert_eq!((held(), world.waiting.len()), (1, 1), "{kind:?}");
        assert_eq!(world.die().unwrap(), 1);
        (0..5).for_each(|shape| world.submit(shape));
        world.finish();
        assert_eq!(world.die().unwrap(), 0);
    }
}

#[test]
fn a_paused_queue_finishes_the_past_and_takes_nothing_new() {
    for kind in KINDS {
        let mut world = World::new(kind, 16, 16, false, 0);
        (0..3).for_each(|_| world.submit(0));
        world.poll();
        assert_eq!(world.die().unwrap(), 3);
        world.submit(0);
        assert!(!world.rig().queue.quiesce());
        world.poll();
        world.poll();
        assert_eq!(started(), [0, 1, 2], "{kind:?}");
        (0..3).for_each(answer);
        world.poll();
        world.collect();
        assert!(world.rig().queue.is_quiet() && world.waiting.len() == 1);
        world.rig().queue.resume();
        world.finish();
    }
}

#[test]
fn what_a_queue_holds_back_is_done_in_its_next_life() {
    for kind in KINDS {
        let mut world = World::new(kind, 16, 16, false, 0);
        (0..3).for_each(|_| world.submit(0));
        world.poll();
        assert_eq!(world.die().unwrap(), 3);
        // As when its memory is away for a moment, and comes back with a new queue.
        world.rig().queue.hold();
        // As the reactor does before it removes a queue.
        assert!(world.rig().queue.quiesce() && world.rig().queue.is_quiet());
        world.poll();
        assert_eq!((started().len(), world.rig().queue.pending()), (0, 3), "{kind:?}");
        assert_eq!(world.die().unwrap(), 3, "{kind:?}");
        world.submit(0);
        world.finish();
        assert_eq!(started(), [0, 1, 2, 3], "{kind:?}");
    }
}

#[test]
fn what_is_not_mapped_any_more_fails_alone() {
    for paused in [false, true] {
        let mut world = World::new(RingKind::Split, 16, 16, false, 0);
        world.submit(0);
        world.submit(0);
        world.poll();
        // The data buffer of the first request moves out of the memory.
        let id = world.waiting[0];
        world.rig().driver.write_descriptor(id + 1, 0x4000_0000, 512, 3, id + 2);
        assert_eq!(world.die().unwrap(), 2);
        if paused {
            world.rig().queue.pause();
        }
        world.poll();
        let asked = world.rig().log.unmapped.load(Ordering::Relaxed);
        assert_eq!(asked, u64::from(!paused), "a paused queue asks for nothing");
        if !paused {
            let rig = world.rig();
            rig.queue.answer(0x4000_0000, rig.driver.memory_map(), &mut rig.core.ring);
        }
        world.finish();
        assert_eq!(world.rig().driver.buffer(id, 2), [IOERR]);
        assert_eq!(started(), [1]);
    }
}

#[test]
fn a_chain_that_was_broken_meanwhile_stops_the_queue() {
    let mut world = World::new(RingKind::Split, 16, 16, false, 0);
    world.submit(0);
    world.poll();
    let id = world.waiting[0];
    world.rig().driver.write_descriptor(id, BASE, 16, 1, 99);
    assert_eq!(world.die().unwrap(), 1);
    world.poll();
    assert_eq!(world.rig().log.broken.load(Ordering::Relaxed), 1);
    assert!(world.rig().queue.quiesce(), "nothing more comes");
}

#[test]
fn logs_of_another_shape_are_refused() {
    let mut world = World::new(RingKind::Split, 16, 16, false, 0);
    let refused = |world: &mut World, memory: Memory| {
        let log = memory.open().unwrap();
        world.rig().queue.attach_log(log).unwrap_err()
    };
    let driver = Driver::new(16, 4096, false, 0);
    world.rig = Some(Rig::new(driver, &world.bdev));
    assert!(matches!(
        refused(&mut world, Memory::new(RingKind::Split, 8)),
        InFlightError::RingTooLong { .. }
    ));
    assert_eq!(refused(&mut world, Memory::new(RingKind::Packed, 16)), InFlightError::WrongKind);
}

#[derive(Clone, Debug)]
enum Step {
    Submit(u16),
    Answer(usize),
    Poll,
    /// Between two polls.
    Die,
    /// In a poll: after so many requests were started, more were taken from the ring, and some pushed but not shown.
    DieInPoll(usize),
    /// The client writes into the log.
    Poke(usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<u16>().prop_map(Step::Submit),
        4 => any::<usize>().prop_map(Step::Answer),
        4 => Just(Step::Poll),
        1 => Just(Step::Die),
        1 => (0..6usize).prop_map(Step::DieInPoll),
    ]
}

fn kind() -> impl Strategy<Value = RingKind> {
    prop_oneof![Just(RingKind::Split), Just(RingKind::Packed)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_request_is_lost_or_returned_twice(
        kind in kind(),
        shift in 2..6u16,
        more in 0..3u16,
        event_idx: bool,
        start: u16,
        at_once in prop_oneof![Just(0), Just(!0), any::<u64>()],
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let size = if kind == RingKind::Packed { (1 << shift) + more } else { 1 << shift };
        let mut world = World::new(kind, size, size + more, event_idx, start);
        AT_ONCE.set(at_once);
        for step in steps {
            match step {
                Step::Submit(shape) => world.submit(shape),
                Step::Answer(nth) => answer(nth),
                Step::Poll => assert!(world.poll()),
                Step::Die => {
                    // All that was started and not shown.
                    let open = held() + ANSWERS.with_borrow(Vec::len);
                    let pending = world.die().unwrap();
                    assert!(pending >= open, "{pending} of {open}");
                }
                Step::DieInPoll(lives) => {
                    LIVES.set(Some(lives));
                    if !world.poll() {
                        world.die().unwrap();
                    }
                    LIVES.set(None);
                }
                Step::Poke(..) => {}
            }
            world.collect();
        }
        world.finish();
    }

    /// The queue's own memory stays whole, and every call ends; what becomes of the requests is the client's affair.
    #[test]
    fn a_log_that_the_client_writes_to_harms_only_the_client(
        kind in kind(),
        at_once: u64,
        steps in prop::collection::vec(
            prop_oneof![
                3 => step(),
                1 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Step::Poke(at, byte)),
                1 => (0..64usize, 0..4u8).prop_map(|(at, byte)| Step::Poke(at, byte)),
            ],
            1..80,
        ),
    ) {
        let mut world = World::new(kind, 8, 8, true, 3);
        AT_ONCE.set(at_once);
        for step in steps {
            match step {
                Step::Submit(shape) => world.submit(shape),
                Step::Answer(nth) => answer(nth),
                Step::Poll => { world.poll(); }
                Step::Die | Step::DieInPoll(_) => {
                    if world.die().is_err() {
                        // As the transport does it: the queue ends.
                        let driver = Driver::with_ring(kind, 8, 4096, true, 3);
                        world.memory = Memory::new(kind, 8);
                        world.begin(driver).unwrap();
                    }
                }
                Step::Poke(at, byte) => world.memory.poke(at, byte),
            }
            world.rig().driver.completed();
        }
        for _ in 0..4 {
            world.poll();
            (0..held()).for_each(answer);
        }
    }
}
