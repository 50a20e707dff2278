//! Messages that the vhost crate does not take, or not in a way that is of use here: the device status, which it does not
//! know, and the backend channel, on which it would wait for the client. They are read, done and answered here.
//!
//! ```text
//!   one byte is looked at, not read ──┬─ one of ours ──► read whole, done, answered
//!                                     └─ any other ────► the crate reads it
//! ```
//! Message codes are below 256, so the first byte tells. A message that only begins like one of ours ends the session, as
//! any unknown message does.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{MsgFlags, recv};
use vhost::vhost_user::Error as ProtocolError;
use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::session::Session;

const HEADER_BYTES: usize = 12;
/// The longest body of a message of ours: one word.
const BODY_BYTES: usize = 8;
/// Version and flags of a header.
const VERSION: u32 = 1;
const VERSION_BITS: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
/// Room for descriptors. One is wanted, but the kernel rounds up to two, and one that was not asked for would stay open.
const MAX_FDS: usize = 2;

/// Messages that are handled here, and the protocol feature that each needs.
const OURS: [(FrontendReq, VhostUserProtocolFeatures); 3] = [
    (FrontendReq::SET_BACKEND_REQ_FD, VhostUserProtocolFeatures::BACKEND_REQ),
    (FrontendReq::SET_STATUS, VhostUserProtocolFeatures::STATUS),
    (FrontendReq::GET_STATUS, VhostUserProtocolFeatures::STATUS),
];

/// A message of ours.
struct Message {
    request: FrontendReq,
    need_reply: bool,
    /// Its body, if it has one.
    word: Option<u64>,
    fds: Vec<OwnedFd>,
}

/// Takes the next message if it is one of ours, waiting for all of it. False: it is not, and nothing was read.
///
/// # Errors
/// What ends the session.
pub(crate) fn take(client: &UnixStream, session: &mut Session) -> Result<bool, ProtocolError> {
    let known = peek(client).and_then(|first| {
        let named = |(request, _): &&(FrontendReq, _)| u32::from(*request) == u32::from(first);
        OURS.iter().find(named).filter(|(_, feature)| session.protocol.contains(*feature))
    });
    let Some((request, _)) = known else { return Ok(false) };
    let message = Message::read(client, *request)?;
    let Message { need_reply, .. } = message;
    let answer = message.act(session);
    match answer {
        Ok(Some(word)) => reply(client, *request, word)?,
        ref done if need_reply && session.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) => {
            reply(client, *request, done.is_err().into())?;
        }
        _ => {}
    }
    answer.map(|_| true)
}

/// The first byte of the next message; `None` when there is none, which the crate then finds out for itself.
fn peek(client: &UnixStream) -> Option<u8> {
    let mut first = [0];
    match recv(client.as_raw_fd(), &mut first, MsgFlags::MSG_PEEK) {
        Ok(1) => Some(first[0]),
        _ => None,
    }
}

fn reply(mut client: &UnixStream, request: FrontendReq, word: u64) -> Result<(), ProtocolError> {
    let header = [u32::from(request), VERSION | REPLY, size_of::<u64>() as u32];
    let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend(word.to_ne_bytes());
    client.write_all(&bytes).map_err(ProtocolError::SocketBroken)
}

impl Message {
    /// Reads a message that begins with the code of `request`.
    fn read(mut client: &UnixStream, request: FrontendReq) -> Result<Self, ProtocolError> {
        let mut header = [0; HEADER_BYTES];
        let (count, fds) = receive(client, &mut header)?;
        client.read_exact(&mut header[count..]).map_err(ProtocolError::SocketBroken)?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (code, flags, len_bytes) = (word(0), word(4), word(8) as usize);
        let framed = code == u32::from(request) && flags & VERSION_BITS == VERSION && flags & REPLY == 0;
        if !framed || ![0, BODY_BYTES].contains(&len_bytes) {
            return Err(ProtocolError::InvalidMessage);
        }
        let mut body = [0; BODY_BYTES];
        client.read_exact(&mut body[..len_bytes]).map_err(ProtocolError::SocketBroken)?;
        let word = (len_bytes > 0).then_some(u64::from_ne_bytes(body));
        Ok(Self { request, need_reply: flags & NEED_REPLY != 0, word, fds })
    }

    /// Does what it says. An answer is given where the protocol has one.
    fn act(mut self, session: &mut Session) -> Result<Option<u64>, ProtocolError> {
        match (self.request, self.word, self.fds.pop()) {
            (FrontendReq::GET_STATUS, None, None) => Ok(Some(session.status().into())),
            (FrontendReq::SET_STATUS, Some(status), None) => {
                session.set_status(status)?;
                Ok(None)
            }
            (FrontendReq::SET_BACKEND_REQ_FD, _, Some(fd)) if self.fds.is_empty() => {
                session.set_channel(fd)?;
                Ok(None)
            }
            _ => Err(ProtocolError::InvalidMessage),
        }
    }
}

/// Receives at least one byte of a message, and the descriptors that came with it. More than there is room for, here or in
/// this process, end the session, and those that found a place are closed.
fn receive(client: &UnixStream, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), ProtocolError> {
    let mut raw: [RawFd; MAX_FDS] = [-1; MAX_FDS];
    let mut pieces = [libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
    let (count, fds) = loop {
        // SAFETY: the one piece is `bytes`, borrowed mutably until this returns; whatever is written there is valid.
        match unsafe { client.recv_with_fds(&mut pieces, &mut raw) } {
            Err(e) if e.errno() == libc::EINTR => {}
            received => break received.map_err(|e| ProtocolError::SocketBroken(e.into()))?,
        }
    };
    // SAFETY: the kernel has just made these descriptors for us, and nobody else knows of them.
    let fds = raw[..fds].iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
    if count == 0 { Err(ProtocolError::Disconnected) } else { Ok((count, fds)) }
}
