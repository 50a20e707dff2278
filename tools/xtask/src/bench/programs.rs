//! Building what is measured.

use crate::error::Result;
use crate::process::{command, run};
use crate::workspace::Workspace;
use std::path::PathBuf;
use std::process::Command;

const BUILD_LIMIT_S: u64 = 1800;

/// Builds packages for release; the folder of their programs.
pub(super) fn build(workspace: &Workspace, packages: &[&str]) -> Result<PathBuf> {
    build_with(workspace, packages, |_| {})?;
    Ok(workspace.target.join("release"))
}

/// The same with more arguments, which `add` adds.
pub(super) fn build_with(
    workspace: &Workspace,
    packages: &[&str],
    add: impl FnOnce(&mut Command),
) -> Result<()> {
    let mut cargo = command("cargo", ["build", "--release", "--quiet"]);
    cargo.args(packages.iter().flat_map(|package| ["--package", package]));
    add(&mut cargo);
    cargo.current_dir(&workspace.root);
    run(cargo, BUILD_LIMIT_S)
}
