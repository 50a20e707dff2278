//! What was served, as numbers: the shape of the JSON report, from which the text is made too.

mod text;

pub(crate) use text::show_ns;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use spinblk_perf::{BackendCounters, Clock, Latency, OpKind, OpSnapshot, QueueSnapshot, Stage};

use crate::Error;
use crate::replace::{folder, replace};
use crate::transport::{DiskReport as ExportReport, QueueReport as ExportQueue};

/// The report of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What time stamps come from: `tsc` or `clock_gettime`.
    pub clock: &'static str,
    /// One for each disk: those that were removed meanwhile, then the others in the order of the configuration.
    pub disks: Vec<DiskReport>,
    /// One for each reactor.
    pub reactors: Vec<ReactorReport>,
    /// What went wrong at the end, in words.
    pub problems: Vec<String>,
}

/// What one disk did.
#[derive(Clone, Debug, Serialize)]
pub struct DiskReport {
    /// Its name.
    pub name: String,
    /// Its device node, such as `/dev/vda`.
    pub block_device: Option<PathBuf>,
    /// Whether its bounce region was our own memory.
    pub umem: bool,
    /// What its backend did, all queues together.
    #[serde(flatten)]
    pub backend: BackendReport,
    /// By the name of the operation: `read`, `write`, `flush`, `discard`, `write_zeroes`, `other`.
    pub ops: BTreeMap<&'static str, OpReport>,
    /// One for each virtqueue.
    pub queues: Vec<QueueReport>,
}

/// One kind of operation on one disk, all queues together.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OpReport {
    /// Requests completed, failed ones included.
    pub ios: u64,
    /// Payload of those that succeeded.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Shortest latency.
    pub min_ns: u64,
    /// Mean latency.
    pub mean_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// Longest latency.
    pub max_ns: u64,
    /// What all requests took together.
    pub sum_ns: u64,
    /// Where the time went.
    pub stages: StagesReport,
}

/// Where the time of one kind of operation went; see [`spinblk_perf::Stage`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StagesReport {
    /// In the avail ring, not seen yet, at most.
    pub pick_up: StageReport,
    /// Seen, and on the way to the block device.
    pub submit: StageReport,
    /// With the block device.
    pub bdev: StageReport,
    /// Done, and on the way to the used ring.
    #[serde(rename = "return")]
    pub returning: StageReport,
    /// In the used ring, before the interrupt.
    pub interrupt: StageReport,
}

/// One stage.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StageReport {
    /// Requests that passed it.
    pub ios: u64,
    /// What it took all of them together.
    pub sum_ns: u64,
    /// Mean time.
    pub mean_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// Longest time.
    pub max_ns: u64,
}

/// What one virtqueue did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct QueueReport {
    /// Its number on the disk.
    pub index: u16,
    /// The core that served it.
    pub core: usize,
    /// Requests taken from it.
    pub requests: u64,
    /// Polls that took at least one.
    pub batches: u64,
    /// Interrupts injected.
    pub interrupts_sent: u64,
    /// Batches for which the driver wanted none.
    pub interrupts_suppressed: u64,
    /// What its backend did for it.
    #[serde(flatten)]
    pub backend: BackendReport,
    /// Waits for the control thread to map memory.
    pub mapping_faults: u64,
}

/// How a backend did its I/Os.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BackendReport {
    /// Through registered buffers.
    pub fixed_buffer_ios: u64,
    /// Copied, as the target did not take their memory.
    pub bounced_ios: u64,
    /// Completed by polling the device.
    pub polled_ios: u64,
    /// Operations sent again.
    pub retries: u64,
    /// Failed because the target is full.
    pub no_space: u64,
    /// Failed by the target in other ways.
    pub target_failures: u64,
}

/// How one reactor spent its time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ReactorReport {
    /// Its core.
    pub core: usize,
    /// Time in iterations that did something.
    pub busy_ns: u64,
    /// Time in iterations that did nothing.
    pub idle_ns: u64,
    /// Iterations.
    pub iterations: u64,
    /// The longest iteration that did something.
    pub longest_iteration_ns: u64,
    /// io_uring_enter calls.
    pub enters: u64,
}

impl Report {
    /// Sums up what the transport and the reactors tell.
    #[must_use]
    pub fn new(disks: Vec<DiskReport>, reactors: Vec<ReactorReport>, problems: Vec<String>) -> Self {
        Self { clock: Clock::get().source(), disks, reactors, problems }
    }

    /// Writes it as JSON: readers see the old file or the whole new one, never a part.
    ///
    /// # Errors
    /// [`Error::Report`].
    pub fn write_json(&self, path: &Path) -> Result<(), Error> {
        write_json(self, path)
    }
}

impl DiskReport {
    /// Sums up what one disk's transport tells; numbers only, which outlive its queues.
    #[must_use]
    pub fn new(export: &ExportReport) -> Self {
        let mut sum = QueueSnapshot::default();
        export.queues.iter().for_each(|queue| sum.merge(&queue.board.snapshot()));
        Self {
            name: export.name.clone(),
            block_device: export.device_path.clone(),
            umem: export.umem,
            backend: BackendReport::new(&sum.backend),
            ops: OpKind::ALL
                .into_iter()
                .map(|kind| (kind.name(), OpReport::new(&sum.of_kind(kind))))
                .collect(),
            queues: export.queues.iter().map(QueueReport::new).collect(),
        }
    }
}

impl OpReport {
    fn new(op: &OpSnapshot) -> Self {
        let at = |quantile| op.total.at_quantile(quantile);
        Self {
            ios: op.ios,
            bytes: op.bytes,
            errors: op.errors,
            min_ns: at(0.0),
            mean_ns: op.total.mean_ns(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: at(1.0),
            sum_ns: op.total.sum_ns,
            stages: StagesReport::new(&op.stages),
        }
    }
}

impl StagesReport {
    fn new(stages: &[Latency; 5]) -> Self {
        let stage = |stage: Stage| {
            let latency = &stages[stage as usize];
            StageReport {
                ios: latency.count(),
                sum_ns: latency.sum_ns,
                mean_ns: latency.mean_ns(),
                p50_ns: latency.at_quantile(0.5),
                p99_ns: latency.at_quantile(0.99),
                max_ns: latency.at_quantile(1.0),
            }
        };
        Self {
            pick_up: stage(Stage::PickUp),
            submit: stage(Stage::Submit),
            bdev: stage(Stage::Bdev),
            returning: stage(Stage::Return),
            interrupt: stage(Stage::Interrupt),
        }
    }
}

impl QueueReport {
    fn new(queue: &ExportQueue) -> Self {
        let stats = queue.board.snapshot();
        Self {
            index: queue.index,
            core: queue.core,
            requests: stats.requests,
            batches: stats.batches,
            interrupts_sent: stats.interrupts_sent,
            interrupts_suppressed: stats.interrupts_suppressed,
            backend: BackendReport::new(&stats.backend),
            mapping_faults: stats.mapping_faults,
        }
    }
}

impl BackendReport {
    fn new(counters: &BackendCounters) -> Self {
        Self {
            fixed_buffer_ios: counters.fixed_buffer_ios,
            bounced_ios: counters.bounced_ios,
            polled_ios: counters.polled_ios,
            retries: counters.retries,
            no_space: counters.no_space,
            target_failures: counters.target_failures,
        }
    }
}

/// Writes any report as JSON: readers see the old file or the whole new one, never a part.
pub(crate) fn write_json(report: &impl Serialize, path: &Path) -> Result<(), Error> {
    // As any file that the user makes: the umask decides who reads it.
    let written = replace(path, 0o666, |file| {
        serde_json::to_writer_pretty(&mut *file, report)?;
        writeln!(file)
    });
    written.map_err(|source| Error::Report { path: path.into(), source })
}

/// Finds out now whether the report can be written at the end, after hours of measuring.
pub(crate) fn check_writable(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Report { path: path.into(), source };
    // The report replaces what is there, which must not be a device or a directory.
    if path.file_name().is_none() || (path.exists() && !path.is_file()) {
        return Err(failed(std::io::Error::other("not a regular file")));
    }
    tempfile::tempfile_in(folder(path)).map(drop).map_err(failed)
}

#[cfg(test)]
mod tests;
