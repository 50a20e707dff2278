//! What `serve` needs of a transport, and those that there are: VDUSE and vhost-user.
//!
//! The trait is the seam where tests put a transport without a kernel behind it, and where another transport fits in.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use spinblk_bdev::Bdev;
use spinblk_reactor::Handle;
use spinblk_vduse::Export;
pub use spinblk_vduse::{BusDriver, DiskConfig, DiskReport, QueueReport};
use spinblk_vhost_user::{Server, ServerConfig};

use crate::Error;
use crate::config::{Config, Disk, Via};
use crate::doctor::{self, Host};

/// Makes disks visible to guests.
pub trait Transport {
    /// Whether this machine has what `disks` need; quick and without side effects.
    ///
    /// # Errors
    /// [`Error::Host`] with the fix.
    fn check(&self, disks: &[Disk]) -> Result<(), Error>;

    /// Exports one disk of `config`, its queues dealt over `reactors` in turn. Leaves nothing behind when it fails.
    ///
    /// # Errors
    /// [`Error::Export`], [`Error::VhostUser`]: each names the disk.
    fn start(
        &self,
        disk: &Disk,
        config: &Config,
        bdev: Arc<dyn Bdev>,
        reactors: &[Arc<Handle>],
    ) -> Result<Box<dyn Exported>, Error>;
}

/// A disk that guests see.
pub trait Exported: Send {
    /// Its device node, where the bus driver made one, or its socket.
    fn device_path(&self) -> Option<PathBuf>;

    /// Whether its control thread still answers.
    fn is_alive(&self) -> bool;

    /// Its queues, whose boards may be read at any time.
    fn queues(&self) -> Vec<QueueReport>;

    /// Set while a driver or a client has it.
    fn attached(&self) -> Arc<AtomicBool>;

    /// The bdev's size has changed: tells the guest, if one has the disk. From any thread, while it is served.
    ///
    /// # Errors
    /// [`Error::Export`]; the disk serves the new size all the same.
    fn resize(&self) -> Result<(), Error>;

    /// Drains, detaches, destroys; tells what it did.
    fn stop(self: Box<Self>) -> DiskReport;

    /// As `stop`, for a start that failed: what was taken over from another process stays for the next.
    fn undo(self: Box<Self>) -> DiskReport {
        self.stop()
    }

    /// As `stop`, in a process that cannot go on: what the next one can take over stays for it.
    fn leave(self: Box<Self>) -> DiskReport {
        self.stop()
    }
}

/// This machine's transports; each disk says which it wants.
#[derive(Clone, Debug, Default)]
pub struct System {
    host: Host,
}

impl Transport for System {
    fn check(&self, disks: &[Disk]) -> Result<(), Error> {
        let wants = |wanted| {
            disks.iter().any(|disk| matches!(disk.via, Via::Vduse { driver, .. } if driver == wanted))
        };
        let (virtio_vdpa, vhost_vdpa) = (wants(BusDriver::VirtioVdpa), wants(BusDriver::VhostVdpa));
        if virtio_vdpa || vhost_vdpa {
            doctor::require_vduse(&self.host, virtio_vdpa, vhost_vdpa)?;
        }
        Ok(())
    }

    fn start(
        &self,
        disk: &Disk,
        config: &Config,
        bdev: Arc<dyn Bdev>,
        reactors: &[Arc<Handle>],
    ) -> Result<Box<dyn Exported>, Error> {
        let (name, serial, polled_cores) = (disk.name.clone(), disk.serial.clone(), config.cores.clone());
        let (queues, queue_size) = (disk.queues, disk.queue_size);
        Ok(match &disk.via {
            Via::Vduse { driver, bounce_bytes, packed, resume, state_dir } => {
                let (driver, bounce_bytes, packed, resume) = (*driver, *bounce_bytes, *packed, *resume);
                let volatile = disk.backend.takes_memory();
                let (hugepages, state_dir) = (config.hugepages, state_dir.clone());
                let config = DiskConfig {
                    name,
                    queues,
                    queue_size,
                    serial,
                    packed,
                    driver,
                    bounce_bytes,
                    hugepages,
                    volatile,
                    polled_cores,
                    resume,
                    state_dir,
                };
                Box::new(Export::start(config, bdev, reactors)?)
            }
            Via::VhostUser { socket } => {
                let socket = socket.clone();
                let config = ServerConfig { name, socket, queues, queue_size, serial, polled_cores };
                Box::new(Server::start(config, bdev, reactors)?)
            }
        })
    }
}

impl Exported for Export {
    fn device_path(&self) -> Option<PathBuf> {
        Self::device_path(self)
    }

    fn is_alive(&self) -> bool {
        Self::is_alive(self)
    }

    fn queues(&self) -> Vec<QueueReport> {
        Self::queues(self).to_vec()
    }

    fn attached(&self) -> Arc<AtomicBool> {
        Self::attached(self)
    }

    fn resize(&self) -> Result<(), Error> {
        Ok(self.announce_config_change()?)
    }

    fn stop(self: Box<Self>) -> DiskReport {
        Self::stop(*self)
    }

    fn undo(self: Box<Self>) -> DiskReport {
        Self::undo(*self)
    }

    fn leave(self: Box<Self>) -> DiskReport {
        Self::leave(*self)
    }
}

impl Exported for Server {
    fn device_path(&self) -> Option<PathBuf> {
        Some(self.socket().into())
    }

    fn is_alive(&self) -> bool {
        Self::is_alive(self)
    }

    fn queues(&self) -> Vec<QueueReport> {
        Self::queues(self).iter().cloned().map(queue_report).collect()
    }

    fn attached(&self) -> Arc<AtomicBool> {
        Self::attached(self)
    }

    fn resize(&self) -> Result<(), Error> {
        self.announce_config_change();
        Ok(())
    }

    fn stop(self: Box<Self>) -> DiskReport {
        let report = Self::stop(*self);
        DiskReport {
            name: report.name,
            device_path: Some(report.socket),
            umem: false,
            queues: report.queues.into_iter().map(queue_report).collect(),
            problems: report.problems,
        }
    }
}

fn queue_report(queue: spinblk_vhost_user::QueueReport) -> QueueReport {
    let spinblk_vhost_user::QueueReport { index, core, board } = queue;
    QueueReport { index, core, board }
}

/// How guests get at a disk, as the configuration names it; the kernel's names of bus drivers with a dash.
pub(crate) fn via_name(via: &Via) -> String {
    match via {
        Via::Vduse { driver, .. } => driver.name().replace('_', "-"),
        Via::VhostUser { .. } => "vhost-user".into(),
    }
}
