//! A daemon with vhost-user disks, and the load generator over one of them, as processes.

// Each test file uses a part of it.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

pub const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks, or two tries to get a core.
pub const PAUSE: Duration = Duration::from_millis(100);
static CORES: Mutex<()> = Mutex::new(());

/// Held by the test of a file that has the cores.
pub fn hold_cores() -> MutexGuard<'static, ()> {
    CORES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that ends with the test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last two cores that this process may run on.
pub fn cores() -> [usize; 2] {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut allowed = (0..CpuSet::count()).rev().filter(|&core| set.is_set(core).unwrap());
    let last = allowed.next().unwrap();
    [allowed.next().expect("this test needs two cores: one serves, one makes the load"), last]
}

/// Starts the program as soon as no other one has its core; `is_up` waits until it is up or has ended.
pub fn start(program: &Path, args: &[&str], is_up: impl Fn(&mut Child) -> bool) -> Running {
    let give_up = Instant::now() + LIMIT;
    loop {
        let mut command = Command::new(program);
        command.args(args).env_remove("SPINBLK_LOG").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Running(command.spawn().unwrap());
        if is_up(&mut running.0) {
            return running;
        }
        let mut said = String::new();
        running.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("is already polled by") && Instant::now() < give_up, "{said}");
        std::thread::sleep(PAUSE);
    }
}

/// A daemon with the disks d0 and d1.
pub fn serve(folder: &Path) -> Running {
    let at = |name: &str| folder.join(name).display().to_string();
    let disk = |name: &str| {
        let socket = at(&format!("{name}.sock"));
        format!("name={name},type=malloc,size=8MiB,transport=vhost-user,socket={socket}")
    };
    let (core, control) = (cores()[1].to_string(), at("control.sock"));
    let args = [
        "serve",
        "--cores",
        &core,
        "--hugepages",
        "off",
        "--control",
        &control,
        "--disk",
        &disk("d0"),
        "--disk",
        &disk("d1"),
    ];
    start(&cargo_bin("spinblk"), &args, is_ready)
}

/// Waits until a daemon says that it is.
pub fn is_ready(child: &mut Child) -> bool {
    let mut lines = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    let mut stdout = BufReader::new(stdout);
    while !lines.ends_with("ready\n") && stdout.read_line(&mut lines).unwrap() > 0 {}
    lines.ends_with("ready\n")
}

/// Reads from d0 until it is dropped.
pub fn load(folder: &Path) -> Running {
    let target = format!("vhost-user:{}", folder.join("d0.sock").display());
    let core = cores()[0].to_string();
    let args = ["perf", "--target", &target, "--qd", "4", "--cores", &core, "--time-s", "86400"];
    let control = folder.join("control.sock");
    let give_up = Instant::now() + LIMIT;
    let is_attached = |child: &mut Child| loop {
        let mut disks = Command::new(cargo_bin("spinblk"));
        let said = disks.args(["ctl", "disks", "--socket"]).arg(&control).output().unwrap().stdout;
        let said = String::from_utf8(said).unwrap();
        if said.lines().any(|line| line.trim_start().starts_with("d0 ") && line.contains(" yes ")) {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < give_up, "the load does not come:\n{said}");
        std::thread::sleep(PAUSE);
    };
    start(&cargo_bin("spinblk"), &args, is_attached)
}
