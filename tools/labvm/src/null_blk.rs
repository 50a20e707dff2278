//! Block devices in the guest's RAM, for what a file on tmpfs cannot do: O_DIRECT, discard, bad sectors.

use crate::command::Cmd;
use crate::fail::Fail;
use crate::lab::Lab;
use crate::wait::wait_for;
use nix::mount::{MsFlags, mount};
use std::path::{Path, PathBuf};

/// What an I/O of a slow one takes.
const SLOW_NS: &str = "4000000";
const CONFIG_ROOT: &str = "/sys/kernel/config";
const CONFIG: &str = "/sys/kernel/config/nullb";

/// A memory-backed null_blk device; goes away when dropped.
pub(crate) struct NullBlk {
    name: &'static str,
    path: PathBuf,
}

impl NullBlk {
    /// Creates one that keeps what is written to it.
    pub(crate) fn with_memory(lab: &Lab, name: &'static str, size_mib: u64) -> Result<NullBlk, Fail> {
        NullBlk::create(
            lab,
            name,
            &[("memory_backed", "1"), ("discard", "1"), ("size", &size_mib.to_string())],
        )
    }

    /// Creates one that keeps what is written to it, and whose queue says what is done only when it is asked.
    pub(crate) fn polled(lab: &Lab, name: &'static str, size_mib: u64) -> Result<NullBlk, Fail> {
        let size = size_mib.to_string();
        let attributes = [("memory_backed", "1"), ("discard", "1"), ("size", size.as_str())];
        let polled = [("submit_queues", "1"), ("poll_queues", "1")];
        NullBlk::create(lab, name, &[&attributes[..], &polled].concat())
    }

    /// Creates one that keeps what is written to it, and takes a while for each I/O, so that there is always one on its way.
    pub(crate) fn slow_with_memory(lab: &Lab, name: &'static str, size_mib: u64) -> Result<NullBlk, Fail> {
        let (size, by_timer) = (size_mib.to_string(), "2");
        let attributes = [("memory_backed", "1"), ("discard", "1"), ("size", size.as_str())];
        let slow = [("irqmode", by_timer), ("completion_nsec", SLOW_NS)];
        NullBlk::create(lab, name, &[&attributes[..], &slow].concat())
    }

    /// Creates one that keeps nothing, as fast as the block layer goes.
    pub(crate) fn without_memory(lab: &Lab, name: &'static str, size_mib: u64) -> Result<NullBlk, Fail> {
        NullBlk::create(lab, name, &[("submit_queues", "2"), ("size", &size_mib.to_string())])
    }

    fn create(lab: &Lab, name: &'static str, attributes: &[(&str, &str)]) -> Result<NullBlk, Fail> {
        // No devices of its own accord: those could not be configured.
        Cmd::new("modprobe").args(["null_blk", "nr_devices=0"]).run()?;
        mount_configfs()?;
        lab.say(&format!("create /dev/{name}"));
        let folder = Path::new(CONFIG).join(name);
        std::fs::create_dir(&folder).map_err(Fail::file("create", &folder))?;
        let device = NullBlk { name, path: Path::new("/dev").join(name) };
        for (attribute, value) in attributes {
            device.set(attribute, value)?;
        }
        device.set("power", "1")?;
        wait_for(&format!("/dev/{name}"), 10, || device.path.exists())?;
        Ok(device)
    }

    /// The block device.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a range of sectors fail.
    pub(crate) fn spoil(&self, first_sector: u64, last_sector: u64) -> Result<(), Fail> {
        self.set("badblocks", &format!("+{first_sector}-{last_sector}"))
    }

    fn set(&self, attribute: &str, value: &str) -> Result<(), Fail> {
        let path = Path::new(CONFIG).join(self.name).join(attribute);
        std::fs::write(&path, value).map_err(Fail::file("write", &path))
    }
}

/// configfs is a module, so its mount point is not there when the machine starts.
fn mount_configfs() -> Result<(), Fail> {
    if Path::new(CONFIG).is_dir() {
        return Ok(());
    }
    mount(Some("configfs"), CONFIG_ROOT, Some("configfs"), MsFlags::empty(), None::<&str>)
        .map_err(Fail::system(format!("mount configfs on {CONFIG_ROOT}")))
}

impl Drop for NullBlk {
    fn drop(&mut self) {
        // Best effort; a device in use stays until the machine ends.
        let _ = self.set("power", "0");
        let _ = std::fs::remove_dir(Path::new(CONFIG).join(self.name));
    }
}
