//! What is shown, made from two samples; knows nothing of screens.
//!
//! ```text
//!   before ──┐
//!            ├── less what came before, by the time in between ──► View: disks, their queues and stages, reactors
//!   now ─────┘
//! ```
//! Without a sample before, or after the daemon was told to count anew, the figures are averages since it counts.

use std::time::Duration;

use spinblk_perf::Stage;

use super::sample::{Sample, Times};
use crate::api::{self, ReactorInfo};

/// More slow requests of a disk than this are for `ctl slow`.
const NEWEST: usize = 20;

/// All that can be shown.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// What time the figures are of.
    pub(super) span: Duration,
    /// Whether that is all the time since the daemon counts.
    pub(super) is_since_start: bool,
    pub(super) disks: Vec<Disk>,
    pub(super) reactors: Vec<Reactor>,
}

/// What was done in the time, and how fast.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) iops: f64,
    pub(super) bytes_per_s: f64,
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
    pub(super) p999_ns: u64,
}

/// A disk.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) name: String,
    pub(super) attached: bool,
    pub(super) rates: Rates,
    /// Failed requests, in the time and since the daemon counts.
    pub(super) new_errors: u64,
    pub(super) errors: u64,
    pub(super) queues: Vec<Queue>,
    /// In their order; none without requests.
    pub(super) stages: Vec<StageTime>,
    /// The latest first.
    pub(super) slow: Vec<api::SlowRecord>,
}

/// A queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) index: u16,
    pub(super) core: usize,
    pub(super) rates: Rates,
    /// Requests to a batch; 0 without any.
    pub(super) batch: f64,
    /// Batches after which the ring was full.
    pub(super) ring_full: u64,
    pub(super) interrupts_per_s: f64,
}

/// A stage of a disk's requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StageTime {
    pub(super) name: &'static str,
    /// Over all requests, also those that skipped it.
    pub(super) mean_ns: u64,
    /// Of the mean of all stages, 0 to 1.
    pub(super) share: f64,
    pub(super) p99_ns: u64,
    pub(super) max_ns: u64,
}

/// A reactor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reactor {
    pub(super) core: usize,
    /// 0 to 1; `None` where it has published nothing new.
    pub(super) busy: Option<f64>,
    pub(super) iterations_per_s: f64,
    /// Since it was started.
    pub(super) longest_iteration_ns: u64,
}

impl View {
    /// What happened between two samples.
    pub(super) fn new(before: Option<&Sample>, now: &Sample) -> Self {
        let before = before.filter(|before| now.at.continues(&before.at));
        let span = match before {
            Some(before) => now.at.answered.saturating_duration_since(before.at.answered),
            None => now.at.counted,
        };
        let disks = now.disks.iter().map(|disk| disk_view(disk, before, now, span));
        let reactor = |now: &ReactorInfo| {
            let same = |other: &&ReactorInfo| other.core == now.core;
            reactor_view(before.and_then(|before| before.reactors.iter().find(same)), now, span)
        };
        Self {
            span,
            is_since_start: before.is_none(),
            disks: disks.collect(),
            reactors: now.reactors.iter().map(reactor).collect(),
        }
    }
}

fn per_s(count: u64, span: Duration) -> f64 {
    if span.is_zero() { 0.0 } else { count as f64 / span.as_secs_f64() }
}

fn disk_view(disk: &api::DiskInfo, before: Option<&Sample>, now: &Sample, span: Duration) -> Disk {
    let (mut times, mut sums, mut errors, mut earlier_errors) = (Times::default(), (0, 0), 0, 0);
    let mut queues = Vec::new();
    for queue in queues_of(now, &disk.name) {
        let earlier = before.and_then(|before| {
            queues_of(before, &disk.name).into_iter().find(|other| other.index == queue.index)
        });
        let of_queue = new_times(before, now, &disk.name, queue.index);
        let (ios, bytes) = new_ios(earlier, queue);
        queues.push(queue_view(earlier, queue, rates(ios, bytes, &of_queue, span), span));
        times.merge(&of_queue);
        sums = (sums.0 + ios, sums.1 + bytes);
        errors += errors_of(queue);
        earlier_errors += earlier.map_or(0, errors_of);
    }
    Disk {
        name: disk.name.clone(),
        attached: disk.attached,
        rates: rates(sums.0, sums.1, &times, span),
        new_errors: errors.saturating_sub(earlier_errors),
        errors,
        queues,
        stages: stages(&times),
        slow: now.slow.iter().filter(|record| record.disk == disk.name).take(NEWEST).cloned().collect(),
    }
}

fn queues_of<'a>(sample: &'a Sample, disk: &str) -> Vec<&'a api::QueueStats> {
    sample.stats.iter().filter(|stats| stats.disk == disk).flat_map(|stats| &stats.queues).collect()
}

fn errors_of(queue: &api::QueueStats) -> u64 {
    queue.ops.iter().map(|op| op.errors).sum()
}

fn new_times(before: Option<&Sample>, now: &Sample, disk: &str, queue: u16) -> Times {
    let key = (disk.to_string(), queue);
    let times = now.times.get(&key).cloned().unwrap_or_default();
    before
        .and_then(|before| before.times.get(&key))
        .map_or_else(|| times.clone(), |before| times.since(before))
}

/// Requests and bytes.
fn new_ios(before: Option<&api::QueueStats>, now: &api::QueueStats) -> (u64, u64) {
    let sum = |queue: &api::QueueStats, count: fn(&api::OpCounts) -> u64| -> u64 {
        queue.ops.iter().map(count).sum()
    };
    let new = |count| sum(now, count).saturating_sub(before.map_or(0, |before| sum(before, count)));
    (new(|op| op.ios), new(|op| op.bytes))
}

fn rates(ios: u64, bytes: u64, times: &Times, span: Duration) -> Rates {
    Rates {
        iops: per_s(ios, span),
        bytes_per_s: per_s(bytes, span),
        p50_ns: times.total.at_quantile(0.5),
        p99_ns: times.total.at_quantile(0.99),
        p999_ns: times.total.at_quantile(0.999),
    }
}

fn queue_view(
    before: Option<&api::QueueStats>,
    now: &api::QueueStats,
    rates: Rates,
    span: Duration,
) -> Queue {
    let new = |count: fn(&api::QueueStats) -> u64| count(now).saturating_sub(before.map_or(0, count));
    let batches = new(|queue| queue.batches);
    Queue {
        index: now.index,
        core: now.core,
        rates,
        batch: new(|queue| queue.requests) as f64 / batches.max(1) as f64,
        ring_full: new(|queue| queue.ring_full),
        interrupts_per_s: per_s(new(|queue| queue.interrupts_sent), span),
    }
}

fn stages(times: &Times) -> Vec<StageTime> {
    let requests = times.total.count();
    let all_ns: u64 = times.stages.iter().map(|stage| stage.sum_ns).sum();
    if requests == 0 {
        return Vec::new();
    }
    let stage = |stage: Stage| {
        let latency = &times.stages[stage as usize];
        StageTime {
            name: stage.name(),
            mean_ns: latency.sum_ns / requests,
            share: latency.sum_ns as f64 / all_ns.max(1) as f64,
            p99_ns: latency.at_quantile(0.99),
            max_ns: latency.at_quantile(1.0),
        }
    };
    Stage::ALL.into_iter().map(stage).collect()
}

fn reactor_view(before: Option<&ReactorInfo>, now: &ReactorInfo, span: Duration) -> Reactor {
    let new = |count: fn(&ReactorInfo) -> u64| count(now).saturating_sub(before.map_or(0, count));
    let (busy_ns, idle_ns) = (new(|reactor| reactor.busy_ns), new(|reactor| reactor.idle_ns));
    let all_ns = busy_ns.saturating_add(idle_ns);
    Reactor {
        core: now.core,
        busy: (all_ns > 0).then(|| busy_ns as f64 / all_ns as f64),
        // Those that it counts since it was started are of another time than the disks' figures.
        iterations_per_s: if before.is_some() { per_s(new(|reactor| reactor.iterations), span) } else { 0.0 },
        longest_iteration_ns: now.longest_iteration_ns,
    }
}
