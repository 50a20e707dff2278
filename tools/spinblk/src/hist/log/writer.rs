//! Writing interval logs.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{self, IntervalLogWriterBuilder, IntervalLogWriterError};
use hdrhistogram::serialization::{V2DeflateSerializeError, V2DeflateSerializer};

use super::Tag;
use crate::Error;

/// The columns, as other tools expect them; the library writes them nowhere.
const LEGEND: &str = r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#;

/// Lines are handed to the system when they are so many bytes together, at the latest.
const MAX_PENDING_BYTES: usize = 64 << 10;

/// A log that is being written. What cannot be written, as on a full disk, is left out whole: the log can be read all
/// the same, and later intervals may follow.
pub struct LogWriter {
    path: PathBuf,
    file: File,
    /// What the system has, all whole lines.
    written_bytes: u64,
    /// Lines that it does not have yet.
    pending: Vec<u8>,
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
        let pending = Vec::new();
        let mut log = Self { path: path.into(), file, written_bytes: 0, pending, serializer, line };
        let version = env!("CARGO_PKG_VERSION");
        let written = IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment(&format!("[Logged with spinblk {version}, latencies in nanoseconds]"))
            .with_start_time(SystemTime::now())
            .begin_log_with(&mut log.pending, &mut log.serializer)
            .map(drop)
            .and_then(|()| writeln!(log.pending, "{LEGEND}"));
        log.checked(written)?;
        log.flush()?;
        Ok(log)
    }

    /// Writes what `tag` did in an interval. A process that dies may lose the last ones.
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
        self.checked(written)?;
        self.pending.extend_from_slice(&self.line);
        if self.pending.len() > MAX_PENDING_BYTES { self.flush() } else { Ok(()) }
    }

    /// Hands all that was written to the system.
    ///
    /// # Errors
    /// [`Error::Report`].
    pub fn flush(&mut self) -> Result<(), Error> {
        let written = self.file.write_all(&self.pending);
        if written.is_ok() {
            self.written_bytes += self.pending.len() as u64;
        } else {
            // A part of it may be there. A pipe cannot be cut back, and its reader sees a broken line.
            let _ = self.file.set_len(self.written_bytes);
            let _ = self.file.seek(SeekFrom::Start(self.written_bytes));
        }
        self.pending.clear();
        self.checked(written)
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

impl Drop for LogWriter {
    fn drop(&mut self) {
        // Whoever wants to know flushes before.
        let _ = self.flush();
    }
}
