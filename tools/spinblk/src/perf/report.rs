//! What a load found out, as numbers: the shape of the JSON, from which the text is made too.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use spinblk_load::{Completions, Geometry, Job, LaneOutcome, Outcome, VerifyCounts};
use spinblk_perf::{Clock, OpStats};

use crate::config::{show_cores, show_size};
use crate::report::show_ns;

const HEADER: [&str; 12] =
    ["", "IOPS", "MB/s", "errors", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "p99.999", "max"];

/// The results of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The target, as it was given.
    pub target: String,
    /// Its size.
    pub size_bytes: u64,
    /// The pattern, as it was given.
    pub rw: &'static str,
    /// Reads among a hundred requests.
    pub read_percent: u8,
    /// Bytes of each request.
    pub block_bytes: u32,
    /// Requests in flight on each queue.
    pub depth: u32,
    /// The target's rings, if it has any.
    pub ring: Option<Ring>,
    /// How completions were found: `poll` or `interrupt`.
    pub completions: &'static str,
    /// Cores that polled.
    pub cores: Vec<usize>,
    /// Load before measuring.
    pub warmup_s: f64,
    /// How long was to be measured.
    pub time_s: f64,
    /// Whether a signal ended it early.
    pub stopped_early: bool,
    /// What time stamps come from: `tsc` or `clock_gettime`.
    pub clock: &'static str,
    /// All queues together: `read`, `write` and `all`.
    pub ops: BTreeMap<&'static str, OpReport>,
    /// One for each queue.
    pub queues: Vec<QueueReport>,
    /// What the check of contents found.
    pub verify: Option<VerifyReport>,
    /// The first request that failed.
    pub first_fault: Option<String>,
}

/// What the target's rings were like.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ring {
    /// `split` or `packed`.
    pub format: &'static str,
    /// Whether descriptors were indirect.
    pub indirect: bool,
}

/// One kind of operation.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OpReport {
    /// Completed requests in a second.
    pub iops: f64,
    /// Megabytes (1,000,000 bytes) moved in a second.
    pub mb_per_s: f64,
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
    /// 99.99th percentile.
    pub p9999_ns: u64,
    /// 99.999th percentile.
    pub p99999_ns: u64,
    /// Longest latency.
    pub max_ns: u64,
}

/// What one queue did.
#[derive(Clone, Debug, Serialize)]
pub struct QueueReport {
    /// Its number.
    pub index: u16,
    /// The core that polled it.
    pub core: usize,
    /// How long it was measured.
    pub elapsed_ns: u64,
    /// `read`, `write` and `all`.
    pub ops: BTreeMap<&'static str, OpReport>,
    /// Polls that found completions.
    pub batches: u64,
    /// Notifications sent to the device, from the beginning.
    pub kicks: u64,
    /// Interrupts from the device, from the beginning.
    pub interrupts: u64,
    /// How often its thread was taken off the core, from the beginning.
    pub involuntary_switches: u64,
}

/// What the check of contents found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyReport {
    /// Blocks stamped and written.
    pub written: u64,
    /// Blocks read and compared.
    pub checked: u64,
    /// Blocks that held something else.
    pub mismatches: u64,
    /// The first of them.
    pub first: Option<String>,
}

impl Report {
    /// Sums up a run.
    #[must_use]
    pub fn new(
        target: &str,
        rw: &'static str,
        job: &Job,
        ring: Option<Ring>,
        geometry: &Geometry,
        outcome: &Outcome,
    ) -> Self {
        Self {
            target: target.into(),
            size_bytes: geometry.size_bytes,
            rw,
            read_percent: job.read_percent,
            block_bytes: job.block_bytes,
            depth: job.depth,
            ring,
            completions: job.completions.name(),
            cores: job.cores.clone(),
            warmup_s: job.warmup.as_secs_f64(),
            time_s: job.time.as_secs_f64(),
            stopped_early: outcome.stopped_early,
            clock: Clock::get().source(),
            ops: ops(&outcome.lanes),
            queues: outcome.lanes.iter().map(QueueReport::new).collect(),
            verify: verify(&outcome.lanes),
            first_fault: outcome.lanes.iter().find_map(|lane| lane.first_fault.clone()),
        }
    }

    /// What was wrong, in one line, if anything was.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        if let Some(VerifyReport { mismatches, checked, first: Some(first), .. }) = &self.verify {
            return Some(format!("{mismatches} of {checked} checked blocks are wrong; the first: {first}"));
        }
        let first = self.first_fault.as_ref()?;
        let errors = self.ops.get("all").map_or(0, |all| all.errors);
        Some(format!("requests failed ({errors} of them while measuring); the first: {first}"))
    }
}

/// Reads, writes and both, over some queues. A rate is the sum of the queues' own.
fn ops(lanes: &[LaneOutcome]) -> BTreeMap<&'static str, OpReport> {
    type Select = fn(&LaneOutcome) -> OpStats;
    let kinds: [(&'static str, Select); 3] = [
        ("read", |lane| lane.reads.clone()),
        ("write", |lane| lane.writes.clone()),
        ("all", LaneOutcome::all),
    ];
    let report = |(name, select): (&'static str, Select)| {
        let (mut sum, mut iops, mut bytes_per_s) = (OpStats::new(), 0.0, 0.0);
        for lane in lanes {
            let (stats, seconds) = (select(lane), lane.elapsed_ns.max(1) as f64 / 1e9);
            iops += stats.ios as f64 / seconds;
            bytes_per_s += stats.bytes as f64 / seconds;
            sum.merge(&stats);
        }
        (name, OpReport::new(&sum, iops, bytes_per_s))
    };
    kinds.into_iter().map(report).filter(|(name, op)| *name == "all" || op.ios > 0).collect()
}

fn verify(lanes: &[LaneOutcome]) -> Option<VerifyReport> {
    let add = |mut sum: VerifyReport, counts: &VerifyCounts| {
        sum.written += counts.written;
        sum.checked += counts.checked;
        sum.mismatches += counts.mismatches;
        sum.first = sum.first.or_else(|| counts.first.clone());
        sum
    };
    let mut counts = lanes.iter().filter_map(|lane| lane.verify.as_ref()).peekable();
    counts.peek()?;
    Some(counts.fold(VerifyReport::default(), add))
}

impl OpReport {
    fn new(stats: &OpStats, iops: f64, bytes_per_s: f64) -> Self {
        let p = stats.percentiles();
        Self {
            iops,
            mb_per_s: bytes_per_s / 1e6,
            ios: stats.ios,
            bytes: stats.bytes,
            errors: stats.errors,
            min_ns: p.min_ns,
            mean_ns: p.mean_ns,
            p50_ns: p.p50_ns,
            p90_ns: p.p90_ns,
            p99_ns: p.p99_ns,
            p999_ns: p.p999_ns,
            p9999_ns: p.p9999_ns,
            p99999_ns: p.p99999_ns,
            max_ns: p.max_ns,
        }
    }

    fn row(&self, name: &str) -> Vec<String> {
        let mut row = vec![
            name.into(),
            format!("{:.0}", self.iops),
            format!("{:.1}", self.mb_per_s),
            self.errors.to_string(),
        ];
        let latencies = [
            self.mean_ns,
            self.p50_ns,
            self.p90_ns,
            self.p99_ns,
            self.p999_ns,
            self.p9999_ns,
            self.p99999_ns,
            self.max_ns,
        ];
        row.extend(latencies.map(show_ns));
        row
    }
}

impl QueueReport {
    fn new(lane: &LaneOutcome) -> Self {
        Self {
            index: lane.queue,
            core: lane.core,
            elapsed_ns: lane.elapsed_ns,
            ops: ops(std::slice::from_ref(lane)),
            batches: lane.batches,
            kicks: lane.kicks,
            interrupts: lane.interrupts,
            involuntary_switches: lane.involuntary_switches,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let early = if self.stopped_early { " (stopped early)" } else { "" };
        let ring = self.ring.map(|ring| {
            format!(", {} ring{}", ring.format, if ring.indirect { " with indirect descriptors" } else { "" })
        });
        let asleep =
            if self.completions == Completions::Interrupt.name() { ", woken by interrupts" } else { "" };
        writeln!(
            f,
            "{} ({}): {} {}, {} queue(s) of depth {}{}, core {}, {} s{asleep}{early}",
            self.target,
            show_size(self.size_bytes),
            self.rw,
            show_size(self.block_bytes.into()),
            self.queues.len(),
            self.depth,
            ring.unwrap_or_default(),
            show_cores(&self.cores),
            self.time_s,
        )?;
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(HEADER);
        // The sum says nothing new where there is only one kind.
        let shown: &[&str] = if self.ops.len() == 2 { &["read", "write"] } else { &["read", "write", "all"] };
        for name in shown {
            if let Some(op) = self.ops.get(name) {
                table.add_row(op.row(name));
            }
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        writeln!(f, "{}", table.trim_fmt())?;
        for queue in &self.queues {
            let all = queue.ops.get("all");
            let (iops, ios) = all.map_or((0.0, 0), |all| (all.iops, all.ios));
            let per_batch = ios as f64 / queue.batches.max(1) as f64;
            writeln!(
                f,
                "queue {} on core {}: {iops:.0} IOPS, {per_batch:.1} completions a batch, {} kicks, \
                 {} interrupts, {} involuntary switches",
                queue.index, queue.core, queue.kicks, queue.interrupts, queue.involuntary_switches
            )?;
        }
        match &self.verify {
            Some(v) => writeln!(
                f,
                "verify: {} blocks written, {} checked, {} wrong",
                v.written, v.checked, v.mismatches
            ),
            None => Ok(()),
        }
    }
}
