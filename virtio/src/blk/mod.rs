//! The virtio-blk device (section 5.2): what it offers, what a request means, and the queue that serves it.

mod account;
mod coalesce;
mod device;
mod engine;
mod queue;
mod request;
mod slot;
mod usual;

pub use device::{CAPACITY_BYTES, Device, DeviceOptions};
pub use queue::{BlkQueue, QueueHost};
pub use request::{MAX_DISCARD_SECTORS, MAX_TRANSFER_BYTES, SECTOR_BYTES, SERIAL_BYTES};
