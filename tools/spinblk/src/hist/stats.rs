//! What can be asked of a histogram: values by rank and how certain they are, the tail, logarithmic buckets.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use hdrhistogram::Histogram;

/// The percentiles that are shown.
pub(super) const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];
/// The part of the requests that is called the tail: the slowest 1 %.
const TAIL: f64 = 0.01;
/// Standard deviations to both sides that hold 99 % of a normal distribution.
const Z: f64 = 2.576;
/// With fewer samples the mean is not distributed normally, and could be anything.
const MIN_SAMPLES: u64 = 30;
/// The finest buckets that are used, to a doubling.
pub(super) const FINEST: u32 = 8;

/// Where the true quantile lies with a certainty of 99 %, if the samples are independent of each other: between the
/// samples whose ranks are 2.6 standard deviations of the binomial distribution away, each with the width of its bucket.
/// There is no upper bound where the samples do not reach so far.
pub(super) fn quantile_range(histogram: &Histogram<u64>, quantile: f64) -> RangeInclusive<u64> {
    let count = histogram.len() as f64;
    let deviation = Z * (count * quantile * (1.0 - quantile)).sqrt();
    let (low, high) = ((count * quantile - deviation).floor(), (count * quantile + deviation).ceil() + 1.0);
    let low = if low < 1.0 { 0 } else { histogram.lowest_equivalent(at_rank(histogram, low as u64)) };
    let high = if high > count { u64::MAX } else { at_rank(histogram, high as u64) };
    low..=histogram.highest_equivalent(high)
}

/// Where the true mean lies with a certainty of 99 %, if the samples are independent, and given the buckets' width.
pub(super) fn mean_range(histogram: &Histogram<u64>) -> RangeInclusive<u64> {
    if histogram.len() < MIN_SAMPLES {
        return 0..=u64::MAX;
    }
    let mean = histogram.mean();
    let noise = Z * histogram.stdev() / (histogram.len() as f64).sqrt();
    let half_bucket = histogram.equivalent_range(mean as u64) as f64 / 2.0;
    let spread = noise + half_bucket;
    (mean - spread).max(0.0) as u64..=(mean + spread).ceil() as u64
}

/// The value of the sample of this rank, counted from 1, as the highest of its bucket.
fn at_rank(histogram: &Histogram<u64>, rank: u64) -> u64 {
    let mut seen = 0;
    let reached = histogram.iter_recorded().find(|step| {
        seen += step.count_since_last_iteration();
        seen >= rank
    });
    reached.map_or_else(|| histogram.max(), |step| step.value_iterated_to())
}

/// How many requests the tail has.
pub(super) fn tail_count(requests: u64) -> u64 {
    (requests as f64 * TAIL).ceil() as u64
}

/// The sum of the `count` highest values; of all where there are fewer.
pub(super) fn tail_sum_ns(histogram: &Histogram<u64>, count: u64) -> f64 {
    let steps: Vec<(u64, u64)> = histogram
        .iter_recorded()
        .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
        .collect();
    let (mut left, mut sum) = (count, 0.0);
    for (value, here) in steps.into_iter().rev() {
        let taken = here.min(left);
        sum += histogram.median_equivalent(value) as f64 * taken as f64;
        left -= taken;
    }
    sum
}

/// The sum of all values.
pub(super) fn sum_ns(histogram: &Histogram<u64>) -> f64 {
    histogram.mean() * histogram.len() as f64
}

/// The bucket of a value, of so many to a doubling.
pub(super) fn bucket(ns: u64, per_doubling: u32) -> u32 {
    ((ns.max(1) as f64).log2() * f64::from(per_doubling)) as u32
}

/// Where a bucket begins.
pub(super) fn bucket_start_ns(bucket: u32, per_doubling: u32) -> f64 {
    (f64::from(bucket) / f64::from(per_doubling)).exp2()
}

/// How many requests are in each bucket; only in those that hold any.
pub(super) fn buckets(histogram: &Histogram<u64>, per_doubling: u32) -> BTreeMap<u32, u64> {
    let mut counts = BTreeMap::new();
    for step in histogram.iter_recorded() {
        let ns = histogram.lowest_equivalent(step.value_iterated_to());
        *counts.entry(bucket(ns, per_doubling)).or_default() += step.count_since_last_iteration();
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        histogram
    }

    #[test]
    fn a_quantile_lies_between_two_ranks() {
        // Up to 2047 each value has a bucket of its own.
        let histogram = of(1..=1000);
        // 500 - 40.7 and 500 + 40.7, rounded outwards, and one more.
        assert_eq!(quantile_range(&histogram, 0.5), 459..=542);
        // 990 - 8.1 and 990 + 8.1.
        assert_eq!(quantile_range(&histogram, 0.99), 981..=1000);
        assert_eq!(*quantile_range(&histogram, 0.9999).end(), u64::MAX, "a thousand cannot tell");
        assert_eq!(quantile_range(&Histogram::new(3).unwrap(), 0.5), 0..=u64::MAX);
    }

    #[test]
    fn a_range_is_as_wide_as_its_buckets() {
        let mut histogram = Histogram::<u64>::new(2).unwrap();
        histogram.record_n(1_000_000, 1_000_000).unwrap();
        let range = quantile_range(&histogram, 0.5);
        assert_eq!(range, histogram.lowest_equivalent(1_000_000)..=histogram.highest_equivalent(1_000_000));
        assert!(mean_range(&histogram).contains(&1_000_000), "{:?}", mean_range(&histogram));
        assert_eq!(mean_range(&of([5; 29])), 0..=u64::MAX, "too few to tell");
    }

    #[test]
    fn the_tail_is_the_slowest() {
        let histogram = of((1..=1000).chain([1500]));
        assert_eq!((tail_count(1001), tail_count(100), tail_count(1), tail_count(0)), (11, 1, 1, 0));
        assert_eq!(tail_sum_ns(&histogram, 3), 1500.0 + 1000.0 + 999.0);
        assert_eq!(tail_sum_ns(&histogram, 5000), sum_ns(&histogram).round());
    }

    #[test]
    fn buckets_double() {
        let counts = buckets(&of([0, 1, 2, 3, 4, 1023, 1024]), 1);
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(0, 2), (1, 2), (2, 1), (9, 1), (10, 1)]);
        assert_eq!((bucket(1 << 20, 4), bucket_start_ns(80, 4)), (80, 1_048_576.0));
    }
}
