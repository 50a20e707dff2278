//! Reading interval logs.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{IntervalLogHistogram, IntervalLogIterator, LogEntry};

use super::{Tag, decode};
use crate::Error;

/// The longest line; one of five digits with every count at its longest is not that long.
const MAX_LINE_BYTES: u64 = 128 << 20;
/// Timestamps that lie more than this before the log's start time count from it; so do other readers take them.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// One interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    /// What it is about.
    pub tag: Tag,
    /// When it began.
    pub start: SystemTime,
    /// How long it was.
    pub duration: Duration,
    /// Latencies in nanoseconds.
    pub histogram: Histogram<u64>,
}

/// A log that is being read; ends after the first error.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: BufReader<File>,
    line_number: u64,
    start_time: Option<Duration>,
    base_time: Option<Duration>,
    ended: bool,
}

impl LogReader {
    /// Opens a log.
    ///
    /// # Errors
    /// [`Error::HistRead`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::HistRead { path: path.into(), source })?;
        Ok(Self {
            path: path.into(),
            file: BufReader::new(file),
            line_number: 0,
            start_time: None,
            base_time: None,
            ended: false,
        })
    }

    /// The next interval; `None` at the end.
    fn read(&mut self) -> Result<Option<Interval>, String> {
        let mut line = Vec::new();
        loop {
            self.line_number += 1;
            line.clear();
            let read = (&mut self.file).take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
            if read.map_err(|e| e.to_string())? == 0 {
                return Ok(None);
            }
            if !line.ends_with(b"\n") {
                return Err("the line is cut short; remove it to read what stands before".into());
            }
            // One line at a time, as the library's errors do not tell lines, and its parser may run over their ends.
            match IntervalLogIterator::new(&line).next() {
                None => {}
                Some(Ok(LogEntry::StartTime(time))) => self.start_time = Some(time),
                Some(Ok(LogEntry::BaseTime(time))) => self.base_time = Some(time),
                Some(Ok(LogEntry::Interval(interval))) => return self.interval(&interval).map(Some),
                Some(Err(_)) => return Err("no line of an HdrHistogram interval log".into()),
            }
        }
    }

    fn interval(&self, entry: &IntervalLogHistogram<'_>) -> Result<Interval, String> {
        let tag = entry.tag().ok_or("the interval has no tag, so this is no log of spinblk's")?;
        let start = self.start(entry.start_timestamp()).ok_or("its time is beyond all calendars")?;
        Ok(Interval {
            tag: tag.as_str().parse()?,
            start,
            duration: entry.duration(),
            histogram: decode::decode(entry.encoded_histogram())?,
        })
    }

    fn start(&self, timestamp: Duration) -> Option<SystemTime> {
        let since_epoch = match (self.base_time, self.start_time) {
            (Some(base), _) => base.checked_add(timestamp)?,
            (None, Some(start)) if timestamp.checked_add(YEAR)? < start => start.checked_add(timestamp)?,
            _ => timestamp,
        };
        SystemTime::UNIX_EPOCH.checked_add(since_epoch)
    }
}

impl Iterator for LogReader {
    type Item = Result<Interval, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = self.read();
        self.ended = !matches!(read, Ok(Some(_)));
        let broken = |why| Error::HistLine { path: self.path.clone(), line: self.line_number, why };
        read.map_err(broken).transpose()
    }
}
