//! The memory side of a device: which IOVA region is what, and our own memory as its bounce region (umem).
//!
//! Under virtio-vdpa there is one region per ring, and the bounce region `[0, bounce_size)` that appears with the
//! driver's first request; under vhost-vdpa, the guest's memory as its monitor mapped it. What a region's file maps
//! stays valid until a reset or an UPDATE_IOTLB message says otherwise. Lengths need not be whole pages.

use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::Device;
use crate::{Error, uapi};

/// A mapped IOVA region, to be mapped from the file that comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IotlbEntry {
    /// First IOVA.
    pub start: u64,
    /// Last IOVA, inclusive.
    pub last: u64,
    /// Where `start` lies in the file.
    pub offset: u64,
    /// The device may read it.
    pub readable: bool,
    /// The device may write it.
    pub writable: bool,
}

/// What the kernel says of an IOVA region without handing out its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// First IOVA.
    pub start: u64,
    /// Last IOVA, inclusive.
    pub last: u64,
    /// It is the bounce region and takes a umem registration.
    pub umem_capable: bool,
}

impl Device {
    /// The region that holds `iova`, with its file; `None` where nothing is mapped.
    ///
    /// # Errors
    /// [`Error::Call`]: no descriptor is left (EMFILE).
    pub fn iotlb_get_fd(&self, iova: u64) -> Result<Option<(OwnedFd, IotlbEntry)>, Error> {
        let mut entry = uapi::IotlbEntry { start: iova, last: iova, ..Default::default() };
        let raw = match uapi::IOTLB_GET_FD.call(self.as_fd(), &mut entry) {
            Ok(raw) => raw,
            // No region there, or the device is not on the bus yet.
            Err(Errno::EINVAL) => return Ok(None),
            Err(e) => return Err(self.failed("IOTLB_GET_FD", format!("IOVA {iova:#x}"), e)),
        };
        // SAFETY: the call succeeded, so `raw` is a descriptor that the kernel opened for us and nobody else knows.
        let fd = unsafe { adopt(raw) }.map_err(|e| self.failed("F_SETFD", "the file of a region", e))?;
        let uapi::IotlbEntry { offset, start, last, perm, .. } = entry;
        let (readable, writable) = (perm & uapi::ACCESS_RO != 0, perm & uapi::ACCESS_WO != 0);
        Ok(Some((fd, IotlbEntry { start, last, offset, readable, writable })))
    }

    /// The region that holds `iova`; `None` where nothing is mapped. Needs Linux 6.0.
    ///
    /// # Errors
    /// [`Error::Call`]: an older kernel (ENOTTY).
    pub fn iotlb_info(&self, iova: u64) -> Result<Option<RegionInfo>, Error> {
        self.iotlb_first(iova, iova)
    }

    /// The first region that holds an address from `iova` to `last`.
    ///
    /// # Errors
    /// As [`Self::iotlb_info`].
    pub fn iotlb_first(&self, iova: u64, last: u64) -> Result<Option<RegionInfo>, Error> {
        let mut info = uapi::IovaInfo { start: iova, last, ..Default::default() };
        match uapi::IOTLB_GET_INFO.call(self.as_fd(), &mut info) {
            Ok(_) => Ok(Some(RegionInfo {
                start: info.start,
                last: info.last,
                umem_capable: info.capability & uapi::IOVA_CAP_UMEM != 0,
            })),
            Err(Errno::EINVAL) => Ok(None),
            Err(e) => Err(self.failed("IOTLB_GET_INFO", format!("IOVA {iova:#x}"), e)),
        }
    }

    /// Makes our memory the pages of the bounce region at `iova`.
    ///
    /// # Safety
    /// Until [`Self::dereg_umem`] or the device is closed, the kernel writes to the `len_bytes` bytes at `memory`
    /// whenever the driver does I/O. They must stay mapped and be used through raw pointers only.
    ///
    /// # Errors
    /// [`Error::Umem`]: not the whole region, no request came yet, registered already, or RLIMIT_MEMLOCK.
    pub unsafe fn reg_umem(&self, memory: *mut u8, iova: u64, len_bytes: u64) -> Result<(), Error> {
        let uaddr = memory.expose_provenance() as u64;
        let mut umem = uapi::IovaUmem { uaddr, iova, size: len_bytes, ..Default::default() };
        match uapi::IOTLB_REG_UMEM.call(self.as_fd(), &mut umem) {
            Ok(_) => Ok(()),
            Err(Errno::EPERM) => Err(Error::Broken { name: self.name.clone() }),
            Err(source) => Err(Error::Umem { name: self.name.clone(), iova, len_bytes, source }),
        }
    }

    /// Gives the bounce region back its own pages, with the contents of ours. `false`: no memory was registered.
    ///
    /// # Errors
    /// [`Error::Call`]: the region is another one.
    pub fn dereg_umem(&self, iova: u64, len_bytes: u64) -> Result<bool, Error> {
        let mut umem = uapi::IovaUmem { iova, size: len_bytes, ..Default::default() };
        match uapi::IOTLB_DEREG_UMEM.call(self.as_fd(), &mut umem) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(self.failed("IOTLB_DEREG_UMEM", format!("{len_bytes} bytes at IOVA {iova:#x}"), e)),
        }
    }
}

/// Owns a descriptor that the kernel opened without O_CLOEXEC: helper processes must not keep the driver's memory.
///
/// # Safety
/// `raw` must be open, and nobody else's.
unsafe fn adopt(raw: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: our caller's promise.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_file_is_not_inherited() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let inherited = nix::unistd::dup(&null).unwrap();
        let flags = |fd: &OwnedFd| FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
        assert!(!flags(&inherited).contains(FdFlag::FD_CLOEXEC));
        // SAFETY: `inherited` gives it up.
        let ours = unsafe { adopt(std::os::fd::IntoRawFd::into_raw_fd(inherited)) }.unwrap();
        assert!(flags(&ours).contains(FdFlag::FD_CLOEXEC));
    }
}
