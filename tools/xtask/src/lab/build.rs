//! The guest's programs, built.

use crate::error::{Error, Result};
use crate::process::{command, output, run_logged};
use crate::progress::step;
use crate::workspace::{Workspace, make_dir};
use labvm::protocol::CONFORMANCE;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const BUILD_LIMIT_S: u64 = 1800;

/// Builds labvm and, if wanted, spinblk; gives the folder that they are in.
pub(super) fn programs(workspace: &Workspace, with_spinblk: bool) -> Result<PathBuf> {
    let mut cargo = cargo(workspace, &["build", "-p", "labvm"]);
    if with_spinblk {
        cargo.args(["-p", "spinblk"]);
    }
    let target = workspace.lab_build();
    make_dir(&target)?;
    let log = target.join("build.log");
    let _ = fs::remove_file(&log);
    let label = if with_spinblk { "build spinblk and labvm for the lab" } else { "build labvm" };
    step(label, || run_logged(cargo, BUILD_LIMIT_S, &log))?;
    Ok(target.join("lab"))
}

/// Builds the test of the block devices' contract; gives its path, under the name that it has in the guest.
pub(super) fn conformance(workspace: &Workspace) -> Result<PathBuf> {
    let words = ["test", "--no-run", "-p", "spinblk-bdev", "--test", "conformance", "--message-format=json"];
    let cargo = cargo(workspace, &words);
    let text = step("build the bdev conformance test for the lab", || output(cargo, BUILD_LIMIT_S))?;
    let missing = || Error::Lab("cargo built no test named conformance in spinblk-bdev".to_owned());
    let built = text.lines().find_map(executable).ok_or_else(missing)?;
    let path = workspace.lab_build().join("lab").join(CONFORMANCE);
    fs::copy(&built, &path).map_err(Error::file("copy", &built))?;
    Ok(path)
}

fn cargo(workspace: &Workspace, words: &[&str]) -> Command {
    let mut cargo = command("cargo", words);
    cargo.args(["--quiet", "--profile=lab", "--target-dir"]).arg(workspace.lab_build());
    cargo.current_dir(&workspace.root);
    cargo
}

/// The program that a message of cargo's is about, if it is about one.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    message["executable"].as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_program_among_the_messages() {
        let path = executable(r#"{"reason":"compiler-artifact","executable":"/t/conformance-1f"}"#);
        assert_eq!(path, Some(PathBuf::from("/t/conformance-1f")));
        assert_eq!(executable(r#"{"reason":"compiler-artifact","executable":null}"#), None);
        assert_eq!(executable("warning: something"), None);
    }
}
