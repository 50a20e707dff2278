//! What `serve` needs of a transport, and the one that there is: VDUSE.
//!
//! The trait is the seam where tests put a transport without a kernel behind it, and where another transport fits in.

use std::path::PathBuf;
use std::sync::Arc;

use spinblk_bdev::Bdev;
use spinblk_reactor::Handle;
use spinblk_vduse::Export;
pub use spinblk_vduse::{BusDriver, DiskConfig, DiskReport, QueueReport};

use crate::Error;
use crate::config::Disk;
use crate::doctor::{self, Host};

/// Makes disks visible to guests.
pub trait Transport {
    /// Whether this machine has what `disks` need; quick and without side effects.
    ///
    /// # Errors
    /// [`Error::Host`] with the fix.
    fn check(&self, disks: &[Disk]) -> Result<(), Error>;

    /// Exports one disk, its queues dealt over `reactors` in turn. Leaves nothing behind when it fails.
    ///
    /// # Errors
    /// [`Error::Export`] names the disk.
    fn start(
        &self,
        disk: DiskConfig,
        bdev: Arc<dyn Bdev>,
        reactors: &[Arc<Handle>],
    ) -> Result<Box<dyn Exported>, Error>;
}

/// A disk that guests see.
pub trait Exported: Send {
    /// Its device node, where the bus driver made one.
    fn device_path(&self) -> Option<PathBuf>;

    /// Drains, detaches, destroys; tells what it did.
    fn stop(self: Box<Self>) -> DiskReport;
}

/// VDUSE: disks on the kernel's vDPA bus.
#[derive(Clone, Debug, Default)]
pub struct Vduse {
    host: Host,
}

impl Transport for Vduse {
    fn check(&self, disks: &[Disk]) -> Result<(), Error> {
        let wants = |driver| disks.iter().any(|disk| disk.driver == driver);
        doctor::require_vduse(&self.host, wants(BusDriver::VirtioVdpa), wants(BusDriver::VhostVdpa))
    }

    fn start(
        &self,
        disk: DiskConfig,
        bdev: Arc<dyn Bdev>,
        reactors: &[Arc<Handle>],
    ) -> Result<Box<dyn Exported>, Error> {
        Ok(Box::new(Export::start(disk, bdev, reactors)?))
    }
}

impl Exported for Export {
    fn device_path(&self) -> Option<PathBuf> {
        Self::device_path(self)
    }

    fn stop(self: Box<Self>) -> DiskReport {
        Self::stop(*self)
    }
}

/// Its name in the configuration, which is the kernel's with a dash.
pub(crate) fn driver_name(driver: BusDriver) -> String {
    driver.name().replace('_', "-")
}
