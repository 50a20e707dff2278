//! Checks of what VDUSE needs: the kernel, its modules, the control node, the right to attach.

use std::fs::OpenOptions;
use std::io::ErrorKind;

use super::host::{Capability, Module};
use super::{Check, Host, Status};

/// The oldest kernel with the io_uring flags that the reactors use; VDUSE's umem came in 6.0.
const OLDEST_KERNEL: (u32, u32) = (6, 1);
const CONTROL_NODE: &str = "/dev/vduse/control";
const A_KERNEL_WITH_IT: &str = "Debian's linux-image-cloud-amd64 >= 6.12 (bookworm-backports or newer)";

/// A module that disks are served through.
struct Wanted {
    name: &'static str,
    option: &'static str,
    /// Paths that exist only with it.
    signs: &'static [&'static str],
    why: &'static str,
    /// What it comes to when it is not loaded.
    unloaded: Status,
    /// What it comes to when it cannot be loaded.
    absent: Status,
}

const VDUSE: Wanted = Wanted {
    name: "vduse",
    option: "CONFIG_VDPA_USER",
    signs: &[CONTROL_NODE],
    why: "lets a program be a vDPA device",
    unloaded: Status::Missing,
    absent: Status::Missing,
};
const VDPA: Wanted = Wanted {
    name: "vdpa",
    option: "CONFIG_VDPA",
    signs: &["/sys/bus/vdpa"],
    why: "the bus that disks are attached to",
    unloaded: Status::Missing,
    absent: Status::Missing,
};
const VIRTIO_VDPA: Wanted = Wanted {
    name: "virtio_vdpa",
    option: "CONFIG_VIRTIO_VDPA",
    signs: &["/sys/bus/vdpa/drivers/virtio_vdpa"],
    why: "shows disks to this host and its containers",
    unloaded: Status::Missing,
    absent: Status::Missing,
};
const VHOST_VDPA: Wanted = Wanted {
    name: "vhost_vdpa",
    option: "CONFIG_VHOST_VDPA",
    signs: &["/sys/bus/vdpa/drivers/vhost_vdpa"],
    why: "shows disks to virtual machines, driver = \"vhost-vdpa\"",
    unloaded: Status::Warning,
    absent: Status::Warning,
};
const VIRTIO_BLK: Wanted = Wanted {
    name: "virtio_blk",
    option: "CONFIG_VIRTIO_BLK",
    signs: &["/sys/bus/virtio/drivers/virtio_blk"],
    why: "turns an attached disk into /dev/vdX",
    // udev loads it when the disk appears.
    unloaded: Status::Warning,
    absent: Status::Missing,
};

pub(super) fn kernel(host: &Host) -> Check {
    let why = "6.1 brings the io_uring flags that the reactors use";
    let found = format!("Linux {}", host.kernel_release());
    if host.kernel_version().is_some_and(|version| version >= OLDEST_KERNEL) {
        Check::ok("kernel", found, why)
    } else {
        Check::bad(Status::Missing, "kernel", found, why, "boot Linux 6.1 or newer; 6.12 is tested")
    }
}

pub(super) fn modules(host: &Host) -> Vec<Check> {
    [VDUSE, VDPA, VIRTIO_VDPA, VHOST_VDPA, VIRTIO_BLK].iter().map(|wanted| module(host, wanted)).collect()
}

pub(super) fn vduse_module(host: &Host) -> Check {
    module(host, &VDUSE)
}

pub(super) fn virtio_vdpa_module(host: &Host) -> Check {
    module(host, &VIRTIO_VDPA)
}

/// `absent` is what its absence comes to: it depends on whether a disk wants it.
pub(super) fn vhost_vdpa_module(host: &Host, absent: Status) -> Check {
    module(host, &Wanted { unloaded: absent, absent, ..VHOST_VDPA })
}

fn module(host: &Host, wanted: &Wanted) -> Check {
    let &Wanted { name, option, signs, why, unloaded, absent } = wanted;
    let title = format!("module {name}");
    let release = host.kernel_release();
    match host.module(name, signs) {
        Module::Present => Check::ok(&title, "loaded or built in", why),
        Module::Loadable => Check::bad(unloaded, &title, "not loaded", why, format!("modprobe {name}")),
        Module::Absent => {
            let found = format!("this kernel {release} was built without {option}");
            let fix = format!("boot one with {option}=m: {A_KERNEL_WITH_IT}, or your own");
            Check::bad(absent, &title, found, why, fix)
        }
        Module::NoModules => {
            let found = format!("not loaded, and there is no /lib/modules/{release} to load it from");
            let fix = format!(
                "install this kernel's modules and run `modprobe {name}`, or boot a kernel with {option}=m: \
                 {A_KERNEL_WITH_IT}"
            );
            Check::bad(absent, &title, found, why, fix)
        }
    }
}

pub(super) fn control_node(host: &Host) -> Check {
    let why = "disks are made through it";
    let opened = OpenOptions::new().read(true).write(true).open(host.path(CONTROL_NODE));
    let bad = |found: String, fix: &str| Check::bad(Status::Missing, CONTROL_NODE, found, why, fix);
    match opened.map_err(|e| (e.kind(), e)) {
        Ok(_) => Check::ok(CONTROL_NODE, "there, readable and writable", why),
        Err((ErrorKind::NotFound, _)) => bad(
            "not there".into(),
            "modprobe vduse; in a container also pass /dev/vduse in (--device or a bind mount)",
        ),
        Err((ErrorKind::PermissionDenied, _)) => bad(
            "this user may not open it".into(),
            "run as root, or give your group the node: chgrp GROUP /dev/vduse/control && chmod g+rw /dev/vduse/control",
        ),
        Err((_, e)) => bad(
            format!("cannot be opened: {e}"),
            "in a container, allow the device (--device /dev/vduse/control)",
        ),
    }
}

pub(super) fn net_admin(host: &Host) -> Check {
    let why = "attaching a disk to the vDPA bus needs it";
    if host.has(Capability::NetAdmin) {
        return Check::ok("CAP_NET_ADMIN", "held", why);
    }
    let fix = "run as root, or: setcap cap_net_admin+ep SPINBLK, or in a unit file AmbientCapabilities=CAP_NET_ADMIN";
    Check::bad(Status::Missing, "CAP_NET_ADMIN", "not held", why, fix)
}
