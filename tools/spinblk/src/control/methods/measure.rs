//! What was measured: boards as they are, less what they said at the last reset.

use std::cmp::Reverse;

use spinblk_perf::{Clock, Latency, OpKind, OpSnapshot, SlowIo, Ticks};

use super::{Handle, Selection};
use crate::api;
use crate::control::rpc::RpcError;
use crate::control::state::{Disk, Queue, State};

impl Handle for api::Stats {
    fn handle(params: api::StatsParams, state: &mut State) -> Result<api::StatsResult, RpcError> {
        let selection = Selection::new(params.disk.as_deref(), params.queue, state)?;
        let disk = |disk: &Disk| api::DiskStats {
            disk: disk.name.clone(),
            queues: selection.queues_of(disk).map(queue_stats).collect(),
        };
        Ok(api::StatsResult { since_ms: state.since_ms(), disks: selection.disks(state).map(disk).collect() })
    }
}

fn queue_stats(queue: &Queue) -> api::QueueStats {
    let new = queue.since_reset();
    api::QueueStats {
        index: queue.index,
        core: queue.core,
        requests: new.requests,
        batches: new.batches,
        batch_sizes: new.batch_sizes,
        ring_full: new.ring_full,
        interrupts_sent: new.interrupts_sent,
        interrupts_suppressed: new.interrupts_suppressed,
        mapping_faults: new.mapping_faults,
        slow: new.slow,
        backend: new.backend.into(),
        ops: OpKind::ALL.into_iter().filter_map(|kind| op_counts(kind, &new.ops)).collect(),
    }
}

/// All sizes of one kind together.
fn op_counts(kind: OpKind, ops: &[OpSnapshot]) -> Option<api::OpCounts> {
    let mut sum = api::OpCounts { op: kind.into(), ios: 0, bytes: 0, errors: 0 };
    for op in ops.iter().filter(|op| op.kind == kind) {
        sum.ios += op.ios;
        sum.bytes += op.bytes;
        sum.errors += op.errors;
    }
    (sum.ios > 0).then_some(sum)
}

impl Handle for api::Histograms {
    fn handle(params: api::HistogramsParams, state: &mut State) -> Result<api::HistogramsResult, RpcError> {
        let selection = Selection::new(params.disk.as_deref(), params.queue, state)?;
        let mut entries = Vec::new();
        for (disk, queue) in selection.queues(state) {
            let new = queue.since_reset();
            let wanted = |op: &&OpSnapshot| {
                params.op.is_none_or(|wanted| wanted == op.kind.into())
                    && params.class.is_none_or(|wanted| op.class.map(Into::into) == Some(wanted))
            };
            for op in new.ops.iter().filter(wanted) {
                let stages = api::StageName::ALL.into_iter();
                for stage in stages.filter(|stage| params.stage.is_none_or(|wanted| wanted == *stage)) {
                    entries.extend(histogram_entry(disk, queue, op, stage, params.raw));
                }
            }
        }
        Ok(api::HistogramsResult { since_ms: state.since_ms(), entries })
    }
}

/// `None` where nothing was recorded.
fn histogram_entry(
    disk: &Disk,
    queue: &Queue,
    op: &OpSnapshot,
    stage: api::StageName,
    raw: bool,
) -> Option<api::HistogramEntry> {
    let latency = latency_of(op, stage);
    let at = |quantile| latency.at_quantile(quantile);
    (latency.count() > 0).then(|| api::HistogramEntry {
        disk: disk.name.clone(),
        queue: queue.index,
        op: op.kind.into(),
        class: op.class.map(Into::into),
        stage,
        count: latency.count(),
        sum_ns: latency.sum_ns,
        min_ns: at(0.0),
        p50_ns: at(0.5),
        p90_ns: at(0.9),
        p99_ns: at(0.99),
        p999_ns: at(0.999),
        p9999_ns: at(0.9999),
        max_ns: at(1.0),
        histogram: latency.histogram().filter(|_| raw).and_then(api::encode_histogram),
    })
}

pub(crate) fn latency_of(op: &OpSnapshot, stage: api::StageName) -> &Latency {
    stage.stage().map_or(&op.total, |stage| &op.stages[stage as usize])
}

impl Handle for api::Slow {
    fn handle(params: api::SlowParams, state: &mut State) -> Result<api::SlowResult, RpcError> {
        if params.since.is_some() && (params.disk.is_none() || params.queue.is_none()) {
            let reason = "each queue numbers its own: give `disk` and `queue`, too";
            return Err(RpcError::param("since", reason));
        }
        let selection = Selection::new(params.disk.as_deref(), params.queue, state)?;
        let (mut thresholds, mut records) = (Vec::new(), Vec::new());
        let now = Clock::get().now();
        for (disk, queue) in selection.queues(state) {
            let log = &queue.board.slow;
            let (threshold_ns, fixed) = log.threshold();
            let (name, index) = (disk.name.clone(), queue.index);
            thresholds.push(api::SlowThreshold { disk: name, queue: index, threshold_ns, fixed });
            let new = log.read().into_iter().filter(|(number, _)| *number > params.since.unwrap_or(0));
            let records_of_queue = new.map(|(number, io)| slow_record(disk, queue, number, &io, now));
            records.extend(records_of_queue.filter(|record| params.op.is_none_or(|op| op == record.op)));
        }
        records.sort_by_key(|record| (record.age_ns, Reverse(record.number)));
        Ok(api::SlowResult { thresholds, records })
    }
}

fn slow_record(disk: &Disk, queue: &Queue, number: u64, io: &SlowIo, now: Ticks) -> api::SlowRecord {
    api::SlowRecord {
        disk: disk.name.clone(),
        queue: queue.index,
        core: queue.core,
        number,
        age_ns: Clock::get().ns_between(io.seen, now),
        op: io.kind.into(),
        ok: io.ok,
        offset_bytes: io.offset_bytes,
        lba: io.offset_bytes / u64::from(disk.bdev.info().block_size),
        bytes: io.bytes,
        requests: io.requests,
        batch_position: io.batch_position,
        stages_ns: io.stages_ns.into(),
        total_ns: io.total_ns,
        worst_stage: io.worst_stage().into(),
    }
}
