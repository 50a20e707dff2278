//! The loop: jobs, pollers, ring, again.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spinblk_perf::{Clock, Ticks};
use tracing::error;

use crate::thread::Job;
use crate::{IdlePolicy, Mailbox, Ring, Watch};

/// Jobs taken per iteration: a flood of control work must not hold up I/O.
const JOBS_PER_ITERATION: usize = 4;
/// Counters reach other threads once in this many iterations, and at the end (a power of two).
const PUBLISH_EVERY: u64 = 1024;
/// A poller that was quiet for so many iterations is looked at less often while others are busy, ...
const COLD_AFTER: u64 = 1024;
/// ... namely in one iteration of so many (a power of two).
const COLD_STRIDE: u64 = 4;
/// Idle iterations before the core is left to its hyper-thread sibling for a moment in each.
const REST_AFTER: u32 = 1024;
/// Idle iterations between two looks at the clock, before the core rests (a power of two). So many take well under a
/// microsecond; when more than `STALL_NS` lies between the looks, the thread was not running.
const LOOK_EVERY: u32 = 16;
const STALL_NS: u64 = 20_000;

/// Whether a call did anything; feeds the busy/idle account and the idle policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing to do.
    Idle,
    /// Something was done.
    Busy,
    /// Nothing is left to do, ever: the reactor closes the poller and drops it.
    Finished,
}

/// Something that a reactor calls in every iteration.
pub trait Poller: Any {
    /// Does a bounded amount of work; never blocks, allocates or locks.
    fn poll(&mut self, reactor: &mut Core) -> Progress;

    /// What to look at instead of polling, now that a poll found nothing to do; `None` to be polled in any case.
    fn watch(&self) -> Option<Watch> {
        None
    }

    /// Asked again and again, between polls, while the reactor stops: take nothing new, return true as soon as
    /// nothing is in flight.
    fn quiesce(&mut self) -> bool;

    /// Gives back what it registered with the ring. Called once, when it is quiet, before it is dropped.
    fn close(&mut self, ring: &mut Ring);
}

/// Names a poller of one reactor; never names another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollerId {
    place: usize,
    generation: u64,
}

struct Place {
    /// Looked at instead of polling, and since which iteration.
    watch: Option<Watch>,
    watched_since: u64,
    generation: u64,
    poller: Box<dyn Poller>,
}

impl Place {
    /// Whether the poller need not be called in this iteration.
    #[inline]
    fn is_quiet(&self, index: usize, iteration: u64, core_is_busy: bool) -> bool {
        let Some(watch) = &self.watch else { return false };
        let cold = core_is_busy && iteration.wrapping_sub(self.watched_since) > COLD_AFTER;
        if cold && (iteration ^ index as u64) & (COLD_STRIDE - 1) != 0 {
            return true;
        }
        watch.is_quiet()
    }
}

/// What pollers get to see of their reactor.
pub struct Core {
    /// The core's io_uring.
    pub ring: Ring,
    /// The clock that `now` comes from.
    pub clock: Clock,
    /// When this iteration found something to poll.
    pub now: Ticks,
    /// When the iteration before this one began, if it was long enough to matter, else `now`: what this iteration finds
    /// came after that. Also where the thread did not run for a while, whatever it was at. (Pollers that have been quiet for long are looked at in every fourth iteration of a busy core.)
    pub looked: Ticks,
}

/// How a reactor spends its time; published by it every thousand iterations, readable by anyone.
#[derive(Debug, Default)]
pub struct ReactorCounters {
    busy_ticks: AtomicU64,
    idle_ticks: AtomicU64,
    iterations: AtomicU64,
    longest_ticks: AtomicU64,
    enters: AtomicU64,
}

impl ReactorCounters {
    /// Nanoseconds of iterations in which something was done.
    #[must_use]
    pub fn busy_ns(&self) -> u64 {
        Clock::get().to_ns(self.busy_ticks.load(Ordering::Relaxed))
    }
    /// Nanoseconds of iterations in which nothing was to do.
    #[must_use]
    pub fn idle_ns(&self) -> u64 {
        Clock::get().to_ns(self.idle_ticks.load(Ordering::Relaxed))
    }
    /// Iterations so far.
    #[must_use]
    pub fn iterations(&self) -> u64 {
        self.iterations.load(Ordering::Relaxed)
    }
    /// Nanoseconds of the longest iteration so far in which something was done.
    #[must_use]
    pub fn longest_ns(&self) -> u64 {
        Clock::get().to_ns(self.longest_ticks.load(Ordering::Relaxed))
    }
    /// io_uring_enter calls so far.
    #[must_use]
    pub fn enters(&self) -> u64 {
        self.enters.load(Ordering::Relaxed)
    }
}

/// One core's loop and all that belongs to it. Jobs get it whole.
pub struct Reactor {
    /// What pollers see.
    pub core: Core,
    pollers: Vec<Option<Place>>,
    next_generation: u64,
    mailbox: Arc<Mailbox<Job>>,
    counters: Arc<ReactorCounters>,
    policy: IdlePolicy,
    busy_ticks: u64,
    idle_ticks: u64,
    longest_ticks: u64,
    iterations: u64,
    /// Whether the last iteration did anything, and how many did not since.
    was_busy: bool,
    idle_streak: u32,
    stall_ticks: Ticks,
    ring_errors: u64,
    /// When to give up waiting for pollers, in nanoseconds of the clock.
    stop_at_ns: Option<u64>,
}

impl Reactor {
    pub(crate) fn new(
        ring: Ring,
        mailbox: Arc<Mailbox<Job>>,
        counters: Arc<ReactorCounters>,
        policy: IdlePolicy,
    ) -> Self {
        let clock = Clock::get();
        Self {
            core: Core { ring, clock, now: clock.now(), looked: clock.now() },
            pollers: Vec::new(),
            next_generation: 0,
            mailbox,
            counters,
            policy,
            busy_ticks: 0,
            idle_ticks: 0,
            longest_ticks: 0,
            iterations: 0,
            was_busy: false,
            idle_streak: 0,
            stall_ticks: clock.to_ticks(STALL_NS),
            ring_errors: 0,
            stop_at_ns: None,
        }
    }

    /// Adds a poller; it is called from the next iteration on. Control path.
    pub fn add(&mut self, poller: Box<dyn Poller>) -> PollerId {
        let generation = self.next_generation;
        self.next_generation += 1;
        let place = self.pollers.iter().position(Option::is_none).unwrap_or(self.pollers.len());
        if place == self.pollers.len() {
            self.pollers.push(None);
        }
        self.pollers[place] = Some(Place { watch: None, watched_since: 0, generation, poller });
        PollerId { place, generation }
    }

    /// The poller `id`, if it is still there and is a `P`, together with the core. Control path.
    pub fn poller<P: Poller>(&mut self, id: PollerId) -> Option<(&mut P, &mut Core)> {
        let place = self.pollers.get_mut(id.place)?.as_mut()?;
        if place.generation != id.generation {
            return None;
        }
        let poller: &mut dyn Any = &mut *place.poller;
        Some((poller.downcast_mut()?, &mut self.core))
    }

    /// Closes the poller `id` and hands it back, if it is still there, is a `P` and is quiet.
    pub fn remove<P: Poller>(&mut self, id: PollerId) -> Option<Box<P>> {
        if !self.poller::<P>(id)?.0.quiesce() {
            return None;
        }
        let mut poller = self.pollers[id.place].take()?.poller;
        poller.close(&mut self.core.ring);
        let any: Box<dyn Any> = poller;
        any.downcast().ok()
    }

    /// Ends the loop: at once when all pollers are quiet, and after `grace_ns` in any case.
    pub fn stop(&mut self, grace_ns: u64) {
        let clock = self.core.clock;
        self.stop_at_ns = Some(clock.to_ns(clock.now()).saturating_add(grace_ns));
    }

    /// Runs until stopped.
    pub(crate) fn run(&mut self) {
        self.core.now = self.core.clock.now();
        loop {
            match self.iterate() {
                Progress::Busy | Progress::Finished => {
                    self.was_busy = true;
                    self.idle_streak = 0;
                }
                Progress::Idle => self.rest(),
            }
            self.iterations += 1;
            if self.iterations & (PUBLISH_EVERY - 1) == 0 {
                self.stamp();
                self.publish();
            }
            if self.stop_at_ns.is_some() && self.stopped() {
                break;
            }
        }
        self.finish();
    }

    #[inline]
    fn rest(&mut self) {
        // An idle core has the time to look at the clock, too: it notices that the kernel has stopped it.
        if self.was_busy || self.is_resting() || self.idle_streak & (LOOK_EVERY - 1) == 0 {
            self.stamp();
        }
        self.idle_streak = self.idle_streak.saturating_add(1);
        if self.is_resting() {
            self.policy.rest();
        }
    }

    #[inline]
    fn is_resting(&self) -> bool {
        self.idle_streak > REST_AFTER
    }

    /// Looks at the clock, and puts the time since the last look down as busy or idle. An idle iteration makes none.
    #[inline]
    fn stamp(&mut self) {
        let now = self.core.clock.now();
        let spent = now.saturating_sub(self.core.now);
        let matters = self.was_busy || self.is_resting() || spent > self.stall_ticks;
        self.core.looked = if matters { self.core.now } else { now };
        self.core.now = now;
        if self.was_busy {
            self.busy_ticks += spent;
            self.longest_ticks = self.longest_ticks.max(spent);
        } else {
            self.idle_ticks += spent;
        }
        self.was_busy = false;
    }

    #[inline]
    fn iterate(&mut self) -> Progress {
        let mut progress = self.run_jobs();
        let (core_is_busy, iteration) = (self.was_busy, self.iterations);
        let mut stamped = false;
        for index in 0..self.pollers.len() {
            let place = self.pollers[index].as_ref();
            if place.is_none_or(|place| place.is_quiet(index, iteration, core_is_busy)) {
                continue;
            }
            if !stamped {
                stamped = true;
                self.stamp();
            }
            let Some(place) = &mut self.pollers[index] else { continue };
            match place.poller.poll(&mut self.core) {
                Progress::Idle => {
                    place.watch = place.poller.watch();
                    place.watched_since = iteration;
                }
                Progress::Busy => {
                    place.watch = None;
                    progress = Progress::Busy;
                }
                Progress::Finished => {
                    place.poller.close(&mut self.core.ring);
                    self.pollers[index] = None;
                }
            }
        }
        match self.core.ring.enter() {
            Ok(0) => progress,
            Ok(_) => Progress::Busy,
            Err(e) => {
                self.ring_errors += 1;
                // Once for each power of two: a ring that fails for good must not fill the log.
                if self.ring_errors.is_power_of_two() {
                    error!("reactor: {e} (failure number {})", self.ring_errors);
                }
                progress
            }
        }
    }

    /// Runs jobs. They may change pollers and what these look at, so that every poller is polled next.
    #[inline]
    fn run_jobs(&mut self) -> Progress {
        let mut progress = Progress::Idle;
        for _ in 0..JOBS_PER_ITERATION {
            let Some(job) = self.mailbox.take() else { break };
            if progress == Progress::Idle {
                self.begin_jobs();
            }
            job(self);
            self.pollers.iter_mut().flatten().for_each(|place| place.watch = None);
            progress = Progress::Busy;
        }
        progress
    }

    /// The time that jobs take is this iteration's, and what is found after them may have waited for them.
    #[cold]
    fn begin_jobs(&mut self) {
        self.stamp();
        self.was_busy = true;
    }

    fn stopped(&mut self) -> bool {
        let mut quiet = true;
        for place in self.pollers.iter_mut().flatten() {
            quiet &= place.poller.quiesce();
        }
        let clock = self.core.clock;
        let late = self.stop_at_ns.is_some_and(|deadline_ns| clock.to_ns(clock.now()) >= deadline_ns);
        (quiet && self.core.ring.in_flight() == 0) || late
    }

    fn finish(&mut self) {
        for Place { mut poller, .. } in self.pollers.drain(..).flatten() {
            if poller.quiesce() {
                poller.close(&mut self.core.ring);
            } else {
                error!("reactor: stopped with I/O in flight; its memory is left mapped");
                std::mem::forget(poller);
            }
        }
        self.publish();
    }

    fn publish(&self) {
        self.counters.busy_ticks.store(self.busy_ticks, Ordering::Relaxed);
        self.counters.idle_ticks.store(self.idle_ticks, Ordering::Relaxed);
        self.counters.iterations.store(self.iterations, Ordering::Relaxed);
        self.counters.longest_ticks.store(self.longest_ticks, Ordering::Relaxed);
        self.counters.enters.store(self.core.ring.counters().enters, Ordering::Relaxed);
    }
}
