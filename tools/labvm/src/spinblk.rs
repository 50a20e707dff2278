//! A `spinblk serve` under test: starting it, stopping it, reading the report that it writes at its end.

use crate::command::{Cmd, Job, tail};
use crate::fail::{Fail, ensure};
use crate::lab::Lab;
use crate::state::{leftovers, mappings, open_fds, text_of};
use crate::vdpa;
use crate::wait::wait_for;
use nix::sys::signal::Signal;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const START_LIMIT_S: u64 = 40;
const STOP_LIMIT_S: u64 = 40;

/// One disk on the command line.
#[derive(Clone)]
pub(crate) struct Disk {
    name: String,
    options: Vec<String>,
}

impl Disk {
    fn new(name: &str, kind: &str) -> Disk {
        Disk { name: name.to_owned(), options: vec![format!("name={name}"), format!("type={kind}")] }
            .set("queues", 2)
            .set("queue-size", 256)
            .set("driver", "virtio-vdpa")
    }

    /// Zeroes of no substance.
    pub(crate) fn null(name: &str, size_mib: u64) -> Disk {
        Disk::new(name, "null").set("size", format!("{size_mib}MiB"))
    }

    /// A disk in RAM.
    pub(crate) fn malloc(name: &str, size_mib: u64) -> Disk {
        Disk::new(name, "malloc").set("size", format!("{size_mib}MiB"))
    }

    /// A file or a block device.
    pub(crate) fn aio(name: &str, path: &Path) -> Disk {
        Disk::new(name, "aio").set("path", path.display())
    }

    /// Sets an option, in place of an earlier value.
    pub(crate) fn set(mut self, key: &str, value: impl std::fmt::Display) -> Disk {
        self.options.retain(|option| option.split('=').next() != Some(key));
        self.options.push(format!("{key}={value}"));
        self
    }

    fn argument(&self) -> String {
        self.options.join(",")
    }
}

/// The command line that serves disks, behind another one that runs it.
fn serve_command(runner: Cmd, cores: &str, disks: &[Disk]) -> Cmd {
    let command = runner.args(["spinblk", "serve", "--cores", cores]);
    disks.iter().fold(command, |command, disk| command.arg("--disk").arg(disk.argument()))
}

/// A running `spinblk serve`.
pub(crate) struct Daemon {
    process: Job,
    report: PathBuf,
}

impl Daemon {
    /// Starts it with disks on the command line.
    pub(crate) fn start(lab: &Lab, cores: &str, disks: &[Disk]) -> Result<Daemon, Fail> {
        Daemon::start_under(lab, Cmd::new("env"), cores, disks)
    }

    /// Starts it likewise, by a command line that runs another one.
    pub(crate) fn start_under(lab: &Lab, runner: Cmd, cores: &str, disks: &[Disk]) -> Result<Daemon, Fail> {
        Daemon::start_with(lab, serve_command(runner, cores, disks))
    }

    /// Starts a command line of `spinblk serve` and waits until it says that it is ready.
    pub(crate) fn start_with(lab: &Lab, command: Cmd) -> Result<Daemon, Fail> {
        Daemon::spawn_with(lab, command)?.wait_until_ready()
    }

    /// Starts it with one disk, and waits for nothing; it logs what it resumes.
    pub(crate) fn spawn(lab: &Lab, disk: &Disk) -> Result<Daemon, Fail> {
        let command = serve_command(Cmd::new("env"), "1", std::slice::from_ref(disk));
        Daemon::spawn_with(lab, command.args(["--log", "info"]))
    }

    fn spawn_with(lab: &Lab, command: Cmd) -> Result<Daemon, Fail> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let report = lab.out_dir().join(format!("spinblk-{number}.json"));
        let process = command
            .arg("--report-json")
            .path(&report)
            .spawn_into(&lab.out_dir().join(format!("spinblk-{number}.log")))?;
        Ok(Daemon { process, report })
    }

    /// Waits until it says that it is ready.
    pub(crate) fn wait_until_ready(mut self) -> Result<Daemon, Fail> {
        let process = &mut self.process;
        let ready = wait_for("spinblk to print `ready`", START_LIMIT_S, || {
            process.ended().is_some() || process.text().lines().any(|line| line == "ready")
        });
        let text = process.text();
        ready.map_err(|fail| Fail::Check(format!("{fail}; it printed:\n{}", tail(&text))))?;
        if let Some(status) = process.ended() {
            return Err(Fail::Check(format!(
                "spinblk ended with {status} before it was ready:\n{}",
                tail(&text)
            )));
        }
        Ok(self)
    }

    /// Starts it with one disk; gives the disk's block device as well.
    pub(crate) fn start_one(lab: &Lab, disk: Disk) -> Result<(Daemon, PathBuf), Fail> {
        let name = disk.name.clone();
        let daemon = Daemon::start(lab, "1", &[disk])?;
        let device = vdpa::block_device(&name)?;
        lab.say(&format!("spinblk serves {name} as {}", device.display()));
        Ok((daemon, device))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How many descriptors and mappings it holds.
    pub(crate) fn holdings(&self) -> (usize, usize) {
        (open_fds(self.pid()), mappings(self.pid()))
    }

    /// How much of its memory the kernel says is locked, such as `4812 kB`.
    pub(crate) fn locked_memory(&self) -> String {
        let status = text_of(format!("/proc/{}/status", self.pid()));
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
        line.unwrap_or_default().trim().to_owned()
    }

    /// What it has printed so far.
    pub(crate) fn text(&mut self) -> String {
        self.process.text()
    }

    /// Ends it as a user would; asks for exit status 0, nothing left in the kernel, and a report.
    pub(crate) fn stop(mut self) -> Result<Report, Fail> {
        self.end()?;
        let text = std::fs::read_to_string(&self.report).map_err(Fail::file("read", &self.report))?;
        serde_json::from_str(&text)
            .map_err(|source| Fail::Json { what: self.report.display().to_string(), source })
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    /// Ends it without a chance to clean up.
    pub(crate) fn kill(mut self) -> Result<(), Fail> {
        self.process.signal(Signal::SIGKILL);
        self.process.finish(STOP_LIMIT_S).map(drop)
    }

    /// Stops it where it is.
    pub(crate) fn freeze(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// Ends it; gives all that it has printed.
    pub(crate) fn stop_and_read(mut self) -> Result<String, Fail> {
        self.end()
    }

    fn end(&mut self) -> Result<String, Fail> {
        self.process.signal(Signal::SIGTERM);
        let output = self.process.finish(STOP_LIMIT_S)?;
        let status = output.status;
        ensure!(status.success(), "spinblk ended with {status} after SIGTERM:\n{}", tail(&output.text));
        let left = leftovers();
        ensure!(left.is_none(), "after spinblk's end: {}", left.unwrap_or_default());
        Ok(output.text)
    }
}

/// What spinblk writes at its end.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) disks: Vec<DiskReport>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct DiskReport {
    name: String,
    ops: Ops,
    pub(crate) queues: Vec<QueueReport>,
    pub(crate) umem: bool,
    pub(crate) fixed_buffer_ios: u64,
    pub(crate) polled_ios: u64,
}

#[derive(Debug, Deserialize)]
struct Ops {
    read: Op,
    write: Op,
}

#[derive(Debug, Deserialize)]
struct Op {
    ios: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct QueueReport {
    pub(crate) core: u32,
    pub(crate) requests: u64,
}

impl Report {
    /// The part about one disk.
    pub(crate) fn disk(&self, name: &str) -> Result<&DiskReport, Fail> {
        let found = self.disks.iter().find(|disk| disk.name == name);
        found.ok_or_else(|| Fail::Check(format!("spinblk's report has no disk {name}: {self:?}")))
    }
}

impl DiskReport {
    /// Reads and writes together.
    pub(crate) fn data_ios(&self) -> u64 {
        self.ops.read.ios + self.ops.write.ios
    }

    /// The two apart.
    pub(crate) fn reads_and_writes(&self) -> (u64, u64) {
        (self.ops.read.ios, self.ops.write.ios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_option_replaces_an_earlier_one() {
        let disk = Disk::malloc("d0", 64).set("queues", 1).set("serial", "ABC");
        assert_eq!(
            disk.argument(),
            "name=d0,type=malloc,queue-size=256,driver=virtio-vdpa,size=64MiB,queues=1,serial=ABC"
        );
    }

    #[test]
    fn reads_the_report() {
        let text = r#"{"disks": [{"name": "d0", "block_device": "vda", "umem": true, "fixed_buffer_ios": 7, "polled_ios": 0,
            "ops": {"read": {"ios": 3, "bytes": 9, "errors": 0}, "write": {"ios": 4}},
            "queues": [{"index": 0, "core": 1, "requests": 7, "batches": 2}]}], "reactors": []}"#;
        let report: Report = serde_json::from_str(text).unwrap();
        let disk = report.disk("d0").unwrap();
        assert_eq!((disk.data_ios(), disk.queues[0].core, disk.umem), (7, 1, true));
        assert_eq!(disk.reads_and_writes(), (3, 4));
        assert!(report.disk("d1").is_err());
    }
}
