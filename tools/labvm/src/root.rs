//! A root file system of the guest's own programs, for what does not run in this one: a container, a virtual machine.
//! They are hard links, which take neither time nor memory, so it has to lie on the file system of the programs.

use crate::command::Cmd;
use crate::fail::Fail;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(crate) const BUSYBOX: &str = "/bin/busybox";
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Loaded at run time by the C library when a thread is cancelled, so that the loader does not list it.
const LOADED_LATE: &str = "/lib/x86_64-linux-gnu/libgcc_s.so.1";
const FOLDERS: [&str; 5] = ["dev", "proc", "sys", "tmp", "mnt"];

/// Makes one in a new folder, of busybox and these programs at their places.
pub(crate) fn make(root: &Path, programs: &[&str]) -> Result<(), Fail> {
    for folder in FOLDERS {
        let path = root.join(folder);
        std::fs::create_dir_all(&path).map_err(Fail::file("create", &path))?;
    }
    files(programs)?.iter().try_for_each(|file| link(file, root))
}

/// Gives a file its place in it.
pub(crate) fn link(file: &Path, root: &Path) -> Result<(), Fail> {
    let target = root.join(file.strip_prefix("/").unwrap_or(file));
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).map_err(Fail::file("create", folder))?;
    }
    std::fs::hard_link(file, &target).map_err(Fail::file("link", file))
}

/// The programs and the libraries that they load.
fn files(programs: &[&str]) -> Result<BTreeSet<PathBuf>, Fail> {
    let mut files: BTreeSet<PathBuf> = programs.iter().chain(&[BUSYBOX, LOADER]).map(PathBuf::from).collect();
    files.extend(Some(PathBuf::from(LOADED_LATE)).filter(|path| path.exists()));
    for program in programs {
        files.extend(libraries(&Cmd::new(LOADER).args(["--list", *program]).run()?));
    }
    Ok(files)
}

/// The paths in the loader's list, in lines of `name => path (address)`.
fn libraries(list: &str) -> impl Iterator<Item = PathBuf> {
    let path = |line: &str| line.split_once("=> ")?.1.split_whitespace().next().map(PathBuf::from);
    list.lines().filter_map(path).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_loaders_list() {
        let list = "\tlinux-vdso.so.1 (0x7ffc)\n\tlibaio.so.1 => /lib/x86_64-linux-gnu/libaio.so.1 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let found: Vec<PathBuf> = libraries(list).collect();
        assert_eq!(found, [PathBuf::from("/lib/x86_64-linux-gnu/libaio.so.1")]);
    }
}
