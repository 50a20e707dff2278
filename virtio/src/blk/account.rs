//! Finished requests on their way into the statistics. Those of one poll that were seen together and ended alike are one
//! entry: with a backend that answers at once, the clock and the histogram are touched once per batch.

use spinblk_perf::{Clock, OpKind, QueueStats, Ticks};

/// Requests that were seen together and ended alike.
#[derive(Default)]
struct Finished {
    seen: Ticks,
    kind: OpKind,
    ok: bool,
    ios: u32,
    bytes: u64,
}

/// What finished since the last [`settle`](Self::settle).
pub(super) struct Account {
    /// What the last one joined.
    current: Finished,
    others: Vec<Finished>,
}

impl Account {
    /// An account for at most `room` requests between two settlements.
    pub(super) fn new(room: usize) -> Self {
        Self { current: Finished::default(), others: Vec::with_capacity(room) }
    }

    /// One request has finished.
    #[inline(always)]
    pub(super) fn add(&mut self, seen: Ticks, kind: OpKind, ok: bool, bytes: u64) {
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

    /// Enters all of them as finished at `now`.
    pub(super) fn settle(&mut self, now: Ticks, clock: &Clock, stats: &mut QueueStats) {
        self.turn_over(0, OpKind::Other, false);
        for f in self.others.drain(..) {
            stats.op_mut(f.kind).record_many(f.ios.into(), clock.ns_between(f.seen, now), f.bytes, f.ok);
        }
    }
}
