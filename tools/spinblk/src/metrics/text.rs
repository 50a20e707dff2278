//! The metrics of all disks and reactors.

use std::sync::atomic::Ordering;

use spinblk_perf::{Latency, OpKind, OpSnapshot, QueueSnapshot};

use super::format::{Labels, Text, seconds};
use crate::api::StageName;
use crate::control::{State, latency_of};

/// The bounds of latency buckets: powers of two from 1 µs to 8.6 s, where the boards' own buckets end too, so that
/// none is split. A bucket holds what is less, so its inclusive bound is one nanosecond below.
const BOUNDS: std::ops::RangeInclusive<u32> = 10..=33;

/// A counter of a queue: its name, what it counts, and where it stands.
type QueueCounter = (&'static str, &'static str, fn(&QueueSnapshot) -> u64);

const QUEUE_COUNTERS: &[QueueCounter] = &[
    ("spinblk_requests_total", "Requests taken from the avail ring.", |queue| queue.requests),
    ("spinblk_batches_total", "Polls that took at least one request.", |queue| queue.batches),
    ("spinblk_ring_full_total", "Batches after which the ring was full.", |queue| queue.ring_full),
    ("spinblk_interrupts_sent_total", "Interrupts sent.", |queue| queue.interrupts_sent),
    ("spinblk_interrupts_suppressed_total", "Batches that the driver wanted no interrupt for.", |queue| {
        queue.interrupts_suppressed
    }),
    ("spinblk_mapping_faults_total", "Times that a queue waited for memory to be mapped.", |queue| {
        queue.mapping_faults
    }),
    ("spinblk_slow_requests_total", "Slow requests.", |queue| queue.slow),
    ("spinblk_fixed_buffer_ios_total", "Backend I/Os through registered buffers.", |queue| {
        queue.backend.fixed_buffer_ios
    }),
    ("spinblk_bounced_ios_total", "Backend I/Os that were copied.", |queue| queue.backend.bounced_ios),
    ("spinblk_polled_ios_total", "Backend I/Os completed by polling the device.", |queue| {
        queue.backend.polled_ios
    }),
    ("spinblk_backend_retries_total", "Backend operations sent again.", |queue| queue.backend.retries),
    (
        "spinblk_backend_no_space_total",
        "Backend operations that failed because the target is full.",
        |queue| queue.backend.no_space,
    ),
    ("spinblk_backend_failures_total", "Backend operations that the target failed in other ways.", |queue| {
        queue.backend.target_failures
    }),
];

/// A counter of one kind of request.
type OpCounter = (&'static str, &'static str, fn(&OpSnapshot) -> u64);

const OP_COUNTERS: &[OpCounter] = &[
    ("spinblk_ios_total", "Requests done, failed ones included.", |op| op.ios),
    ("spinblk_io_bytes_total", "Bytes of data of the requests that succeeded.", |op| op.bytes),
    ("spinblk_io_errors_total", "Requests that failed.", |op| op.errors),
];

/// One queue, read once, so that all its figures are of one moment.
struct QueueRead<'a> {
    disk: &'a str,
    queue: String,
    core: String,
    snapshot: QueueSnapshot,
}

/// Everything as text.
#[must_use]
pub fn render(state: &State) -> String {
    let mut text = Text::default();
    let queues: Vec<QueueRead<'_>> = state
        .disks
        .iter()
        .flat_map(|disk| disk.queues.iter().map(move |queue| (disk, queue)))
        .map(|(disk, queue)| QueueRead {
            disk: &disk.name,
            queue: queue.index.to_string(),
            core: queue.core.to_string(),
            snapshot: queue.board.snapshot(),
        })
        .collect();
    write_program(&mut text, state);
    write_queues(&mut text, &queues);
    write_ops(&mut text, &queues);
    write_latencies(&mut text, state, &queues);
    write_reactors(&mut text, state);
    text.0
}

fn write_program(text: &mut Text, state: &State) {
    text.family("spinblk_build_info", "gauge", "The program's version.");
    text.sample("spinblk_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.family("spinblk_disk_size_bytes", "gauge", "Size of the disk.");
    for disk in &state.disks {
        text.sample("spinblk_disk_size_bytes", &[("disk", &disk.name)], disk.bdev.info().size_bytes());
    }
    text.family("spinblk_disk_attached", "gauge", "Whether a driver or client has the disk.");
    for disk in &state.disks {
        let attached = u8::from(disk.attached.load(Ordering::Relaxed));
        text.sample("spinblk_disk_attached", &[("disk", &disk.name)], attached);
    }
}

fn write_queues(text: &mut Text, queues: &[QueueRead<'_>]) {
    for (name, help, value) in QUEUE_COUNTERS {
        text.family(name, "counter", help);
        for QueueRead { disk, queue, core, snapshot } in queues {
            text.sample(name, &[("disk", disk), ("queue", queue), ("core", core)], value(snapshot));
        }
    }
}

fn write_ops(text: &mut Text, queues: &[QueueRead<'_>]) {
    for (name, help, value) in OP_COUNTERS {
        text.family(name, "counter", help);
        for QueueRead { disk, queue, snapshot, .. } in queues {
            for kind in OpKind::ALL {
                // Reads and writes stand there by size.
                let sum = snapshot.ops.iter().filter(|op| op.kind == kind).map(value).sum::<u64>();
                text.sample(name, &[("disk", disk), ("queue", queue), ("op", kind.name())], sum);
            }
        }
    }
}

fn write_latencies(text: &mut Text, state: &State, queues: &[QueueRead<'_>]) {
    let name = "spinblk_request_duration_seconds";
    text.family(name, "histogram", "Latency of requests, and of each stage of their way.");
    for disk in &state.disks {
        for kind in OpKind::ALL {
            for stage in StageName::ALL {
                let mut sum = Latency::new();
                let of_disk = queues.iter().filter(|queue| queue.disk == disk.name);
                let ops = of_disk.flat_map(|queue| &queue.snapshot.ops).filter(|op| op.kind == kind);
                ops.for_each(|op| sum.merge(latency_of(op, stage)));
                // Of what never happened there is no series.
                if sum.count() > 0 {
                    let labels = [("disk", disk.name.as_str()), ("op", kind.name()), ("stage", stage.name())];
                    write_histogram(text, name, &labels, &sum);
                }
            }
        }
    }
}

fn write_histogram(text: &mut Text, name: &str, labels: Labels<'_>, latency: &Latency) {
    let bucket = format!("{name}_bucket");
    let with_bound = |bound: &str, count: u64, text: &mut Text| {
        let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound)]).collect();
        text.sample(&bucket, &labels, count);
    };
    let mut values =
        latency.histogram().into_iter().flat_map(|histogram| histogram.iter_recorded()).peekable();
    let mut count = 0;
    for power in BOUNDS {
        let bound_ns = (1 << power) - 1;
        while let Some(value) = values.next_if(|value| value.value_iterated_to() <= bound_ns) {
            count += value.count_since_last_iteration();
        }
        with_bound(&seconds(bound_ns), count, text);
    }
    with_bound("+Inf", latency.count(), text);
    text.sample(&format!("{name}_sum"), labels, seconds(latency.sum_ns));
    text.sample(&format!("{name}_count"), labels, latency.count());
}

fn write_reactors(text: &mut Text, state: &State) {
    let reactors: Vec<_> =
        state.reactors.iter().map(|read| read()).map(|reactor| (reactor.core.to_string(), reactor)).collect();
    let mut family = |name: &str, kind, help, value: &dyn Fn(&crate::api::ReactorInfo) -> String| {
        text.family(name, kind, help);
        for (core, reactor) in &reactors {
            text.sample(name, &[("core", core)], value(reactor));
        }
    };
    family("spinblk_reactor_busy_seconds_total", "counter", "Time in iterations that did something.", &|r| {
        seconds(r.busy_ns)
    });
    family("spinblk_reactor_idle_seconds_total", "counter", "Time in iterations that did nothing.", &|r| {
        seconds(r.idle_ns)
    });
    family("spinblk_reactor_iterations_total", "counter", "Iterations.", &|r| r.iterations.to_string());
    family("spinblk_reactor_enters_total", "counter", "Calls of io_uring_enter.", &|r| r.enters.to_string());
    let help = "The longest iteration in which something was done.";
    family("spinblk_reactor_longest_iteration_seconds", "gauge", help, &|r| seconds(r.longest_iteration_ns));
}
