//! What the file behind a disk is and really can do: opened, measured and probed once, then shared by all cores.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tracing::warn;

use super::probe::{self, Alignment};
use super::{AioOptions, Direct};
use crate::{Capabilities, Error, Info, IoError, IoResult};

/// How blocks are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiscardBy {
    /// `fallocate(PUNCH_HOLE)`: they read as zeroes afterwards.
    PunchHole,
    /// The block layer's own io_uring command (Linux 6.12), for devices that discard but cannot promise zeroes too.
    Command,
}

/// An open file or block device.
#[derive(Debug)]
pub(super) struct Target {
    /// With O_DIRECT set exactly when `direct` is `Some`.
    pub(super) file: File,
    /// What O_DIRECT asks of an I/O.
    pub(super) direct: Option<Alignment>,
    /// How to discard, where it can.
    pub(super) discard: Option<DiscardBy>,
    /// Whether zeroed blocks can be given back in the same step.
    pub(super) zeroes_by_punching: bool,
    /// How a flush through the page cache failed first.
    flush_failed: OnceLock<IoError>,
}

/// Opens `path` as disk `name`.
pub(super) fn open(name: &str, path: &Path, options: AioOptions) -> Result<(Info, Target), Error> {
    let opening = Opening { name, path, options };
    let (file, metadata) = opening.open_file()?;
    let block_device = metadata.file_type().is_block_device();
    let (size_bytes, logical, physical) = if block_device {
        let geometry = probe::geometry(&file).map_err(opening.failed("read the geometry of"))?;
        if geometry.write_protected && !options.read_only {
            return Err(opening.failed("open")(io::Error::from_raw_os_error(libc::EROFS)));
        }
        (geometry.size_bytes, geometry.logical_block_bytes, geometry.physical_block_bytes)
    } else {
        (metadata.len(), 512, u32::try_from(metadata.blksize()).unwrap_or(4096).min(4096))
    };
    let direct = opening.set_up_direct(&file, block_device.then_some(logical))?;
    let least = logical.max(direct.map_or(512, |align| align.io_bytes));
    let block_size = options.block_size.unwrap_or(least);
    let mut info = Info::new(name, size_bytes, block_size).map_err(|error| match error {
        Error::TooSmall { name, size_bytes, block_size } => {
            Error::FileTooSmall { name, path: path.into(), size_bytes, block_size }
        }
        other => other,
    })?;
    opening.refuse_below(logical)?;
    info.physical_block_size = physical.max(block_size);
    info.read_only = options.read_only;
    let able = match (options.read_only, block_device) {
        (true, _) => probe::Able::default(),
        (false, true) => probe::device_abilities(&file, metadata.rdev()),
        (false, false) => probe::file_abilities(&file, size_bytes).map_err(opening.failed("probe"))?,
    };
    let discard = match able {
        probe::Able { discard_command: true, .. } => Some(DiscardBy::Command),
        probe::Able { discard_by_punching: true, .. } => Some(DiscardBy::PunchHole),
        _ => None,
    };
    // Zeroing that may not give blocks back needs ZERO_RANGE, so that alone decides: punching is an extra.
    info.caps = Capabilities { flush: true, discard: discard.is_some(), write_zeroes: able.zero_range };
    let zeroes_by_punching = able.punch_hole;
    Ok((info, Target { file, direct, discard, zeroes_by_punching, flush_failed: OnceLock::new() }))
}

/// One attempt to open a file, for messages.
struct Opening<'a> {
    name: &'a str,
    path: &'a Path,
    options: AioOptions,
}

impl Opening<'_> {
    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        let (name, path) = (self.name.to_owned(), PathBuf::from(self.path));
        move |source| Error::File { name, action, path, source }
    }

    fn open_file(&self) -> Result<(File, Metadata), Error> {
        // Looked at by path first: opening a FIFO would block, opening a character device may do anything.
        let before = std::fs::metadata(self.path).map_err(self.failed("open"))?;
        self.refuse_non_storage(&before)?;
        let write = !self.options.read_only;
        // On a block device, O_EXCL without O_CREAT keeps mounted ones away from us, and us from mounting.
        let exclusive = if write && before.file_type().is_block_device() { libc::O_EXCL } else { 0 };
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(exclusive | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(self.path)
            .map_err(self.failed("open"))?;
        let metadata = file.metadata().map_err(self.failed("stat"))?;
        self.refuse_non_storage(&metadata)?;
        if metadata.file_type().is_file() {
            self.lock(&file)?;
        }
        // O_NONBLOCK was for a FIFO put there in between; for the ring it would mean "fail rather than wait".
        probe::set_status_flags(&file, 0).map_err(self.failed("set flags of"))?;
        Ok((file, metadata))
    }

    /// Two disks on one file, in this process or two, would each undo what the other wrote. Readers may share.
    fn lock(&self, file: &File) -> Result<(), Error> {
        let locked = if self.options.read_only { file.try_lock_shared() } else { file.try_lock() };
        match locked {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                Err(Error::FileInUse { name: self.name.into(), path: self.path.into() })
            }
            // A file system without locks is no reason to refuse the disk.
            Err(TryLockError::Error(e)) => {
                warn!(
                    "bdev {}: {}: cannot be locked ({e}): serve it only once",
                    self.name,
                    self.path.display()
                );
                Ok(())
            }
        }
    }

    fn refuse_non_storage(&self, metadata: &Metadata) -> Result<(), Error> {
        let file_type = metadata.file_type();
        if file_type.is_file() || file_type.is_block_device() {
            return Ok(());
        }
        let kind = match file_type {
            t if t.is_dir() => "directory",
            t if t.is_char_device() => "character device",
            t if t.is_fifo() => "FIFO",
            t if t.is_socket() => "socket",
            _ => "special file",
        };
        Err(Error::NotStorage { name: self.name.into(), path: self.path.into(), kind })
    }

    /// Refuses a block size asked for that is below the `least` that the target takes.
    fn refuse_below(&self, least: u32) -> Result<(), Error> {
        match self.options.block_size {
            Some(block_size) if block_size < least => {
                let (name, path) = (self.name.into(), self.path.into());
                Err(Error::BlockSizeBelowTarget { name, path, block_size, least })
            }
            _ => Ok(()),
        }
    }

    /// Turns O_DIRECT on where it is wanted and can be had. `logical` is a block device's logical block size.
    fn set_up_direct(&self, file: &File, logical: Option<u32>) -> Result<Option<Alignment>, Error> {
        if self.options.direct == Direct::Off {
            return Ok(None);
        }
        let alignment = probe::direct_alignment(file, logical).map_err(self.failed("set O_DIRECT on"))?;
        let refused = match alignment {
            Some(align) if self.refuse_below(align.io_bytes).is_ok() => return Ok(Some(align)),
            Some(align) if self.options.direct == Direct::On => {
                return self.refuse_below(align.io_bytes).map(|()| None);
            }
            Some(_) => "it needs larger blocks than block_size",
            None => "the file system has none for this file, or none in blocks of up to 4096 bytes",
        };
        if self.options.direct == Direct::On {
            return Err(Error::NoDirect { name: self.name.into(), path: self.path.into(), reason: refused });
        }
        warn!("bdev {}: {}: no O_DIRECT ({refused}): using the page cache", self.name, self.path.display());
        probe::set_status_flags(file, 0).map_err(self.failed("set flags of"))?;
        Ok(None)
    }
}

impl Target {
    /// What to say of a flush that ended in `result`. The kernel reports a failed writeback to one fdatasync only and then
    /// forgets it, and the pages with it: after one failure through the page cache, no flush of this disk ever succeeds
    /// again, on any core.
    pub(super) fn flush_outcome(&self, result: IoResult) -> IoResult {
        if self.direct.is_none()
            && let Err(error) = result
        {
            let _ = self.flush_failed.set(error);
        }
        self.flush_failed.get().map_or(result, |error| Err(*error))
    }

    /// Its descriptor; open for as long as `self` lives.
    pub(super) fn fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_flush_is_never_forgotten() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let options = AioOptions { direct: Direct::Off, ..AioOptions::default() };
        let (_, target) = open("t", file.path(), options).unwrap();
        assert_eq!(target.flush_outcome(Ok(())), Ok(()));
        assert_eq!(target.flush_outcome(Err(IoError::NoSpace)), Err(IoError::NoSpace));
        assert_eq!(target.flush_outcome(Ok(())), Err(IoError::NoSpace));
    }

    #[test]
    fn a_file_is_served_once_or_read_by_many() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let reading = AioOptions { read_only: true, ..AioOptions::default() };
        let writing = AioOptions::default();
        let first = open("first", file.path(), writing).unwrap();
        let error = open("second", file.path(), writing).unwrap_err().to_string();
        assert!(error.contains("second") && error.contains("in use"), "{error}");
        assert!(open("reader", file.path(), reading).is_err());
        drop(first);
        let _readers = (open("r1", file.path(), reading).unwrap(), open("r2", file.path(), reading).unwrap());
        assert!(open("writer", file.path(), writing).is_err());
    }
}
