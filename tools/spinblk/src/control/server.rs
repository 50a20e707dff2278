//! The control thread: waits for all clients at once and gives each its turn.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use spinblk_reactor::off_reactor_cores;
use tracing::{debug, warn};

use super::changes::Changes;
use super::connection::Connection;
use super::listener::{Bound, Listener};
use super::state::{State, lock};
use crate::Error;

/// A pause after an error, so that one that stays does not make the loop spin.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients of the control socket at a time; more wait until one leaves.
    pub clients: usize,
    /// Connections for metrics at a time.
    pub scrapers: usize,
    /// How long half a request is kept.
    pub partial: Duration,
    /// How long a client may leave an answer unread.
    pub stalled: Duration,
    /// The longest request.
    pub request_bytes: usize,
    /// The longest answer.
    pub answer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 128,
            scrapers: 16,
            partial: Duration::from_secs(30),
            stalled: Duration::from_secs(30),
            request_bytes: 1 << 20,
            answer_bytes: 16 << 20,
        }
    }
}

/// The running control thread. Dropping ends it and removes the sockets.
pub struct Control {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts answering on sockets that are bound, away from `polled_cores`. `None` where there is none.
    ///
    /// # Errors
    /// [`Error::ControlThread`].
    pub fn start(
        bound: Bound,
        state: State,
        polled_cores: &[usize],
        limits: Limits,
    ) -> Result<Option<Self>, Error> {
        let Bound { control, metrics } = bound;
        if control.is_none() && metrics.is_none() {
            return Ok(None);
        }
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| Error::ControlThread(e.into()))?;
        let (wake, stop) = (Arc::new(wake), Arc::new(AtomicBool::new(false)));
        // A bell that nobody rings keeps the place of one that is not there.
        let done = state.changes.as_ref().map_or_else(|| Arc::clone(&wake), Changes::bell);
        let state = Arc::new(Mutex::new(state));
        let server = Server {
            control,
            metrics,
            connections: Vec::new(),
            state: Arc::clone(&state),
            limits,
            stop: Arc::clone(&stop),
            wake: Arc::clone(&wake),
            done,
        };
        let cores = polled_cores.to_vec();
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            off_reactor_cores(&cores);
            server.run();
        });
        Ok(Some(Self { state, stop, wake, thread: Some(thread.map_err(Error::ControlThread)?) }))
    }

    /// Whether it still answers; it ends by itself only in a panic.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// What it knows, for whoever changes that. To be held for a moment only: clients wait.
    pub(crate) fn state(&self) -> Arc<Mutex<State>> {
        Arc::clone(&self.state)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Fails only when it is awake for that reason already.
        let _ = self.wake.write(1);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("the control thread had ended in a panic");
        }
    }
}

struct Server {
    control: Option<Listener>,
    metrics: Option<Listener>,
    connections: Vec<Connection>,
    state: Arc<Mutex<State>>,
    limits: Limits,
    stop: Arc<AtomicBool>,
    wake: Arc<EventFd>,
    /// Rings when a change is made.
    done: Arc<EventFd>,
}

impl Server {
    fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            let mut happened = self.wait().into_iter();
            let mut next = || happened.next().unwrap_or(false);
            let (_wake, done, control, metrics) = (next(), next(), next(), next());
            let (mut state, limits) = (lock(&self.state), &self.limits);
            self.connections.retain_mut(|connection| {
                let due = next() || connection.is_ready();
                !due || connection.turn(&mut state, limits)
            });
            drop(state);
            if done {
                self.finish_changes();
            }
            let now = Instant::now();
            self.connections.retain(|connection| {
                let late = connection.deadline(&self.limits).is_some_and(|deadline| deadline <= now);
                if late {
                    debug!("a client of the control socket took too long and is dropped");
                }
                !late
            });
            if control {
                self.accept(false);
            }
            if metrics {
                self.accept(true);
            }
        }
        // The change that was being made when the end came has an outcome by now.
        self.finish_changes();
    }

    /// Gives outcomes to the clients that wait for them; one that has left misses its own.
    fn finish_changes(&mut self) {
        while let Some((ticket, outcome)) = lock(&self.state).changes.as_ref().and_then(Changes::done) {
            let found = self.connections.iter().position(|connection| connection.waits_for(ticket));
            let Some(at) = found else { continue };
            if !self.connections[at].finish(outcome, &self.limits) {
                self.connections.remove(at);
            }
        }
    }

    /// Waits until something happens or is late; says of both eventfds, both listeners and each connection whether
    /// something happened to it.
    fn wait(&self) -> Vec<bool> {
        let timeout = self.timeout();
        let bells = [&self.wake, &self.done];
        let mut fds: Vec<_> = bells.iter().map(|bell| PollFd::new(bell.as_fd(), PollFlags::POLLIN)).collect();
        for (listener, is_http) in [(&self.control, false), (&self.metrics, true)] {
            // One that is not to be accepted from stands for nothing, and the eventfd keeps its place.
            let open = listener.as_ref().filter(|_| self.has_room(is_http));
            fds.push(match open {
                Some(listener) => PollFd::new(listener.as_fd(), PollFlags::POLLIN),
                None => PollFd::new(self.wake.as_fd(), PollFlags::empty()),
            });
        }
        for connection in &self.connections {
            fds.push(PollFd::new(connection.as_fd(), connection.interest()));
        }
        match poll(&mut fds, timeout) {
            Ok(_) => fds.iter().map(|fd| fd.any().unwrap_or(true)).collect(),
            Err(nix::errno::Errno::EINTR) => vec![false; fds.len()],
            Err(e) => {
                warn!("control socket: poll: {e}");
                std::thread::sleep(ERROR_PAUSE);
                vec![false; fds.len()]
            }
        }
    }

    fn timeout(&self) -> PollTimeout {
        if self.connections.iter().any(Connection::is_ready) {
            return PollTimeout::ZERO;
        }
        let deadlines = self.connections.iter().filter_map(|connection| connection.deadline(&self.limits));
        let Some(first) = deadlines.min() else { return PollTimeout::NONE };
        // A moment more, so that it has passed when the wait is over.
        let left = first.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn has_room(&self, is_http: bool) -> bool {
        let most = if is_http { self.limits.scrapers } else { self.limits.clients };
        self.connections.iter().filter(|connection| connection.is_http() == is_http).count() < most
    }

    fn accept(&mut self, is_http: bool) {
        while self.has_room(is_http) {
            let listener = if is_http { &self.metrics } else { &self.control };
            match listener.as_ref().map(Listener::accept) {
                Some(Ok(Some(stream))) if is_http => self.connections.push(Connection::http(stream)),
                Some(Ok(Some(stream))) => self.connections.push(Connection::rpc(stream, &self.limits)),
                Some(Err(e)) => {
                    // Most likely no descriptors are left: give others time to return some.
                    warn!("control socket: cannot accept a client: {e}");
                    return std::thread::sleep(ERROR_PAUSE);
                }
                Some(Ok(None)) | None => return,
            }
        }
    }
}
