//! Errors: of a device that cannot be used, and of one I/O.

use std::io;
use std::path::PathBuf;

/// Why a block device cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on the file failed.
    #[error("bdev {name}: {} {}: {source}{}", action, path.display(), hint(source))]
    File {
        /// The device.
        name: String,
        /// What was tried: `"open"`, `"stat"`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The path leads to neither a regular file nor a block device.
    #[error("bdev {name}: {} is a {kind}; give a regular file or a block device", path.display())]
    NotStorage {
        /// The device.
        name: String,
        /// The file.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
    },
    /// Somebody else serves the file.
    #[error("bdev {name}: {} is in use by another disk or process; serve it once, or read_only everywhere", path.display())]
    FileInUse {
        /// The device.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// Less than one block.
    #[error("bdev {name}: {size_bytes} bytes are less than one block of {block_size} bytes; make it larger")]
    TooSmall {
        /// The device.
        name: String,
        /// Its size.
        size_bytes: u64,
        /// Its block size.
        block_size: u32,
    },
    /// A block size that no driver takes.
    #[error("bdev {name}: block size {block_size}: allowed are powers of two from 512 to 4096")]
    BlockSize {
        /// The device.
        name: String,
        /// What was asked for.
        block_size: u32,
    },
    /// A file of less than one block.
    #[error(
        "bdev {name}: {} has {size_bytes} bytes, less than one block of {block_size}; make it larger, for example \
         with `truncate -s 1G FILE`",
        path.display()
    )]
    FileTooSmall {
        /// The device.
        name: String,
        /// The file.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
        /// The device's block size.
        block_size: u32,
    },
    /// A block size below what the target can do.
    #[error(
        "bdev {name}: block size {block_size} is below the {least} that {} needs; set block_size to at least {least}",
        path.display()
    )]
    BlockSizeBelowTarget {
        /// The device.
        name: String,
        /// The file.
        path: PathBuf,
        /// What was asked for.
        block_size: u32,
        /// The least that works.
        least: u32,
    },
    /// O_DIRECT was demanded of a file that has none.
    #[error(
        "bdev {name}: {} does not allow O_DIRECT ({reason}); set direct to \"auto\" or \"off\", or move the file to \
         another file system",
        path.display()
    )]
    NoDirect {
        /// The device.
        name: String,
        /// The file.
        path: PathBuf,
        /// What stands in the way.
        reason: &'static str,
    },
    /// Children that cannot stand under one device together.
    #[error("bdev {name}: child {child}: {why}")]
    Child {
        /// The device.
        name: String,
        /// The child.
        child: String,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// An option with a value that it cannot have.
    #[error("bdev {name}: {option} {value}: {why}")]
    Option {
        /// The device.
        name: String,
        /// The option, as configuration spells it.
        option: &'static str,
        /// What was asked for.
        value: String,
        /// What is allowed.
        why: &'static str,
    },
    /// A device that cannot have the size asked for, or any other.
    #[error("bdev {name}: cannot be resized: {why}")]
    Resize {
        /// The device.
        name: String,
        /// What stands in the way, and what to do.
        why: String,
    },
    /// A key that cannot be used. Never says anything of its contents.
    #[error("bdev {name}: key {}: {why}", source_name)]
    Key {
        /// The device.
        name: String,
        /// Where it was to come from.
        source_name: String,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// The reactor floor refused (memory, ring).
    #[error("bdev {name}: {source}")]
    Reactor {
        /// The device.
        name: String,
        /// What it said.
        source: spinblk_reactor::Error,
    },
}

impl Error {
    /// Whether somebody else has the file or device, who may be about to let go of it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::FileInUse { .. } => true,
            Self::File { source, .. } => source.kind() == io::ErrorKind::ResourceBusy,
            _ => false,
        }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; create it first, for example with `truncate -s 1G FILE`",
        io::ErrorKind::PermissionDenied => {
            "; give this user read and write permission on it, or serve it read-only"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; it is write-protected: serve it read-only",
        io::ErrorKind::ResourceBusy => "; it is mounted or in use: unmount it, or serve it read-only",
        _ => "",
    }
}

/// Why one I/O failed. Small and `Copy`: it travels with every completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// Blocks beyond the end of the device.
    #[error("range beyond the end of the device")]
    OutOfRange,
    /// Offset or length is not a multiple of the block size, or the segments do not add up to the length.
    #[error("offset or length not a multiple of the block size")]
    Misaligned,
    /// More segments than the channel takes in one I/O.
    #[error("too many segments")]
    TooManySegments,
    /// A write to a read-only device.
    #[error("device is read-only")]
    ReadOnly,
    /// The device cannot do this operation.
    #[error("operation not supported")]
    Unsupported,
    /// The target is full (ENOSPC, EDQUOT).
    #[error("no space left on the target")]
    NoSpace,
    /// Any other failure of the target, with its errno.
    #[error("I/O error (errno {0})")]
    Errno(i32),
}

impl IoError {
    /// Maps a kernel errno (positive).
    #[must_use]
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ENOSPC | libc::EDQUOT => Self::NoSpace,
            libc::EOPNOTSUPP => Self::Unsupported,
            libc::EROFS => Self::ReadOnly,
            other => Self::Errno(other),
        }
    }
}
