//! qemu-storage-daemon, the peer: its VDUSE export checks the lab itself and is what spinblk is compared with.

use crate::command::{Cmd, Job};
use crate::fail::Fail;
use crate::lab::Lab;
use crate::state::vduse_nodes;
use crate::vdpa;
use crate::wait::wait_for;
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};

const START_LIMIT_S: u64 = 20;
const STOP_LIMIT_S: u64 = 20;

/// A disk that it exports.
pub(crate) struct Export {
    name: String,
    backing: String,
    queues: u32,
    queue_size: u32,
}

impl Export {
    /// One that answers and does nothing, like the null disk of spinblk.
    pub(crate) fn null(name: &str, size_mib: u64) -> Export {
        Export::of(name, format!("null-co,node-name=n0,size={},read-zeroes=off", size_mib << 20))
    }

    /// A block device, used as spinblk uses it.
    pub(crate) fn block_device(name: &str, path: &Path) -> Export {
        let file = path.display();
        Export::of(name, format!("host_device,node-name=n0,filename={file},cache.direct=on,aio=io_uring"))
    }

    fn of(name: &str, backing: String) -> Export {
        Export { name: name.to_owned(), backing, queues: 2, queue_size: 256 }
    }

    pub(crate) fn queues(self, queues: u32, queue_size: u32) -> Export {
        Export { queues, queue_size, ..self }
    }

    fn argument(&self) -> String {
        let Export { name, queues, queue_size, .. } = self;
        format!(
            "vduse-blk,id=e0,node-name=n0,name={name},num-queues={queues},queue-size={queue_size},writable=on"
        )
    }
}

/// A running qemu-storage-daemon with one exported disk.
pub(crate) struct Qsd {
    name: String,
    process: Job,
}

impl Qsd {
    /// Exports a disk and attaches it; gives the block device as well.
    pub(crate) fn serve(lab: &Lab, export: &Export) -> Result<(Qsd, PathBuf), Fail> {
        let qsd = Qsd::spawn(lab, export)?;
        let name = &export.name;
        wait_for(&format!("/dev/vduse/{name}"), START_LIMIT_S, || vduse_nodes().contains(name))?;
        vdpa::add(name)?;
        let device = vdpa::block_device(name)?;
        Ok((qsd, device))
    }

    /// Starts it, and waits for nothing.
    pub(crate) fn spawn(lab: &Lab, export: &Export) -> Result<Qsd, Fail> {
        let process = Cmd::new("qemu-storage-daemon")
            .args(["--blockdev", &export.backing, "--export", &export.argument()])
            .spawn_into(&lab.out_dir().join(format!("qsd-{}.log", export.name)))?;
        Ok(Qsd { name: export.name.clone(), process })
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    /// Ends it without a chance to clean up.
    pub(crate) fn kill(mut self) -> Result<(), Fail> {
        self.process.signal(Signal::SIGKILL);
        self.process.finish(STOP_LIMIT_S).map(drop)
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
