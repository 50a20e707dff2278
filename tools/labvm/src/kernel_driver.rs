//! The kernel's own drivers for the layouts that spinblk shares with them: md raid0 and dm-crypt.

use crate::command::Cmd;
use crate::fail::Fail;
use crate::wait::wait_for;
use std::path::{Path, PathBuf};

const ARRAY: &str = "/dev/md0";
/// How md's raid0 lays out children of different sizes when nothing on them says it; without it, it refuses them.
const DEFAULT_LAYOUT: &str = "/sys/module/raid0/parameters/default_layout";
/// As kernels since 3.14 do.
const ALTERNATE: &str = "2";
const GO_LIMIT_S: u64 = 10;

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
    /// Stripes over block devices, in this order, with nothing on them but the data.
    pub(crate) fn raid0(children: &[&Path], chunk_bytes: u64) -> Result<KernelDriver, Fail> {
        let parameter = Path::new(DEFAULT_LAYOUT);
        std::fs::write(parameter, ALTERNATE).map_err(Fail::file("write", parameter))?;
        let build = mdadm(&["--build", ARRAY, "--level=0"]);
        let build = build.arg(format!("--chunk={}K", chunk_bytes >> 10));
        let build = build.arg(format!("--raid-devices={}", children.len()));
        children.iter().fold(build, |build, child| build.path(child)).run()?;
        Ok(KernelDriver { path: PathBuf::from(ARRAY), kind: Kind::Raid0, up: true })
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
            Kind::Raid0 => {
                mdadm(&["--stop"]).path(&self.path).run()?;
                wait_for("/dev/md0 to go", GO_LIMIT_S, || !self.path.exists())
            }
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

/// Without udev, as above.
fn mdadm(words: &[&str]) -> Cmd {
    Cmd::new("env").args(["MDADM_NO_UDEV=1", "mdadm"]).args(words.iter().copied())
}
