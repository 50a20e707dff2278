//! Methods that tell what was measured.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spinblk_perf::{BATCH_CLASSES, BackendCounters};

use super::{Class, Method, Op, StageName};

/// Tells counters.
#[derive(Debug)]
pub enum Stats {}

impl Method for Stats {
    const NAME: &'static str = "stats";
    const ABOUT: &'static str = "Tells the counters of disks and queues since the last `reset`.";
    type Params = StatsParams;
    type Result = StatsResult;
}

/// Which queues are asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StatsParams {
    /// This disk only.
    pub disk: Option<String>,
    /// The queue of this number only.
    pub queue: Option<u16>,
}

/// The counters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatsResult {
    /// How long they have been counted: since the last `reset`, or since the disks are served.
    pub since_ms: u64,
    /// One for each disk.
    pub disks: Vec<DiskStats>,
}

/// One disk's counters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskStats {
    /// The disk.
    pub disk: String,
    /// One for each queue.
    pub queues: Vec<QueueStats>,
}

/// One queue's counters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueueStats {
    /// The queue.
    pub index: u16,
    /// The core that serves it.
    pub core: usize,
    /// Requests taken from the avail ring.
    pub requests: u64,
    /// Polls that took at least one.
    pub batches: u64,
    /// Batches by size: 1, 2-3, 4-7, ... 64 and more.
    pub batch_sizes: [u64; BATCH_CLASSES],
    /// Batches after which the ring was full.
    pub ring_full: u64,
    /// Interrupts sent.
    pub interrupts_sent: u64,
    /// Batches that the driver wanted no interrupt for.
    pub interrupts_suppressed: u64,
    /// Times that the queue waited for memory to be mapped.
    pub mapping_faults: u64,
    /// Slow requests.
    pub slow: u64,
    /// How the block device did them.
    pub backend: BackendStats,
    /// By what they did; only those that there were.
    pub ops: Vec<OpCounts>,
}

/// How a block device did its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackendStats {
    /// Through registered (fixed) buffers.
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

impl From<BackendCounters> for BackendStats {
    fn from(counters: BackendCounters) -> Self {
        let BackendCounters { fixed_buffer_ios, bounced_ios, polled_ios, retries, no_space, target_failures } =
            counters;
        Self { fixed_buffer_ios, bounced_ios, polled_ios, retries, no_space, target_failures }
    }
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OpCounts {
    /// What they did.
    pub op: Op,
    /// Requests, failed ones included.
    pub ios: u64,
    /// Bytes of data of those that succeeded.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// Tells latencies.
#[derive(Debug)]
pub enum Histograms {}

impl Method for Histograms {
    const NAME: &'static str = "histograms";
    const ABOUT: &'static str =
        "Tells latencies since the last `reset`, by disk, queue, operation, size and stage.";
    type Params = HistogramsParams;
    type Result = HistogramsResult;
}

/// Which latencies are asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HistogramsParams {
    /// This disk only.
    pub disk: Option<String>,
    /// The queue of this number only.
    pub queue: Option<u16>,
    /// This operation only.
    pub op: Option<Op>,
    /// Reads and writes of this size only.
    pub class: Option<Class>,
    /// This stage only.
    pub stage: Option<StageName>,
    /// With the whole histograms.
    pub raw: bool,
}

/// The latencies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistogramsResult {
    /// How long they have been counted: since the last `reset`, or since the disks are served.
    pub since_ms: u64,
    /// Only those that hold something.
    pub entries: Vec<HistogramEntry>,
}

/// The latency of one stage of the requests of one kind and size in one queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistogramEntry {
    /// The disk.
    pub disk: String,
    /// The queue.
    pub queue: u16,
    /// What the requests did.
    pub op: Op,
    /// Their size; null for operations that have none.
    pub class: Option<Class>,
    /// The stage.
    pub stage: StageName,
    /// Requests.
    pub count: u64,
    /// Sum of their latencies, exact.
    pub sum_ns: u64,
    /// The shortest. This and the others are off by 0.8 % at most.
    pub min_ns: u64,
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
    /// The longest.
    pub max_ns: u64,
    /// With `raw`: the histogram in HdrHistogram's format V2, compressed, in base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub histogram: Option<String>,
}

/// Tells the last slow requests.
#[derive(Debug)]
pub enum Slow {}

impl Method for Slow {
    const NAME: &'static str = "slow";
    const ABOUT: &'static str = "Tells the last slow requests of each queue, with the time of every stage.";
    type Params = SlowParams;
    type Result = SlowResult;
}

/// Which slow requests are asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SlowParams {
    /// This disk only.
    pub disk: Option<String>,
    /// The queue of this number only.
    pub queue: Option<u16>,
    /// This operation only.
    pub op: Option<Op>,
    /// Those after the one of this number. Queues number their own, so `disk` and `queue` must be given too.
    pub since: Option<u64>,
}

/// The slow requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlowResult {
    /// What is slow in each queue.
    pub thresholds: Vec<SlowThreshold>,
    /// The latest first.
    pub records: Vec<SlowRecord>,
}

/// From when on a request of a queue is slow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlowThreshold {
    /// The disk.
    pub disk: String,
    /// The queue.
    pub queue: u16,
    /// Slow is what took longer.
    pub threshold_ns: u64,
    /// Whether it was set; otherwise it finds the slowest in a thousand by itself.
    pub fixed: bool,
}

/// One slow request; or several of one batch that the block device did at once and together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SlowRecord {
    /// The disk.
    pub disk: String,
    /// The queue.
    pub queue: u16,
    /// The core that served it.
    pub core: usize,
    /// Its number; each queue counts from 1.
    pub number: u64,
    /// How long ago it was seen.
    pub age_ns: u64,
    /// What it did.
    pub op: Op,
    /// Whether it succeeded.
    pub ok: bool,
    /// Where on the disk; the first one's place of several.
    pub offset_bytes: u64,
    /// The same in blocks of the disk.
    pub lba: u64,
    /// How long, each.
    pub bytes: u64,
    /// How many they are.
    pub requests: u32,
    /// How many stood before it in its batch.
    pub batch_position: u32,
    /// What each stage took.
    pub stages_ns: StageTimes,
    /// What all took together.
    pub total_ns: u64,
    /// The stage that took longest.
    pub worst_stage: StageName,
}

/// What each stage took, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageTimes {
    /// In the avail ring, at most.
    pub pick_up: u64,
    /// Read, checked and handed to the block device.
    pub submit: u64,
    /// With the block device.
    pub bdev: u64,
    /// Until the used ring showed it.
    #[serde(rename = "return")]
    pub back: u64,
    /// Until the interrupt was sent; 0 where none was.
    pub interrupt: u64,
}

impl From<[u64; 5]> for StageTimes {
    /// In the order of [`spinblk_perf::Stage::ALL`].
    fn from([pick_up, submit, bdev, back, interrupt]: [u64; 5]) -> Self {
        Self { pick_up, submit, bdev, back, interrupt }
    }
}
