//! What can go wrong in a reactor, with the way out in the message.

use std::io;
use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The io_uring could not be made.
    #[error("cannot set up io_uring with {entries} entries: {source}; {}", ring_setup_hint(source))]
    RingSetup {
        /// Submission slots asked for.
        entries: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// io_uring_enter failed for good.
    #[error("io_uring_enter with {to_submit} entries to submit: {source}")]
    RingEnter {
        /// Entries in the submission queue.
        to_submit: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// More leaves on one core than a user-data field can name.
    #[error("more than 65535 bdev leaves on one core: spread the disks over more cores")]
    TooManyOwners,
    /// Hugepages were required.
    #[error(
        "{purpose}: {need_pages} hugepages needed, {free_pages} free; run `sysctl vm.nr_hugepages=N` with N large \
         enough, or set hugepages to \"try\""
    )]
    NoHugepages {
        /// Who wanted them.
        purpose: String,
        /// Pages wanted.
        need_pages: usize,
        /// Pages free.
        free_pages: usize,
    },
    /// Ordinary memory could not be had.
    #[error("{purpose}: cannot allocate {len_bytes} bytes: {source}; ask for less or add memory")]
    NoMemory {
        /// Who wanted it.
        purpose: String,
        /// How much.
        len_bytes: usize,
        /// The kernel's answer.
        source: nix::Error,
    },
    /// The core does not exist or this process may not run there.
    #[error(
        "core {core} cannot be used: this process may run on cores {allowed:?} (cpuset, taskset or hotplug)"
    )]
    NoSuchCore {
        /// The core asked for.
        core: usize,
        /// Cores this process may run on.
        allowed: Vec<usize>,
    },
    /// Another reactor polls that core.
    #[error("core {core} is already polled by process {holder} ({}); choose another core or stop that process", path.display())]
    CoreBusy {
        /// The core asked for.
        core: usize,
        /// Who has it, as its lock file says.
        holder: String,
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file of a core could not be made.
    #[error("core {core}: cannot make its lock file {}: {source}", path.display())]
    CoreLock {
        /// The core asked for.
        core: usize,
        /// The lock file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The thread could not be started or pinned.
    #[error("core {core}: cannot start its reactor thread: {reason}")]
    Spawn {
        /// The core asked for.
        core: usize,
        /// What happened.
        reason: String,
    },
    /// The reactor has stopped.
    #[error("the reactor on core {core} has stopped and takes no work")]
    Stopped {
        /// Its core.
        core: usize,
    },
    /// The reactor did not answer in time.
    #[error("the reactor on core {core} did not answer within {timeout_ms} ms")]
    NoAnswer {
        /// Its core.
        core: usize,
        /// How long was waited.
        timeout_ms: u128,
    },
}

fn ring_setup_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => {
            "io_uring is blocked: set sysctl kernel.io_uring_disabled=0, or in a container use a seccomp profile that \
             allows io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::ENOSYS) => "this kernel has no io_uring, or seccomp hides it: 6.1 or newer is needed",
        Some(libc::EINVAL) => "Linux 6.1 or newer is needed (SINGLE_ISSUER, DEFER_TASKRUN)",
        Some(libc::ENOMEM) => "raise RLIMIT_MEMLOCK (ulimit -l unlimited, or LimitMEMLOCK=infinity)",
        _ => "run `spinblk doctor`",
    }
}
