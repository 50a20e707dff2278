//! Latency by percentile: to the right each nine takes as much room as the one before it.

use plotters::coord::combinators::{BindKeyPoints, IntoLogRange};
use plotters::prelude::*;

use super::{Area, Drawn, KEY_WIDTH, LABEL, TITLE, key, latency_marks, show_latency};
use crate::hist::recording::Op;

/// Colours that people who cannot tell red from green can tell apart.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

pub(super) fn draw(area: &Area<'_>, ops: &[&Op]) -> Drawn {
    let low = ops.iter().map(|op| op.total.min()).min().unwrap_or(1).max(1) as f64 / 1.1;
    let high = ops.iter().map(|op| op.total.max()).max().unwrap_or(1).max(1) as f64 * 1.1;
    let right = ops.iter().map(|op| op.total.len()).max().unwrap_or(1).max(10) as f64;
    let nines = (0..20).map(|power| 10f64.powi(power)).filter(|mark| *mark <= right).collect();
    let mut chart = ChartBuilder::on(area)
        .caption("Latency by percentile", TITLE)
        .margin(12)
        .margin_right(KEY_WIDTH)
        .x_label_area_size(50)
        .y_label_area_size(90)
        .build_cartesian_2d(
            (1.0..right).log_scale().with_key_points(nines),
            (low..high).log_scale().with_key_points(latency_marks(low, high)),
        )?;
    chart
        .configure_mesh()
        .x_desc("requests that took no longer")
        .y_desc("latency")
        .x_label_formatter(&|x| show_percentile(*x))
        .y_label_formatter(&show_latency)
        .label_style(LABEL)
        .axis_desc_style(LABEL)
        .draw()?;
    for (index, op) in ops.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        chart.draw_series(LineSeries::new(points(op), colour.stroke_width(2)))?;
        key(area, index, colour, &op.name())?;
    }
    Ok(())
}

/// From the fastest to the slowest; the last has no 1/(1-p), and stands where the last but one does.
fn points(op: &Op) -> Vec<(f64, f64)> {
    let count = op.total.len();
    let mut seen = 0;
    let mut points = vec![(1.0, op.total.min().max(1) as f64)];
    for step in op.total.iter_recorded() {
        seen += step.count_since_last_iteration();
        let slower = (count - seen).max(1);
        points.push((count as f64 / slower as f64, step.value_iterated_to().max(1) as f64));
    }
    points
}

/// `1/(1-p)` as a percentage, for powers of ten.
fn show_percentile(x: f64) -> String {
    let decimals = (x.log10().round() as usize).saturating_sub(2);
    format!("{:.decimals$} %", 100.0 - 100.0 / x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nines_are_percentages() {
        let want = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"];
        assert_eq!([1.0, 10.0, 100.0, 1e3, 1e4].map(show_percentile), want);
    }
}
