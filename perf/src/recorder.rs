//! Counters and a latency histogram for one kind of operation on one queue.

use hdrhistogram::Histogram;

/// The longest latency told apart, 100 s; anything longer counts as this.
pub const HIGHEST_NS: u64 = 100_000_000_000;
/// Three significant digits: a value is off by 0.1 % at most. Costs 220 KiB a recorder, of which few lines are hot.
const DIGITS: u8 = 3;

/// What was done and how long it took; one writer, merged by readers.
#[derive(Clone, Debug)]
pub struct OpStats {
    /// Requests completed, failed ones included.
    pub ios: u64,
    /// Payload bytes of the requests that succeeded.
    pub bytes: u64,
    /// Requests that ended in an error status.
    pub errors: u64,
    latency_ns: Option<Histogram<u64>>,
}

/// The percentiles that reports show, in nanoseconds; all 0 when nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// Smallest value.
    pub min_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// 99.99th percentile.
    pub p9999_ns: u64,
    /// 99.999th percentile; the largest value until 100,000 were recorded.
    pub p99999_ns: u64,
    /// Largest value.
    pub max_ns: u64,
    /// Arithmetic mean, rounded down.
    pub mean_ns: u64,
}

impl Default for OpStats {
    fn default() -> Self {
        Self::new()
    }
}

impl OpStats {
    /// An empty recorder; allocates all that recording will ever need.
    #[must_use]
    pub fn new() -> Self {
        // These bounds are constants that the library accepts (a unit test holds them), so `ok()` loses nothing.
        Self {
            ios: 0,
            bytes: 0,
            errors: 0,
            latency_ns: Histogram::new_with_bounds(1, HIGHEST_NS, DIGITS).ok(),
        }
    }

    /// Counts one completed request.
    #[inline]
    pub fn record(&mut self, latency_ns: u64, bytes: u64, ok: bool) {
        self.record_many(1, latency_ns, bytes, ok);
    }

    /// Counts `ios` requests that took equally long and ended alike; `bytes` is what they moved together.
    #[inline]
    pub fn record_many(&mut self, ios: u64, latency_ns: u64, bytes: u64, ok: bool) {
        self.ios += ios;
        if ok {
            self.bytes += bytes;
        } else {
            self.errors += ios;
        }
        if let Some(histogram) = &mut self.latency_ns {
            histogram.saturating_record_n(latency_ns, ios);
        }
    }

    /// Forgets everything, and keeps its memory.
    pub fn clear(&mut self) {
        (self.ios, self.bytes, self.errors) = (0, 0, 0);
        self.latency_ns.iter_mut().for_each(Histogram::reset);
    }

    /// Adds what another recorder saw.
    pub fn merge(&mut self, other: &Self) {
        self.ios += other.ios;
        self.bytes += other.bytes;
        self.errors += other.errors;
        if let (Some(mine), Some(theirs)) = (&mut self.latency_ns, &other.latency_ns) {
            // Cannot fail: both have the same bounds.
            let _ = mine.add(theirs);
        }
    }

    /// The library's histogram of latencies in nanoseconds, for its file formats.
    #[must_use]
    pub fn histogram(&self) -> Option<&Histogram<u64>> {
        self.latency_ns.as_ref()
    }

    /// The percentiles of what was recorded.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        match &self.latency_ns {
            Some(h) if !h.is_empty() => Percentiles {
                min_ns: h.min(),
                p50_ns: h.value_at_quantile(0.50),
                p90_ns: h.value_at_quantile(0.90),
                p99_ns: h.value_at_quantile(0.99),
                p999_ns: h.value_at_quantile(0.999),
                p9999_ns: h.value_at_quantile(0.9999),
                p99999_ns: h.value_at_quantile(0.999_99),
                max_ns: h.max(),
                mean_ns: h.mean() as u64,
            },
            _ => Percentiles::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_bounds_are_accepted() {
        assert!(OpStats::new().latency_ns.is_some());
    }

    #[test]
    fn counts_and_percentiles() {
        let mut stats = OpStats::new();
        for us in 1..=1000u64 {
            stats.record(us * 1000, 4096, us % 100 != 0);
        }
        assert_eq!((stats.ios, stats.errors, stats.bytes), (1000, 10, 990 * 4096));
        let p = stats.percentiles();
        assert!(p.p50_ns.abs_diff(500_000) <= 1_000, "{p:?}");
        assert!(p.p99_ns.abs_diff(990_000) <= 2_000, "{p:?}");
        assert!(p.max_ns.abs_diff(1_000_000) <= 1_000, "{p:?}");
    }

    #[test]
    fn the_far_tail_is_told_apart() {
        let mut stats = OpStats::new();
        // The slowest 10 of a million take 1 ms, the slowest 50 at least 100 us, 200 at least 10 us, 2000 at least 1 us.
        for n in 1..=1_000_000u64 {
            let slow = [(100_000, 1_000_000), (20_000, 100_000), (5_000, 10_000), (500, 1_000)];
            let latency_ns = slow.into_iter().find(|(every, _)| n % every == 0).map_or(100, |(_, ns)| ns);
            stats.record(latency_ns, 0, true);
        }
        let p = stats.percentiles();
        let near = |got: u64, want: u64| got.abs_diff(want) <= want / 500;
        assert!(near(p.p99_ns, 100) && near(p.p999_ns, 1_000) && near(p.p9999_ns, 10_000), "{p:?}");
        assert!(near(p.p99999_ns, 100_000) && near(p.max_ns, 1_000_000), "{p:?}");
    }

    #[test]
    fn values_beyond_the_range_are_kept_at_its_end() {
        let mut stats = OpStats::new();
        stats.record(u64::MAX, 0, true);
        stats.record(0, 0, true);
        assert_eq!(stats.ios, 2);
        assert!(stats.percentiles().max_ns >= HIGHEST_NS);
    }

    #[test]
    fn merging_adds_up() {
        let (mut a, mut b) = (OpStats::new(), OpStats::new());
        a.record(100, 1, true);
        b.record(300, 2, false);
        a.merge(&b);
        assert_eq!((a.ios, a.bytes, a.errors), (2, 1, 1));
        assert_eq!(a.percentiles().min_ns, 100);
        assert_eq!(a.percentiles().max_ns, 300);
    }

    #[test]
    fn nothing_recorded_reads_as_zeroes() {
        assert_eq!(OpStats::new().percentiles(), Percentiles::default());
    }
}
