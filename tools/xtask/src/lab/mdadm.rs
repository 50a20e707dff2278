//! mdadm for the guest, taken out of Debian's package, which is never installed: that would bring udev to this machine.

use crate::error::{Error, Result};
use crate::packages::Packages;
use crate::progress::step;
use crate::workspace::{Workspace, make_dir};
use std::fs;
use std::path::{Path, PathBuf};

const NAME: &str = "mdadm";
/// Where a package may have it: before /usr was merged in packages, and since.
const PLACES: [&str; 2] = ["sbin", "usr/sbin"];

/// Takes the program from the cache, or fetches it.
pub(super) fn prepare(workspace: &Workspace) -> Result<PathBuf> {
    let packages = Packages::new(workspace)?;
    // It loads this machine's libraries, so it must be of the same release of Debian.
    let folder = workspace.cache.join("programs").join(packages.codename());
    let program = folder.join(NAME);
    if !program.is_file() {
        make_dir(&folder)?;
        step(&format!("fetch and unpack {NAME}"), || fetch(&packages, &folder, &program))?;
    }
    Ok(program)
}

fn fetch(packages: &Packages<'_>, folder: &Path, program: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(folder).map_err(Error::file("create a folder in", folder))?;
    let tree = packages.unpack(NAME, work.path())?;
    let inside = PLACES.iter().map(|place| tree.join(place).join(NAME)).find(|path| path.is_file());
    let missing = || Error::Lab(format!("the package {NAME} has it in none of {}", PLACES.join(", ")));
    let inside = inside.ok_or_else(missing)?;
    fs::rename(&inside, program).map_err(Error::file("move", &inside))
}
