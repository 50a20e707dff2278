//! Tells the service manager (systemd, `Type=notify`) how things are, and feeds its watchdog while every reactor lives.
//!
//! ```text
//!   main thread ── READY=1, STOPPING=1, STATUS= ──────────────────────────┐
//!   watchdog thread, twice in WatchdogSec:                                ├──► $NOTIFY_SOCKET
//!     an empty job to each reactor ── all did it ── WATCHDOG=1 ───────────┤
//!                                  └─ one did not ── STATUS=, no WATCHDOG ┘     (and so a restart)
//! ```
//!
//! A job is asked for instead of the counters being looked at: it wakes a reactor that sleeps, so one that has nothing to
//! do counts as alive. It costs a reactor one iteration now and then. Without a service manager nothing is sent and no
//! thread is started.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use spinblk_reactor::Handle;
use tracing::{debug, warn};

/// Below this, feeding a watchdog would keep a core busy.
const SHORTEST_LIMIT: Duration = Duration::from_millis(100);

/// Says that all disks are there.
pub(crate) fn ready(disks: usize) {
    tell(&[NotifyState::Ready, NotifyState::Status(&count(disks))]);
}

/// Says how many disks there are by now.
pub(crate) fn serving(disks: usize) {
    status(&count(disks));
}

/// Says something else about how things are.
pub(crate) fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

fn count(disks: usize) -> String {
    format!("serving {disks} disk{}", if disks == 1 { "" } else { "s" })
}

/// Says that the end has begun, and why.
pub(crate) fn stopping(why: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(why)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        debug!("the service manager was not told: {e}");
    }
}

/// Feeds the manager's watchdog until dropped.
pub(crate) struct Watchdog {
    /// The thread ends when this is gone.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts, if the service manager has a watchdog for this process.
    pub(crate) fn start(reactors: Vec<Arc<Handle>>) -> Option<Self> {
        let limit = sd_notify::watchdog_enabled()?.max(SHORTEST_LIMIT);
        let (stop, stopped) = channel();
        let feed = move || feed(&reactors, limit, &stopped);
        match std::thread::Builder::new().name("watchdog".into()).spawn(feed) {
            Ok(thread) => Some(Self { stop: Some(stop), thread: Some(thread) }),
            Err(e) => {
                warn!("no thread for the service manager's watchdog, which will restart this process: {e}");
                None
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        // It holds the reactors, which can be stopped only after that.
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("the watchdog's thread ended in a panic");
        }
    }
}

/// With a beat every half of `limit`, and a quarter for the answers, a living process is never late.
fn feed(reactors: &[Arc<Handle>], limit: Duration, stopped: &Receiver<()>) {
    loop {
        let began = Instant::now();
        match silent(reactors, began + limit / 4) {
            None => tell(&[NotifyState::Watchdog]),
            Some(core) => {
                let silence = format!("the reactor on core {core} does not answer");
                warn!("{silence}; the service manager's watchdog is not fed");
                tell(&[NotifyState::Status(&silence)]);
            }
        }
        let rest = (limit / 2).saturating_sub(began.elapsed());
        if stopped.recv_timeout(rest) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// The core of a reactor that does no job before the deadline, if there is one.
fn silent(reactors: &[Arc<Handle>], deadline: Instant) -> Option<usize> {
    let answers =
        |reactor: &Handle| reactor.call(deadline.saturating_duration_since(Instant::now()), |_| ()).is_ok();
    reactors.iter().find(|reactor| !answers(reactor)).map(|reactor| reactor.core())
}
