//! What one virtqueue did, on a board that its reactor writes and anybody reads at any time: no lock, no message to the
//! reactor, nothing stopped (`histogram` says why that is sound). A board outlives the lives of its queue, so that a
//! driver's reset does not clear it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::add;
use crate::snapshot::{BackendCounters, OpSnapshot, QueueSnapshot};
use crate::{Clock, OpKind, SharedHistogram, SizeClass, SlowIo, SlowLog, Stage, Stamps};

/// Reads and writes by size class, and the others: the rows of a board.
const ROWS: usize = 2 * SizeClass::ALL.len() + 4;
/// Batch sizes are counted by powers of two: 1, 2-3, 4-7, ... 64 and more.
pub const BATCH_CLASSES: usize = 7;

/// Requests that did the same, are of the same size, and passed their stages together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    /// What they did.
    pub kind: OpKind,
    /// Whether they succeeded.
    pub ok: bool,
    /// How many.
    pub requests: u32,
    /// How many stood before the first in its batch.
    pub batch_position: u32,
    /// Bytes of data of each.
    pub bytes: u64,
    /// The first one's place on the disk.
    pub offset_bytes: u64,
    /// When they passed from stage to stage.
    pub stamps: Stamps,
}

/// The stages that every request passes; an interrupt is sent for some.
const EACH_PASSES: [Stage; 4] = [Stage::PickUp, Stage::Submit, Stage::Bdev, Stage::Return];

/// One kind of request in one size class.
struct Row {
    ios: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    total: SharedHistogram,
    stages: [SharedHistogram; 5],
}

impl Row {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            ios: zero(),
            bytes: zero(),
            errors: zero(),
            total: SharedHistogram::new(),
            stages: std::array::from_fn(|_| SharedHistogram::new()),
        }
    }
}

/// A queue's counters; each is the sum since the board was made.
#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    batches: AtomicU64,
    batch_sizes: [AtomicU64; BATCH_CLASSES],
    ring_full: AtomicU64,
    interrupts_sent: AtomicU64,
    interrupts_suppressed: AtomicU64,
    mapping_faults: AtomicU64,
    backend: [AtomicU64; BackendCounters::COUNT],
}

/// A queue's board.
pub struct QueueBoard {
    rows: Box<[Row]>,
    counters: Counters,
    /// The last slow requests.
    pub slow: SlowLog,
}

impl Default for QueueBoard {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for QueueBoard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueBoard").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl QueueBoard {
    /// An empty board; 3 MiB of addresses, of which only what is written takes memory.
    #[must_use]
    pub fn new() -> Self {
        Self {
            rows: (0..ROWS).map(|_| Row::new()).collect(),
            counters: Counters::default(),
            slow: SlowLog::new(),
        }
    }

    /// Enters requests that are through. The reactor alone calls this.
    #[inline]
    pub fn record(&self, group: &Group, clock: &Clock) {
        let requests = u64::from(group.requests);
        let (stages_ns, total_ns) = group.stamps.to_ns(clock);
        let row = &self.rows[row_of(group.kind, group.bytes)];
        add(&row.ios, requests);
        if group.ok {
            add(&row.bytes, requests * group.bytes);
        } else {
            add(&row.errors, requests);
        }
        row.total.record(total_ns, requests);
        for stage in EACH_PASSES {
            // Several stages of those that are done at once take no time; `snapshot` counts these.
            if stages_ns[stage as usize] > 0 {
                row.stages[stage as usize].record(stages_ns[stage as usize], requests);
            }
        }
        if group.stamps.interrupted.is_some() {
            row.stages[Stage::Interrupt as usize].record(stages_ns[Stage::Interrupt as usize], requests);
        }
        if self.slow.is_slow(total_ns, requests) {
            self.slow.push(SlowIo {
                seen: group.stamps.seen,
                offset_bytes: group.offset_bytes,
                bytes: group.bytes,
                requests: group.requests,
                batch_position: group.batch_position,
                kind: group.kind,
                ok: group.ok,
                stages_ns,
                total_ns,
            });
        }
    }

    /// Counts a batch of `requests` (one or more) taken from the avail ring; `full`: the ring had no more room.
    #[inline]
    pub fn batch(&self, requests: u32, full: bool) {
        add(&self.counters.requests, requests.into());
        add(&self.counters.batches, 1);
        let class = (requests.max(1).ilog2() as usize).min(BATCH_CLASSES - 1);
        add(&self.counters.batch_sizes[class], 1);
        if full {
            add(&self.counters.ring_full, 1);
        }
    }

    /// Counts an interrupt sent.
    #[inline]
    pub fn interrupt_sent(&self) {
        add(&self.counters.interrupts_sent, 1);
    }

    /// Counts a batch that the driver wanted no interrupt for.
    #[inline]
    pub fn interrupt_suppressed(&self) {
        add(&self.counters.interrupts_suppressed, 1);
    }

    /// Counts a wait for the control thread to map memory.
    pub fn mapping_fault(&self) {
        add(&self.counters.mapping_faults, 1);
    }

    /// Counts what the backend did since this was called last.
    pub fn backend(&self, new: BackendCounters) {
        for (counter, count) in self.counters.backend.iter().zip(new.to_array()) {
            add(counter, count);
        }
    }

    /// What the board says now.
    #[must_use]
    pub fn snapshot(&self) -> QueueSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.counters;
        let mut snapshot = QueueSnapshot {
            ops: Vec::new(),
            requests: read(&c.requests),
            batches: read(&c.batches),
            batch_sizes: std::array::from_fn(|class| read(&c.batch_sizes[class])),
            ring_full: read(&c.ring_full),
            interrupts_sent: read(&c.interrupts_sent),
            interrupts_suppressed: read(&c.interrupts_suppressed),
            mapping_faults: read(&c.mapping_faults),
            slow: self.slow.written(),
            backend: BackendCounters::from_array(std::array::from_fn(|index| read(&c.backend[index]))),
        };
        for (index, row) in self.rows.iter().enumerate().filter(|(_, row)| read(&row.ios) > 0) {
            let ((kind, class), ios) = (meaning_of(index), read(&row.ios));
            snapshot.ops.push(OpSnapshot {
                kind,
                class,
                ios,
                bytes: read(&row.bytes),
                errors: read(&row.errors),
                total: row.total.snapshot(),
                stages: Stage::ALL.map(|stage| match &row.stages[stage as usize] {
                    of_all if EACH_PASSES.contains(&stage) => of_all.snapshot_of(ios),
                    of_some => of_some.snapshot(),
                }),
            });
        }
        snapshot
    }
}

#[inline]
fn row_of(kind: OpKind, bytes: u64) -> usize {
    let classes = SizeClass::ALL.len();
    match kind {
        OpKind::Read => SizeClass::of(bytes) as usize,
        OpKind::Write => classes + SizeClass::of(bytes) as usize,
        other => 2 * classes + (other as usize - OpKind::Flush as usize),
    }
}

fn meaning_of(row: usize) -> (OpKind, Option<SizeClass>) {
    let classes = SizeClass::ALL.len();
    match (row / classes, row % classes) {
        (0, class) => (OpKind::Read, Some(SizeClass::ALL[class])),
        (1, class) => (OpKind::Write, Some(SizeClass::ALL[class])),
        (_, other) => (OpKind::ALL[OpKind::Flush as usize + other], None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_their_meanings_agree() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in OpKind::ALL {
            for bytes in [0, 4096, 16_384, 65_536, 262_144, 1 << 30] {
                let row = row_of(kind, bytes);
                let (meant, class) = meaning_of(row);
                assert_eq!(meant, kind);
                assert_eq!(class, matches!(kind, OpKind::Read | OpKind::Write).then(|| SizeClass::of(bytes)));
                seen.insert(row);
            }
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), (0..ROWS).collect::<Vec<_>>());
    }

    #[test]
    fn a_board_adds_up() {
        let (board, clock) = (QueueBoard::new(), Clock::get());
        let stamps = Stamps {
            looked: 10,
            seen: 20,
            submitted: 30,
            completed: 5000,
            returned: 5100,
            interrupted: None,
        };
        let read =
            Group { kind: OpKind::Read, ok: true, requests: 3, bytes: 4096, stamps, ..Group::default() };
        board.record(&read, &clock);
        board.record(&Group { ok: false, requests: 1, ..read }, &clock);
        board.record(
            &Group { bytes: 8192, stamps: Stamps { interrupted: Some(6000), ..stamps }, ..read },
            &clock,
        );
        board.record(&Group { kind: OpKind::Flush, bytes: 0, requests: 1, ..read }, &clock);
        board.batch(8, false);
        board.batch(100, true);
        let snapshot = board.snapshot();
        assert_eq!((snapshot.requests, snapshot.batches, snapshot.ring_full), (108, 2, 1));
        assert_eq!(snapshot.batch_sizes, [0, 0, 0, 1, 0, 0, 1]);
        let kinds: Vec<_> = snapshot.ops.iter().map(|op| (op.kind, op.class, op.ios, op.errors)).collect();
        assert_eq!(
            kinds,
            [
                (OpKind::Read, Some(SizeClass::To4KiB), 4, 1),
                (OpKind::Read, Some(SizeClass::To16KiB), 3, 0),
                (OpKind::Flush, None, 1, 0)
            ]
        );
        let reads = snapshot.of_kind(OpKind::Read);
        assert_eq!((reads.ios, reads.bytes, reads.errors), (7, 3 * 4096 + 3 * 8192, 1));
        let stages: u64 = reads.stages.iter().map(|stage| stage.sum_ns).sum();
        assert_eq!(stages, reads.total.sum_ns);
        assert_eq!(reads.stages[Stage::Interrupt as usize].count(), 3);
        assert_eq!(reads.stages[Stage::Bdev as usize].count(), 7);
    }
}
