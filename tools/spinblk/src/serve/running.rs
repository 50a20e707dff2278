//! The disks that are served, and every change of them.
//!
//! ```text
//!   Change ──► the next Config, checked ──► the machine: open, export; drain, detach ──► Config, disks and what is shown
//!              refused: nothing was done     failed: undone                               follow together
//! ```
//! Contract: one change at a time, on the main thread, as long as it takes. The configuration always says what is served.
//! Of a change that failed nothing stays, except a file that was made because `create_size` asked for it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use spinblk_bdev::Bdev;

use super::{Options, describe, say};
use crate::api::{self, Method};
use crate::backend::Making;
use crate::config::{Backend, Config, Disk, nothing_of};
use crate::control::{self, Change, HistLog, Outcome, State, disk_info, lock};
use crate::cores::Reactors;
use crate::hist::DeltaLog;
use crate::notify::{self, Watchdog};
use crate::report::{DiskReport, Report};
use crate::signals::Signals;
use crate::stop::{End, RunningDisk, Stopped, stop_disks};
use crate::transport::{QueueReport, Transport, via_name};
use crate::{Error, backend, replace};

/// Who may read the configuration that was saved: whoever may ask for it.
const SAVED_MODE: u32 = 0o600;

/// Everything that is served.
pub(super) struct Running<'a> {
    config: Config,
    transport: &'a dyn Transport,
    reactors: Reactors,
    /// Like all that holds reactors, it ends before they do.
    watchdog: Option<Watchdog>,
    /// Those of the configuration, in its order.
    disks: Vec<RunningDisk>,
    /// Those that were removed, and what went wrong with them.
    removed: Vec<DiskReport>,
    problems: Vec<String>,
    /// The log of latencies, if there is one. Its last interval ends with the last request.
    hist_log: Option<HistLog>,
    /// What clients see; nothing without a socket.
    shown: Option<Arc<Mutex<State>>>,
}

impl<'a> Running<'a> {
    pub(super) fn new(config: Config, transport: &'a dyn Transport, reactors: Reactors) -> Self {
        let watchdog = Watchdog::start(reactors.on(&config.cores));
        let (disks, removed, problems) = (Vec::new(), Vec::new(), Vec::new());
        Self { config, transport, reactors, watchdog, disks, removed, problems, hist_log: None, shown: None }
    }

    /// Starts the disks of the configuration one by one; ends early with the name of a signal that came meanwhile.
    /// `bdevs` are those that are open already.
    pub(super) fn start(
        &mut self,
        bdevs: Vec<Option<Arc<dyn Bdev>>>,
        signals: &Signals,
    ) -> Result<Option<&'static str>, Error> {
        for (disk, bdev) in self.config.disks.iter().zip(bdevs) {
            if let Some(signal) = signals.wait(Duration::ZERO)? {
                return Ok(Some(signal));
            }
            let running = self.start_disk(disk, &self.config, bdev)?;
            self.disks.push(running);
        }
        Ok(None)
    }

    fn start_disk(
        &self,
        disk: &Disk,
        config: &Config,
        bdev: Option<Arc<dyn Bdev>>,
    ) -> Result<RunningDisk, Error> {
        let bdev = match bdev {
            Some(bdev) => bdev,
            None => backend::open(&disk.backend, disk.read_only, Making::Really(config.hugepages))?.bdev,
        };
        let export = self.transport.start(disk, config, Arc::clone(&bdev), &self.reactors.on(&disk.cores))?;
        say(&describe(disk, bdev.info(), export.device_path()));
        Ok(RunningDisk { name: disk.name.clone(), bdev, export })
    }

    /// What the control socket is to show.
    pub(super) fn state(&self, options: &Options) -> State {
        let disks = self.config.disks.iter().zip(&self.disks).map(|(disk, running)| show(disk, running));
        let mut state = State::new(disks.collect(), self.reactors.readers(), options.log.clone());
        state.unused = unused(&self.config);
        state
    }

    /// Writes intervals of latencies to `log`, if there is one, from now on.
    pub(super) fn start_hist_log(
        &mut self,
        log: Option<DeltaLog>,
        disks: &[control::Disk],
    ) -> Result<(), Error> {
        let config = self.config.hist_log.as_ref().map(|log| log.interval);
        let start = |(log, interval)| HistLog::start(log, interval, disks, &self.config.cores);
        self.hist_log = log.zip(config).map(start).transpose()?;
        Ok(())
    }

    /// Keeps what clients see up to date from now on.
    pub(super) fn show_in(&mut self, shown: Arc<Mutex<State>>) {
        self.shown = Some(shown);
    }

    /// What is broken for good, if anything is.
    pub(super) fn look(&self) -> Result<(), Error> {
        if let Some(core) = self.reactors.dead() {
            return Err(Error::ReactorDied { core });
        }
        match self.disks.iter().find(|disk| !disk.export.is_alive()) {
            Some(disk) => Err(Error::ControlDied { name: disk.name.clone() }),
            None => Ok(()),
        }
    }

    /// Nobody answers on the control socket any more. The disks do not need it.
    pub(super) fn lost_control(&mut self) {
        let problem = "the control thread has died; the message above says why; the disks are served on";
        eprintln!("problem: {problem}");
        notify::status(problem);
        self.problems.push(problem.into());
    }

    /// Makes a change. With its outcome comes the name of a signal that came meanwhile.
    pub(super) fn change(&mut self, change: Change, signals: &Signals) -> (Outcome, Option<&'static str>) {
        let outcome = match change {
            Change::RemoveDisk(name) => return self.remove_disk(&name, signals),
            Change::AddDisk(given) => self.add_disk(&given),
            Change::AddBdevs(given) => self.add_bdevs(&given),
            Change::RemoveBdev(name) => self.remove_bdev(name),
            Change::Resize(params) => self.resize(&params),
            Change::SaveConfig(path) => self.save(path.as_deref()),
        };
        (outcome, None)
    }

    fn add_disk(&mut self, given: &api::Given) -> Outcome {
        let config = self.config.with_disk(given)?;
        // It is there, last: `with_disk` says so.
        let Some(disk) = config.disks.last() else { return Ok(Value::Null) };
        self.transport.check(std::slice::from_ref(disk))?;
        let running = self.start_disk(disk, &config, None)?;
        let shown = show(disk, &running);
        let added = api::DiskAdded { disk: disk_info(&shown) };
        self.disks.push(running);
        if let Some(log) = &self.hist_log {
            log.add(&shown);
        }
        self.take(config, |state| state.disks.push(shown));
        notify::serving(self.disks.len());
        done::<api::DiskAdd>(&added)
    }

    fn remove_disk(&mut self, name: &str, signals: &Signals) -> (Outcome, Option<&'static str>) {
        let config = match self.config.without_disk(name) {
            Ok(config) => config,
            Err(e) => return (Err(e), None),
        };
        let is_it = |disk: &RunningDisk| disk.name == name;
        let going = self.disks.extract_if(.., |disk| is_it(disk)).collect();
        let Stopped { reports, problems, signal } = stop_disks(going, End::Stop, signals);
        say(&format!("{name}: removed"));
        if let Some(log) = &self.hist_log {
            log.remove(name);
        }
        self.removed.extend(reports.iter().map(DiskReport::new));
        self.problems.extend(problems.iter().cloned());
        // Its block device goes here, not while clients wait for the state.
        let gone = self
            .take(config, |state| state.disks.extract_if(.., |disk| disk.name == name).collect::<Vec<_>>());
        drop(gone);
        notify::serving(self.disks.len());
        (done::<api::DiskRemove>(&api::DiskRemoved { disk: name.into(), problems }), signal)
    }

    fn add_bdevs(&mut self, given: &api::Given) -> Outcome {
        let (config, bdevs) = self.config.with_bdevs(given)?;
        self.take(config, |_| ());
        done::<api::BdevAdd>(&api::BdevAdded { bdevs })
    }

    fn remove_bdev(&mut self, bdev: String) -> Outcome {
        let config = self.config.without_bdev(&bdev)?;
        self.take(config, |_| ());
        done::<api::BdevRemove>(&api::BdevName { bdev })
    }

    /// The one place that knows how a size changes: the bdev, what stands on it, then the guest.
    fn resize(&mut self, params: &api::ResizeParams) -> Outcome {
        let (disk, bdev) = self.resizable(params)?;
        let failed = |source| Error::Bdev { place: String::new(), source: Box::new(source) };
        let resized = bdev.resize(params.size_bytes).and_then(|size_bytes| {
            let is_top = Arc::ptr_eq(&bdev, &disk.bdev);
            Ok((size_bytes, if is_top { size_bytes } else { disk.bdev.resize(None)? }))
        });
        let told = resized.map_err(failed).and_then(|sizes| disk.export.resize().map(|()| sizes));
        let (name, top) = (disk.name.clone(), Arc::clone(&disk.bdev));
        // Whatever it came to, the configuration says what there is.
        let mut config = self.config.clone();
        let of_disk = config.disks.iter_mut().filter(|disk| disk.name == name);
        of_disk.for_each(|disk| disk.backend.set_sizes(&*top));
        self.take(config, |_| ());
        let (bdev_size_bytes, disk_size_bytes) = told?;
        let bdev = bdev.info().name.clone();
        done::<api::Resize>(&api::Resized { bdev, bdev_size_bytes, disk: name, disk_size_bytes })
    }

    /// The disk, and the bdev under it, that are to have another size.
    fn resizable(&self, params: &api::ResizeParams) -> Result<(&RunningDisk, Arc<dyn Bdev>), Error> {
        if let Some(name) = &params.disk {
            let names: Vec<&str> = self.disks.iter().map(|disk| disk.name.as_str()).collect();
            let found = self.disks.iter().find(|disk| disk.name == *name);
            return found
                .map(|disk| (disk, Arc::clone(&disk.bdev)))
                .ok_or_else(|| nothing_of("disk", name, &names));
        }
        let name = params.bdev.as_deref().unwrap_or_default();
        let mut disks: Vec<_> = self.config.disks.iter().zip(&self.disks).collect();
        // A disk without a [[bdev]] has one of its own name: that is meant only where no [[bdev]] has this name.
        disks.sort_by_key(|(config, _)| !config.over_bdev);
        let found = disks.into_iter().find_map(|(_, disk)| Some((disk, open_bdev(&disk.bdev, name)?)));
        found.ok_or_else(|| {
            Error::Usage(format!("no disk stands on a bdev {name:?}; `bdevs` tells those that there are"))
        })
    }

    fn save(&self, path: Option<&Path>) -> Outcome {
        let toml = self.config.to_loadable_toml()?;
        if let Some(path) = path {
            let failed = |source| Error::SaveConfig { path: path.into(), source };
            replace::only_files(path).map_err(failed)?;
            replace::replace(path, SAVED_MODE, |file| file.write_all(toml.as_bytes())).map_err(failed)?;
        }
        done::<api::SaveConfig>(&api::SavedConfig { toml, path: path.map(Into::into) })
    }

    /// Takes the next configuration over, and has clients see it at once.
    fn take<T: Default>(&mut self, config: Config, change: impl FnOnce(&mut State) -> T) -> T {
        self.config = config;
        let Some(shown) = &self.shown else { return T::default() };
        let mut state = lock(shown);
        state.unused = unused(&self.config);
        change(&mut state)
    }

    /// Stops everything, disks that were removed before included in the report.
    pub(super) fn stop(self, end: End, signals: &Signals) -> Report {
        let Self { reactors, watchdog, disks, removed, mut problems, hist_log, shown, .. } = self;
        // It reads the reactors' counters, and must be gone when they are to stop.
        drop(shown);
        let stopped = stop_disks(disks, end, signals);
        drop(watchdog);
        let (reactors, more) = reactors.stop();
        drop(hist_log);
        problems.extend(stopped.problems.into_iter().chain(more));
        let stopped = stopped.reports.iter().map(DiskReport::new);
        Report::new(removed.into_iter().chain(stopped).collect(), reactors, problems)
    }
}

/// A disk as the control socket shows it.
fn show(disk: &Disk, running: &RunningDisk) -> control::Disk {
    let queue = |queue: QueueReport| control::Queue::new(queue.index, queue.core, queue.board);
    control::Disk {
        name: disk.name.clone(),
        path: running.export.device_path(),
        transport: via_name(&disk.via),
        queue_size: disk.queue_size,
        bdev: Arc::clone(&running.bdev),
        attached: running.export.attached(),
        queues: running.export.queues().into_iter().map(queue).collect(),
    }
}

fn unused(config: &Config) -> Vec<api::UnusedBdev> {
    let show = |top: &Backend| api::UnusedBdev { name: top.name.clone(), kind: top.type_name().into() };
    config.unused.iter().map(show).collect()
}

fn open_bdev(bdev: &Arc<dyn Bdev>, name: &str) -> Option<Arc<dyn Bdev>> {
    if bdev.info().name == name {
        return Some(Arc::clone(bdev));
    }
    bdev.children().iter().find_map(|child| open_bdev(child, name))
}

fn done<M: Method>(result: &M::Result) -> Outcome {
    // Plain data with paths that came from texts, which always serialises.
    Ok(serde_json::to_value(result).unwrap_or_default())
}
