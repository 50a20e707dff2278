//! The vDPA bus's management over generic netlink: puts a VDUSE device on the bus and takes it off.
//!
//! Contract: the kernel carries a command out *inside* the call that sends it. With a bus driver that probes at once,
//! that includes control messages and I/O to the very device, so the caller must not be the thread that serves them,
//! and no socket time-out bounds it: each command runs on a thread of its own and is given up after a while.
//! While one command runs, the kernel holds off every other one on this machine.

use std::sync::mpsc;
use std::time::Duration;

use neli::consts::genl::{Cmd, CtrlAttr, CtrlCmd, NlAttrType};
use neli::consts::nl::{GenlId, NlmF, NlmsgerrAttr};
use neli::consts::socket::NlFamily;
use neli::genl::{AttrTypeBuilder, Genlmsghdr, GenlmsghdrBuilder, NlattrBuilder, NoUserHeader};
use neli::nl::{NlPayload, Nlmsghdr, NlmsghdrBuilder};
use neli::socket::synchronous::NlSocketHandle;
use neli::types::{Buffer, GenlBuffer};
use neli::utils::Groups;
use nix::errno::Errno;

use crate::Error;
use crate::control::check_name;

const FAMILY: &str = "vdpa";
/// The management device under which every VDUSE device lives.
const MGMTDEV: &str = "vduse";

/// `enum vdpa_command`.
#[neli::neli_enum(serialized_type = "u8")]
enum Command {
    DevNew = 3,
    DevDel = 4,
}
impl Cmd for Command {}

/// `enum vdpa_attr`.
#[neli::neli_enum(serialized_type = "u16")]
enum Attr {
    MgmtdevDevName = 2,
    DevName = 4,
}
impl NlAttrType for Attr {}

/// Puts the device on the bus. Its VDUSE device of the same name must exist, with every queue set up.
///
/// # Errors
/// [`Error::Vdpa`]; [`Error::NoVdpa`]; [`Error::TimedOut`]: the command goes on in the background.
pub(crate) fn add(name: &str, timeout: Duration) -> Result<(), Error> {
    run(name, timeout, Command::DevNew, "attach it to").map(drop)
}

/// Takes the device off the bus; its driver lets go of it first. `false`: it was not there.
///
/// # Errors
/// As [`add`].
pub(crate) fn delete(name: &str, timeout: Duration) -> Result<bool, Error> {
    match run(name, timeout, Command::DevDel, "detach it from") {
        Ok(()) => Ok(true),
        Err(Error::Vdpa { source: Errno::ENODEV, .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether devices can be put on the bus at all, as far as a look can tell.
///
/// # Errors
/// [`Error::NoVdpa`]: the module is missing, or this network namespace is not the host's.
pub(crate) fn check(timeout: Duration) -> Result<(), Error> {
    bounded("(any)", "a look at the vDPA bus", timeout, || {
        connect()
            .and_then(|socket| family_id(&socket, FAMILY))
            .map(drop)
            .map_err(|e| e.about("(any)", "look at"))
    })
}

fn run(name: &str, timeout: Duration, command: Command, action: &'static str) -> Result<(), Error> {
    check_name(name)?;
    let device = name.to_owned();
    bounded(name, "a command to the vDPA bus", timeout, move || {
        converse(&device, command).map_err(|failure| failure.about(&device, action))
    })
}

/// Runs a call that waits in the kernel, perhaps for ever, and gives up waiting for it after `timeout`. The thread
/// stays behind then; it ends when the kernel lets it go.
pub(crate) fn bounded<T: Send + 'static>(
    name: &str,
    action: &'static str,
    timeout: Duration,
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    bounded_while(name, action, timeout, &|| 0, call)
}

/// As [`bounded`], but gives up only when `progress` has stayed the same for `idle_timeout`.
pub(crate) fn bounded_while<T: Send + 'static>(
    name: &str,
    action: &'static str,
    idle_timeout: Duration,
    progress: &dyn Fn() -> u64,
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("vdpa".into())
        .spawn(move || {
            // Nobody listens any more after the time-out.
            let _ = sender.send(call());
        })
        .map_err(|source| Error::Thread { name: name.into(), action, source })?;
    loop {
        let before = progress();
        match receiver.recv_timeout(idle_timeout) {
            Ok(outcome) => return outcome,
            Err(mpsc::RecvTimeoutError::Timeout) if progress() != before => {}
            Err(_) => return Err(Error::TimedOut { name: name.into(), action, timeout: idle_timeout }),
        }
    }
}

#[derive(Debug)]
enum Failure {
    NoFamily,
    Refused(Errno, Option<String>),
    Socket(String),
}

impl Failure {
    fn about(self, name: &str, action: &'static str) -> Error {
        let name = name.into();
        match self {
            Self::NoFamily => Error::NoVdpa,
            Self::Refused(source, message) => Error::Vdpa { name, action, source, message },
            Self::Socket(reason) => Error::Netlink { name, reason },
        }
    }
}

/// neli has an error type for every step; what a user can do about any of them is the same.
fn socket_failure(error: impl std::fmt::Display) -> Failure {
    Failure::Socket(error.to_string())
}

fn converse(name: &str, command: Command) -> Result<(), Failure> {
    let socket = connect()?;
    let family = family_id(&socket, FAMILY)?;
    let mut attrs = vec![(Attr::DevName, name)];
    if command == Command::DevNew {
        attrs.push((Attr::MgmtdevDevName, MGMTDEV));
    }
    request(&socket, family, command, &attrs).map(drop)
}

fn connect() -> Result<NlSocketHandle, Failure> {
    let socket = NlSocketHandle::connect(NlFamily::Generic, None, Groups::empty()).map_err(socket_failure)?;
    // Without it errors carry a number only; no reason to fail.
    let _ = socket.enable_ext_ack(true);
    Ok(socket)
}

/// The number that the kernel gave the family `name`.
fn family_id(socket: &NlSocketHandle, name: &str) -> Result<u16, Failure> {
    let answer = request(socket, GenlId::Ctrl.into(), CtrlCmd::Getfamily, &[(CtrlAttr::FamilyName, name)]);
    let answer = answer.map_err(|failure| match failure {
        Failure::Refused(Errno::ENOENT, _) => Failure::NoFamily,
        other => other,
    })?;
    let answer = answer.ok_or_else(|| socket_failure("no answer to a family request"))?;
    answer.attrs().get_attr_handle().get_attr_payload_as(CtrlAttr::FamilyId).map_err(socket_failure)
}

/// Sends one command with string attributes; gives the kernel's answer, if it sent one beside the acknowledgement.
fn request<C, A>(
    socket: &NlSocketHandle,
    family: u16,
    command: C,
    attrs: &[(A, &str)],
) -> Result<Option<Genlmsghdr<C, A>>, Failure>
where
    C: Cmd + std::fmt::Debug,
    A: NlAttrType + std::fmt::Debug,
{
    socket.send(&encode(family, command, attrs)?).map_err(socket_failure)?;
    let mut answer = None;
    loop {
        let (messages, _) = socket.recv::<u16, Genlmsghdr<C, A>>().map_err(socket_failure)?;
        for message in messages {
            match message.map_err(socket_failure)?.nl_payload() {
                NlPayload::Payload(payload) => answer = Some(payload.clone()),
                NlPayload::Ack(_) => return Ok(answer),
                NlPayload::Err(refusal) => {
                    return Err(Failure::Refused(
                        Errno::from_raw(-refusal.error()),
                        explanation(refusal.ext_ack()),
                    ));
                }
                _ => {}
            }
        }
    }
}

/// The kernel's sentence about an error (extended acknowledgement).
fn explanation(attrs: &GenlBuffer<NlmsgerrAttr, Buffer>) -> Option<String> {
    let message = attrs.iter().find(|attr| *attr.nla_type().nla_type() == NlmsgerrAttr::Msg)?;
    Some(String::from_utf8_lossy(message.nla_payload().as_ref()).trim_end_matches('\0').into())
}

fn encode<C: Cmd, A: NlAttrType>(
    family: u16,
    command: C,
    attrs: &[(A, &str)],
) -> Result<Nlmsghdr<u16, Genlmsghdr<C, A>>, Failure> {
    let mut buffer = GenlBuffer::new();
    for &(attr, value) in attrs {
        let kind = AttrTypeBuilder::default().nla_type(attr).build().map_err(socket_failure)?;
        // neli ends a string with the NUL that the kernel expects.
        buffer.push(
            NlattrBuilder::default().nla_type(kind).nla_payload(value).build().map_err(socket_failure)?,
        );
    }
    let payload = GenlmsghdrBuilder::<C, A, NoUserHeader>::default()
        .cmd(command)
        .version(1)
        .attrs(buffer)
        .build()
        .map_err(socket_failure)?;
    NlmsghdrBuilder::default()
        .nl_type(family)
        .nl_flags(NlmF::REQUEST | NlmF::ACK)
        .nl_payload(NlPayload::Payload(payload))
        .build()
        .map_err(socket_failure)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use neli::ToBytes;

    use super::*;

    #[test]
    fn a_command_has_the_kernels_layout() {
        let message =
            encode(0x1234, Command::DevNew, &[(Attr::DevName, "d0"), (Attr::MgmtdevDevName, MGMTDEV)]);
        let mut bytes = Cursor::new(Vec::new());
        message.unwrap().to_bytes(&mut bytes).unwrap();
        let bytes = bytes.into_inner();
        assert_eq!(bytes.len(), 40);
        assert_eq!(bytes[..4], 40u32.to_ne_bytes());
        assert_eq!(bytes[4..6], 0x1234u16.to_ne_bytes());
        assert_eq!(bytes[6..8], 5u16.to_ne_bytes(), "REQUEST | ACK");
        assert_eq!(bytes[16..18], [3, 1], "DEV_NEW, version 1");
        assert_eq!(bytes[20..28], [7, 0, 4, 0, b'd', b'0', 0, 0]);
        assert_eq!(bytes[28..38], [10, 0, 2, 0, b'v', b'd', b'u', b's', b'e', 0]);
    }

    #[test]
    fn a_call_that_does_not_come_back_is_given_up() {
        let (hold, held) = mpsc::channel::<()>();
        let error = bounded("d0", "waiting", Duration::from_millis(20), move || {
            let _ = held.recv();
            Ok(())
        });
        assert!(matches!(error, Err(Error::TimedOut { .. })));
        drop(hold);
        assert_eq!(bounded("d0", "nothing", Duration::from_secs(20), || Ok(7)).unwrap(), 7);
    }

    #[test]
    fn the_kernels_controller_answers() {
        // A sandbox may forbid netlink; then there is nothing to ask.
        let Ok(socket) = connect() else { return };
        assert_eq!(family_id(&socket, "nlctrl").unwrap(), u16::from(GenlId::Ctrl));
        assert!(matches!(family_id(&socket, "no-such-family"), Err(Failure::NoFamily)));
    }
}
