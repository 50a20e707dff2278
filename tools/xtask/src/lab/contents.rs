//! What goes into the guest for the scenarios of one boot; what takes a build or a download only where it is wanted.

use super::build;
use crate::error::{Error, Result};
use crate::initramfs::Contents;
use crate::kernel::Kernel;
use crate::packages::{CONTAINER, Packages, SYSTEMD};
use crate::programs::find;
use crate::unpacked;
use crate::workspace::Workspace;
use labvm::protocol::{CONFORMANCE, KERNEL_PATH, QEMU};
use labvm::scenarios::Scenario;
use std::path::PathBuf;

/// What QEMU loads into a machine that boots a kernel, wherever Debian has it.
const FIRMWARE: [&str; 4] = ["bios-256k.bin", "pvh.bin", "linuxboot_dma.bin", "kvmvapic.bin"];
const FIRMWARE_FOLDERS: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];

/// The units of systemd's own that a service stands on.
const UNITS: [&str; 9] = [
    "basic.target",
    "local-fs.target",
    "modprobe@.service",
    "paths.target",
    "shutdown.target",
    "slices.target",
    "sockets.target",
    "sysinit.target",
    "timers.target",
];
const UNIT_FOLDER: &str = "/usr/lib/systemd/system";
const SYSTEMD_PROGRAM: &str = "/usr/lib/systemd/systemd";
const EXECUTOR: &str = "/usr/lib/systemd/systemd-executor";

/// All that these scenarios want.
pub(super) fn wanted(workspace: &Workspace, kernel: &Kernel, batch: &[&Scenario]) -> Result<Contents> {
    let mut contents = Contents::default();
    let wanted = |program| batch.iter().any(|scenario| scenario.programs.contains(&program));
    if wanted(CONFORMANCE) {
        contents.programs.push(build::conformance(workspace)?);
    }
    if wanted("crun") {
        Packages::new(workspace)?.ensure(CONTAINER)?;
        contents.programs.push(find("crun")?);
    }
    if wanted("mdadm") {
        contents.programs.push(unpacked::program(workspace, "mdadm", "mdadm")?);
    }
    if wanted(QEMU) {
        contents.programs.push(find(QEMU)?);
        contents.files.push((KERNEL_PATH.to_owned(), kernel.image.clone()));
        for name in FIRMWARE {
            let path = firmware(name)?;
            contents.files.push((path.display().to_string(), path));
        }
    }
    if wanted("systemd") {
        Packages::new(workspace)?.ensure(SYSTEMD)?;
        contents.programs.extend([PathBuf::from(SYSTEMD_PROGRAM), find("systemctl")?]);
        // Since systemd 254 another program starts the services.
        let executor = PathBuf::from(EXECUTOR);
        if executor.is_file() {
            contents.programs.push(executor.clone());
            contents.files.push((EXECUTOR.to_owned(), executor));
        }
        contents.files.extend(UNITS.map(|unit| {
            let path = format!("{UNIT_FOLDER}/{unit}");
            (path.clone(), PathBuf::from(path))
        }));
    }
    Ok(contents)
}

/// The path of a file of QEMU's, which is the same in the guest.
fn firmware(name: &str) -> Result<PathBuf> {
    let path =
        FIRMWARE_FOLDERS.iter().map(|folder| PathBuf::from(folder).join(name)).find(|path| path.is_file());
    path.ok_or_else(|| {
        Error::Lab(format!("QEMU's file {name} is in none of {}", FIRMWARE_FOLDERS.join(", ")))
    })
}
