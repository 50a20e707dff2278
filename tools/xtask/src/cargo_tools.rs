//! Programs from the Rust package registry that some tasks need, installed once into the cache.

use crate::error::Result;
use crate::process::{command, run_logged};
use crate::progress::step;
use crate::workspace::{Workspace, make_dir};
use std::fs;
use std::path::PathBuf;

const INSTALL_LIMIT_S: u64 = 1800;

/// The program of a crate, installed unless it is in the cache; a new version here makes a new installation.
pub(crate) fn install(workspace: &Workspace, name: &str, version: &str, options: &[&str]) -> Result<PathBuf> {
    let root = workspace.cache.join("tools").join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    make_dir(&root)?;
    let mut cargo = command("cargo", ["install", "--locked", "--version", version, name]);
    cargo.args(options).arg("--root").arg(&root).current_dir(&root);
    // Not the workspace's directory: nothing of it is of use there. Nor its flags.
    let target = root.join("target");
    cargo.env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS");
    step(&format!("install {name} {version}"), || {
        run_logged(cargo, INSTALL_LIMIT_S, &root.join("install.log"))
    })?;
    let _ = fs::remove_dir_all(target);
    Ok(program)
}
