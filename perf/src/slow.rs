//! The last slow requests of a queue, each with all that explains it. One thread writes, any number read; bounded; no
//! lock.
//!
//! Every record is a seqlock: a reader passes over one that is just being replaced; the writer never waits.
//!
//! # The threshold
//! Fixed, or by itself near the 99.9th percentile: each slow request raises it by 1/16, each other one lowers it by
//! 1/16384, so that it comes to rest where one in 1024 is slow, whatever the load.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::seqlock::Seqlock;
use crate::{OpKind, Stage, Ticks};

/// Records kept.
const RECORDS: usize = 256;
/// Where the threshold starts: soon lower under load, and high enough that the first requests are not all slow.
const FIRST_THRESHOLD_NS: u64 = 1_000_000;
/// The threshold never falls below this; the clock's own noise is no slow request.
const LEAST_THRESHOLD_NS: u64 = 1_000;
/// Parts of the threshold that a slow request raises it by, and another lowers it by, as powers of two.
const RAISE: u32 = 4;
const LOWER: u32 = 14;

const WORDS: usize = 11;

/// One slow request; or several of one batch that the block device did at once and together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowIo {
    /// When it was seen, in ticks of the process's clock.
    pub seen: Ticks,
    /// Where on the disk; the first one's place of several.
    pub offset_bytes: u64,
    /// How long, each.
    pub bytes: u64,
    /// How many they are.
    pub requests: u32,
    /// How many stood before it in its batch.
    pub batch_position: u32,
    /// What it did.
    pub kind: OpKind,
    /// Whether it succeeded.
    pub ok: bool,
    /// What each stage took.
    pub stages_ns: [u64; 5],
    /// What all took together.
    pub total_ns: u64,
}

impl SlowIo {
    /// The stage that took longest.
    #[must_use]
    pub fn worst_stage(&self) -> Stage {
        Stage::ALL.into_iter().max_by_key(|&stage| self.stages_ns[stage as usize]).unwrap_or(Stage::Bdev)
    }

    fn to_words(self) -> [u64; WORDS] {
        let [a, b, c, d, e] = self.stages_ns;
        let kind = self.kind as u64 | u64::from(self.ok) << 8;
        let many = u64::from(self.requests) | u64::from(self.batch_position) << 32;
        [self.seen, self.offset_bytes, self.bytes, many, kind, self.total_ns, a, b, c, d, e]
    }

    fn from_words(words: [u64; WORDS]) -> Self {
        let [seen, offset_bytes, bytes, many, kind, total_ns, a, b, c, d, e] = words;
        Self {
            seen,
            offset_bytes,
            bytes,
            requests: many as u32,
            batch_position: (many >> 32) as u32,
            kind: OpKind::ALL.get((kind & 0xff) as usize).copied().unwrap_or_default(),
            ok: kind >> 8 != 0,
            stages_ns: [a, b, c, d, e],
            total_ns,
        }
    }
}

/// The last slow requests.
pub struct SlowLog {
    /// In nanoseconds.
    threshold_ns: AtomicU64,
    /// 0 where the threshold adjusts itself.
    fixed: AtomicU64,
    written: AtomicU64,
    records: Box<[Seqlock<WORDS>]>,
}

impl Default for SlowLog {
    fn default() -> Self {
        Self::new()
    }
}

impl SlowLog {
    /// An empty one whose threshold adjusts itself.
    #[must_use]
    pub fn new() -> Self {
        Self {
            threshold_ns: AtomicU64::new(FIRST_THRESHOLD_NS),
            fixed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            records: (0..RECORDS).map(|_| Seqlock::new()).collect(),
        }
    }

    /// Sets a threshold that stays; `None` lets it adjust itself. Any thread may call this.
    pub fn set_threshold(&self, ns: Option<u64>) {
        self.fixed.store(u64::from(ns.is_some()), Ordering::Relaxed);
        self.threshold_ns.store(ns.unwrap_or(FIRST_THRESHOLD_NS), Ordering::Relaxed);
    }

    /// The threshold now, in nanoseconds, and whether it is fixed.
    #[must_use]
    pub fn threshold(&self) -> (u64, bool) {
        (self.threshold_ns.load(Ordering::Relaxed), self.fixed.load(Ordering::Relaxed) != 0)
    }

    /// How many slow requests there were so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether `requests` that took `total_ns` each are slow; adjusts the threshold. One thread at a time.
    #[inline]
    pub fn is_slow(&self, total_ns: u64, requests: u64) -> bool {
        let threshold = self.threshold_ns.load(Ordering::Relaxed);
        let slow = total_ns > threshold;
        if self.fixed.load(Ordering::Relaxed) == 0 {
            // A threshold set at this very moment by another thread may be lost once; `fixed` was set before it.
            let moved = if slow {
                threshold + (threshold >> RAISE).saturating_mul(requests.min(16))
            } else {
                threshold - ((threshold * requests.min(1024)) >> LOWER)
            };
            self.threshold_ns.store(moved.max(LEAST_THRESHOLD_NS), Ordering::Relaxed);
        }
        slow
    }

    /// Writes a record over the oldest. One thread at a time.
    #[inline(never)]
    pub fn push(&self, io: SlowIo) {
        let number = self.written.load(Ordering::Relaxed) + 1;
        self.records[(number as usize - 1) % RECORDS].write(number, io.to_words());
        self.written.store(number, Ordering::Relaxed);
    }

    /// The records there are, the oldest first, each with its number, which tells those seen before from new ones.
    #[must_use]
    pub fn read(&self) -> Vec<(u64, SlowIo)> {
        let records = self.records.iter().filter_map(Seqlock::read);
        let mut found: Vec<(u64, SlowIo)> =
            records.map(|(number, words)| (number, SlowIo::from_words(words))).collect();
        found.sort_by_key(|(number, _)| *number);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(n: u64) -> SlowIo {
        SlowIo {
            seen: n,
            offset_bytes: n << 40,
            bytes: n + 1,
            requests: n as u32,
            batch_position: n as u32 + 2,
            kind: OpKind::ALL[n as usize % 6],
            ok: n.is_multiple_of(2),
            stages_ns: [n, 2 * n, 30 * n, 4 * n, 5 * n],
            total_ns: 42 * n,
        }
    }

    #[test]
    fn the_last_ones_are_kept_whole_and_in_order() {
        let log = SlowLog::new();
        assert_eq!(log.read(), []);
        for n in 1..=1000 {
            log.push(io(n));
        }
        let found = log.read();
        assert_eq!(found.len(), RECORDS);
        for (index, (number, record)) in found.into_iter().enumerate() {
            assert_eq!(number, 1000 - RECORDS as u64 + index as u64 + 1);
            assert_eq!(record, io(number));
            assert_eq!(record.worst_stage(), Stage::Bdev);
        }
        assert_eq!(log.written(), 1000);
    }

    #[test]
    fn a_reader_beside_the_writer_sees_only_whole_records() {
        let log = SlowLog::new();
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=200_000).for_each(|n| log.push(io(n))));
            while log.written() < 200_000 {
                for (number, record) in log.read() {
                    assert_eq!(record, io(number));
                }
            }
        });
    }

    #[test]
    fn the_threshold_finds_the_slowest_in_a_thousand() {
        let log = SlowLog::new();
        let (mut state, mut slow) = (1u64, 0);
        for n in 0..2_000_000u64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Evenly between 0 and 1 ms.
            slow += u64::from(log.is_slow(state % 1_000_000, 1) && n >= 1_000_000);
        }
        let (threshold, fixed) = log.threshold();
        assert!(!fixed && (970_000..1_000_000 + (1_000_000 >> 3)).contains(&threshold), "{threshold}");
        assert!((700..1400).contains(&slow), "{slow} of a million");
    }

    #[test]
    fn a_fixed_threshold_stays() {
        let log = SlowLog::new();
        log.set_threshold(Some(5000));
        assert!(log.is_slow(5001, 3) && !log.is_slow(5000, 64));
        assert_eq!(log.threshold(), (5000, true));
        log.set_threshold(None);
        assert!(!log.threshold().1);
    }
}
