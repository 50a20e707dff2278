//! Checks of memory: hugepages and how much may be locked.

use super::host::Capability;
use super::{Check, Host, Status};
use crate::config::show_size;

/// One bounce region of the kernel's usual size.
const BOUNCE_BYTES: u64 = 64 << 20;

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
