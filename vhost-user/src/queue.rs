//! One virtqueue as the control thread sees it: started on its reactor, drained and removed, its account kept across
//! lives.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spinblk_bdev::Bdev;
use spinblk_perf::QueueBoard;
use spinblk_reactor::{Handle, Poller, PollerId, Ring};
use spinblk_virtio::blk::{BlkQueue, Device as BlkDevice};
use spinblk_virtio::{InFlightError, InFlightLog, MemoryMap, RingConfig};
use tracing::{info, warn};

use crate::Error;
use crate::call::{Call, Events, Host, Served};
use crate::vring::Vring;

/// How long a reactor may take for a control job; it is busy for microseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long I/O in flight is waited for.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an interrupt may take; only a client that fills its eventfd's counter makes it last.
const INTERRUPT_TIMEOUT: Duration = Duration::from_millis(100);
/// How often a draining queue is looked at.
const DRAIN_STEP: Duration = Duration::from_micros(200);

/// What all queues of a disk share.
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) blk: BlkDevice,
    pub(crate) bdev: Arc<dyn Bdev>,
    pub(crate) events: Arc<Events>,
    /// Entries that a client's queue may have at most.
    pub(crate) queue_size: u16,
}

/// One queue.
pub(crate) struct Queue {
    pub(crate) index: usize,
    pub(crate) vring: Vring,
    call: Option<OwnedFd>,
    reactor: Arc<Handle>,
    poller: Option<PollerId>,
    board: Arc<QueueBoard>,
}

impl Queue {
    pub(crate) fn new(index: usize, reactor: Arc<Handle>) -> Self {
        Self {
            index,
            vring: Vring::default(),
            call: None,
            reactor,
            poller: None,
            board: Arc::new(QueueBoard::new()),
        }
    }

    /// The core it is served on.
    pub(crate) fn core(&self) -> usize {
        self.reactor.core()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.poller.is_some()
    }

    /// What it did in all its lives.
    pub(crate) fn board(&self) -> &Arc<QueueBoard> {
        &self.board
    }

    /// Forgets what the last client said. Not while it runs.
    pub(crate) fn forget(&mut self) {
        self.vring = Vring::default();
        self.call = None;
    }

    /// Forgets it for a reset through the device status. Not while it runs.
    pub(crate) fn reset(&mut self) {
        self.vring.reset();
        self.call = None;
    }

    /// Interrupts go to `fd` from now on.
    pub(crate) fn set_call(&mut self, disk: &Disk, fd: Option<OwnedFd>) -> Result<(), Error> {
        self.call = fd;
        let fd = self.call_copy(disk)?;
        self.with(disk, move |served, ring| served.call.replace(fd, ring)).map(|_| ())
    }

    /// Starts it on its reactor. With a log, what that says was in flight is done first.
    pub(crate) fn start(
        &mut self,
        disk: &Disk,
        map: Arc<MemoryMap>,
        config: RingConfig,
        log: Option<InFlightLog>,
    ) -> Result<(), Error> {
        let (name, queue, call) = (disk.name.clone(), self.index, self.call_copy(disk)?);
        let (blk, bdev, events) = (disk.blk.clone(), Arc::clone(&disk.bdev), Arc::clone(&disk.events));
        let board = Arc::clone(&self.board);
        let takes_over = log.is_some();
        let started = self.reactor.call(CALL_TIMEOUT, move |reactor| {
            let ring = &mut reactor.core.ring;
            let mut call =
                Call::new(call, ring).map_err(|source| Error::Reactor { name: name.clone(), source })?;
            let host = Host { bell: call.bell(), events, queue };
            let opened = bdev
                .open(ring, usize::from(config.size))
                .map_err(|source| Error::Bdev { name: name.clone(), source })
                .and_then(|channel| {
                    BlkQueue::new(&blk, channel, Box::new(host), map, config, board, ring)
                        .map_err(|source| Error::Queue { name: name.clone(), queue, source })
                })
                .and_then(|served| {
                    attach(served, log, ring).map_err(|source| Error::QueueLog { name, queue, source })
                });
            match opened {
                Ok((queue, again)) => {
                    if takes_over {
                        // Another process may have died after it had returned requests and before it told the driver.
                        call.ring();
                    }
                    Ok((reactor.add(Box::new(Served { queue, call })), again))
                }
                Err(e) => {
                    call.close(ring);
                    Err(e)
                }
            }
        });
        let (poller, again) = started.map_err(|source| self.reactor_error(disk, source))??;
        self.poller = Some(poller);
        if again > 0 {
            info!("disk {}: queue {queue}: {again} requests were in flight and are done again", disk.name);
        }
        Ok(())
    }

    /// Hands a new map to it, which must hold all that the old one held.
    pub(crate) fn set_memory(&self, disk: &Disk, map: Arc<MemoryMap>) -> Result<(), Error> {
        self.with(disk, move |served, ring| served.queue.set_memory(map, ring)).map(|_| ())
    }

    /// Answers its question for `iova` with a map that may lack it.
    pub(crate) fn answer(&self, disk: &Disk, iova: u64, map: Arc<MemoryMap>) -> Result<(), Error> {
        self.with(disk, move |served, ring| served.queue.answer(iova, map, ring)).map(|_| ())
    }

    /// Takes nothing new from now on.
    pub(crate) fn pause(&self, disk: &Disk) -> Result<(), Error> {
        self.with(disk, |served, _| served.queue.pause()).map(|_| ())
    }

    /// Drains it and takes it off its reactor; notes where the ring stood. `by` is when waiting for I/O ends.
    pub(crate) fn stop(&mut self, disk: &Disk, by: Instant) -> Result<(), Error> {
        let Some(id) = self.poller else { return Ok(()) };
        self.drain(disk, by)?;
        let removed = self
            .reactor
            .call(CALL_TIMEOUT, move |reactor| {
                reactor.remove::<Served>(id).map(|served| served.queue.state())
            })
            .map_err(|source| self.reactor_error(disk, source))?;
        self.poller = None;
        match removed {
            Some(state) => self.vring.state = Some(state),
            None => warn!("disk {}: queue {} was gone from its reactor", disk.name, self.index),
        }
        Ok(())
    }

    /// Lets everything in flight finish, interrupts too, while taking nothing new.
    fn drain(&self, disk: &Disk, by: Instant) -> Result<(), Error> {
        self.pause(disk)?;
        self.until(disk, by, |served, _| served.queue.is_quiet())?;
        let soon = || Instant::now() + INTERRUPT_TIMEOUT;
        if self.until(disk, soon(), |served, ring| served.call.is_quiet(ring)).is_err() {
            self.with(disk, |served, ring| served.call.cancel(ring))?;
            self.until(disk, soon(), |served, ring| served.call.is_quiet(ring))?;
        }
        Ok(())
    }

    fn until(
        &self,
        disk: &Disk,
        by: Instant,
        is_done: impl Fn(&mut Served, &mut Ring) -> bool + Copy + Send + 'static,
    ) -> Result<(), Error> {
        let since = Instant::now();
        loop {
            match self.with(disk, is_done)? {
                Some(true) | None => return Ok(()),
                Some(false) if Instant::now() >= by => {
                    let waited = since.elapsed();
                    return Err(Error::NotQuiet { name: disk.name.clone(), queue: self.index, waited });
                }
                Some(false) => std::thread::sleep(DRAIN_STEP),
            }
        }
    }

    fn with<R: Send + 'static>(
        &self,
        disk: &Disk,
        work: impl FnOnce(&mut Served, &mut Ring) -> R + Send + 'static,
    ) -> Result<Option<R>, Error> {
        let Some(id) = self.poller else { return Ok(None) };
        self.reactor
            .call(CALL_TIMEOUT, move |reactor| {
                reactor.poller::<Served>(id).map(|(served, core)| work(served, &mut core.ring))
            })
            .map_err(|source| self.reactor_error(disk, source))
    }

    /// The call descriptor once more, for the reactor to own.
    fn call_copy(&self, disk: &Disk) -> Result<Option<OwnedFd>, Error> {
        let copy = self.call.as_ref().map(OwnedFd::try_clone).transpose();
        copy.map_err(|source| Error::Thread {
            name: disk.name.clone(),
            what: "a queue's call descriptor",
            source,
        })
    }

    fn reactor_error(&self, disk: &Disk, source: spinblk_reactor::Error) -> Error {
        Error::Reactor { name: disk.name.clone(), source }
    }
}

/// Gives a new queue its log, and says how many requests that tells to do again. One that is damaged ends the queue.
fn attach(
    mut queue: BlkQueue,
    log: Option<InFlightLog>,
    ring: &mut Ring,
) -> Result<(BlkQueue, usize), InFlightError> {
    match log.map_or(Ok(0), |log| queue.attach_log(log)) {
        Ok(again) => Ok((queue, again)),
        Err(e) => {
            queue.close(ring);
            Err(e)
        }
    }
}
