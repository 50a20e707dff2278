//! `serve` with a control socket and metrics, and `ctl` beside it, as a user has them.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// A daemon with one vhost-user disk.
struct Daemon {
    folder: tempfile::TempDir,
    child: Child,
    stdout: BufReader<ChildStdout>,
}

fn spawn(folder: &Path) -> Child {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let core = (0..CpuSet::count()).rfind(|&core| set.is_set(core).unwrap()).unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "[reactor]\ncores = [{core}]\nhugepages = \"off\"\n[control]\nsocket = \"{}\"\nmetrics = \"unix:{}\"\n\
         [[disk]]\nname = \"d0\"\ntype = \"malloc\"\nsize = \"1MiB\"\ntransport = \"vhost-user\"\nsocket = \"{}\"\n",
        at("control.sock"),
        at("not used"),
        at("d0.sock"),
    );
    std::fs::write(folder.join("s.toml"), text).unwrap();
    Command::new(cargo_bin("spinblk"))
        .args(["serve", "--config", &at("s.toml"), "--metrics", &format!("unix:{}", at("metrics.sock"))])
        .env_remove("SPINBLK_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Starts it as soon as no other program has the core.
fn start() -> Daemon {
    let folder = tempfile::tempdir().unwrap();
    let give_up = Instant::now() + LIMIT;
    loop {
        let mut child = spawn(folder.path());
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut lines = String::new();
        while !lines.ends_with("ready\n") && stdout.read_line(&mut lines).unwrap() > 0 {}
        if lines.ends_with("ready\n") {
            return Daemon { folder, child, stdout };
        }
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert!(said.contains("is already polled by") && Instant::now() < give_up, "{said}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Daemon {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        let socket = self.at("control.sock");
        Command::new(cargo_bin("spinblk"))
            .arg("ctl")
            .args(args)
            .env("SPINBLK_CONTROL", socket)
            .output()
            .unwrap()
    }

    fn ctl(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ctl(&[args, &["--json"]].concat())).unwrap()
    }

    /// Asks until the disk is attached, or not.
    fn wait_attached(&self, wanted: bool) {
        let give_up = Instant::now() + LIMIT;
        while self.json(&["disks"])["disks"][0]["attached"] != wanted {
            assert!(Instant::now() < give_up);
        }
    }

    /// Ends it; what it said on stderr, and whether all was well.
    fn stop(mut self) -> (bool, String) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let left: Vec<_> = ["control.sock", "metrics.sock"].map(|name| self.at(name).exists()).to_vec();
        assert_eq!(left, [false, false]);
        (self.child.wait().unwrap().success(), err)
    }
}

#[test]
fn a_daemon_is_asked_while_it_serves() {
    let daemon = start();
    let disk = &daemon.json(&["disks"])["disks"][0];
    assert_eq!(
        (&disk["name"], &disk["type"], &disk["transport"]),
        (&"d0".into(), &"malloc".into(), &"vhost-user".into())
    );
    assert_eq!(
        (disk["size_bytes"].as_u64(), disk["path"].as_str()),
        (Some(1 << 20), daemon.at("d0.sock").to_str())
    );
    daemon.wait_attached(false);
    let guest = UnixStream::connect(daemon.at("d0.sock")).unwrap();
    daemon.wait_attached(true);
    drop(guest);
    daemon.wait_attached(false);

    // Published every thousand iterations.
    let iterations = || daemon.json(&["reactors"])["reactors"][0]["iterations"].as_u64().unwrap();
    let give_up = Instant::now() + LIMIT;
    let before = iterations();
    while iterations() <= before {
        assert!(Instant::now() < give_up);
    }
    assert!(daemon.ctl(&["reactors"]).contains("busy %"));
    assert!(daemon.ctl(&["bdevs"]).contains("write-zeroes"));
    assert!(daemon.ctl(&["stats", "d0"]).contains("d0 queue 0 on core"));
    assert!(daemon.ctl(&["hist", "d0", "--op", "read"]).contains("p99.9"));
    assert!(daemon.ctl(&["slow", "d0", "--queue", "0", "--since", "0"]).contains("found by itself"));
    assert_eq!(daemon.ctl(&["threshold", "d0", "2ms"]), "d0: slow is over 2.00 ms, in 1 queue(s)\n");
    assert!(daemon.ctl(&["slow"]).contains("slow is over 2.00 ms, set"));
    assert!(daemon.ctl(&["reset"]).starts_with("counting from now on"));
    assert!(daemon.ctl(&["version"]).starts_with("spinblk "));
    let raw = daemon
        .ctl(&["raw", r#"[{"jsonrpc":"2.0","id":5,"method":"version"},{"jsonrpc":"2.0","method":"x"}]"#]);
    assert_eq!(serde_json::from_str::<Value>(&raw).unwrap()[0]["id"], 5);

    let mut scraper = UnixStream::connect(daemon.at("metrics.sock")).unwrap();
    scraper.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut metrics = String::new();
    scraper.read_to_string(&mut metrics).unwrap();
    assert!(metrics.contains("spinblk_disk_size_bytes{disk=\"d0\"} 1048576"), "{metrics}");
    assert!(!daemon.at("not used").exists(), "the flag goes before the file");

    assert_eq!(
        daemon.ctl(&["log", "spinblk_vhost_user=info"]),
        "logs spinblk_vhost_user=info, no longer warn\n"
    );
    let guest = UnixStream::connect(daemon.at("d0.sock")).unwrap();
    daemon.wait_attached(true);
    drop(guest);
    let (well, err) = daemon.stop();
    assert!(well && err.matches("a client has connected").count() == 1, "{err}");
}

#[test]
fn what_ctl_cannot_do_is_one_line() {
    let daemon = start();
    let cases: [(&[&str], &str); 5] = [
        (
            &["stats", "d9"],
            "the daemon refuses stats: invalid params: disk: there is no such disk; there are: d0",
        ),
        (&["threshold", "d9", "1ms"], "there is no such disk"),
        (&["log", "a=b=c"], "the daemon refuses log_level: invalid params: filter: "),
        (&["raw", "{"], "this is no JSON"),
        (&["raw", r#"{"jsonrpc":"2.0","method":"reset"}"#], "give it one"),
    ];
    for (args, why) in cases {
        let output = daemon.run(args);
        let line = text(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}");
        assert!(line.starts_with("error: ") && line.contains(why) && line.lines().count() == 1, "{line}");
    }
    let second = Command::new(cargo_bin("spinblk"))
        .args(["ctl", "disks", "--socket", daemon.at("none.sock").to_str().unwrap()])
        .output()
        .unwrap();
    assert!(text(&second.stderr).contains("is `spinblk serve --control"), "{}", text(&second.stderr));
    assert!(daemon.stop().0);
}

#[test]
fn a_daemon_that_was_killed_leaves_a_socket_that_is_replaced() {
    let mut daemon = start();
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    assert!(daemon.at("control.sock").exists());
    std::fs::remove_file(daemon.at("d0.sock")).unwrap();
    let give_up = Instant::now() + LIMIT;
    // The core is free as soon as the kernel has put the process away.
    let mut child = loop {
        let mut child = spawn(daemon.folder.path());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.starts_with("d0: ") {
            break child;
        }
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert!(said.contains("is already polled by") && Instant::now() < give_up, "{said}");
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(daemon.json(&["disks"])["disks"][0]["name"], "d0");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!daemon.at("control.sock").exists());
}

#[test]
fn addresses_that_will_not_do_are_told_before_anything_starts() {
    let run = |args: &[&str]| {
        let disk = ["serve", "--cores", "0", "--disk", "name=d0,type=null,size=1M"];
        let output = Command::new(cargo_bin("spinblk")).args([&disk, args].concat()).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let long = format!("/{}", "x".repeat(107));
    let cases: [(&[&str], &str); 4] = [
        (&["--metrics", "9500"], "--metrics 9500: wanted: ADDRESS:PORT such as 127.0.0.1:9500, or unix:PATH"),
        (&["--metrics", "unix:"], "--metrics unix:: wanted: "),
        (&["--control", ""], "--control : wanted: the path of a unix socket, at most 107 bytes"),
        (&["--control", &long], "at most 107 bytes"),
    ];
    for (args, why) in cases {
        let (code, line) = run(args);
        assert_eq!((code, line.lines().count()), (Some(2), 1), "{line}");
        assert!(line.contains(why), "{line}");
    }
}
