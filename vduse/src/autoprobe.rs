//! The bus's switch for automatic probing, off for a moment while a device is put there.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::Error;
use crate::sysfs::{read, write};

const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Automatic probing is off while this lives.
///
/// The switch is one for the whole machine: another vDPA device that appears meanwhile stays without a driver. That is
/// acceptable because the span is one netlink command that probes nothing, a few milliseconds. A file lock keeps two
/// processes from "restoring" each other's off. A drop restores it; after `kill -9` the next process does ([`restore`]), which
/// a note tells that it was on.
pub(crate) struct AutoprobeOff {
    path: PathBuf,
    note: PathBuf,
    was_on: bool,
    _lock: File,
}

impl AutoprobeOff {
    pub(crate) fn new(path: PathBuf, note: PathBuf, timeout: Duration) -> Result<Self, Error> {
        let failed = |source| Error::Sysfs { path: path.clone(), action: "lock".into(), source };
        let lock = File::open(&path).map_err(failed)?;
        let until = Instant::now() + timeout;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_RETRY),
                Err(e) => return Err(failed(e.into())),
            }
        }
        // With the lock in hand, a note is one of a process that was killed, and the "off" is its own.
        let was_on = note.exists() || read(&path)? != "0";
        if was_on && let Err(e) = make_note(&note) {
            warn!(
                "{}: cannot be written ({e}): after `kill -9` in this moment, nobody would turn automatic probing on",
                note.display()
            );
        }
        write(&path, &0)?;
        Ok(Self { path, note, was_on, _lock: lock })
    }
}

impl Drop for AutoprobeOff {
    fn drop(&mut self) {
        if self.was_on {
            turn_on(&self.path, &self.note);
        }
    }
}

/// Turns automatic probing on if there is a note of a process that had it off, and that process is gone.
pub(crate) fn restore(path: &Path, note: &Path) {
    if !note.exists() {
        return;
    }
    // Else the process that has it off is alive.
    if let Ok(lock) = File::open(path)
        && lock.try_lock().is_ok()
    {
        turn_on(path, note);
    }
}

fn make_note(note: &Path) -> std::io::Result<()> {
    if let Some(folder) = note.parent() {
        std::fs::create_dir_all(folder)?;
    }
    File::create(note).map(drop)
}

/// The note goes last: whoever is killed in between only leaves something to be done twice.
fn turn_on(path: &Path, note: &Path) {
    match write(path, &1) {
        Ok(()) => {
            let _ = std::fs::remove_file(note);
        }
        Err(e) => warn!("automatic probing of vDPA devices stays off: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Switch {
        _dir: tempfile::TempDir,
        path: PathBuf,
        note: PathBuf,
    }

    fn switch() -> Switch {
        let dir = tempfile::tempdir().unwrap();
        let (path, note) = (dir.path().join("drivers_autoprobe"), dir.path().join("run/note"));
        std::fs::write(&path, "1\n").unwrap();
        Switch { _dir: dir, path, note }
    }

    impl Switch {
        fn off(&self) -> Result<AutoprobeOff, Error> {
            AutoprobeOff::new(self.path.clone(), self.note.clone(), Duration::from_millis(20))
        }

        fn is_on(&self) -> bool {
            std::fs::read_to_string(&self.path).unwrap().starts_with('1')
        }
    }

    #[test]
    fn it_is_restored_to_what_it_was_and_never_by_two_at_once() {
        let switch = switch();
        let off = switch.off().unwrap();
        assert!(!switch.is_on() && switch.note.exists());
        assert!(switch.off().is_err());
        restore(&switch.path, &switch.note);
        assert!(!switch.is_on(), "whoever has it off is alive");
        drop(off);
        assert!(switch.is_on() && !switch.note.exists());
        std::fs::write(&switch.path, "0\n").unwrap();
        drop(switch.off().unwrap());
        restore(&switch.path, &switch.note);
        assert!(!switch.is_on(), "somebody else turned it off");
    }

    #[test]
    fn what_a_killed_process_left_off_is_turned_on() {
        let switch = switch();
        let mut off = switch.off().unwrap();
        // A kill runs no destructor, and the lock goes with the process.
        off.was_on = false;
        drop(off);
        assert!(!switch.is_on());
        restore(&switch.path, &switch.note);
        assert!(switch.is_on() && !switch.note.exists());
        // One that waited for the lock of that process looks at the switch later than `restore` did.
        let mut off = switch.off().unwrap();
        off.was_on = false;
        drop(off);
        drop(switch.off().unwrap());
        assert!(switch.is_on() && !switch.note.exists());
    }
}
