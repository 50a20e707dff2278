//! Drives on image files, which are there when the machine is not any more.

use crate::error::{Error, Result};
use labvm::protocol::{DRIVE_SERIAL, Drives};
use std::fs::File;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The image files; gone when dropped.
pub(super) struct Images {
    drives: Drives,
    folder: TempDir,
}

impl Images {
    /// Makes a folder in this one, with empty images in it.
    pub(super) fn create(drives: Drives, folder: &Path) -> Result<Images> {
        let folder = tempfile::tempdir_in(folder).map_err(Error::file("create a folder in", folder))?;
        let images = Images { drives, folder };
        for number in 0..drives.count {
            let path = images.path(number);
            let file = File::create(&path).map_err(Error::file("create", &path))?;
            file.set_len(drives.size_mib << 20).map_err(Error::file("set the length of", &path))?;
        }
        Ok(images)
    }

    /// QEMU's arguments.
    pub(super) fn arguments(&self) -> Vec<String> {
        let words = (0..self.drives.count).flat_map(|number| {
            let image = self.path(number);
            // The host's page cache keeps what a killed QEMU has written; a flush goes to the host's own drive.
            let drive =
                format!("if=none,id=drive-{number},format=raw,cache=writeback,file={}", image.display());
            let device = format!("virtio-blk-pci,drive=drive-{number},serial={DRIVE_SERIAL}{number}");
            ["-drive".to_owned(), drive, "-device".to_owned(), device]
        });
        words.collect()
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("{number}.img"))
    }
}
