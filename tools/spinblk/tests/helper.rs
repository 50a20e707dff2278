//! The program under its other name: a process that writes a file of sysfs and tells how that went.

#![allow(clippy::unwrap_used)]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

fn helper(path: &Path, value: &str) -> ExitStatus {
    Command::new(env!("CARGO_BIN_EXE_spinblk")).arg0("spinblk-vdpa").arg(path).arg(value).status().unwrap()
}

#[test]
fn a_value_is_written_to_a_file_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("drivers_probe");
    assert_eq!(helper(&path, "d0").code(), Some(nix::libc::ENOENT));
    assert!(!path.exists());
    std::fs::write(&path, "").unwrap();
    assert_eq!(helper(&path, "d0").code(), Some(0));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "d0");
    assert_eq!(helper(dir.path(), "d0").code(), Some(nix::libc::EISDIR));
}
