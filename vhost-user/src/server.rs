//! One disk on a unix socket, from start to stop, and the control thread between.
//!
//! ```text
//!   socket ──accept──► client ──messages──► Session        (one client at a time, then the next)
//!   reactors ──events──────────────────────►   │
//!   Server::stop ──flag, wake, shutdown───► ends
//! ```
//! Waiting is always for all of them at once, except inside a message that is half read; [`Server::stop`] shuts the
//! connection down, which ends that wait too.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_queue::ArrayQueue;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use spinblk_bdev::Bdev;
use spinblk_reactor::{Handle, off_reactor_cores};
use tracing::{error, info, warn};
use vhost::vhost_user::{BackendReqHandler, Error as ProtocolError};

use crate::call::Events;
use crate::config::{DiskReport, QueueReport, RingOptions, ServerConfig, check};
use crate::session::Session;
use crate::socket::Listener;
use crate::{Error, aside};

/// A queue has one open question at a time and breaks once; a message may restart it before its events are taken.
const EVENTS_PER_QUEUE: usize = 4;

/// A disk that is being served.
pub struct Server {
    config: ServerConfig,
    shared: Arc<Shared>,
    queues: Vec<QueueReport>,
    thread: Option<JoinHandle<DiskReport>>,
}

/// What the control thread and whoever stops it have in common.
struct Shared {
    stop: AtomicBool,
    events: Arc<Events>,
    /// Set while there is a client.
    attached: Arc<AtomicBool>,
    /// The client's connection.
    client: Mutex<Option<UnixStream>>,
}

impl Server {
    /// Serves `bdev` on the socket, by `reactors`. Returns when it listens.
    ///
    /// # Errors
    /// [`Error`]; nothing is left behind.
    pub fn start(config: ServerConfig, bdev: Arc<dyn Bdev>, reactors: &[Arc<Handle>]) -> Result<Self, Error> {
        Self::start_offering(RingOptions::default(), config, bdev, reactors)
    }

    /// As [`start`](Self::start), with a choice of what is offered.
    ///
    /// # Errors
    /// [`Error`]; nothing is left behind.
    pub fn start_offering(
        rings: RingOptions,
        config: ServerConfig,
        bdev: Arc<dyn Bdev>,
        reactors: &[Arc<Handle>],
    ) -> Result<Self, Error> {
        check(&config, reactors)?;
        let listener = Listener::bind(&config.name, &config.socket)?;
        let events = events(&config)?;
        let session = Session::new(&config, rings, bdev, reactors, Arc::clone(&events));
        let queues = session.queue_reports();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            events,
            attached: Arc::default(),
            client: Mutex::new(None),
        });
        let control = Control {
            config: config.clone(),
            shared: Arc::clone(&shared),
            listener,
            session: Arc::new(Mutex::new(session)),
            clients: 0,
        };
        let thread = std::thread::Builder::new()
            .name(format!("vhost-{}", config.name))
            .spawn(move || control.run())
            .map_err(|source| thread_error(&config, "its control thread", source))?;
        Ok(Self { config, shared, queues, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &std::path::Path {
        &self.config.socket
    }

    /// Its queues, whose boards may be read at any time.
    #[must_use]
    pub fn queues(&self) -> &[QueueReport] {
        &self.queues
    }

    /// Set while a client has it.
    #[must_use]
    pub fn attached(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shared.attached)
    }

    /// Whether its control thread still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Has the client read the configuration space again, with the capacity that the bdev has now, if it is there and gave a channel to be told on. Returns at once,
    /// whatever the client and the control thread are at.
    pub fn announce_config_change(&self) {
        self.shared.events.config_changed.store(true, Ordering::Release);
        self.shared.events.wake();
    }

    /// Ends the client's session, drains, removes the socket, and reports.
    #[must_use]
    pub fn stop(mut self) -> DiskReport {
        self.take_down()
    }

    fn take_down(&mut self) -> DiskReport {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.events.wake();
        // After the flag: the control thread looks at it once more when it has put a client there.
        if let Some(client) = &*lock(&self.shared.client) {
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
        let (name, socket) = (self.config.name.clone(), self.config.socket.clone());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(report)) => report,
            _ => {
                let problems = vec![format!("disk {name}: its control thread ended in a panic")];
                DiskReport { name, socket, clients: 0, queues: Vec::new(), problems }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() {
            for problem in self.take_down().problems {
                warn!("{problem}");
            }
        }
    }
}

/// The control thread.
struct Control {
    config: ServerConfig,
    shared: Arc<Shared>,
    listener: Listener,
    session: Arc<Mutex<Session>>,
    clients: u64,
}

impl Control {
    fn run(mut self) -> DiskReport {
        off_reactor_cores(&self.config.polled_cores);
        while !self.stopping() {
            wait(&[self.listener.as_fd(), self.shared.events.wake.as_fd()]);
            lock(&self.session).take_events();
            match self.listener.accept() {
                Ok(Some(client)) if !self.stopping() => self.serve(client),
                Ok(_) => {}
                Err(e) => {
                    // Most likely no descriptors are left: give others time to return some.
                    warn!("{}: cannot accept a client: {e}", self.who());
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            }
        }
        let (queues, problems) = lock(&self.session).report();
        let Self { config: ServerConfig { name, socket, .. }, clients, .. } = self;
        DiskReport { name, socket, clients, queues, problems }
    }

    /// One client, from its first message to the last.
    fn serve(&mut self, client: UnixStream) {
        let copy = client.try_clone().map_err(|e| thread_error(&self.config, "its connection", e));
        match copy.and_then(|copy| lock(&self.session).begin().map(|()| copy)) {
            Ok(copy) => *lock(&self.shared.client) = Some(copy),
            Err(e) => {
                error!("{}: a client is turned away: {e}", self.who());
                return;
            }
        }
        self.clients += 1;
        self.shared.attached.store(true, Ordering::Relaxed);
        info!("{}: a client has connected", self.who());
        match self.exchange(client) {
            Ok(()) | Err(ProtocolError::Disconnected) => info!("{}: the client has left", self.who()),
            Err(ProtocolError::ReqHandlerError(e)) => warn!("{}: session ended: {e}", self.who()),
            Err(e) => warn!("{}: session ended by the client's message: {e}", self.who()),
        }
        *lock(&self.shared.client) = None;
        self.shared.attached.store(false, Ordering::Relaxed);
        lock(&self.session).end();
    }

    fn exchange(&self, client: UnixStream) -> Result<(), ProtocolError> {
        let copy = client.try_clone().map_err(ProtocolError::SocketBroken)?;
        let mut handler = BackendReqHandler::from_stream(client, Arc::clone(&self.session));
        let mut others_known = false;
        while !self.stopping() {
            // SAFETY: the handler owns the descriptor and is not dropped while this borrow is used.
            let client = unsafe { BorrowedFd::borrow_raw(handler.as_raw_fd()) };
            let ours = [client, self.shared.events.wake.as_fd(), self.listener.as_fd()];
            let ready = wait(if others_known { &ours[..2] } else { &ours });
            {
                let mut session = lock(&self.session);
                session.take_events();
                session.gone().map_or(Ok(()), Err)?;
            }
            if ready & 1 != 0 {
                if !aside::take(&copy, &mut lock(&self.session))? {
                    handler.handle_request()?;
                }
            } else if ready & 4 != 0 {
                others_known = true;
                info!("{}: another client waits until this one has left", self.who());
            }
        }
        Ok(())
    }

    fn stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// How log lines begin.
    fn who(&self) -> String {
        format!("disk {}, socket {}", self.config.name, self.config.socket.display())
    }
}

/// Waits until something can be read from one of `fds` or has happened to it; bit i stands for fds[i].
fn wait(fds: &[BorrowedFd<'_>]) -> u32 {
    let mut polled: Vec<_> = fds.iter().map(|&fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    if poll(&mut polled, PollTimeout::NONE).is_err() {
        return 0;
    }
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
    polled.iter().enumerate().filter(|(_, fd)| ready(fd)).fold(0, |bits, (i, _)| bits | 1 << i)
}

pub(crate) fn events(config: &ServerConfig) -> Result<Arc<Events>, Error> {
    let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|e| thread_error(config, "its events", e.into()))?;
    let queue = ArrayQueue::new(EVENTS_PER_QUEUE * usize::from(config.queues));
    Ok(Arc::new(Events { queue, config_changed: AtomicBool::new(false), wake: Arc::new(wake) }))
}

fn thread_error(config: &ServerConfig, what: &'static str, source: std::io::Error) -> Error {
    Error::Thread { name: config.name.clone(), what, source }
}

/// Whoever panicked with the lock held left data that is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
