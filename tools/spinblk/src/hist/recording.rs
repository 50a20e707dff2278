//! A source's histograms, summed up by disk and kind of request.
//!
//! ```text
//!   interval d0/q0/read/to_4k/bdev ──┐  queues, sizes, time
//!   interval d0/q1/read/to_16k/bdev ─┴──────► merged ──► d0 read: total, five stages, slices of time
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use spinblk_perf::OpKind;

use super::log::Interval;
use super::stats;

/// What a source told.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// By disk, then by kind.
    pub ops: Vec<Op>,
}

/// One kind of request on one disk.
#[derive(Clone, Debug)]
pub struct Op {
    /// The disk's name.
    pub disk: String,
    /// What they did.
    pub kind: OpKind,
    /// What they took together.
    pub total: Histogram<u64>,
    /// What each stage took, in the order of [`spinblk_perf::Stage::ALL`]; `None` where the source does not tell stages.
    pub stages: Option<[Histogram<u64>; 5]>,
    /// Totals over time.
    pub slices: Vec<Slice>,
}

/// A part of the time.
#[derive(Clone, Debug)]
pub struct Slice {
    /// When it began.
    pub start: SystemTime,
    /// How long it was.
    pub duration: Duration,
    /// Requests by [`stats::bucket`] of their latency.
    pub counts: BTreeMap<u32, u64>,
}

impl Op {
    /// Disk and kind, as they are shown.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.disk, self.kind.name())
    }
}

/// Intervals as they come, until all are there.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// By disk, kind, and whether the size was told.
    sums: BTreeMap<(String, usize, bool), Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    total: Option<Histogram<u64>>,
    stages: [Option<Histogram<u64>>; 5],
    slices: Vec<Slice>,
}

impl Sums {
    fn or(self, other: Self) -> Self {
        let slices = if self.total.is_some() { self.slices } else { other.slices };
        let mut others = other.stages.into_iter();
        let stages = self.stages.map(|stage| stage.or(others.next().flatten()));
        Self { total: self.total.or(other.total), stages, slices }
    }
}

impl Collector {
    /// Adds an interval.
    pub(super) fn add(&mut self, interval: &Interval) {
        let tag = &interval.tag;
        let key = (tag.disk().to_string(), tag.kind as usize, tag.class.is_some());
        let sums = self.sums.entry(key).or_default();
        match tag.stage {
            Some(stage) => merge(&mut sums.stages[stage as usize], &interval.histogram),
            None => {
                merge(&mut sums.total, &interval.histogram);
                let counts = stats::buckets(&interval.histogram, stats::FINEST);
                sums.slices.push(Slice { start: interval.start, duration: interval.duration, counts });
            }
        }
    }

    /// All that was added, or the kind of request whose total is missing.
    pub(super) fn finish(mut self) -> Result<Recording, String> {
        let mut recording = Recording::default();
        while let Some(((disk, kind, by_size), sums)) = self.sums.pop_last() {
            // Requests of all sizes together are the same ones again: only for what is not told by size.
            let of_all = by_size.then(|| self.sums.remove(&(disk.clone(), kind, false))).flatten();
            let sums = sums.or(of_all.unwrap_or_default());
            let kind = OpKind::ALL[kind];
            let Some(total) = sums.total else {
                return Err(format!("{disk} {}: there are stages, but no total", kind.name()));
            };
            let told = sums.stages.iter().any(Option::is_some);
            // A stage that nothing passed may be left out, such as the interrupt where a driver polls.
            let empty = || Histogram::new_from(&total);
            let stages = told.then(|| sums.stages.map(|stage| stage.unwrap_or_else(empty)));
            recording.ops.push(Op { disk, kind, total, stages, slices: sums.slices });
        }
        recording.ops.reverse();
        Ok(recording)
    }
}

fn merge(sum: &mut Option<Histogram<u64>>, histogram: &Histogram<u64>) {
    match sum {
        // Cannot fail: the sum grows to whatever range it needs.
        Some(sum) => {
            let _ = sum.add(histogram);
        }
        None => {
            let mut first = histogram.clone();
            first.auto(true);
            *sum = Some(first);
        }
    }
}
