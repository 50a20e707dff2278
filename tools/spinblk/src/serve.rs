//! `spinblk serve`: brings disks up, waits for a signal, takes them down again.
//!
//! ```text
//!   files ► cores ► transport there? ► reactors ► each disk: bdev ► export ► "ready", changes ► signal ► stop all ► report
//!   └──────────── cheap, no trace ─────────────┘   └─────────── undone on any failure ──────────┘
//! ```
//!
//! The main thread does all of it and is no reactor: it sleeps in the wait for signals and for changes that the control
//! socket brings (`running`). A signal that comes during a change has it end first.

mod running;

use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use spinblk_bdev::{Bdev, Info};

use crate::backend::Making;
use crate::config::{Backend, Config, Disk, show_cores, show_size};
use crate::control::{Bound, ChangeQueue, Control, Limits, LogFilter, changes};
use crate::cores::Cores;
use crate::hist::DeltaLog;
use crate::memory_lock::lock_memory;
use crate::notify;
use crate::report::{self, Report};
use crate::signals::Signals;
use crate::stop::End;
use crate::transport::{Transport, via_name};
use crate::{Error, backend};
use running::Running;

/// How often the reactors are looked at while nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a file or device that is in use is waited for, and how often it is tried. A process that was killed keeps it until
/// the storage has answered its last I/O: a write of that one must not come after one of ours.
const IN_USE_LIMIT: Duration = Duration::from_secs(5);
const IN_USE_STEP: Duration = Duration::from_millis(20);

/// What `serve` is told besides the configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where to write the report as JSON at the end.
    pub report_json: Option<PathBuf>,
    /// What is logged, for the control socket to change.
    pub log: LogFilter,
}

/// Why serving ends.
enum Ending {
    Signal(&'static str),
    /// It never served all that it was to serve.
    NoStart(Error),
    Failure(Error),
}

/// Serves `config` until a signal comes.
///
/// # Errors
/// What kept it from starting, or what went wrong at the end. Nothing is left behind either way, except what
/// messages on stderr name; and what the next start can take over, after a failure of this process.
pub fn serve(config: &Config, options: &Options, transport: &dyn Transport) -> Result<(), Error> {
    let signals = Signals::block()?;
    if let Some(path) = &options.report_json {
        report::check_writable(path)?;
    }
    // With a control socket, disks may come to stand on them.
    if config.control.socket.is_none() {
        warn_of_unused(config);
    }
    let bdevs = open_files(config)?;
    let cores = Cores::claim(&config.cores)?;
    transport.check(&config.disks)?;
    let bound = config.control.bind()?;
    // Not before the cores are ours: the log of a process that serves the same disks must not be written anew.
    let log = config.hist_log.as_ref().map(|log| DeltaLog::create(&log.path)).transpose()?;
    raise_memlock();
    let mut running = Running::new(config.clone(), transport, cores.start()?);

    let ending = match running.start(bdevs, &signals) {
        Ok(None) => serve_until_the_end(&mut running, bound, log, &signals, config, options),
        Ok(Some(signal)) => Ending::Signal(signal),
        Err(e) => Ending::NoStart(e),
    };
    let end = match &ending {
        Ending::Signal(signal) => {
            eprintln!("{signal}: stopping");
            notify::stopping(&format!("stopping after {signal}"));
            End::Stop
        }
        Ending::NoStart(e) | Ending::Failure(e) => {
            notify::stopping(&e.one_line());
            if matches!(ending, Ending::NoStart(_)) { End::Undo } else { End::Leave }
        }
    };
    finish(ending, &running.stop(end, &signals), options)
}

/// From the last disk's start on; the control socket, if there is one, is gone when this ends.
fn serve_until_the_end(
    running: &mut Running<'_>,
    bound: Bound,
    log: Option<DeltaLog>,
    signals: &Signals,
    config: &Config,
    options: &Options,
) -> Ending {
    let start = || {
        let (changes, queue) = changes()?;
        let state = running.state(options).with_changes(changes);
        running.start_hist_log(log, &state.disks)?;
        let control = Control::start(bound, state, &config.cores, Limits::default())?;
        lock_memory(config.lock_memory)?;
        Ok((control, queue))
    };
    match start() {
        // Ends before the reactors do, whose counters it reads.
        Ok((control, queue)) => {
            if let Some(control) = &control {
                running.show_in(control.state());
            }
            say("ready");
            notify::ready(config.disks.len());
            wait(running, control.as_ref(), &queue, signals)
        }
        Err(e) => Ending::NoStart(e),
    }
}

fn warn_of_unused(config: &Config) {
    for Backend { name, place, .. } in &config.unused {
        eprintln!(
            "warning: {place}: bdev {name}: no disk stands on it; name it as a disk's bdev, or take it out"
        );
    }
}

/// Opens what is cheap to open and most likely wrong. What takes memory is only tried, and made later, disk by disk.
fn open_files(config: &Config) -> Result<Vec<Option<Arc<dyn Bdev>>>, Error> {
    let deadline = Instant::now() + IN_USE_LIMIT;
    let open = |disk: &Disk| {
        let later = disk.backend.takes_memory();
        let making = if later { Making::Described } else { Making::Really(config.hugepages) };
        let bdev = open_once_free(disk, making, deadline)?;
        Ok((!later).then_some(bdev))
    };
    config.disks.iter().map(open).collect()
}

fn open_once_free(disk: &Disk, making: Making, deadline: Instant) -> Result<Arc<dyn Bdev>, Error> {
    loop {
        match backend::open(&disk.backend, disk.read_only, making) {
            Ok(opened) => return Ok(opened.bdev),
            Err(Error::Bdev { source, .. }) if source.is_in_use() && Instant::now() < deadline => {
                std::thread::sleep(IN_USE_STEP);
            }
            Err(e) => return Err(e),
        }
    }
}

/// `d0: /dev/vda, malloc 256 MiB, 2 queues of 256 on cores 1, 2, virtio-vdpa`
fn describe(disk: &Disk, info: &Info, path: Option<PathBuf>) -> String {
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let queues = usize::from(disk.queues);
    let cores = &disk.cores[..disk.cores.len().min(queues)];
    format!(
        "{}: {}, {} {}{}, {queues} queue{} of {} on core{} {}, {}",
        disk.name,
        path.map_or("no device node".into(), |path| path.display().to_string()),
        disk.backend.type_name(),
        show_size(info.size_bytes()),
        if info.read_only { " read-only" } else { "" },
        plural(queues),
        disk.queue_size,
        plural(cores.len()),
        show_cores(cores),
        via_name(&disk.via),
    )
}

/// Makes the changes that come, one after the other, until something ends it all.
fn wait(
    running: &mut Running<'_>,
    control: Option<&Control>,
    changes: &ChangeQueue,
    signals: &Signals,
) -> Ending {
    let mut control = control;
    loop {
        match signals.wait_or(LOOK_EVERY, Some(changes.as_fd())) {
            Ok(Some(signal)) => return Ending::Signal(signal),
            Ok(None) => {}
            Err(e) => return Ending::Failure(e.into()),
        }
        if let Some((ticket, change)) = changes.next() {
            let (outcome, signal) = running.change(change, signals);
            changes.finish(ticket, outcome);
            if let Some(signal) = signal {
                return Ending::Signal(signal);
            }
        }
        if let Err(e) = look(running, &mut control) {
            return Ending::Failure(e);
        }
    }
}

/// Looks for what has died. Without a control thread all goes on, which is told once.
fn look(running: &mut Running<'_>, control: &mut Option<&Control>) -> Result<(), Error> {
    if control.take_if(|control| !control.is_alive()).is_some() {
        running.lost_control();
    }
    running.look()
}

/// Tells what was done and what went wrong, and decides how the program ends.
fn finish(ending: Ending, report: &Report, options: &Options) -> Result<(), Error> {
    for problem in &report.problems {
        eprintln!("problem: {problem}");
    }
    let mut written = Ok(());
    if !matches!(ending, Ending::NoStart(_)) {
        say(&report.to_string());
        if let Some(path) = &options.report_json {
            written = report.write_json(path);
        }
    }
    match ending {
        Ending::NoStart(e) | Ending::Failure(e) => Err(e),
        Ending::Signal(_) if report.problems.is_empty() => written,
        Ending::Signal(_) => Err(Error::Stop { count: report.problems.len() }),
    }
}

/// Prints a line at once. A reader that has gone away is no reason to stop serving.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Pinning bounce regions counts against RLIMIT_MEMLOCK even for root, and the usual limit is less than one region.
/// What is not allowed here stays as it is; `doctor` tells of it.
fn raise_memlock() {
    let unlimited = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    if unlimited.is_err()
        && let Ok((_, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK)
    {
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    }
}

#[cfg(test)]
mod tests;
