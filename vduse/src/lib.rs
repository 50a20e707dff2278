//! The VDUSE transport: disks that the kernel's vDPA bus shows to containers (virtio-vdpa) and to VMs (vhost-vdpa).

mod address_space;
mod autoprobe;
mod bus;
mod control;
mod device;
mod error;
mod export;
mod helper;
mod log;
mod message;
mod queue;
mod session;
mod sysfs;
mod uapi;
mod vdpa;

pub use bus::{Bus, BusDriver};
pub use control::{Control, Created, DeviceSpec, check_name};
pub use device::{Device, Injector, IotlbEntry, RegionInfo, VqInfo};
pub use error::Error;
pub use export::{DiskConfig, DiskReport, Export};
pub use helper::helper;
pub use message::{Message, Reply};
pub use session::QueueReport;
pub use sysfs::{Attributes, irq_cpus_off};
pub use uapi::VqState;
