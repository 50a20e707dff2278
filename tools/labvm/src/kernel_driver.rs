//! The kernel's own drivers for the layouts that spinblk shares with them: md raid0 and dm-crypt.

use crate::block::attribute;
use crate::command::Cmd;
use crate::fail::Fail;
use crate::wait::wait_for;
use std::path::{Path, PathBuf};

const NEW_ARRAY: &str = "/sys/module/md_mod/parameters/new_array";
/// How a kernel since 3.14 lays out children of different sizes; it wants to be told.
const RAID0_LAYOUT: &str = "2";
const APPEAR_LIMIT_S: u64 = 10;

/// A block device that a driver of the kernel makes of others; it goes away when dropped.
pub(crate) struct KernelDriver {
    path: PathBuf,
    kind: Kind,
    up: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Raid0,
    Crypt,
}

impl KernelDriver {
    /// Stripes over block devices, in this order, with nothing on them but the data: what `mdadm --build` makes.
    pub(crate) fn raid0(children: &[&Path], chunk_bytes: u64) -> Result<KernelDriver, Fail> {
        write(Path::new(NEW_ARRAY), "md0")?;
        let array = KernelDriver { path: PathBuf::from("/dev/md0"), kind: Kind::Raid0, up: true };
        let folder = Path::new("/sys/block/md0/md");
        let (count, chunk) = (children.len().to_string(), chunk_bytes.to_string());
        let settings =
            [("level", "raid0"), ("raid_disks", &count), ("chunk_size", &chunk), ("layout", RAID0_LAYOUT)];
        for (name, value) in settings {
            write(&folder.join(name), value)?;
        }
        for (slot, child) in children.iter().enumerate() {
            write(&folder.join("new_dev"), &attribute(child, "dev"))?;
            let name = child.file_name().unwrap_or_default().to_string_lossy();
            let member = folder.join(format!("dev-{name}"));
            write(&member.join("slot"), &slot.to_string())?;
            // It counts in KiB, and of a last odd sector no array makes use.
            let sectors: u64 = attribute(child, "size").parse().unwrap_or(0);
            write(&member.join("size"), &(sectors / 2).to_string())?;
        }
        write(&folder.join("array_state"), "active")?;
        wait_for("/dev/md0", APPEAR_LIMIT_S, || array.path.exists())?;
        Ok(array)
    }

    /// Encrypts a block device with AES-256-XTS, with nothing on it but the data; the key is a file of 64 bytes.
    pub(crate) fn crypt(device: &Path, key: &Path, sector_bytes: u32) -> Result<KernelDriver, Fail> {
        let name = "reference";
        let open = ["open", "--type", "plain", "--cipher", "aes-xts-plain64", "--key-size", "512"];
        let sector_bytes = sector_bytes.to_string();
        cryptsetup(&open)
            .args(["--sector-size", &sector_bytes, "--key-file"])
            .path(key)
            .path(device)
            .arg(name)
            .run()?;
        Ok(KernelDriver { path: Path::new("/dev/mapper").join(name), kind: Kind::Crypt, up: true })
    }

    /// The block device.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it down; what it stands on is free again.
    pub(crate) fn close(mut self) -> Result<(), Fail> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), Fail> {
        if !std::mem::take(&mut self.up) {
            return Ok(());
        }
        match self.kind {
            Kind::Raid0 => write(Path::new("/sys/block/md0/md/array_state"), "clear")
                .and_then(|()| wait_for("/dev/md0 to go", APPEAR_LIMIT_S, || !self.path.exists())),
            Kind::Crypt => cryptsetup(&["close"]).path(&self.path).run().map(drop),
        }
    }
}

impl Drop for KernelDriver {
    fn drop(&mut self) {
        let _ = self.take_down();
    }
}

/// Without udev, which it would wait for.
fn cryptsetup(words: &[&str]) -> Cmd {
    Cmd::new("env").args(["DM_DISABLE_UDEV=1", "cryptsetup", "--batch-mode"]).args(words.iter().copied())
}

fn write(path: &Path, value: &str) -> Result<(), Fail> {
    std::fs::write(path, value).map_err(Fail::file("write", path))
}
