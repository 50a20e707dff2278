//! Whether io_uring can be used: by trying, and by finding out who forbids it.

use super::host::Capability;
use super::{Check, Host, Status};

const NAME: &str = "io_uring";
const WHY: &str = "all I/O of a reactor goes through it";
const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";
/// /proc/self/status says this under a system-call filter.
const SECCOMP_FILTER: &str = "2";

pub(super) fn io_uring(host: &Host) -> Check {
    let bad = |found: String, fix: &str| Check::bad(Status::Missing, NAME, found, WHY, fix);
    let Err(reason) = (host.try_ring)() else { return Check::ok(NAME, "a ring can be made", WHY) };
    match host.read(SYSCTL).as_deref() {
        Some("2") => bad(
            "switched off for everyone: kernel.io_uring_disabled is 2".into(),
            "sysctl kernel.io_uring_disabled=0",
        ),
        Some("1") if !host.has(Capability::SysAdmin) => bad(
            "switched off for ordinary users: kernel.io_uring_disabled is 1".into(),
            "run as root, or: sysctl kernel.io_uring_disabled=0",
        ),
        _ if host.status_field("Seccomp").as_deref() == Some(SECCOMP_FILTER) => bad(
            format!("{reason}; a seccomp filter is active"),
            "run the container with a seccomp profile that allows io_uring_setup, io_uring_enter and \
             io_uring_register (docker run --security-opt seccomp=PROFILE.json)",
        ),
        _ => bad(reason, "boot Linux 6.1 or newer with CONFIG_IO_URING=y"),
    }
}
