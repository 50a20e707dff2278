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
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::handshake::{MAX_QUEUES, Steps};
use super::layout::{Layout, MAX_DEPTH};
use super::memory::SharedMemory;
use super::split::SplitLane;
use crate::{Error, Geometry, Target};

/// How long the server may think about one message.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to use a server.
#[derive(Clone, Copy, Debug)]
pub struct VhostUserOptions {
    /// Queues to set up.
    pub queues: u16,
    /// Slots of each, at most 256.
    pub depth: u32,
    /// Bytes of each slot.
    pub block_bytes: u32,
    /// Whether to use EVENT_IDX when it is offered.
    pub event_idx: bool,
}

/// A connected server with its rings set up. Dropping it ends the connection.
pub struct VhostUser {
    path: PathBuf,
    frontend: Frontend,
    geometry: Geometry,
    memory: Arc<SharedMemory>,
    event_idx: bool,
    /// For each queue: the one that wakes the device, and the one that it would wake us with.
    events: Vec<(EventFd, EventFd)>,
}

impl VhostUser {
    /// Connects to the server and sets up everything but the load.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Protocol`], [`Error::Feature`], [`Error::SharedMemory`], [`Error::Job`].
    pub fn connect(path: &Path, options: VhostUserOptions) -> Result<Self, Error> {
        let name = format!("vhost-user:{}", path.display());
        if options.depth == 0 || options.depth > MAX_DEPTH {
            let (what, why) = (format!("--qd {}", options.depth), format!("allowed: 1 to {MAX_DEPTH}"));
            return Err(Error::Job { target: name, what, why });
        }
        let connect_failed = |source| Error::Connect { path: path.into(), source };
        let socket = UnixStream::connect(path).map_err(connect_failed)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(connect_failed)?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(connect_failed)?;
        let frontend = Frontend::from_stream(socket, MAX_QUEUES.into());
        let steps = Steps { path };
        let (frontend, offer) = steps.negotiate(frontend, options.event_idx)?;
        let (frontend, mut geometry) = steps.read_config(frontend, &offer)?;
        geometry.name = name.into();
        if options.queues == 0 || options.queues > geometry.max_queues {
            let why = format!("the server offers {} queue(s)", geometry.max_queues);
            let what = format!("--queues {}", options.queues);
            return Err(Error::Job { target: geometry.name.to_string(), what, why });
        }
        let last = Layout::new(options.queues - 1, options.depth, options.block_bytes);
        let memory = Arc::new(SharedMemory::new(last.end)?);
        steps.share(&frontend, &memory)?;
        let mut session = Self {
            path: path.into(),
            frontend,
            geometry,
            memory,
            event_idx: offer.event_idx,
            events: Vec::new(),
        };
        for queue in 0..options.queues {
            session.set_up_ring(queue, options)?;
        }
        Ok(session)
    }

    fn set_up_ring(&mut self, queue: u16, options: VhostUserOptions) -> Result<(), Error> {
        let layout = Layout::new(queue, options.depth, options.block_bytes);
        let event = || {
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|source| Error::Event {
                target: self.geometry.name.to_string(),
                queue,
                source,
            })
        };
        let (kick, call) = (event()?, event()?);
        let address = |offset| self.memory.user_address(offset);
        let ring = VringConfigData {
            queue_max_size: layout.ring_size,
            queue_size: layout.ring_size,
            flags: 0,
            desc_table_addr: address(layout.desc),
            used_ring_addr: address(layout.used),
            avail_ring_addr: address(layout.avail),
            log_addr: None,
        };
        // Before the server may look at the ring: no interrupts, please.
        SplitLane::suppress_interrupts(&self.memory, &layout, self.event_idx);
        let (index, steps) = (usize::from(queue), Steps { path: &self.path });
        let frontend = &mut self.frontend;
        frontend.set_vring_num(index, layout.ring_size).map_err(steps.failed("set_vring_num"))?;
        frontend.set_vring_addr(index, &ring).map_err(steps.failed("set_vring_addr"))?;
        frontend.set_vring_base(index, 0).map_err(steps.failed("set_vring_base"))?;
        frontend.set_vring_call(index, &call).map_err(steps.failed("set_vring_call"))?;
        frontend.set_vring_kick(index, &kick).map_err(steps.failed("set_vring_kick"))?;
        frontend.set_vring_enable(index, true).map_err(steps.failed("set_vring_enable"))?;
        self.events.push((kick, call));
        Ok(())
    }
}

impl Target for VhostUser {
    type Lane = SplitLane;

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn open(&self, queue: u16, depth: u32, block_bytes: u32) -> Result<SplitLane, Error> {
        let event_failed =
            |source: io::Error| Error::Event { target: self.geometry.name.to_string(), queue, source };
        let (kick, _) = self
            .events
            .get(usize::from(queue))
            .ok_or_else(|| event_failed(io::Error::other("the queue was not set up")))?;
        let kick = kick.try_clone().map_err(event_failed)?;
        let layout = Layout::new(queue, depth, block_bytes);
        Ok(SplitLane::new(
            self.geometry.name.clone(),
            queue,
            self.memory.clone(),
            layout,
            self.event_idx,
            kick,
        ))
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
