//! The control thread of one disk: answers the kernel's messages, maps memory, starts and stops the queues.
//!
//! ```text
//!   /dev/vduse/NAME ──message──►┐
//!   reactors ────────event─────►├─► Session (one thread, off the reactor cores) ──jobs──► reactors
//!   Export::stop ────flag──────►┘
//! ```
//!
//! One thread per disk, so that one that is stuck never holds up another. Each message is answered, in bounded time,
//! whatever happens: an unanswered one breaks the device for good.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use spinblk_bdev::Bdev;
use spinblk_perf::QueueStats;
use spinblk_reactor::Hugepages;
use spinblk_virtio::blk::Device as BlkDevice;
use spinblk_virtio::{RingAddresses, RingConfig};
use tracing::{debug, error, info, warn};

use crate::Error;
use crate::address_space::AddressSpace;
use crate::device::Device;
use crate::message::{Message, Reply};
use crate::queue::{Event, Events, Queue};
use crate::sysfs::Attributes;
use crate::uapi::RingState;

/// The driver is ready (virtio 2.1).
const DRIVER_OK: u8 = 4;
/// Bit of VIRTIO_RING_F_EVENT_IDX.
const EVENT_IDX: u32 = virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

/// One queue's account at the end.
pub struct QueueReport {
    /// The queue.
    pub index: u16,
    /// The core that served it.
    pub core: usize,
    /// What it did.
    pub stats: QueueStats,
}

/// What a session leaves behind.
pub(crate) struct SessionReport {
    pub(crate) umem: bool,
    pub(crate) queues: Vec<QueueReport>,
    pub(crate) problems: Vec<String>,
}

/// What a session is made of.
pub(crate) struct Parts {
    pub(crate) device: Arc<Device>,
    pub(crate) blk: Arc<BlkDevice>,
    pub(crate) bdev: Arc<dyn Bdev>,
    pub(crate) queues: Vec<Queue>,
    /// What queues tell the control thread.
    pub(crate) events: Arc<Events>,
    /// Set, with a wake-up through `events`, to end the session.
    pub(crate) stop: Arc<AtomicBool>,
    /// CPUs that may take interrupts.
    pub(crate) irq_cpus: Vec<usize>,
    pub(crate) hugepages: Hugepages,
}

/// The state of one disk.
pub(crate) struct Session {
    device: Arc<Device>,
    blk: Arc<BlkDevice>,
    bdev: Arc<dyn Bdev>,
    queues: Vec<Queue>,
    events: Arc<Events>,
    stop: Arc<AtomicBool>,
    irq_cpus: Vec<usize>,
    space: AddressSpace,
    had_umem: bool,
    /// Queues whose rings are unmapped at the moment, and where they stood.
    suspended: Vec<(usize, u16)>,
    problems: Vec<String>,
}

/// Where a queue begins.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// At the index that the driver set, 0 after a reset.
    AsDriverSays,
    /// Where it stood before.
    At(u16),
    /// At the used index, because the process that knew more is gone; only if nothing is in flight.
    WhereUsedStands,
}

impl Session {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { device, blk, bdev, queues, events, stop, irq_cpus, hugepages } = parts;
        let space = AddressSpace::new(device.clone(), hugepages);
        let (suspended, problems) = (Vec::new(), Vec::new());
        Self {
            device,
            blk,
            bdev,
            queues,
            events,
            stop,
            irq_cpus,
            space,
            had_umem: false,
            suspended,
            problems,
        }
    }

    /// Serves until told to stop, then stops the queues and reports.
    pub(crate) fn run(mut self) -> SessionReport {
        while !self.stop.load(Ordering::Acquire) {
            if let Err(e) = self.step() {
                self.problem(&e);
                if matches!(e, Error::Broken { .. } | Error::MessageLength { .. }) {
                    // No message will come any more; the queues go on until the disk is taken down.
                    while !self.stop.load(Ordering::Acquire) {
                        self.wait_for_event();
                    }
                }
            }
        }
        self.stop_queues();
        self.had_umem |= self.space.has_umem();
        self.space.close();
        let queues = self
            .queues
            .iter()
            .map(|q| QueueReport { index: q.index, core: q.core(), stats: q.stats().clone() })
            .collect();
        SessionReport { umem: self.had_umem, queues, problems: self.problems }
    }

    fn step(&mut self) -> Result<(), Error> {
        let mut fds = [
            PollFd::new(self.device.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.events.wake.as_fd(), PollFlags::POLLIN),
        ];
        if let Err(e) = poll(&mut fds, PollTimeout::NONE)
            && e != nix::errno::Errno::EINTR
        {
            warn!("disk {}: poll: {e}", self.device.name());
        }
        // POLLERR comes at once and for good when the kernel gave the device up.
        let broken = fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
        self.take_events();
        if broken {
            return Err(Error::Broken { name: self.device.name().into() });
        }
        while let Some(message) = self.device.read_message()? {
            let reply = self.handle(message);
            self.device.reply(message.request_id(), reply)?;
        }
        Ok(())
    }

    fn wait_for_event(&mut self) {
        let mut fds = [PollFd::new(self.events.wake.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::NONE);
        self.take_events();
    }

    fn take_events(&mut self) {
        // Not readable is not an error: nobody woke us.
        let _ = self.events.wake.read();
        while let Some(event) = self.events.queue.pop() {
            match event {
                Event::Unmapped { iova } => self.map_for_queues(iova),
                Event::Broken { queue, error } => {
                    let e = Error::Queue { name: self.device.name().into(), queue, source: error };
                    error!("{e}; it stays stopped until the driver resets the device");
                    self.problems.push(e.to_string());
                }
            }
        }
    }

    fn handle(&mut self, message: Message) -> Reply {
        debug!("disk {}: {message:?}", self.device.name());
        let outcome = match message {
            Message::SetStatus { status: 0, .. } => {
                self.stop_queues();
                self.suspended.clear();
                self.space.forget();
                Ok(Reply::Ok)
            }
            Message::SetStatus { status, .. } => self.start_queues(status).map(|()| Reply::Ok),
            Message::UpdateIotlb { start, last, .. } => self.update_iotlb(start, last).map(|()| Reply::Ok),
            Message::GetVqState { queue, .. } => self.queue_state(queue),
            Message::SetVqGroupAsid { group: 0, asid: 0, .. } => Ok(Reply::Ok),
            Message::SetVqGroupAsid { .. } | Message::Unknown { .. } => Ok(Reply::Failed),
        };
        outcome.unwrap_or_else(|e| {
            self.problem(&e);
            Reply::Failed
        })
    }

    /// Starts every queue that the driver made ready, once it says DRIVER_OK.
    fn start_queues(&mut self, status: u8) -> Result<(), Error> {
        if status & DRIVER_OK == 0 {
            return Ok(());
        }
        self.steer_interrupts();
        for index in 0..self.queues.len() {
            if !self.queues[index].is_running() {
                self.start_queue(index, Start::AsDriverSays)?;
            }
        }
        Ok(())
    }

    /// Keeps the work items that run interrupt handlers off polled cores, which would starve them. Each probe of the
    /// driver sets the mask anew, so this is the moment.
    fn steer_interrupts(&self) {
        let set = |attributes: Attributes| {
            (0..self.queues.len())
                .try_for_each(|queue| attributes.set_irq_affinity(queue as u16, &self.irq_cpus))
        };
        if let Err(e) = Attributes::new(self.device.name()).and_then(set) {
            // Kernels before 6.4 have no such knob.
            warn!("{e}; interrupts may land on polled cores and come late");
        }
    }

    /// Starts one queue if the driver made it ready.
    fn start_queue(&mut self, index: usize, start: Start) -> Result<(), Error> {
        let info = self.device.vq_info(index as u16)?;
        if !info.ready {
            return Ok(());
        }
        let addresses =
            RingAddresses { desc: info.desc_addr, avail: info.driver_addr, used: info.device_addr };
        for part in [addresses.desc, addresses.avail, addresses.used] {
            self.space.resolve(part)?;
        }
        let next_avail = match start {
            Start::AsDriverSays => info.start.avail_index(),
            Start::At(index) => index,
            Start::WhereUsedStands => self.quiet_index(index, addresses)?,
        };
        let config = RingConfig {
            addresses,
            size: u16::try_from(info.size).unwrap_or(0),
            next_avail,
            event_idx: self.device.features()? & 1 << EVENT_IDX != 0,
        };
        debug!("disk {}: queue {index} starts: {config:x?}", self.device.name());
        self.queues[index].start(&self.device, &self.events, &self.blk, &self.bdev, self.space.map(), config)
    }

    /// Goes on with the queues of a device that another process served until it died.
    ///
    /// # Errors
    /// [`Error::InFlight`] when a queue has requests whose fate nobody knows.
    pub(crate) fn take_over(&mut self) -> Result<(), Error> {
        let started =
            (0..self.queues.len()).try_for_each(|index| self.start_queue(index, Start::WhereUsedStands));
        if started.is_err() {
            self.stop_queues();
        }
        started
    }

    /// The used index of a ring in which nothing is in flight.
    fn quiet_index(&self, index: usize, at: RingAddresses) -> Result<u16, Error> {
        let map = self.space.map();
        let (avail, used) = (map.read_u16(at.avail + 2), map.read_u16(at.used + 2));
        let (avail, used) = (avail.unwrap_or(0), used.unwrap_or(0));
        if avail != used {
            let requests = avail.wrapping_sub(used);
            return Err(Error::InFlight { name: self.device.name().into(), queue: index, requests });
        }
        Ok(used)
    }

    fn stop_queues(&mut self) {
        for index in 0..self.queues.len() {
            if let Err(e) = self.queues[index].stop(self.device.name()) {
                self.problem(&e);
            }
        }
    }

    /// A queue met an address that is not mapped: map it, and hand the map to all queues, which will meet it next. The map
    /// is handed over even when nothing was found, so that the queue stops waiting and fails that one request.
    fn map_for_queues(&mut self, iova: u64) {
        match self.space.resolve(iova) {
            Ok(true) => {}
            Ok(false) => {
                info!(
                    "disk {}: the driver named IOVA {iova:#x}, where nothing is mapped",
                    self.device.name()
                );
            }
            Err(e) => self.problem(&e),
        }
        for index in 0..self.queues.len() {
            if let Err(e) = self.queues[index].set_memory(self.device.name(), self.space.map()) {
                self.problem(&e);
            }
        }
    }

    /// Mappings changed: no queue may touch an old one once this is answered. Queues that run are taken down and set up
    /// again where they stood, with the new mappings.
    fn update_iotlb(&mut self, start: u64, last: u64) -> Result<(), Error> {
        debug!("disk {}: mappings of {start:#x}..={last:#x} changed", self.device.name());
        for index in 0..self.queues.len() {
            if self.queues[index].is_running() {
                self.suspended.push((index, self.queues[index].stop(self.device.name())?));
            }
        }
        self.space.forget();
        for (index, next_avail) in std::mem::take(&mut self.suspended) {
            if let Err(e) = self.start_queue(index, Start::At(next_avail)) {
                // Its ring may be on the move: the next change may bring it back.
                info!("{e}; queue {index} waits for the next change of mappings");
                self.suspended.push((index, next_avail));
            }
        }
        Ok(())
    }

    /// The avail index of a queue, with nothing in flight at that moment.
    fn queue_state(&mut self, index: u32) -> Result<Reply, Error> {
        let Some(queue) = self.queues.get(index as usize) else { return Ok(Reply::Failed) };
        let name = self.device.name();
        let avail_index = if queue.is_running() {
            let avail_index = queue.settle(name);
            queue.resume(name)?;
            avail_index?
        } else {
            self.device.vq_info(index as u16)?.start.avail_index()
        };
        Ok(Reply::VqState { queue: index, state: RingState::split(avail_index) })
    }

    fn problem(&mut self, error: &Error) {
        error!("{error}");
        self.problems.push(error.to_string());
    }
}
