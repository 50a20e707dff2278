//! Parts of the measured time: a polling thread gives a full recorder away and goes on with an empty one.
//!
//! ```text
//!   Client ──full──► Exchange ──► watcher: shows it, adds it to the sum, clears it
//!          ◄─empty──          ◄──┘
//! ```
//! Contract: the polling thread swaps pointers and waits for nobody. Where the watcher has not brought a recorder back, the
//! interval becomes longer. Nothing is lost and nothing counts twice: intervals of a queue join without a gap.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use spinblk_perf::{Clock, OpStats, Ticks};

/// What one queue did in a part of the measured time.
#[derive(Clone, Debug)]
pub struct Interval {
    /// The queue.
    pub queue: u16,
    /// When it began, after the measured time had.
    pub began_ns: u64,
    /// When it ended, by the same count.
    pub ended_ns: u64,
    /// Its reads.
    pub reads: OpStats,
    /// Its writes.
    pub writes: OpStats,
}

impl Interval {
    fn empty(queue: u16) -> Self {
        Self { queue, began_ns: 0, ended_ns: 0, reads: OpStats::new(), writes: OpStats::new() }
    }
}

/// The recorders of one queue on their way.
#[derive(Debug)]
pub(crate) struct Exchange {
    full: ArrayQueue<Interval>,
    empty: ArrayQueue<Interval>,
}

impl Exchange {
    pub(crate) fn new(queue: u16) -> Self {
        let (full, empty) = (ArrayQueue::new(1), ArrayQueue::new(1));
        // There is one, and it is in one place at a time: no push below can fail.
        let _ = empty.push(Interval::empty(queue));
        Self { full, empty }
    }

    /// The interval that has ended, if any; it is to be given back.
    pub(crate) fn take(&self) -> Option<Interval> {
        self.full.pop()
    }

    /// Returns a recorder.
    pub(crate) fn give_back(&self, mut interval: Interval) {
        interval.reads.clear();
        interval.writes.clear();
        let _ = self.empty.push(interval);
    }
}

/// A client's end of the exchange.
pub(crate) struct Handover {
    exchange: Arc<Exchange>,
    length_ns: u64,
    clock: Clock,
    measured_from: Ticks,
    began_ns: u64,
}

impl Handover {
    pub(crate) fn new(exchange: Arc<Exchange>, length_ns: u64) -> Self {
        Self { exchange, length_ns, clock: Clock::get(), measured_from: 0, began_ns: 0 }
    }

    pub(crate) fn begin(&mut self, now: Ticks) {
        (self.measured_from, self.began_ns) = (now, 0);
    }

    /// When the current interval began, after the measured time had.
    pub(crate) fn began_ns(&self) -> u64 {
        self.began_ns
    }

    /// Gives the recorders away if their interval is over, and puts empty ones in their places. Returns whether it did.
    #[inline]
    pub(crate) fn turn(&mut self, now: Ticks, reads: &mut OpStats, writes: &mut OpStats) -> bool {
        let now_ns = self.clock.ns_between(self.measured_from, now);
        if now_ns < self.began_ns.saturating_add(self.length_ns) {
            return false;
        }
        let Some(mut full) = self.exchange.empty.pop() else { return false };
        std::mem::swap(&mut full.reads, reads);
        std::mem::swap(&mut full.writes, writes);
        (full.began_ns, full.ended_ns) = (self.began_ns, now_ns);
        self.began_ns = now_ns;
        let _ = self.exchange.full.push(full);
        true
    }
}
