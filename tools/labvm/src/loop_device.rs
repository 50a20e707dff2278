//! Block devices over files, of any size that is a multiple of 512 bytes.

use crate::command::Cmd;
use crate::fail::Fail;
use crate::lab::Lab;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A loop device over a file of its own; both go away when it is dropped.
pub(crate) struct Loop {
    path: PathBuf,
    image: PathBuf,
}

impl Loop {
    /// Makes a file of zeroes in a folder, and a device of it that reads and writes the file with O_DIRECT.
    pub(crate) fn create(lab: &Lab, folder: &Path, name: &str, size_bytes: u64) -> Result<Loop, Fail> {
        lab.modprobe(&["loop"])?;
        let image = folder.join(name);
        let file = File::create(&image).map_err(Fail::file("create", &image))?;
        file.set_len(size_bytes).map_err(Fail::file("set the length of", &image))?;
        let attach = Cmd::new("losetup").args(["--find", "--show", "--direct-io=on"]).path(&image);
        Ok(Loop { path: PathBuf::from(attach.run()?.trim()), image })
    }

    /// The block device.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Best effort; a device in use stays until the machine ends.
        let _ = Cmd::new("losetup").arg("--detach").path(&self.path).run();
        let _ = std::fs::remove_file(&self.image);
    }
}
