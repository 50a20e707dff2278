//! Kernel modules for the guest: those asked for and what they depend on, decompressed, with their own index.

use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::process::{command, output};
use crate::workspace::make_dir;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

const TOOL_LIMIT_S: u64 = 60;

/// What the scenarios load.
pub(crate) const WANTED: &[&str] = &[
    "vduse",
    "virtio_vdpa",
    "vhost_vdpa",
    "virtio_blk",
    "ublk_drv",
    "null_blk",
    "loop",
    "brd",
    "raid0",
    "dm_crypt",
    "xts",
    "aesni_intel",
];

/// Writes `lib/modules/RELEASE` under `root`.
pub(crate) fn stage(kernel: &Kernel, root: &Path) -> Result<()> {
    let source = kernel.root.join("lib/modules").join(&kernel.release);
    let target = root.join("lib/modules").join(&kernel.release);
    make_dir(&target)?;
    for index in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        let from = source.join(index);
        fs::copy(&from, target.join(index)).map_err(Error::file("copy", &from))?;
    }
    for module in closure(kernel)? {
        let inside = module.strip_prefix(&source).unwrap_or(&module);
        unpack(&module, &target.join(inside))?;
    }
    output(command("depmod", [Path::new("-b"), root, Path::new(&kernel.release)]), TOOL_LIMIT_S).map(drop)
}

/// The module files, each one once.
fn closure(kernel: &Kernel) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for module in WANTED {
        let mut show = command("modprobe", ["--show-depends", "-S", &kernel.release, "-d"]);
        show.arg(&kernel.root).arg(module);
        files.extend(parse_depends(&output(show, TOOL_LIMIT_S)?));
    }
    Ok(files)
}

/// The paths in lines of `insmod PATH [options]`; `builtin NAME` needs no file.
fn parse_depends(text: &str) -> Vec<PathBuf> {
    let paths = text.lines().filter_map(|line| line.strip_prefix("insmod ")?.split_whitespace().next());
    paths.map(PathBuf::from).collect()
}

fn unpack(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        make_dir(folder)?;
    }
    let tool = match from.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::copy(from, to).map(drop).map_err(Error::file("copy", from)),
    };
    let plain = to.with_extension("");
    let file = File::create(&plain).map_err(Error::file("create", &plain))?;
    let mut unpack = command(tool, [Path::new("-dc"), from]);
    unpack.stdout(Stdio::from(file));
    crate::process::run(unpack, TOOL_LIMIT_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_modprobe() {
        let text = "builtin virtio\ninsmod /r/lib/modules/6/kernel/drivers/vdpa/vdpa.ko.xz \n\
            insmod /r/lib/modules/6/kernel/null_blk.ko.xz nr_devices=0\n";
        let paths = parse_depends(text);
        assert_eq!(paths.len(), 2);
        assert!(paths[1].ends_with("kernel/null_blk.ko.xz"));
    }
}
