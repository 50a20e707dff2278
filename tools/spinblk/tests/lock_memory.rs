//! `lock_memory` from outside: what the kernel says is locked, and what a user is told where it is not allowed.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// The rights with which the program runs.
#[derive(Clone, Copy, PartialEq)]
enum Rights {
    /// Those of this test.
    Ours,
    /// A limit of 8 MiB, and for root none of the rights that stand above limits.
    Limited,
}

fn spawn(mode: &str, rights: Rights) -> Child {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let core = (0..CpuSet::count()).rfind(|&core| set.is_set(core).unwrap()).unwrap();
    let folder = std::env::temp_dir();
    let socket = folder.join(format!("lock-memory-{mode}-{}.sock", std::process::id()));
    let disk = format!("name=d0,type=malloc,size=1MiB,transport=vhost-user,socket={}", socket.display());
    let mut command = Command::new("env");
    if rights == Rights::Limited {
        command.args(["prlimit", "--memlock=8388608:8388608"]);
        if geteuid().is_root() {
            command.args(["setpriv", "--bounding-set", "-ipc_lock,-sys_resource"]);
        }
    }
    command
        .arg(cargo_bin("spinblk"))
        .args(["serve", "--cores", &core.to_string(), "--hugepages", "off", "--disk", &disk])
        .args(["--lock-memory", mode])
        .env_remove("SPINBLK_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs it until it is ready, then ends it. Whether it was ready, what was locked then, and what it said on stderr.
fn run(mode: &str, rights: Rights) -> (bool, String, String) {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let mut child = spawn(mode, rights);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut lines = String::new();
        while !lines.ends_with("ready\n") && stdout.read_line(&mut lines).unwrap() > 0 {}
        let ready = lines.ends_with("ready\n");
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap_or_default();
        if ready {
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        }
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        stdout.read_to_string(&mut lines).unwrap();
        child.wait().unwrap();
        if ready || !said.contains("is already polled by") || Instant::now() > give_up {
            return (ready, locked.trim().into(), said);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn without_the_right_there_is_a_warning_or_an_end_or_nothing() {
    let (ready, locked, said) = run("try", Rights::Limited);
    assert!(ready && locked == "0 kB", "{locked} {said}");
    assert!(said.contains("warning: memory is not locked and may be swapped out: RLIMIT_MEMLOCK"), "{said}");
    assert!(said.contains("LimitMEMLOCK=infinity"), "{said}");

    let (ready, _, said) = run("require", Rights::Limited);
    assert!(
        !ready && said.contains("error: lock_memory is \"require\", but memory cannot be locked"),
        "{said}"
    );

    let (ready, locked, said) = run("off", Rights::Limited);
    assert!(ready && locked == "0 kB" && !said.contains("warning"), "{locked} {said}");
}

#[test]
fn with_the_right_memory_is_locked() {
    let (ready, locked, said) = run("require", Rights::Ours);
    // Whoever runs this may have no such right, and is told so.
    assert_eq!(ready, !said.contains("memory cannot be locked"), "{said}");
    assert_eq!(ready, !matches!(locked.as_str(), "" | "0 kB"), "{locked} {said}");
}
