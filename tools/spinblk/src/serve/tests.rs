//! Tests of a whole life of `serve`, on a real reactor and with a transport that has no kernel behind it.

mod changes;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use nix::sys::signal::{Signal, raise};
use spinblk_perf::QueueBoard;
use spinblk_reactor::Handle;

use super::*;
use crate::config::{Flags, Via};
use crate::transport::{DiskReport, Exported, QueueReport};

/// What happens when the disk of this number (from 0) is started.
enum Then {
    Signal,
    Refuse,
    KillReactor,
}

struct Fake {
    at: usize,
    then: Then,
    started: AtomicUsize,
    stopped: Arc<AtomicUsize>,
    /// How the last disk ended.
    end: Arc<Mutex<Option<End>>>,
    /// Guests told of another size.
    told: Arc<AtomicUsize>,
    problem: bool,
}

impl Fake {
    fn new(at: usize, then: Then) -> Self {
        let (stopped, end, told) = (Arc::default(), Arc::default(), Arc::default());
        Self { at, then, started: AtomicUsize::new(0), stopped, end, told, problem: false }
    }

    fn end(&self) -> Option<End> {
        *self.end.lock().unwrap()
    }

    fn counts(&self) -> (usize, usize) {
        (self.started.load(Ordering::SeqCst), self.stopped.load(Ordering::SeqCst))
    }
}

impl Transport for Fake {
    fn check(&self, _: &[Disk]) -> Result<(), Error> {
        Ok(())
    }

    fn start(
        &self,
        disk: &Disk,
        _: &Config,
        bdev: Arc<dyn Bdev>,
        reactors: &[Arc<Handle>],
    ) -> Result<Box<dyn Exported>, Error> {
        assert_eq!((bdev.info().size_bytes(), reactors.len()), (1 << 20, 1));
        if self.started.load(Ordering::SeqCst) == self.at {
            match self.then {
                // Goes to this thread, which is the one that waits for it.
                Then::Signal => raise(Signal::SIGTERM).unwrap(),
                Then::Refuse => {
                    let (name, reason) = (disk.name.clone(), "no more".into());
                    return Err(spinblk_vduse::Error::Spec { name, reason }.into());
                }
                Then::KillReactor => {
                    let _ = reactors[0].call(Duration::from_secs(5), |_| panic!("a reactor that dies"));
                }
            }
        }
        self.started.fetch_add(1, Ordering::SeqCst);
        let (stopped, problem) = (Arc::clone(&self.stopped), self.problem);
        Ok(Box::new(FakeExport {
            name: disk.name.clone(),
            core: reactors[0].core(),
            _reactors: reactors.to_vec(),
            stopped,
            end: Arc::clone(&self.end),
            told: Arc::clone(&self.told),
            problem,
        }))
    }
}

struct FakeExport {
    name: String,
    core: usize,
    _reactors: Vec<Arc<Handle>>,
    stopped: Arc<AtomicUsize>,
    end: Arc<Mutex<Option<End>>>,
    told: Arc<AtomicUsize>,
    problem: bool,
}

impl FakeExport {
    fn end(&self, end: End) -> DiskReport {
        *self.end.lock().unwrap() = Some(end);
        self.stopped.fetch_add(1, Ordering::SeqCst);
        DiskReport {
            name: self.name.clone(),
            device_path: self.device_path(),
            umem: false,
            queues: self.queues(),
            problems: self.problem.then(|| "stays attached".into()).into_iter().collect(),
        }
    }
}

impl Exported for FakeExport {
    fn device_path(&self) -> Option<PathBuf> {
        Some("/dev/vdx".into())
    }

    fn is_alive(&self) -> bool {
        true
    }

    fn queues(&self) -> Vec<QueueReport> {
        vec![QueueReport { index: 0, core: self.core, board: Arc::new(QueueBoard::new()) }]
    }

    fn attached(&self) -> Arc<AtomicBool> {
        Arc::default()
    }

    fn resize(&self) -> Result<(), Error> {
        self.told.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn stop(self: Box<Self>) -> DiskReport {
        self.end(End::Stop)
    }

    fn undo(self: Box<Self>) -> DiskReport {
        self.end(End::Undo)
    }

    fn leave(self: Box<Self>) -> DiskReport {
        self.end(End::Leave)
    }
}

/// One test at a time has the core.
fn core() -> (usize, MutexGuard<'static, ()>) {
    static CORE: Mutex<()> = Mutex::new(());
    let guard = CORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    (crate::cores::allowed_cores()[0], guard)
}

fn run(disks: usize, options: &Options, fake: &Fake) -> Result<(), Error> {
    let (core, _guard) = core();
    let disks = (0..disks).map(|i| format!("name=d{i},type=null,size=1M")).collect();
    let flags = Flags { cores: Some(core.to_string()), disks, ..Flags::default() };
    let config = Config::from_flags(&flags).unwrap();
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        match serve(&config, options, fake) {
            // Another program on this machine has the core for now.
            Err(Error::Reactor(spinblk_reactor::Error::CoreBusy { .. })) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(200));
            }
            other => return other,
        }
    }
}

#[test]
fn a_signal_stops_every_disk_and_a_report_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.json");
    let fake = Fake::new(2, Then::Signal);
    run(3, &Options { report_json: Some(report.clone()), ..Options::default() }, &fake).unwrap();
    assert_eq!((fake.counts(), fake.end()), ((3, 3), Some(End::Stop)));
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(json["disks"].as_array().unwrap().len(), 3);
    assert_eq!(json["disks"][2]["name"], "d2");
    assert!(json["reactors"][0]["iterations"].as_u64().unwrap() > 0);
}

#[test]
fn a_signal_during_the_start_ends_it_there() {
    let fake = Fake::new(0, Then::Signal);
    run(3, &Options::default(), &fake).unwrap();
    assert_eq!(fake.counts(), (1, 1));
}

#[test]
fn when_the_third_disk_fails_the_first_two_are_stopped() {
    let fake = Fake::new(2, Then::Refuse);
    let error = run(4, &Options::default(), &fake).unwrap_err();
    assert_eq!(error.one_line(), "disk d2: no more");
    assert_eq!((fake.counts(), fake.end()), ((2, 2), Some(End::Undo)));
}

#[test]
fn a_dead_reactor_ends_the_program() {
    let fake = Fake::new(0, Then::KillReactor);
    let error = run(1, &Options::default(), &fake).unwrap_err();
    assert!(matches!(error, Error::ReactorDied { .. }), "{error}");
    assert_eq!((fake.counts(), fake.end()), ((1, 1), Some(End::Leave)));
}

#[test]
fn a_problem_at_the_end_is_a_failure() {
    let fake = Fake { problem: true, ..Fake::new(0, Then::Signal) };
    let error = run(2, &Options::default(), &fake).unwrap_err();
    assert!(matches!(error, Error::Stop { count: 1 }), "{error}");
}

#[test]
fn a_file_that_is_in_use_is_waited_for() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let disk = format!("name=d0,type=aio,path={}", file.path().display());
    let flags = Flags { cores: Some("1".into()), disks: vec![disk], ..Flags::default() };
    let config = Config::from_flags(&flags).unwrap();
    let open = |deadline| open_once_free(&config.disks[0], Making::Really(config.hugepages), deadline);
    let user = open(Instant::now()).unwrap();
    let refused = open(Instant::now()).err().unwrap();
    assert!(refused.to_string().contains("in use"), "{refused}");
    let user = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(user);
    });
    open(Instant::now() + Duration::from_secs(60)).unwrap();
    user.join().unwrap();
}

#[test]
fn a_disk_is_described_in_one_line() {
    let disk = "name=d0,type=malloc,size=256MiB,queues=2,read-only=true".to_string();
    let flags = Flags { cores: Some("1,2,3".into()), disks: vec![disk], ..Flags::default() };
    let config = Config::from_flags(&flags).unwrap();
    let info = |size_bytes| Info { read_only: true, ..Info::new("d0", size_bytes, 512).unwrap() };
    let line = describe(&config.disks[0], &info(256 << 20), Some("/dev/vda".into()));
    assert_eq!(line, "d0: /dev/vda, malloc 256 MiB read-only, 2 queues of 256 on cores 1, 2, virtio-vdpa");
    let via = Via::VhostUser { socket: "/run/d0.sock".into() };
    let disk = Disk { via, ..config.disks[0].clone() };
    let line = describe(&disk, &info(1 << 30), Some("/run/d0.sock".into()));
    assert_eq!(line, "d0: /run/d0.sock, malloc 1 GiB read-only, 2 queues of 256 on cores 1, 2, vhost-user");
}
