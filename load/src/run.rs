//! Starts the threads of a run, watches them and the target, and gathers what they found.
//!
//! Contract: the calling thread leaves the polling cores alone; it wakes a few times a second. The first error ends
//! the run for all threads and is the one returned.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use spinblk_perf::OpStats;

use crate::intervals::{Exchange, Interval};
use crate::worker::{Assignment, total, work};
use crate::{Error, Job, LaneOutcome, Outcome, Target};

/// How often the target is looked at and the watcher told.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// What a run is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Opening queues.
    Start,
    /// Writing all blocks, so that verified reads find something.
    Fill,
    /// Load that does not count.
    WarmUp,
    /// Load that counts.
    Measure,
    /// Reading back what was written.
    ReadBack,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Start, Self::Fill, Self::WarmUp, Self::Measure, Self::ReadBack];
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What it is busy with.
    pub phase: Phase,
    /// Requests counted so far.
    pub ios: u64,
    /// Intervals that have ended since the last look, where the job asks for them.
    pub intervals: &'a [Interval],
}

/// What the threads and their watcher tell each other. Nothing of it is written on the hot path.
#[derive(Debug)]
pub(crate) struct Control {
    stop: AtomicBool,
    failed: AtomicBool,
    phase: AtomicU8,
    threads: usize,
    arrived: AtomicUsize,
}

impl Control {
    fn new(threads: usize) -> Self {
        Self {
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            phase: AtomicU8::new(0),
            threads,
            arrived: AtomicUsize::new(0),
        }
    }

    /// Whether to finish now, for whatever reason.
    #[inline]
    pub(crate) fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether something went wrong, so that nothing should be waited for.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Tells the watcher what a thread is busy with.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Waits until every thread has come here, or the run is to stop.
    pub(crate) fn wait_for_all(&self) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        while self.arrived.load(Ordering::Relaxed) < self.threads && !self.should_stop() {
            std::thread::yield_now();
        }
    }

    fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
    }

    fn phase(&self) -> Phase {
        Phase::ALL.get(usize::from(self.phase.load(Ordering::Relaxed))).copied().unwrap_or(Phase::Start)
    }
}

/// Fails the run when its thread unwinds.
struct FailOnPanic<'a>(&'a Control);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail();
        }
    }
}

/// Does `job` to `target`. `watch` is called a few times a second and may end the run early. A job with intervals calls it
/// once more at the end, with the last of them.
///
/// # Errors
/// [`Error::Job`] before anything starts; else whatever went wrong first. Failed requests and wrong contents are no
/// errors but part of the [`Outcome`].
pub fn run<T: Target>(
    job: &Job,
    target: &T,
    watch: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<Outcome, Error> {
    let blocks_per_queue = job.blocks_per_queue(target.geometry())?;
    let control = Control::new(job.cores.len());
    let progress: Vec<_> = (0..job.queues).map(|_| Arc::new(CachePadded::new(AtomicU64::new(0)))).collect();
    let exchanges: Vec<_> = match job.interval {
        Some(_) => (0..job.queues).map(|queue| Arc::new(Exchange::new(queue))).collect(),
        None => Vec::new(),
    };
    let mut gathered = Gathered::new(&exchanges);
    let salt = salt(job.seed);
    spinblk_reactor::off_reactor_cores(&job.cores);
    std::thread::scope(|scope| {
        let spawn = |(at, &core): (usize, &usize)| {
            let queues = (0..job.queues).skip(at).step_by(job.cores.len()).collect();
            let to_do = Assignment {
                core,
                queues,
                blocks_per_queue,
                salt,
                progress: &progress,
                exchanges: &exchanges,
                control: &control,
            };
            let body = move || {
                let _guard = FailOnPanic(to_do.control);
                work(job, target, &to_do).inspect_err(|_| to_do.control.fail())
            };
            std::thread::Builder::new()
                .name(format!("load-{core}"))
                .spawn_scoped(scope, body)
                .map(|thread| (core, thread))
                .inspect_err(|_| control.fail())
                .map_err(|e| Error::Thread { core, reason: format!("cannot start a thread: {e}") })
        };
        let threads: Vec<_> = job.cores.iter().enumerate().map(spawn).collect();
        let all_started = threads.into_iter().collect::<Result<Vec<_>, _>>()?;
        let watched = watch_until_done(&control, target, &progress, &all_started, &mut gathered, watch);
        let lanes = gather(all_started);
        // A target that is gone makes the threads fail, too; its own error says more.
        let stopped_early = watched?;
        let mut lanes = lanes?;
        if job.interval.is_some() {
            gathered.collect();
            gathered.finish(&mut lanes);
            // The run is over, so there is nothing left to end.
            let _ =
                watch(&Progress { phase: control.phase(), ios: total(&progress), intervals: &gathered.new });
        }
        Ok(Outcome { lanes, stopped_early })
    })
}

type Thread<'scope> = (usize, ScopedJoinHandle<'scope, Result<Vec<LaneOutcome>, Error>>);

/// Returns whether the watcher ended the run early.
fn watch_until_done<T: Target>(
    control: &Control,
    target: &T,
    progress: &[Arc<CachePadded<AtomicU64>>],
    threads: &[Thread<'_>],
    gathered: &mut Gathered<'_>,
    watch: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
) -> Result<bool, Error> {
    let mut stopped_early = false;
    while threads.iter().any(|(_, thread)| !thread.is_finished()) {
        std::thread::sleep(WATCH_INTERVAL);
        target.check().inspect_err(|_| control.fail())?;
        gathered.collect();
        let seen = Progress { phase: control.phase(), ios: total(progress), intervals: &gathered.new };
        if watch(&seen).is_break() {
            stopped_early = true;
            control.stop.store(true, Ordering::Relaxed);
        }
        gathered.give_back();
    }
    Ok(stopped_early)
}

/// Intervals as they come, and the sum of those that went.
struct Gathered<'a> {
    exchanges: &'a [Arc<Exchange>],
    new: Vec<Interval>,
    /// Of each queue, reads and writes.
    sums: Vec<(OpStats, OpStats)>,
}

impl<'a> Gathered<'a> {
    fn new(exchanges: &'a [Arc<Exchange>]) -> Self {
        let sums = exchanges.iter().map(|_| (OpStats::new(), OpStats::new())).collect();
        // Each queue has one interval on its way, and one more at the end.
        Self { exchanges, new: Vec::with_capacity(2 * exchanges.len()), sums }
    }

    fn collect(&mut self) {
        self.new.extend(self.exchanges.iter().filter_map(|exchange| exchange.take()));
    }

    fn give_back(&mut self) {
        for interval in self.new.drain(..) {
            let queue = usize::from(interval.queue);
            let (reads, writes) = &mut self.sums[queue];
            reads.merge(&interval.reads);
            writes.merge(&interval.writes);
            self.exchanges[queue].give_back(interval);
        }
    }

    /// Makes the lanes whole, and adds the last interval of each.
    fn finish(&mut self, lanes: &mut [LaneOutcome]) {
        let before_last = self.new.len();
        for lane in lanes.iter() {
            self.new.push(Interval {
                queue: lane.queue,
                began_ns: lane.last_began_ns,
                ended_ns: lane.elapsed_ns.max(lane.last_began_ns),
                reads: lane.reads.clone(),
                writes: lane.writes.clone(),
            });
        }
        for lane in lanes {
            let (reads, writes) = &self.sums[usize::from(lane.queue)];
            lane.reads.merge(reads);
            lane.writes.merge(writes);
            for interval in self.new[..before_last].iter().filter(|interval| interval.queue == lane.queue) {
                lane.reads.merge(&interval.reads);
                lane.writes.merge(&interval.writes);
            }
        }
    }
}

fn gather(threads: Vec<Thread<'_>>) -> Result<Vec<LaneOutcome>, Error> {
    let mut lanes = Vec::new();
    let mut first_error = None;
    for (core, thread) in threads {
        let ended = thread.join().unwrap_or_else(|_| {
            Err(Error::Thread { core, reason: "its thread has died; the message above says why".into() })
        });
        match ended {
            Ok(of_thread) => lanes.extend(of_thread),
            // The others ended because of the first that was not told to.
            Err(e) if first_error.is_none() || !matches!(e, Error::Gone { .. }) => first_error = Some(e),
            Err(_) => {}
        }
    }
    lanes.sort_by_key(|lane| lane.queue);
    first_error.map_or(Ok(lanes), Err)
}

/// Tells this run's blocks from those of any other.
fn salt(seed: u64) -> u64 {
    let since_epoch = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as u64);
    seed ^ since_epoch.rotate_left(32) ^ u64::from(std::process::id())
}
