//! Starting, reaching and stopping reactor threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tracing::warn;

use crate::reactor::{Reactor, ReactorCounters};
use crate::{CoreClaim, Error, Mailbox, PostError, Ring};

/// Work for a reactor, done between two iterations.
pub type Job = Box<dyn FnOnce(&mut Reactor) + Send>;

/// Jobs that a mailbox holds; senders wait past that.
const MAILBOX_JOBS: usize = 256;
/// How long a full mailbox is left alone before it is tried again.
const RETRY: Duration = Duration::from_micros(200);

/// What a reactor does when an iteration found nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdlePolicy {
    /// Never sleeps; for dedicated cores.
    #[default]
    Poll,
}

impl IdlePolicy {
    /// One idle iteration's rest. (A policy that sleeps arms its wake-ups here.)
    #[inline]
    pub(crate) fn rest(self) {
        match self {
            // Lets a hyper-thread sibling have the pipeline.
            Self::Poll => std::hint::spin_loop(),
        }
    }
}

/// How to make a reactor.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The core to pin it to, as Linux numbers them.
    pub core: usize,
    /// Submission slots of its io_uring.
    pub ring_entries: u32,
    /// What it does when idle.
    pub policy: IdlePolicy,
    /// Whether to claim the core against other reactors on this machine.
    pub claim: bool,
}

impl Config {
    /// A polling reactor that claims `core`.
    #[must_use]
    pub fn new(core: usize) -> Self {
        Self { core, ring_entries: 1024, policy: IdlePolicy::Poll, claim: true }
    }
}

/// The control side of a reactor. Dropping it stops the reactor and waits for it.
pub struct Handle {
    core: usize,
    mailbox: Arc<Mailbox<Job>>,
    counters: Arc<ReactorCounters>,
    thread: Option<JoinHandle<()>>,
    _claim: Option<CoreClaim>,
}

impl Handle {
    /// Starts a reactor and waits until it polls.
    ///
    /// # Errors
    /// [`Error::NoSuchCore`], [`Error::CoreBusy`], [`Error::CoreLock`], [`Error::Spawn`], [`Error::RingSetup`].
    pub fn spawn(config: Config) -> Result<Self, Error> {
        let Config { core, ring_entries, policy, claim } = config;
        let allowed = allowed_cores();
        if !allowed.contains(&core) {
            return Err(Error::NoSuchCore { core, allowed });
        }
        let claim = if claim { Some(CoreClaim::new(core)?) } else { None };
        let mailbox = Arc::new(Mailbox::new(MAILBOX_JOBS));
        let counters = Arc::new(ReactorCounters::default());
        let (ready_tx, ready_rx) = mpsc::sync_channel(1);
        let (inside_mailbox, inside_counters) = (mailbox.clone(), counters.clone());
        let thread = std::thread::Builder::new()
            .name(format!("reactor-{core}"))
            .spawn(move || {
                reactor_main(core, ring_entries, policy, inside_mailbox, inside_counters, &ready_tx);
            })
            .map_err(|e| Error::Spawn { core, reason: e.to_string() })?;
        let handle = Self { core, mailbox, counters, thread: Some(thread), _claim: claim };
        match ready_rx.recv() {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(Error::Spawn { core, reason: "its thread ended".into() }),
        }
    }

    /// The core it is pinned to.
    #[must_use]
    pub fn core(&self) -> usize {
        self.core
    }

    /// How it spends its time.
    #[must_use]
    pub fn counters(&self) -> &ReactorCounters {
        &self.counters
    }

    /// Whether its thread still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Runs `work` on the reactor between two iterations and returns its result. Waits at most `timeout` for it to begin;
    /// after a time-out it did not run and never will. Never call it from a reactor.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the reactor takes no work, [`Error::NoAnswer`] after the time-out.
    pub fn call<R: Send + 'static>(
        &self,
        timeout: Duration,
        work: impl FnOnce(&mut Reactor) -> R + Send + 'static,
    ) -> Result<R, Error> {
        let (tx, rx) = mpsc::sync_channel(1);
        let deadline = Instant::now() + timeout;
        let no_answer = || Error::NoAnswer { core: self.core, timeout_ms: timeout.as_millis() };
        // Whoever claims it first decides: the job that it runs, or the caller that it never will.
        let claimed = Arc::new(AtomicBool::new(false));
        let claim = claimed.clone();
        let mut job: Job = Box::new(move |reactor| {
            if !claim.swap(true, Ordering::AcqRel) {
                let _ = tx.send(work(reactor));
            }
        });
        loop {
            match self.mailbox.post(job) {
                Ok(()) => break,
                Err(PostError::Closed(_)) => return Err(Error::Stopped { core: self.core }),
                Err(PostError::Full(_)) if Instant::now() >= deadline => return Err(no_answer()),
                Err(PostError::Full(back)) => job = back,
            }
            std::thread::sleep(RETRY);
        }
        match rx.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(result) => Ok(result),
            Err(mpsc::RecvTimeoutError::Timeout) if !claimed.swap(true, Ordering::AcqRel) => Err(no_answer()),
            // It is running right now, or never got to send because the reactor ended.
            Err(_) => rx.recv().map_err(|_| Error::Stopped { core: self.core }),
        }
    }

    /// Stops the reactor and waits for its thread: pollers get `grace` to fall quiet.
    pub fn stop(&mut self, grace: Duration) {
        let Some(thread) = self.thread.take() else { return };
        let grace_ns = u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX);
        let mut job: Job = Box::new(move |reactor| reactor.stop(grace_ns));
        while let Err(PostError::Full(back)) = self.mailbox.post(job) {
            job = back;
            std::thread::sleep(RETRY);
        }
        if thread.join().is_err() {
            tracing::error!("the reactor on core {} ended in a panic", self.core);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(5));
    }
}

fn reactor_main(
    core: usize,
    ring_entries: u32,
    policy: IdlePolicy,
    mailbox: Arc<Mailbox<Job>>,
    counters: Arc<ReactorCounters>,
    ready: &mpsc::SyncSender<Result<(), Error>>,
) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        let reason = "the kernel refused to pin it (cpuset or hotplug)".into();
        let _ = ready.send(Err(Error::Spawn { core, reason }));
        return;
    }
    let ring = match Ring::new(ring_entries) {
        Ok(ring) => ring,
        Err(e) => {
            let _ = ready.send(Err(e));
            return;
        }
    };
    // Closes the mailbox even if a poller panics: senders learn of it instead of waiting.
    let closer = Closer(mailbox.clone());
    let mut reactor = Reactor::new(ring, mailbox, counters, policy);
    if ready.send(Ok(())).is_err() {
        return;
    }
    reactor.run();
    closer.0.close(|job| job(&mut reactor));
}

struct Closer(Arc<Mailbox<Job>>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close(drop);
    }
}

/// Cores that this process's main thread may run on, ascending.
fn allowed_cores() -> Vec<usize> {
    let pid = Pid::from_raw(std::process::id().cast_signed());
    let Ok(set) = sched_getaffinity(pid) else { return Vec::new() };
    (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect()
}

/// Keeps the calling thread (and threads that it starts later) off the reactors' cores. With no core left it stays
/// where it is and says so.
pub fn off_reactor_cores(reactor_cores: &[usize]) {
    let mut set = CpuSet::new();
    let mut any = false;
    for core in allowed_cores().into_iter().filter(|core| !reactor_cores.contains(core)) {
        any |= set.set(core).is_ok();
    }
    if !any {
        warn!(
            "every core has a reactor: control threads share them and will answer late; leave one core free"
        );
        return;
    }
    if let Err(e) = sched_setaffinity(Pid::from_raw(0), &set) {
        warn!("cannot keep control threads off the reactor cores: {e}");
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::{Core, Poller, Progress};

    const SOON: Duration = Duration::from_secs(20);

    fn spawn() -> Handle {
        let core = *allowed_cores().first().unwrap();
        Handle::spawn(Config { claim: false, ring_entries: 8, ..Config::new(core) }).unwrap()
    }

    struct Countdown {
        left: u32,
        polls: u64,
    }

    impl Poller for Countdown {
        fn poll(&mut self, _: &mut Core) -> Progress {
            self.polls += 1;
            if self.left == 0 {
                return Progress::Idle;
            }
            self.left -= 1;
            Progress::Busy
        }
        fn quiesce(&mut self) -> bool {
            self.left == 0
        }
        fn close(&mut self, _: &mut Ring) {}
    }

    #[test]
    fn a_job_runs_on_the_pinned_core() {
        let handle = spawn();
        let cpu = handle.call(SOON, |_| nix::sched::sched_getcpu().unwrap()).unwrap();
        assert_eq!(cpu, handle.core());
    }

    #[test]
    fn pollers_are_polled_found_and_removed() {
        let handle = spawn();
        let id = handle.call(SOON, |r| r.add(Box::new(Countdown { left: 3, polls: 0 }))).unwrap();
        let polled = |handle: &Handle| {
            handle.call(SOON, move |r| r.poller::<Countdown>(id).map(|(p, _)| p.polls)).unwrap().unwrap()
        };
        while polled(&handle) < 10 {}
        let left = handle.call(SOON, move |r| r.remove::<Countdown>(id).map(|p| p.left)).unwrap();
        assert_eq!(left, Some(0));
        assert!(handle.call(SOON, move |r| r.poller::<Countdown>(id).is_none()).unwrap());
    }

    #[test]
    fn an_id_never_names_another_poller() {
        let handle = spawn();
        let add = |r: &mut Reactor| r.add(Box::new(Countdown { left: 0, polls: 0 }));
        let first = handle.call(SOON, add).unwrap();
        handle.call(SOON, move |r| r.remove::<Countdown>(first).is_some()).unwrap();
        let second = handle.call(SOON, add).unwrap();
        assert_ne!(first, second);
        assert!(handle.call(SOON, move |r| r.poller::<Countdown>(first).is_none()).unwrap());
        assert!(handle.call(SOON, move |r| r.poller::<Countdown>(second).is_some()).unwrap());
    }

    #[test]
    fn work_that_timed_out_never_runs() {
        let handle = Arc::new(spawn());
        let (block, blocked) = mpsc::channel::<()>();
        let busy = handle.clone();
        let blocker = std::thread::spawn(move || busy.call(SOON, move |_| blocked.recv()).is_ok());
        // Wait until the reactor is inside the blocking job: then no job answers.
        let ran = Arc::new(AtomicBool::new(false));
        loop {
            let flag = ran.clone();
            let outcome =
                handle.call(Duration::from_millis(20), move |_| flag.store(true, Ordering::Release));
            if matches!(outcome, Err(Error::NoAnswer { .. })) {
                break;
            }
            ran.store(false, Ordering::Release);
        }
        block.send(()).unwrap();
        assert!(blocker.join().unwrap());
        handle.call(SOON, |_| ()).unwrap();
        assert!(!ran.load(Ordering::Acquire));
    }

    #[test]
    fn stopping_waits_for_pollers_to_fall_quiet() {
        let mut handle = spawn();
        let (tx, rx) = mpsc::channel();
        struct Tell(Countdown, mpsc::Sender<u32>);
        impl Poller for Tell {
            fn poll(&mut self, core: &mut Core) -> Progress {
                self.0.poll(core)
            }
            fn quiesce(&mut self) -> bool {
                self.0.quiesce()
            }
            fn close(&mut self, _: &mut Ring) {
                self.1.send(self.0.left).unwrap();
            }
        }
        handle.call(SOON, move |r| r.add(Box::new(Tell(Countdown { left: 5000, polls: 0 }, tx)))).unwrap();
        handle.stop(SOON);
        assert_eq!(rx.recv().unwrap(), 0);
        assert!(matches!(handle.call(SOON, |_| ()), Err(Error::Stopped { .. })));
        assert!(handle.counters().iterations() >= 5000);
        assert!(handle.counters().busy_ns() > 0);
    }

    #[test]
    fn a_core_that_does_not_exist_is_refused_by_name() {
        let error = Handle::spawn(Config::new(99_999)).err().unwrap();
        assert!(error.to_string().contains("core 99999"), "{error}");
    }

    #[test]
    fn control_threads_leave_the_reactor_cores() {
        let cores = allowed_cores();
        if cores.len() < 2 {
            return;
        }
        std::thread::spawn(move || {
            off_reactor_cores(&cores[..1]);
            let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
            assert!(!set.is_set(cores[0]).unwrap() && set.is_set(cores[1]).unwrap());
        })
        .join()
        .unwrap();
    }
}
