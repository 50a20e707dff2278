//! The folder that holds the logs: its files are ours alone, and appear whole.
//!
//! ```text
//!   NAME.new: made, given its room, header written ──rename──► NAME.log
//! ```
//! A process that is killed on the way leaves a `NAME.new`, which the next one removes; what is named `NAME.log` has its
//! whole header and all its room. Whoever calls has the disk's claim (`NAME.lock`, `claim.rs`), or two could make one file.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, posix_fallocate, renameat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

/// The longest name whose files have names that a file system takes (255 bytes).
pub(super) const MAX_NAME_BYTES: usize = 255 - ".lock".len();

/// An open folder of logs.
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

/// What went wrong: what was tried, and the kernel's answer.
pub(super) type Failed = (&'static str, io::Error);

impl Folder {
    /// Opens it, if it is there.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Failed> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let folder = match opened {
            Ok(folder) => folder,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(("open the folder of", e)),
        };
        let metadata = folder.metadata().map_err(|e| ("stat the folder of", e))?;
        if metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err((
                "trust the folder of",
                io::Error::other("others may write there: chown and chmod 700 it"),
            ));
        }
        Ok(Some(Self { fd: folder.into(), path: path.into() }))
    }

    /// Opens it; makes it if need be.
    pub(super) fn make(path: &Path) -> Result<Self, Failed> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| ("make the folder of", e))?;
        let gone = || ("open the folder of", Errno::ENOENT.into());
        Self::open(path)?.ok_or_else(gone)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the log of disk `name` is.
    pub(super) fn log_path(&self, name: &str) -> PathBuf {
        self.path.join(log_name(name))
    }

    /// Makes a file of `len_bytes` that begins with `header`, in place of one that may be there.
    pub(super) fn create(&self, name: &str, header: &[u8], len_bytes: usize) -> Result<File, Failed> {
        let unfinished = format!("{name}.new");
        self.remove_file(&unfinished)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, unfinished.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let file = File::from(fd.map_err(|e| ("create", e.into()))?);
        // All of it now: a full tmpfs would be found out later, by SIGBUS.
        posix_fallocate(&file, 0, len_bytes as i64).map_err(|e| ("get room for", e.into()))?;
        file.write_all_at(header, 0).map_err(|e| ("write", e))?;
        renameat(&self.fd, unfinished.as_str(), &self.fd, log_name(name).as_str())
            .map_err(|e| ("rename", e.into()))?;
        Ok(file)
    }

    /// Opens the log of disk `name`, if there is one.
    pub(super) fn open_log(&self, name: &str) -> Result<Option<(File, Metadata)>, Failed> {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.fd, log_name(name).as_str(), flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT) => return Ok(None),
            Err(e) => return Err(("open", e.into())),
        };
        let metadata = file.metadata().map_err(|e| ("stat", e))?;
        let ours = metadata.is_file()
            && metadata.uid() == geteuid().as_raw()
            && metadata.mode() & 0o077 == 0
            && metadata.nlink() == 1;
        if !ours {
            return Err(("trust", io::Error::other("it is not a file that only this user can reach")));
        }
        Ok(Some((file, metadata)))
    }

    /// Opens the file that is locked for disk `name`; makes it if need be.
    pub(super) fn open_lock(&self, name: &str) -> Result<File, Failed> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, lock_name(name).as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR);
        fd.map(File::from).map_err(|e| ("open the lock of", e.into()))
    }

    /// Whether `file` is still the one that [`open_lock`](Self::open_lock) would open.
    pub(super) fn is_lock(&self, name: &str, file: &File) -> Result<bool, Failed> {
        let failed = |e: Errno| ("stat the lock of", e.into());
        let identity = |stat: FileStat| (stat.st_dev, stat.st_ino);
        match fstatat(&self.fd, lock_name(name).as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(there) => Ok(identity(there) == identity(fstat(file).map_err(failed)?)),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }

    /// Removes the log of disk `name`, finished or not, and last its lock.
    pub(super) fn remove(&self, name: &str) -> Result<(), Failed> {
        self.remove_file(&format!("{name}.new"))?;
        self.remove_file(&log_name(name))?;
        self.remove_file(&lock_name(name))
    }

    fn remove_file(&self, file: &str) -> Result<(), Failed> {
        match unlinkat(&self.fd, file, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(("remove", e.into())),
        }
    }
}

fn log_name(name: &str) -> String {
    format!("{name}.log")
}

fn lock_name(name: &str) -> String {
    format!("{name}.lock")
}
