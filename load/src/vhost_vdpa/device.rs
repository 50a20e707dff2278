//! The character device, step by step; each step names itself when it fails.
//!
//! Contract: whoever has a [`Device`] is its only user, and when it is dropped, the device is reset: it touches the
//! memory no more, and is as the next user expects it.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use vhost::VhostBackend;
use vhost::vdpa::VhostVdpa as _;
use vhost::vhost_kern::VhostKernFeatures;
use vhost::vhost_kern::vdpa::VhostKernVdpa;
use vhost::vhost_kern::vhost_binding::{
    VHOST_BACKEND_F_IOTLB_MSG_V2, VHOST_SET_VRING_BASE, vhost_vring_state,
};
use virtio_bindings::virtio_config as config;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::ioctl::ioctl_with_ref;

use crate::Error;
use crate::ring::memory::SharedMemory;
use crate::ring::rings::Ring;
use crate::virtio_blk::CONFIG_BYTES;

const ACKNOWLEDGED: u8 = (config::VIRTIO_CONFIG_S_ACKNOWLEDGE | config::VIRTIO_CONFIG_S_DRIVER) as u8;
const FEATURES_OK: u8 = config::VIRTIO_CONFIG_S_FEATURES_OK as u8;
const DRIVER_OK: u8 = config::VIRTIO_CONFIG_S_DRIVER_OK as u8;
const BROKEN: u8 = (config::VIRTIO_CONFIG_S_NEEDS_RESET | config::VIRTIO_CONFIG_S_FAILED) as u8;
const WORKING: u8 = ACKNOWLEDGED | FEATURES_OK | DRIVER_OK;

/// The crate can look addresses up in a machine's memory; here there is none, and it needs none.
type NoMachine = Arc<GuestMemoryMmap<()>>;

/// An open vhost-vdpa device of a disk.
pub(super) struct Device {
    path: PathBuf,
    name: Arc<str>,
    vdpa: VhostKernVdpa<NoMachine>,
}

impl Device {
    /// Opens the node, which resets the device, and takes it for this process.
    pub(super) fn open(path: &Path, name: Arc<str>) -> Result<Self, Error> {
        let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(|source| Error::Open { path: path.into(), source })?;
        let vdpa = VhostKernVdpa::with(file, NoMachine::default(), 0);
        let device = Self { path: path.into(), name, vdpa };
        match device.vdpa.get_device_id() {
            Ok(VIRTIO_ID_BLOCK) => {}
            Ok(other) => {
                let lacks =
                    format!("it is a virtio device of type {other}, not a disk (type {VIRTIO_ID_BLOCK})");
                return Err(device.lacks(lacks));
            }
            Err(vhost::Error::IoctlError(e)) if is_unknown(&e) => {
                return Err(device.lacks("it is no vhost-vdpa device; give /dev/vhost-vdpa-N".into()));
            }
            Err(e) => return Err(device.failed("get_device_id")(e)),
        }
        device.vdpa.set_owner().map_err(device.failed("set_owner"))?;
        Ok(device)
    }

    /// The features that it offers.
    pub(super) fn features(&self) -> Result<u64, Error> {
        self.vdpa.get_features().map_err(self.failed("get_features"))
    }

    /// Agrees on features.
    pub(super) fn agree(&mut self, features: u64) -> Result<(), Error> {
        let offered = self.vdpa.get_backend_features().map_err(self.failed("get_backend_features"))?;
        let messages = offered & 1 << VHOST_BACKEND_F_IOTLB_MSG_V2;
        let set = self.vdpa.set_backend_features(messages);
        set.map_err(self.failed("set_backend_features"))?;
        self.set_status(ACKNOWLEDGED)?;
        self.vdpa.set_features(features).map_err(self.failed("set_features"))?;
        self.set_status(ACKNOWLEDGED | FEATURES_OK)?;
        if self.status()? & FEATURES_OK == 0 {
            return Err(self.lacks(format!("it does not accept the features {features:#x}")));
        }
        Ok(())
    }

    /// The beginning of its configuration space.
    pub(super) fn config(&self) -> Result<[u8; CONFIG_BYTES], Error> {
        let mut bytes = [0; CONFIG_BYTES];
        self.vdpa.get_config(0, &mut bytes).map_err(self.failed("get_config"))?;
        Ok(bytes)
    }

    /// Entries of the longest ring that it takes.
    pub(super) fn max_ring_size(&self) -> Result<u16, Error> {
        self.vdpa.get_vring_num().map_err(self.failed("get_vring_num"))
    }

    /// Maps the memory for the device, which keeps it until it is closed.
    pub(super) fn share(&self, memory: &SharedMemory) -> Result<(), Error> {
        let (address, len_bytes) = (memory.guest_address(0), memory.len_bytes() as u64);
        let mapped = self.vdpa.dma_map(address, len_bytes, memory.start(), false);
        mapped.map_err(self.failed("map the memory (IOTLB update)"))
    }

    /// Tells it of a ring in the memory that it shares. The ring begins at `base`.
    pub(super) fn set_up_ring(&self, ring: &Ring<'_>, memory: &SharedMemory, base: u32) -> Result<(), Error> {
        let (index, vdpa) = (ring.index(), &self.vdpa);
        let place = ring.place(|offset| memory.guest_address(offset));
        vdpa.set_vring_num(index, ring.layout.ring_size).map_err(self.failed("set_vring_num"))?;
        // The crate's method of its own: the trait's takes the addresses for those of a machine's memory.
        VhostKernVdpa::set_vring_addr(vdpa, index, &place).map_err(self.failed("set_vring_addr"))?;
        self.set_base(ring.queue, base)?;
        vdpa.set_vring_call(index, ring.events.call_event()).map_err(self.failed("set_vring_call"))?;
        vdpa.set_vring_kick(index, ring.events.kick_event()).map_err(self.failed("set_vring_kick"))?;
        vdpa.set_vring_enable(index, true).map_err(self.failed("set_vring_enable"))
    }

    /// The crate's call takes 16 bits, and a packed ring's beginning has 32.
    fn set_base(&self, queue: u16, base: u32) -> Result<(), Error> {
        let state = vhost_vring_state { index: queue.into(), num: base };
        // SAFETY: the descriptor is open, and the kernel reads one such structure, which lives until the call returns.
        let result = unsafe { ioctl_with_ref(&self.vdpa, VHOST_SET_VRING_BASE(), &state) };
        if result < 0 {
            let error = vhost::Error::IoctlError(io::Error::last_os_error());
            return Err(self.failed("set_vring_base")(error));
        }
        Ok(())
    }

    /// From now on it serves its rings.
    pub(super) fn start(&self) -> Result<(), Error> {
        self.set_status(WORKING)?;
        self.check()
    }

    /// Whether it still does.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.status()? {
            status if works(status) => Ok(()),
            status => Err(Error::Stopped { target: self.name.to_string(), status }),
        }
    }

    fn status(&self) -> Result<u8, Error> {
        self.vdpa.get_status().map_err(self.failed("get_status"))
    }

    fn set_status(&self, status: u8) -> Result<(), Error> {
        self.vdpa.set_status(status).map_err(self.failed("set_status"))
    }

    fn failed(&self, step: &'static str) -> impl Fn(vhost::Error) -> Error {
        let path = self.path.clone();
        move |source| Error::Vdpa { path: path.clone(), step, source: Box::new(source) }
    }

    fn lacks(&self, lacks: String) -> Error {
        Error::Feature { target: self.name.to_string(), lacks }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // What cannot be reset is reset by the kernel, as soon as the descriptor is closed.
        let _ = self.vdpa.set_status(0);
    }
}

/// Whether the kernel says that this file knows no such ioctl.
fn is_unknown(error: &io::Error) -> bool {
    [Errno::ENOTTY, Errno::EINVAL, Errno::EOPNOTSUPP].iter().any(|e| error.raw_os_error() == Some(*e as i32))
}

/// Whether a device of this status serves its rings.
fn works(status: u8) -> bool {
    status & (WORKING | BROKEN) == WORKING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_works_until_it_is_reset_or_broken() {
        assert!(works(0x0F));
        for status in [0, 1, 3, 0x0B, 0x4F, 0x8F, 0xFF] {
            assert!(!works(status), "{status:#x}");
        }
    }
}
