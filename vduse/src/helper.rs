//! Writes to sysfs that wait for I/O of the very disk that this process serves, made by a process of their own.
//!
//! ```text
//!   serve ──spawns──► helper: write "d0" to drivers_probe ──► driver probes, reads the partition table
//!     ▲                                                          │
//!     └──────────────────────── serves that read ◄───────────────┘
//! ```
//! Killed in such a write, a process waits in the kernel for I/O that nobody does any more, without letting go of
//! /dev/vduse/NAME, so that no successor can do it either. The helper can be left waiting: it has nothing open, and the next
//! process to serve the disk sets it free. Before that goes on it must know that the helper is done ([`wait_for_others`]): the
//! helper holds a lock for as long as it lives, which its parent took and handed to it.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::Error;

/// The program itself, and the name that it has as a helper.
const PROGRAM: &str = "/proc/self/exe";
const NAME: &str = "spinblk-vdpa";

/// Does the helper's work if this process is one, and says how to exit. To be called first in `main` of a program that exports
/// disks.
#[must_use]
pub fn helper() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    if arguments.next()? != NAME {
        return None;
    }
    let written = match (arguments.next(), arguments.next()) {
        (Some(path), Some(value)) => write_here(Path::new(&path), &value),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    // Errors of sysfs fit into an exit status.
    let status = |e: io::Error| e.raw_os_error().and_then(|errno| u8::try_from(errno).ok()).unwrap_or(EIO);
    Some(ExitCode::from(written.err().map_or(0, status)))
}

/// How often a lock that another has is tried.
const LOCK_RETRY: Duration = Duration::from_millis(5);
const EIO: u8 = libc::EIO as u8;

fn write_here(path: &Path, value: &OsStr) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Writes `value` to the file, which must exist, by a helper; waits for that, and before for another helper that has `lock`.
pub(crate) fn write(lock: &Path, path: &Path, value: &dyn Display) -> Result<(), Error> {
    let value = value.to_string();
    let lock = {
        let failed = |source| Error::Sysfs { path: lock.into(), action: "lock".into(), source };
        let file = File::open(lock).map_err(failed)?;
        file.lock().map_err(failed)?;
        file
    };
    let failed = |source| Error::Sysfs { path: path.into(), action: format!("write \"{value}\" to"), source };
    let mut command = Command::new(PROGRAM);
    command.arg0(NAME).arg(path).arg(&value).env_clear();
    // The lock is the open file's: it goes with the last of those who have it.
    command.stdin(lock).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C on a terminal is for us alone.
    let status = command.process_group(0).status().map_err(failed)?;
    match status.code() {
        Some(0) => Ok(()),
        Some(errno) => Err(failed(io::Error::from_raw_os_error(errno))),
        None => Err(failed(io::Error::other("its helper process was killed"))),
    }
}

/// Waits until no helper has `lock`, not even one of a process that is gone. What those wait for must be served meanwhile.
pub(crate) fn wait_for_others(lock: &Path, timeout: Duration) -> Result<(), Error> {
    let failed = |source| Error::Sysfs { path: lock.into(), action: "lock".into(), source };
    let (file, until) = (File::open(lock).map_err(failed)?, Instant::now() + timeout);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_RETRY),
            Err(e) => return Err(failed(e.into())),
        }
    }
}
