//! Stopping disks: all at once, each bounded, whatever the others do.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use spinblk_bdev::Bdev;

use crate::signals::Signals;
use crate::transport::{DiskReport, Exported};

/// A transport bounds its own steps by progress: a long writeback may take as long as it gets on. A disk that has not
/// stopped after an hour never will, and is given up.
const STOP_LIMIT: Duration = Duration::from_secs(3600);
/// How often signals and finished disks are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A disk that was started.
pub(crate) struct RunningDisk {
    pub(crate) name: String,
    pub(crate) bdev: Arc<dyn Bdev>,
    pub(crate) export: Box<dyn Exported>,
}

/// What became of disks that were to stop.
pub(crate) struct Stopped {
    /// Of those that did, in the order of the disks.
    pub(crate) reports: Vec<DiskReport>,
    /// What went wrong, in sentences.
    pub(crate) problems: Vec<String>,
    /// The first signal that came meanwhile.
    pub(crate) signal: Option<&'static str>,
}

/// How disks end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// In good order, and for good.
    Stop,
    /// Because others did not start: [`Exported::undo`].
    Undo,
    /// Because this process cannot go on: [`Exported::leave`].
    Leave,
}

/// Ends `disks`, each on a thread of its own, and collects their reports. Signals that come meanwhile are answered and
/// change nothing here.
pub(crate) fn stop_disks(disks: Vec<RunningDisk>, end: End, signals: &Signals) -> Stopped {
    stop_within(disks, end, signals, STOP_LIMIT)
}

fn stop_within(disks: Vec<RunningDisk>, end: End, signals: &Signals, limit: Duration) -> Stopped {
    let names: Vec<String> = disks.iter().map(|disk| disk.name.clone()).collect();
    let (done, reports) = channel();
    for disk in disks {
        begin_stop(disk, end, done.clone());
    }
    drop(done);
    let (mut reports, signal) = collect(&reports, names.len(), signals, limit);
    reports.sort_by_key(|report| names.iter().position(|name| *name == report.name));

    // A transport's sentences name the disk themselves.
    let mut problems: Vec<String> = reports.iter().flat_map(|report| report.problems.clone()).collect();
    for name in names.iter().filter(|name| !reports.iter().any(|report| report.name == **name)) {
        problems.push(format!("disk {name}: did not stop within {} s; `dmesg` may say why", limit.as_secs()));
    }
    Stopped { reports, problems, signal }
}

/// A disk to stop and where to report it.
type Stop = (Box<dyn Exported>, End, Sender<DiskReport>);

/// Stops one disk on a new thread, or right here when there is no thread to be had.
fn begin_stop(disk: RunningDisk, end: End, done: Sender<DiskReport>) {
    let slot = Arc::new(Mutex::new(Some((disk.export, end, done))));
    let theirs = Arc::clone(&slot);
    let spawned = std::thread::Builder::new().name(format!("stop-{}", disk.name)).spawn(move || run(&theirs));
    if spawned.is_err() {
        run(&slot);
    }
}

fn run(slot: &Mutex<Option<Stop>>) {
    let Some((export, end, done)) = slot.lock().ok().and_then(|mut slot| slot.take()) else { return };
    let report = match end {
        End::Stop => export.stop(),
        End::Undo => export.undo(),
        End::Leave => export.leave(),
    };
    // The receiver is gone only when it has given up waiting.
    let _ = done.send(report);
}

fn collect(
    reports: &Receiver<DiskReport>,
    count: usize,
    signals: &Signals,
    limit: Duration,
) -> (Vec<DiskReport>, Option<&'static str>) {
    let deadline = Instant::now() + limit;
    let (mut stopped, mut first) = (Vec::with_capacity(count), None);
    while stopped.len() < count {
        match reports.try_recv() {
            Ok(report) => {
                stopped.push(report);
                continue;
            }
            // Whoever has not reported by now ended without a report.
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) if Instant::now() >= deadline => break,
            Err(TryRecvError::Empty) => {}
        }
        match signals.wait(LOOK_EVERY) {
            Ok(None) => {}
            Ok(Some(signal)) => {
                first = first.or(Some(signal));
                eprintln!("stopping, please wait");
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
    (stopped, first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    enum Fake {
        Good,
        Slow,
        Late,
        Panics,
        Complains,
    }

    impl Exported for (Fake, &'static str) {
        fn device_path(&self) -> Option<PathBuf> {
            None
        }
        fn is_alive(&self) -> bool {
            true
        }
        fn queues(&self) -> Vec<crate::transport::QueueReport> {
            Vec::new()
        }
        fn attached(&self) -> Arc<std::sync::atomic::AtomicBool> {
            Arc::default()
        }
        fn resize(&self) -> Result<(), crate::Error> {
            Ok(())
        }
        fn stop(self: Box<Self>) -> DiskReport {
            let mut problems = Vec::new();
            match self.0 {
                Fake::Good => {}
                Fake::Slow => std::thread::sleep(Duration::from_secs(60)),
                // Long enough for a signal to be seen.
                Fake::Late => std::thread::sleep(Duration::from_millis(100)),
                Fake::Panics => panic!("a disk that panics"),
                Fake::Complains => problems.push("disk d2: stays attached".into()),
            }
            DiskReport { name: self.1.into(), device_path: None, umem: false, queues: Vec::new(), problems }
        }
    }

    fn disk(kind: Fake, name: &'static str) -> RunningDisk {
        let bdev = spinblk_bdev::Null::new(name, 1 << 20, 512, spinblk_bdev::NullReads::Untouched).unwrap();
        RunningDisk { name: name.into(), bdev: Arc::new(bdev), export: Box::new((kind, name)) }
    }

    #[test]
    fn every_disk_is_stopped_whatever_the_others_do() {
        let signals = Signals::block().unwrap();
        let disks = vec![
            disk(Fake::Slow, "d0"),
            disk(Fake::Panics, "d1"),
            disk(Fake::Complains, "d2"),
            disk(Fake::Good, "d3"),
        ];
        let Stopped { reports, problems, .. } =
            stop_within(disks, End::Stop, &signals, Duration::from_secs(1));
        let names: Vec<&str> = reports.iter().map(|report| report.name.as_str()).collect();
        assert_eq!(names, ["d2", "d3"]);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert_eq!(problems[0], "disk d2: stays attached");
        assert!(problems[1].starts_with("disk d0: did not stop"), "{problems:?}");
        assert!(problems[2].starts_with("disk d1: did not stop"), "{problems:?}");
    }

    #[test]
    fn a_second_signal_does_not_end_the_stop() {
        let signals = Signals::block().unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
        let stopped = stop_disks(vec![disk(Fake::Good, "d0"), disk(Fake::Late, "d1")], End::Stop, &signals);
        assert_eq!((stopped.reports.len(), stopped.problems.len(), stopped.signal), (2, 0, Some("SIGTERM")));
    }
}
