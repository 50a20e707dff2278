//! Figures as the texts of a table.

use super::model::{Disk, Queue, Rates, Reactor, StageTime};
use crate::api::SlowRecord;
use crate::report::show_ns;

/// Cells of a bar that is whole.
const BAR: f64 = 20.0;

/// A table of texts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// So many columns from the left hold words; the others hold numbers.
    pub(super) left: usize,
}

impl Grid {
    fn new<const N: usize>(
        header: [&str; N],
        left: usize,
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Self {
        let rows = rows.into_iter().map(Vec::from).collect();
        Self { header: header.map(String::from).to_vec(), rows, left }
    }

    /// Lines that it takes.
    pub(super) fn height(&self) -> u16 {
        u16::try_from(self.rows.len() + 1).unwrap_or(u16::MAX / 8).min(u16::MAX / 8)
    }

    /// What each column needs.
    pub(super) fn widths(&self) -> Vec<u16> {
        let width = |text: &String| u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
        let of_column = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.chain(self.header.get(column)).map(width).max().unwrap_or(0)
        };
        (0..self.header.len()).map(of_column).collect()
    }
}

/// A rate for people: `0`, `7.5`, `1234`, `56.7k`, `1.23M`.
pub(super) fn show_rate(rate: f64) -> String {
    match rate {
        _ if rate == 0.0 => "0".into(),
        _ if rate < 99.95 => format!("{rate:.1}"),
        _ if rate < 9_999.5 => format!("{rate:.0}"),
        _ if rate < 999_950.0 => format!("{:.1}k", rate / 1e3),
        _ => format!("{:.2}M", rate / 1e6),
    }
}

fn show_time(ns: u64) -> String {
    if ns == 0 { "-".into() } else { show_ns(ns) }
}

fn show_rates(rates: &Rates) -> [String; 5] {
    [
        show_rate(rates.iops),
        format!("{:.1}", rates.bytes_per_s / 1e6),
        show_time(rates.p50_ns),
        show_time(rates.p99_ns),
        show_time(rates.p999_ns),
    ]
}

pub(super) fn disks(disks: &[Disk]) -> Grid {
    let row = |disk: &Disk| {
        let [iops, mb, p50, p99, p999] = show_rates(&disk.rates);
        let errors = format!("{} ({})", disk.new_errors, disk.errors);
        let state = if disk.attached { "attached" } else { "-" };
        [disk.name.clone(), iops, mb, p50, p99, p999, errors, state.into()]
    };
    let header = ["disk", "IOPS", "MB/s", "p50", "p99", "p99.9", "errors", "state"];
    Grid::new(header, 1, disks.iter().map(row))
}

pub(super) fn queues(queues: &[Queue]) -> Grid {
    let row = |queue: &Queue| {
        let [iops, mb, p50, p99, p999] = show_rates(&queue.rates);
        [
            queue.index.to_string(),
            queue.core.to_string(),
            iops,
            mb,
            p50,
            p99,
            p999,
            format!("{:.1}", queue.batch),
            queue.ring_full.to_string(),
            show_rate(queue.interrupts_per_s),
        ]
    };
    let header =
        ["queue", "core", "IOPS", "MB/s", "p50", "p99", "p99.9", "per batch", "ring full", "interrupts/s"];
    Grid::new(header, 0, queues.iter().map(row))
}

pub(super) fn stages(stages: &[StageTime]) -> Grid {
    let row = |stage: &StageTime| {
        let bar = "█".repeat((stage.share * BAR).round().clamp(0.0, BAR) as usize);
        [
            stage.name.into(),
            format!("{bar:<width$}", width = BAR as usize),
            format!("{:.1} %", 100.0 * stage.share),
            show_time(stage.mean_ns),
            show_time(stage.p99_ns),
            show_time(stage.max_ns),
        ]
    };
    Grid::new(["stage", "", "share", "mean", "p99", "max"], 2, stages.iter().map(row))
}

pub(super) fn reactors(reactors: &[Reactor]) -> Grid {
    let row = |reactor: &Reactor| {
        [
            reactor.core.to_string(),
            reactor.busy.map_or("-".into(), |busy| format!("{:.1}", 100.0 * busy)),
            show_rate(reactor.iterations_per_s),
            show_ns(reactor.longest_iteration_ns),
        ]
    };
    Grid::new(["core", "busy %", "iterations/s", "longest iteration"], 0, reactors.iter().map(row))
}

pub(super) fn slow(records: &[SlowRecord]) -> Grid {
    let row = |record: &SlowRecord| {
        let stages = record.stages_ns;
        let op = record.op.name();
        [
            if record.ok { op.to_string() } else { format!("{op} failed") },
            record.worst_stage.name().into(),
            show_ns(record.age_ns),
            show_ns(record.total_ns),
            show_time(stages.pick_up),
            show_time(stages.submit),
            show_time(stages.bdev),
            show_time(stages.back),
            show_time(stages.interrupt),
            record.queue.to_string(),
            record.offset_bytes.to_string(),
            record.bytes.to_string(),
        ]
    };
    let header = [
        "op",
        "worst stage",
        "age",
        "total",
        "pick-up",
        "submit",
        "bdev",
        "return",
        "interrupt",
        "queue",
        "offset",
        "bytes",
    ];
    Grid::new(header, 2, records.iter().map(row))
}
