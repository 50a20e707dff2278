//! The share of each stage: two bars for each disk and operation, its mean and its slowest 1 %.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use spinblk_perf::Stage;

use super::{Area, Drawn, KEY_WIDTH, LABEL, TITLE, key};
use crate::hist::recording::Op;
use crate::hist::stages::StageShare;
use crate::report::show_ns;

const COLOURS: [RGBColor; 5] = [
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
    RGBColor(150, 150, 150),
];
const BAR_HEIGHT: u32 = 34;
/// A share of so many percent has room for its number.
const READABLE_PERCENT: f64 = 7.0;

/// One bar.
struct Bar {
    name: String,
    percents: [f64; 5],
}

/// The height of a panel with so many operations; the names of the stages need some, too.
pub(super) fn height(ops: usize) -> u32 {
    (110 + 2 * BAR_HEIGHT * ops as u32).max(190)
}

pub(super) fn draw(area: &Area<'_>, ops: &[(&Op, [StageShare; 5])]) -> Drawn {
    let bars: Vec<Bar> = ops.iter().flat_map(|(op, shares)| bars(op, shares)).collect();
    let rows = bars.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption("Time by stage", TITLE)
        .margin(12)
        .margin_right(KEY_WIDTH)
        .x_label_area_size(50)
        .y_label_area_size(270)
        .build_cartesian_2d(0.0..100.0, 0.0..rows)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("share of the time, %")
        .y_labels(0)
        .label_style(LABEL)
        .axis_desc_style(LABEL)
        .draw()?;
    let anchored = |across| TextStyle::from(LABEL).pos(Pos::new(across, VPos::Center));
    let (centred, to_the_left) = (anchored(HPos::Center), anchored(HPos::Right));
    let (area_x, area_y) = area.get_base_pixel();
    // The first bar is the uppermost.
    for (row, bar) in bars.iter().rev().enumerate() {
        let (bottom, top) = (row as f64 + 0.1, row as f64 + 0.9);
        let (x, y) = chart.backend_coord(&(0.0, row as f64 + 0.5));
        area.draw(&Text::new(bar.name.clone(), (x - area_x - 8, y - area_y), to_the_left.clone()))?;
        let mut left = 0.0;
        for (percent, colour) in bar.percents.into_iter().zip(COLOURS) {
            let corners = [(left, bottom), (left + percent, top)];
            chart.draw_series([Rectangle::new(corners, colour.filled())])?;
            if percent >= READABLE_PERCENT {
                let middle = (left + percent / 2.0, row as f64 + 0.5);
                chart.draw_series([Text::new(format!("{percent:.0} %"), middle, centred.clone())])?;
            }
            left += percent;
        }
    }
    for (stage, colour) in Stage::ALL.into_iter().zip(COLOURS) {
        key(area, stage as usize, colour, stage.name())?;
    }
    Ok(())
}

fn bars(op: &Op, shares: &[StageShare; 5]) -> [Bar; 2] {
    let ns = |time: fn(&StageShare) -> f64| show_ns(shares.iter().map(time).sum::<f64>().round() as u64);
    [
        Bar {
            name: format!("{}, mean: {}", op.name(), ns(|share| share.mean_ns)),
            percents: shares.map(|share| share.mean_percent),
        },
        Bar {
            name: format!("{}, slowest 1 %: {}", op.name(), ns(|share| share.tail_ns)),
            percents: shares.map(|share| share.tail_percent),
        },
    ]
}
