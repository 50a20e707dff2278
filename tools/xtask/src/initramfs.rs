//! The guest's root: a base archive of programs, libraries and modules, built once and cached by what is in it,
//! and behind it a small archive with what changes from run to run. The kernel unpacks one after the other.

use crate::archive::Archive;
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::modules;
use crate::programs::{find, libraries};
use crate::progress::step;
use crate::workspace::{Workspace, make_dir};
use labvm::protocol::{PLAN_PATH, Plan};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Host programs that every guest has.
const PROGRAMS: [&str; 13] = [
    "fio",
    "qemu-storage-daemon",
    "vdpa",
    "kmod",
    "mke2fs",
    "e2fsck",
    "sfdisk",
    "blkdiscard",
    "blockdev",
    "strace",
    "setpriv",
    "losetup",
    "cryptsetup",
];
/// Other names of these programs.
const LINKS: [(&str, &str); 9] = [
    ("usr/bin/modprobe", "kmod"),
    ("usr/bin/insmod", "kmod"),
    ("usr/bin/rmmod", "kmod"),
    ("usr/bin/lsmod", "kmod"),
    ("usr/bin/modinfo", "kmod"),
    ("usr/bin/depmod", "kmod"),
    ("usr/bin/mkfs.ext4", "mke2fs"),
    ("usr/bin/fsck.ext4", "e2fsck"),
    ("bin/sh", "busybox"),
];
const FOLDERS: [&str; 8] = ["dev", "proc", "sys", "tmp", "run", "root", "mnt", "lab"];
/// Loaded at run time by the C library when a thread is cancelled, so ldd does not know of it.
const LOADED_LATE: &str = "/lib/x86_64-linux-gnu/libgcc_s.so.1";
/// How many older base archives stay in the cache.
const KEPT: usize = 2;

/// What some scenarios need besides the base.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    /// Programs, by path; they come with their libraries.
    pub(crate) programs: Vec<PathBuf>,
    /// Other files: the place of each in the guest, and its path.
    pub(crate) files: Vec<(String, PathBuf)>,
}

/// What a run adds to the base.
pub(crate) struct Extras<'a> {
    /// The init program.
    pub(crate) labvm: &'a Path,
    /// What its scenarios need.
    pub(crate) contents: &'a Contents,
    /// What the guest is to do.
    pub(crate) plan: &'a Plan,
}

/// The cached base archive for this kernel and this host's programs.
pub(crate) fn base(workspace: &Workspace, kernel: &Kernel) -> Result<PathBuf> {
    let programs = PROGRAMS.iter().map(|name| find(name)).collect::<Result<Vec<PathBuf>>>()?;
    let busybox = find("busybox")?;
    let mut files = libraries(&programs)?;
    files.extend(Some(PathBuf::from(LOADED_LATE)).filter(|path| path.exists()));
    let mut all: Vec<&Path> = programs.iter().chain(&files).map(PathBuf::as_path).collect();
    all.push(&busybox);
    let folder = workspace.cache.join("initramfs");
    make_dir(&folder)?;
    let path = folder.join(format!("base-{:016x}.cpio", key(kernel, &all)?));
    if path.is_file() {
        return Ok(path);
    }
    step("pack the guest's programs and modules", || {
        forget_old(&folder);
        let mut archive = common_tree(&busybox);
        add_programs(&mut archive, &programs, &files);
        let staging = tempfile::tempdir_in(&folder).map_err(Error::file("create a folder in", &folder))?;
        modules::stage(kernel, staging.path())?;
        archive.tree("", staging.path())?;
        write_atomically(&archive, &path)
    })?;
    Ok(path)
}

/// Writes base and extras to one image.
pub(crate) fn image(base: &Path, extras: &Extras<'_>, path: &Path) -> Result<()> {
    let mut archive = Archive::default();
    archive.program("init", extras.labvm);
    let mut programs = extras.contents.programs.clone();
    programs.push(extras.labvm.to_path_buf());
    add_programs(&mut archive, &programs, &libraries(&programs)?);
    for (place, path) in &extras.contents.files {
        archive.file(place, path);
    }
    let plan = serde_json::to_string(extras.plan);
    archive.text(PLAN_PATH, &plan.map_err(|source| Error::Json { what: "the plan".to_owned(), source })?);
    fs::copy(base, path).map_err(Error::file("copy", base))?;
    let file = File::options().append(true).open(path).map_err(Error::file("open", path))?;
    let mut writer = BufWriter::new(file);
    archive.write(&mut writer)?;
    writer.flush().map_err(Error::file("write", path))
}

fn common_tree(busybox: &Path) -> Archive {
    let mut archive = Archive::default();
    FOLDERS.iter().for_each(|folder| archive.folder(folder));
    archive.program("bin/busybox", busybox);
    LINKS.iter().for_each(|(path, target)| archive.link(path, target));
    archive.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    archive.text("etc/group", "root:x:0:\n");
    archive
}

fn add_programs(archive: &mut Archive, programs: &[PathBuf], libraries: &BTreeSet<PathBuf>) {
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        archive.program(&format!("usr/bin/{name}"), program);
    }
    for library in libraries {
        archive.program(&library.to_string_lossy(), library);
    }
}

/// Covers all that goes in: the files by size and time, the module list, and this packing code.
fn key(kernel: &Kernel, files: &[&Path]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    (include_str!("initramfs.rs"), include_str!("archive.rs"), include_str!("modules.rs")).hash(&mut hasher);
    kernel.release.hash(&mut hasher);
    for path in files {
        let metadata = fs::metadata(path).map_err(Error::file("look at", path))?;
        (path, metadata.len(), metadata.mtime(), metadata.mtime_nsec()).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn forget_old(folder: &Path) {
    let entries =
        fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let mut bases: Vec<_> = entries
        .iter()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    bases.sort();
    for (_, path) in bases.iter().rev().skip(KEPT).filter(|(_, path)| path.is_file()) {
        // A cache that cannot be cleaned still works.
        let _ = fs::remove_file(path);
    }
}

fn write_atomically(archive: &Archive, path: &Path) -> Result<()> {
    let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
    let file = File::create(&unfinished).map_err(Error::file("create", &unfinished))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    archive.write(&mut writer)?;
    writer.flush().map_err(Error::file("write", &unfinished))?;
    fs::rename(&unfinished, path).map_err(Error::file("move", &unfinished))
}
