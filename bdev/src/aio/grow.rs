//! Makes a file longer under its disk, or finds that a file or block device has become so.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;

use nix::sys::resource::{Resource, getrlimit};

use super::probe;
use crate::{Error, Info};

/// How long a file or block device is now.
pub(super) fn length_bytes(file: &File) -> io::Result<u64> {
    if is_block_device(file)? {
        return probe::geometry(file).map(|geometry| geometry.size_bytes);
    }
    Ok(file.metadata()?.len())
}

pub(super) fn is_block_device(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.file_type().is_block_device())
}

/// Why the disk `info` may not make its regular file, `len_bytes` long now, `wanted_bytes` long.
pub(super) fn check(info: &Info, len_bytes: u64, wanted_bytes: u64) -> Result<(), Error> {
    info.check_wanted_size(wanted_bytes)?;
    if info.read_only {
        return Err(info.cannot_resize("it is read-only; ask without a size once its file has grown"));
    }
    // What is less than a block longer is the same disk.
    if len_bytes.saturating_sub(wanted_bytes) >= u64::from(info.block_size) {
        return Err(info.cannot_resize(format!(
            "its file has {len_bytes} bytes already, more than {wanted_bytes}, and is never made shorter; ask without a \
             size to take all of them"
        )));
    }
    Ok(())
}

/// Makes a regular file longer, with zeroes that take no room.
pub(super) fn lengthen(file: &File, wanted_bytes: u64) -> io::Result<()> {
    // Beyond the limit, the kernel sends a signal that ends the process.
    let (limit_bytes, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    if wanted_bytes > limit_bytes {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    // Not synced here: that would take the news of a failed writeback from the guest's next flush, which covers the new
    // length as well.
    file.set_len(wanted_bytes)
}
