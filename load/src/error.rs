//! What can go wrong under load, with the way out in the message.

use std::io;
use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A job that the target cannot do.
    #[error("target {target}: {what}: {why}")]
    Job {
        /// The target.
        target: String,
        /// The flag and its value.
        what: String,
        /// What is wrong and what is allowed.
        why: String,
    },
    /// Nobody listens on the socket.
    #[error("cannot connect to {}: {source}{}", path.display(), connect_hint(source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The server refused a message or broke the protocol.
    #[error("vhost-user server at {}: {step}: {source}; see the server's own messages", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What was asked.
        step: &'static str,
        /// What went wrong.
        source: Box<vhost::Error>,
    },
    /// The device lacks something that the generator cannot do without.
    #[error("target {target}: {lacks}")]
    Feature {
        /// The target.
        target: String,
        /// What it lacks, and what it offers.
        lacks: String,
    },
    /// The device takes no rings of that size.
    #[error(
        "target {target}: it refuses rings of {entries} entries ({why}); --qd {depth} takes {each} each \
         (rounded up to a power of two): take less --qd{}, or raise the device's limit (spinblk serve: queue-size)",
        if *each > 1 { ", or --indirect, which takes one" } else { "" }
    )]
    RingSize {
        /// The target.
        target: String,
        /// The size that was asked for.
        entries: u16,
        /// Requests in flight on each queue.
        depth: u32,
        /// Entries that each of them takes.
        each: u16,
        /// How it told its limit.
        why: String,
    },
    /// The character device cannot be opened.
    #[error("cannot open {}: {source}{}", path.display(), open_hint(source))]
    Open {
        /// The character device.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel, or the device behind it, refused a step.
    #[error("vhost-vdpa device {}: {step}: {source}; see dmesg and its daemon's messages", path.display())]
    Vdpa {
        /// The character device.
        path: PathBuf,
        /// What was asked.
        step: &'static str,
        /// The kernel's answer.
        source: Box<vhost::Error>,
    },
    /// Somebody reset the device, or it failed.
    #[error(
        "target {target}: the device works no more (status {status:#04x}); see dmesg and its daemon's messages"
    )]
    Stopped {
        /// The target.
        target: String,
        /// Its virtio status.
        status: u8,
    },
    /// Shared memory could not be had.
    #[error(
        "cannot make {len_bytes} bytes of shared memory ({action}): {source}; take less --bs, --qd or --queues"
    )]
    SharedMemory {
        /// How much.
        len_bytes: usize,
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An event descriptor failed.
    #[error("target {target} queue {queue}: event descriptor: {source}")]
    Event {
        /// The target.
        target: String,
        /// The queue.
        queue: u16,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device broke the rules of the ring.
    #[error("target {target} queue {queue}: the device broke the ring: {what}")]
    Ring {
        /// The target.
        target: String,
        /// The queue.
        queue: u16,
        /// What it did.
        what: String,
    },
    /// The server closed the connection.
    #[error("target {target}: the server has closed the connection; see its own messages")]
    Gone {
        /// The target.
        target: String,
    },
    /// Requests stay away.
    #[error(
        "target {target}: no completion for {seconds} s with {in_flight} requests in flight; is the server alive?"
    )]
    Stalled {
        /// The target.
        target: String,
        /// Requests that are waited for.
        in_flight: usize,
        /// How long.
        seconds: u64,
    },
    /// A polling thread could not be started, or died.
    #[error("core {core}: {reason}")]
    Thread {
        /// The core.
        core: usize,
        /// What happened.
        reason: String,
    },
    /// A polling thread could not wait for interrupts.
    #[error("core {core}: cannot wait for interrupts: {source}")]
    Sleep {
        /// The core.
        core: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A bdev could not be opened or made.
    #[error(transparent)]
    Bdev(#[from] spinblk_bdev::Error),
    /// No ring or memory for a bdev.
    #[error(transparent)]
    Reactor(#[from] spinblk_reactor::Error),
}

fn connect_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; start the server first",
        io::ErrorKind::ConnectionRefused => {
            "; the socket is there, but no server listens on it: start it again"
        }
        io::ErrorKind::PermissionDenied => "; give this user write permission on the socket",
        _ => "",
    }
}

fn open_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => {
            "; a node appears when a vDPA device is bound to vhost_vdpa (spinblk serve: driver=vhost-vdpa)"
        }
        io::ErrorKind::ResourceBusy => "; another program has the device: it has one user at a time",
        io::ErrorKind::PermissionDenied => "; give this user read and write permission on it",
        _ => "",
    }
}
