//! Programs taken out of Debian packages that are never installed: those would bring a daemon or udev to this machine.

use crate::error::{Error, Result};
use crate::packages::Packages;
use crate::progress::step;
use crate::workspace::{Workspace, make_dir};
use std::fs;
use std::path::{Path, PathBuf};

/// Where a package may have a program: before /usr was merged in packages, and since.
const PLACES: [&str; 4] = ["sbin", "usr/sbin", "bin", "usr/bin"];

/// Takes a program of a package from the cache, or fetches it.
pub(crate) fn program(workspace: &Workspace, package: &str, name: &str) -> Result<PathBuf> {
    let packages = Packages::new(workspace)?;
    // It loads this machine's libraries, so it must be of the same release of Debian.
    let folder = workspace.cache.join("programs").join(packages.codename());
    let program = folder.join(name);
    if !program.is_file() {
        make_dir(&folder)?;
        step(&format!("fetch and unpack {name}"), || fetch(&packages, package, &folder, &program))?;
    }
    Ok(program)
}

fn fetch(packages: &Packages<'_>, package: &str, folder: &Path, program: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(folder).map_err(Error::file("create a folder in", folder))?;
    let tree = packages.unpack(package, work.path())?;
    let name = program.file_name().unwrap_or_default();
    let inside = PLACES.iter().map(|place| tree.join(place).join(name)).find(|path| path.is_file());
    let missing = || {
        Error::Lab(format!("the package {package} has {} in none of {}", name.display(), PLACES.join(", ")))
    };
    let inside = inside.ok_or_else(missing)?;
    fs::rename(&inside, program).map_err(Error::file("move", &inside))
}
