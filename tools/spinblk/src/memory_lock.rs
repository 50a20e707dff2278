//! Keeps this process's memory out of swap: a block daemon whose pages must be read back from a disk that it serves waits
//! for itself.
//!
//! Pages are locked when they are first touched (MCL_ONFAULT), not when they are mapped: guests' memory is mapped as a whole
//! and may be far larger than what the guest ever uses.

use nix::errno::Errno;
use nix::libc::MCL_ONFAULT;
use nix::sys::mman::{MlockAllFlags, mlockall};

use crate::Error;
use crate::doctor::Host;

/// What to do where memory cannot be locked.
const FIX: &str = "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit file, or CAP_IPC_LOCK";

/// Whether the process's memory is to be locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockMemory {
    /// Where it is allowed; a warning where not.
    #[default]
    Try,
    /// Not served without.
    Require,
    /// Not at all.
    Off,
}

/// Locks all memory of this process, that of now and that of later.
///
/// # Errors
/// [`Error::LockMemory`] if it must be and is not allowed.
pub(crate) fn lock_memory(mode: LockMemory) -> Result<(), Error> {
    if mode == LockMemory::Off {
        return Ok(());
    }
    match lock_if_allowed(&Host::default()) {
        Err(why) if mode == LockMemory::Require => Err(Error::LockMemory { why, fix: FIX }),
        Err(why) => {
            eprintln!("warning: memory is not locked and may be swapped out: {why}; {FIX}");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// A limit that this process fits into now is no help: with it, a guest's memory could not be mapped later.
fn lock_if_allowed(host: &Host) -> Result<(), String> {
    if !host.may_lock_all() {
        return Err("RLIMIT_MEMLOCK is not unlimited, and CAP_IPC_LOCK is not held".into());
    }
    let flags =
        MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | MlockAllFlags::from_bits_retain(MCL_ONFAULT);
    mlockall(flags).map_err(|e: Errno| format!("mlockall: {e}"))
}
