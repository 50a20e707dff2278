//! A vhost-user disk from outside: the program makes the socket, answers on it, and puts it away at the end.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn some_core() -> usize {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).rfind(|&core| set.is_set(core).unwrap()).unwrap()
}

fn spawn(socket: &Path) -> Child {
    let disk =
        format!("name=d0,type=malloc,size=1MiB,queues=2,transport=vhost-user,socket={}", socket.display());
    Command::new(cargo_bin("spinblk"))
        .args(["serve", "--cores", &some_core().to_string(), "--hugepages", "off", "--disk", &disk])
        .env_remove("SPINBLK_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Everything that a program says until it ends.
fn finish(mut child: Child, mut stdout: impl Read) -> (ExitStatus, String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    stdout.read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (child.wait().unwrap(), out, err)
}

/// Starts it as soon as no other program has the core. `Err` with what it said when it ends before it is ready.
fn start(socket: &Path) -> Result<(Child, BufReader<std::process::ChildStdout>, String), String> {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let mut child = spawn(socket);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut lines = String::new();
        while !lines.ends_with("ready\n") && stdout.read_line(&mut lines).unwrap() > 0 {}
        if lines.ends_with("ready\n") {
            return Ok((child, stdout, lines));
        }
        let (_, _, err) = finish(child, stdout);
        if !err.contains("is already polled by") || Instant::now() > give_up {
            return Err(err);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_disk_is_served_on_its_socket_until_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("d0.sock");
    let (child, stdout, lines) = start(&socket).unwrap();
    let path = socket.display();
    let core = some_core();
    assert_eq!(
        lines,
        format!("d0: {path}, malloc 1 MiB, 2 queues of 256 on core {core}, vhost-user\nready\n")
    );
    let mut client = UnixStream::connect(&socket).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (mut get_features, mut reply) = (vec![1, 0, 0, 0, 1], [0; 20]);
    get_features.resize(12, 0);
    client.write_all(&get_features).unwrap();
    client.read_exact(&mut reply).unwrap();
    let features = u64::from_le_bytes(reply[12..].try_into().unwrap());
    assert_ne!(features & (1 << 32), 0, "{features:#x}");
    // With the client still there.
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let (status, out, err) = finish(child, stdout);
    assert!(status.success(), "{err}");
    assert!(out.contains(&format!("d0 ({path})")) && !socket.exists(), "{out}");
}

#[test]
fn a_socket_that_cannot_be_had_is_told_with_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let error = start(&file).unwrap_err();
    assert!(error.contains("exists and is not a socket; remove it or choose another path"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"text");
    let error = start(&folder.path().join("no/d0.sock")).unwrap_err();
    assert!(error.contains("make its directory first"), "{error}");
}
