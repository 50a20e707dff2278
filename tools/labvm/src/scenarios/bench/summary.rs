//! Medians with their spread, as a table for people and as JSON for programs.

use super::{DEPTHS, QUEUE_SIZE, QUEUES, Sample, TARGETS, Target};
use crate::fail::Fail;
use crate::lab::Lab;
use crate::spread::Spread;
use crate::state::text_of;
use serde::Serialize;
use std::fmt::Write;

/// The whole comparison.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    kernel: String,
    accelerator: String,
    cpus: usize,
    repeats: usize,
    runtime_s: u64,
    queues: u32,
    queue_size: u32,
    rows: Vec<Row>,
    ratios: Ratios,
    samples: &'a [Sample],
}

#[derive(Serialize)]
struct Row {
    target: Target,
    depth: u32,
    iops: Spread,
    p50_us: Spread,
    p99_us: Spread,
}

/// spinblk against qemu-storage-daemon.
#[derive(Serialize)]
struct Ratios {
    iops_depth_32: f64,
    p50_depth_1: f64,
}

impl<'a> Summary<'a> {
    pub(super) fn of(
        lab: &Lab,
        samples: &'a [Sample],
        repeats: usize,
        runtime_s: u64,
    ) -> Result<Summary<'a>, Fail> {
        let rows: Vec<Row> =
            TARGETS.iter().flat_map(|target| DEPTHS.map(|depth| Row::of(samples, *target, depth))).collect();
        Ok(Summary {
            kernel: text_of("/proc/sys/kernel/osrelease"),
            accelerator: lab.setting("accel", "unknown".to_owned())?,
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            repeats,
            runtime_s,
            queues: QUEUES,
            queue_size: QUEUE_SIZE,
            ratios: Ratios {
                iops_depth_32: ratio(&rows, 32, |row| row.iops.median),
                p50_depth_1: ratio(&rows, 1, |row| row.p50_us.median),
            },
            rows,
            samples,
        })
    }

    pub(super) fn json(&self) -> Result<String, Fail> {
        serde_json::to_string_pretty(self)
            .map_err(|source| Fail::Json { what: "the summary".to_owned(), source })
    }

    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "fio 4k randread, {} s each, median of {} repeats (min-max); {} queues of {}; Linux {} under {}, {} CPUs\n",
            self.runtime_s,
            self.repeats,
            self.queues,
            self.queue_size,
            self.kernel,
            self.accelerator,
            self.cpus
        );
        let _ = writeln!(text, "| target | depth | IOPS | p50 us | p99 us |\n|---|---:|---:|---:|---:|");
        for Row { target, depth, iops, p50_us, p99_us } in &self.rows {
            let (iops, p50, p99) = (iops.text(0), p50_us.text(1), p99_us.text(1));
            let _ = writeln!(text, "| {} | {depth} | {iops} | {p50} | {p99} |", target.label());
        }
        let Ratios { iops_depth_32, p50_depth_1 } = self.ratios;
        let _ = writeln!(
            text,
            "\nspinblk / qemu-storage-daemon: {iops_depth_32:.2}x the IOPS at depth 32, {p50_depth_1:.2}x the p50 at depth 1"
        );
        text
    }
}

impl Row {
    fn of(samples: &[Sample], target: Target, depth: u32) -> Row {
        let of = |value: fn(&Sample) -> f64| {
            Spread::of(samples.iter().filter(|s| s.target == target && s.depth == depth).map(value))
        };
        Row { target, depth, iops: of(|s| s.iops), p50_us: of(|s| s.p50_us), p99_us: of(|s| s.p99_us) }
    }
}

impl Target {
    fn label(self) -> &'static str {
        match self {
            Target::Spinblk => "spinblk null",
            Target::Qsd => "qemu-storage-daemon null-co",
            Target::Ublk => "ublk null (rublk)",
            Target::NullBlk => "null_blk (ceiling)",
        }
    }
}

fn ratio(rows: &[Row], depth: u32, value: fn(&Row) -> f64) -> f64 {
    let of =
        |target| rows.iter().find(|row| row.target == target && row.depth == depth).map_or(f64::NAN, value);
    of(Target::Spinblk) / of(Target::Qsd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_compare_spinblk_with_its_peer() {
        let sample = |target, depth, iops| Sample { target, depth, iops, p50_us: 10.0, p99_us: 20.0 };
        let samples = [sample(Target::Spinblk, 32, 300.0), sample(Target::Qsd, 32, 100.0)];
        let rows: Vec<Row> =
            [Target::Spinblk, Target::Qsd].map(|target| Row::of(&samples, target, 32)).into();
        assert_eq!(ratio(&rows, 32, |row| row.iops.median), 3.0);
        assert!(ratio(&rows, 1, |row| row.iops.median).is_nan());
    }
}
