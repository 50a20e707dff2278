//! A container as people run them: crun, namespaces, few capabilities, a system-call filter, and of all block devices only
//! the one that is passed in.
//!
//! ```text
//!   the guest's own programs ──hard links──► rootfs ┐
//!   spinblk's /dev/vdX ──node, device cgroup────────┼─► config.json ──► crun run ──► fio, mkfs, mount, ...
//!   deploy/seccomp-io_uring.json ───────────────────┘
//! ```

use crate::block::attribute;
use crate::command::Cmd;
use crate::fail::Fail;
use crate::root::{self, BUSYBOX};
use crate::state::names_in;
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const CGROUPS: &str = "/sys/fs/cgroup";
/// On the same file system as the guest's programs, so that links will do.
const BUNDLES: &str = "/containers";
const PROGRAMS: [&str; 3] = ["/usr/bin/fio", "/usr/bin/mke2fs", "/usr/bin/e2fsck"];
const APPLETS: [&str; 8] = ["sh", "cat", "cp", "cmp", "dd", "mknod", "mount", "umount"];
/// The profile that is given to users.
const SECCOMP: &str = include_str!("../../../deploy/seccomp-io_uring.json");
const LIMIT_S: u64 = 120;

/// A root file system with a disk passed in; each command runs in a new container over it.
pub(crate) struct Container {
    bundle: PathBuf,
    device: PathBuf,
}

impl Container {
    /// Makes the root file system.
    pub(crate) fn over(device: &Path) -> Result<Container, Fail> {
        if names_in(CGROUPS).is_empty() {
            mount(Some("cgroup2"), CGROUPS, Some("cgroup2"), MsFlags::empty(), None::<&str>)
                .map_err(Fail::system(format!("mount cgroup2 on {CGROUPS}")))?;
        }
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let bundle = Path::new(BUNDLES).join(format!("{}-{number}", std::process::id()));
        let root = bundle.join("rootfs");
        root::make(&root, &PROGRAMS)?;
        for applet in APPLETS {
            let path = root.join("bin").join(applet);
            std::os::unix::fs::symlink(BUSYBOX, &path).map_err(Fail::file("create", &path))?;
        }
        Ok(Container { bundle, device: device.to_owned() })
    }

    /// The command line that runs words in a new container, with these capabilities and no others.
    pub(crate) fn command(&self, words: &[String], capabilities: &[&str]) -> Result<Cmd, Fail> {
        let config = config(words, capabilities, &self.device)?;
        let path = self.bundle.join("config.json");
        std::fs::write(&path, config.to_string()).map_err(Fail::file("write", &path))?;
        let name = self.bundle.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The guest's root is the initramfs, which nothing can pivot away from.
        let crun = Cmd::new("crun").args(["--cgroup-manager", "cgroupfs", "run", "--no-pivot", "--bundle"]);
        Ok(crun.path(&self.bundle).arg(name).limit_s(LIMIT_S))
    }

    /// Runs a script of the shell in it.
    pub(crate) fn shell(&self, script: &str, capabilities: &[&str]) -> Result<String, Fail> {
        self.command(&["sh", "-ec", script].map(str::to_owned), capabilities)?.run()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.bundle);
    }
}

/// The container as the OCI runtime specification has it.
fn config(words: &[String], capabilities: &[&str], device: &Path) -> Result<Value, Fail> {
    let number = attribute(device, "dev");
    let (major, minor) = number.split_once(':').unwrap_or_default();
    let parse = |text: &str| {
        let wrong = || Fail::Check(format!("{} has the device number {number:?}", device.display()));
        text.parse::<u32>().map_err(|_| wrong())
    };
    let (major, minor) = (parse(major)?, parse(minor)?);
    let seccomp: Value = serde_json::from_str(SECCOMP)
        .map_err(|source| Fail::Json { what: "the profile of system calls".to_owned(), source })?;
    let namespaces: Vec<Value> =
        ["pid", "mount", "ipc", "uts", "network", "cgroup"].map(|kind| json!({"type": kind})).to_vec();
    Ok(json!({
        "ociVersion": "1.0.0",
        "root": {"path": "rootfs"},
        "process": {
            "args": words,
            "cwd": "/",
            "env": ["PATH=/usr/bin:/bin"],
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid", "nodev"]},
        ],
        "linux": {
            "namespaces": namespaces,
            "devices": [{"path": device, "type": "b", "major": major, "minor": minor, "fileMode": 0o660}],
            "resources": {"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "b", "major": major, "minor": minor, "access": "rw"},
            ]},
            "seccomp": seccomp,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_refuses_some_calls_and_none_of_io_uring() {
        let profile: Value = serde_json::from_str(SECCOMP).unwrap();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ALLOW");
        assert!(SECCOMP.contains("\"kexec_load\"") && !SECCOMP.contains("io_uring"));
    }
}
