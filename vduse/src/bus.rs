//! `/sys/bus/vdpa`: which driver has a device on the vDPA bus, and what it made of it.
//!
//! A new device goes to the first driver in load order, so one that is meant for the other is set up and torn down
//! once for nothing, visible to the guest or to udev as a disk that comes and goes. [`Bus::attach`] avoids that: it puts the
//! device on the bus with automatic probing off and then hands it to the driver asked for.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tracing::info;

use crate::Error;
use crate::autoprobe::{AutoprobeOff, restore};
use crate::control::check_name;
use crate::helper;
use crate::sysfs::write;
use crate::vdpa::{self, bounded, bounded_while};

const BUS: &str = "/sys/bus/vdpa";
const DEV: &str = "/dev";
/// Where we note that automatic probing is off for a moment.
const AUTOPROBE_NOTE: &str = "/run/spinblk/autoprobe-off";

/// Who uses a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusDriver {
    /// This kernel: the disk becomes /dev/vdX, for the host and its containers.
    VirtioVdpa,
    /// A virtual machine monitor, through /dev/vhost-vdpa-N.
    VhostVdpa,
}

impl BusDriver {
    /// The kernel's name of the driver and of its module.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::VirtioVdpa => "virtio_vdpa",
            Self::VhostVdpa => "vhost_vdpa",
        }
    }
}

impl FromStr for BusDriver {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self, Error> {
        match given {
            "virtio-vdpa" | "virtio_vdpa" => Ok(Self::VirtioVdpa),
            "vhost-vdpa" | "vhost_vdpa" => Ok(Self::VhostVdpa),
            _ => Err(Error::UnknownDriver { given: given.into() }),
        }
    }
}

/// A disk of virtio-vdpa, as sysfs shows it. (Not its serial: reading that sends the disk a request, and waits.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockAttributes {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether it refuses writes.
    pub read_only: bool,
}

/// The vDPA bus of this machine.
#[derive(Clone, Debug)]
pub struct Bus {
    root: PathBuf,
    dev: PathBuf,
    autoprobe_note: PathBuf,
    /// Writes that may wait for I/O of the disk; the first path is the lock of those who do.
    write_waiting: fn(&Path, &Path, &dyn Display) -> Result<(), Error>,
}

impl Bus {
    /// The real one.
    #[must_use]
    pub fn system() -> Self {
        Self {
            root: BUS.into(),
            dev: DEV.into(),
            autoprobe_note: AUTOPROBE_NOTE.into(),
            write_waiting: helper::write,
        }
    }

    /// Puts the device on the bus and gives it to `driver`. The driver probes inside this call: control messages and
    /// I/O must be served meanwhile, by other threads. After an error the device may be on the bus: [`Self::detach`] it.
    /// Success means that the bus driver has it; whether that made a disk, [`Self::block_device`] tells.
    ///
    /// # Errors
    /// [`Error::NoDriver`] before anything is done; [`Error::Vdpa`], [`Error::NotBound`], [`Error::TimedOut`].
    pub fn attach(&self, name: &str, driver: BusDriver, timeout: Duration) -> Result<(), Error> {
        self.check_driver(driver)?;
        {
            let _off = AutoprobeOff::new(self.autoprobe(), self.autoprobe_note.clone(), timeout)?;
            vdpa::add(name, timeout)?;
        }
        self.bind(name, driver, timeout)
    }

    /// Turns automatic probing on again if a process was killed while it had it off.
    pub fn restore_autoprobe(&self) {
        restore(&self.autoprobe(), &self.autoprobe_note);
    }

    /// Takes the device off the bus. Its driver lets go of it first, which sends messages and waits for I/O in flight:
    /// both must be served. `false`: it was not there.
    ///
    /// # Errors
    /// [`Error::Vdpa`], [`Error::TimedOut`].
    pub fn detach(&self, name: &str, timeout: Duration) -> Result<bool, Error> {
        vdpa::delete(name, timeout)
    }

    /// Takes the device from its driver, if it has one, and leaves it on the bus. The driver waits for I/O in flight, which
    /// must be served meanwhile; given up when `progress` has not changed for `idle_timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Sysfs`].
    pub fn unbind(
        &self,
        name: &str,
        idle_timeout: Duration,
        progress: &dyn Fn() -> u64,
    ) -> Result<(), Error> {
        check_name(name)?;
        if self.bound_driver(name).is_none() {
            return Ok(());
        }
        let (unbind, device, lock) =
            (self.device(name).join("driver/unbind"), name.to_owned(), self.lock(name));
        let write_waiting = self.write_waiting;
        let action = "taking it from its driver";
        bounded_while(name, action, idle_timeout, progress, move || write_waiting(&lock, &unbind, &device))
    }

    /// What the disk that virtio-vdpa made looks like, if there is one.
    #[must_use]
    pub fn block_attributes(&self, name: &str) -> Option<BlockAttributes> {
        let virtio = child(&self.device(name), "virtio")?;
        let disk = child(&virtio.join("block"), "")?;
        let text = |file: &str| Some(std::fs::read_to_string(disk.join(file)).ok()?.trim().to_owned());
        Some(BlockAttributes { sectors: text("size")?.parse().ok()?, read_only: text("ro")? == "1" })
    }

    /// Whether this process can reach the bus's management; whether it may use it, only a command tells.
    ///
    /// # Errors
    /// [`Error::NoVdpa`] says what is missing.
    pub fn check_management(&self, timeout: Duration) -> Result<(), Error> {
        vdpa::check(timeout)
    }

    /// Whether the driver's module is loaded.
    ///
    /// # Errors
    /// [`Error::NoDriver`] says what to load.
    pub fn check_driver(&self, driver: BusDriver) -> Result<(), Error> {
        let driver = driver.name();
        if self.root.join("drivers").join(driver).is_dir() { Ok(()) } else { Err(Error::NoDriver { driver }) }
    }

    /// Moves a device that is on the bus to `driver`, whether it has one now or none. As in [`Self::attach`], its
    /// messages and I/O must be served meanwhile.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::NotBound`], [`Error::TimedOut`], [`Error::Sysfs`].
    pub fn bind(&self, name: &str, driver: BusDriver, timeout: Duration) -> Result<(), Error> {
        check_name(name)?;
        self.check_driver(driver)?;
        let (bus, device, driver) = (self.clone(), name.to_owned(), driver.name());
        bounded(name, "binding it to its driver", timeout, move || bus.rebind(&device, driver))?;
        let bound = self.bound_driver(name);
        if bound.as_deref() == Some(driver) {
            info!("disk {name}: bound to {driver}");
            return Ok(());
        }
        Err(Error::NotBound { name: name.into(), driver, bound })
    }

    fn rebind(&self, name: &str, driver: &str) -> Result<(), Error> {
        let device = self.device(name);
        // The override stays: it also keeps the other driver away when that is loaded later.
        write(&device.join("driver_override"), &driver)?;
        match self.bound_driver(name) {
            Some(bound) if bound == driver => return Ok(()),
            Some(_) => (self.write_waiting)(&self.lock(name), &device.join("driver/unbind"), &name)?,
            None => {}
        }
        (self.write_waiting)(&self.lock(name), &self.root.join("drivers_probe"), &name)
    }

    /// What is locked while the device is moved from or to a driver; it is there as long as the device.
    fn lock(&self, name: &str) -> PathBuf {
        self.device(name).join("driver_override")
    }

    /// Waits until nobody moves the device from or to a driver, not even for a process that is gone.
    pub(crate) fn wait_for_others(&self, name: &str, timeout: Duration) -> Result<(), Error> {
        helper::wait_for_others(&self.lock(name), timeout)
    }

    /// The driver that has the device now.
    #[must_use]
    pub fn bound_driver(&self, name: &str) -> Option<String> {
        let target = std::fs::read_link(self.device(name).join("driver")).ok()?;
        Some(target.file_name()?.to_str()?.into())
    }

    /// Whether the device is on the bus, with or without a driver.
    #[must_use]
    pub fn has_device(&self, name: &str) -> bool {
        self.device(name).exists()
    }

    /// The disk that virtio-vdpa made: /dev/vdX. `None`: none yet, for lack of a driver or of the module virtio_blk.
    #[must_use]
    pub fn block_device(&self, name: &str) -> Option<PathBuf> {
        let virtio = child(&self.device(name), "virtio")?;
        Some(self.dev.join(child(&virtio.join("block"), "")?.file_name()?))
    }

    /// The character device that vhost-vdpa made: /dev/vhost-vdpa-N.
    #[must_use]
    pub fn vhost_device(&self, name: &str) -> Option<PathBuf> {
        Some(self.dev.join(child(&self.device(name), "vhost-vdpa-")?.file_name()?))
    }

    fn autoprobe(&self) -> PathBuf {
        self.root.join("drivers_autoprobe")
    }

    fn device(&self, name: &str) -> PathBuf {
        self.root.join("devices").join(name)
    }
}

/// The first entry of `dir` whose name starts with `prefix`.
fn child(dir: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?;
    let mut names: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    names.sort();
    names.into_iter().next()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A bus with both drivers and the unbound device d0.
    fn bus() -> (tempfile::TempDir, Bus) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("bus");
        for path in ["drivers/virtio_vdpa", "drivers/vhost_vdpa", "devices/d0"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        for file in ["drivers_probe", "devices/d0/driver_override", "drivers/vhost_vdpa/unbind"] {
            std::fs::write(root.join(file), "").unwrap();
        }
        std::fs::write(root.join("drivers_autoprobe"), "1\n").unwrap();
        let bus = Bus {
            root,
            dev: "/dev".into(),
            autoprobe_note: dir.path().join("note"),
            write_waiting: |_, path, value| write(path, value),
        };
        (dir, bus)
    }

    fn text(bus: &Bus, file: &str) -> String {
        std::fs::read_to_string(bus.root.join(file)).unwrap()
    }

    #[test]
    fn driver_names_are_read_either_way() {
        for (given, driver) in [
            ("virtio-vdpa", BusDriver::VirtioVdpa),
            ("virtio_vdpa", BusDriver::VirtioVdpa),
            ("vhost-vdpa", BusDriver::VhostVdpa),
            (BusDriver::VhostVdpa.name(), BusDriver::VhostVdpa),
        ] {
            assert_eq!(given.parse::<BusDriver>().unwrap(), driver);
        }
        let error = "vdpa".parse::<BusDriver>().unwrap_err().to_string();
        assert!(error.contains("\"vdpa\"") && error.contains("virtio-vdpa"), "{error}");
    }

    #[test]
    fn a_missing_driver_is_named() {
        let (_dir, bus) = bus();
        bus.check_driver(BusDriver::VirtioVdpa).unwrap();
        std::fs::remove_dir(bus.root.join("drivers/virtio_vdpa")).unwrap();
        let error = bus.attach("d0", BusDriver::VirtioVdpa, SOON).unwrap_err();
        assert!(error.to_string().contains("modprobe virtio_vdpa"), "{error}");
    }

    #[test]
    fn binding_overrides_unbinds_and_probes() {
        let (_dir, bus) = bus();
        // Files do not act: the device stays unbound, and that is reported.
        let error = bus.bind("d0", BusDriver::VirtioVdpa, SOON).unwrap_err();
        assert!(matches!(error, Error::NotBound { bound: None, .. }), "{error}");
        assert_eq!(text(&bus, "devices/d0/driver_override"), "virtio_vdpa");
        assert_eq!(text(&bus, "drivers_probe"), "d0");
        assert_eq!(text(&bus, "drivers/vhost_vdpa/unbind"), "");

        symlink("../../drivers/vhost_vdpa", bus.root.join("devices/d0/driver")).unwrap();
        assert_eq!(bus.bound_driver("d0").as_deref(), Some("vhost_vdpa"));
        let error = bus.bind("d0", BusDriver::VirtioVdpa, SOON).unwrap_err();
        assert!(error.to_string().contains("bound now: vhost_vdpa"), "{error}");
        assert_eq!(text(&bus, "drivers/vhost_vdpa/unbind"), "d0");

        bus.bind("d0", BusDriver::VhostVdpa, SOON).unwrap();
        assert!(bus.bind("../d0", BusDriver::VhostVdpa, SOON).is_err());
    }

    #[test]
    fn what_a_driver_made_is_found() {
        let (_dir, bus) = bus();
        assert!(bus.has_device("d0") && !bus.has_device("d1"));
        assert_eq!((bus.block_device("d0"), bus.vhost_device("d0")), (None, None));
        std::fs::create_dir_all(bus.root.join("devices/d0/virtio7")).unwrap();
        assert_eq!(bus.block_device("d0"), None);
        std::fs::create_dir_all(bus.root.join("devices/d0/virtio7/block/vdb")).unwrap();
        assert_eq!(bus.block_device("d0"), Some("/dev/vdb".into()));
        std::fs::create_dir_all(bus.root.join("devices/d0/vhost-vdpa-3")).unwrap();
        assert_eq!(bus.vhost_device("d0"), Some("/dev/vhost-vdpa-3".into()));
    }
}
