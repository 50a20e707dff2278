//! The reactors' cores: checked and claimed before anything costly happens, then given a reactor each.

use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use spinblk_reactor::{CoreClaim, Handle, off_reactor_cores};

use crate::Error;
use crate::api::ReactorInfo;
use crate::control::ReadReactor;
use crate::report::ReactorReport;

/// How long a reactor's pollers get to fall quiet at the end. Disks are stopped by then, so there is nothing to wait for.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Cores held against other reactors on this machine.
pub(crate) struct Cores {
    claims: Vec<(usize, CoreClaim)>,
}

impl Cores {
    /// Checks that this process may run on `cores` and claims them.
    pub(crate) fn claim(cores: &[usize]) -> Result<Self, Error> {
        let allowed = allowed_cores();
        // All are checked before one is claimed: a claim makes a lock file.
        if let Some(&core) = cores.iter().find(|core| !allowed.contains(core)) {
            return Err(spinblk_reactor::Error::NoSuchCore { core, allowed }.into());
        }
        let claim = |&core| Ok((core, CoreClaim::new(core)?));
        Ok(Self { claims: cores.iter().map(claim).collect::<Result<_, Error>>()? })
    }

    /// Starts a reactor on each core and keeps the calling thread off them.
    pub(crate) fn start(self) -> Result<Reactors, Error> {
        let cores: Vec<usize> = self.claims.iter().map(|(core, _)| *core).collect();
        let spawn = |&core: &usize| {
            let config = spinblk_reactor::Config { claim: false, ..spinblk_reactor::Config::new(core) };
            Ok(Arc::new(Handle::spawn(config)?))
        };
        let handles = cores.iter().map(spawn).collect::<Result<_, Error>>()?;
        // Only now: a reactor may be pinned only where the main thread may run.
        off_reactor_cores(&cores);
        Ok(Reactors { handles, _cores: self })
    }
}

/// The running reactors. Dropping stops them.
pub(crate) struct Reactors {
    handles: Vec<Arc<Handle>>,
    /// Released after the reactors have stopped.
    _cores: Cores,
}

impl Reactors {
    /// The reactors of `cores`, in that order.
    pub(crate) fn on(&self, cores: &[usize]) -> Vec<Arc<Handle>> {
        let find = |core: &usize| self.handles.iter().find(|handle| handle.core() == *core).cloned();
        cores.iter().filter_map(find).collect()
    }

    /// Each reactor's counters, to be read at any time. They must be gone when the reactors are to stop.
    pub(crate) fn readers(&self) -> Vec<ReadReactor> {
        self.handles.iter().map(|handle| reader(Arc::clone(handle))).collect()
    }

    /// The core of a reactor whose thread has ended, if there is one.
    pub(crate) fn dead(&self) -> Option<usize> {
        self.handles.iter().find(|handle| !handle.is_alive()).map(|handle| handle.core())
    }

    /// Stops all reactors; tells how they spent their time, and what went wrong.
    pub(crate) fn stop(self) -> (Vec<ReactorReport>, Vec<String>) {
        let (mut reports, mut problems) = (Vec::new(), Vec::new());
        for mut handle in self.handles {
            match Arc::get_mut(&mut handle) {
                Some(handle) => handle.stop(STOP_GRACE),
                None => problems.push(format!("core {}: a disk still uses its reactor", handle.core())),
            }
            let counters = handle.counters();
            reports.push(ReactorReport {
                core: handle.core(),
                busy_ns: counters.busy_ns(),
                idle_ns: counters.idle_ns(),
                iterations: counters.iterations(),
                longest_iteration_ns: counters.longest_ns(),
                enters: counters.enters(),
            });
        }
        (reports, problems)
    }
}

fn reader(handle: Arc<Handle>) -> ReadReactor {
    Box::new(move || {
        let counters = handle.counters();
        ReactorInfo {
            core: handle.core(),
            busy_ns: counters.busy_ns(),
            idle_ns: counters.idle_ns(),
            iterations: counters.iterations(),
            longest_iteration_ns: counters.longest_ns(),
            enters: counters.enters(),
        }
    })
}

/// Cores that this process may run on, ascending.
pub(crate) fn allowed_cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect()
}
