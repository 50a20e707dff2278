//! Finished requests on their way to the board, in groups that passed their stages together.
//!
//! ```text
//!   done at once   ─► one group for all of a batch that are alike ─┐
//!   done later     ─► a group of its own, with stamps of its own  ─┴► returned ─► (interrupt held) ─► board
//! ```
//! With a backend that answers at once, clock and histograms are touched once per batch, and what is counted per request
//! is its number. Such requests have no stamps between seen and returned: all that time counts as the block device's.

use spinblk_perf::{Clock, Group, OpKind, QueueBoard, Stamps, Ticks};
use spinblk_reactor::Core;

/// Whether books are kept; they are, but for the benchmark of what they cost.
const KEPT: bool = !cfg!(feature = "unobserved");

/// How a request came to the block device.
#[derive(Clone, Copy, Default)]
pub(super) struct Passed {
    looked: Ticks,
    seen: Ticks,
    submitted: Ticks,
    batch_position: u32,
}

impl Passed {
    /// Of a request that was submitted just now, as number `batch_position` of the batch taken in this iteration.
    #[inline]
    pub(super) fn now(core: &Core, batch_position: u32) -> Self {
        let submitted = if KEPT { core.clock.now() } else { core.now };
        Self { looked: core.looked, seen: core.now, submitted, batch_position }
    }
}

/// What a request is, for the books.
#[derive(Clone, Copy, Default)]
pub(super) struct What {
    pub(super) kind: OpKind,
    pub(super) bytes: u64,
    pub(super) offset_bytes: u64,
}

/// What finished and is not on the board yet.
pub(super) struct Account {
    /// What the last request that was done at once joined; of no request's size when there is none.
    current: Group,
    /// The others, in the used ring or about to be shown there.
    groups: Vec<Group>,
    /// How many of these the driver sees already, and waits for its interrupt.
    held: usize,
}

const NO_GROUP: u64 = u64::MAX;

impl Account {
    /// An account for at most `room` requests between two settlements.
    pub(super) fn new(room: usize) -> Self {
        let current = Group { bytes: NO_GROUP, ..Group::default() };
        Self { current, groups: Vec::with_capacity(room), held: 0 }
    }

    /// A request was done at once. False: it is not like the ones before it, and [`begin`](Self::begin) is to be called.
    #[inline(always)]
    pub(super) fn joins(&mut self, what: What, ok: bool) -> bool {
        if !KEPT {
            return true;
        }
        let current = &mut self.current;
        let like = current.bytes == what.bytes && current.kind == what.kind && current.ok == ok;
        current.requests += u32::from(like);
        like
    }

    /// Begins a group with a request that was done at once, as number `batch_position` of the batch being taken.
    #[inline(never)]
    pub(super) fn begin(&mut self, what: What, ok: bool, batch_position: u32) {
        self.set_current_aside();
        let current = &mut self.current;
        (current.kind, current.ok, current.requests) = (what.kind, ok, 1);
        (current.bytes, current.offset_bytes) = (what.bytes, what.offset_bytes);
        current.batch_position = batch_position;
        // Not returned yet, whatever the stamps of the one before it say.
        current.stamps.completed = 0;
    }

    fn set_current_aside(&mut self) {
        if self.current.bytes != NO_GROUP {
            self.groups.push(self.current);
            self.current.bytes = NO_GROUP;
        }
    }

    /// A request was done later, at `completed`.
    #[inline]
    pub(super) fn later(&mut self, what: What, ok: bool, passed: &Passed, completed: Ticks) {
        if !KEPT {
            return;
        }
        let What { kind, bytes, offset_bytes } = what;
        let &Passed { looked, seen, submitted, batch_position } = passed;
        let stamps = Stamps { looked, seen, submitted, completed, ..Stamps::default() };
        self.groups.push(Group { kind, ok, requests: 1, batch_position, bytes, offset_bytes, stamps });
    }

    /// The driver sees all of them, from now on.
    #[inline]
    pub(super) fn returned(&mut self, core: &Core) {
        if !KEPT {
            return;
        }
        let returned = core.clock.now();
        // Done at once, in this iteration.
        let (looked, seen) = (core.looked, core.now);
        let at_once =
            Stamps { looked, seen, submitted: seen, completed: returned, returned, interrupted: None };
        self.current.stamps = at_once;
        for group in &mut self.groups[self.held..] {
            if group.stamps.completed == 0 {
                group.stamps = at_once;
            }
            group.stamps.returned = returned;
        }
        self.held = self.groups.len();
    }

    /// Keeps all that were returned until their interrupt is sent.
    pub(super) fn hold(&mut self) {
        if KEPT {
            self.set_current_aside();
            self.held = self.groups.len();
        }
    }

    /// Whether what waits for its interrupt leaves no room for `more` requests.
    #[inline]
    pub(super) fn is_crowded(&self, more: usize) -> bool {
        self.groups.len() + more > self.groups.capacity()
    }

    /// Enters all that were returned; an interrupt was sent for them just now, or none was.
    #[inline]
    pub(super) fn settle(&mut self, was_interrupted: bool, clock: &Clock, board: &QueueBoard) {
        if !KEPT {
            return;
        }
        let interrupted = was_interrupted.then(|| clock.now());
        if self.current.bytes != NO_GROUP {
            self.current.stamps.interrupted = interrupted;
            board.record(&self.current, clock);
            self.current.bytes = NO_GROUP;
        }
        if self.held > 0 {
            self.settle_groups(interrupted, clock, board);
        }
    }

    fn settle_groups(&mut self, interrupted: Option<Ticks>, clock: &Clock, board: &QueueBoard) {
        for mut group in self.groups.drain(..self.held) {
            group.stamps.interrupted = interrupted;
            board.record(&group, clock);
        }
        self.held = 0;
    }
}
