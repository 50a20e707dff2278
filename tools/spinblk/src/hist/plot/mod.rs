//! `hist plot`: one SVG page of panels, one below the other.
//!
//! ```text
//!   ┌ percentiles ┐ latency by 1/(1-p), both logarithmic, a line for each disk and operation
//!   ├ stages ─────┤ two bars for each: its mean and its slowest 1 %
//!   ├ heat map ───┤ latency over time, the colour says how many requests; one panel for each
//!   └ ... ────────┘
//! ```

mod heatmap;
mod percentiles;
mod stages;

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::args::PlotKind;
use super::recording::{Op, Recording};
use super::stages::{StageShare, shares};
use crate::report::show_ns;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

const WIDTH: u32 = 1000;
const PANEL_HEIGHT: u32 = 420;
/// Room to the right of a chart, for what its colours mean.
const KEY_WIDTH: u32 = 150;
const TITLE: (&str, i32) = ("sans-serif", 20);
const LABEL: (&str, i32) = ("sans-serif", 14);

enum Panel<'a> {
    Percentiles(Vec<&'a Op>),
    Stages(Vec<(&'a Op, [StageShare; 5])>),
    Heatmap(&'a Op),
}

impl Panel<'_> {
    fn height(&self) -> u32 {
        match self {
            Self::Stages(ops) => stages::height(ops.len()),
            Self::Percentiles(_) | Self::Heatmap(_) => PANEL_HEIGHT,
        }
    }

    fn draw(&self, area: &Area<'_>) -> Drawn {
        match self {
            Self::Percentiles(ops) => percentiles::draw(area, ops),
            Self::Stages(ops) => stages::draw(area, ops),
            Self::Heatmap(op) => heatmap::draw(area, op),
        }
    }
}

/// The page, or why there is nothing to draw.
pub(super) fn svg(recording: &Recording, kind: Option<PlotKind>) -> Result<String, String> {
    let panels = panels(recording, kind);
    if panels.is_empty() {
        let why = match kind {
            Some(PlotKind::Stages) => "the source does not tell stages; draw another --kind",
            Some(PlotKind::Heatmap) => "the source does not tell times; draw another --kind",
            Some(PlotKind::Percentiles) | None => "no request was counted, so there is nothing to draw",
        };
        return Err(why.into());
    }
    let mut svg = String::new();
    draw(&panels, &mut svg).map_err(|e| format!("cannot be drawn: {e}"))?;
    Ok(svg)
}

fn panels(recording: &Recording, kind: Option<PlotKind>) -> Vec<Panel<'_>> {
    let wanted = |this| kind.is_none_or(|kind| kind == this);
    let ops: Vec<&Op> = recording.ops.iter().filter(|op| !op.total.is_empty()).collect();
    let staged: Vec<_> = ops.iter().filter_map(|op| Some((*op, shares(op)?))).collect();
    let mut panels = Vec::new();
    if wanted(PlotKind::Heatmap) {
        panels.extend(ops.iter().filter(|op| !op.slices.is_empty()).map(|op| Panel::Heatmap(op)));
    }
    if wanted(PlotKind::Stages) && !staged.is_empty() {
        panels.insert(0, Panel::Stages(staged));
    }
    if wanted(PlotKind::Percentiles) && !ops.is_empty() {
        panels.insert(0, Panel::Percentiles(ops));
    }
    panels
}

fn draw(panels: &[Panel<'_>], svg: &mut String) -> Drawn {
    let height = panels.iter().map(Panel::height).sum();
    let page = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    page.fill(&WHITE)?;
    let mut rest = page.clone();
    for panel in panels {
        let (area, below) = rest.split_vertically(panel.height());
        panel.draw(&area)?;
        rest = below;
    }
    page.present()?;
    Ok(())
}

/// Latencies for an axis from `low` to `high`: 1, 2 and 5 of each power of ten, or only the powers where these would be many.
fn latency_marks(low: f64, high: f64) -> Vec<f64> {
    let steps: &[f64] = if high / low > 1e5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let marks = (0..18).flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
    marks.filter(|mark| (low..=high).contains(mark)).collect()
}

fn show_latency(ns: &f64) -> String {
    show_ns(ns.round() as u64)
}

/// Says what a colour means, in the room to the right of a chart.
fn key(area: &Area<'_>, row: usize, colour: RGBColor, text: &str) -> Drawn {
    let (left, top) = ((WIDTH - KEY_WIDTH) as i32 + 14, 60 + 20 * row as i32);
    area.draw(&Rectangle::new([(left, top), (left + 12, top + 12)], colour.filled()))?;
    area.draw(&Text::new(text.to_string(), (left + 18, top), LABEL))?;
    Ok(())
}
