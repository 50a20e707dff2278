//! `hist show`: percentiles, bars and stages of one source, as text or JSON.

use std::fmt::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;
use spinblk_perf::Stage;

use super::bars::write_bars;
use super::recording::{Op, Recording};
use super::stages::{StageShare, shares, verdict};
use super::stats::QUANTILES;
use crate::report::show_ns;

/// The shape of the JSON.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// One for each disk and kind.
    pub(super) ops: Vec<OpShown>,
}

/// One kind of request on one disk.
#[derive(Debug, Serialize)]
pub(super) struct OpShown {
    disk: String,
    op: &'static str,
    #[serde(flatten)]
    total: Row,
    /// What each stage took; none where the source does not tell.
    stages: Vec<StageShown>,
    verdict: Option<String>,
}

#[derive(Debug, Serialize)]
struct StageShown {
    #[serde(flatten)]
    share: StageShare,
    percentiles: Row,
}

/// One histogram in a few numbers.
#[derive(Debug, Serialize)]
struct Row {
    count: u64,
    mean_ns: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    p9999_ns: u64,
    max_ns: u64,
}

impl Shown {
    pub(super) fn new(recording: &Recording) -> Self {
        Self { ops: recording.ops.iter().map(OpShown::new).collect() }
    }
}

impl OpShown {
    fn new(op: &Op) -> Self {
        let shares = shares(op);
        let stage = |(share, histogram)| StageShown { share, percentiles: Row::new(histogram) };
        Self {
            disk: op.disk.clone(),
            op: op.kind.name(),
            total: Row::new(&op.total),
            stages: shares.into_iter().flatten().zip(op.stages.iter().flatten()).map(stage).collect(),
            verdict: shares.as_ref().map(verdict),
        }
    }
}

impl Row {
    fn new(histogram: &Histogram<u64>) -> Self {
        let [p50_ns, p90_ns, p99_ns, p999_ns, p9999_ns] =
            QUANTILES.map(|(_, quantile)| histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            mean_ns: histogram.mean() as u64,
            p50_ns,
            p90_ns,
            p99_ns,
            p999_ns,
            p9999_ns,
            max_ns: histogram.max(),
        }
    }

    fn cells(&self, name: String) -> Vec<String> {
        let times =
            [self.mean_ns, self.p50_ns, self.p90_ns, self.p99_ns, self.p999_ns, self.p9999_ns, self.max_ns];
        [name, self.count.to_string()].into_iter().chain(times.map(show_ns)).collect()
    }
}

/// All of a source as text, lines no wider than `width`; with a row for each stage if `by_stage`.
pub(super) fn text(recording: &Recording, by_stage: bool, width: usize) -> Result<String, fmt::Error> {
    let mut text = String::new();
    let header = ["", "count", "mean"].into_iter().chain(QUANTILES.map(|(name, _)| name)).chain(["max"]);
    let mut table = new_table(header);
    for op in &recording.ops {
        table.add_row(Row::new(&op.total).cells(op.name()));
        for (stage, histogram) in Stage::ALL.iter().zip(op.stages.iter().flatten()).filter(|_| by_stage) {
            table.add_row(Row::new(histogram).cells(format!("  {}", stage.name())));
        }
    }
    write_table(&mut text, table)?;
    for op in &recording.ops {
        writeln!(text, "\n{}, requests by latency:", op.name())?;
        write_bars(&mut text, &op.total, width)?;
        if let Some(shares) = shares(op) {
            writeln!(text)?;
            write_stages(&mut text, &shares)?;
        }
    }
    Ok(text)
}

fn write_stages(text: &mut String, shares: &[StageShare; 5]) -> fmt::Result {
    let mut table = new_table(["stage", "mean", "share", "slowest 1 %", "share"]);
    for share in shares {
        table.add_row([
            share.stage.to_string(),
            show_ns(share.mean_ns.round() as u64),
            format!("{:.1} %", share.mean_percent),
            show_ns(share.tail_ns.round() as u64),
            format!("{:.1} %", share.tail_percent),
        ]);
    }
    write_table(text, table)?;
    writeln!(text, "{}", verdict(shares))
}

/// A table without lines.
pub(super) fn new_table(header: impl IntoIterator<Item = &'static str>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// Writes it, numbers to the right.
pub(super) fn write_table(text: &mut String, mut table: Table) -> fmt::Result {
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    writeln!(text, "{}", table.trim_fmt())
}
