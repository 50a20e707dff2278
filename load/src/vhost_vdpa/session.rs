//! A device on vhost-vdpa with its rings set up and ready for load.
//!
//! ```text
//!   open ─► features ─► configuration space ─► memory ─► rings ─► DRIVER_OK ─► load ─► reset
//! ```

use std::path::Path;
use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_ACCESS_PLATFORM;

use super::device::Device;
use crate::ring::layout::Shape;
use crate::ring::rings::Rings;
use crate::virtio_blk::{self, EVENT_IDX};
use crate::{Error, Geometry, RingLane, RingOptions, Target};

/// Addresses are what the IOTLB makes of them, not those of a machine's memory. Devices may insist on it.
const ACCESS_PLATFORM: u64 = 1 << VIRTIO_F_ACCESS_PLATFORM;

/// A disk at `/dev/vhost-vdpa-N` with its rings set up. Dropping it resets the device.
pub struct VhostVdpa {
    // Before the rings: it is reset while it still has its memory.
    device: Device,
    geometry: Geometry,
    rings: Rings,
}

impl VhostVdpa {
    /// Opens the device and sets up everything but the load.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Vdpa`], [`Error::Feature`], [`Error::RingSize`], [`Error::SharedMemory`],
    /// [`Error::Stopped`], [`Error::Job`].
    pub fn open(path: &Path, options: RingOptions) -> Result<Self, Error> {
        let name: Arc<str> = format!("vhost-vdpa:{}", path.display()).into();
        options.check_depth(&name)?;
        let mut device = Device::open(path, name.clone())?;
        let features = virtio_blk::features(&name, device.features()?, ACCESS_PLATFORM, &options)?;
        device.agree(features)?;
        let geometry = virtio_blk::geometry(name.clone(), features, &device.config()?)?;
        options.check_queues(&geometry, "the device")?;
        let shape = Shape::new(&options, true);
        let rings = Rings::new(name, options.queues, shape, features & EVENT_IDX != 0)?;
        let max_ring_size = device.max_ring_size()?;
        if shape.ring_size() > max_ring_size {
            return Err(rings.size_refused(format!("it takes {max_ring_size} at most")));
        }
        device.share(rings.memory())?;
        for ring in rings.each() {
            device.set_up_ring(&ring, rings.memory(), shape.format.base())?;
        }
        device.start()?;
        Ok(Self { device, geometry, rings })
    }
}

impl Target for VhostVdpa {
    type Lane = RingLane;

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn open(&self, queue: u16, depth: u32, block_bytes: u32) -> Result<RingLane, Error> {
        self.rings.open(queue, depth, block_bytes)
    }

    fn check(&self) -> Result<(), Error> {
        self.device.check()
    }
}
