//! One core, one reactor, machine-wide: a lock file per core.
//!
//! Two pollers on one core would each get half of it and both would look broken. The claim is an flock, so it ends
//! with the process however that ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;

use crate::Error;

/// Holds a core against other reactors until dropped.
#[derive(Debug)]
pub struct CoreClaim {
    _lock: File,
}

impl CoreClaim {
    /// Claims `core` for this process.
    ///
    /// # Errors
    /// [`Error::CoreBusy`] names the process that has it; [`Error::CoreLock`] when the lock file cannot be made.
    pub fn new(core: usize) -> Result<Self, Error> {
        let dir = lock_dir();
        let path = dir.join(format!("core-{core}.lock"));
        let failed = |source| Error::CoreLock { core, path: path.clone(), source };
        std::fs::create_dir_all(&dir).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // A holder that has not written its number yet is just not named.
                let _ = file.read_to_string(&mut holder);
                return Err(Error::CoreBusy { core, holder: holder.trim().into(), path });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { _lock: file })
    }
}

/// `/run/spinblk` for root, the user's runtime directory else.
fn lock_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return "/run/spinblk".into();
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    runtime.join(format!("spinblk-{}", nix::unistd::geteuid()))
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_claimed_once_and_free_again_after() {
        // A number that no machine has, so that a running spinblk is not disturbed.
        let core = 100_000 + std::process::id() as usize;
        let claim = CoreClaim::new(core).unwrap();
        let error = CoreClaim::new(core).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(claim);
        CoreClaim::new(core).unwrap();
        std::fs::remove_file(lock_dir().join(format!("core-{core}.lock"))).unwrap();
    }
}
