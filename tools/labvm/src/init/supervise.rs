//! Running one scenario as a child: its bound, the machine's deadline, orphans, and what the kernel says meanwhile.

use crate::fail::Fail;
use crate::kmsg::{Kmsg, complaint};
use crate::protocol::{Outcome, Planned};
use crate::results::OUT_DIR;
use crate::state::{leftovers, process_report, processes};
use crate::wait::wait_for;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const SETTLE_LIMIT_S: u64 = 5;
const STEP: Duration = Duration::from_millis(50);

/// How a scenario went, and what it left behind.
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) seconds: f64,
    pub(super) message: String,
    pub(super) dirt: Option<String>,
}

/// Reaps every child; knows when the machine has to go home.
///
/// It looks for ended children every now and then: a blocked SIGCHLD, which a signalfd would need, would be blocked
/// in every process that scenarios start as well.
pub(super) struct Supervisor {
    deadline: Instant,
}

impl Supervisor {
    /// The deadline is the whole machine's.
    pub(super) fn new(deadline: Instant) -> Supervisor {
        Supervisor { deadline }
    }

    /// Runs a scenario to its end or its bound, then clears up behind it.
    pub(super) fn run(&self, planned: &Planned) -> Verdict {
        let started = Instant::now();
        println!("== {} ({} s at most)", planned.name, planned.bound_s);
        let kmsg = Kmsg::from_here();
        let bound = self.deadline.min(started + Duration::from_secs(planned.bound_s));
        let (outcome, message) = self.run_child(&planned.name, bound);
        let (outcome, message) =
            match (outcome, complaint(&kmsg.map(|mut log| log.lines()).unwrap_or_default())) {
                (Outcome::Passed, Some(words)) => {
                    (Outcome::Failed, format!("the kernel complained:\n{words}"))
                }
                (outcome, Some(words)) => (outcome, format!("{message}\nthe kernel complained:\n{words}")),
                (outcome, None) => (outcome, message),
            };
        let dirt =
            self.clear_up().or_else(|| (outcome == Outcome::TimedOut).then(|| "it was stopped".to_owned()));
        let (outcome, message) = match (&dirt, outcome) {
            (Some(left), Outcome::Passed) => (Outcome::Failed, format!("it left a mess: {left}")),
            _ => (outcome, message),
        };
        let seconds = started.elapsed().as_secs_f64();
        if outcome == Outcome::Passed {
            println!("== {} passed in {seconds:.1} s", planned.name);
        } else {
            println!("== {} FAILED after {seconds:.1} s: {message}", planned.name);
        }
        Verdict { outcome, seconds, message, dirt }
    }

    fn run_child(&self, name: &str, bound: Instant) -> (Outcome, String) {
        let child = match Command::new("/init").args(["run", name]).current_dir("/tmp").spawn() {
            Ok(child) => Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)),
            Err(error) => return (Outcome::Failed, format!("cannot start /init run {name}: {error}")),
        };
        loop {
            match self.reap_until(child) {
                Some(WaitStatus::Exited(_, 0)) => return (Outcome::Passed, String::new()),
                Some(WaitStatus::Exited(_, 1)) => return (Outcome::Failed, failure_text(name)),
                Some(other) => {
                    return (Outcome::Failed, format!("the scenario's process ended with {other:?}"));
                }
                None if Instant::now() >= bound => {
                    println!("== {name} has reached its bound; every process, and where the stuck ones are:");
                    print!("{}", process_report());
                    return (Outcome::TimedOut, "it reached its bound and was stopped".to_owned());
                }
                None => sleep(STEP),
            }
        }
    }

    /// Reaps whatever ended; gives the status of the awaited child once it is among them.
    fn reap_until(&self, awaited: Pid) -> Option<WaitStatus> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(status) if status.pid() == Some(awaited) => return Some(status),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Kills what the scenario left running; says what cannot be cleared up.
    fn clear_up(&self) -> Option<String> {
        let settled = wait_for("processes to end", SETTLE_LIMIT_S, || {
            let left = processes();
            for pid in &left {
                let _ = kill(Pid::from_raw(i32::try_from(*pid).unwrap_or(i32::MAX)), Signal::SIGKILL);
            }
            let _ = self.reap_until(Pid::from_raw(-1));
            left.is_empty()
        });
        if settled.is_err() {
            return Some(format!("processes that cannot be killed:\n{}", process_report()));
        }
        leftovers()
    }
}

fn failure_text(name: &str) -> String {
    let path = format!("{OUT_DIR}/{name}/failure.txt");
    std::fs::read_to_string(&path).unwrap_or_else(|_| "no reason given".to_owned())
}

/// A shell on the console, until it ends.
pub(super) fn shell() -> Result<(), Fail> {
    println!(
        "A shell in the lab's machine; leave it with Ctrl-D. Modules: modprobe vduse virtio_vdpa virtio_blk ..."
    );
    let console = std::fs::File::options().read(true).write(true).open("/dev/hvc0");
    let stdin = console.map_err(Fail::file("open", std::path::Path::new("/dev/hvc0")))?;
    // Its own session, with the console as controlling terminal, so that Ctrl-C reaches what runs in it.
    let command = "setsid -c sh".to_owned();
    Command::new("/bin/busybox")
        .args(["setsid", "-c", "/bin/busybox", "sh"])
        .env("PS1", "lab# ")
        .stdin(stdin)
        .status()
        .map(drop)
        .map_err(|source| Fail::Start { command, source })
}
