//! What can go wrong between us and a client, with the way out in the message.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use spinblk_virtio::{InFlightError, QueueError};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration that cannot be served.
    #[error("disk {name}: {reason}")]
    Config {
        /// The disk.
        name: String,
        /// What is wrong and what is wanted.
        reason: String,
    },
    /// The socket cannot be used.
    #[error("disk {name}: cannot {action} the socket {}: {source}{}", socket.display(), socket_hint(source))]
    Socket {
        /// The disk.
        name: String,
        /// Its socket.
        socket: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another server answers on the socket.
    #[error(
        "disk {name}: another process serves the socket {}; stop it or choose another path",
        socket.display()
    )]
    SocketBusy {
        /// The disk.
        name: String,
        /// Its socket.
        socket: PathBuf,
    },
    /// Something that is no socket lies where the socket should be.
    #[error(
        "disk {name}: {} exists and is not a socket; remove it or choose another path",
        socket.display()
    )]
    NotASocket {
        /// The disk.
        name: String,
        /// Its socket.
        socket: PathBuf,
    },
    /// The control thread, or what it needs, is not to be had.
    #[error("disk {name}: cannot set up {what}: {source}")]
    Thread {
        /// The disk.
        name: String,
        /// What for.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A reactor did not do what it was asked.
    #[error("disk {name}: {source}")]
    Reactor {
        /// The disk.
        name: String,
        /// What it said.
        source: spinblk_reactor::Error,
    },
    /// The block device does not open on a reactor.
    #[error("disk {name}: {source}")]
    Bdev {
        /// The disk.
        name: String,
        /// What it said.
        source: spinblk_bdev::Error,
    },
    /// A ring cannot be served.
    #[error("disk {name}: queue {queue}: {source}")]
    Queue {
        /// The disk.
        name: String,
        /// The queue.
        queue: usize,
        /// What is wrong with it.
        source: QueueError,
    },
    /// I/O in flight did not end in time.
    #[error(
        "disk {name}: queue {queue} still has I/O in flight after {} s; look at the storage under the disk",
        waited.as_secs()
    )]
    NotQuiet {
        /// The disk.
        name: String,
        /// The queue.
        queue: usize,
        /// How long was waited.
        waited: Duration,
    },
    /// A message about a queue that the disk does not have.
    #[error("disk {name}: the client names queue {queue}, there are {queues}; raise the disk's `queues`")]
    NoSuchQueue {
        /// The disk.
        name: String,
        /// What the client named.
        queue: u32,
        /// How many there are.
        queues: usize,
    },
    /// A queue set up in a way that makes no sense.
    #[error("disk {name}: queue {queue}: {reason}")]
    Vring {
        /// The disk.
        name: String,
        /// The queue.
        queue: usize,
        /// What is wrong.
        reason: String,
    },
    /// Feature bits that were not offered.
    #[error(
        "disk {name}: the client accepts {kind} features {asked:#x}, of which {extra:#x} were not offered"
    )]
    Features {
        /// The disk.
        name: String,
        /// `"virtio"` or `"protocol"`.
        kind: &'static str,
        /// What the client sent.
        asked: u64,
        /// What is too much.
        extra: u64,
    },
    /// Memory that cannot be mapped.
    #[error("disk {name}: the client's memory at guest address {guest:#x}, {len_bytes} bytes, {reason}")]
    Region {
        /// The disk.
        name: String,
        /// Where the guest sees it.
        guest: u64,
        /// Its length.
        len_bytes: u64,
        /// What is wrong.
        reason: String,
    },
    /// Memory that went away while it was mapped.
    #[error(
        "disk {name}: the client's memory at guest address {guest:#x} cannot be reached any more: \
         its file was made shorter, or its hugepages ran out"
    )]
    MemoryGone {
        /// The disk.
        name: String,
        /// Where the guest saw it.
        guest: u64,
    },
    /// An in-flight log that cannot be used for any queue.
    #[error("disk {name}: the client's in-flight log {reason}")]
    Log {
        /// The disk.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A queue's in-flight log that cannot be used.
    #[error("disk {name}: queue {queue}: {source}")]
    QueueLog {
        /// The disk.
        name: String,
        /// The queue.
        queue: usize,
        /// What is wrong with it.
        source: InFlightError,
    },
    /// A status that no device has.
    #[error("disk {name}: the client sets the device status to {status:#x}, which is no byte")]
    Status {
        /// The disk.
        name: String,
        /// What it sent.
        status: u64,
    },
    /// A descriptor that cannot be the backend channel.
    #[error("disk {name}: the client's backend channel {reason}")]
    Channel {
        /// The disk.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A message for something that was not offered.
    #[error("disk {name}: the client sends {request}, which this server does not offer")]
    NotOffered {
        /// The disk.
        name: String,
        /// The message's name.
        request: &'static str,
    },
    /// A part of the configuration space that does not exist or cannot be written.
    #[error("disk {name}: the client {what} {len_bytes} bytes at offset {offset} of the configuration space")]
    ConfigSpace {
        /// The disk.
        name: String,
        /// What it does with them.
        what: &'static str,
        /// Where.
        offset: u32,
        /// How many.
        len_bytes: usize,
    },
}

impl From<Error> for vhost::vhost_user::Error {
    fn from(error: Error) -> Self {
        Self::ReqHandlerError(io::Error::other(error))
    }
}

fn socket_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOENT) => "; make its directory first",
        Some(libc::EACCES) => "; give this user the right to write to its directory",
        Some(libc::ENAMETOOLONG) => "; its path may have at most 107 bytes",
        _ => "",
    }
}
