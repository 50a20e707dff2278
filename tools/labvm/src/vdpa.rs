//! The vDPA bus as sysfs and the `vdpa` program show it: attach, detach, bind, find the block device.

use crate::command::{Cmd, Job};
use crate::fail::Fail;
use crate::state::names_in;
use crate::wait::{wait_for, wait_some};
use std::path::{Path, PathBuf};

/// One entry per attached device.
pub(crate) const DEVICES: &str = "/sys/bus/vdpa/devices";
const BUS: &str = "/sys/bus/vdpa";
const VIRTIO_VDPA: &str = "/sys/bus/vdpa/drivers/virtio_vdpa";
const ATTACH_LIMIT_S: u64 = 30;

/// Attaches a VDUSE device to the vDPA bus.
pub(crate) fn add(name: &str) -> Result<(), Fail> {
    Cmd::new("vdpa").args(["dev", "add", "name", name, "mgmtdev", "vduse"]).limit_s(ATTACH_LIMIT_S).run()?;
    Ok(())
}

/// Takes it off the bus.
pub(crate) fn del(name: &str) -> Result<(), Fail> {
    Cmd::new("vdpa").args(["dev", "del", name]).limit_s(ATTACH_LIMIT_S).run()?;
    Ok(())
}

/// What `vdpa dev show` prints.
pub(crate) fn show() -> Result<String, Fail> {
    Cmd::new("vdpa").args(["dev", "show"]).run()
}

/// Takes the device away from virtio_vdpa: a reset, as the device sees it.
pub(crate) fn unbind(name: &str) -> Result<(), Fail> {
    write_attribute(&format!("{VIRTIO_VDPA}/unbind"), name)?;
    wait_for(&format!("{name} to lose its block device"), ATTACH_LIMIT_S, || find_block(name).is_none())
}

/// Begins to take the device away from virtio_vdpa, which waits until its daemon answers.
pub(crate) fn start_unbind(name: &str) -> Result<Job, Fail> {
    Cmd::new("/init").args(["write", &format!("{VIRTIO_VDPA}/unbind"), name]).spawn()
}

/// Gives it to virtio_vdpa again, which probes it afresh.
pub(crate) fn bind(name: &str) -> Result<PathBuf, Fail> {
    write_attribute(&format!("{VIRTIO_VDPA}/bind"), name)?;
    block_device(name)
}

/// Gives it to another bus driver than it has.
pub(crate) fn rebind(name: &str, driver: &str) -> Result<(), Fail> {
    write_attribute(&format!("{DEVICES}/{name}/driver/unbind"), name)?;
    write_attribute(&format!("{DEVICES}/{name}/driver_override"), driver)?;
    write_attribute(&format!("{BUS}/drivers_probe"), name)?;
    let bound = || std::fs::read_link(format!("{DEVICES}/{name}/driver"));
    wait_for(&format!("{name} to be bound to {driver}"), ATTACH_LIMIT_S, || {
        bound().is_ok_and(|link| link.ends_with(driver))
    })
}

/// The node that a machine monitor opens, such as `/dev/vhost-vdpa-0`; waits until it is there.
pub(crate) fn vhost_device(name: &str) -> Result<PathBuf, Fail> {
    wait_some(&format!("a vhost-vdpa device under {DEVICES}/{name}"), ATTACH_LIMIT_S, || {
        let device = Path::new(DEVICES).join(name);
        let node = names_in(device).into_iter().find(|entry| entry.starts_with("vhost-vdpa"))?;
        let node = Path::new("/dev").join(node);
        node.exists().then_some(node)
    })
}

/// The block device of a vDPA device, such as `/dev/vda`; waits until it is there.
pub(crate) fn block_device(name: &str) -> Result<PathBuf, Fail> {
    wait_some(&format!("a block device under {DEVICES}/{name}"), ATTACH_LIMIT_S, || find_block(name))
}

/// The block device of a vDPA device, if it has one now.
pub(crate) fn find_block(name: &str) -> Option<PathBuf> {
    let device = Path::new(DEVICES).join(name);
    let virtio = names_in(&device).into_iter().find(|entry| entry.starts_with("virtio"))?;
    let block = names_in(device.join(virtio).join("block")).into_iter().next()?;
    let node = Path::new("/dev").join(block);
    node.exists().then_some(node)
}

/// Writes a sysfs attribute from a bounded child: the kernel may wait for the device's daemon inside the write.
fn write_attribute(path: &str, value: &str) -> Result<(), Fail> {
    Cmd::new("/init").args(["write", path, value]).limit_s(ATTACH_LIMIT_S).run()?;
    Ok(())
}
