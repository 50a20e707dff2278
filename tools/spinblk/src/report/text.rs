//! The report for people.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use spinblk_perf::OpKind;

use super::{
    BackendReport, DiskReport, OpReport, QueueReport, ReactorReport, Report, StageReport, StagesReport,
};

const STAGE_HEADER: [&str; 6] = ["mean/p99 in", "pick-up", "submit", "bdev", "return", "interrupt"];
const OP_HEADER: [&str; 10] = ["", "ios", "MiB", "errors", "mean", "p50", "p90", "p99", "p99.9", "max"];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for disk in &self.disks {
            write_disk(f, disk)?;
        }
        for reactor in &self.reactors {
            write_reactor(f, reactor)?;
        }
        Ok(())
    }
}

fn write_disk(f: &mut fmt::Formatter<'_>, disk: &DiskReport) -> fmt::Result {
    let device =
        disk.block_device.as_ref().map_or("no device node".into(), |path| path.display().to_string());
    let umem = if disk.umem { ", umem" } else { "" };
    writeln!(f, "{} ({device}{umem})", disk.name)?;
    let named = OpKind::ALL.into_iter().filter_map(|kind| Some((kind.name(), disk.ops.get(kind.name())?)));
    let used: Vec<(&str, &OpReport)> = named.filter(|(_, op)| op.ios > 0).collect();
    if used.is_empty() {
        writeln!(f, "  no requests")?;
    } else {
        write_table(f, &OP_HEADER, used.iter().map(|(name, op)| op_row(name, op)))?;
        write_table(f, &STAGE_HEADER, used.iter().map(|(name, op)| stage_row(name, &op.stages)))?;
    }
    disk.queues.iter().try_for_each(|queue| write_queue(f, queue))
}

fn write_table(
    f: &mut fmt::Formatter<'_>,
    header: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> fmt::Result {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header).add_rows(rows);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    writeln!(f, "{}", table.trim_fmt())
}

fn stage_row(name: &str, stages: &StagesReport) -> Vec<String> {
    let StagesReport { pick_up, submit, bdev, returning, interrupt } = stages;
    let cell = |stage: &StageReport| match stage.ios {
        0 => "-".to_string(),
        _ => format!("{} / {}", show_ns(stage.mean_ns), show_ns(stage.p99_ns)),
    };
    let cells = [pick_up, submit, bdev, returning, interrupt].map(cell);
    [vec![name.to_string()], cells.to_vec()].concat()
}

fn op_row(name: &str, op: &OpReport) -> Vec<String> {
    let mib = op.bytes as f64 / f64::from(1 << 20);
    let mut row = vec![name.to_string(), op.ios.to_string(), format!("{mib:.1}"), op.errors.to_string()];
    let latencies = [op.mean_ns, op.p50_ns, op.p90_ns, op.p99_ns, op.p999_ns, op.max_ns];
    row.extend(latencies.map(show_ns));
    row
}

fn write_queue(f: &mut fmt::Formatter<'_>, queue: &QueueReport) -> fmt::Result {
    let per_batch = queue.requests as f64 / queue.batches.max(1) as f64;
    write!(
        f,
        " queue {} on core {}: {} requests in {} batches ({per_batch:.1} each), interrupts {} sent, {} suppressed, \
         {} fixed-buffer I/Os",
        queue.index,
        queue.core,
        queue.requests,
        queue.batches,
        queue.interrupts_sent,
        queue.interrupts_suppressed,
        queue.backend.fixed_buffer_ios,
    )?;
    let BackendReport { bounced_ios, polled_ios, retries, no_space, target_failures, .. } = queue.backend;
    let rare = [
        (bounced_ios, "bounced"),
        (polled_ios, "polled"),
        (retries, "retries"),
        (no_space, "failed for want of space"),
        (target_failures, "failed by the target"),
    ];
    rare.iter()
        .filter(|(count, _)| *count > 0)
        .try_for_each(|(count, what)| write!(f, ", {count} {what}"))?;
    writeln!(f)
}

fn write_reactor(f: &mut fmt::Formatter<'_>, reactor: &ReactorReport) -> fmt::Result {
    let total_ns = reactor.busy_ns.saturating_add(reactor.idle_ns).max(1);
    let busy_percent = 100.0 * reactor.busy_ns as f64 / total_ns as f64;
    writeln!(
        f,
        "reactor on core {}: {busy_percent:.1} % busy, {} iterations, the longest {}, {} enters",
        reactor.core,
        reactor.iterations,
        show_ns(reactor.longest_iteration_ns),
        reactor.enters
    )
}

/// Nanoseconds for people, three digits: `870 ns`, `12.3 µs`, `4.56 ms`, `1.20 s`.
pub(crate) fn show_ns(ns: u64) -> String {
    if ns < 1000 {
        return format!("{ns} ns");
    }
    let mut value = ns as f64 / 1000.0;
    let mut units = ["µs", "ms", "s"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // Rounded to three digits, 999.6 is a thousand already.
    while value >= 999.5
        && let Some(next) = units.next()
    {
        (value, unit) = (value / 1000.0, next);
    }
    let digits = if value >= 99.95 { 0 } else { usize::from(value < 9.995) + 1 };
    format!("{value:.digits$} {unit}")
}
