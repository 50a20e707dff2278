//! What the file behind a disk is and really can do: opened, measured and probed once, then shared by all cores.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use super::opening::Opening;
use super::probe::{self, Alignment};
use super::{AioOptions, Poll};
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
    /// Whether reads and writes may complete by polling: the kernel did not refuse it yet.
    polls: AtomicBool,
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
    let polls = match options.poll {
        Poll::Auto => block_device && probe::has_poll_queues(metadata.rdev()),
        Poll::On => true,
        Poll::Off => false,
    };
    let polls = AtomicBool::new(polls && direct.is_some());
    Ok((info, Target { file, direct, discard, zeroes_by_punching, polls, flush_failed: OnceLock::new() }))
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

    /// Whether to poll for reads and writes.
    pub(super) fn polls(&self) -> bool {
        self.polls.load(Ordering::Relaxed)
    }

    /// The kernel refused to poll, with `errno`: nobody tries again. Said once.
    pub(super) fn stop_polling(&self, name: &str, errno: i32) {
        if self.polls.swap(false, Ordering::Relaxed) {
            let error = io::Error::from_raw_os_error(errno);
            warn!("bdev {name}: its device cannot be polled ({error}); it completes by interrupts");
        }
    }

    /// Its descriptor; open for as long as `self` lives.
    pub(super) fn fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Direct;
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
