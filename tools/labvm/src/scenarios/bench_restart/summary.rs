//! The kills in figures, as a table for people and as JSON for programs.

use super::{QUEUE_SIZE, QUEUES, Sample, TARGETS, Target};
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
    rows: Vec<Row>,
    ratios: [Ratio; 3],
    samples: &'a [Sample],
}

#[derive(Serialize)]
struct Row {
    target: Target,
    gone_ms: Spread,
    first_io_ms: Spread,
    most_starts: u32,
}

/// spinblk's time until the first I/O over qemu-storage-daemon's, taken within each repeat.
#[derive(Serialize)]
struct Ratio {
    disk: &'static str,
    first_io: Spread,
}

impl<'a> Summary<'a> {
    pub(super) fn of(lab: &Lab, samples: &'a [Sample], repeats: usize) -> Result<Summary<'a>, Fail> {
        Ok(Summary {
            kernel: text_of("/proc/sys/kernel/osrelease"),
            accelerator: lab.setting("accel", "unknown".to_owned())?,
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            repeats,
            rows: TARGETS.iter().map(|target| Row::of(samples, *target)).collect(),
            ratios: [
                Ratio::of("nothing behind it", samples, Target::SpinblkNull, Target::QsdNull),
                Ratio::of("the same, small bounce region", samples, Target::SpinblkSmall, Target::QsdNull),
                Ratio::of("a block device behind it", samples, Target::SpinblkAio, Target::QsdBlock),
            ],
            samples,
        })
    }

    pub(super) fn json(&self) -> Result<String, Fail> {
        serde_json::to_string_pretty(self)
            .map_err(|source| Fail::Json { what: "the summary".to_owned(), source })
    }

    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        let Summary { repeats, kernel, accelerator, cpus, .. } = self;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "kill -9 under reads of 4 KiB, started again at once; median of {repeats} repeats (min-max); {QUEUES} queues of \
             {QUEUE_SIZE}; Linux {kernel} under {accelerator}, {cpus} CPUs\n"
        );
        let _ = writeln!(text, "| target | kill to gone, ms | kill to first I/O, ms | starts, at most |");
        let _ = writeln!(text, "|---|---:|---:|---:|");
        for Row { target, gone_ms, first_io_ms, most_starts } in &self.rows {
            let (gone, first_io) = (gone_ms.text(0), first_io_ms.text(0));
            let _ = writeln!(text, "| {} | {gone} | {first_io} | {most_starts} |", target.label());
        }
        for Ratio { disk, first_io } in &self.ratios {
            let ratio = first_io.text(2);
            let _ = writeln!(
                text,
                "\nspinblk / qemu-storage-daemon, {disk}: {ratio} of the time to the first I/O"
            );
        }
        text
    }
}

impl Row {
    fn of(samples: &[Sample], target: Target) -> Row {
        let own = || samples.iter().filter(move |sample| sample.target == target);
        Row {
            target,
            gone_ms: Spread::of(own().map(|sample| sample.gone_ms)),
            first_io_ms: Spread::of(own().map(|sample| sample.first_io_ms)),
            most_starts: own().map(|sample| sample.starts).max().unwrap_or(0),
        }
    }
}

impl Ratio {
    fn of(disk: &'static str, samples: &[Sample], ours: Target, theirs: Target) -> Ratio {
        let of = |target| samples.iter().filter(move |sample| sample.target == target);
        let ratios = of(ours).filter_map(|our| {
            let their = of(theirs).find(|their| their.repeat == our.repeat)?;
            Some(our.first_io_ms / their.first_io_ms)
        });
        Ratio { disk, first_io: Spread::of(ratios) }
    }
}

impl Target {
    fn label(self) -> &'static str {
        match self {
            Target::SpinblkNull => "spinblk null",
            Target::SpinblkSmall => "spinblk null, bounce region of 8 MiB",
            Target::QsdNull => "qemu-storage-daemon null-co, vduse-blk",
            Target::SpinblkAio => "spinblk aio on a block device",
            Target::QsdBlock => "qemu-storage-daemon host_device (io_uring), vduse-blk",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_repeat() {
        let sample =
            |target, repeat, first_io_ms| Sample { target, repeat, gone_ms: 1.0, first_io_ms, starts: 1 };
        let samples = [
            sample(Target::SpinblkNull, 0, 100.0),
            sample(Target::SpinblkNull, 1, 900.0),
            sample(Target::QsdNull, 1, 300.0),
            sample(Target::QsdNull, 0, 200.0),
        ];
        let ratio = Ratio::of("", &samples, Target::SpinblkNull, Target::QsdNull);
        assert_eq!(ratio.first_io.text(2), "1.75 (0.50-3.00)");
        assert_eq!(Row::of(&samples, Target::QsdNull).first_io_ms.median, 250.0);
    }
}
