//! A file as a block device.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device on a file, for as long as this lives.
pub(crate) struct Loop(PathBuf);

impl Loop {
    /// `None`, and a word about it, where there are no loop devices.
    pub(crate) fn attach(file: &Path) -> Option<Self> {
        let run = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let reason = match run {
            Ok(output) if output.status.success() => {
                return Some(Self(String::from_utf8_lossy(&output.stdout).trim().into()));
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(e) => format!("losetup: {e}"),
        };
        eprintln!("skipped: no loop device ({reason})");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Has it take over its file's size.
    pub(crate) fn look_again(&self) {
        assert!(Command::new("losetup").arg("--set-capacity").arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Best effort: what still has it open keeps it until then.
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}
