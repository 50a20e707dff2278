//! One virtqueue of a virtio-blk device, served by one reactor.
//!
//! ```text
//!   poll():  channel.poll ─► finish each       (what the ring completed since the last iteration)
//!            avail ring ─► slot ─► channel.submit ─► finish those that were done at once
//!            used entries published once, one interrupt if wanted, then the account
//! ```
//!
//! When an address is not mapped the queue *parks*: it asks its host for the mapping, takes nothing new, and goes on when
//! [`BlkQueue::set_memory`] brings a new map. A request whose address is still missing then fails alone.

use std::sync::Arc;

use spinblk_bdev::Channel;
use spinblk_perf::{Clock, QueueBoard};
use spinblk_reactor::{Core, Poller, Progress, Ring, Watch};

use super::Device;
use super::coalesce::Coalescer;
use super::engine::{Engine, Stop, Taken};
use crate::memory::CoreMemory;
use crate::virtqueue::Virtqueue;
use crate::{InFlightError, InFlightLog, MemoryMap, QueueError, RingConfig, RingState};

/// What a queue needs of its transport. Called on the reactor; must not block.
pub trait QueueHost: Send {
    /// The queue is set up on its core.
    fn open(&mut self, ring: &mut Ring) {
        let _ = ring;
    }
    /// The queue is quiet and goes; gives back what `open` took of the ring.
    fn close(&mut self, ring: &mut Ring) {
        let _ = ring;
    }
    /// Interrupts the driver, once for a batch; may go through the core's ring, to cost no system call of its own.
    fn interrupt(&mut self, ring: &mut Ring);
    /// Asks for `iova` to be mapped; answered, in any case, through [`BlkQueue::set_memory`].
    fn unmapped(&mut self, iova: u64);
    /// The ring cannot be served any more; it stays silent until it is set up anew.
    fn broken(&mut self, error: QueueError);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Takes requests.
    Running,
    /// Waits for a mapping.
    Parked,
    /// Told to take nothing new.
    Paused,
    /// Told to begin nothing at all.
    Held,
    /// The driver broke the ring.
    Broken,
    /// Given up with I/O in flight: only waits for it to come back, and touches nothing of the driver's.
    Abandoned,
}

/// One virtqueue and all it needs, on one core.
pub struct BlkQueue {
    ring: Virtqueue,
    engine: Engine,
    host: Box<dyn QueueHost>,
    state: State,
    coalescer: Coalescer,
    board: Arc<QueueBoard>,
}

impl BlkQueue {
    /// Sets a queue up on its core: finds the ring in `map`, registers the memory, makes the slots. Starts running, and
    /// writes what it does on `board`, which nobody else may write.
    ///
    /// # Errors
    /// [`QueueError`] when the ring lies outside the map or is misaligned; nothing stays registered.
    pub fn new(
        device: &Device,
        mut channel: Box<dyn Channel>,
        mut host: Box<dyn QueueHost>,
        map: Arc<MemoryMap>,
        config: RingConfig,
        board: Arc<QueueBoard>,
        ring: &mut Ring,
    ) -> Result<Self, QueueError> {
        let mut memory = CoreMemory::new(map, ring);
        let virtqueue = match Virtqueue::new(&mut memory, config) {
            Ok(virtqueue) => virtqueue,
            Err(e) => {
                memory.release(ring);
                channel.close(ring);
                return Err(e);
            }
        };
        host.open(ring);
        Ok(Self {
            ring: virtqueue,
            engine: Engine::new(memory, channel, device.serial(), config.size),
            host,
            state: State::Running,
            coalescer: Coalescer::new(device.coalesces(), &Clock::get()),
            board,
        })
    }

    /// Keeps `log` from now on, and does first what that says was in flight when another process died: where the ring goes
    /// on is the log's to say then, and not the configuration's. Call it before the first poll; returns how many requests
    /// will be done again.
    ///
    /// # Errors
    /// [`InFlightError`] when the log does not go with the ring; the queue is to be closed then.
    pub fn attach_log(&mut self, log: InFlightLog) -> Result<usize, InFlightError> {
        self.ring.attach(log)?;
        Ok(self.ring.pending())
    }

    /// Takes nothing new from now on; what is in flight goes on, and so does what a log says was in flight.
    pub fn pause(&mut self) {
        self.rest(State::Paused);
    }

    /// Begins nothing from now on, not even what a log says was in flight, which stays there for the queue's next life.
    pub fn hold(&mut self) {
        self.rest(State::Held);
    }

    fn rest(&mut self, how: State) {
        match self.state {
            State::Broken | State::Abandoned => return,
            State::Parked => self.engine.parking.ask_again(),
            State::Running | State::Paused | State::Held => {}
        }
        self.state = how;
    }

    /// How many requests a log said were in flight and have not been begun again.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.ring.pending()
    }

    /// Gives the queue up while I/O is in flight: the driver's rings are not touched any more and the host is let go, but
    /// the memory stays mapped until the storage has answered. Then the reactor drops the queue, and `rest` with it, which
    /// stands in for the host until then and is asked for nothing.
    pub fn abandon(&mut self, mut rest: Box<dyn QueueHost>, ring: &mut Ring) {
        self.state = State::Abandoned;
        // New before old, for what both hold.
        rest.open(ring);
        self.host.close(ring);
        self.host = rest;
    }

    /// Takes requests again.
    pub fn resume(&mut self) {
        if matches!(self.state, State::Paused | State::Held) {
            self.state = State::Running;
        }
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let goes_on = !matches!(self.state, State::Held | State::Broken | State::Abandoned);
        self.engine.is_quiet() && !(goes_on && self.ring.pending() > 0)
    }

    /// Whether a paused queue has chains of the past to start. Nobody may answer a question of a queue that takes nothing, so
    /// none is asked.
    #[cold]
    fn recovers(&mut self) -> bool {
        let recovers = self.state == State::Paused && self.ring.pending() > 0;
        if recovers {
            self.engine.parking.ask_nothing();
        }
        recovers
    }

    /// How far it has come in the ring: the queue's state as VDUSE and vhost mean it, when it is quiet.
    #[must_use]
    pub fn state(&self) -> RingState {
        self.ring.state()
    }

    /// Brings a new map; a parked queue goes on if the map holds what it waits for. Segments of I/O in flight keep pointing
    /// into the old map, so the new one must hold all its regions unless the queue is quiet, and the ring in any case.
    pub fn set_memory(&mut self, map: Arc<MemoryMap>, ring: &mut Ring) {
        if self.state == State::Abandoned {
            return;
        }
        let found = self.engine.parking.missing().is_some_and(|iova| map.contains(iova));
        // New before old: regions in both stay registered throughout.
        let mut old = std::mem::replace(&mut self.engine.memory, CoreMemory::new(map, ring));
        old.release(ring);
        if self.state == State::Parked && found {
            self.state = State::Running;
        }
    }

    /// Answers the queue's question for `iova` with a map, which may still lack it: the request then fails. An answer to a
    /// question that is not open any more is just a new map.
    pub fn answer(&mut self, iova: u64, map: Arc<MemoryMap>, ring: &mut Ring) {
        self.set_memory(map, ring);
        if self.state == State::Parked && self.engine.parking.missing() == Some(iova) {
            self.state = State::Running;
        }
    }

    /// Takes a batch of chains. Returns whether there was anything to do.
    #[inline]
    fn take(&mut self, core: &mut Core) -> bool {
        let Taken { requests, stop } = match &mut self.ring {
            Virtqueue::Split(ring) => self.engine.take(ring, core),
            Virtqueue::Packed(ring) => self.engine.take(ring, core),
            Virtqueue::LoggedSplit(ring) => self.engine.take_logged(&mut **ring, core),
            Virtqueue::LoggedPacked(ring) => self.engine.take_logged(&mut **ring, core),
        };
        if requests > 0 {
            self.board.batch(requests, self.engine.is_full());
            self.coalescer.arrived(requests, core.now);
        }
        if let Some(stop) = stop {
            // That is something to do, too.
            self.stop(stop);
            return true;
        }
        requests > 0
    }

    #[cold]
    fn stop(&mut self, stop: Stop) {
        match stop {
            Stop::Park(iova) => {
                self.state = State::Parked;
                self.board.mapping_fault();
                self.host.unmapped(iova);
            }
            Stop::Break(error) => {
                self.state = State::Broken;
                self.host.broken(error);
            }
        }
    }

    /// Shows the driver the batch, interrupts it if it wants that, and does the books.
    #[inline]
    fn publish(&mut self, core: &mut Core) {
        let wants_interrupt = self.ring.publish();
        self.engine.account.returned(core);
        if self.engine.has_news() {
            self.board.backend(self.engine.counted());
        }
        if !wants_interrupt {
            self.board.interrupt_suppressed();
        } else if self.coalescer.wanted(core.now) {
            return self.interrupt(core);
        }
        if !self.coalescer.is_holding() || self.engine.is_crowded() {
            self.engine.account.settle(false, &core.clock, &self.board);
        } else {
            self.engine.account.hold();
        }
    }

    #[inline]
    fn interrupt(&mut self, core: &mut Core) {
        self.host.interrupt(&mut core.ring);
        self.board.interrupt_sent();
        self.engine.account.settle(true, &core.clock, &self.board);
    }
}

impl Poller for BlkQueue {
    #[inline]
    fn poll(&mut self, core: &mut Core) -> Progress {
        if self.state == State::Abandoned {
            self.engine.reap_silently(core);
            return if self.engine.is_quiet() { Progress::Finished } else { Progress::Idle };
        }
        match &mut self.ring {
            Virtqueue::Split(ring) => self.engine.reap(ring, core),
            Virtqueue::Packed(ring) => self.engine.reap(ring, core),
            Virtqueue::LoggedSplit(ring) => self.engine.reap_logged(&mut **ring, core),
            Virtqueue::LoggedPacked(ring) => self.engine.reap_logged(&mut **ring, core),
        }
        let mut busy = (self.state == State::Running || self.recovers()) && self.take(core);
        if self.ring.has_unpublished() {
            self.publish(core);
            busy = true;
        }
        if self.coalescer.is_holding() {
            busy = true;
            if self.coalescer.due(core.now) {
                self.interrupt(core);
            }
        }
        if busy { Progress::Busy } else { Progress::Idle }
    }

    fn watch(&self) -> Option<Watch> {
        let waits_for_the_driver = self.state == State::Running
            && self.is_quiet()
            && !self.ring.has_unpublished()
            && !self.coalescer.is_holding();
        // SAFETY: the queue's memory is replaced by a job (`set_memory`) or goes with the queue.
        waits_for_the_driver.then(|| unsafe { self.ring.watch() })
    }

    fn quiesce(&mut self) -> bool {
        // One that holds back what its log says must not begin with it now.
        if self.state != State::Held {
            self.pause();
        }
        self.is_quiet()
    }

    fn close(&mut self, ring: &mut Ring) {
        // Nothing may touch the rings through a queue that was closed.
        self.state = State::Broken;
        if self.coalescer.release() {
            self.host.interrupt(ring);
            self.board.interrupt_sent();
        }
        self.engine.account.settle(false, &Clock::get(), &self.board);
        self.board.backend(self.engine.counted());
        self.engine.channel.close(ring);
        self.host.close(ring);
        self.engine.memory.release(ring);
    }
}
