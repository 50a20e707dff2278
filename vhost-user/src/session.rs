//! One client's view of a disk: features, memory, queues. Lives on the disk's control thread; outlives clients, with
//! [`Session::end`] between two of them.
//!
//! ```text
//!   messages ──► handler.rs ──► Session ──start, stop, set_memory──► Queue ──jobs──► reactor
//!   reactors ──events──────────►   │
//!                                  └─ Table: the client's memory
//! ```
//! Two rules keep it safe: memory is taken away only after every queue is off its reactor, and a client is served only
//! when every queue of the last one is.

use std::sync::Arc;
use std::time::Instant;

use spinblk_bdev::Bdev;
use spinblk_reactor::Handle;
use spinblk_virtio::RingKind;
use spinblk_virtio::blk::{Device as BlkDevice, DeviceOptions};
use tracing::{debug, error, warn};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::{virtio_config, virtio_ring};

use crate::call::{Event, Events};
use crate::channel::Channel;
use crate::log::Logs;
use crate::memory::Table;
use crate::queue::{DRAIN_TIMEOUT, Disk, Queue};
use crate::vring::Negotiated;
use crate::{Error, QueueReport, RingOptions, ServerConfig};

/// The client enables queues one by one, and there are protocol features.
pub(crate) const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
/// Meaningless between processes that share memory as it is; clients without an IOMMU refuse it.
const ACCESS_PLATFORM: u64 = 1 << virtio_config::VIRTIO_F_ACCESS_PLATFORM;
const EVENT_IDX: u64 = 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX;
const RING_PACKED: u64 = 1 << virtio_config::VIRTIO_F_RING_PACKED;

/// The state of one disk and its client.
pub(crate) struct Session {
    pub(crate) disk: Disk,
    pub(crate) queues: Vec<Queue>,
    pub(crate) memory: Table,
    /// The virtio features that the client accepted.
    pub(crate) features: u64,
    pub(crate) protocol: VhostUserProtocolFeatures,
    pub(crate) status: u8,
    /// What the client keeps of requests in flight.
    pub(crate) logs: Option<Logs>,
    pub(crate) channel: Option<Channel>,
    problems: Vec<String>,
}

impl Session {
    pub(crate) fn new(
        config: &ServerConfig,
        rings: RingOptions,
        bdev: Arc<dyn Bdev>,
        reactors: &[Arc<Handle>],
        events: Arc<Events>,
    ) -> Self {
        let RingOptions { indirect, event_idx, packed } = rings;
        let options = DeviceOptions {
            queues: config.queues,
            queue_size: config.queue_size,
            serial: config.serial.clone(),
            indirect,
            event_idx,
            packed,
            coalesce: true,
        };
        let blk = BlkDevice::new(bdev.info().clone(), options);
        let queues = (0..usize::from(config.queues))
            .map(|index| Queue::new(index, Arc::clone(&reactors[index % reactors.len()])))
            .collect();
        let memory = Table::new(&config.name, &events.wake);
        let disk = Disk { name: config.name.clone(), blk, bdev, events, queue_size: config.queue_size };
        Self {
            disk,
            queues,
            memory,
            features: 0,
            protocol: VhostUserProtocolFeatures::empty(),
            status: 0,
            logs: None,
            channel: None,
            problems: Vec::new(),
        }
    }

    /// The virtio features offered.
    pub(crate) fn offered(&self) -> u64 {
        self.disk.blk.features() & !ACCESS_PLATFORM | PROTOCOL_FEATURES
    }

    /// The queue that a message names.
    pub(crate) fn queue(&mut self, index: u32) -> Result<&mut Queue, Error> {
        let queues = self.queues.len();
        let name = &self.disk.name;
        self.queues.get_mut(index as usize).ok_or_else(|| Error::NoSuchQueue {
            name: name.clone(),
            queue: index,
            queues,
        })
    }

    /// What the accepted features say about rings.
    pub(crate) fn negotiated(&self) -> Negotiated {
        let has = |bit: u64| self.features & bit != 0;
        Negotiated {
            kind: if has(RING_PACKED) { RingKind::Packed } else { RingKind::Split },
            event_idx: has(EVENT_IDX),
            implied: !has(PROTOCOL_FEATURES),
        }
    }

    /// Starts or stops a queue, as all that the client said of it demands.
    pub(crate) fn settle(&mut self, index: u32) -> Result<(), Error> {
        self.queue(index)?;
        let (at, negotiated) = (index as usize, self.negotiated());
        let wanted = self.queues[at].vring.config(negotiated, |user| self.memory.guest_address(user));
        match wanted {
            None => self.queues[at].stop(&self.disk, Instant::now() + DRAIN_TIMEOUT),
            Some(_) if self.queues[at].is_running() => Ok(()),
            Some(Some(config)) => {
                let log = self.log_of(at, config.kind)?;
                debug!("disk {}: queue {index} starts: {config:x?}", self.disk.name);
                self.queues[at].start(&self.disk, self.memory.map(), config, log)
            }
            Some(None) => Err(Error::Vring {
                name: self.disk.name.clone(),
                queue: at,
                reason: format!("its ring {:x?} lies outside the shared memory", self.queues[at].vring.ring),
            }),
        }
    }

    /// The client's choice of features. A change of the rings' format makes void what was said of them.
    pub(crate) fn accept_features(&mut self, features: u64) -> Result<(), Error> {
        if (self.features ^ features) & RING_PACKED != 0 {
            self.stop_queues()?;
            for queue in &mut self.queues {
                (queue.vring.size, queue.vring.state) = (None, None);
            }
        }
        self.features = features;
        Ok(())
    }

    /// Takes all queues off their reactors, changes the memory, and lets those go on whose rings are still in it. The
    /// others wait for new addresses.
    pub(crate) fn change_memory(
        &mut self,
        change: impl FnOnce(&mut Table) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.stop_queues()?;
        change(&mut self.memory)?;
        for index in 0..self.queues.len() {
            let vring = self.queues[index].vring;
            let reachable = |ring: crate::vring::UserRing| {
                [ring.desc, ring.avail, ring.used].iter().all(|&at| self.memory.guest_address(at).is_some())
            };
            if vring.ring.is_some_and(reachable) {
                self.settle(index as u32)?;
            } else {
                self.queues[index].vring.ring = None;
            }
        }
        Ok(())
    }

    /// Gives running queues a map that has grown.
    pub(crate) fn memory_grew(&mut self) -> Result<(), Error> {
        self.queues.iter().try_for_each(|queue| queue.set_memory(&self.disk, self.memory.map()))
    }

    /// Takes all queues off their reactors.
    pub(crate) fn stop_queues(&mut self) -> Result<(), Error> {
        let by = Instant::now() + DRAIN_TIMEOUT;
        // All drain at the same time, and every one is tried, whatever the one before it said.
        let paused: Vec<_> = self.queues.iter().map(|queue| queue.pause(&self.disk)).collect();
        let stopped: Vec<_> = self.queues.iter_mut().map(|queue| queue.stop(&self.disk, by)).collect();
        paused.into_iter().chain(stopped).collect()
    }

    /// Makes sure that nothing of the last client is left.
    pub(crate) fn begin(&mut self) -> Result<(), Error> {
        self.stop_queues()?;
        self.forget();
        Ok(())
    }

    /// The client is gone, or has to go: drains and removes its queues, then forgets it. A queue that cannot be drained
    /// stays on its reactor, paused, and keeps its memory mapped.
    pub(crate) fn end(&mut self) {
        if let Err(e) = self.stop_queues() {
            error!("{e}; no client is served until that ends");
            self.problems.push(e.to_string());
        }
        self.take_events();
        self.forget();
    }

    fn forget(&mut self) {
        self.queues.iter_mut().for_each(Queue::forget);
        self.memory.clear();
        self.features = 0;
        self.protocol = VhostUserProtocolFeatures::empty();
        self.status = 0;
        self.logs = None;
        self.channel = None;
    }

    /// The error for memory that is no longer backed by the client's file, if there is one.
    pub(crate) fn gone(&self) -> Option<Error> {
        let gone = || self.bad_log("cannot be reached any more: its file was made shorter".into());
        self.memory.gone().or_else(|| self.logs.as_ref().filter(|logs| logs.is_gone()).map(|_| gone()))
    }

    /// Answers what queues told.
    pub(crate) fn take_events(&mut self) {
        // Not readable is not an error: nobody woke us.
        let _ = self.disk.events.wake.read();
        while let Some(event) = self.disk.events.queue.pop() {
            match event {
                // All memory is known beforehand, so the answer is the same map: that request fails, alone.
                Event::Unmapped { queue, iova } => {
                    debug!("disk {}: queue {queue}: nothing is shared at {iova:#x}", self.disk.name);
                    if let Err(e) = self.queues[queue].answer(&self.disk, iova, self.memory.map()) {
                        warn!("{e}");
                    }
                }
                Event::Broken { queue, error: source } => {
                    let e = Error::Queue { name: self.disk.name.clone(), queue, source };
                    warn!("{e}; it stays stopped until the client sets it up anew");
                    self.needs_reset();
                }
            }
        }
        self.tell_of_config();
    }

    /// What the queues did, and what went wrong on our side.
    pub(crate) fn report(&mut self) -> (Vec<QueueReport>, Vec<String>) {
        (self.queue_reports(), std::mem::take(&mut self.problems))
    }

    /// The queues and their boards, which outlive every client.
    pub(crate) fn queue_reports(&self) -> Vec<QueueReport> {
        let report =
            |q: &Queue| QueueReport { index: q.index as u16, core: q.core(), board: Arc::clone(q.board()) };
        self.queues.iter().map(report).collect()
    }
}
