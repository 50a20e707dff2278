//! One polling thread: opens its queues and takes them through the phases of a run.
//!
//! ```text
//!   open ─► fill (verified reads need something to read) ─► [all threads together] warm up, measure ─► drain
//!        ─► read back (verified writes)
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use nix::sys::resource::{UsageWho, getrusage};
use spinblk_perf::{Clock, Ticks};

use crate::client::{Client, Part, Verifier};
use crate::intervals::{Exchange, Handover};
use crate::picker::Picker;
use crate::run::{Control, Phase};
use crate::sleeper::Sleeper;
use crate::target::{Lane, Op, Target};
use crate::{Completions, Error, Job, LaneOutcome};

/// Empty rounds between two looks at the clock and at who wants the thread to stop.
const ROUNDS_PER_LOOK: u32 = 256;
/// A completion that takes longer will never come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one thread is to do.
pub(crate) struct Assignment<'a> {
    pub(crate) core: usize,
    pub(crate) queues: Vec<u16>,
    pub(crate) blocks_per_queue: u64,
    pub(crate) salt: u64,
    pub(crate) progress: &'a [Arc<CachePadded<AtomicU64>>],
    /// One for each queue, where intervals are asked for.
    pub(crate) exchanges: &'a [Arc<Exchange>],
    pub(crate) control: &'a Control,
}

/// A thread's clients, and when anything last completed.
struct Worker<'a, L> {
    core: usize,
    target_name: &'a str,
    control: &'a Control,
    clients: Vec<Client<L>>,
    /// For interrupts; without one the thread polls.
    sleeper: Option<Sleeper>,
    clock: Clock,
    last_done: Ticks,
}

/// Runs the whole job on the calling thread.
pub(crate) fn work<T: Target>(
    job: &Job,
    target: &T,
    to_do: &Assignment<'_>,
) -> Result<Vec<LaneOutcome>, Error> {
    let core = to_do.core;
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        return Err(Error::Thread {
            core,
            reason: "cannot be pinned to it: it does not exist or is not allowed".into(),
        });
    }
    let clock = Clock::get();
    let clients = open(job, target, to_do)?;
    let sleeper = match job.completions {
        Completions::Poll => None,
        Completions::Interrupt => {
            let sleeper = Sleeper::new(clients.iter().filter_map(Client::interrupt));
            Some(sleeper.map_err(|source| Error::Sleep { core, source })?)
        }
    };
    let mut worker = Worker {
        core,
        target_name: &target.geometry().name,
        control: to_do.control,
        clients,
        sleeper,
        clock,
        last_done: clock.now(),
    };
    if job.verify && !job.writes() {
        to_do.control.enter(Phase::Fill);
        worker.sweep(Op::Write, to_do.blocks_per_queue)?;
    }
    to_do.control.wait_for_all();
    let measured_ns = worker.measure(job, to_do)?;
    if job.verify && job.writes() && !to_do.control.should_stop() {
        to_do.control.enter(Phase::ReadBack);
        worker.sweep(Op::Read, to_do.blocks_per_queue)?;
    }
    let switches = getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches());
    let switches = u64::try_from(switches).unwrap_or(0);
    Ok(worker.clients.into_iter().map(|client| client.finish(core, measured_ns, switches)).collect())
}

fn open<T: Target>(job: &Job, target: &T, to_do: &Assignment<'_>) -> Result<Vec<Client<T::Lane>>, Error> {
    let open_one = |&queue: &u16| {
        let blocks = to_do.blocks_per_queue;
        let part = Part { first_block: u64::from(queue) * blocks, blocks, block_bytes: job.block_bytes };
        let lane = target.open(queue, job.depth, job.block_bytes)?;
        let verifier = job.verify.then(|| Verifier::new(part, to_do.salt));
        let progress = to_do.progress[usize::from(queue)].clone();
        let length_ns =
            job.interval.map_or(u64::MAX, |length| u64::try_from(length.as_nanos()).unwrap_or(u64::MAX));
        let exchange = to_do.exchanges.get(usize::from(queue));
        let handover = exchange.map(|exchange| Handover::new(Arc::clone(exchange), length_ns));
        Ok(Client::new(lane, queue, job.depth, part, verifier, progress, handover))
    };
    to_do.queues.iter().map(open_one).collect()
}

impl<L: Lane> Worker<'_, L> {
    /// The measured part; returns how long it was.
    fn measure(&mut self, job: &Job, to_do: &Assignment<'_>) -> Result<u64, Error> {
        self.last_done = self.clock.now();
        for (client, &queue) in self.clients.iter_mut().zip(&to_do.queues) {
            client.begin(Picker::new(job, queue, to_do.blocks_per_queue))?;
        }
        self.control.enter(Phase::WarmUp);
        self.run_for(job.warmup)?;
        self.control.enter(Phase::Measure);
        let began = self.clock.now();
        self.clients.iter_mut().for_each(|client| client.begin_recording(began));
        let ended = self.run_for(job.time)?;
        self.clients.iter_mut().for_each(|client| client.end_recording());
        self.drain(false)?;
        Ok(self.clock.ns_between(began, ended))
    }

    /// Keeps all slots busy for so long, or until it is to stop. Returns when that was.
    fn run_for(&mut self, time: Duration) -> Result<Ticks, Error> {
        let began = self.clock.now();
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut idle_rounds = 0;
        loop {
            let mut now = self.round(true)?;
            if now.is_none() {
                now = self.idle(&mut idle_rounds)?;
            }
            if let Some(now) = now
                && (self.clock.ns_between(began, now) >= time_ns || self.control.should_stop())
            {
                return Ok(now);
            }
        }
    }

    /// One pass of `op` over all blocks, or until it is to stop.
    fn sweep(&mut self, op: Op, blocks: u64) -> Result<(), Error> {
        self.last_done = self.clock.now();
        self.clients.iter_mut().try_for_each(|client| client.begin(Picker::sweep(op, blocks)))?;
        self.drain(true)
    }

    /// Goes on until nothing is in flight; starts more only if `refill`, and then only until it is to stop.
    fn drain(&mut self, refill: bool) -> Result<(), Error> {
        let mut idle_rounds = 0;
        while self.in_flight() > 0 {
            let refill = refill && !self.control.should_stop();
            if self.round(refill)?.is_none() {
                self.idle(&mut idle_rounds)?;
            }
        }
        Ok(())
    }

    /// One look at each queue. Returns the clock if anything had completed.
    #[inline]
    fn round(&mut self, refill: bool) -> Result<Option<Ticks>, Error> {
        let mut latest = None;
        for client in &mut self.clients {
            if let Some(now) = client.step(refill)? {
                self.last_done = now;
                latest = Some(now);
            }
        }
        Ok(latest)
    }

    /// After a round that found nothing: sleeps, or looks up now and then. Returns the clock if it looked.
    #[inline]
    fn idle(&mut self, rounds: &mut u32) -> Result<Option<Ticks>, Error> {
        if self.sleeper.is_some() {
            self.sleep()?;
            return self.look().map(Some);
        }
        *rounds += 1;
        if *rounds < ROUNDS_PER_LOOK {
            return Ok(None);
        }
        *rounds = 0;
        self.look().map(Some)
    }

    /// Sleeps until a queue interrupts, or for a moment. What completes before all queues have been asked to
    /// interrupt is seen by the asking, and what completes later interrupts: no wake-up is lost.
    fn sleep(&mut self) -> Result<(), Error> {
        let Some(sleeper) = &self.sleeper else { return Ok(()) };
        if self.clients.iter_mut().all(Client::arm) {
            sleeper.wait().map_err(|source| Error::Sleep { core: self.core, source })?;
        }
        self.clients.iter_mut().for_each(Client::disarm);
        Ok(())
    }

    /// Reads the clock, and gives up when nothing comes any more or another thread has failed.
    fn look(&self) -> Result<Ticks, Error> {
        let now = self.clock.now();
        let in_flight = self.in_flight();
        if in_flight > 0 && self.clock.ns_between(self.last_done, now) > PATIENCE.as_nanos() as u64 {
            let (target, seconds) = (self.target_name.into(), PATIENCE.as_secs());
            return Err(Error::Stalled { target, in_flight, seconds });
        }
        if self.control.has_failed() {
            return Err(Error::Gone { target: self.target_name.into() });
        }
        Ok(now)
    }

    fn in_flight(&self) -> usize {
        self.clients.iter().map(Client::in_flight).sum()
    }
}

/// Adds up what the clients have recorded so far.
pub(crate) fn total(progress: &[Arc<CachePadded<AtomicU64>>]) -> u64 {
    progress.iter().map(|count| count.load(Ordering::Relaxed)).sum()
}
