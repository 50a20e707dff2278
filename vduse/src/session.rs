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
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use spinblk_bdev::Bdev;
use spinblk_perf::QueueBoard;
use spinblk_reactor::Hugepages;
use spinblk_virtio::blk::{BlkQueue, Device as BlkDevice};
use spinblk_virtio::{QueueError, RingAddresses, RingConfig, RingKind, RingState};
use tracing::{debug, error, info, warn};

use crate::Error;
use crate::address_space::AddressSpace;
use crate::device::Device;
use crate::log::DeviceLog;
use crate::message::{Message, Reply};
use crate::queue::{Event, Events, Queue, Setup, Started, Stood, settle, stop_all};
use crate::sysfs::Attributes;
use crate::uapi::VqState;

/// Bits of the device status (virtio 2.1).
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const FAILED: u8 = 0x80;
/// Bit of VIRTIO_RING_F_EVENT_IDX.
const EVENT_IDX: u32 = virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
/// Bit of VIRTIO_F_RING_PACKED.
const RING_PACKED: u32 = virtio_bindings::virtio_config::VIRTIO_F_RING_PACKED;

/// Problems kept for the report; more are only counted.
const MAX_PROBLEMS: usize = 50;
/// A pause after an error, so that one that stays does not make the loop spin.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// One queue's account, at any time.
#[derive(Clone)]
pub struct QueueReport {
    /// The queue.
    pub index: u16,
    /// The core that served it.
    pub core: usize,
    /// What it did.
    pub board: Arc<QueueBoard>,
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
    /// Set while a driver has the device.
    pub(crate) attached: Arc<AtomicBool>,
    /// CPUs that may take interrupts.
    pub(crate) irq_cpus: Vec<usize>,
    pub(crate) hugepages: Hugepages,
    /// The largest ring that a driver may set up.
    pub(crate) queue_size: u16,
    /// Where requests in flight are noted.
    pub(crate) log: Option<DeviceLog>,
}

/// The state of one disk.
pub(crate) struct Session {
    device: Arc<Device>,
    blk: Arc<BlkDevice>,
    bdev: Arc<dyn Bdev>,
    queues: Vec<Queue>,
    events: Arc<Events>,
    stop: Arc<AtomicBool>,
    attached: Arc<AtomicBool>,
    irq_cpus: Vec<usize>,
    queue_size: u16,
    log: Option<DeviceLog>,
    space: AddressSpace,
    had_umem: bool,
    /// Queues whose rings are unmapped at the moment, and where they will begin.
    suspended: Vec<(u16, Start)>,
    /// Shared with abandoned queues, which still use mappings and umem.
    until_gone: Arc<()>,
    problems: Vec<String>,
    problems_left_out: usize,
}

/// Where a queue begins.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// Where the driver says, which is the start after a reset; or where the log says, if that was used.
    AsDriverSays,
    /// Where it stood before.
    At(RingState),
    /// At the used index, because the process that knew more is gone; only if nothing is in flight.
    WhereUsedStands,
}

impl Session {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { device, blk, bdev, queues, events, stop, attached, irq_cpus, hugepages, queue_size, log } =
            parts;
        Self {
            space: AddressSpace::new(device.clone(), hugepages),
            device,
            blk,
            bdev,
            queues,
            events,
            stop,
            attached,
            irq_cpus,
            queue_size,
            log,
            had_umem: false,
            suspended: Vec::new(),
            until_gone: Arc::new(()),
            problems: Vec::new(),
            problems_left_out: 0,
        }
    }

    /// Serves until told to stop, then stops the queues and reports.
    pub(crate) fn run(mut self) -> SessionReport {
        while !self.stop.load(Ordering::Acquire) {
            let Err(e) = self.step() else { continue };
            self.problem(&e);
            if matches!(e, Error::Broken { .. } | Error::MessageLength { .. }) {
                // No message will come any more; the queues go on until the disk is taken down.
                while !self.stop.load(Ordering::Acquire) {
                    self.wait_for_event();
                }
            }
            std::thread::sleep(ERROR_PAUSE);
        }
        self.stop_queues();
        self.had_umem |= self.space.has_umem();
        if self.problems_left_out > 0 {
            self.problems.push(format!("disk {}: and {} more", self.device.name(), self.problems_left_out));
        }
        SessionReport {
            umem: self.had_umem,
            queues: self.queue_reports(),
            problems: std::mem::take(&mut self.problems),
        }
    }

    /// The queues and their boards, which outlive every life of the queues.
    pub(crate) fn queue_reports(&self) -> Vec<QueueReport> {
        let report =
            |q: &Queue| QueueReport { index: q.index(), core: q.core(), board: Arc::clone(q.board()) };
        self.queues.iter().map(report).collect()
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
            std::thread::sleep(ERROR_PAUSE);
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
            // Between messages, so that the events of one life of the queues never fill the room of the next.
            self.take_events();
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
            let (Event::Unmapped { queue, life, .. } | Event::Broken { queue, life, .. }) = event;
            if !self.queues.get(usize::from(queue)).is_some_and(|q| q.lives(life)) {
                continue;
            }
            match event {
                Event::Unmapped { iova, .. } => self.map_for(queue, iova),
                Event::Broken { error, .. } => {
                    info!(
                        "disk {}: queue {queue} stays stopped until the driver resets it",
                        self.device.name()
                    );
                    self.problem(&Error::Queue { name: self.device.name().into(), queue, source: error });
                }
            }
        }
    }

    fn handle(&mut self, message: Message) -> Reply {
        debug!("disk {}: {message:?}", self.device.name());
        let outcome = match message {
            Message::SetStatus { status, .. } => self.set_status(status).map(|()| Reply::Ok),
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

    /// DRIVER_OK starts the queues. A status without it means that the driver has reset the device, even if the reset
    /// itself was never seen: the kernel withdraws a message whose sender is killed, and resets all the same.
    ///
    /// A driver takes no refusal after FEATURES_OK, so whatever may be refused is refused there.
    fn set_status(&mut self, status: u8) -> Result<(), Error> {
        let attached = status & DRIVER_OK != 0 && status & FAILED == 0;
        self.attached.store(attached, Ordering::Relaxed);
        if !attached {
            self.stop_queues();
            // One that its reactor did not give back in time still writes its log.
            let one_runs_on = self.queues.iter().any(Queue::is_running);
            if let Some(log) = self.log.as_ref().filter(|_| !one_runs_on) {
                log.driver_left();
            }
            self.suspended.clear();
            self.space.forget();
            if status & FEATURES_OK != 0 && (one_runs_on || self.is_hanging()) {
                return Err(Error::StillHanging { name: self.device.name().into() });
            }
            return Ok(());
        }
        if let Some(log) = &self.log {
            log.driver_ok(self.ring_kind()?)?;
        }
        self.steer_interrupts();
        for index in 0..self.queues.len() as u16 {
            if self.queues[usize::from(index)].is_running() {
                continue;
            }
            let stood = self.suspended.iter().position(|(suspended, _)| *suspended == index);
            let start = match stood {
                Some(at) => self.suspended.swap_remove(at).1,
                None => Start::AsDriverSays,
            };
            if let Err(e) = self.start_queue(index, start) {
                self.problem(&e);
            }
        }
        Ok(())
    }

    /// Whether I/O of abandoned queues is still out.
    fn is_hanging(&self) -> bool {
        Arc::strong_count(&self.until_gone) > 1
    }

    /// Keeps the work items that run interrupt handlers off polled cores, which would starve them. Each probe of the
    /// driver sets the mask anew, so DRIVER_OK is the moment.
    fn steer_interrupts(&self) {
        let set = |attributes: Attributes| {
            (0..self.queues.len() as u16)
                .try_for_each(|queue| attributes.set_irq_affinity(queue, &self.irq_cpus))
        };
        if let Err(e) = Attributes::new(self.device.name()).and_then(set) {
            // Kernels before 6.4 have no such knob.
            warn!("{e}; interrupts may land on polled cores and come late");
        }
    }

    /// Starts one queue; `false` when the driver did not make it ready.
    fn start_queue(&mut self, index: u16, start: Start) -> Result<bool, Error> {
        let name = self.device.name();
        let info = self.device.vq_info(index)?;
        // A machine monitor may make queues ready that its guest has not set up.
        if !info.ready || info.size == 0 {
            return Ok(false);
        }
        let size = u16::try_from(info.size).ok().filter(|&size| size <= self.queue_size);
        let size = size.ok_or(Error::RingSize {
            name: name.into(),
            queue: index,
            size: info.size,
            max: self.queue_size,
        })?;
        let addresses =
            RingAddresses { desc: info.desc_addr, avail: info.driver_addr, used: info.device_addr };
        for part in [addresses.desc, addresses.avail, addresses.used] {
            self.space.resolve(part)?;
        }
        let kind = self.ring_kind()?;
        let state = match (start, kind) {
            (Start::AsDriverSays, _) => info.start.ring(kind),
            (Start::At(state), _) => state,
            (Start::WhereUsedStands, RingKind::Split) => {
                RingState { avail: self.quiet_index(index, addresses)?, used: 0 }
            }
            (Start::WhereUsedStands, RingKind::Packed) => {
                return Err(Error::PackedTakeOver { name: name.into(), queue: index });
            }
        };
        let event_idx = self.device.features()? & 1 << EVENT_IDX != 0;
        let config = RingConfig { kind, addresses, size, state, event_idx };
        debug!("disk {name}: queue {index} starts: {config:x?}");
        let log = self.log.as_ref().map(|log| log.of_queue(index, kind)).transpose()?;
        let queue = &mut self.queues[usize::from(index)];
        let setup = Setup { map: self.space.map(), config, log };
        let Started { again, problem } =
            queue.start(&self.device, &self.events, &self.blk, &self.bdev, setup)?;
        if again > 0 {
            info!("disk {name}: queue {index}: {again} requests were in flight and are done again");
        }
        if let Some(e) = problem {
            self.problem(&e);
        }
        Ok(true)
    }

    /// The format that the driver chose.
    fn ring_kind(&self) -> Result<RingKind, Error> {
        let packed = self.device.features()? & 1 << RING_PACKED != 0;
        Ok(if packed { RingKind::Packed } else { RingKind::Split })
    }

    /// Goes on with the queues of a device that another process served until it died: where its log says or, without one, if
    /// nothing is in flight.
    ///
    /// # Errors
    /// [`Error::Log`]; without a log [`Error::InFlight`] when a queue has requests whose fate nobody knows.
    pub(crate) fn take_over(&mut self) -> Result<(), Error> {
        let start = match &self.log {
            None => Start::WhereUsedStands,
            Some(log) if log.goes_on(self.is_ready()?, self.ring_kind()?)? => {
                // Requests that are done again while a queue is asked for its state cannot ask for a mapping.
                self.space.resolve_all()?;
                Start::AsDriverSays
            }
            Some(_) => return Ok(()),
        };
        self.steer_interrupts();
        for index in 0..self.queues.len() as u16 {
            if self.resume_queue(index, start)? {
                self.attached.store(true, Ordering::Relaxed);
                // Used entries may have been shown without the interrupt that was to follow.
                let _ = self.device.injector(index).inject();
            }
        }
        Ok(())
    }

    /// Whether the driver has made a queue ready.
    fn is_ready(&self) -> Result<bool, Error> {
        for index in 0..self.queues.len() as u16 {
            if self.device.vq_info(index)?.ready {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Starts a queue of a process that died. With a log, one whose ring is not mapped at the moment waits for that.
    fn resume_queue(&mut self, index: u16, start: Start) -> Result<bool, Error> {
        let unmapped = match self.start_queue(index, start) {
            Err(e @ Error::Queue { source: QueueError::RingUnmapped { .. }, .. }) if self.log.is_some() => e,
            other => return other,
        };
        info!("{unmapped}; queue {index} waits for the next change of mappings");
        self.suspended.push((index, start));
        Ok(true)
    }

    /// The used index of a ring in which nothing is in flight.
    fn quiet_index(&self, queue: u16, at: RingAddresses) -> Result<u16, Error> {
        let map = self.space.map();
        let (avail, used) = (map.read_u16(at.avail.wrapping_add(2)), map.read_u16(at.used.wrapping_add(2)));
        let (avail, used) = (avail.unwrap_or(0), used.unwrap_or(0));
        if avail != used {
            let requests = avail.wrapping_sub(used);
            return Err(Error::InFlight { name: self.device.name().into(), queue, requests });
        }
        Ok(used)
    }

    /// Stops all queues and says where the drained ones stood.
    fn stop_queues(&mut self) -> Vec<(u16, Stood)> {
        let stopped = stop_all(self.device.name(), &mut self.queues, &self.until_gone);
        for e in &stopped.problems {
            self.problem(e);
        }
        stopped.quiet
    }

    /// A queue met an address that is not mapped: map it, and hand the map to all queues, which will meet it next. When
    /// nothing is there, the map goes back to that queue alone, so that it stops waiting and fails that one request.
    fn map_for(&mut self, queue: u16, iova: u64) {
        let found = self.space.resolve(iova).unwrap_or_else(|e| {
            self.problem(&e);
            false
        });
        if !found {
            debug!("disk {}: the driver named IOVA {iova:#x}, where nothing is mapped", self.device.name());
        }
        for index in 0..self.queues.len() {
            let (name, map, other) = (self.device.name(), self.space.map(), &self.queues[index]);
            let told = match index == usize::from(queue) {
                true => other.answer(name, iova, map),
                false if found => other.set_memory(name, map),
                false => Ok(()),
            };
            if let Err(e) = told {
                self.problem(&e);
            }
        }
    }

    /// Mappings changed: no queue may touch an old one once this is answered. Queues that run are taken down and set up
    /// again where they stood, with the new mappings.
    fn update_iotlb(&mut self, start: u64, last: u64) -> Result<(), Error> {
        debug!("disk {}: mappings of {start:#x}..={last:#x} changed", self.device.name());
        let stood = self.stop_queues();
        let start = |stood: Stood| match stood.pending {
            0 => Start::At(stood.at),
            // The log says where; that place is behind requests that were never done.
            _ => Start::AsDriverSays,
        };
        self.suspended.extend(stood.into_iter().map(|(index, stood)| (index, start(stood))));
        self.space.forget();
        // As in `take_over`.
        if self.log.is_some() {
            self.space.resolve_all().unwrap_or_else(|e| self.problem(&e));
        }
        for (index, start) in std::mem::take(&mut self.suspended) {
            match self.start_queue(index, start) {
                Ok(true) => {}
                Ok(false) => self.suspended.push((index, start)),
                Err(e) => {
                    // Its ring may be on the move: the next change may bring it back.
                    info!("{e}; queue {index} waits for the next change of mappings");
                    self.suspended.push((index, start));
                }
            }
        }
        if self.is_hanging() {
            return Err(Error::StillHanging { name: self.device.name().into() });
        }
        Ok(())
    }

    /// How far a queue has come, with nothing in flight at that moment.
    fn queue_state(&mut self, index: u32) -> Result<Reply, Error> {
        let name = self.device.name();
        let known = usize::try_from(index).ok().and_then(|at| self.queues.get_mut(at));
        let Some(queue) = known else { return Ok(Reply::Failed) };
        let number = queue.index();
        let stood = self.suspended.iter().find(|(suspended, _)| *suspended == number);
        let state = if queue.is_running() {
            let settled = settle(name, std::slice::from_ref(queue), BlkQueue::pause);
            queue.resume(name)?;
            let not_quiet =
                || Error::NotQuiet { name: name.into(), queue: number, timeout: crate::queue::DRAIN_TIMEOUT };
            settled.first().ok_or_else(not_quiet)?.1
        } else if let Some((_, start)) = stood {
            // Without the ring the log does not tell whether its last batch was shown. Better no answer than a wrong one: the
            // driver's base would have it do again all that it ever asked for.
            let Start::At(stood) = start else {
                return Err(Error::RingAway { name: name.into(), queue: number });
            };
            *stood
        } else {
            return Ok(Reply::VqState { queue: index, state: self.device.vq_info(number)?.start });
        };
        Ok(Reply::VqState { queue: index, state: VqState::new(self.ring_kind()?, state) })
    }

    fn problem(&mut self, error: &Error) {
        error!("{error}");
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(error.to_string());
        } else {
            self.problems_left_out += 1;
        }
    }
}

impl Drop for Session {
    /// Also on the way out of a panic: queues must not outlive the memory that they work on.
    fn drop(&mut self) {
        self.stop_queues();
        self.space.close(self.is_hanging());
    }
}
