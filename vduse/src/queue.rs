//! One virtqueue of an export: started on its reactor, stopped from the control thread, its account kept across resets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use nix::sys::eventfd::EventFd;
use spinblk_bdev::{Bdev, BrokenChannel, Channel};
use spinblk_perf::QueueBoard;
use spinblk_reactor::{Handle, Poller, PollerId, Ring};
use spinblk_virtio::blk::{BlkQueue, Device as BlkDevice, QueueHost};
use spinblk_virtio::{MemoryMap, QueueError, RingConfig, RingState};
use tracing::{error, warn};

use crate::Error;
use crate::device::{Device, Injector};
use crate::log::{Hold, QueueLog};

/// How long a reactor may take to begin a control job; it is busy for microseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long I/O in flight is waited for, of all queues together.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(12);
/// How often draining queues are looked at.
const DRAIN_STEP: Duration = Duration::from_micros(200);

/// What a queue tells the control thread.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// An address without a mapping; the queue waits.
    Unmapped { queue: u16, life: u64, iova: u64 },
    /// The queue gave up.
    Broken { queue: u16, life: u64, error: QueueError },
}

/// The way from reactors to the control thread: bounded, never blocks.
pub(crate) struct Events {
    pub(crate) queue: ArrayQueue<Event>,
    pub(crate) wake: EventFd,
    /// Grows with every interrupt sent: whoever waits for the disk sees by it that I/O still gets done.
    pub(crate) progress: AtomicU64,
}

impl Events {
    pub(crate) fn push(&self, event: Event) {
        if self.queue.push(event).is_err() {
            error!("control queue is full, lost {event:?}");
        }
        self.wake();
    }

    /// Wakes the control thread.
    pub(crate) fn wake(&self) {
        if let Err(e) = self.wake.write(1) {
            error!("cannot wake the control thread: {e}");
        }
    }
}

/// VDUSE's side of a running queue, on the reactor.
struct Host {
    injector: Injector,
    events: Arc<Events>,
    queue: u16,
    life: u64,
    hold: Option<Hold>,
}

impl QueueHost for Host {
    fn open(&mut self, ring: &mut Ring) {
        self.hold.iter_mut().for_each(|hold| hold.open(ring));
    }
    fn close(&mut self, ring: &mut Ring) {
        self.hold.iter_mut().for_each(|hold| hold.close(ring));
    }
    #[inline]
    fn interrupt(&mut self, _: &mut Ring) {
        self.events.progress.fetch_add(1, Ordering::Relaxed);
        // Fails when the driver is gone, and then nobody waits for it, or when the device is broken, which the control
        // thread finds out and tells.
        let _ = self.injector.inject();
    }
    fn unmapped(&mut self, iova: u64) {
        self.events.push(Event::Unmapped { queue: self.queue, life: self.life, iova });
    }
    fn broken(&mut self, error: QueueError) {
        self.events.push(Event::Broken { queue: self.queue, life: self.life, error });
    }
}

/// Stands in for the host of an abandoned queue: the device is let go, the claim on its log is not.
struct Gone {
    _until_gone: Arc<()>,
    hold: Option<Hold>,
}

impl QueueHost for Gone {
    fn open(&mut self, ring: &mut Ring) {
        self.hold.iter_mut().for_each(|hold| hold.open(ring));
    }
    fn close(&mut self, ring: &mut Ring) {
        self.hold.iter_mut().for_each(|hold| hold.close(ring));
    }
    fn interrupt(&mut self, _: &mut Ring) {}
    fn unmapped(&mut self, _: u64) {}
    fn broken(&mut self, _: QueueError) {}
}

/// What one life of a queue begins with.
pub(crate) struct Setup {
    pub(crate) map: Arc<MemoryMap>,
    pub(crate) config: RingConfig,
    pub(crate) log: Option<QueueLog>,
}

/// A queue that was started.
pub(crate) struct Started {
    /// How many requests of a process that died it does again.
    pub(crate) again: usize,
    /// Why the bdev could not be opened, so that the queue serves errors.
    pub(crate) problem: Option<Error>,
}

/// One queue as the control thread sees it.
pub(crate) struct Queue {
    index: u16,
    reactor: Arc<Handle>,
    poller: Option<PollerId>,
    /// Counts the starts, so that what an earlier life said is not taken for this one's.
    life: u64,
    board: Arc<QueueBoard>,
    /// Of its log, if it keeps one.
    hold: Option<Hold>,
}

impl Queue {
    pub(crate) fn new(index: u16, reactor: Arc<Handle>, hold: Option<Hold>) -> Self {
        Self { index, reactor, poller: None, life: 0, board: Arc::new(QueueBoard::new()), hold }
    }

    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    /// The core it is served on.
    pub(crate) fn core(&self) -> usize {
        self.reactor.core()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.poller.is_some()
    }

    /// Whether it runs and is in this life.
    pub(crate) fn lives(&self, life: u64) -> bool {
        self.is_running() && self.life == life
    }

    /// What it did in all its lives.
    pub(crate) fn board(&self) -> &Arc<QueueBoard> {
        &self.board
    }

    /// Starts it on its reactor; what its log says was in flight is done first.
    pub(crate) fn start(
        &mut self,
        device: &Device,
        events: &Arc<Events>,
        blk: &Arc<BlkDevice>,
        bdev: &Arc<dyn Bdev>,
        Setup { map, config, log }: Setup,
    ) -> Result<Started, Error> {
        self.life += 1;
        let (name, index) = (device.name().to_owned(), self.index);
        let hold = self.hold.as_ref().map(Hold::another);
        let (injector, events, life) = (device.injector(index), events.clone(), self.life);
        let host = Host { injector, events, queue: index, life, hold };
        let (blk, bdev, board) = (blk.clone(), bdev.clone(), self.board.clone());
        let started = self.reactor.call(CALL_TIMEOUT, move |reactor| {
            let ring = &mut reactor.core.ring;
            let (channel, problem) = match bdev.open(ring, usize::from(config.size)) {
                Ok(channel) => (channel, None),
                Err(source) => {
                    let broken: Box<dyn Channel> = Box::new(BrokenChannel);
                    (broken, Some(Error::Bdev { name: name.clone(), source }))
                }
            };
            let mut queue = BlkQueue::new(&blk, channel, Box::new(host), map, config, board, ring)
                .map_err(|source| Error::Queue { name, queue: index, source })?;
            let again =
                log.map_or(Ok(0), |log| log.attach_to(&mut queue)).inspect_err(|_| queue.close(ring))?;
            Ok((reactor.add(Box::new(queue)), Started { again, problem }))
        });
        let (id, started) =
            started.map_err(|source| Error::Reactor { name: device.name().into(), source })??;
        self.poller = Some(id);
        Ok(started)
    }

    /// Hands a new map to it.
    pub(crate) fn set_memory(&self, name: &str, map: Arc<MemoryMap>) -> Result<(), Error> {
        self.with(name, move |queue, ring| queue.set_memory(map, ring)).map(|_| ())
    }

    /// Answers its question for `iova` with the map as it is now. A request of a process that died had its memory once: while
    /// that is away, it waits for the next change of mappings.
    pub(crate) fn answer(&self, name: &str, iova: u64, map: Arc<MemoryMap>) -> Result<(), Error> {
        let answer = move |queue: &mut BlkQueue, ring: &mut Ring| match queue.pending() {
            0 => queue.answer(iova, map, ring),
            _ => queue.set_memory(map, ring),
        };
        self.with(name, answer).map(|_| ())
    }

    /// Lets a paused queue go on.
    pub(crate) fn resume(&self, name: &str) -> Result<(), Error> {
        self.with(name, |queue, _| queue.resume()).map(|_| ())
    }

    /// Takes it off its reactor, quiet or not: one with I/O in flight is abandoned there and holds `until_gone` for as
    /// long as it lasts. Returns where the ring stood if it was quiet.
    fn take_off(&mut self, name: &str, until_gone: &Arc<()>) -> Result<Option<Stood>, Error> {
        let Some(id) = self.poller.take() else { return Ok(None) };
        let rest = Gone { _until_gone: until_gone.clone(), hold: self.hold.as_ref().map(Hold::another) };
        let taken = self.reactor.call(CALL_TIMEOUT, move |reactor| {
            let (queue, _) = reactor.poller::<BlkQueue>(id)?;
            let stood = Stood { at: queue.state(), pending: queue.pending() };
            let quiet = reactor.remove::<BlkQueue>(id).is_some();
            if let Some((queue, core)) = reactor.poller::<BlkQueue>(id) {
                queue.abandon(Box::new(rest), &mut core.ring);
            }
            Some(quiet.then_some(stood))
        });
        match taken {
            Ok(Some(stood)) => Ok(stood),
            Ok(None) => Err(Error::QueueGone { name: name.into(), queue: self.index }),
            Err(source) => {
                // The job did not run and never will: the queue is still there.
                self.poller = Some(id);
                Err(Error::Reactor { name: name.into(), source })
            }
        }
    }

    /// Whether nothing is in flight, and where the ring stands.
    fn state(&self, name: &str) -> Result<(bool, RingState), Error> {
        self.with(name, |queue, _| (queue.is_quiet(), queue.state()))?
            .ok_or(Error::QueueGone { name: name.into(), queue: self.index })
    }

    fn with<R: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&mut BlkQueue, &mut Ring) -> R + Send + 'static,
    ) -> Result<Option<R>, Error> {
        let Some(id) = self.poller else { return Ok(None) };
        self.reactor
            .call(CALL_TIMEOUT, move |reactor| {
                reactor.poller::<BlkQueue>(id).map(|(queue, core)| work(queue, &mut core.ring))
            })
            .map_err(|source| Error::Reactor { name: name.into(), source })
    }
}

/// Lets `queues` take nothing new, in the way of `rest`, and finish what is in flight, all together, for a bounded time.
/// Returns where each stands that fell quiet.
pub(crate) fn settle(name: &str, queues: &[Queue], rest: fn(&mut BlkQueue)) -> Vec<(u16, RingState)> {
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    let mut waiting: Vec<&Queue> = queues.iter().filter(|queue| queue.is_running()).collect();
    for queue in &waiting {
        if let Err(e) = queue.with(name, move |queue, _| rest(queue)) {
            warn!("{e}");
        }
    }
    let mut settled = Vec::new();
    loop {
        waiting.retain(|queue| match queue.state(name) {
            Ok((true, stands)) => {
                settled.push((queue.index, stands));
                false
            }
            Ok((false, _)) => true,
            Err(e) => {
                warn!("{e}");
                false
            }
        });
        if waiting.is_empty() || Instant::now() >= deadline {
            return settled;
        }
        std::thread::sleep(DRAIN_STEP);
    }
}

/// Where a queue stood when it was taken off its reactor with nothing in flight.
pub(crate) struct Stood {
    pub(crate) at: RingState,
    /// Requests before that place that its log still has to be done again.
    pub(crate) pending: usize,
}

/// How a stop of all queues ended.
pub(crate) struct Stopped {
    /// Queues that were drained, and where they stood.
    pub(crate) quiet: Vec<(u16, Stood)>,
    /// What went wrong with the others.
    pub(crate) problems: Vec<Error>,
}

/// Drains all running queues and takes them off their reactors. Those that do not drain in time are abandoned. What their
/// logs say is to be done again stays in there.
pub(crate) fn stop_all(name: &str, queues: &mut [Queue], until_gone: &Arc<()>) -> Stopped {
    settle(name, queues, BlkQueue::hold);
    let mut stopped = Stopped { quiet: Vec::new(), problems: Vec::new() };
    for queue in queues.iter_mut().filter(|queue| queue.is_running()) {
        match queue.take_off(name, until_gone) {
            Ok(Some(stood)) => stopped.quiet.push((queue.index, stood)),
            Ok(None) => stopped.problems.push(Error::NotQuiet {
                name: name.into(),
                queue: queue.index,
                timeout: DRAIN_TIMEOUT,
            }),
            Err(e) => stopped.problems.push(e),
        }
    }
    stopped
}
