//! A latency histogram that one thread writes and any number read, without a lock and without stopping it.
//!
//! Its buckets are HdrHistogram's at two significant digits (a value is off by 0.8 % at most), so that nothing is lost
//! on the way into that library and its file format:
//!
//! ```text
//!   0 .. 255 ns: one bucket each     then 128 buckets to every doubling     137 s and more: the last one
//! ```
//!
//! # Why readers need no lock
//! Each bucket is a 64-bit counter that only grows. Its one writer loads and stores it (two plain moves; a
//! read-modify-write would cost twenty times that, and is needed only with two writers); a reader sees the value before
//! or after a store, both of which were true. What a reader may see is a request in one counter and not yet in the next:
//! it reads counts of a moment ago, for each bucket its own moment. Two snapshots subtracted are still exact for everything
//! that lies between both.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

/// The longest latency told apart, 2^37 ns less one; anything longer counts as this.
pub const MAX_NS: u64 = (1 << 37) - 1;
/// Significant digits of a value.
pub const DIGITS: u8 = 2;
/// Buckets to a doubling, as a power of two.
const HALF_BITS: u32 = 7;
const HALF: usize = 1 << HALF_BITS;
const BUCKETS: usize = (37 - HALF_BITS as usize + 1) * HALF;

/// The histogram.
pub struct SharedHistogram {
    /// Sum of all values.
    sum_ns: AtomicU64,
    buckets: Box<[AtomicU64]>,
}

impl Default for SharedHistogram {
    fn default() -> Self {
        Self::new()
    }
}

impl SharedHistogram {
    /// An empty one: 31 KiB, of which pages that are never written take no memory.
    #[must_use]
    pub fn new() -> Self {
        Self { sum_ns: AtomicU64::new(0), buckets: zeroed(BUCKETS) }
    }

    /// Counts `count` requests that took `ns` each. One thread at a time may call this.
    #[inline]
    pub fn record(&self, ns: u64, count: u64) {
        add(&self.sum_ns, ns.wrapping_mul(count));
        // `index` is below the length for every value.
        if let Some(bucket) = self.buckets.get(index(ns)) {
            add(bucket, count);
        }
    }

    /// What it holds now, with as many zeroes as make it `count` values: those are not worth recording.
    #[must_use]
    pub fn snapshot_of(&self, count: u64) -> Latency {
        let mut latency = self.snapshot();
        latency.add(0, count.saturating_sub(latency.count()));
        latency
    }

    /// What it holds now.
    #[must_use]
    pub fn snapshot(&self) -> Latency {
        let mut latency = Latency::new();
        latency.sum_ns = self.sum_ns.load(Ordering::Relaxed);
        for (index, bucket) in self.buckets.iter().enumerate() {
            let count = bucket.load(Ordering::Relaxed);
            if count > 0 {
                latency.add(lowest(index), count);
            }
        }
        latency
    }
}

/// Adds to a counter that this thread alone writes.
#[inline]
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// Counters that take no memory until they are written.
fn zeroed(len: usize) -> Box<[AtomicU64]> {
    const { assert!(align_of::<AtomicU64>() == align_of::<u64>()) };
    // Comes from the system zeroed, page by page as it is touched; atomics one by one would touch it all.
    let plain: Box<[u64]> = vec![0; len].into_boxed_slice();
    // SAFETY: an AtomicU64 has the size and the values of a u64 (std), and here its alignment too, so this is the same
    // allocation with the same layout, owned by the new box alone.
    unsafe { Box::from_raw(Box::into_raw(plain) as *mut [AtomicU64]) }
}

/// The bucket of a value.
#[inline]
fn index(ns: u64) -> usize {
    let ns = ns.min(MAX_NS);
    let shift = (63 - (ns | (2 * HALF as u64 - 1)).leading_zeros()) - HALF_BITS;
    ((shift as usize) << HALF_BITS) + (ns >> shift) as usize
}

/// The least value of a bucket.
fn lowest(index: usize) -> u64 {
    let shift = (index >> HALF_BITS).saturating_sub(1);
    ((index - (shift << HALF_BITS)) as u64) << shift
}

/// Latencies as they were read: plain data, to be merged, subtracted and asked for percentiles.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    /// Sum of all values, exact.
    pub sum_ns: u64,
    /// `None` never: the bounds are constants that the library accepts (a test holds them).
    histogram: Option<Histogram<u64>>,
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Latency {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { sum_ns: 0, histogram: Histogram::new_with_bounds(1, MAX_NS, DIGITS).ok() }
    }

    /// Latencies that another process read and sent; `None` for what no board can hold.
    #[must_use]
    pub fn from_parts(sum_ns: u64, histogram: &Histogram<u64>) -> Option<Self> {
        let mut latency = Self { sum_ns, ..Self::new() };
        latency.histogram.as_mut()?.add(histogram).ok()?;
        Some(latency)
    }

    fn add(&mut self, ns: u64, count: u64) {
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record_n(ns, count);
        }
    }

    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.as_ref().map_or(0, Histogram::len)
    }

    /// The arithmetic mean; 0 of nothing.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count()).unwrap_or(0)
    }

    /// The value below or at which this part (0 to 1) of all values lie; 0 of nothing.
    #[must_use]
    pub fn at_quantile(&self, quantile: f64) -> u64 {
        self.histogram.as_ref().filter(|h| !h.is_empty()).map_or(0, |h| h.value_at_quantile(quantile))
    }

    /// Adds what another saw.
    pub fn merge(&mut self, other: &Self) {
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
        if let (Some(mine), Some(theirs)) = (&mut self.histogram, &other.histogram) {
            // Cannot fail: both have the same bounds.
            let _ = mine.add(theirs);
        }
    }

    /// What came after `earlier`, which is an earlier snapshot of the same.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut new = self.clone();
        new.sum_ns = self.sum_ns.wrapping_sub(earlier.sum_ns);
        if let (Some(mine), Some(theirs)) = (&mut new.histogram, &earlier.histogram)
            && (theirs.len() > mine.len() || mine.subtract(theirs).is_err())
        {
            // `earlier` is of another one: all that this one has seen is new.
            return self.clone();
        }
        new
    }

    /// The library's histogram, for its file formats.
    #[must_use]
    pub fn histogram(&self) -> Option<&Histogram<u64>> {
        self.histogram.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_the_librarys() {
        let mut values: Vec<u64> = (0..5000).collect();
        for shift in 8..37 {
            values.extend([0, 1, 127, 128, 200].map(|extra| (1u64 << shift) + (extra << (shift - 8))));
            values.push((1u64 << shift) - 1);
        }
        let library = Histogram::<u64>::new_with_bounds(1, MAX_NS, DIGITS).unwrap();
        for value in values {
            let index = index(value);
            assert!(index < BUCKETS);
            let low = lowest(index);
            assert_eq!(low, library.lowest_equivalent(value), "{value}");
            assert_eq!(super::index(low), index, "{value}");
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn what_is_recorded_is_read() {
        let shared = SharedHistogram::new();
        for us in 1..=1000 {
            shared.record(us * 1000, 2);
        }
        shared.record(u64::MAX, 1);
        let latency = shared.snapshot();
        assert_eq!(latency.count(), 2001);
        let near = |got: u64, want: u64| got.abs_diff(want) <= want / 100;
        assert!(near(latency.at_quantile(0.5), 500_000), "{}", latency.at_quantile(0.5));
        assert!(near(latency.at_quantile(0.99), 990_000), "{}", latency.at_quantile(0.99));
        assert_eq!(latency.at_quantile(1.0), MAX_NS);
    }

    #[test]
    fn sums_are_exact_and_differences_too() {
        let shared = SharedHistogram::new();
        shared.record(1_000_003, 3);
        let first = shared.snapshot();
        shared.record(7, 2);
        let second = shared.snapshot();
        assert_eq!((first.sum_ns, second.sum_ns), (3_000_009, 3_000_023));
        let new = second.since(&first);
        assert_eq!((new.count(), new.sum_ns, new.mean_ns()), (2, 14, 7));
        let mut both = first.clone();
        both.merge(&new);
        assert_eq!(both, second);
        assert_eq!(Latency::new().mean_ns(), 0);
        assert_eq!(Latency::new().at_quantile(0.5), 0);
    }

    #[test]
    fn parts_that_were_sent_make_the_same_again() {
        let shared = SharedHistogram::new();
        [0, 1, 300, 1_000_003, u64::MAX].into_iter().for_each(|ns| shared.record(ns, 2));
        let read = shared.snapshot();
        assert_eq!(Latency::from_parts(read.sum_ns, read.histogram().unwrap()).as_ref(), Some(&read));
        let mut beyond = Histogram::<u64>::new_with_bounds(1, MAX_NS << 4, DIGITS).unwrap();
        beyond.record(MAX_NS << 3).unwrap();
        assert_eq!(Latency::from_parts(0, &beyond), None);
    }

    #[test]
    fn a_reader_beside_the_writer_sees_whole_and_growing_numbers() {
        let shared = SharedHistogram::new();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..100_000).for_each(|n| shared.record(n % 1000, 1)));
            let mut last = 0;
            while last < 100_000 {
                let count = shared.snapshot().count();
                assert!(count >= last && count <= 100_000, "{count} after {last}");
                last = count;
            }
        });
        assert_eq!(shared.snapshot().sum_ns, 100 * (0..1000).sum::<u64>());
    }
}
