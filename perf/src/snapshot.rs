//! A board as it was read: plain data, to be merged over queues, subtracted over time, and shown.

use crate::board::BATCH_CLASSES;
use crate::{Latency, OpKind, SizeClass};

/// One kind of request, in one size class where its kind has classes.
#[derive(Clone, Debug)]
pub struct OpSnapshot {
    /// What they did.
    pub kind: OpKind,
    /// Their size; `None` for kinds without, and for all sizes together.
    pub class: Option<SizeClass>,
    /// Requests, failed ones included.
    pub ios: u64,
    /// Bytes of data of those that succeeded.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// What they took from the first stage to the last.
    pub total: Latency,
    /// What each stage took, in the order of [`crate::Stage::ALL`].
    pub stages: [Latency; 5],
}

impl OpSnapshot {
    /// Nothing of this kind.
    #[must_use]
    pub fn empty(kind: OpKind, class: Option<SizeClass>) -> Self {
        let stages = std::array::from_fn(|_| Latency::new());
        Self { kind, class, ios: 0, bytes: 0, errors: 0, total: Latency::new(), stages }
    }

    /// Adds another.
    pub fn merge(&mut self, other: &Self) {
        self.ios += other.ios;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.total.merge(&other.total);
        for (mine, theirs) in self.stages.iter_mut().zip(&other.stages) {
            mine.merge(theirs);
        }
    }

    /// What came after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            kind: self.kind,
            class: self.class,
            ios: self.ios.wrapping_sub(earlier.ios),
            bytes: self.bytes.wrapping_sub(earlier.bytes),
            errors: self.errors.wrapping_sub(earlier.errors),
            total: self.total.since(&earlier.total),
            stages: std::array::from_fn(|stage| self.stages[stage].since(&earlier.stages[stage])),
        }
    }
}

/// How a backend did its I/Os.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCounters {
    /// Through registered (fixed) buffers.
    pub fixed_buffer_ios: u64,
    /// Copied, as the target did not take their memory.
    pub bounced_ios: u64,
    /// Completed by polling the device.
    pub polled_ios: u64,
    /// Operations sent again.
    pub retries: u64,
    /// Failed because the target is full.
    pub no_space: u64,
    /// Failed by the target in other ways.
    pub target_failures: u64,
}

impl BackendCounters {
    pub(crate) const COUNT: usize = 6;

    pub(crate) fn to_array(self) -> [u64; Self::COUNT] {
        let Self { fixed_buffer_ios, bounced_ios, polled_ios, retries, no_space, target_failures } = self;
        [fixed_buffer_ios, bounced_ios, polled_ios, retries, no_space, target_failures]
    }

    /// What came after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        let (now, before) = (self.to_array(), earlier.to_array());
        Self::from_array(std::array::from_fn(|index| now[index].wrapping_sub(before[index])))
    }

    pub(crate) fn from_array(counts: [u64; Self::COUNT]) -> Self {
        let [fixed_buffer_ios, bounced_ios, polled_ios, retries, no_space, target_failures] = counts;
        Self { fixed_buffer_ios, bounced_ios, polled_ios, retries, no_space, target_failures }
    }
}

/// What a queue, or several together, did.
#[derive(Clone, Debug, Default)]
pub struct QueueSnapshot {
    /// By kind and size; only those that there were.
    pub ops: Vec<OpSnapshot>,
    /// Chains taken from the avail ring.
    pub requests: u64,
    /// Polls that took at least one chain.
    pub batches: u64,
    /// Batches by size: 1, 2-3, 4-7, ... 64 and more.
    pub batch_sizes: [u64; BATCH_CLASSES],
    /// Batches after which the ring was full.
    pub ring_full: u64,
    /// Interrupts sent.
    pub interrupts_sent: u64,
    /// Batches that the driver wanted no interrupt for.
    pub interrupts_suppressed: u64,
    /// Times that the queue waited for memory to be mapped.
    pub mapping_faults: u64,
    /// Slow requests.
    pub slow: u64,
    /// How the backend did its I/Os.
    pub backend: BackendCounters,
}

impl QueueSnapshot {
    /// All sizes of one kind together.
    #[must_use]
    pub fn of_kind(&self, kind: OpKind) -> OpSnapshot {
        let mut sum = OpSnapshot::empty(kind, None);
        self.ops.iter().filter(|op| op.kind == kind).for_each(|op| sum.merge(op));
        sum
    }

    /// Adds another queue.
    pub fn merge(&mut self, other: &Self) {
        for op in &other.ops {
            match self.ops.iter_mut().find(|mine| (mine.kind, mine.class) == (op.kind, op.class)) {
                Some(mine) => mine.merge(op),
                None => self.ops.push(op.clone()),
            }
        }
        self.ops.sort_by_key(|op| (op.kind as usize, op.class));
        self.each_counter(other, u64::wrapping_add);
    }

    /// What came after `earlier`, which is an earlier snapshot of the same.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut new = self.clone();
        for op in &mut new.ops {
            if let Some(before) =
                earlier.ops.iter().find(|other| (other.kind, other.class) == (op.kind, op.class))
            {
                *op = op.since(before);
            }
        }
        new.ops.retain(|op| op.ios > 0);
        new.each_counter(earlier, u64::wrapping_sub);
        new
    }

    fn each_counter(&mut self, other: &Self, join: fn(u64, u64) -> u64) {
        let mine = [
            (&mut self.requests, other.requests),
            (&mut self.batches, other.batches),
            (&mut self.ring_full, other.ring_full),
            (&mut self.interrupts_sent, other.interrupts_sent),
            (&mut self.interrupts_suppressed, other.interrupts_suppressed),
            (&mut self.mapping_faults, other.mapping_faults),
            (&mut self.slow, other.slow),
        ];
        for (mine, theirs) in mine.into_iter().chain(self.batch_sizes.iter_mut().zip(other.batch_sizes)) {
            *mine = join(*mine, theirs);
        }
        let (mine, theirs) = (self.backend.to_array(), other.backend.to_array());
        self.backend =
            BackendCounters::from_array(std::array::from_fn(|index| join(mine[index], theirs[index])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clock, Group, QueueBoard, Stamps};

    #[test]
    fn what_came_between_two_snapshots() {
        let (board, clock) = (QueueBoard::new(), Clock::get());
        let stamps = Stamps { returned: 1000, ..Stamps::default() };
        let group =
            |kind, requests| Group { kind, requests, ok: true, bytes: 4096, stamps, ..Group::default() };
        board.record(&group(OpKind::Read, 5), &clock);
        board.batch(5, false);
        let first = board.snapshot();
        board.record(&group(OpKind::Write, 2), &clock);
        board.batch(2, false);
        let second = board.snapshot();
        let new = second.since(&first);
        assert_eq!(new.ops.len(), 1);
        assert_eq!((new.requests, new.of_kind(OpKind::Write).ios, new.of_kind(OpKind::Read).ios), (2, 2, 0));
        let mut sum = first.clone();
        sum.merge(&new);
        assert_eq!((sum.requests, sum.batches), (second.requests, second.batches));
        for kind in OpKind::ALL {
            assert_eq!(sum.of_kind(kind).ios, second.of_kind(kind).ios);
            assert_eq!(sum.of_kind(kind).total, second.of_kind(kind).total);
        }
    }
}
