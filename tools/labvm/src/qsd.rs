//! qemu-storage-daemon, the peer: its VDUSE export checks the lab itself and is what spinblk is compared with.

use crate::command::{Cmd, Job};
use crate::fail::Fail;
use crate::lab::Lab;
use crate::state::vduse_nodes;
use crate::vdpa;
use crate::wait::wait_for;
use nix::sys::signal::Signal;
use std::path::PathBuf;

const START_LIMIT_S: u64 = 20;
const STOP_LIMIT_S: u64 = 20;

/// A running qemu-storage-daemon with one exported disk that answers and does nothing, like the null disk of spinblk.
pub(crate) struct Qsd {
    name: String,
    process: Job,
}

impl Qsd {
    /// Exports a null disk of `size_mib` and attaches it; gives the block device as well.
    pub(crate) fn serve_null(
        lab: &Lab,
        name: &str,
        size_mib: u64,
        queues: u32,
        queue_size: u32,
    ) -> Result<(Qsd, PathBuf), Fail> {
        let size_bytes = size_mib << 20;
        let process = Cmd::new("qemu-storage-daemon")
            .arg("--blockdev")
            .arg(format!("null-co,node-name=n0,size={size_bytes},read-zeroes=off"))
            .arg("--export")
            .arg(format!(
                "vduse-blk,id=e0,node-name=n0,name={name},num-queues={queues},queue-size={queue_size},writable=on"
            ))
            .spawn_into(&lab.out_dir().join(format!("qsd-{name}.log")))?;
        let qsd = Qsd { name: name.to_owned(), process };
        wait_for(&format!("/dev/vduse/{name}"), START_LIMIT_S, || vduse_nodes().iter().any(|n| n == name))?;
        vdpa::add(name)?;
        let device = vdpa::block_device(name)?;
        Ok((qsd, device))
    }

    /// Detaches the disk and ends the daemon.
    pub(crate) fn stop(mut self) -> Result<(), Fail> {
        vdpa::del(&self.name)?;
        self.process.signal(Signal::SIGTERM);
        self.process.finish(STOP_LIMIT_S)?;
        let node = format!("/dev/vduse/{} to go", self.name);
        wait_for(&node, STOP_LIMIT_S, || !vduse_nodes().contains(&self.name))
    }
}
