//! Host programs for the guest: where they are, and which libraries they load.

use crate::error::{Error, Result};
use crate::process::{command, output_of_any_status};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const LDD_LIMIT_S: u64 = 60;
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// The path of a program of the host.
pub(crate) fn find(name: &str) -> Result<PathBuf> {
    let path = FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    path.ok_or_else(|| Error::Lab(format!("the program {name} is in none of {}", FOLDERS.join(", "))))
}

/// The libraries that the programs load, the dynamic loader among them.
pub(crate) fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    // Its status says no more than that one of them is statically linked.
    let text = output_of_any_status(command("ldd", programs), LDD_LIMIT_S)?;
    parse_ldd(&text).map_err(|library| {
        let list = programs.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
        Error::Lab(format!("the library {library} is not installed; `ldd {list}` says who needs it"))
    })
}

/// The paths in ldd's output; the error is the name of a library that is missing.
fn parse_ldd(text: &str) -> Result<BTreeSet<PathBuf>, String> {
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with(['\t', ' '])) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [name, "=>", "not", "found"] => return Err(name.to_owned()),
            [_, "=>", path, ..] | [path, ..] if path.starts_with('/') => {
                found.insert(PathBuf::from(path));
            }
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ldd() {
        let text = "/usr/bin/fio:\n\tlinux-vdso.so.1 (0x00007ffe)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00)\n/usr/bin/busybox:\n\tnot a dynamic executable\n";
        let paths: Vec<PathBuf> = parse_ldd(text).unwrap().into_iter().collect();
        assert_eq!(
            paths,
            ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        assert_eq!(parse_ldd("a:\n\tlibx.so => not found\n").unwrap_err(), "libx.so");
    }
}
