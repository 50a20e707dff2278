//! Writing interval logs.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{self, IntervalLogWriterBuilder, IntervalLogWriterError};
use hdrhistogram::serialization::{V2DeflateSerializeError, V2DeflateSerializer};

use super::Tag;
use crate::Error;

/// The columns, as other tools expect them; the library writes them nowhere.
const LEGEND: &str = r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#;

/// A log that is being written.
pub struct LogWriter {
    path: PathBuf,
    file: BufWriter<File>,
    serializer: V2DeflateSerializer,
    line: Vec<u8>,
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

impl LogWriter {
    /// Begins a log with its header; a file that is there already is written anew.
    ///
    /// # Errors
    /// [`Error::Report`].
    pub fn create(path: &Path) -> Result<Self, Error> {
        let file = File::create(path).map_err(|source| Error::Report { path: path.into(), source })?;
        let (serializer, line) = (V2DeflateSerializer::new(), Vec::new());
        let mut log = Self { path: path.into(), file: BufWriter::new(file), serializer, line };
        let version = env!("CARGO_PKG_VERSION");
        let written = IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment(&format!("[Logged with spinblk {version}, latencies in nanoseconds]"))
            .with_start_time(SystemTime::now())
            .begin_log_with(&mut log.file, &mut log.serializer)
            .map(drop)
            .and_then(|()| writeln!(log.file, "{LEGEND}"));
        log.checked(written)?;
        log.flush()?;
        Ok(log)
    }

    /// Writes what `tag` did in an interval. A process that dies may leave the last line cut short.
    ///
    /// # Errors
    /// [`Error::Report`].
    pub fn interval(
        &mut self,
        tag: &Tag,
        start: SystemTime,
        duration: Duration,
        histogram: &Histogram<u64>,
    ) -> Result<(), Error> {
        let written = self.encode(tag, start, duration, histogram);
        let written = written.and_then(|()| self.file.write_all(&self.line));
        self.checked(written)
    }

    /// Hands all that was written to the system.
    ///
    /// # Errors
    /// [`Error::Report`].
    pub fn flush(&mut self) -> Result<(), Error> {
        let flushed = self.file.flush();
        self.checked(flushed)
    }

    /// Makes the line first, so that a histogram that cannot be written leaves no half of one in the file.
    fn encode(
        &mut self,
        tag: &Tag,
        start: SystemTime,
        duration: Duration,
        histogram: &Histogram<u64>,
    ) -> io::Result<()> {
        self.line.clear();
        let tag = tag.to_string();
        let since_epoch = start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Without header lines the library's writer writes none, so there can be a new one for each line.
        IntervalLogWriterBuilder::new()
            .begin_log_with(&mut self.line, &mut self.serializer)?
            .write_histogram(histogram, since_epoch, duration, interval_log::Tag::new(&tag))
            .map_err(|e| match e {
                IntervalLogWriterError::IoError(e)
                | IntervalLogWriterError::SerializeError(V2DeflateSerializeError::IoError(e)) => e,
                IntervalLogWriterError::SerializeError(e) => io::Error::other(e.to_string()),
            })
    }

    fn checked(&self, result: io::Result<()>) -> Result<(), Error> {
        result.map_err(|source| Error::Report { path: self.path.clone(), source })
    }
}
