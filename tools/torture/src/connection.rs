//! The connection to a server, and what is left of it when the server is gone.
//!
//! ```text
//!   first     features ─► GET_INFLIGHT_FD ─► log kept ─┐
//!   again     the same features, or an error           ├─► SET_INFLIGHT_FD ─► SET_MEM_TABLE ─► each ring where it stands
//! ```
//! A split ring stands at the index in its used ring, as QEMU has it: what lies between that and the index that the dead server
//! had come to is in its log. Where a packed ring stands is in the log alone.

use crate::error::Error;
use crate::memory::Memory;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{
    VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures as Protocol, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// For one answer. A server that is frozen answers later than that; then the next try finds it.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// From one server to the next.
const ABSENCE_LIMIT: Duration = Duration::from_secs(90);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(2);
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
const NEEDED_PROTOCOL: Protocol = Protocol::MQ.union(Protocol::REPLY_ACK).union(Protocol::INFLIGHT_SHMFD);

/// One ring, as servers are told of it.
pub(crate) struct Ring {
    /// Entries.
    pub(crate) size: u16,
    /// Offsets in the memory.
    pub(crate) desc: usize,
    pub(crate) driver: usize,
    pub(crate) device: usize,
    kick: EventFd,
    call: EventFd,
}

impl Ring {
    pub(crate) fn new(size: u16, desc: usize, driver: usize, device: usize) -> Result<Ring, Error> {
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(Error::system("eventfd"));
        Ok(Ring { size, desc, driver, device, kick: event()?, call: event()? })
    }

    /// Wakes the server.
    pub(crate) fn kick(&self) -> Result<(), Error> {
        self.kick.write(1).map_err(Error::system("write a kick"))
    }

    /// Whether the server has interrupted since the last question.
    pub(crate) fn was_called(&self) -> bool {
        self.call.read().is_ok()
    }

    fn called(&self) -> BorrowedFd<'_> {
        // SAFETY: `call` owns the descriptor and is borrowed for as long.
        unsafe { BorrowedFd::borrow_raw(self.call.as_raw_fd()) }
    }
}

/// See the head of this module.
pub(crate) struct Connection {
    socket: PathBuf,
    /// Features of the device, agreed on with every server.
    features: u64,
    packed: bool,
    memory: Arc<Memory>,
    rings: Vec<Ring>,
    log: Option<(VhostUserInflight, File)>,
    /// The present server and the socket to it, if there is one.
    server: Option<(Frontend, UnixStream)>,
}

impl Connection {
    /// Connects to the first server.
    pub(crate) fn open(
        socket: PathBuf,
        features: u64,
        packed: bool,
        memory: Arc<Memory>,
        rings: Vec<Ring>,
    ) -> Result<Connection, Error> {
        let mut connection = Connection { socket, features, packed, memory, rings, log: None, server: None };
        connection.connect()?;
        Ok(connection)
    }

    pub(crate) fn rings(&self) -> &[Ring] {
        &self.rings
    }

    /// Waits for an interrupt, for so long at most; false if the server has gone away instead.
    pub(crate) fn wait(&self, limit: Duration) -> Result<bool, Error> {
        let Some((_, socket)) = &self.server else { return Ok(false) };
        let mut fds = vec![PollFd::new(socket.as_fd(), PollFlags::empty())];
        fds.extend(self.rings.iter().map(|ring| PollFd::new(ring.called(), PollFlags::POLLIN)));
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, limit) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(Error::system("poll")(e.into())),
        }
        // The socket is asked for nothing, so an event there is its end.
        Ok(fds[0].any() != Some(true))
    }

    /// Connects to the next server, as soon as there is one.
    pub(crate) fn connect_again(&mut self) -> Result<(), Error> {
        self.server = None;
        let deadline = Instant::now() + ABSENCE_LIMIT;
        while let Err(error) = self.connect() {
            if Instant::now() >= deadline {
                let (socket, limit_s) = (self.socket.clone(), ABSENCE_LIMIT.as_secs());
                return Err(Error::Gone { socket, limit_s, last: Box::new(error) });
            }
            // A server that agrees to something else will not change its mind.
            if matches!(error, Error::Wrong(_)) {
                return Err(error);
            }
            std::thread::sleep(RETRY);
        }
        // What came while nobody was there.
        self.rings.iter().try_for_each(Ring::kick)
    }

    fn connect(&mut self) -> Result<(), Error> {
        let open = |source| Error::File { action: "connect to", path: self.socket.clone(), source };
        let socket = UnixStream::connect(&self.socket).map_err(open)?;
        let limit = Error::system("limit the time of an answer");
        socket
            .set_read_timeout(Some(ANSWER_LIMIT))
            .and_then(|()| socket.set_write_timeout(Some(ANSWER_LIMIT)))
            .map_err(limit)?;
        let same = socket.try_clone().map_err(Error::system("duplicate a socket"))?;
        let mut frontend = Frontend::from_stream(same, self.rings.len() as u64);
        self.agree(&mut frontend)?;
        self.share(&mut frontend)?;
        for index in 0..self.rings.len() {
            self.start_ring(&mut frontend, index)?;
        }
        self.server = Some((frontend, socket));
        Ok(())
    }

    fn agree(&self, frontend: &mut Frontend) -> Result<(), Error> {
        step("SET_OWNER", frontend.set_owner())?;
        let (offered, wanted) =
            (step("GET_FEATURES", frontend.get_features())?, self.features | PROTOCOL_FEATURES);
        let protocol = step("GET_PROTOCOL_FEATURES", frontend.get_protocol_features())?;
        if offered & wanted != wanted || !protocol.contains(NEEDED_PROTOCOL) {
            let socket = self.socket.display();
            return Err(Error::Wrong(format!(
                "{socket} offers {offered:#x} and {protocol:?}, which lacks something"
            )));
        }
        step("SET_PROTOCOL_FEATURES", frontend.set_protocol_features(NEEDED_PROTOCOL))?;
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        step("SET_FEATURES", frontend.set_features(wanted))
    }

    fn share(&mut self, frontend: &mut Frontend) -> Result<(), Error> {
        if self.log.is_none() {
            let size = self.rings.iter().map(|ring| ring.size).max().unwrap_or(0);
            let wanted = VhostUserInflight::new(0, 0, self.rings.len() as u16, size);
            self.log = Some(step("GET_INFLIGHT_FD", frontend.get_inflight_fd(&wanted))?);
        }
        if let Some((about, file)) = &self.log {
            step("SET_INFLIGHT_FD", frontend.set_inflight_fd(about, file.as_raw_fd()))?;
        }
        step("SET_MEM_TABLE", frontend.set_mem_table(&[self.memory.region()])).map(drop)
    }

    fn start_ring(&self, frontend: &mut Frontend, index: usize) -> Result<(), Error> {
        let ring = &self.rings[index];
        let place = VringConfigData {
            queue_max_size: ring.size,
            queue_size: ring.size,
            flags: 0,
            desc_table_addr: self.memory.address(ring.desc),
            used_ring_addr: self.memory.address(ring.device),
            avail_ring_addr: self.memory.address(ring.driver),
            log_addr: None,
        };
        step("SET_VRING_NUM", frontend.set_vring_num(index, ring.size))?;
        step("SET_VRING_ADDR", frontend.set_vring_addr(index, &place))?;
        // The used ring's index stands behind its flags.
        let base = if self.packed { 0 } else { self.memory.word(ring.device + 2) };
        step("SET_VRING_BASE", frontend.set_vring_base(index, base))?;
        step("SET_VRING_CALL", frontend.set_vring_call(index, &ring.call))?;
        step("SET_VRING_KICK", frontend.set_vring_kick(index, &ring.kick))?;
        step("SET_VRING_ENABLE", frontend.set_vring_enable(index, true))
    }
}

fn step<T>(step: &'static str, result: vhost::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Protocol { step, source })
}
