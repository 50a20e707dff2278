//! Answers for people.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use crate::api::{self, Threshold};
use crate::config::show_size;
use crate::report::show_ns;

/// A table with a line per row, numbers to the right from column `numbers` on.
fn table<const N: usize>(
    header: [&str; N],
    numbers: usize,
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header).add_rows(rows);
    table.column_iter_mut().skip(numbers).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table.trim_fmt() + "\n"
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1}", 100.0 * part as f64 / whole.max(1) as f64)
}

fn duration_ms(ms: u64) -> String {
    let (minutes, seconds) = (ms / 60_000, ms % 60_000 / 1000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min {seconds} s"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

pub(super) fn version(v: &api::VersionInfo) -> String {
    let uptime = duration_ms(v.uptime_ms);
    format!("{} {}, process {}, up {uptime}, interface {}\n", v.program, v.version, v.pid, v.api_version)
}

pub(super) fn disks(list: &api::DiskList) -> String {
    let header =
        ["disk", "type", "transport", "path", "attached", "read-only", "block", "size", "queues on cores"];
    let rows = list.disks.iter().map(|disk| {
        let cores: Vec<String> = disk.queues.iter().map(|queue| queue.core.to_string()).collect();
        [
            disk.name.clone(),
            disk.kind.clone(),
            disk.transport.clone(),
            disk.path.as_ref().map_or("-".into(), |path| path.display().to_string()),
            yes(disk.attached),
            yes(disk.read_only),
            disk.block_size.to_string(),
            show_size(disk.size_bytes),
            format!("{} on {}", disk.queues.len(), cores.join(",")),
        ]
    });
    table(header, usize::MAX, rows)
}

pub(super) fn bdevs(list: &api::BdevList) -> String {
    let mut rows = Vec::new();
    list.bdevs.iter().for_each(|bdev| bdev_rows(bdev, 0, &mut rows));
    let mut text = table(
        ["bdev", "type", "size", "block", "read-only", "flush", "discard", "write-zeroes"],
        usize::MAX,
        rows,
    );
    for bdev in &list.unused {
        let _ = writeln!(text, "{} ({}): no disk stands on it", bdev.name, bdev.kind);
    }
    text
}

pub(super) fn disk_added(added: &api::DiskAdded) -> String {
    let (disk, count) = (&added.disk, added.disk.queues.len());
    let path = disk.path.as_ref().map_or("no device node".into(), |path| path.display().to_string());
    let (size, via) = (show_size(disk.size_bytes), &disk.transport);
    format!("{}: {path}, {} {size}, {count} queue(s) of {}, {via}\n", disk.name, disk.kind, disk.queue_size)
}

pub(super) fn disk_removed(removed: &api::DiskRemoved) -> String {
    format!("{}: removed\n", removed.disk)
}

pub(super) fn bdevs_added(added: &api::BdevAdded) -> String {
    format!("{}: added, for disks to stand on\n", added.bdevs.join(", "))
}

pub(super) fn bdev_removed(removed: &api::BdevName) -> String {
    format!("{}: removed\n", removed.bdev)
}

pub(super) fn resized(resized: &api::Resized) -> String {
    let (bdev, disk) = (show_size(resized.bdev_size_bytes), show_size(resized.disk_size_bytes));
    format!("{}: {disk}, its bdev {} {bdev}\n", resized.disk, resized.bdev)
}

/// The text itself where no file has it.
pub(super) fn saved(saved: &api::SavedConfig) -> String {
    match &saved.path {
        Some(path) => format!("saved to {}\n", path.display()),
        None => saved.toml.clone(),
    }
}

fn bdev_rows(bdev: &api::BdevInfo, depth: usize, rows: &mut Vec<[String; 8]>) {
    rows.push([
        format!("{}{}", "  ".repeat(depth), bdev.name),
        bdev.kind.clone(),
        show_size(bdev.size_bytes),
        bdev.block_size.to_string(),
        yes(bdev.read_only),
        yes(bdev.caps.flush),
        yes(bdev.caps.discard),
        yes(bdev.caps.write_zeroes),
    ]);
    bdev.children.iter().for_each(|child| bdev_rows(child, depth + 1, rows));
}

pub(super) fn reactors(list: &api::ReactorList) -> String {
    let rows = list.reactors.iter().map(|r| {
        [
            r.core.to_string(),
            percent(r.busy_ns, r.busy_ns.saturating_add(r.idle_ns)),
            r.iterations.to_string(),
            r.enters.to_string(),
            show_ns(r.longest_iteration_ns),
        ]
    });
    table(["core", "busy %", "iterations", "enters", "longest"], 0, rows)
}

pub(super) fn stats(stats: &api::StatsResult) -> String {
    let mut text = format!("counted for {}\n", duration_ms(stats.since_ms));
    let mut rows = Vec::new();
    for (disk, queue) in
        stats.disks.iter().flat_map(|disk| disk.queues.iter().map(move |queue| (disk, queue)))
    {
        for op in &queue.ops {
            rows.push([
                disk.disk.clone(),
                queue.index.to_string(),
                op.op.name().into(),
                op.ios.to_string(),
                format!("{:.1}", op.bytes as f64 / f64::from(1 << 20)),
                op.errors.to_string(),
            ]);
        }
    }
    text += &table(["disk", "queue", "op", "ios", "MiB", "errors"], 3, rows);
    for (disk, queue) in
        stats.disks.iter().flat_map(|disk| disk.queues.iter().map(move |queue| (disk, queue)))
    {
        let per_batch = queue.requests as f64 / queue.batches.max(1) as f64;
        // Writing to a string never fails.
        let _ = writeln!(
            text,
            "{} queue {} on core {}: {} requests, {per_batch:.1} a batch, ring full {}, interrupts {} sent, {} \
             suppressed, {} waits for memory, {} slow; I/Os: {} fixed-buffer, {} bounced, {} polled",
            disk.disk,
            queue.index,
            queue.core,
            queue.requests,
            queue.ring_full,
            queue.interrupts_sent,
            queue.interrupts_suppressed,
            queue.mapping_faults,
            queue.slow,
            queue.backend.fixed_buffer_ios,
            queue.backend.bounced_ios,
            queue.backend.polled_ios,
        );
    }
    text
}

pub(super) fn histograms(result: &api::HistogramsResult) -> String {
    let header = [
        "disk", "queue", "op", "size", "stage", "count", "mean", "p50", "p90", "p99", "p99.9", "p99.99",
        "max",
    ];
    let rows = result.entries.iter().map(|e| {
        [
            e.disk.clone(),
            e.queue.to_string(),
            e.op.name().into(),
            e.class.map_or("-", api::Class::name).into(),
            e.stage.name().into(),
            e.count.to_string(),
            show_ns(e.sum_ns.checked_div(e.count).unwrap_or(0)),
            show_ns(e.p50_ns),
            show_ns(e.p90_ns),
            show_ns(e.p99_ns),
            show_ns(e.p999_ns),
            show_ns(e.p9999_ns),
            show_ns(e.max_ns),
        ]
    });
    format!("counted for {}\n{}", duration_ms(result.since_ms), table(header, 5, rows))
}

pub(super) fn slow(result: &api::SlowResult, last: usize) -> String {
    let mut text = String::new();
    for t in &result.thresholds {
        let how = if t.fixed { "set" } else { "found by itself" };
        let _ =
            writeln!(text, "{} queue {}: slow is over {}, {how}", t.disk, t.queue, show_ns(t.threshold_ns));
    }
    let header = [
        "disk",
        "queue",
        "number",
        "op",
        "ok",
        "age",
        "lba",
        "bytes",
        "in batch",
        "total",
        "pick-up",
        "submit",
        "bdev",
        "return",
        "interrupt",
        "worst",
    ];
    let rows = result.records.iter().take(last).map(|r| {
        [
            r.disk.clone(),
            r.queue.to_string(),
            r.number.to_string(),
            r.op.name().into(),
            yes(r.ok),
            show_ns(r.age_ns),
            r.lba.to_string(),
            r.bytes.to_string(),
            r.batch_position.to_string(),
            show_ns(r.total_ns),
            show_ns(r.stages_ns.pick_up),
            show_ns(r.stages_ns.submit),
            show_ns(r.stages_ns.bdev),
            show_ns(r.stages_ns.back),
            show_ns(r.stages_ns.interrupt),
            r.worst_stage.name().into(),
        ]
    });
    text += &table(header, 5, rows);
    let more = result.records.len().saturating_sub(last);
    if more > 0 {
        let _ = writeln!(text, "and {more} more; --last shows them");
    }
    text
}

pub(super) fn reset(result: &api::ResetResult) -> String {
    format!("counting from now on, after {}\n", duration_ms(result.since_ms))
}

pub(super) fn threshold(result: &api::SetThresholdResult) -> String {
    let what = match result.threshold {
        Threshold::Ns(ns) => format!("over {}", show_ns(ns)),
        Threshold::Auto(_) => "the slowest in a thousand".into(),
    };
    format!("{}: slow is {what}, in {} queue(s)\n", result.disk, result.queues)
}

pub(super) fn log(result: &api::LogLevelResult) -> String {
    format!("logs {}, no longer {}\n", result.filter, result.before)
}
