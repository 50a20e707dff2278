//! What a load finds out, as an interval log: one interval a second for each queue and operation, written while it runs.

use std::path::Path;
use std::time::{Duration, SystemTime};

use spinblk_load::Interval;
use spinblk_perf::OpKind;

use crate::Error;
use crate::hist::{LogWriter, Tag};

/// The disk's name in the log; the target may have none.
const DISK: &str = "perf";
/// The length of an interval.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// The log, and what went wrong with it.
pub(super) struct HistLog {
    log: LogWriter,
    failed: Option<Error>,
}

impl HistLog {
    /// Begins it before the run, to find out now whether it can be written.
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        Ok(Self { log: LogWriter::create(path)?, failed: None })
    }

    /// Writes intervals of a run that began to measure at `began`. A failure is kept for the end: it is no reason to lose
    /// the run.
    pub(super) fn write(&mut self, intervals: &[Interval], began: SystemTime) {
        if intervals.is_empty() || self.failed.is_some() {
            return;
        }
        let written = intervals.iter().try_for_each(|interval| self.write_one(interval, began));
        let flushed = self.log.flush();
        self.failed = written.and(flushed).err();
    }

    fn write_one(&mut self, interval: &Interval, began: SystemTime) -> Result<(), Error> {
        let start = began + Duration::from_nanos(interval.began_ns);
        let duration = Duration::from_nanos(interval.ended_ns - interval.began_ns);
        for (kind, stats) in [(OpKind::Read, &interval.reads), (OpKind::Write, &interval.writes)] {
            let tag = Tag::new(DISK, interval.queue, kind, None, None);
            let histogram = stats.histogram().filter(|histogram| !histogram.is_empty());
            if let (Some(tag), Some(histogram)) = (tag, histogram) {
                self.log.interval(&tag, start, duration, histogram)?;
            }
        }
        Ok(())
    }

    /// Tells whether all of it was written.
    pub(super) fn finish(self) -> Result<(), Error> {
        self.failed.map_or(Ok(()), Err)
    }
}
