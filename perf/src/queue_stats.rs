//! What one virtqueue did: operations, batches, interrupts.

use crate::OpStats;

/// The kinds of request that are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(usize)]
pub enum OpKind {
    /// Device to guest.
    Read,
    /// Guest to device.
    Write,
    /// Make writes durable.
    Flush,
    /// Give blocks back.
    Discard,
    /// Zero blocks.
    WriteZeroes,
    /// Everything else: get-id, unknown and malformed requests.
    #[default]
    Other,
}

impl OpKind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::Flush, Self::Discard, Self::WriteZeroes, Self::Other];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::WriteZeroes => "write_zeroes",
            Self::Other => "other",
        }
    }
}

/// One queue's account; written by its reactor alone.
#[derive(Clone, Debug, Default)]
pub struct QueueStats {
    ops: [OpStats; 6],
    /// Chains taken from the avail ring.
    pub requests: u64,
    /// Polls that took at least one chain.
    pub batches: u64,
    /// Interrupts injected.
    pub interrupts_sent: u64,
    /// Batches of used entries that the driver wanted no interrupt for.
    pub interrupts_suppressed: u64,
    /// I/Os of the backend that went through registered (fixed) buffers, ...
    pub fixed_buffer_ios: u64,
    /// ... through bounce buffers, ...
    pub bounced_ios: u64,
    /// ... and through poll queues of the device.
    pub polled_ios: u64,
    /// Operations that the backend had to send again.
    pub retries: u64,
    /// I/Os that failed because the backend's target is full, ...
    pub no_space: u64,
    /// ... and those that it failed in other ways.
    pub target_failures: u64,
    /// Times that the queue waited for the control thread to map memory.
    pub mapping_faults: u64,
}

impl QueueStats {
    /// An empty account, with all its memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The recorder of one kind of operation.
    #[inline]
    #[must_use]
    pub fn op(&self, kind: OpKind) -> &OpStats {
        &self.ops[kind as usize]
    }

    /// The recorder of one kind of operation, to write.
    #[inline]
    pub fn op_mut(&mut self, kind: OpKind) -> &mut OpStats {
        &mut self.ops[kind as usize]
    }

    /// Adds another account, of another queue or of another life of this one.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.ops.iter_mut().zip(&other.ops) {
            mine.merge(theirs);
        }
        self.requests += other.requests;
        self.batches += other.batches;
        self.interrupts_sent += other.interrupts_sent;
        self.interrupts_suppressed += other.interrupts_suppressed;
        self.fixed_buffer_ios += other.fixed_buffer_ios;
        self.bounced_ios += other.bounced_ios;
        self.polled_ios += other.polled_ios;
        self.retries += other.retries;
        self.no_space += other.no_space;
        self.target_failures += other.target_failures;
        self.mapping_faults += other.mapping_faults;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_index_their_own_recorders() {
        let mut stats = QueueStats::new();
        for (i, kind) in OpKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i);
            for _ in 0..=i {
                stats.op_mut(kind).record(1, 512, true);
            }
        }
        let mut sum = stats.clone();
        sum.merge(&stats);
        for (i, kind) in OpKind::ALL.into_iter().enumerate() {
            assert_eq!(sum.op(kind).ios, 2 * (i as u64 + 1), "{}", kind.name());
        }
    }
}
