//! The steps of opening a file or block device as a disk, each with what it refuses.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::create;
use super::probe::{self, Alignment};
use super::{AioOptions, Direct};
use crate::Error;

/// One attempt to open a file, for messages.
pub(super) struct Opening<'a> {
    pub(super) name: &'a str,
    pub(super) path: &'a Path,
    pub(super) options: AioOptions,
}

impl Opening<'_> {
    pub(super) fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        let (name, path) = (self.name.to_owned(), PathBuf::from(self.path));
        move |source| Error::File { name, action, path, source }
    }

    pub(super) fn open_file(&self) -> Result<(File, Metadata), Error> {
        if let Some(size_bytes) = self.options.create_bytes {
            self.refuse_odd_size(size_bytes)?;
            if !self.options.read_only {
                create::if_missing(self.path, size_bytes).map_err(self.failed("create"))?;
            }
        }
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
        self.refuse_other_size(&metadata)?;
        if metadata.file_type().is_file() {
            self.lock(&file)?;
        }
        // O_NONBLOCK was for a FIFO put there in between; for the ring it would mean "fail rather than wait".
        probe::set_status_flags(&file, 0).map_err(self.failed("set flags of"))?;
        Ok((file, metadata))
    }

    /// Refuses a size to create that is not in whole blocks, before anything is created.
    fn refuse_odd_size(&self, size_bytes: u64) -> Result<(), Error> {
        let block_size = u64::from(self.options.block_size.unwrap_or(4096)).max(1);
        if size_bytes > 0 && size_bytes.is_multiple_of(block_size) {
            return Ok(());
        }
        let why = "it must be a whole number of blocks: of block_size, or of 4096 bytes without one";
        Err(Error::Option {
            name: self.name.into(),
            option: "create_size",
            value: size_bytes.to_string(),
            why,
        })
    }

    /// Refuses a file that was there already and is not what would have been created.
    fn refuse_other_size(&self, metadata: &Metadata) -> Result<(), Error> {
        let Some(wanted) = self.options.create_bytes else { return Ok(()) };
        let what = if metadata.file_type().is_block_device() {
            "it is a block device; leave create_size out".into()
        } else if metadata.len() != wanted {
            format!(
                "it is there already, with {} bytes instead of {wanted}, and is left as it is; to use it leave \
                 create_size out, else name another file",
                metadata.len()
            )
        } else {
            return Ok(());
        };
        Err(self.failed("create")(io::Error::other(what)))
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
    pub(super) fn refuse_below(&self, least: u32) -> Result<(), Error> {
        match self.options.block_size {
            Some(block_size) if block_size < least => {
                let (name, path) = (self.name.into(), self.path.into());
                Err(Error::BlockSizeBelowTarget { name, path, block_size, least })
            }
            _ => Ok(()),
        }
    }

    /// Turns O_DIRECT on where it is wanted and can be had. `logical` is a block device's logical block size.
    pub(super) fn set_up_direct(
        &self,
        file: &File,
        logical: Option<u32>,
    ) -> Result<Option<Alignment>, Error> {
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
