//! What can go wrong between us and the kernel, with the way out in the message.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that the kernel must not see.
    #[error(
        "disk name {name:?} {reason}; a name has 1 to 255 of the characters A-Z a-z 0-9 . _ -, does not start with a \
         dot and is not \"control\""
    )]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A device description that the kernel would refuse, or worse, accept.
    #[error("disk {name}: {reason}")]
    Spec {
        /// The disk.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// `/dev/vduse/control` cannot be used.
    #[error("cannot {action} {}: {source}{}", path.display(), control_hint(source))]
    Control {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device was not made.
    #[error("disk {name}: the kernel does not create the VDUSE device: {source}{}", create_hint(*source))]
    Create {
        /// The disk.
        name: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// The device was not destroyed.
    #[error("disk {name}: the kernel does not destroy the VDUSE device: {source}{}", destroy_hint(*source))]
    Destroy {
        /// The disk.
        name: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// `/dev/vduse/NAME` does not open.
    #[error("disk {name}: cannot open {}: {source}{}", path.display(), open_hint(source))]
    OpenDevice {
        /// The disk.
        name: String,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel gave the device up.
    #[error(
        "disk {name}: the kernel has declared the device broken, because a control message waited longer than \
         /sys/class/vduse/{name}/msg_timeout; only a new device helps: run `vdpa dev del {name}`, then start again"
    )]
    Broken {
        /// The disk.
        name: String,
    },
    /// A call on the device failed.
    #[error("disk {name}: {call} of {subject}: {source}")]
    Call {
        /// The disk.
        name: String,
        /// The kernel's name of the call: `"VQ_SETUP"`.
        call: &'static str,
        /// What it was about: `"queue 3 with 256 entries"`.
        subject: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// Our memory does not become the bounce region.
    #[error("disk {name}: cannot register {len_bytes} bytes at IOVA {iova:#x} as bounce memory: {source}{}", umem_hint(*source))]
    Umem {
        /// The disk.
        name: String,
        /// Start of the region.
        iova: u64,
        /// Its length.
        len_bytes: u64,
        /// The kernel's answer.
        source: Errno,
    },
    /// A control message has another length than this crate knows.
    #[error(
        "disk {name}: a control message of {got_bytes} bytes, {want_bytes} expected: this kernel speaks another \
         VDUSE API"
    )]
    MessageLength {
        /// The disk.
        name: String,
        /// What came.
        got_bytes: usize,
        /// What should have come.
        want_bytes: usize,
    },
    /// A sysfs file cannot be read or written.
    #[error("cannot {action} {}: {source}{}", path.display(), sysfs_hint(path, source))]
    Sysfs {
        /// The file.
        path: PathBuf,
        /// `"read"`, `"write \"64\" to"`.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A sysfs file says something else than expected.
    #[error("{} holds {value:?}; {expected} expected", path.display())]
    SysfsValue {
        /// The file.
        path: PathBuf,
        /// Its text.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// The kernel has no vDPA netlink family here.
    #[error(
        "the kernel offers no vDPA management: run `modprobe vduse`; in a container, share the host's network namespace"
    )]
    NoVdpa,
    /// The vDPA management refused.
    #[error("disk {name}: cannot {action} the vDPA bus: {source}{}{}", detail(message), netlink_hint(*source))]
    Vdpa {
        /// The disk.
        name: String,
        /// `"attach it to"`, `"detach it from"`, `"look for it on"`.
        action: &'static str,
        /// The kernel's answer.
        source: Errno,
        /// The kernel's explanation, when it gave one.
        message: Option<String>,
    },
    /// The netlink socket itself failed.
    #[error("disk {name}: netlink: {reason}")]
    Netlink {
        /// The disk.
        name: String,
        /// What happened.
        reason: String,
    },
    /// The bus driver is not there.
    #[error("the vDPA bus has no driver {driver}: run `modprobe {driver}`")]
    NoDriver {
        /// The driver, which is also its module.
        driver: &'static str,
    },
    /// A driver name that this crate does not know.
    #[error("bus driver {given:?} is unknown; choose \"virtio-vdpa\" or \"vhost-vdpa\"")]
    UnknownDriver {
        /// What was given.
        given: String,
    },
    /// The driver did not take the device.
    #[error(
        "disk {name}: the driver {driver} did not take it (bound now: {}); the kernel log (`dmesg`) says why",
        bound.as_deref().unwrap_or("none")
    )]
    NotBound {
        /// The disk.
        name: String,
        /// The driver wanted.
        driver: &'static str,
        /// The driver that has the device.
        bound: Option<String>,
    },
    /// The kernel did not come back.
    #[error(
        "disk {name}: {action} did not finish in {} s: its driver still waits for control messages or I/O",
        timeout.as_secs_f32()
    )]
    TimedOut {
        /// The disk.
        name: String,
        /// What was tried.
        action: &'static str,
        /// How long was waited.
        timeout: Duration,
    },
    /// The bounce region is not the one that our memory was registered for.
    #[error(
        "disk {name}: the bounce region has changed to {len_bytes} bytes while our memory is registered; restart the disk"
    )]
    BounceChanged {
        /// The disk.
        name: String,
        /// Its length now.
        len_bytes: u64,
    },
    /// A region's file cannot be mapped.
    #[error("disk {name}: cannot map {len_bytes} bytes at IOVA {iova:#x}: {source}")]
    Mapping {
        /// The disk.
        name: String,
        /// Start of the region.
        iova: u64,
        /// Its length.
        len_bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A queue cannot be served.
    #[error("disk {name}, queue {queue}: {source}")]
    Queue {
        /// The disk.
        name: String,
        /// The queue.
        queue: u16,
        /// What is wrong with it.
        source: spinblk_virtio::QueueError,
    },
    /// The driver set up a ring that was not offered.
    #[error("disk {name}, queue {queue}: the driver set up {size} entries, {max} are offered")]
    RingSize {
        /// The disk.
        name: String,
        /// The queue.
        queue: u16,
        /// What the driver set.
        size: u32,
        /// What was offered.
        max: u16,
    },
    /// I/O in flight did not finish.
    #[error(
        "disk {name}, queue {queue}: I/O is still in flight after {} s: the storage below does not answer",
        timeout.as_secs()
    )]
    NotQuiet {
        /// The disk.
        name: String,
        /// The queue.
        queue: u16,
        /// How long was waited.
        timeout: Duration,
    },
    /// A queue of a process that died, whose ring is not there to see how far it came.
    #[error(
        "disk {name}, queue {queue}: its ring is not mapped at the moment, so how far it has come is not known; ask again when \
         it is mapped"
    )]
    RingAway {
        /// The disk.
        name: String,
        /// The queue.
        queue: u16,
    },
    /// A queue vanished from its reactor.
    #[error("disk {name}, queue {queue}: its reactor does not have it any more (did that thread end?)")]
    QueueGone {
        /// The disk.
        name: String,
        /// The queue.
        queue: u16,
    },
    /// Queues of an earlier driver still wait for their I/O.
    #[error(
        "disk {name}: I/O of the driver before still hangs in the storage below; the disk serves again when that has \
         answered"
    )]
    StillHanging {
        /// The disk.
        name: String,
    },
    /// A log of requests in flight that cannot be used.
    #[error(
        "disk {name}: its log of requests in flight, {}, {reason}; the disk is left as it is: serve it as it was served \
         before; or, if its users have ended and nothing is in flight, remove that file and start again",
        path.display()
    )]
    Log {
        /// The disk.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file of such a log cannot be made, opened or removed.
    #[error("disk {name}: cannot {action} its log of requests in flight, {}: {source}{}", path.display(), log_hint(source))]
    LogFile {
        /// The disk.
        name: String,
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A device was left behind with requests in flight.
    #[error(
        "disk {name}, queue {queue}: the process that served it died with {requests} requests in flight and kept no log of \
         them; stop the disk's users, then restart the host (or its VM) to clear it"
    )]
    InFlight {
        /// The disk.
        name: String,
        /// The queue.
        queue: u16,
        /// How many.
        requests: u16,
    },
    /// Another process served it, and what it knew of a packed ring is gone with it.
    #[error(
        "disk {name}: queue {queue} is a packed ring, whose state died with the process that served it, which kept no log; \
         detach the disk ({}) and start again",
        detach_hint(name)
    )]
    PackedTakeOver {
        /// The disk.
        name: String,
        /// The queue.
        queue: u16,
    },
    /// The driver has the device but made no node for it.
    #[error(
        "disk {name}: {driver} has it, but no device node appeared; is the module virtio_blk loaded, and /dev a devtmpfs?"
    )]
    NoNode {
        /// The disk.
        name: String,
        /// Its driver.
        driver: &'static str,
    },
    /// The bdev below did not open.
    #[error("disk {name}: {source}")]
    Bdev {
        /// The disk.
        name: String,
        /// What it said.
        source: spinblk_bdev::Error,
    },
    /// The reactor floor refused.
    #[error("disk {name}: {source}")]
    Reactor {
        /// The disk.
        name: String,
        /// What it said.
        source: spinblk_reactor::Error,
    },
    /// No helper thread.
    #[error("disk {name}: cannot start a thread for {action}: {source}")]
    Thread {
        /// The disk.
        name: String,
        /// What it was for.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn control_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => {
            "; run `modprobe vduse` (Linux 5.15 or newer); in a container, pass /dev/vduse in"
        }
        io::ErrorKind::PermissionDenied => "; run as root, or give this user read and write permission on it",
        _ => "",
    }
}

fn create_hint(source: Errno) -> &'static str {
    match source {
        Errno::EINVAL => "; this kernel does not accept the features, queue count or configuration space",
        Errno::ENOSPC => "; no device numbers are left",
        _ => "",
    }
}

fn destroy_hint(source: Errno) -> &'static str {
    match source {
        Errno::EBUSY => {
            "; it is still on the vDPA bus (`vdpa dev del NAME`) or a process still has /dev/vduse/NAME open"
        }
        Errno::EINVAL => "; there is no device of this name",
        _ => "",
    }
}

fn open_hint(source: &io::Error) -> &'static str {
    match (source.kind(), source.raw_os_error()) {
        (_, Some(libc::EBUSY)) => "; another process serves this disk: stop it, or choose another name",
        (io::ErrorKind::NotFound, _) => {
            "; the device is gone, or /dev is not devtmpfs: in a container, pass all of /dev/vduse in"
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "; run as root, or give this user read and write permission on it"
        }
        _ => "",
    }
}

fn umem_hint(source: Errno) -> &'static str {
    match source {
        Errno::ENOMEM => "; raise RLIMIT_MEMLOCK (`ulimit -l unlimited`, or LimitMEMLOCK=infinity)",
        Errno::EINVAL => {
            "; it must be the whole bounce region, page-aligned, and the driver must have sent its first request"
        }
        Errno::EEXIST => "; memory is registered already",
        _ => "",
    }
}

fn sysfs_hint(path: &Path, source: &io::Error) -> &'static str {
    let file = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    match (file, source.raw_os_error()) {
        ("bounce_size", Some(libc::EPERM)) => "; it can be changed only before the disk is on the vDPA bus",
        ("bounce_size", Some(libc::EINVAL)) => "; allowed are 1048576 to 1073741824 bytes",
        (_, Some(libc::ENOENT)) if !path.parent().is_some_and(Path::exists) => {
            "; there is no such device or queue"
        }
        ("bounce_size" | "irq_cb_affinity", Some(libc::ENOENT)) => "; Linux 6.4 or newer is needed",
        ("irq_cb_affinity", Some(libc::EINVAL | libc::EOVERFLOW)) => {
            "; the mask must name CPUs that are online"
        }
        (_, Some(libc::EACCES | libc::EPERM)) => "; run as root",
        (_, Some(libc::EROFS)) => "; in a container, sysfs must be writable (a privileged container)",
        (_, Some(libc::ENODEV)) => "; the device is gone",
        _ => "",
    }
}

fn netlink_hint(source: Errno) -> &'static str {
    match source {
        Errno::EPERM => "; CAP_NET_ADMIN is needed: run as root",
        Errno::ENODEV => "; run `modprobe vduse`",
        Errno::EINVAL => "; a VDUSE device of this name must exist, with every queue set up",
        Errno::EEXIST => "; a device of this name is there already: `vdpa dev del NAME` removes it",
        _ => "",
    }
}

/// How to detach a disk that nobody serves: the kernel would wait for an answer for ever.
pub(crate) fn detach_hint(name: &str) -> String {
    format!("`echo 1 >/sys/class/vduse/{name}/msg_timeout`, then `vdpa dev del {name}`")
}

fn log_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOSPC) => "; make room there, or name another folder on a tmpfs (state_dir)",
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            "; name a folder that this user may write to (state_dir), or do without a log (resume = false)"
        }
        _ => "",
    }
}

fn detail(message: &Option<String>) -> String {
    message.as_ref().map_or_else(String::new, |message| format!(" ({message})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_fix() {
        let open = |errno| Error::OpenDevice {
            name: "d0".into(),
            path: "/dev/vduse/d0".into(),
            source: io::Error::from_raw_os_error(errno),
        };
        assert!(open(libc::EBUSY).to_string().contains("another process serves"));
        assert!(open(libc::EACCES).to_string().contains("permission on it"));
        let control = Error::Control {
            path: "/dev/vduse/control".into(),
            action: "open",
            source: io::Error::from_raw_os_error(libc::ENOENT),
        };
        assert!(control.to_string().contains("modprobe vduse"), "{control}");
        let umem = Error::Umem { name: "d0".into(), iova: 0, len_bytes: 1, source: Errno::ENOMEM };
        assert!(umem.to_string().contains("RLIMIT_MEMLOCK"), "{umem}");
        let bounce = Error::Sysfs {
            path: "/sys/class/vduse/d0/bounce_size".into(),
            action: "write \"5\" to".into(),
            source: io::Error::from_raw_os_error(libc::EINVAL),
        };
        assert!(bounce.to_string().contains("1048576 to"), "{bounce}");
        let netlink = Error::Vdpa {
            name: "d0".into(),
            action: "attach it to",
            source: Errno::EPERM,
            message: Some("no".into()),
        };
        let netlink = netlink.to_string();
        assert!(netlink.contains("(no)") && netlink.contains("CAP_NET_ADMIN"), "{netlink}");
    }
}
