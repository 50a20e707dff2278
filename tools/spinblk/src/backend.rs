//! From a disk's configuration to its block device.

use std::sync::Arc;

use spinblk_bdev::{Aio, AioOptions, Bdev, Malloc, Null};
pub use spinblk_bdev::{Direct, NullReads};
use spinblk_reactor::Hugepages;

use crate::Error;
use crate::config::{Backend, Disk};

/// Makes the block device of `disk`. Memory is allocated and files are opened now.
///
/// # Errors
/// [`Error::Bdev`] names the disk and what is wrong with its target.
pub fn open(disk: &Disk, hugepages: Hugepages) -> Result<Arc<dyn Bdev>, Error> {
    let name = &disk.name;
    Ok(match &disk.backend {
        Backend::Null { size_bytes, block_size, reads } => {
            Arc::new(Null::new(name, *size_bytes, *block_size, *reads)?.with_read_only(disk.read_only))
        }
        Backend::Malloc { size_bytes, block_size } => {
            Arc::new(Malloc::new(name, *size_bytes, *block_size, hugepages)?.with_read_only(disk.read_only))
        }
        Backend::Aio { path, direct, block_size } => {
            let options = AioOptions { read_only: disk.read_only, direct: *direct, block_size: *block_size };
            Arc::new(Aio::open(name, path, options)?)
        }
    })
}

impl Backend {
    /// Its `type` in the configuration.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null { .. } => "null",
            Self::Malloc { .. } => "malloc",
            Self::Aio { .. } => "aio",
        }
    }

    /// Whether opening it is cheap and may fail for reasons that the user should hear first.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self, Self::Aio { .. })
    }
}
