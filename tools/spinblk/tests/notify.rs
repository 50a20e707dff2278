//! `serve` under a service manager: what it tells on the manager's socket, and that a reactor which hangs is no longer
//! vouched for. The manager here is a socket of ours; the reactor is stopped as a debugger stops a thread.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(60);
/// Long enough for a busy machine to give the reactor its turn.
const WATCHDOG_USEC: &str = "4000000";

fn spawn(folder: &Path, with_watchdog: bool) -> Child {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let core = (0..CpuSet::count()).rfind(|&core| set.is_set(core).unwrap()).unwrap();
    let socket = folder.join("d0.sock");
    let disk = format!("name=d0,type=malloc,size=1MiB,transport=vhost-user,socket={}", socket.display());
    let mut command = Command::new(cargo_bin("spinblk"));
    command
        .args(["serve", "--cores", &core.to_string(), "--hugepages", "off", "--disk", &disk])
        .arg("--control")
        .arg(folder.join("c.sock"))
        .env_remove("SPINBLK_LOG")
        .env("NOTIFY_SOCKET", folder.join("notify"))
        .env_remove("WATCHDOG_PID")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if with_watchdog {
        command.env("WATCHDOG_USEC", WATCHDOG_USEC);
    }
    command.spawn().unwrap()
}

/// A service manager with its service.
struct Manager {
    socket: UnixDatagram,
    child: Child,
    stdout: BufReader<ChildStdout>,
    folder: tempfile::TempDir,
}

impl Manager {
    /// Starts the service as soon as no other program has the core.
    fn start(with_watchdog: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let give_up = Instant::now() + LIMIT;
        loop {
            let mut child = spawn(folder.path(), with_watchdog);
            let mut stdout = BufReader::new(child.stdout.take().unwrap());
            let mut lines = String::new();
            while !lines.ends_with("ready\n") && stdout.read_line(&mut lines).unwrap() > 0 {}
            if lines.ends_with("ready\n") {
                return Self { socket, child, stdout, folder };
            }
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            child.wait().unwrap();
            assert!(said.contains("is already polled by") && Instant::now() < give_up, "{said}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn next(&self) -> String {
        let mut bytes = [0; 512];
        let len_bytes = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len_bytes].to_vec()).unwrap()
    }

    /// Waits for a message with these lines.
    fn wait_for(&self, wanted: &str) {
        while !self.next().contains(wanted) {}
    }

    /// Has the service change what it serves.
    fn change(&self, change: &[&str]) {
        let mut ctl = Command::new(cargo_bin("spinblk"));
        let done =
            ctl.arg("ctl").arg("--socket").arg(self.folder.path().join("c.sock")).args(change).output();
        let done = done.unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    /// Throws away what has come so far.
    fn forget(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 512]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    fn reactor_thread(&self) -> Pid {
        let tasks = format!("/proc/{}/task", self.child.id());
        let is_reactor = |task: &std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("comm")).unwrap().starts_with("reactor-")
        };
        let task = std::fs::read_dir(tasks).unwrap().flatten().find(is_reactor).unwrap();
        Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap())
    }

    /// Asks the service to stop; every message until its end.
    fn stop(mut self) -> Vec<String> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.socket.set_nonblocking(true).unwrap();
        let mut messages = Vec::new();
        let mut bytes = [0; 512];
        while let Ok(len_bytes) = self.socket.recv(&mut bytes) {
            messages.push(String::from_utf8(bytes[..len_bytes].to_vec()).unwrap());
        }
        messages
    }
}

#[test]
fn a_reactor_that_hangs_stops_the_watchdog_from_being_fed() {
    let manager = Manager::start(true);
    manager.wait_for("READY=1\nSTATUS=serving 1 disk\n");
    manager.wait_for("WATCHDOG=1");
    // Again: it is fed for as long as the reactor lives.
    manager.wait_for("WATCHDOG=1");

    let reactor = manager.reactor_thread();
    ptrace::seize(reactor, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(reactor).unwrap();
    waitpid(reactor, Some(WaitPidFlag::__WALL)).unwrap();
    manager.forget();
    // This may be of a beat that the reactor had answered already; those after it cannot.
    manager.next();
    for _ in 0..2 {
        let message = manager.next();
        assert!(message.contains("STATUS=the reactor on core"), "{message}");
        assert!(!message.contains("WATCHDOG"), "{message}");
    }

    ptrace::detach(reactor, None).unwrap();
    manager.wait_for("WATCHDOG=1");
    let messages = manager.stop();
    assert!(messages.contains(&"STOPPING=1\nSTATUS=stopping after SIGTERM\n".to_string()), "{messages:?}");
}

#[test]
fn without_a_watchdog_only_ready_and_stopping_are_told() {
    let manager = Manager::start(false);
    manager.wait_for("READY=1\nSTATUS=serving 1 disk\n");
    let messages = manager.stop();
    assert_eq!(messages, ["STOPPING=1\nSTATUS=stopping after SIGTERM\n"]);
}

#[test]
fn the_count_of_disks_follows_what_is_served() {
    let manager = Manager::start(false);
    manager.wait_for("READY=1\nSTATUS=serving 1 disk\n");
    let socket = manager.folder.path().join("d1.sock");
    let disk = format!("name=d1,type=malloc,size=1MiB,transport=vhost-user,socket={}", socket.display());
    manager.change(&["disk", "add", &disk]);
    assert_eq!(manager.next(), "STATUS=serving 2 disks\n");
    manager.change(&["disk", "remove", "d1"]);
    assert_eq!(manager.next(), "STATUS=serving 1 disk\n");
    manager.stop();
}
