//! Interval logs: HdrHistogram's log format, version 2 histograms, as that project's own tools read and write it.
//!
//! ```text
//!   #[Histogram log format version 1.3]
//!   #[Logged with spinblk 0.1.0, latencies in nanoseconds]
//!   #[StartTime: 1700000000.000 (seconds since epoch)]
//!   "StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
//!   Tag=d0/q0/read/to_4k/bdev,1700000000.000,1.000,84991.000,HISTFAAAA...
//! ```
//! Contract: what [`LogWriter`] writes, [`LogReader`] reads, with the same counts in the same buckets; times are kept to
//! the millisecond. A line that the reader does not understand ends the reading with its file and number.

mod decode;
mod reader;
mod tag;
mod writer;

pub use reader::{Interval, LogReader};
pub use tag::Tag;
pub(crate) use tag::kind_of;
pub use writer::LogWriter;

#[cfg(test)]
mod tests;
