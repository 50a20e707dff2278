//! From counters that only grow to the intervals of a log.
//!
//! ```text
//!   reading before ──┐
//!                    ├── less what came before ──► one line for each tag that anything happened to
//!   reading now ─────┘
//! ```

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use spinblk_perf::Latency;

use super::{LogWriter, Tag};
use crate::Error;

/// A log, and what its last reading said.
#[derive(Debug)]
pub struct DeltaLog {
    log: LogWriter,
    before: HashMap<Tag, Latency>,
    read_at: SystemTime,
}

impl DeltaLog {
    /// Begins a log; its first interval begins now, with counters at zero.
    ///
    /// # Errors
    /// [`Error::Report`].
    pub fn create(path: &Path) -> Result<Self, Error> {
        let log = LogWriter::create(path)?;
        Ok(Self { log, before: HashMap::new(), read_at: SystemTime::now() })
    }

    /// Takes a reading to count from, and writes nothing.
    pub fn begin(&mut self, now: SystemTime, reading: impl IntoIterator<Item = (Tag, Latency)>) {
        (self.before, self.read_at) = (reading.into_iter().collect(), now);
    }

    /// Another disk may have this name from now on; what that does is counted from zero.
    pub fn forget(&mut self, disk: &str) {
        self.before.retain(|tag, _| tag.disk() != disk);
    }

    /// Writes what came since the last reading, and hands it to the system. An interval that cannot be written is lost;
    /// the next one begins where it ends.
    ///
    /// # Errors
    /// [`Error::Report`].
    pub fn write(
        &mut self,
        now: SystemTime,
        reading: impl IntoIterator<Item = (Tag, Latency)>,
    ) -> Result<(), Error> {
        let start = std::mem::replace(&mut self.read_at, now);
        // A clock that was set back makes an interval of no length.
        let duration = now.duration_since(start).unwrap_or_default();
        let mut written = Ok(());
        for (tag, latency) in reading {
            let new = self.before.get(&tag).map_or_else(|| latency.clone(), |before| latency.since(before));
            if let Some(histogram) = new.histogram().filter(|histogram| !histogram.is_empty()) {
                written = written.and_then(|()| self.log.interval(&tag, start, duration, histogram));
            }
            self.before.insert(tag, latency);
        }
        let flushed = self.log.flush();
        written.and(flushed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use spinblk_perf::{OpKind, SharedHistogram};

    use super::*;
    use crate::hist::{Interval, LogReader};

    #[test]
    fn intervals_are_what_lies_between_readings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.hlog");
        let time = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(4_100_000_000 + s);
        let tag = |queue| Tag::new("d0", queue, OpKind::Read, None, None).unwrap();
        let (first, second) = (SharedHistogram::new(), SharedHistogram::new());
        let reading = || [(tag(0), first.snapshot()), (tag(1), second.snapshot())];
        let mut log = DeltaLog::create(&path).unwrap();
        first.record(5000, 7);
        log.begin(time(0), reading());
        first.record(1000, 3);
        log.write(time(1), reading()).unwrap();
        log.write(time(2), reading()).unwrap();
        first.record(2000, 1);
        second.record(3000, 2);
        log.write(time(4), reading()).unwrap();
        // Not dropped: each interval is there as soon as it was written.
        let intervals: Vec<Interval> = LogReader::open(&path).unwrap().map(Result::unwrap).collect();
        let told: Vec<_> = intervals
            .iter()
            .map(|one| (one.tag.queue, one.start, one.duration.as_secs(), one.histogram.len()))
            .collect();
        assert_eq!(told, [(0, time(0), 1, 3), (0, time(2), 2, 1), (1, time(2), 2, 2)]);
        assert!(intervals[0].histogram.max() < 1100, "what came before the log is not in it");
    }
}
