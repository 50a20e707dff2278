//! A daemon with a vhost-user disk, a client of its control socket, and load for its disks.

// Each test file uses a part of it.
#![allow(dead_code, clippy::needless_pass_by_value, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

pub const LIMIT: Duration = Duration::from_secs(60);

fn cores() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap()).collect()
}

/// One test at a time has the core.
static CORE: Mutex<()> = Mutex::new(());

pub struct Daemon {
    _guard: MutexGuard<'static, ()>,
    folder: tempfile::TempDir,
    /// The one that it polls.
    pub core: usize,
    child: Child,
    stdout: BufReader<ChildStdout>,
}

/// The keys of another disk.
pub fn disk_keys(daemon: &Daemon, name: &str) -> Value {
    let socket = daemon.at(&format!("{name}.sock"));
    json!({ "name": name, "type": "malloc", "size": "8MiB", "transport": "vhost-user", "socket": socket })
}

/// Starts `spinblk serve` with a file, as soon as no other program has its core.
fn spawn(folder: &Path, config: &Path) -> (Child, BufReader<ChildStdout>) {
    let give_up = Instant::now() + LIMIT;
    loop {
        let mut command = Command::new(cargo_bin("spinblk"));
        command.arg("serve").arg("--config").arg(config).arg("--report-json").arg(folder.join("report.json"));
        command.env_remove("SPINBLK_LOG").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut lines = String::new();
        while !lines.ends_with("ready\n") && stdout.read_line(&mut lines).unwrap() > 0 {}
        if lines.ends_with("ready\n") {
            return (child, stdout);
        }
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert!(said.contains("is already polled by") && Instant::now() < give_up, "{said}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Daemon {
    /// With `d0`, and what else `text` says.
    pub fn start(text: &str) -> Self {
        let guard = CORE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let core = *cores().last().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (control, metrics, socket) = (at("control.sock"), at("metrics.sock"), at("d0.sock"));
        let text = format!(
            "[reactor]\ncores = [{core}]\nhugepages = \"off\"\n[control]\nsocket = {control:?}\n\
             metrics = \"unix:{}\"\n{text}[[disk]]\nname = \"d0\"\ntype = \"malloc\"\nsize = \"8MiB\"\n\
             transport = \"vhost-user\"\nsocket = {socket:?}\n",
            metrics.display()
        );
        std::fs::write(at("s.toml"), text).unwrap();
        let (child, stdout) = spawn(folder.path(), &at("s.toml"));
        Self { _guard: guard, folder, core, child, stdout }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn client(&self) -> Client {
        let stream = UnixStream::connect(self.at("control.sock")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client { stream }
    }

    pub fn metrics(&self) -> String {
        let mut scraper = UnixStream::connect(self.at("metrics.sock")).unwrap();
        scraper.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        scraper.read_to_string(&mut text).unwrap();
        text
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(cargo_bin("spinblk"));
        command.arg("ctl").args(args).env("SPINBLK_CONTROL", self.at("control.sock"));
        command.output().unwrap()
    }

    pub fn ctl(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says to what it does not do.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ctl(&[args, &["--json"]].concat())).unwrap()
    }

    fn end(&mut self) -> Value {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert!(self.child.wait().unwrap().success(), "{out}{err}");
        assert!(!self.at("control.sock").exists());
        serde_json::from_slice(&std::fs::read(self.at("report.json")).unwrap()).unwrap()
    }

    /// Ends it; gives its report.
    pub fn stop(mut self) -> Value {
        self.end()
    }

    /// Ends it and starts another with the file `config`.
    pub fn restart(mut self, config: &Path) -> Self {
        self.end();
        (self.child, self.stdout) = spawn(self.folder.path(), config);
        self
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Of a test that failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that knows nothing of the types.
pub struct Client {
    pub stream: UnixStream,
}

impl Client {
    pub fn ask(&mut self, method: &str, params: Value) {
        let request = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        self.stream.write_all(request.to_string().as_bytes()).unwrap();
    }

    pub fn notify(&mut self, method: &str, params: Value) {
        let request = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        self.stream.write_all(request.to_string().as_bytes()).unwrap();
    }

    /// The next answer; `None` when the daemon has closed.
    pub fn answer(&mut self) -> Option<Value> {
        let next = serde_json::Deserializer::from_reader(&mut self.stream).into_iter().next();
        next.and_then(Result::ok)
    }

    /// The result of a method, or its error.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.ask(method, params);
        let mut answer = self.answer().unwrap();
        match answer.get_mut("error") {
            Some(error) => Err(error.take()),
            None => Ok(answer["result"].take()),
        }
    }
}

/// Writes a disk and reads it back, from another core than the daemon's where there is one.
fn perf(daemon: &Daemon, disk: &str, seconds: &str) -> Child {
    let mut command = Command::new(cargo_bin("spinblk"));
    let target = format!("vhost-user:{}", daemon.at(&format!("{disk}.sock")).display());
    command.args([
        "perf",
        "--target",
        &target,
        "--rw",
        "randwrite",
        "--verify",
        "--qd",
        "8",
        "--warmup-s",
        "0",
    ]);
    command.args(["--cores", &cores()[0].to_string(), "--completions", "interrupt", "--time-s", seconds]);
    command.env_remove("SPINBLK_LOG").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Everything that it said; `None` where another program had its core.
fn finish(child: Child) -> Option<String> {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (!said.contains("is already polled by")).then_some(said)
}

/// Has a disk written and read back, and finds nothing wrong.
pub fn verify(daemon: &Daemon, disk: &str) {
    let give_up = Instant::now() + LIMIT;
    loop {
        if let Some(said) = finish(perf(daemon, disk, "0.2")) {
            assert!(said.contains("verify: ") && said.contains(" 0 wrong"), "{said}");
            return;
        }
        assert!(Instant::now() < give_up);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Puts a disk under load, and returns when a thousand requests have been seen.
pub fn load(daemon: &Daemon, disk: &str) -> Child {
    let give_up = Instant::now() + LIMIT;
    let mut client = daemon.client();
    let mut child = perf(daemon, disk, "100");
    while requests(&mut client, disk) < Some(1000) {
        if child.try_wait().unwrap().is_some() {
            assert_eq!(finish(child), None);
            std::thread::sleep(Duration::from_millis(100));
            child = perf(daemon, disk, "100");
        }
        assert!(Instant::now() < give_up);
    }
    child
}

/// What the first queue of a disk has done; `None` when the disk is gone.
pub fn requests(client: &mut Client, disk: &str) -> Option<u64> {
    let stats = client.call("stats", json!({ "disk": disk })).ok()?;
    stats["disks"][0]["queues"][0]["requests"].as_u64()
}
