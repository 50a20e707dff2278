//! The client's backend channel: the one way on which this side speaks first.
//!
//! Only one message goes there, twelve bytes without an answer: the configuration space has changed. A client that does not
//! read its end loses the message, never our time.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockType, SockaddrLike, SockaddrStorage, getsockname, send};
use nix::sys::socket::{getsockopt, sockopt};
use vhost::vhost_user::message::BackendReq;

/// Version 1, no flags.
const VERSION: u32 = 1;

/// A stream socket of the client's.
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Takes up the client's descriptor.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence about the channel.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, String> {
        match getsockopt(&fd, sockopt::SockType) {
            Ok(SockType::Stream) => {}
            Ok(other) => return Err(format!("is a socket of type {other:?}, a stream socket is wanted")),
            Err(e) => return Err(format!("is no socket: {e}")),
        }
        let family = getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok().and_then(|name| name.family());
        if family != Some(AddressFamily::Unix) {
            return Err("is not a unix socket".into());
        }
        Ok(Self(fd))
    }

    /// Tells the client to read the configuration space again.
    ///
    /// # Errors
    /// The kernel's: EAGAIN when the client has not read what was sent before.
    pub(crate) fn config_changed(&self) -> nix::Result<()> {
        let header = [u32::from(BackendReq::CONFIG_CHANGE_MSG), VERSION, 0];
        let bytes: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.0.as_raw_fd(), &bytes, flags).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use nix::errno::Errno;

    use super::*;

    #[test]
    fn only_unix_stream_sockets_are_taken() {
        let reason = |fd: OwnedFd| Channel::new(fd).err().unwrap();
        assert!(reason(std::fs::File::open("/dev/null").unwrap().into()).contains("no socket"));
        assert!(reason(UnixDatagram::unbound().unwrap().into()).contains("stream"));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(reason(tcp.into()).contains("unix"));
    }

    #[test]
    fn a_client_that_never_reads_does_not_hold_us_up() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(ours.into()).unwrap();
        let sent = (0..1 << 20).take_while(|_| channel.config_changed().is_ok()).count();
        assert!(sent > 0);
        assert_eq!(channel.config_changed(), Err(Errno::EAGAIN));
        let mut message = [0; 12];
        theirs.read_exact(&mut message).unwrap();
        assert_eq!(message, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        drop(theirs);
        assert_eq!(channel.config_changed(), Err(Errno::EPIPE));
    }
}
