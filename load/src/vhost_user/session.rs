//! A connected server: its rings set up and ready for load, its connection watched.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};

use super::handshake::{MAX_QUEUES, Steps};
use super::message::{PACKED_START, set_vring_base};
use crate::ring::events::Events;
use crate::ring::layout::{Layout, MAX_DEPTH, Shape};
use crate::ring::memory::SharedMemory;
use crate::ring::suppress_interrupts;
use crate::{Error, Geometry, RingFormat, RingLane, Target};

/// How long the server may think about one message.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to use a server.
#[derive(Clone, Copy, Debug)]
pub struct VhostUserOptions {
    /// Queues to set up.
    pub queues: u16,
    /// Slots of each, at most 4096. The server may allow fewer: it limits the size of a ring.
    pub depth: u32,
    /// Bytes of each slot.
    pub block_bytes: u32,
    /// The format of the rings.
    pub format: RingFormat,
    /// Whether each request takes one ring entry that names a table, in place of three or four entries.
    pub indirect: bool,
    /// Whether to use EVENT_IDX when it is offered.
    pub event_idx: bool,
}

/// No guest has less memory, and servers may treat small regions in ways of their own.
const MIN_MEMORY_BYTES: usize = 2 << 20;

/// A connected server with its rings set up. Dropping it ends the connection.
pub struct VhostUser {
    path: PathBuf,
    frontend: Frontend,
    /// The same connection, for the message that the frontend cannot send.
    socket: UnixStream,
    answers: bool,
    geometry: Geometry,
    memory: Arc<SharedMemory>,
    shape: Shape,
    event_idx: bool,
    /// One for each queue.
    events: Vec<Events>,
}

impl VhostUser {
    /// Connects to the server and sets up everything but the load.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Protocol`], [`Error::Feature`], [`Error::RingSize`], [`Error::SharedMemory`],
    /// [`Error::Job`].
    pub fn connect(path: &Path, options: VhostUserOptions) -> Result<Self, Error> {
        let name = format!("vhost-user:{}", path.display());
        if options.depth == 0 || options.depth > MAX_DEPTH {
            let (what, why) = (format!("--qd {}", options.depth), format!("allowed: 1 to {MAX_DEPTH}"));
            return Err(Error::Job { target: name, what, why });
        }
        let (socket, frontend) = connect(path)?;
        let steps = Steps { path };
        let (frontend, offer) = steps.negotiate(frontend, &options)?;
        let (frontend, mut geometry) = steps.read_config(frontend, &offer)?;
        geometry.name = name.into();
        if options.queues == 0 || options.queues > geometry.max_queues {
            let why = format!("the server offers {} queue(s)", geometry.max_queues);
            let what = format!("--queues {}", options.queues);
            return Err(Error::Job { target: geometry.name.to_string(), what, why });
        }
        let VhostUserOptions { format, indirect, depth, block_bytes, .. } = options;
        let shape = Shape { format, indirect, depth, block_bytes };
        let len_bytes = Layout::new(options.queues - 1, shape).end.max(MIN_MEMORY_BYTES);
        let memory = Arc::new(SharedMemory::new(len_bytes)?);
        steps.share(&frontend, &memory)?;
        let mut session = Self {
            path: path.into(),
            frontend,
            socket,
            answers: offer.answers,
            geometry,
            memory,
            shape,
            event_idx: offer.event_idx,
            events: Vec::new(),
        };
        for queue in 0..options.queues {
            session.set_up_ring(queue)?;
        }
        Ok(session)
    }

    fn set_up_ring(&mut self, queue: u16) -> Result<(), Error> {
        let layout = Layout::new(queue, self.shape);
        let events = Events::new(self.geometry.name.clone(), queue)?;
        let address = |offset| self.memory.user_address(offset);
        let ring = VringConfigData {
            queue_max_size: layout.ring_size,
            queue_size: layout.ring_size,
            flags: 0,
            desc_table_addr: address(layout.desc),
            used_ring_addr: address(layout.device),
            avail_ring_addr: address(layout.driver),
            log_addr: None,
        };
        // Before the server may look at the ring: no interrupts, please.
        suppress_interrupts(&self.memory, queue, self.shape, self.event_idx);
        let (index, steps, frontend) = (usize::from(queue), Steps { path: &self.path }, &self.frontend);
        frontend.set_vring_num(index, layout.ring_size).map_err(|source| self.size_refused(source))?;
        frontend.set_vring_addr(index, &ring).map_err(steps.failed("set_vring_addr"))?;
        self.set_base(queue)?;
        frontend.set_vring_call(index, events.call_event()).map_err(steps.failed("set_vring_call"))?;
        frontend.set_vring_kick(index, events.kick_event()).map_err(steps.failed("set_vring_kick"))?;
        self.frontend.set_vring_enable(index, true).map_err(steps.failed("set_vring_enable"))?;
        self.events.push(events);
        Ok(())
    }

    /// Rings start at their beginning.
    fn set_base(&self, queue: u16) -> Result<(), Error> {
        let steps = Steps { path: &self.path };
        let failed = steps.failed("set_vring_base");
        match self.shape.format {
            RingFormat::Split => self.frontend.set_vring_base(queue.into(), 0).map_err(failed),
            RingFormat::Packed => set_vring_base(&self.socket, self.answers, queue, PACKED_START)
                .map_err(|e| failed(vhost::vhost_user::Error::SocketError(e).into())),
        }
    }

    fn size_refused(&self, source: vhost::Error) -> Error {
        Error::RingSize {
            path: self.path.clone(),
            entries: self.shape.ring_size(),
            depth: self.shape.depth,
            each: self.shape.entries_per_slot(),
            source: Box::new(source),
        }
    }
}

fn connect(path: &Path) -> Result<(UnixStream, Frontend), Error> {
    let failed = |source| Error::Connect { path: path.into(), source };
    let socket = UnixStream::connect(path).map_err(failed)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    socket.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let same = socket.try_clone().map_err(failed)?;
    Ok((same, Frontend::from_stream(socket, MAX_QUEUES.into())))
}

impl Target for VhostUser {
    type Lane = RingLane;

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn open(&self, queue: u16, depth: u32, block_bytes: u32) -> Result<RingLane, Error> {
        let events = self.events.get(usize::from(queue)).ok_or_else(|| Error::Event {
            target: self.geometry.name.to_string(),
            queue,
            source: io::Error::other("the queue was not set up"),
        })?;
        // The rings were set up for as much; asking for less would move what lies behind them.
        debug_assert_eq!((depth, block_bytes), (self.shape.depth, self.shape.block_bytes));
        Ok(RingLane::new(self.memory.clone(), queue, self.shape, events.try_clone()?, self.event_idx))
    }

    fn check(&self) -> Result<(), Error> {
        // SAFETY: the frontend owns the socket and lives as long as `self`.
        let socket = unsafe { BorrowedFd::borrow_raw(self.frontend.as_raw_fd()) };
        let mut fds = [PollFd::new(socket, PollFlags::empty())];
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(1..) if fds[0].revents().is_some_and(|events| events.intersects(gone)) => {
                Err(Error::Gone { target: self.geometry.name.to_string() })
            }
            _ => Ok(()),
        }
    }
}
