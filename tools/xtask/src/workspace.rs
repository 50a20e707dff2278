//! The places that everything else uses: the source tree, cargo's target directory, the cache.

use crate::error::{Error, Result};
use crate::process::{command, output};
use std::path::{Path, PathBuf};

const METADATA_LIMIT_S: u64 = 60;

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// The root of the source tree.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// What outlives a clone: kernels, initramfs images, tools.
    pub(crate) cache: PathBuf,
}

impl Workspace {
    /// Asks cargo and the environment.
    pub(crate) fn find() -> Result<Workspace> {
        let text =
            output(command("cargo", ["metadata", "--no-deps", "--format-version=1"]), METADATA_LIMIT_S)?;
        let value: serde_json::Value = serde_json::from_str(&text)
            .map_err(|source| Error::Json { what: "the output of `cargo metadata`".to_owned(), source })?;
        let path = |key: &str| {
            let text = value[key].as_str();
            text.map(PathBuf::from).ok_or_else(|| Error::Lab(format!("`cargo metadata` prints no {key}")))
        };
        Ok(Workspace {
            root: path("workspace_root")?,
            target: path("target_directory")?,
            cache: cache_dir()?,
        })
    }

    /// Where results of the lab land.
    pub(crate) fn results(&self) -> PathBuf {
        self.target.join("lab")
    }

    /// Cargo's directory for the programs that go into the lab: apart, so that it can stay locked and `results`
    /// is not mixed with the files of the profile `lab`.
    pub(crate) fn lab_build(&self) -> PathBuf {
        self.target.join("lab-build")
    }
}

fn cache_dir() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    let base =
        base.ok_or_else(|| Error::Lab("neither XDG_CACHE_HOME nor HOME is set; set one".to_owned()))?;
    let cache = base.join("spinblk");
    make_dir(&cache)?;
    Ok(cache)
}

/// Creates a directory and those above it.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::file("create", path))
}
