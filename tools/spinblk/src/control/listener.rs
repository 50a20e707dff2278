//! Where clients come in: unix sockets for this user alone, and a TCP port for Prometheus.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod};

use crate::Error;

/// Clients that may wait until there is room for them.
const WAITING_CLIENTS: i32 = 256;
/// What the kernel's address of a unix socket holds.
const MAX_PATH_BYTES: usize = 107;

/// Where to listen; nowhere by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// The control socket.
    pub socket: Option<PathBuf>,
    /// Where Prometheus finds the metrics.
    pub metrics: Option<MetricsAddress>,
}

/// Where Prometheus finds the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// What `MetricsAddress::parse` takes, for people.
pub(crate) const METRICS_FORMS: &str = "ADDRESS:PORT such as 127.0.0.1:9500, or unix:PATH";
/// What a socket's path may be, for people.
pub(crate) const SOCKET_FORMS: &str = "the path of a unix socket, at most 107 bytes";

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl MetricsAddress {
    /// Reads `127.0.0.1:9500`, `[::1]:9500` or `unix:PATH`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("unix:") {
            Some(path) => socket_path(path).map(Self::Unix),
            None => text.parse().ok().map(Self::Tcp),
        }
    }
}

/// A path that a unix socket may have.
pub(crate) fn socket_path(text: &str) -> Option<PathBuf> {
    ((1..=MAX_PATH_BYTES).contains(&text.len()) && !text.contains('\0')).then(|| text.into())
}

/// Sockets that are bound and that nobody is served on yet: clients wait. Dropping them removes their files.
#[derive(Debug, Default)]
pub struct Bound {
    pub(super) control: Option<Listener>,
    pub(super) metrics: Option<Listener>,
}

impl Endpoints {
    /// Binds them all. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// [`Error::SocketBusy`], [`Error::NotASocket`], [`Error::Listen`].
    pub fn bind(&self) -> Result<Bound, Error> {
        let control = self.socket.as_deref().map(Listener::bind_unix).transpose()?;
        let metrics = match &self.metrics {
            Some(MetricsAddress::Tcp(address)) => Some(Listener::bind_tcp(*address)?),
            Some(MetricsAddress::Unix(path)) => Some(Listener::bind_unix(path)?),
            None => None,
        };
        Ok(Bound { control, metrics })
    }
}

impl Bound {
    /// The port of the metrics, where the system chose it.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(Listener::address)
    }
}

/// One listening socket. Dropping it removes its file, if that is still this one.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        path: PathBuf,
        /// Device and inode of the file.
        identity: (u64, u64),
    },
}

impl Listener {
    fn bind_tcp(address: SocketAddr) -> Result<Self, Error> {
        let bind = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(Self::Tcp(listener))
        };
        bind().map_err(|source| Error::Listen { at: address.to_string(), action: "listen on", source })
    }

    fn bind_unix(path: &Path) -> Result<Self, Error> {
        let failed =
            |action, source: io::Error| Error::Listen { at: path.display().to_string(), action, source };
        remove_stale(path)?;
        let listener = bind_private(path).map_err(|e| failed("make the socket", e.into()))?;
        let file = fs::symlink_metadata(path).map_err(|e| failed("look at the socket", e))?;
        Ok(Self::Unix { listener, path: path.into(), identity: (file.dev(), file.ino()) })
    }

    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix { .. } => None,
        }
    }

    /// The next client, whose socket never blocks; `None` when none waits any more.
    pub(super) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let accepted = match self {
            Self::Tcp(listener) => listener.accept().and_then(|(client, _)| {
                client.set_nonblocking(true)?;
                Ok(client.into())
            }),
            Self::Unix { listener, .. } => listener.accept().and_then(|(client, _)| {
                client.set_nonblocking(true)?;
                Ok(client.into())
            }),
        };
        match accepted {
            Ok(client) => Ok(Some(client)),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix { listener, .. } => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Self::Unix { path, identity, .. } = self else { return };
        let ours = fs::symlink_metadata(&path).is_ok_and(|file| (file.dev(), file.ino()) == *identity);
        if ours && let Err(e) = fs::remove_file(&path) {
            tracing::warn!("cannot remove the socket {}: {e}", path.display());
        }
    }
}

/// A socket that only its user may connect to, from the moment that it exists.
fn bind_private(path: &Path) -> nix::Result<UnixListener> {
    let fd = stream_socket()?;
    // Linux gives the file that bind makes the mode of the socket, less what the umask takes away.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(WAITING_CLIENTS)?)?;
    Ok(fd.into())
}

/// Removes a socket that a process left which is no more.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let failed = |action, source| Error::Listen { at: path.display().to_string(), action, source };
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(Error::NotASocket { path: path.into() }),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed("look at", source)),
    }
    // Without waiting: whoever is too busy to answer is there all the same.
    let knock = || connect(stream_socket()?.as_raw_fd(), &UnixAddr::new(path)?);
    match knock() {
        Ok(()) | Err(Errno::EAGAIN) => Err(Error::SocketBusy { path: path.into() }),
        Err(Errno::ECONNREFUSED) => {
            tracing::info!("nobody listens on the socket {} any more: removing it", path.display());
            fs::remove_file(path).map_err(|source| failed("remove the socket", source))
        }
        Err(e) => Err(failed("find out who listens on", e.into())),
    }
}

fn stream_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_is_private_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = Listener::bind_unix(&path).unwrap();
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
        let path = folder.path().join("control.sock");
        let first = Listener::bind_unix(&path).unwrap();
        let error = Listener::bind_unix(&path).unwrap_err().to_string();
        assert!(error.contains("another process listens on it"), "{error}");
        // As a process that is killed leaves it.
        let left = folder.path().join("left");
        fs::rename(&path, &left).unwrap();
        drop(first);
        assert!(left.exists(), "a file that was moved is not ours to remove");
        drop(Listener::bind_unix(&left).unwrap());
        assert!(!left.exists());
        fs::write(&path, "text").unwrap();
        let error = Listener::bind_unix(&path).unwrap_err().to_string();
        assert!(error.contains("is not a socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"text");
        let error = Listener::bind_unix(&folder.path().join("no/control.sock")).unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn addresses_of_metrics() {
        let tcp = |text: &str| Some(MetricsAddress::Tcp(text.parse().unwrap()));
        assert_eq!(MetricsAddress::parse("127.0.0.1:9500"), tcp("127.0.0.1:9500"));
        assert_eq!(MetricsAddress::parse("[::1]:9500"), tcp("[::1]:9500"));
        assert_eq!(
            MetricsAddress::parse("unix:/run/m.sock"),
            Some(MetricsAddress::Unix("/run/m.sock".into()))
        );
        for bad in ["", "9500", "localhost", "127.0.0.1", "127.0.0.1:99999", "unix:", "unix:a\0b"] {
            assert_eq!(MetricsAddress::parse(bad), None, "{bad}");
        }
        assert_eq!(MetricsAddress::parse(&format!("unix:{}", "x".repeat(108))), None);
    }
}
