//! Readings that a client makes again and again, to tell what happened in between.
//!
//! ```text
//!   before: sent ── answered              now: sent ── answered        Latency::since, unless a `reset` lies between
//! ```
//! Counters count from the last `reset`, and anybody may send one. A reading tells for how long they have counted; if
//! that is less than what has passed since the one before, they were reset, and nothing can be subtracted.

use std::time::{Duration, Instant};

use spinblk_perf::Latency;

use super::{Client, FetchedHistogram, HistogramEntry};
use crate::Error;

/// What rounding to whole milliseconds may make at both ends.
const ROUNDING: Duration = Duration::from_millis(2);

/// When a reading was made.
#[derive(Clone, Copy, Debug)]
pub struct ReadAt {
    /// The question was sent.
    pub sent: Instant,
    /// The answer was there.
    pub answered: Instant,
    /// How long the daemon has counted.
    pub counted: Duration,
}

impl ReadAt {
    /// A question sent at `sent` and answered just now.
    #[must_use]
    pub fn now(sent: Instant, since_ms: u64) -> Self {
        Self { sent, answered: Instant::now(), counted: Duration::from_millis(since_ms) }
    }

    /// Whether the daemon went on counting from `before`.
    #[must_use]
    pub fn continues(&self, before: &Self) -> bool {
        let passed = self.sent.saturating_duration_since(before.answered);
        self.counted.saturating_add(ROUNDING) >= before.counted.saturating_add(passed)
    }
}

/// All latencies of a daemon.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// When they were read.
    pub at: ReadAt,
    /// What each is of, and the latencies.
    pub entries: Vec<(HistogramEntry, Latency)>,
}

impl Latencies {
    /// Reads them.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn read(client: &mut Client) -> Result<Self, Error> {
        let sent = Instant::now();
        let (since_ms, histograms) = client.histograms()?;
        let at = ReadAt::now(sent, since_ms);
        let latency = |FetchedHistogram { entry, histogram }| {
            let latency = Latency::from_parts(entry.sum_ns, &histogram);
            latency.map(|latency| (entry, latency)).ok_or(())
        };
        let entries: Result<Vec<_>, ()> = histograms.into_iter().map(latency).collect();
        let beyond = |()| client.broken("it tells latencies beyond what it can measure".into());
        Ok(Self { at, entries: entries.map_err(beyond)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_in_between_is_seen() {
        let start = Instant::now();
        let at = |ms: u64, counted_ms: u64| {
            let sent = start + Duration::from_millis(ms);
            ReadAt {
                sent,
                answered: sent + Duration::from_millis(10),
                counted: Duration::from_millis(counted_ms),
            }
        };
        let before = at(1000, 500);
        assert!(at(2000, 1495).continues(&before), "the answer took its time");
        assert!(at(2000, 1510).continues(&before));
        assert!(!at(2000, 900).continues(&before), "more than before, and yet too little");
        assert!(!at(2000, 3).continues(&before));
    }
}
