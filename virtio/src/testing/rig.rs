//! A queue on a reactor core of the calling thread, with a driver at its other end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use spinblk_bdev::Bdev;
use spinblk_perf::{Clock, QueueBoard};
use spinblk_reactor::{Core, Poller, Progress, Ring};

use super::Driver;
use crate::blk::{BlkQueue, Device, DeviceOptions, QueueHost};
use crate::{QueueError, RingKind};

/// What a queue told its host.
#[derive(Debug, Default)]
pub struct HostLog {
    /// Interrupts.
    pub interrupts: AtomicU64,
    /// Mappings asked for.
    pub unmapped: AtomicU64,
    /// The last address asked for.
    pub last_unmapped: AtomicU64,
    /// Times that the queue broke.
    pub broken: AtomicU32,
}

struct LogHost(Arc<HostLog>);

impl QueueHost for LogHost {
    fn interrupt(&mut self, _: &mut Ring) {
        self.0.interrupts.fetch_add(1, Ordering::Relaxed);
    }
    fn unmapped(&mut self, iova: u64) {
        self.0.unmapped.fetch_add(1, Ordering::Relaxed);
        self.0.last_unmapped.store(iova, Ordering::Relaxed);
    }
    fn broken(&mut self, _: QueueError) {
        self.0.broken.fetch_add(1, Ordering::Relaxed);
    }
}

/// A queue on a reactor core of its own making, on the calling thread, with a [`Driver`] at its other end.
pub struct Rig {
    /// The driver.
    pub driver: Driver,
    /// The device's queue.
    pub queue: BlkQueue,
    /// The reactor's part that pollers see.
    pub core: Box<Core>,
    /// What the queue told its host.
    pub log: Arc<HostLog>,
    /// What the queue did.
    pub board: Arc<QueueBoard>,
}

impl Rig {
    /// Joins `driver` to a queue over `bdev`, on a core of its own.
    #[must_use]
    pub fn new(driver: Driver, bdev: &dyn Bdev) -> Self {
        Self::on(Self::core(), driver, bdev)
    }

    /// A core of its own, for [`Rig::on`].
    ///
    /// # Panics
    /// When io_uring cannot be had.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn core() -> Box<Core> {
        let clock = Clock::get();
        Box::new(Core {
            ring: Ring::new(256).expect("io_uring"),
            clock,
            now: clock.now(),
            looked: clock.now(),
        })
    }

    /// Joins `driver` to a queue over `bdev` on a core that was used before.
    ///
    /// # Panics
    /// When the bdev cannot be opened.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn on(mut core: Box<Core>, driver: Driver, bdev: &dyn Bdev) -> Self {
        let options = DeviceOptions {
            queues: 1,
            queue_size: driver.size(),
            serial: "spinblk-test-serial".into(),
            indirect: true,
            event_idx: driver.ring_config().event_idx,
            packed: driver.ring_config().kind == RingKind::Packed,
            // Tests count interrupts; those of coalescing have their own.
            coalesce: false,
        };
        let device = Device::new(bdev.info().clone(), options);
        let channel = bdev.open(&mut core.ring, usize::from(driver.size())).expect("channel");
        let log = Arc::new(HostLog::default());
        let host = Box::new(LogHost(log.clone()));
        let (board, ring) = (Arc::new(QueueBoard::new()), &mut core.ring);
        let (map, config) = (driver.memory_map(), driver.ring_config());
        let queue =
            BlkQueue::new(&device, channel, host, map, config, Arc::clone(&board), ring).expect("queue");
        Self { driver, queue, core, log, board }
    }

    /// Closes the queue and gives the core back.
    #[must_use]
    pub fn into_core(self) -> Box<Core> {
        let Self { mut queue, mut core, .. } = self;
        queue.close(&mut core.ring);
        core
    }

    /// One reactor iteration.
    pub fn poll(&mut self) -> Progress {
        self.core.looked = self.core.now;
        self.core.now = self.core.clock.now();
        let progress = self.queue.poll(&mut self.core);
        let _ = self.core.ring.enter();
        progress
    }

    /// Polls until the driver got everything back, a million times at most.
    pub fn drain(&mut self) -> Vec<(u16, u32)> {
        let mut got = Vec::new();
        for _ in 0..1_000_000 {
            self.poll();
            got.extend(self.driver.completed());
            if self.queue.is_quiet() && self.poll() == Progress::Idle {
                got.extend(self.driver.completed());
                break;
            }
        }
        got
    }
}
