//! A histogram as bars of text, one for each range of latencies; the ranges grow by the same factor.

use std::fmt::{self, Write};

use hdrhistogram::Histogram;

use super::stats::{bucket_start_ns, buckets};
use crate::report::show_ns;

/// More bars are too many to look at.
const MAX_BARS: u32 = 24;
/// How many ranges to a doubling, the finest first.
const STEPS: [u32; 4] = [8, 4, 2, 1];
/// A part of a cell, in eighths.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
/// What stands beside a bar: two latencies, a count and a share.
const BESIDE: usize = 42;
const MIN_BAR: usize = 10;

/// Writes the bars; a bar's length is its count's share of the highest count, and never nothing where there is any.
pub(super) fn write_bars(text: &mut String, histogram: &Histogram<u64>, width: usize) -> fmt::Result {
    let Some((step, counts)) = STEPS.into_iter().find_map(|step| {
        let counts = buckets(histogram, step);
        let bars = counts.last_key_value()?.0 - counts.first_key_value()?.0 + 1;
        (bars <= MAX_BARS || step == 1).then_some((step, counts))
    }) else {
        return writeln!(text, "  none");
    };
    let (first, last) = (counts.keys().next().copied(), counts.keys().last().copied());
    let highest = counts.values().copied().max().unwrap_or(1);
    let room = width.saturating_sub(BESIDE).max(MIN_BAR);
    for bucket in first.unwrap_or(0)..=last.unwrap_or(0) {
        let count = counts.get(&bucket).copied().unwrap_or(0);
        let edge = |bucket| show_ns(bucket_start_ns(bucket, step).round() as u64);
        let percent = 100.0 * count as f64 / histogram.len() as f64;
        let bar = bar(count, highest, room);
        writeln!(
            text,
            "{:>8} - {:<8} {bar:<room$} {count:>11} {percent:>7.3} %",
            edge(bucket),
            edge(bucket + 1)
        )?;
    }
    Ok(())
}

fn bar(count: u64, highest: u64, room: usize) -> String {
    let share = count as f64 / highest as f64;
    let eighths = ((share * room as f64 * 8.0).round() as usize).max(usize::from(count > 0));
    let mut bar = String::from(EIGHTHS[7]).repeat(eighths / 8);
    bar.extend((eighths % 8).checked_sub(1).map(|part| EIGHTHS[part]));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_they_should_be() {
        assert_eq!(bar(100, 100, 4), "████");
        assert_eq!(bar(50, 100, 3), "█▌");
        assert_eq!(bar(1, 1_000_000, 10), "▏");
        assert_eq!(bar(0, 100, 10), "");
    }

    #[test]
    fn lines_keep_within_the_width() {
        let mut histogram = Histogram::new(2).unwrap();
        (1..40).for_each(|shift| histogram.record(1 << shift).unwrap());
        histogram.record_n(5_000, 9_999_999_999).unwrap();
        for width in [60, 80, 200] {
            let mut text = String::new();
            write_bars(&mut text, &histogram, width).unwrap();
            assert_eq!(text.lines().count(), 39);
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= width && longest > width - 3, "{longest} of {width}\n{text}");
        }
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        let mut text = String::new();
        write_bars(&mut text, &Histogram::new(2).unwrap(), 80).unwrap();
        assert_eq!(text, "  none\n");
    }
}
