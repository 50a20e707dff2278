//! Checks of memory: hugepages, how much may be locked, and whom the kernel kills when there is none left.

use super::host::Capability;
use super::{Check, Host, Status};
use crate::config::show_size;

/// One bounce region of the kernel's usual size.
const BOUNCE_BYTES: u64 = 64 << 20;
/// The lowest /proc/PID/oom_score_adj.
const NEVER_KILLED: &str = "-1000";

pub(super) fn hugepages(host: &Host) -> Check {
    let why = "fewer TLB misses and faster pinning for disks in RAM and bounce regions";
    let meminfo = host.read("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let Some(page_bytes) = field("Hugepagesize").map(|kib| kib * 1024).filter(|&bytes| bytes > 0) else {
        let fix = "boot a kernel with CONFIG_HUGETLBFS=y, or keep hugepages = \"try\"";
        return Check::bad(Status::Warning, "hugepages", "this kernel has none", why, fix);
    };
    let (total, free) = (field("HugePages_Total").unwrap_or(0), field("HugePages_Free").unwrap_or(0));
    let found = format!("{free} free of {total}, {} each", show_size(page_bytes));
    if free > 0 {
        return Check::ok("hugepages", found, why);
    }
    let pages = 2 * BOUNCE_BYTES.div_ceil(page_bytes);
    let fix = format!("sysctl vm.nr_hugepages={} (room for two disks' bounce regions)", total + pages);
    Check::bad(Status::Warning, "hugepages", found, why, fix)
}

pub(super) fn memlock(host: &Host) -> Check {
    let why = "umem locks 64 MiB a disk; without it every I/O pins its pages anew";
    let name = "RLIMIT_MEMLOCK";
    let Some((soft, hard)) = host.memlock_limits() else {
        let fix = "mount /proc, or make sure yourself: ulimit -l unlimited";
        return Check::bad(Status::Warning, name, "not known", why, fix);
    };
    let show = |limit: Option<u64>| limit.map_or("unlimited".into(), show_size);
    let enough = |limit: Option<u64>| limit.is_none_or(|bytes| bytes >= BOUNCE_BYTES);
    if enough(soft) {
        return Check::ok(name, show(soft), why);
    }
    if enough(hard) || host.has(Capability::SysResource) {
        return Check::ok(name, format!("{}, and serve may raise it", show(soft)), why);
    }
    let fix = "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit file, or in /etc/security/limits.conf: \
               `USER - memlock unlimited`";
    Check::bad(Status::Warning, name, show(soft), why, fix)
}

pub(super) fn locked(host: &Host) -> Check {
    let (name, why) =
        ("locked memory", "a daemon that is swapped out may wait for a disk that it serves itself");
    if host.may_lock_all() {
        return Check::ok(name, "all of it may be locked", why);
    }
    if host.has(Capability::SysResource) {
        return Check::ok(name, "serve may raise the limit and lock all of it", why);
    }
    let fix =
        "LimitMEMLOCK=infinity in the unit file, or ulimit -l unlimited, or the capability CAP_IPC_LOCK";
    Check::bad(Status::Warning, name, "a limit stands against it", why, fix)
}

/// The score of a running daemon, or that which one started from here would have.
pub(super) fn oom(host: &Host) -> Check {
    let (name, why) =
        ("OOM score", "when memory runs out, the daemon is not to be killed under its disks' users");
    let pid = daemon(host);
    let path = format!("/proc/{}/oom_score_adj", pid.as_deref().unwrap_or("self"));
    let score = host.read(&path).unwrap_or_else(|| "not known".into());
    let found = match &pid {
        Some(pid) => format!("{score} for the running daemon, process {pid}"),
        None => format!("{score} for a daemon started from here"),
    };
    if score == NEVER_KILLED {
        return Check::ok(name, found, why);
    }
    let fix = format!(
        "OOMScoreAdjust={NEVER_KILLED} in the unit file; for now: choom -n {NEVER_KILLED} -p {}",
        pid.as_deref().unwrap_or("PID")
    );
    Check::bad(Status::Warning, name, found, why, fix)
}

/// The process of a `spinblk serve`, if one runs.
fn daemon(host: &Host) -> Option<String> {
    host.names_in("/proc").into_iter().find(|pid| {
        pid.bytes().all(|b| b.is_ascii_digit())
            && host.read(&format!("/proc/{pid}/comm")).as_deref() == Some("spinblk")
            && host
                .read(&format!("/proc/{pid}/cmdline"))
                .is_some_and(|words| words.split('\0').any(|word| word == "serve"))
    })
}
