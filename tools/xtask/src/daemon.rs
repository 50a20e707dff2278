//! `spinblk serve` on the host, with the one disk of a machine: started, watched through its log, ended, and asked
//! what it did.

use crate::error::{Error, Result};
use crate::process::{Running, command, interrupted, spawn};
use crate::programs::find;
use labvm::protocol::HostDisk;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Long, because another program may poll the core: a test of this very workspace, say.
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT_S: u64 = 40;
const STEP: Duration = Duration::from_millis(50);
/// What it says when another program has the core; and when a killed one still has the files, whose rings the kernel puts
/// away some time after the process.
const TAKEN: [&str; 2] = ["is already polled by", "is in use by another disk or process"];
const CONNECTED: &str = "a client has connected";
const LEFT: &str = "the client has left";
const COMPLAINTS: [&str; 2] = [" WARN ", " ERROR "];

/// A running spinblk.
pub(crate) struct Daemon {
    running: Running,
    disk: HostDisk,
    log: PathBuf,
    report: PathBuf,
}

impl Daemon {
    /// Starts it on a core that no other reactor has, with what its configuration tells besides that core. Its
    /// configuration, log and report get the stem for a name.
    pub(crate) fn start(program: &Path, disk: HostDisk, given: &str, stem: &Path) -> Result<Daemon> {
        let deadline = Instant::now() + START_LIMIT;
        for core in allowed_cores().into_iter().rev().cycle() {
            let mut daemon = Daemon::spawn_on(core, program, disk, given, stem)?;
            if daemon.wait("`ready`", deadline, |text| text.lines().any(|line| line == "ready"))? {
                return Ok(daemon);
            }
            let text = daemon.text();
            if !TAKEN.iter().any(|words| text.contains(words)) || Instant::now() >= deadline {
                return Err(Error::Lab(format!("spinblk cannot serve on the host:\n{text}")));
            }
            std::thread::sleep(STEP);
        }
        Err(no_core())
    }

    /// Starts it likewise, and waits for nothing: it may not come up.
    pub(crate) fn spawn(program: &Path, disk: HostDisk, given: &str, stem: &Path) -> Result<Daemon> {
        let core = allowed_cores().into_iter().next_back().ok_or_else(no_core)?;
        Daemon::spawn_on(core, program, disk, given, stem)
    }

    fn spawn_on(core: usize, program: &Path, disk: HostDisk, given: &str, stem: &Path) -> Result<Daemon> {
        let (log, report) = (stem.with_extension("log"), stem.with_extension("json"));
        let config = stem.with_extension("toml");
        let text = format!("[reactor]\ncores = [{core}]\nhugepages = \"off\"\n\n{given}");
        fs::write(&config, text).map_err(Error::file("write", &config))?;
        let mut serve = serve(program, &config, &report)?;
        let file = File::create(&log).map_err(Error::file("create", &log))?;
        serve.stderr(file.try_clone().map_err(Error::file("duplicate", &log))?).stdout(file);
        Ok(Daemon { running: spawn(&mut serve)?, disk, log, report })
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.running.ended().is_none()
    }

    /// Waits until it has said that this many clients have left, and that it lives on.
    pub(crate) fn wait_until_left(&mut self, count: usize, limit_s: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(limit_s);
        let what = format!("the leaving of {count} clients");
        if self.wait(&what, deadline, |text| text.matches(LEFT).count() >= count)? {
            return Ok(());
        }
        Err(Error::Lab(format!("spinblk ended with its client:\n{}", self.text())))
    }

    /// Stops it where it is, or lets it go on.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        self.running.signal_now(if is_frozen { Signal::SIGSTOP } else { Signal::SIGCONT });
    }

    /// Kills it, and waits until the kernel has put it away.
    pub(crate) fn kill(mut self) {
        self.running.kill();
    }

    /// Ends it, asks for a clean end after this many clients, and says in a line what it did.
    pub(crate) fn finish(mut self, clients: usize) -> Result<String> {
        let status = self.running.end(STOP_LIMIT_S)?;
        let text = self.text();
        let fault = |what: String| Error::Lab(format!("{what}; its log is {}", self.log.display()));
        match status {
            Some(status) if status.success() => {}
            Some(status) => return Err(fault(format!("spinblk ended with {status}"))),
            None => return Err(fault(format!("spinblk did not end in {STOP_LIMIT_S} s"))),
        }
        if let Some(line) = text.lines().find(|line| COMPLAINTS.iter().any(|level| line.contains(level))) {
            return Err(fault(format!("spinblk complained: {line}")));
        }
        for (event, what) in [(CONNECTED, "have come"), (LEFT, "have left")] {
            let count = text.matches(event).count();
            if count != clients {
                return Err(fault(format!("spinblk says that {count} clients {what}, not {clients}")));
            }
        }
        let report = fs::read_to_string(&self.report).map_err(Error::file("read", &self.report))?;
        let what = || self.report.display().to_string();
        let report = serde_json::from_str(&report).map_err(|source| Error::Json { what: what(), source })?;
        summary(&report, self.disk).map_err(fault)
    }

    /// Waits for something in its log; false if it ended before.
    fn wait(&mut self, what: &str, deadline: Instant, seen: impl Fn(&str) -> bool) -> Result<bool> {
        loop {
            let ended = !self.is_alive();
            let text = self.text();
            match (seen(&text), ended) {
                (_, true) => return Ok(false),
                (true, false) => return Ok(true),
                (false, false) if interrupted() => return Err(Error::Interrupted),
                (false, false) if Instant::now() >= deadline => {
                    return Err(Error::Lab(format!("spinblk did not tell {what} in time:\n{text}")));
                }
                (false, false) => std::thread::sleep(STEP),
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

fn no_core() -> Error {
    Error::Lab("this process may run on no core at all".to_owned())
}

/// It dies with this process, whatever happens to it.
fn serve(program: &Path, config: &Path, report: &Path) -> Result<Command> {
    let setpriv = find("setpriv")?;
    let mut serve = command(&setpriv.to_string_lossy(), ["--pdeathsig", "KILL"]);
    serve.arg(program).args(["--log", "info", "serve", "--config"]).arg(config);
    serve.arg("--report-json").arg(report).env("NO_COLOR", "1");
    Ok(serve)
}

fn allowed_cores() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect()
}

/// What the report tells, in a line; the error is what it should tell and does not.
fn summary(report: &Value, disk: HostDisk) -> Result<String, String> {
    let problems = report["problems"].as_array().is_none_or(|problems| !problems.is_empty());
    if problems {
        return Err(format!("spinblk reports problems: {}", report["problems"]));
    }
    let ours = &report["disks"][0];
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let queues = ours["queues"].as_array().map(Vec::as_slice).unwrap_or_default();
    let requests: Vec<u64> = queues.iter().map(|queue| count(&queue["requests"])).collect();
    if requests.len() != usize::from(disk.queues) || requests.contains(&0) {
        return Err(format!("spinblk's queues served {requests:?} requests"));
    }
    let errors: u64 = ["read", "write", "flush"].iter().map(|op| count(&ours["ops"][op]["errors"])).sum();
    if errors > 0 {
        return Err(format!("spinblk failed {errors} requests"));
    }
    let p50_us = |op: &str| count(&ours["ops"][op]["p50_ns"]) as f64 / 1000.0;
    let each = requests.iter().map(u64::to_string).collect::<Vec<_>>().join(" + ");
    Ok(format!("{each} requests, p50 {:.1} µs read, {:.1} µs write", p50_us("read"), p50_us("write")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use labvm::protocol::Backing;
    use serde_json::json;

    #[test]
    fn every_queue_has_to_have_worked() {
        let disk = HostDisk { size_mib: 1, queues: 2, packed: false, backing: Backing::Malloc };
        let report = |requests: &[u64], problems: &[&str]| {
            let queues: Vec<Value> = requests.iter().map(|count| json!({"requests": count})).collect();
            let ops = json!({"read": {"p50_ns": 1500, "errors": 0}, "write": {"p50_ns": 2500, "errors": 0}});
            json!({"disks": [{"queues": queues, "ops": ops}], "problems": problems})
        };
        assert_eq!(
            summary(&report(&[3, 4], &[]), disk).unwrap(),
            "3 + 4 requests, p50 1.5 µs read, 2.5 µs write"
        );
        assert!(summary(&report(&[3, 0], &[]), disk).unwrap_err().contains("[3, 0]"));
        assert!(summary(&report(&[3], &[]), disk).is_err());
        assert!(summary(&report(&[3, 4], &["x"]), disk).is_err());
        assert!(summary(&json!({}), disk).is_err());
    }
}
