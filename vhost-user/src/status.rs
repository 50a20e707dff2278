//! The device status (virtio 2.1), the in-flight logs and the backend channel, as far as a session has to do with them.
//!
//! The status is the client's to write, but for two things: FEATURES_OK does not stay when the features will not do, and
//! NEEDS_RESET comes when a ring broke. Rings run when they are kicked and enabled, whatever the status says.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use spinblk_virtio::RingKind;
use tracing::{debug, warn};
use vhost::vhost_user::message::{VhostUserInflight, VhostUserProtocolFeatures};
use virtio_bindings::virtio_config;

use crate::Error;
use crate::channel::Channel;
use crate::log::Shape;
use crate::queue::Queue;
use crate::session::Session;

const DRIVER_OK: u8 = virtio_config::VIRTIO_CONFIG_S_DRIVER_OK as u8;
const FEATURES_OK: u8 = virtio_config::VIRTIO_CONFIG_S_FEATURES_OK as u8;
const NEEDS_RESET: u8 = virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET as u8;
const VERSION_1: u64 = 1 << virtio_config::VIRTIO_F_VERSION_1;

impl Session {
    pub(crate) fn status(&self) -> u8 {
        self.status
    }

    /// Takes the client's word for the status; zero resets the device.
    pub(crate) fn set_status(&mut self, status: u64) -> Result<(), Error> {
        let Ok(mut status) = u8::try_from(status) else {
            return Err(Error::Status { name: self.disk.name.clone(), status });
        };
        if status == 0 {
            return self.reset_by(Queue::reset);
        }
        if status & FEATURES_OK != 0 && self.features & VERSION_1 == 0 {
            warn!(
                "disk {}: features {:#x} lack VERSION_1: FEATURES_OK is refused",
                self.disk.name, self.features
            );
            status &= !FEATURES_OK;
        }
        self.status = status | self.status & NEEDS_RESET;
        Ok(())
    }

    /// Back to where a device begins, but for its memory and features: drains the queues and forgets what was said of
    /// them, and what was in flight.
    pub(crate) fn reset(&mut self) -> Result<(), Error> {
        self.reset_by(Queue::forget)
    }

    fn reset_by(&mut self, forget: fn(&mut Queue)) -> Result<(), Error> {
        self.stop_queues()?;
        self.queues.iter_mut().for_each(forget);
        if let Some(logs) = &self.logs {
            logs.erase();
        }
        self.status = 0;
        Ok(())
    }

    /// A ring broke. A driver that is at work is told to look (2.1.2).
    pub(crate) fn needs_reset(&mut self) {
        self.status |= NEEDS_RESET;
        if self.status & DRIVER_OK != 0 {
            self.disk.events.config_changed.store(true, Ordering::Relaxed);
        }
    }

    /// Takes up the channel that the client hands over.
    pub(crate) fn set_channel(&mut self, fd: OwnedFd) -> Result<(), Error> {
        let bad = |reason| Error::Channel { name: self.disk.name.clone(), reason };
        self.channel = Some(Channel::new(fd).map_err(bad)?);
        Ok(())
    }

    /// Tells the client that the configuration space has changed, if it can be told and there is a reason to.
    pub(crate) fn tell_of_config(&mut self) {
        if !self.disk.events.config_changed.swap(false, Ordering::Acquire) {
            return;
        }
        let name = &self.disk.name;
        let wants = self.protocol.contains(VhostUserProtocolFeatures::CONFIG);
        let Some(channel) = self.channel.as_ref().filter(|_| wants) else {
            debug!("disk {name}: nobody to tell that the configuration space has changed");
            return;
        };
        match channel.config_changed() {
            Ok(()) => {}
            Err(Errno::EAGAIN) => {
                warn!("disk {name}: the client does not read its backend channel: it misses a change");
            }
            Err(e) => {
                warn!("disk {name}: the client's backend channel is closed: {e}");
                self.channel = None;
            }
        }
    }

    /// The logs that a message is about.
    pub(crate) fn log_shape(&self, message: &VhostUserInflight) -> Result<Shape, Error> {
        let (queues, most) = (self.queues.len(), self.disk.queue_size);
        Shape::of(message, self.negotiated().kind, queues, most).map_err(|reason| self.bad_log(reason))
    }

    pub(crate) fn bad_log(&self, reason: String) -> Error {
        Error::Log { name: self.disk.name.clone(), reason }
    }

    /// The log of queue `index`, if the client keeps one.
    pub(crate) fn log_of(
        &self,
        index: usize,
        kind: RingKind,
    ) -> Result<Option<spinblk_virtio::InFlightLog>, Error> {
        let Some(logs) = &self.logs else { return Ok(None) };
        if logs.kind() != kind {
            let given = logs.kind();
            return Err(
                self.bad_log(format!("is laid out for {given:?} rings, and queue {index} is {kind:?}"))
            );
        }
        let bad = |source| Error::QueueLog { name: self.disk.name.clone(), queue: index, source };
        logs.of_queue(index).map_err(bad)
    }
}
