//! The listening socket of one disk: bound where nobody else listens, for its user alone, removed at the end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod};

use crate::Error;

/// Clients that may wait for their turn.
const WAITING_CLIENTS: i32 = 16;

/// A bound socket. Dropping it removes the file, if it is still this one.
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    identity: (u64, u64),
}

impl Listener {
    /// Binds `path` for disk `name`. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// [`Error::SocketBusy`], [`Error::NotASocket`], [`Error::Socket`].
    pub(crate) fn bind(name: &str, path: &Path) -> Result<Self, Error> {
        let failed = |action, source: io::Error| Error::Socket {
            name: name.into(),
            socket: path.into(),
            action,
            source,
        };
        remove_stale(name, path)?;
        let listener = bind_private(path).map_err(|e| failed("make", e.into()))?;
        let file = fs::symlink_metadata(path).map_err(|e| failed("look at", e))?;
        Ok(Self { listener, path: path.into(), identity: (file.dev(), file.ino()) })
    }

    /// The next client; `None` when none waits any more.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                Ok(Some(stream))
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity);
        if ours && let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove the socket {}: {e}", self.path.display());
        }
    }
}

/// A socket that only its user may connect to, from the moment that it exists.
fn bind_private(path: &Path) -> nix::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // Linux gives the file that bind makes the mode of the socket.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(WAITING_CLIENTS)?)?;
    Ok(fd.into())
}

/// Removes a socket that a process left which is no more.
fn remove_stale(name: &str, path: &Path) -> Result<(), Error> {
    let (name, socket) = (name.to_owned(), path.to_owned());
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(Error::NotASocket { name, socket }),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Socket { name, socket, action: "look at", source }),
    }
    match knock(path) {
        // Whoever is too busy to answer is there all the same.
        Ok(()) | Err(Errno::EAGAIN) => Err(Error::SocketBusy { name, socket }),
        Err(Errno::ECONNREFUSED) => {
            tracing::info!(
                "disk {name}: nobody listens on the socket {} any more: removing it",
                path.display()
            );
            fs::remove_file(path).map_err(|source| Error::Socket { name, socket, action: "remove", source })
        }
        Err(e) => Err(Error::Socket { name, socket, action: "find out who listens on", source: e.into() }),
    }
}

/// Connects without waiting.
fn knock(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_socket_is_private_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d0.sock");
        let listener = Listener::bind("d0", &path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listener.accept().unwrap().is_none());
        let _client = UnixStream::connect(&path).unwrap();
        assert!(listener.accept().unwrap().is_some());
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn only_a_socket_without_a_listener_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d0.sock");
        let first = Listener::bind("d0", &path).unwrap();
        let error = Listener::bind("d0", &path).err().unwrap();
        assert!(matches!(error, Error::SocketBusy { .. }), "{error}");
        // As a process that is killed leaves it.
        let other = folder.path().join("other");
        fs::rename(&path, &other).unwrap();
        drop(first);
        assert!(other.exists(), "a file that was moved is not ours to remove");
        let second = Listener::bind("d0", &other).unwrap();
        drop(second);
        fs::write(&path, "text").unwrap();
        let error = Listener::bind("d0", &path).err().unwrap().to_string();
        assert!(error.contains("is not a socket"), "{error}");
        let error = Listener::bind("d0", &folder.path().join("no/d0.sock")).err().unwrap().to_string();
        assert!(error.contains("make its directory first"), "{error}");
        let long = folder.path().join("x".repeat(120));
        let error = Listener::bind("d0", &long).err().unwrap().to_string();
        assert!(error.contains("107 bytes"), "{error}");
    }
}
