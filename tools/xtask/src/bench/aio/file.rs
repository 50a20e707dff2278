//! The file that is measured: every block of it allocated and written, and gone afterwards.

use crate::error::{Error, Result};
use crate::process::{command, output};
use crate::progress::step;
use std::path::Path;
use tempfile::NamedTempFile;

const WRITE_LIMIT_S: u64 = 900;

/// Makes the file. It is written past the page cache, which would otherwise have pages of it, and writes that must throw
/// such pages out are not what is to be measured.
pub(super) fn written(folder: &Path, size_mib: u32) -> Result<NamedTempFile> {
    let file = tempfile::Builder::new().prefix("spinblk-aio-").tempfile_in(folder);
    let file = file.map_err(Error::file("create a file in", folder))?;
    let size = u64::from(size_mib) << 20;
    nix::fcntl::posix_fallocate(file.as_file(), 0, size.cast_signed())
        .map_err(|errno| Error::file("allocate", file.path())(errno.into()))?;
    // Random data, because a disk below may treat zeroes as nothing.
    let mut dd = command("dd", ["if=/dev/urandom", "bs=1M", "iflag=fullblock", "oflag=direct"]);
    dd.args(["conv=notrunc,fsync", &format!("count={size_mib}"), &format!("of={}", file.path().display())]);
    step(&format!("write {size_mib} MiB to {}", folder.display()), || output(dd, WRITE_LIMIT_S))?;
    Ok(file)
}
