//! Interrupts: a queue's call eventfd, written through the core's io_uring.
//!
//! ```text
//!   BlkQueue ──interrupt──► bell (a flag) ──► Served::poll ──► Call: one SQE, 8 bytes ──► enter() of this iteration
//! ```
//!
//! At most one write is in flight. Interrupts that come meanwhile are one more write when it is done: an eventfd adds
//! up what it is told, so fewer writes lose nothing as long as the last one comes after the last interrupt.
//!
//! A non-blocking eventfd is written inline by the kernel, within `enter`. A blocking one the kernel would try in vain
//! over and over before handing it to a worker, so it goes to a worker at once: only that can wait if the client has
//! filled the counter.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::EventFd;
use spinblk_reactor::{
    Core, OwnerId, Poller, Progress, Ring, RingFile, Watch, on_file, opcode, squeue, types,
};
use spinblk_virtio::QueueError;
use spinblk_virtio::blk::{BlkQueue, QueueHost};
use tracing::error;

/// What is written; static, because the kernel may read it late.
static ONE: u64 = 1;
/// A write, and the operation that cancels it.
const DEPTH: usize = 2;

/// What a queue tells the control thread.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// An address outside the client's memory; the queue waits for an answer.
    Unmapped { queue: usize, iova: u64 },
    /// The queue gave up.
    Broken { queue: usize, error: QueueError },
}

/// The way from reactors to the control thread: bounded, never blocks.
pub(crate) struct Events {
    pub(crate) queue: ArrayQueue<Event>,
    /// The client is to be told that the configuration space has changed.
    pub(crate) config_changed: AtomicBool,
    pub(crate) wake: Arc<EventFd>,
}

impl Events {
    fn push(&self, event: Event) {
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

/// The transport's side of a running queue, on the reactor.
pub(crate) struct Host {
    pub(crate) bell: Arc<AtomicBool>,
    pub(crate) events: Arc<Events>,
    pub(crate) queue: usize,
}

impl QueueHost for Host {
    #[inline]
    fn interrupt(&mut self, _: &mut Ring) {
        // Same thread as the reader: no order is needed.
        self.bell.store(true, Ordering::Relaxed);
    }
    fn unmapped(&mut self, iova: u64) {
        self.events.push(Event::Unmapped { queue: self.queue, iova });
    }
    fn broken(&mut self, error: QueueError) {
        self.events.push(Event::Broken { queue: self.queue, error });
    }
}

/// Where interrupts go.
struct Target {
    file: RingFile,
    blocking: bool,
    /// Last, so that it is closed after everything else.
    _fd: OwnedFd,
}

/// The writing end of one queue's interrupts.
pub(crate) struct Call {
    bell: Arc<AtomicBool>,
    owner: OwnerId,
    target: Option<Target>,
    /// What takes the target's place once no write is in flight.
    next: Option<Option<OwnedFd>>,
    in_flight: u8,
    cancelled: bool,
}

impl Call {
    /// Interrupts through `fd`; without one the client polls.
    ///
    /// # Errors
    /// The ring's, when it takes no more owners.
    pub(crate) fn new(fd: Option<OwnedFd>, ring: &mut Ring) -> Result<Self, spinblk_reactor::Error> {
        let owner = ring.register_owner(DEPTH)?;
        let (bell, target) = (Arc::default(), fd.map(|fd| Target::new(fd, ring)));
        Ok(Self { bell, owner, target, next: None, in_flight: 0, cancelled: false })
    }

    /// What the queue's host rings.
    pub(crate) fn bell(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.bell)
    }

    /// One interrupt that nobody asked for: an earlier one may have gone nowhere.
    pub(crate) fn ring(&self) {
        self.bell.store(true, Ordering::Relaxed);
    }

    /// Interrupts go to `fd` from now on, or as soon as the write in flight is done; one goes there at once, because the last
    /// ones may have gone where nobody looks any more.
    pub(crate) fn replace(&mut self, fd: Option<OwnedFd>, ring: &mut Ring) {
        self.next = Some(fd);
        self.ring();
        self.drive(ring);
    }

    /// Whether everything that was rung has been written. Call it while the queue takes nothing new.
    pub(crate) fn is_quiet(&mut self, ring: &mut Ring) -> bool {
        self.drive(ring);
        self.in_flight == 0
    }

    /// Gives a write up that the client keeps from being done.
    pub(crate) fn cancel(&mut self, ring: &mut Ring) {
        let Some(target) = self.target.as_ref().filter(|_| !self.cancelled && self.in_flight > 0) else {
            return;
        };
        let what = match target.file {
            RingFile::Registered(id) => types::CancelBuilder::fd(spinblk_reactor::fixed_file(id)),
            RingFile::Plain(fd) => types::CancelBuilder::fd(spinblk_reactor::plain_file(fd)),
        };
        let entry = opcode::AsyncCancel2::new(what.all()).build();
        // SAFETY: names the target's file only, which stays until nothing is in flight (`drive`, `close`).
        unsafe { ring.push(self.owner, 0, entry) };
        self.in_flight += 1;
        self.cancelled = true;
    }

    /// Takes completions, and writes if the bell was rung. Called in every iteration.
    #[inline]
    fn drive(&mut self, ring: &mut Ring) {
        if self.in_flight > 0
            && let Some(inbox) = ring.inbox(self.owner)
        {
            // Failures are the client's doing: its counter is full, so that it will not miss this one, or it is gone.
            self.in_flight -= inbox.len() as u8;
            inbox.clear();
        }
        if self.next.is_some() && self.in_flight == 0 {
            self.swap(ring);
        }
        if self.bell.load(Ordering::Relaxed) && self.in_flight == 0 && !self.cancelled {
            self.write(ring);
        }
    }

    /// Whether nothing is to be written, changed or waited for.
    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.next.is_none() && !self.bell.load(Ordering::Relaxed)
    }

    #[inline]
    fn write(&mut self, ring: &mut Ring) {
        self.bell.store(false, Ordering::Relaxed);
        let Some(target) = &self.target else { return };
        let bytes = (&raw const ONE).cast();
        let entry =
            on_file!(target.file, |file| opcode::Write::new(file, bytes, size_of_val(&ONE) as u32).build());
        let flags = if target.blocking { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        // SAFETY: the bytes are static; the file stays open and registered until this completed (`drive` and `close`
        // touch the target only with nothing in flight).
        unsafe { ring.push(self.owner, 0, entry.flags(flags)) };
        self.in_flight += 1;
    }

    #[cold]
    fn swap(&mut self, ring: &mut Ring) {
        if let Some(next) = self.next.take() {
            self.drop_target(ring);
            self.target = next.map(|fd| Target::new(fd, ring));
        }
    }

    fn drop_target(&mut self, ring: &mut Ring) {
        if let Some(Target { file: RingFile::Registered(id), .. }) = self.target.take() {
            ring.unregister_file(id);
        }
    }

    /// Gives back what it took of the ring. With a write in flight that could not even be cancelled, the descriptor
    /// and the place in the ring are left to it.
    pub(crate) fn close(&mut self, ring: &mut Ring) {
        if self.in_flight > 0 {
            error!("an interrupt is still being written; its descriptor stays open");
            std::mem::forget(self.target.take());
            return;
        }
        self.drop_target(ring);
        ring.release_owner(self.owner);
    }
}

impl Target {
    fn new(fd: OwnedFd, ring: &mut Ring) -> Self {
        let raw = fd.as_raw_fd();
        let file = ring.register_file(raw).map_or(RingFile::Plain(raw), RingFile::Registered);
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        let blocking = !flags.is_ok_and(|flags| flags.contains(OFlag::O_NONBLOCK));
        Self { file, blocking, _fd: fd }
    }
}

/// A queue and its interrupts: what the reactor polls.
pub(crate) struct Served {
    pub(crate) queue: BlkQueue,
    pub(crate) call: Call,
}

impl Poller for Served {
    #[inline]
    fn poll(&mut self, core: &mut Core) -> Progress {
        let progress = self.queue.poll(core);
        self.call.drive(&mut core.ring);
        progress
    }

    fn watch(&self) -> Option<Watch> {
        if self.call.is_idle() { self.queue.watch() } else { None }
    }

    fn quiesce(&mut self) -> bool {
        self.queue.quiesce() && self.call.in_flight == 0
    }

    fn close(&mut self, ring: &mut Ring) {
        self.queue.close(ring);
        self.call.close(ring);
    }
}
