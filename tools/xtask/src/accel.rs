//! Whether KVM really works here: `/dev/kvm` may exist and still not run a guest, so a guest is booted.

use crate::error::{Error, Result};
use crate::initramfs::{self, Contents, Extras};
use crate::kernel::Kernel;
use crate::progress::step;
use crate::vm::{Accel, Console, Machine};
use crate::workspace::Workspace;
use labvm::protocol::{Event, Mode, Plan};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

/// A guest under a working KVM is up in one second, nested in a few.
const PROBE_LIMIT_S: u64 = 8;

/// The accelerator to use; the answer is kept until the host reboots.
pub(crate) fn choose(workspace: &Workspace, kernel: &Kernel, base: &Path, labvm: &Path) -> Result<Accel> {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accel::Tcg);
    }
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let answer = workspace.cache.join("accelerator");
    match fs::read_to_string(&answer).unwrap_or_default().split_once(' ') {
        Some((id, "kvm")) if id == boot_id.trim() => return Ok(Accel::Kvm),
        Some((id, "tcg")) if id == boot_id.trim() => return Ok(Accel::Tcg),
        _ => {}
    }
    let works = step("try whether KVM runs a guest here", || probe(workspace, kernel, base, labvm))?;
    let word = if works { "kvm" } else { "tcg" };
    fs::write(&answer, format!("{} {word}", boot_id.trim())).map_err(Error::file("write", &answer))?;
    Ok(if works { Accel::Kvm } else { Accel::Tcg })
}

fn probe(workspace: &Workspace, kernel: &Kernel, base: &Path, labvm: &Path) -> Result<bool> {
    let folder = tempfile::tempdir_in(&workspace.cache)
        .map_err(Error::file("create a folder in", &workspace.cache))?;
    let initrd = folder.path().join("initrd");
    let plan =
        Plan { mode: Mode::Probe, scenarios: Vec::new(), limit_s: PROBE_LIMIT_S, settings: BTreeMap::new() };
    initramfs::image(base, &Extras { labvm, contents: &Contents::default(), plan: &plan }, &initrd)?;
    let machine = Machine {
        accel: Accel::Kvm,
        vcpus: 1,
        kernel: &kernel.image,
        initrd: &initrd,
        folder: folder.path(),
        console: Console::Silent,
        limit_s: PROBE_LIMIT_S,
    };
    Ok(machine.run(None)?.events.contains(&Event::Done))
}
