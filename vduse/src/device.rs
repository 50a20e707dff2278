//! `/dev/vduse/NAME`: one open device, its queues, interrupts and control messages; its memory is in `device/iotlb.rs`.
//!
//! The kernel lets one process at a time open a device. Closing it (the last [`Device`] or [`Injector`] dropped) drops
//! a registered umem and keeps all else: features, rings, mappings and unanswered messages wait for the next opener.
//! Nothing here blocks. Every call may say [`Error::Broken`]: then only a new device helps.

mod iotlb;

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

pub use self::iotlb::{IotlbEntry, RegionInfo};
use crate::Error;
use crate::control::check_name;
use crate::message::{MESSAGE_BYTES, Message, Reply};
use crate::uapi::{self, VqState};

const DEV_VDUSE: &str = "/dev/vduse";
/// devtmpfs makes the node before CREATE_DEV returns; a /dev kept by udev or a container manager may take longer.
const NODE_WAIT: Duration = Duration::from_secs(1);
const NODE_RETRY: Duration = Duration::from_millis(10);

/// A queue as the driver set it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VqInfo {
    /// Ring size; 0 before the driver chose one.
    pub size: u32,
    /// IOVA of the descriptor table (packed: the ring).
    pub desc_addr: u64,
    /// IOVA of the avail ring (packed: the driver's event area).
    pub driver_addr: u64,
    /// IOVA of the used ring (packed: the device's event area).
    pub device_addr: u64,
    /// Where the driver wants the device to *start*. Not its progress: the kernel does not know that.
    pub start: VqState,
    /// Whether the driver enabled the queue.
    pub ready: bool,
}

/// An open VDUSE device.
#[derive(Debug)]
pub struct Device {
    name: String,
    fd: Arc<OwnedFd>,
}

impl Device {
    /// Opens the device, waiting up to a second for its node to appear.
    ///
    /// # Errors
    /// [`Error::OpenDevice`]: no node, no permission, or another process serves it.
    pub fn open(name: &str) -> Result<Self, Error> {
        Self::open_in(Path::new(DEV_VDUSE), name, NODE_WAIT)
    }

    fn open_in(dir: &Path, name: &str, wait: Duration) -> Result<Self, Error> {
        check_name(name)?;
        let path = dir.join(name);
        let until = Instant::now() + wait;
        loop {
            match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path) {
                Ok(file) => return Ok(Self { name: name.into(), fd: Arc::new(file.into()) }),
                Err(e) if e.kind() == io::ErrorKind::NotFound && Instant::now() < until => {
                    std::thread::sleep(NODE_RETRY);
                }
                Err(source) => return Err(Error::OpenDevice { name: name.into(), path, source }),
            }
        }
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Declares a queue; before the device goes on the bus, for every queue.
    ///
    /// # Errors
    /// [`Error::Call`]: no such queue.
    pub fn vq_setup(&self, queue: u16, max_size: u16) -> Result<(), Error> {
        let mut config = uapi::VqConfig { index: queue.into(), max_size, ..Default::default() };
        uapi::VQ_SETUP
            .call(self.as_fd(), &mut config)
            .map_err(|e| self.failed("VQ_SETUP", format!("queue {queue} with {max_size} entries"), e))?;
        Ok(())
    }

    /// The features that the driver accepted; meaningful once it has set FEATURES_OK.
    ///
    /// # Errors
    /// [`Error::Broken`]. As a call without side effect it also tells whether a device that polls as POLLERR is broken.
    pub fn features(&self) -> Result<u64, Error> {
        let mut features = 0;
        uapi::DEV_GET_FEATURES
            .call(self.as_fd(), &mut features)
            .map_err(|e| self.failed("DEV_GET_FEATURES", "the device", e))?;
        Ok(features)
    }

    /// Overwrites a part of the configuration space; the driver looks at it after [`Self::inject_config_irq`].
    ///
    /// # Errors
    /// [`Error::Call`]: the range is empty or outside the space.
    pub fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        let failed =
            |e| self.failed("DEV_SET_CONFIG", format!("{} bytes at offset {offset}", bytes.len()), e);
        let mut data = uapi::ConfigData::new(offset, bytes).ok_or_else(|| failed(Errno::EINVAL))?;
        uapi::DEV_SET_CONFIG.call(self.as_fd(), &mut data).map_err(failed)?;
        Ok(())
    }

    /// Tells the driver to look at the configuration space again. `false`: no driver is running, nobody was told.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub fn inject_config_irq(&self) -> Result<bool, Error> {
        match uapi::DEV_INJECT_CONFIG_IRQ.call(self.as_fd(), &mut ()) {
            Ok(_) => Ok(true),
            Err(Errno::EINVAL) => Ok(false),
            Err(e) => Err(self.failed("DEV_INJECT_CONFIG_IRQ", "the device", e)),
        }
    }

    /// How the driver set up a queue.
    ///
    /// # Errors
    /// [`Error::Call`]: no such queue.
    pub fn vq_info(&self, queue: u16) -> Result<VqInfo, Error> {
        let mut info = uapi::VqInfo { index: queue.into(), ..Default::default() };
        uapi::VQ_GET_INFO
            .call(self.as_fd(), &mut info)
            .map_err(|e| self.failed("VQ_GET_INFO", format!("queue {queue}"), e))?;
        let uapi::VqInfo { num, desc_addr, driver_addr, device_addr, state, ready, .. } = info;
        Ok(VqInfo { size: num, desc_addr, driver_addr, device_addr, start: state, ready: ready != 0 })
    }

    /// Something that interrupts the driver for one queue, to be taken to a reactor.
    #[must_use]
    pub fn injector(&self, queue: u16) -> Injector {
        Injector { fd: Arc::clone(&self.fd), queue: queue.into() }
    }

    /// The next control message, if one waits. A broken device has none: poll says POLLERR, [`Self::features`] fails.
    ///
    /// # Errors
    /// [`Error::Call`]; [`Error::MessageLength`] when the kernel speaks another API.
    pub fn read_message(&self) -> Result<Option<Message>, Error> {
        let mut bytes = [0; MESSAGE_BYTES];
        let got_bytes = loop {
            match nix::unistd::read(&self.fd, &mut bytes) {
                Ok(got) => break got,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(e) => return Err(self.failed("read", "a control message", e)),
            }
        };
        let wrong = || Error::MessageLength { name: self.name.clone(), got_bytes, want_bytes: MESSAGE_BYTES };
        Message::parse(&bytes[..got_bytes]).map(Some).ok_or_else(wrong)
    }

    /// Answers a message. `false`: nobody waits for the answer any more (it timed out, or the asker was killed).
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn reply(&self, request_id: u32, reply: Reply) -> Result<bool, Error> {
        match nix::unistd::write(&self.fd, &reply.encode(request_id)) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(self.failed("write", format!("the answer to message {request_id}"), e)),
        }
    }

    /// EPERM has one meaning here: the kernel looks at "broken" before anything else.
    fn failed(&self, call: &'static str, subject: impl Display, source: Errno) -> Error {
        let name = self.name.clone();
        match source {
            Errno::EPERM => Error::Broken { name },
            _ => Error::Call { name, call, subject: subject.to_string(), source },
        }
    }
}

/// For poll: readable when a message waits, POLLERR when the device is broken.
impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Interrupts the driver for one queue: one ioctl, no lock and no allocation of ours, so it fits a reactor.
///
/// It keeps the device open, so that a late interrupt can never go to another file under the same number: drop every
/// injector before the device is destroyed.
#[derive(Clone, Debug)]
pub struct Injector {
    fd: Arc<OwnedFd>,
    queue: u32,
}

impl Injector {
    /// Sends one interrupt.
    ///
    /// # Errors
    /// EINVAL: no driver is running (any more), harmless. EPERM: the device is broken.
    #[inline]
    pub fn inject(&self) -> Result<(), Errno> {
        uapi::VQ_INJECT_IRQ.call(self.fd.as_fd(), &mut { self.queue })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake() -> Device {
        let file = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        Device { name: "d0".into(), fd: Arc::new(file.into()) }
    }

    #[test]
    fn a_device_that_is_not_there_is_waited_for_briefly() {
        let dir = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let error = Device::open_in(dir.path(), "d0", Duration::from_millis(30)).unwrap_err();
        assert!(started.elapsed() >= Duration::from_millis(30));
        assert!(error.to_string().contains("d0: cannot open"), "{error}");

        let path = dir.path().join("d1");
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            std::fs::write(path, "").unwrap();
        });
        Device::open_in(dir.path(), "d1", Duration::from_secs(20)).unwrap();
        later.join().unwrap();
        assert!(matches!(Device::open_in(dir.path(), "../d1", NODE_WAIT), Err(Error::Name { .. })));
    }

    #[test]
    fn errors_name_the_device_the_call_and_its_subject() {
        let text = fake().vq_setup(3, 256).unwrap_err().to_string();
        assert!(text.contains("disk d0: VQ_SETUP of queue 3 with 256 entries"), "{text}");
        let text = fake().set_config(8, &[0; 5000]).unwrap_err().to_string();
        assert!(text.contains("5000 bytes at offset 8: EINVAL"), "{text}");
        assert!(matches!(fake().failed("x", "y", Errno::EPERM), Error::Broken { .. }));
        assert_eq!(fake().injector(0).inject(), Err(Errno::ENOTTY));
    }

    #[test]
    fn an_empty_read_is_not_taken_for_a_message() {
        assert!(matches!(fake().read_message(), Err(Error::MessageLength { got_bytes: 0, .. })));
        assert!(fake().reply(1, Reply::Ok).unwrap());
    }
}
