//! The device's end: a queue over a null disk, and a core of its own for measurements without a reactor's thread.

use std::sync::Arc;

use spinblk_bdev::{Bdev, Null, NullReads};
use spinblk_perf::Clock;
use spinblk_reactor::{Core, Poller, Ring};
use spinblk_virtio::blk::{BlkQueue, Device as Disk, DeviceOptions, QueueHost};
use spinblk_virtio::{InFlightLog, QueueError, RingConfig};

use crate::{Driver, Error};

const RING_ENTRIES: u32 = 256;
const DISK_BYTES: u64 = 64 << 30;

/// Nobody waits for interrupts here, and a queue that breaks ends the program.
struct Host;

impl QueueHost for Host {
    fn interrupt(&mut self, _: &mut Ring) {}
    fn unmapped(&mut self, iova: u64) {
        give_up(&format!("nothing is mapped at {iova:#x}"));
    }
    fn broken(&mut self, error: QueueError) {
        give_up(&error.to_string());
    }
}

/// The driver would wait for ever.
fn give_up(why: &str) {
    eprintln!("error: the queue stopped: {why}");
    std::process::exit(1);
}

/// The disk under all measurements: answers at once and touches no data.
///
/// # Errors
/// [`Error::Bdev`].
pub fn null_disk() -> Result<Arc<dyn Bdev>, Error> {
    Ok(Arc::new(Null::new("null", DISK_BYTES, 512, NullReads::Untouched)?))
}

/// A queue of a disk with `queues` of them, joined to `driver`. Runs on the queue's core.
///
/// # Errors
/// [`Error::Bdev`], [`Error::Queue`].
pub fn open_queue(bdev: &dyn Bdev, queues: u16, driver: &Driver, ring: &mut Ring) -> Result<BlkQueue, Error> {
    let config = driver.ring_config();
    let options = DeviceOptions {
        queues,
        queue_size: config.size,
        serial: "spinblk-bench".into(),
        indirect: true,
        event_idx: false,
        packed: true,
        coalesce: false,
    };
    let disk = Disk::new(bdev.info().clone(), options);
    let channel = bdev.open(ring, config.size.into())?;
    Ok(BlkQueue::new(&disk, channel, Box::new(Host), driver.memory_map(), config, Arc::default(), ring)?)
}

/// Has `queue` note what is in flight, in a log of its own. Before anything is served.
///
/// # Errors
/// [`Error::InFlight`].
pub fn keep_log(queue: &mut BlkQueue, driver: &Driver) -> Result<(), Error> {
    let RingConfig { kind, size, .. } = driver.ring_config();
    let mut words = vec![0u64; InFlightLog::region_len_bytes(kind, size) / size_of::<u64>()];
    let (start, len_bytes) = (words.as_mut_ptr().cast(), words.len() * size_of::<u64>());
    // SAFETY: the vector's memory lives as long as the log that keeps it, and nobody else reaches into it.
    let log = unsafe { InFlightLog::new(kind, start, len_bytes, size, Arc::new(words)) }?;
    queue.attach_log(log)?;
    Ok(())
}

/// A queue on the calling thread.
pub struct Device {
    queue: BlkQueue,
    core: Core,
}

impl Device {
    /// Opens `bdev` for the driver.
    ///
    /// # Errors
    /// [`Error::Reactor`] without io_uring, and those of [`open_queue`].
    pub fn new(bdev: &dyn Bdev, driver: &Driver) -> Result<Self, Error> {
        let clock = Clock::get();
        let mut core = Core { ring: Ring::new(RING_ENTRIES)?, clock, now: clock.now(), looked: clock.now() };
        Ok(Self { queue: open_queue(bdev, 1, driver, &mut core.ring)?, core })
    }

    /// As [`keep_log`].
    ///
    /// # Errors
    /// [`Error::InFlight`].
    pub fn keep_log(&mut self, driver: &Driver) -> Result<(), Error> {
        keep_log(&mut self.queue, driver)
    }

    /// What a reactor does in one iteration, with this one queue.
    // A function by itself: callgrind counts what happens inside it.
    #[inline(never)]
    pub fn turn(&mut self) {
        self.core.now = self.core.clock.now();
        self.queue.poll(&mut self.core);
        let _ = self.core.ring.enter();
    }

    /// Serves `requests` reads, `depth` together.
    pub fn serve(&mut self, driver: &mut Driver, depth: u16, requests: u64) {
        let until = driver.answered() + requests;
        while driver.answered() < until {
            driver.offer(depth);
            while driver.in_flight() > 0 {
                self.turn();
                driver.collect();
            }
        }
    }
}
