//! The machine as files show it. Tests put a directory in place of `/`.

use std::path::PathBuf;

use spinblk_reactor::Ring;

/// Bit numbers in the capability masks of /proc/self/status.
#[derive(Clone, Copy)]
pub(super) enum Capability {
    NetAdmin = 12,
    IpcLock = 14,
    SysAdmin = 21,
    SysResource = 24,
}

/// Where a kernel module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Module {
    /// In the running kernel.
    Present,
    /// On disk, ready for modprobe.
    Loadable,
    /// Not among the running kernel's modules.
    Absent,
    /// Not loaded, and this kernel's modules are not installed here.
    NoModules,
}

/// A machine to look at.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
    /// Tries whether an io_uring can be made; the text says why not.
    pub(super) try_ring: fn() -> Result<(), String>,
}

impl Default for Host {
    /// This machine.
    fn default() -> Self {
        Self { root: "/".into(), try_ring: || Ring::new(8).map(drop).map_err(|e| e.to_string()) }
    }
}

impl Host {
    #[cfg(test)]
    pub(super) fn fake(root: &std::path::Path, try_ring: fn() -> Result<(), String>) -> Self {
        Self { root: root.into(), try_ring }
    }

    /// The path of `absolute` on this host.
    pub(super) fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    pub(super) fn exists(&self, absolute: &str) -> bool {
        self.path(absolute).exists()
    }

    /// A small text file without the white space around it.
    pub(super) fn read(&self, absolute: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.path(absolute)).ok()?;
        Some(text.trim().to_string())
    }

    /// Names in a directory, sorted; none when it is not there.
    pub(super) fn names_in(&self, absolute: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(absolute)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// The running kernel's release, such as `6.12.9-amd64`.
    pub(super) fn kernel_release(&self) -> String {
        self.read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into())
    }

    /// Major and minor number of the running kernel.
    pub(super) fn kernel_version(&self) -> Option<(u32, u32)> {
        let release = self.kernel_release();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// A field of /proc/self/status.
    pub(super) fn status_field(&self, name: &str) -> Option<String> {
        let status = self.read("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().to_string())
    }

    pub(super) fn has(&self, capability: Capability) -> bool {
        let mask = self.status_field("CapEff").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
        mask.is_some_and(|mask| mask & (1 << capability as u32) != 0)
    }

    /// Soft and hard limit on locked memory in bytes; `None` stands for unlimited.
    pub(super) fn memlock_limits(&self) -> Option<(Option<u64>, Option<u64>)> {
        let limits = self.read("/proc/self/limits")?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
        let mut fields = line.split_whitespace().map(|word| word.parse().ok());
        Some((fields.next()?, fields.next()?))
    }

    /// Whether this process may lock all its memory, however much it comes to be.
    pub(crate) fn may_lock_all(&self) -> bool {
        let unlimited = self.memlock_limits().is_some_and(|(soft, _)| soft.is_none());
        // The capability counts only outside of user namespaces, where user 0 is user 0 and all others are there, too.
        let users = self.read("/proc/self/uid_map").unwrap_or_default();
        let outside = users.split_whitespace().eq(["0", "0", "4294967295"]);
        unlimited || (outside && self.has(Capability::IpcLock))
    }

    /// Where the module `name` is; `signs` are paths that are there only with it (built-in ones often have no other).
    pub(super) fn module(&self, name: &str, signs: &[&str]) -> Module {
        let loaded = format!("/sys/module/{name}");
        if self.exists(&loaded) || signs.iter().any(|sign| self.exists(sign)) {
            return Module::Present;
        }
        let directory = format!("/lib/modules/{}", self.kernel_release());
        let listed = |file: &str| {
            let list = self.read(&format!("{directory}/{file}")).unwrap_or_default();
            list.lines().any(|line| module_name(line) == Some(name.into()))
        };
        if listed("modules.builtin") {
            Module::Present
        } else if listed("modules.dep") {
            Module::Loadable
        } else if self.exists(&format!("{directory}/modules.dep")) {
            Module::Absent
        } else {
            Module::NoModules
        }
    }
}

/// The module that a line of modules.dep or modules.builtin is about:
/// `kernel/drivers/vdpa/vdpa_user/vduse.ko.xz: kernel/...` is `vduse`.
fn module_name(line: &str) -> Option<String> {
    let path = line.split(':').next()?;
    let (name, _) = path.rsplit('/').next()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}
