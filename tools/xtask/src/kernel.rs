//! The lab's kernel: Debian's cloud kernel, unpacked from its package (never installed), with `vmlinux` taken
//! out of the compressed image so that QEMU can boot it directly (PVH) without decompressing in the guest.

use crate::error::{Error, Result};
use crate::packages::Packages;
use crate::process::{command, output};
use crate::progress::step;
use crate::workspace::{Workspace, make_dir};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const UNPACK_LIMIT_S: u64 = 120;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A kernel that is ready to boot.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Such as `6.12.95+deb12-cloud-amd64`.
    pub(crate) release: String,
    /// What QEMU boots.
    pub(crate) image: PathBuf,
    /// The root under which `lib/modules/RELEASE` lies, with its own modules.dep.
    pub(crate) root: PathBuf,
}

/// Takes the kernel from the cache, or fetches the newest.
pub(crate) fn prepare(workspace: &Workspace, packages: &Packages<'_>) -> Result<Kernel> {
    let folder = workspace.cache.join("kernel");
    make_dir(&folder)?;
    // Written last, so whatever it names is complete.
    let current = folder.join("current");
    if let Ok(name) = fs::read_to_string(&current)
        && let Ok(kernel) = open(&folder.join(name.trim()))
    {
        return Ok(kernel);
    }
    let name = step("find the newest cloud kernel", || packages.newest_kernel())?;
    step(&format!("fetch and unpack {name}"), || fetch(packages, &name, &folder))?;
    fs::write(&current, &name).map_err(Error::file("write", &current))?;
    open(&folder.join(name))
}

fn open(folder: &Path) -> Result<Kernel> {
    let release = release_in(&folder.join("lib/modules"))?;
    let image = folder.join("vmlinux");
    fs::metadata(&image).map_err(Error::file("find", &image))?;
    Ok(Kernel { release, image, root: folder.to_path_buf() })
}

/// The name of the one folder that a kernel package has among the modules.
fn release_in(modules: &Path) -> Result<String> {
    let entries = fs::read_dir(modules).map_err(Error::file("read", modules))?;
    let name = entries.flatten().next().map(|entry| entry.file_name().to_string_lossy().into_owned());
    name.ok_or_else(|| Error::Lab(format!("{} holds no modules", modules.display())))
}

fn fetch(packages: &Packages<'_>, name: &str, folder: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(folder).map_err(Error::file("create a folder in", folder))?;
    let tree = packages.unpack(name, work.path())?;
    let modules = tree.join("lib/modules");
    // Debian 13 has merged /usr in its packages too.
    let merged = tree.join("usr/lib/modules");
    if merged.is_dir() {
        make_dir(&tree.join("lib"))?;
        fs::rename(&merged, &modules).map_err(Error::file("move", &merged))?;
    }
    let release = release_in(&modules)?;
    let depmod = [Path::new("-b"), &tree, Path::new(&release)];
    output(command("depmod", depmod), UNPACK_LIMIT_S)?;
    extract_image(&tree.join(format!("boot/vmlinuz-{release}")), &tree.join("vmlinux"))?;
    let done = folder.join(name);
    match fs::remove_dir_all(&done) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::file("remove", &done)(error)),
        _ => {}
    }
    fs::rename(&tree, &done).map_err(Error::file("move", &tree))
}

/// Writes the ELF image inside a bzImage; a bzImage packed in another way is kept as it is, QEMU boots that too.
fn extract_image(bzimage: &Path, image: &Path) -> Result<()> {
    let bytes = fs::read(bzimage).map_err(Error::file("read", bzimage))?;
    let Some(payload) = zstd_payload(&bytes) else {
        return fs::copy(bzimage, image).map(drop).map_err(Error::file("copy", bzimage));
    };
    let packed = image.with_extension("zst");
    fs::write(&packed, payload).map_err(Error::file("write", &packed))?;
    output(command("zstd", [Path::new("-dqf"), &packed, Path::new("-o"), image]), UNPACK_LIMIT_S)?;
    fs::remove_file(&packed).map_err(Error::file("remove", &packed))
}

/// The compressed kernel in a bzImage: its offset and length stand in the setup header, and its last four bytes
/// are the unpacked size.
fn zstd_payload(bzimage: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| -> Option<usize> {
        let bytes: [u8; 4] = bzimage.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup_sectors = usize::from(*bzimage.get(0x1f1)?);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    let end = start.checked_add(word(0x24c)?.checked_sub(4)?)?;
    let payload = bzimage.get(start..end)?;
    payload.starts_with(&ZSTD_MAGIC).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_payload() {
        let mut image = vec![0u8; 4096];
        image[0x1f1] = 1;
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&12u32.to_le_bytes());
        image[1040..1044].copy_from_slice(&ZSTD_MAGIC);
        assert_eq!(zstd_payload(&image).unwrap(), &[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0]);
        image[1040] = 0;
        assert_eq!(zstd_payload(&image), None);
        assert_eq!(zstd_payload(&[0; 16]), None);
    }
}
