//! One disk on the vDPA bus, from creation to destruction.
//!
//! ```text
//!   start:  CREATE_DEV ─► open, VQ_SETUP, sysfs ─► control thread ─► attach (driver probes: messages, I/O)
//!   stop:   detach (driver lets go: drain, reset) ─► control thread ends ─► DESTROY_DEV
//! ```
//! A failure on the way up undoes what was done, in reverse. On the way down every step is tried, whatever the one
//! before it said, and each is bounded in time.
//!
//! A device of that name may be there already, left by a process that died. One that is not on the bus is made anew;
//! one that is, is taken over with its driver and users still attached, and goes on where its log says (`log/`). Without a
//! log it must be quiet.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};
use spinblk_bdev::Bdev;
use spinblk_reactor::{Handle, Hugepages, off_reactor_cores};
use spinblk_virtio::blk::{CAPACITY_BYTES, Device as BlkDevice, DeviceOptions};
use tracing::{debug, info, warn};

use crate::control::check_name;
use crate::error::detach_hint;
use crate::log::{Claim, DeviceLog, Identity};
use crate::queue::{Events, Queue};
use crate::session::{Parts, QueueReport, Session, SessionReport};
use crate::{Attributes, Bus, BusDriver, Control, Created, Device, DeviceSpec, Error, irq_cpus_off};

/// virtio's number for block devices.
const DEVICE_ID_BLOCK: u32 = 2;
/// Probing reads the partition table; under emulation on a busy host that takes seconds.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(60);
/// How long detaching goes on without any I/O getting done.
const DETACH_TIMEOUT: Duration = Duration::from_secs(40);
/// How long the kernel waits for an answer before it gives the device up for good. Twice what it would be, because a
/// drain may take long, and no user gains from losing the disk.
const MESSAGE_TIMEOUT_S: u32 = 60;
/// For a disk that the next process can go on with: the kernel waits for that one, however long it takes to come. Whoever
/// waits for it can be killed meanwhile.
const WAIT_FOR_EVER: u32 = 0;
const SECTOR_BYTES: u64 = 512;
/// A queue has one open question at a time and breaks once; a pause may make it ask again.
const EVENTS_PER_QUEUE: usize = 8;
/// The disk's node appears with the driver's probe, udev may lag.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
const NODE_STEP: Duration = Duration::from_millis(5);

/// What a disk is to look like.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Its name: of the VDUSE device and on the vDPA bus.
    pub name: String,
    /// Virtqueues, dealt over the reactors in turn.
    pub queues: u16,
    /// Entries of each.
    pub queue_size: u16,
    /// What the guest reads as serial number.
    pub serial: String,
    /// Whether to offer packed rings; a Linux driver takes them when they are offered.
    pub packed: bool,
    /// Who gets it: containers (virtio-vdpa) or VMs (vhost-vdpa).
    pub driver: BusDriver,
    /// Size of the bounce region; `None` leaves the kernel's 64 MiB.
    pub bounce_bytes: Option<u64>,
    /// Where the bounce memory comes from.
    pub hugepages: Hugepages,
    /// Whether its contents end with this process: then nobody can take it over.
    pub volatile: bool,
    /// All cores that this process polls: interrupts are kept off them.
    pub polled_cores: Vec<usize>,
    /// Whether to note what is in flight, so that another process can go on after this one was killed.
    pub resume: bool,
    /// The folder for that, on a tmpfs. Always the same one, or a log is not found.
    pub state_dir: PathBuf,
}

/// What a disk did, told when it stops.
pub struct DiskReport {
    /// Its name.
    pub name: String,
    /// `/dev/vdX` or `/dev/vhost-vdpa-N`, as it was.
    pub device_path: Option<PathBuf>,
    /// Whether the kernel bounced through our memory.
    pub umem: bool,
    /// Its queues.
    pub queues: Vec<QueueReport>,
    /// What went wrong on the way, in sentences.
    pub problems: Vec<String>,
}

/// A disk that is being served.
pub struct Export {
    config: DiskConfig,
    control: Control,
    bus: Bus,
    /// Against others who serve, or make, a disk of that name.
    claim: Option<Claim>,
    /// Whether the VDUSE device is ours to detach and destroy.
    ours: bool,
    /// Whether another process made it, and died.
    taken_over: bool,
    /// Whether what is in flight is noted for another process.
    has_log: bool,
    running: Option<Running>,
    device_path: Option<PathBuf>,
    queues: Vec<QueueReport>,
    /// Set while a driver has it.
    attached: Arc<AtomicBool>,
}

/// A device to be served.
struct Made {
    device: Arc<Device>,
    log: Option<DeviceLog>,
    /// Another process made it, and it is on the bus.
    taken_over: bool,
}

/// The control thread, how to end it, and what it serves.
struct Running {
    thread: JoinHandle<SessionReport>,
    device: Arc<Device>,
    /// Locked while the kernel is given a capacity: of two at once, the older one must not come last.
    blk: Mutex<Arc<BlkDevice>>,
    stop: Arc<AtomicBool>,
    events: Arc<Events>,
}

impl Export {
    /// Creates the disk, serves it on `reactors` and attaches it. Returns when its driver has it. The program must call
    /// [`helper`](crate::helper) first of all.
    ///
    /// # Errors
    /// [`Error`]; whatever was set up before it is undone.
    ///
    /// # Panics
    /// Never, but needs at least one reactor: [`Error::Spec`] otherwise.
    pub fn start(config: DiskConfig, bdev: Arc<dyn Bdev>, reactors: &[Arc<Handle>]) -> Result<Self, Error> {
        let bus = Bus::system();
        // Before anything is made: the two things that most hosts lack.
        let control = Control::open()?;
        bus.check_driver(config.driver)?;
        bus.restore_autoprobe();
        let mut export = Self {
            config,
            control,
            bus,
            claim: None,
            ours: false,
            taken_over: false,
            has_log: false,
            running: None,
            device_path: None,
            queues: Vec::new(),
            attached: Arc::default(),
        };
        match export.bring_up(bdev, reactors) {
            Ok(()) => Ok(export),
            Err(e) => {
                for problem in export.take_down().problems {
                    warn!("while undoing: {problem}");
                }
                Err(e)
            }
        }
    }

    /// `/dev/vdX` or `/dev/vhost-vdpa-N`.
    #[must_use]
    pub fn device_path(&self) -> Option<PathBuf> {
        self.device_path.clone()
    }

    /// Whether its control thread still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.thread.is_finished())
    }

    /// Its queues, whose boards may be read at any time.
    #[must_use]
    pub fn queues(&self) -> &[QueueReport] {
        &self.queues
    }

    /// Set while a driver has it.
    #[must_use]
    pub fn attached(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.attached)
    }

    /// Has the driver read the configuration space again, with the capacity that the bdev has now, if there is a driver at
    /// work. One that is just starting may have read the old capacity already: then it takes another call.
    ///
    /// # Errors
    /// [`Error::Call`], [`Error::Broken`].
    pub fn announce_config_change(&self) -> Result<(), Error> {
        let Some(Running { device, blk, .. }) = &self.running else { return Ok(()) };
        let blk = blk.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing but the capacity, whole: a driver may read at the same time.
        device.set_config(0, &blk.config_space()[..CAPACITY_BYTES])?;
        if !device.inject_config_irq()? {
            debug!("disk {}: no driver to tell that the configuration space has changed", self.config.name);
        }
        Ok(())
    }

    /// Drains, detaches and destroys it, and reports. What could not be done is in [`DiskReport::problems`].
    #[must_use]
    pub fn stop(mut self) -> DiskReport {
        self.take_down()
    }

    /// As [`stop`](Self::stop), for a start that failed: a disk that was taken over stays where it is, with its log, for the
    /// next process to take over. Those who use it wait, and lose nothing.
    #[must_use]
    pub fn undo(self) -> DiskReport {
        let stays = self.taken_over;
        self.end(stays)
    }

    /// As [`stop`](Self::stop), for a process that cannot go on: a disk that the next one can take over stays for it, whoever
    /// made it.
    #[must_use]
    pub fn leave(self) -> DiskReport {
        let stays = self.taken_over || (self.has_log && !self.config.volatile);
        self.end(stays)
    }

    fn end(mut self, stays: bool) -> DiskReport {
        if stays {
            self.ours = false;
            info!("disk {}: stays attached, for the next process to serve it", self.config.name);
        }
        self.take_down()
    }

    fn bring_up(&mut self, bdev: Arc<dyn Bdev>, reactors: &[Arc<Handle>]) -> Result<(), Error> {
        let name = self.config.name.clone();
        if reactors.is_empty() {
            return Err(Error::Spec { name, reason: "it has no reactor to serve it".into() });
        }
        let blk = Arc::new(BlkDevice::new(bdev.info().clone(), self.device_options()));
        let Made { device, log, taken_over } = self.create(&blk)?;
        // Contents in memory went with the process that died, so nobody can have used this disk: nothing to be left for others.
        self.taken_over = taken_over && !self.config.volatile;
        self.ours |= taken_over && self.config.volatile;
        self.has_log = log.is_some();
        let events = Arc::new(Events {
            queue: ArrayQueue::new(EVENTS_PER_QUEUE * usize::from(self.config.queues)),
            wake: EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .map_err(|e| Error::Thread { name: name.clone(), action: "its events", source: e.into() })?,
            progress: AtomicU64::new(0),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let queues = (0..self.config.queues)
            .map(|index| {
                let reactor = reactors[usize::from(index) % reactors.len()].clone();
                Queue::new(index, reactor, log.as_ref().map(DeviceLog::hold))
            })
            .collect();
        let mut session = Session::new(Parts {
            device: Arc::clone(&device),
            blk: Arc::clone(&blk),
            bdev,
            queues,
            events: events.clone(),
            stop: stop.clone(),
            attached: Arc::clone(&self.attached),
            irq_cpus: irq_cpus_off(&self.config.polled_cores)?,
            hugepages: self.config.hugepages,
            queue_size: self.config.queue_size,
            log,
        });
        self.queues = session.queue_reports();
        if taken_over {
            session.take_over()?;
            info!("disk {name}: taken over from the process that served it before");
        }
        let cores = self.config.polled_cores.clone();
        let thread = std::thread::Builder::new()
            .name(format!("vduse-{name}"))
            .spawn(move || {
                off_reactor_cores(&cores);
                session.run()
            })
            .map_err(|source| Error::Thread { name: name.clone(), action: "control messages", source })?;
        self.running = Some(Running { thread, device, blk: Mutex::new(blk), stop, events });
        if !taken_over {
            self.bus.attach(&name, self.config.driver, ATTACH_TIMEOUT)?;
        } else {
            self.finish_probe()?;
            // The process that died may have grown the disk and not said so.
            self.announce_config_change()?;
        }
        self.device_path = Some(self.wait_for_node()?);
        // Of a device that was taken over, not before: until here it is not ours to take down.
        self.ours = true;
        Ok(())
    }

    fn device_options(&self) -> DeviceOptions {
        DeviceOptions {
            queues: self.config.queues,
            queue_size: self.config.queue_size,
            serial: self.config.serial.clone(),
            // virtio-vdpa would bounce every indirect table: one more page to copy and to map per request, for rings that
            // are long enough without.
            indirect: self.config.driver == BusDriver::VhostVdpa,
            event_idx: true,
            packed: self.config.packed,
            coalesce: true,
        }
    }

    /// Has the driver take a device that it was not given yet, or whose probe ended with the process that served it.
    fn finish_probe(&self) -> Result<(), Error> {
        let (name, driver) = (&self.config.name, self.config.driver);
        self.bus.wait_for_others(name, ATTACH_TIMEOUT)?;
        let has_node = driver == BusDriver::VhostVdpa || self.bus.block_device(name).is_some();
        if self.bus.bound_driver(name).is_some() && has_node {
            return Ok(());
        }
        match self.bus.unbind(name, DETACH_TIMEOUT, &|| 0) {
            // Somebody else may have taken it from its driver meanwhile.
            Err(e) if self.bus.bound_driver(name).is_some() => Err(e),
            _ => self.bus.bind(name, driver, ATTACH_TIMEOUT),
        }
    }

    /// Makes the device and sets it up, or opens the one that is on the bus already.
    fn create(&mut self, blk: &BlkDevice) -> Result<Made, Error> {
        let (name, state_dir) = (&self.config.name, &self.config.state_dir);
        check_name(name)?;
        self.claim = match self.config.resume {
            true => Some(Claim::make(state_dir, name)?),
            false => Claim::find(state_dir, name)?,
        };
        let config_space = blk.config_space();
        let spec = DeviceSpec {
            name,
            device_id: DEVICE_ID_BLOCK,
            vendor_id: 0,
            features: blk.features(),
            queues: self.config.queues,
            config: &config_space,
        };
        let mut created = self.control.create(&spec)?;
        if created == Created::Existed {
            // Opening tells whether somebody serves it.
            let device = Device::open(name)?;
            if self.bus.has_device(name) {
                self.check_leftover(&device, blk)?;
                let identity = self.identity(blk)?;
                let log =
                    self.claim.as_ref().map(|claim| DeviceLog::open(claim, identity)).transpose()?.flatten();
                if log.is_none() && self.config.resume {
                    warn!("disk {name}: whoever made it kept no log, so there is none until it is made anew");
                }
                return Ok(Made { device: Arc::new(device), log, taken_over: true });
            }
            drop(device);
            info!("disk {name}: a device without users was left by another process: making it anew");
            self.control.destroy(name)?;
            created = self.control.create(&spec)?;
        }
        if created == Created::Existed || self.bus.has_device(name) {
            if created == Created::New {
                self.control.destroy(name)?;
            }
            let reason = "the vDPA bus has a device of that name already; choose another name";
            return Err(Error::Spec { name: name.clone(), reason: reason.into() });
        }
        self.ours = true;
        let device = Arc::new(Device::open(name)?);
        for queue in 0..self.config.queues {
            device.vq_setup(queue, self.config.queue_size)?;
        }
        let attributes = Attributes::new(name)?;
        attributes.set_msg_timeout_s(if self.config.resume { WAIT_FOR_EVER } else { MESSAGE_TIMEOUT_S })?;
        if let Some(bytes) = self.config.bounce_bytes {
            attributes.set_bounce_size_bytes(bytes)?;
        }
        let identity = self.identity(blk)?;
        let log = match self.claim.take_if(|_| !self.config.resume) {
            Some(useless) => useless.remove().map(|()| None)?,
            None => self.claim.as_ref().map(|claim| DeviceLog::create(claim, identity)).transpose()?,
        };
        Ok(Made { device, log, taken_over: false })
    }

    /// What the disk's log is known by.
    fn identity(&self, blk: &BlkDevice) -> Result<Identity, Error> {
        Ok(Identity {
            name: self.config.name.clone(),
            device: Attributes::new(&self.config.name)?.incarnation()?,
            queues: self.config.queues,
            queue_size: self.config.queue_size,
            features: blk.features(),
            size_bytes: blk.info().size_bytes(),
            serial: blk.serial(),
        })
    }

    /// Whether a device that is still attached is this disk, as far as can be seen from outside.
    fn check_leftover(&self, device: &Device, blk: &BlkDevice) -> Result<(), Error> {
        let name = &self.config.name;
        if self.config.volatile && self.bus.bound_driver(name).is_some() {
            let reason = format!(
                "it is attached already, and its contents were in the memory of a process that is gone; detach it once \
                 nothing uses it: {}",
                detach_hint(name)
            );
            return Err(Error::Spec { name: name.clone(), reason });
        }
        let other = |what: &str| {
            let reason = format!(
                "it is attached already, with {what}; serve it as it was, or detach it once nothing uses it: {}",
                detach_hint(name)
            );
            Err(Error::Spec { name: name.clone(), reason })
        };
        if device.features()? & !blk.features() != 0 {
            return other("features that this configuration does not have");
        }
        if device.vq_info(self.config.queues).is_ok() || device.vq_info(self.config.queues - 1).is_err() {
            return other("another number of queues");
        }
        match self.bus.bound_driver(name) {
            Some(driver) if driver != self.config.driver.name() => {
                return other(&format!("the driver {driver}"));
            }
            _ => {}
        }
        let Some(disk) = self.bus.block_attributes(name) else { return Ok(()) };
        // It may have grown since.
        if disk.sectors > blk.info().size_bytes() / SECTOR_BYTES {
            return other(&format!("{} sectors", disk.sectors));
        }
        if disk.read_only != blk.info().read_only {
            return other(if disk.read_only { "writing refused" } else { "writing allowed" });
        }
        Ok(())
    }

    fn wait_for_node(&self) -> Result<PathBuf, Error> {
        let name = &self.config.name;
        let deadline = Instant::now() + NODE_TIMEOUT;
        loop {
            let node = match self.config.driver {
                BusDriver::VirtioVdpa => self.bus.block_device(name),
                BusDriver::VhostVdpa => self.bus.vhost_device(name),
            };
            match node.filter(|node| node.exists()) {
                Some(node) => return Ok(node),
                None if Instant::now() >= deadline => {
                    return Err(Error::NoNode { name: name.clone(), driver: self.config.driver.name() });
                }
                None => std::thread::sleep(NODE_STEP),
            }
        }
    }

    /// Takes the device from its driver, then off the bus. The first waits for I/O, which may be minutes of writeback:
    /// given up only when nothing gets done any more. It comes first because the second holds up the whole bus.
    fn detach(&self, running: &Running) -> Result<(), Error> {
        let name = &self.config.name;
        let progress = || running.events.progress.load(Ordering::Relaxed);
        self.bus.unbind(name, DETACH_TIMEOUT, &progress)?;
        self.bus.detach(name, DETACH_TIMEOUT).map(|_| ())
    }

    fn take_down(&mut self) -> DiskReport {
        let name = self.config.name.clone();
        let mut problems = Vec::new();
        if self.ours && self.bus.has_device(&name) {
            // Nobody would answer the driver's messages without the control thread.
            let detached = match &self.running {
                Some(running) => self.detach(running),
                None => Ok(()),
            };
            detached.unwrap_or_else(|e| problems.push(e.to_string()));
        }
        let session = self.running.take().map(|running| {
            running.stop.store(true, Ordering::Release);
            running.events.wake();
            running.thread.join()
        });
        let (umem, queues) = match session {
            Some(Ok(report)) => {
                problems.extend(report.problems);
                (report.umem, report.queues)
            }
            Some(Err(_)) => {
                problems.push(format!("disk {name}: its control thread ended in a panic"));
                (false, Vec::new())
            }
            None => (false, Vec::new()),
        };
        if std::mem::take(&mut self.ours) {
            let destroyed = self.control.destroy(&name);
            // On the bus it may still be wanted.
            let useless = self.claim.take_if(|_| !self.bus.has_device(&name));
            let removed = useless.map_or(Ok(()), Claim::remove);
            problems.extend([destroyed, removed].into_iter().filter_map(Result::err).map(|e| e.to_string()));
        }
        DiskReport { name, device_path: self.device_path.take(), umem, queues, problems }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        if self.running.is_some() || self.ours {
            for problem in self.take_down().problems {
                warn!("{problem}");
            }
        }
    }
}
