//! Where histograms come from.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::log::{Interval, LogReader};
use super::record::tag_of;
use super::recording::{Collector, Recording};
use crate::Error;
use crate::api::{FetchedHistogram, fetch_histograms};

/// Something that holds histograms.
pub trait Source {
    /// All that it holds.
    ///
    /// # Errors
    /// [`Error::HistSource`] where it holds none; [`Error::HistRead`] and [`Error::HistLine`] where it cannot be read; those
    /// of the control socket.
    fn read(&self) -> Result<Recording, Error>;
}

/// An interval log.
#[derive(Clone, Debug)]
pub struct LogFile(pub PathBuf);

impl Source for LogFile {
    fn read(&self) -> Result<Recording, Error> {
        let refuse = |why: String| Error::HistSource { origin: self.0.display().to_string(), why };
        let mut collector = Collector::default();
        for interval in LogReader::open(&self.0)? {
            collector.add(&interval?);
        }
        let recording = collector.finish().map_err(refuse)?;
        if recording.ops.is_empty() {
            return Err(refuse("the log holds no interval yet".into()));
        }
        Ok(recording)
    }
}

/// The control socket of a running `serve`.
#[derive(Clone, Debug)]
pub struct Socket(pub PathBuf);

impl Source for Socket {
    fn read(&self) -> Result<Recording, Error> {
        let refuse = |why: String| Error::HistSource { origin: self.0.display().to_string(), why };
        let mut collector = Collector::default();
        for FetchedHistogram { entry, histogram } in fetch_histograms(&self.0)? {
            let tag = tag_of(&entry)?;
            collector.add(&Interval { tag, start: SystemTime::now(), duration: Duration::ZERO, histogram });
        }
        let mut recording = collector.finish().map_err(refuse)?;
        if recording.ops.is_empty() {
            return Err(refuse("its disks have had no request yet".into()));
        }
        // The daemon tells sums, and not what they were when.
        recording.ops.iter_mut().for_each(|op| op.slices.clear());
        Ok(recording)
    }
}

/// What a SOURCE on the command line means.
///
/// # Errors
/// [`Error::HistSource`] for what cannot hold histograms.
pub fn open(text: &str) -> Result<Box<dyn Source>, Error> {
    let path = PathBuf::from(text);
    if let Some(socket) = text.strip_prefix("unix:") {
        return Ok(Box::new(Socket(socket.into())));
    }
    if path.metadata().is_ok_and(|file| file.file_type().is_socket()) {
        return Ok(Box::new(Socket(path)));
    }
    if begins_as_json(&path) {
        let why =
            "a JSON report holds percentiles, not the histograms that they come from; give an interval log";
        return Err(Error::HistSource { origin: text.into(), why: why.into() });
    }
    Ok(Box::new(LogFile(path)))
}

fn begins_as_json(path: &Path) -> bool {
    let mut first = [0];
    // A pipe would lose what is read here.
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok()
        && first == *b"{"
}
