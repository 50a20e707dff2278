//! Latency over time: a cell for each range of latencies in each part of the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use plotters::coord::combinators::{BindKeyPoints, IntoLogRange};
use plotters::prelude::*;

use super::{Area, Drawn, KEY_WIDTH, LABEL, TITLE, WIDTH, latency_marks, show_latency};
use crate::hist::recording::{Op, Slice};
use crate::hist::stats::{FINEST, bucket_start_ns};

/// More columns could not be seen.
const MAX_COLUMNS: usize = 240;
/// From few requests to many.
const RAMP: [RGBColor; 5] = [
    RGBColor(255, 243, 178),
    RGBColor(254, 190, 80),
    RGBColor(232, 105, 25),
    RGBColor(150, 45, 25),
    RGBColor(55, 15, 45),
];
/// The height of the bar that explains the colours, in steps and in pixels.
const KEY_STEPS: u32 = 40;
const KEY_HEIGHT: u32 = 200;

/// A part of the time, in seconds from the beginning.
#[derive(Debug, Default, PartialEq)]
struct Column {
    start_s: f64,
    end_s: f64,
    counts: BTreeMap<u32, u64>,
}

pub(super) fn draw(area: &Area<'_>, op: &Op) -> Drawn {
    let columns = columns(&op.slices);
    let used = || columns.iter().flat_map(|column| &column.counts);
    let lowest = used().map(|(bucket, _)| *bucket).min().unwrap_or(0);
    let highest = used().map(|(bucket, _)| *bucket).max().unwrap_or(0);
    let most = used().map(|(_, count)| *count).max().unwrap_or(1);
    let (low, high) = (bucket_start_ns(lowest, FINEST), bucket_start_ns(highest + 1, FINEST));
    // A log of no time at all still has a width.
    let end_s = columns.iter().map(|column| column.end_s).fold(0.001, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("Latency over time: {}", op.name()), TITLE)
        .margin(12)
        .margin_right(KEY_WIDTH)
        .x_label_area_size(50)
        .y_label_area_size(90)
        .build_cartesian_2d(0.0..end_s, (low..high).log_scale().with_key_points(latency_marks(low, high)))?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_desc("time, s")
        .y_desc("latency")
        .y_label_formatter(&show_latency)
        .label_style(LABEL)
        .axis_desc_style(LABEL)
        .draw()?;
    for column in &columns {
        let cell = |(bucket, count): (&u32, &u64)| {
            let (low, high) = (bucket_start_ns(*bucket, FINEST), bucket_start_ns(bucket + 1, FINEST));
            let corners = [(column.start_s, low), (column.end_s, high)];
            Rectangle::new(corners, colour(heat(*count, most)).filled())
        };
        chart.draw_series(column.counts.iter().map(cell))?;
    }
    draw_key(area, most)
}

/// The slices in order, those of the same time together, and neighbours together where there are too many.
fn columns(slices: &[Slice]) -> Vec<Column> {
    let first = slices.iter().map(|slice| slice.start).min().unwrap_or(SystemTime::UNIX_EPOCH);
    let since_first = |time: SystemTime| time.duration_since(first).unwrap_or_default();
    let end = |slice: &Slice| since_first(slice.start).saturating_add(slice.duration);
    let starts: BTreeSet<Duration> = slices.iter().map(|slice| since_first(slice.start)).collect();
    let whole_s = slices.iter().map(end).max().unwrap_or_default().as_secs_f64();
    let grain_s =
        (starts.len() > MAX_COLUMNS).then(|| whole_s / MAX_COLUMNS as f64).filter(|grain| *grain > 0.0);
    let mut columns: BTreeMap<u64, Column> = BTreeMap::new();
    for slice in slices {
        let (start_s, end_s) = (since_first(slice.start).as_secs_f64(), end(slice).as_secs_f64());
        let (number, start_s, end_s) = match grain_s {
            Some(grain) => {
                let number = (start_s / grain) as u64;
                (number, number as f64 * grain, (number + 1) as f64 * grain)
            }
            None => ((start_s * 1e9) as u64, start_s, end_s),
        };
        let column = columns.entry(number).or_default();
        (column.start_s, column.end_s) = (start_s, column.end_s.max(end_s));
        for (bucket, count) in &slice.counts {
            *column.counts.entry(*bucket).or_default() += count;
        }
    }
    columns.into_values().collect()
}

/// How hot a cell is, 0 to 1, on a logarithmic scale.
fn heat(count: u64, most: u64) -> f64 {
    if most <= 1 { 1.0 } else { (count.max(1) as f64).ln() / (most as f64).ln() }
}

fn colour(heat: f64) -> RGBColor {
    let place = heat.clamp(0.0, 1.0) * (RAMP.len() - 1) as f64;
    let below = (place as usize).min(RAMP.len() - 2);
    let (a, b, part) = (RAMP[below], RAMP[below + 1], place - below as f64);
    let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * part).round() as u8;
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// What the colours mean: one request at the bottom, the most in any cell at the top.
fn draw_key(area: &Area<'_>, most: u64) -> Drawn {
    let (left, top) = ((WIDTH - KEY_WIDTH) as i32 + 14, 60);
    let step = (KEY_HEIGHT / KEY_STEPS) as i32;
    area.draw(&Text::new("requests in a cell", (left, top - 24), LABEL))?;
    for number in 0..KEY_STEPS as i32 {
        let heat = 1.0 - f64::from(number) / f64::from(KEY_STEPS - 1);
        let corners = [(left, top + number * step), (left + 16, top + (number + 1) * step)];
        area.draw(&Rectangle::new(corners, colour(heat).filled()))?;
    }
    let middle = (most as f64).sqrt().round() as u64;
    for (count, place) in [(most, 0), (middle, KEY_HEIGHT / 2), (1, KEY_HEIGHT)] {
        area.draw(&Text::new(count.to_string(), (left + 22, top + place as i32 - 7), LABEL))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(start_ms: u64, count: u64) -> Slice {
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(start_ms);
        Slice { start, duration: Duration::from_secs(1), counts: [(5, count)].into() }
    }

    #[test]
    fn slices_of_the_same_time_are_one_column() {
        let columns = columns(&[slice(2000, 1), slice(1000, 2), slice(1000, 4)]);
        let want = |start_s, count| Column { start_s, end_s: start_s + 1.0, counts: [(5, count)].into() };
        assert_eq!(columns, [want(0.0, 6), want(1.0, 1)]);
    }

    #[test]
    fn many_slices_share_columns_and_none_is_lost() {
        let slices: Vec<Slice> = (0..1000).map(|second| slice(second * 1000, 1)).collect();
        let columns = columns(&slices);
        assert_eq!(columns.len(), MAX_COLUMNS);
        assert_eq!(columns.iter().flat_map(|column| column.counts.values()).sum::<u64>(), 1000);
        assert!(columns.windows(2).all(|pair| (pair[0].end_s - pair[1].start_s).abs() < 1e-6));
        assert!(super::columns(&[]).is_empty());
    }

    #[test]
    fn colours_run_from_few_to_many() {
        assert_eq!((colour(heat(1, 1000)), colour(heat(1000, 1000))), (RAMP[0], RAMP[4]));
        assert_eq!((heat(1, 1), heat(10, 100)), (1.0, 0.5));
    }
}
