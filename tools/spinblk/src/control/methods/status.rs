//! What is there.

use std::sync::atomic::Ordering;

use serde_json::Value;
use spinblk_bdev::Bdev;

use super::Handle;
use crate::api;
use crate::control::rpc::RpcError;
use crate::control::state::{Disk, Queue, State};

impl Handle for api::Version {
    fn handle(_: api::NoParams, state: &mut State) -> Result<api::VersionInfo, RpcError> {
        Ok(api::VersionInfo {
            program: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            api_version: api::API_VERSION,
            pid: std::process::id(),
            uptime_ms: state.uptime_ms(),
        })
    }
}

impl Handle for api::Schema {
    fn handle(_: api::NoParams, _: &mut State) -> Result<Value, RpcError> {
        Ok(api::document())
    }
}

impl Handle for api::Disks {
    fn handle(_: api::NoParams, state: &mut State) -> Result<api::DiskList, RpcError> {
        Ok(api::DiskList { disks: state.disks.iter().map(disk_info).collect() })
    }
}

/// A disk as clients see it.
pub(crate) fn disk_info(disk: &Disk) -> api::DiskInfo {
    let queue = |queue: &Queue| api::QueueInfo { index: queue.index, core: queue.core };
    let info = disk.bdev.info();
    api::DiskInfo {
        name: disk.name.clone(),
        kind: disk.bdev.kind().into(),
        path: disk.path.clone(),
        transport: disk.transport.clone(),
        size_bytes: info.size_bytes(),
        block_size: info.block_size,
        read_only: info.read_only,
        attached: disk.attached.load(Ordering::Relaxed),
        queue_size: disk.queue_size,
        queues: disk.queues.iter().map(queue).collect(),
    }
}

impl Handle for api::Bdevs {
    fn handle(_: api::NoParams, state: &mut State) -> Result<api::BdevList, RpcError> {
        let bdevs = state.disks.iter().map(|disk| bdev_info(&*disk.bdev)).collect();
        Ok(api::BdevList { bdevs, unused: state.unused.clone() })
    }
}

/// A block device and what it stands on; the configuration bounds how deep that goes.
fn bdev_info(bdev: &dyn Bdev) -> api::BdevInfo {
    let (info, caps) = (bdev.info(), bdev.info().caps);
    api::BdevInfo {
        name: info.name.clone(),
        kind: bdev.kind().into(),
        size_bytes: info.size_bytes(),
        block_size: info.block_size,
        physical_block_size: info.physical_block_size,
        read_only: info.read_only,
        caps: api::Caps { flush: caps.flush, discard: caps.discard, write_zeroes: caps.write_zeroes },
        children: bdev.children().iter().map(|child| bdev_info(&**child)).collect(),
    }
}

impl Handle for api::Reactors {
    fn handle(_: api::NoParams, state: &mut State) -> Result<api::ReactorList, RpcError> {
        Ok(api::ReactorList { reactors: state.reactors.iter().map(|read| read()).collect() })
    }
}
