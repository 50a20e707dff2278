//! One virtqueue of an export: started on its reactor, stopped from the control thread, its account kept across resets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use nix::sys::eventfd::EventFd;
use spinblk_bdev::Bdev;
use spinblk_perf::QueueStats;
use spinblk_reactor::{Handle, PollerId, Ring};
use spinblk_virtio::blk::{BlkQueue, Device as BlkDevice, QueueHost};
use spinblk_virtio::{MemoryMap, QueueError, RingConfig};
use tracing::{error, warn};

use crate::Error;
use crate::device::{Device, Injector};

/// How long a reactor may take for a control job; it is busy for microseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long I/O in flight is waited for; the kernel gives the whole message 30 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a draining queue is looked at.
const DRAIN_STEP: Duration = Duration::from_micros(200);

/// What a queue tells the control thread.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// An address without a mapping; the queue waits.
    Unmapped { iova: u64 },
    /// The queue gave up.
    Broken { queue: u16, error: QueueError },
}

/// The way from reactors to the control thread: bounded, never blocks. A queue has one open question at a time and
/// breaks once, so two places per queue are enough.
pub(crate) struct Events {
    pub(crate) queue: ArrayQueue<Event>,
    pub(crate) wake: EventFd,
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
    index: u16,
}

impl QueueHost for Host {
    #[inline]
    fn interrupt(&mut self, _: &mut Ring) {
        // Fails only while the device is being torn down, when nobody waits for it.
        let _ = self.injector.inject();
    }
    fn unmapped(&mut self, iova: u64) {
        self.events.push(Event::Unmapped { iova });
    }
    fn broken(&mut self, error: QueueError) {
        self.events.push(Event::Broken { queue: self.index, error });
    }
}

/// One queue as the control thread sees it.
pub(crate) struct Queue {
    pub(crate) index: u16,
    reactor: Arc<Handle>,
    poller: Option<PollerId>,
    stats: QueueStats,
}

impl Queue {
    pub(crate) fn new(index: u16, reactor: Arc<Handle>) -> Self {
        Self { index, reactor, poller: None, stats: QueueStats::new() }
    }

    /// The core it is served on.
    pub(crate) fn core(&self) -> usize {
        self.reactor.core()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.poller.is_some()
    }

    /// The account of all its lives that have ended.
    pub(crate) fn stats(&self) -> &QueueStats {
        &self.stats
    }

    /// Starts it on its reactor.
    pub(crate) fn start(
        &mut self,
        device: &Device,
        events: &Arc<Events>,
        blk: &Arc<BlkDevice>,
        bdev: &Arc<dyn Bdev>,
        map: Arc<MemoryMap>,
        config: RingConfig,
    ) -> Result<(), Error> {
        let (name, index) = (device.name().to_owned(), self.index);
        let host = Host { injector: device.injector(self.index), events: events.clone(), index };
        let (blk, bdev) = (blk.clone(), bdev.clone());
        let started = self.reactor.call(CALL_TIMEOUT, move |reactor| {
            let ring = &mut reactor.core.ring;
            let channel = bdev
                .open(ring, usize::from(config.size))
                .map_err(|source| Error::Bdev { name: name.clone(), source })?;
            let queue = BlkQueue::new(&blk, channel, Box::new(host), map, config, ring)
                .map_err(|source| Error::Queue { name, queue: index, source })?;
            Ok(reactor.add(Box::new(queue)))
        });
        self.poller = Some(started.map_err(|source| Error::Reactor { name: device.name().into(), source })??);
        Ok(())
    }

    /// Hands a new map to it.
    pub(crate) fn set_memory(&self, name: &str, map: Arc<MemoryMap>) -> Result<(), Error> {
        self.with(name, move |queue, ring| queue.set_memory(map, ring)).map(|_| ())
    }

    /// Lets everything in flight finish while taking nothing new, and says where the avail ring stands.
    pub(crate) fn settle(&self, name: &str) -> Result<u16, Error> {
        self.with(name, |queue, _| queue.pause())?;
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        loop {
            let state = self.with(name, |queue, _| (queue.is_quiet(), queue.next_avail()))?;
            match state {
                Some((true, next_avail)) => return Ok(next_avail),
                Some((false, _)) if Instant::now() >= deadline => {
                    return Err(Error::NotQuiet {
                        name: name.into(),
                        queue: self.index,
                        timeout: DRAIN_TIMEOUT,
                    });
                }
                Some((false, _)) => std::thread::sleep(DRAIN_STEP),
                None => return Ok(0),
            }
        }
    }

    /// Lets a settled queue go on.
    pub(crate) fn resume(&self, name: &str) -> Result<(), Error> {
        self.with(name, |queue, _| queue.resume()).map(|_| ())
    }

    /// Drains it and takes it off its reactor; says where the avail ring stood.
    pub(crate) fn stop(&mut self, name: &str) -> Result<u16, Error> {
        let Some(id) = self.poller else { return Ok(0) };
        let next_avail = self.settle(name)?;
        let removed = self
            .reactor
            .call(CALL_TIMEOUT, move |reactor| reactor.remove::<BlkQueue>(id).map(|queue| queue.stats()))
            .map_err(|source| Error::Reactor { name: name.into(), source })?;
        self.poller = None;
        match removed {
            Some(stats) => self.stats.merge(&stats),
            None => warn!("disk {name}: queue {} was gone from its reactor", self.index),
        }
        Ok(next_avail)
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
