//! A connected server: its rings set up and ready for load, its connection watched.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vhost::VhostBackend;
use vhost::vhost_user::{Frontend, VhostUserFrontend};

use super::handshake::Steps;
use super::message::set_vring_base;
use crate::ring::layout::Shape;
use crate::ring::rings::{Ring, Rings};
use crate::virtio_blk::MAX_QUEUES;
use crate::{Error, Geometry, RingFormat, RingLane, RingOptions, Target};

/// How long the server may think about one message.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connected server with its rings set up. Dropping it ends the connection.
pub struct VhostUser {
    path: PathBuf,
    frontend: Frontend,
    /// The same connection, for the message that the frontend cannot send.
    socket: UnixStream,
    answers: bool,
    geometry: Geometry,
    rings: Rings,
}

impl VhostUser {
    /// Connects to the server and sets up everything but the load.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Protocol`], [`Error::Feature`], [`Error::RingSize`], [`Error::SharedMemory`],
    /// [`Error::Job`].
    pub fn connect(path: &Path, options: RingOptions) -> Result<Self, Error> {
        let name: Arc<str> = format!("vhost-user:{}", path.display()).into();
        options.check_depth(&name)?;
        let (socket, frontend) = connect(path)?;
        let steps = Steps { path, name: &name };
        let (frontend, offer) = steps.negotiate(frontend, &options)?;
        let (frontend, geometry) = steps.read_config(frontend, &offer)?;
        options.check_queues(&geometry, "the server")?;
        let rings = Rings::new(name.clone(), options.queues, Shape::new(&options, false), offer.event_idx)?;
        steps.share(&frontend, rings.memory())?;
        let (path, answers) = (path.into(), offer.answers);
        let session = Self { path, frontend, socket, answers, geometry, rings };
        session.rings.each().try_for_each(|ring| session.set_up_ring(&ring))?;
        Ok(session)
    }

    fn set_up_ring(&self, ring: &Ring<'_>) -> Result<(), Error> {
        let place = ring.place(|offset| self.rings.memory().user_address(offset));
        let (index, frontend) = (ring.index(), &self.frontend);
        let steps = Steps { path: &self.path, name: &self.geometry.name };
        let refused = |source: vhost::Error| self.rings.size_refused(source.to_string());
        frontend.set_vring_num(index, ring.layout.ring_size).map_err(refused)?;
        frontend.set_vring_addr(index, &place).map_err(steps.failed("set_vring_addr"))?;
        self.set_base(ring.queue).map_err(steps.failed("set_vring_base"))?;
        frontend.set_vring_call(index, ring.events.call_event()).map_err(steps.failed("set_vring_call"))?;
        frontend.set_vring_kick(index, ring.events.kick_event()).map_err(steps.failed("set_vring_kick"))?;
        // Its signature wants a `&mut`, for which there is no need: the frontend is a handle.
        self.frontend.clone().set_vring_enable(index, true).map_err(steps.failed("set_vring_enable"))
    }

    /// Rings start at their beginning.
    fn set_base(&self, queue: u16) -> Result<(), vhost::Error> {
        let format = self.rings.shape().format;
        match format {
            RingFormat::Split => self.frontend.set_vring_base(queue.into(), 0),
            RingFormat::Packed => set_vring_base(&self.socket, self.answers, queue, format.base())
                .map_err(|e| vhost::vhost_user::Error::SocketError(e).into()),
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
        self.rings.open(queue, depth, block_bytes)
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
