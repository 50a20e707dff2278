//! What holds the data of a host's disk: the daemon's memory, or files that outlive the daemon.

use crate::error::{Error, Result};
use labvm::protocol::{Backing, HostDisk};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// Its name in the daemon's configuration.
pub(super) const DISK_NAME: &str = "host-disk";

/// The files of one disk, if it has any; gone when dropped.
pub(super) struct BackingFiles {
    disk: HostDisk,
    folder: TempDir,
}

impl BackingFiles {
    /// Makes a folder in this one, with the disk's empty file, or two empty halves and a key, in it.
    pub(super) fn create(disk: HostDisk, folder: &Path) -> Result<BackingFiles> {
        let folder = tempfile::tempdir_in(folder).map_err(Error::file("create a folder in", folder))?;
        let names: &[&str] = match disk.backing {
            Backing::Malloc => &[],
            Backing::File => &["0.img"],
            Backing::Files => &["0.img", "1.img"],
        };
        for name in names {
            let path = folder.path().join(name);
            let file = File::create(&path).map_err(Error::file("create", &path))?;
            let len_bytes = (disk.size_mib << 20) / names.len() as u64;
            file.set_len(len_bytes).map_err(Error::file("set the length of", &path))?;
        }
        if disk.backing == Backing::Files {
            let key = folder.path().join("key");
            fs::write(&key, (0..64).collect::<Vec<u8>>()).map_err(Error::file("write", &key))?;
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(&key, mode).map_err(Error::file("set the mode of", &key))?;
        }
        Ok(BackingFiles { disk, folder })
    }

    /// The sections of a configuration that make the disk, with these keys besides.
    pub(super) fn config(&self, keys: &str) -> String {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let bdev = |name: &str, kind: &str, rest: String| {
            format!("[[bdev]]\nname = \"{name}\"\ntype = \"{kind}\"\n{rest}\n\n")
        };
        let disk = |data: String| format!("[[disk]]\nname = \"{DISK_NAME}\"\n{data}\n{keys}");
        match self.disk.backing {
            Backing::Malloc => disk(format!("type = \"malloc\"\nsize = \"{}MiB\"", self.disk.size_mib)),
            Backing::File => disk(format!("type = \"aio\"\npath = \"{}\"", path("0.img"))),
            Backing::Files => [
                bdev("half0", "aio", format!("path = \"{}\"", path("0.img"))),
                bdev("half1", "aio", format!("path = \"{}\"", path("1.img"))),
                bdev("whole", "raid0", "children = [\"half0\", \"half1\"]\nchunk = \"64KiB\"".to_owned()),
                bdev("secret", "crypto", format!("child = \"whole\"\nkey_file = \"{}\"", path("key"))),
                disk("bdev = \"secret\"".to_owned()),
            ]
            .concat(),
        }
    }
}
