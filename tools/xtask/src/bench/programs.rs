//! Building what is measured.

use crate::error::Result;
use crate::process::{command, run};
use crate::workspace::Workspace;
use std::path::PathBuf;

const BUILD_LIMIT_S: u64 = 1800;

/// Builds packages for release; the folder of their programs.
pub(super) fn build(workspace: &Workspace, packages: &[&str]) -> Result<PathBuf> {
    let mut cargo = command("cargo", ["build", "--release", "--quiet"]);
    cargo.args(packages.iter().flat_map(|package| ["--package", package]));
    cargo.current_dir(&workspace.root);
    run(cargo, BUILD_LIMIT_S)?;
    Ok(workspace.target.join("release"))
}
