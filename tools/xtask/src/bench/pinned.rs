//! A program that is measured: its number known, its output in a file, gone when this process is.

use crate::error::{Error, Result};
use crate::process::{Running, command, interrupted, spawn};
use crate::programs::find;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(10);
/// The shell has only to write its number.
const NUMBER_LIMIT: Duration = Duration::from_secs(10);
/// What spinblk says when another poller has the core.
const CORE_TAKEN: &str = "is already polled by";

pub(super) struct Pinned {
    running: Running,
    pub(super) process: u32,
    log: PathBuf,
}

impl Pinned {
    /// Starts a program, on one core if that is given; `name` names its files in the folder.
    pub(super) fn start(program: &Command, core: Option<usize>, name: &str, folder: &Path) -> Result<Pinned> {
        let (log, number) = (folder.join(format!("{name}.log")), folder.join(format!("{name}.pid")));
        let _ = fs::remove_file(&number);
        // The shell's number becomes the program's, because every word of the line replaces the one before it.
        let mut line = command("sh", ["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        line.arg(&number).arg(find("setpriv")?).args(["--pdeathsig", "KILL"]);
        if let Some(core) = core {
            line.arg(find("taskset")?).args(["-c", &core.to_string()]);
        }
        line.arg(program.get_program()).args(program.get_args()).env("NO_COLOR", "1");
        let file = File::create(&log).map_err(Error::file("create", &log))?;
        line.stderr(file.try_clone().map_err(Error::file("duplicate", &log))?).stdout(file);
        let running = spawn(&mut line)?;
        let deadline = Instant::now() + NUMBER_LIMIT;
        loop {
            let text = fs::read_to_string(&number).unwrap_or_default();
            if let Some(process) = text.strip_suffix('\n').and_then(|text| text.parse().ok()) {
                return Ok(Pinned { running, process, log });
            }
            if Instant::now() >= deadline {
                return Err(Error::Lab(format!("{name} did not start")));
            }
            pause(STEP)?;
        }
    }

    /// Waits until `seen` says so of its log; false if it ended before, or the time is up.
    pub(super) fn wait_until(&mut self, limit: Duration, seen: impl Fn(&str) -> bool) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.running.ended().is_some();
            if ended || Instant::now() >= deadline {
                return Ok(false);
            }
            if seen(&self.text()) {
                return Ok(true);
            }
            pause(STEP)?;
        }
    }

    /// Waits for its end; `None` if the bound came first (and it was stopped).
    pub(super) fn wait(&mut self, limit_s: u64) -> Result<Option<ExitStatus>> {
        self.running.wait(limit_s)
    }

    /// Ends it; an error if it has ended already, or will not.
    pub(super) fn finish(mut self, limit_s: u64) -> Result<()> {
        if let Some(status) = self.running.ended() {
            return Err(Error::Lab(format!(
                "a server ended with {status} while it was measured:\n{}",
                self.text()
            )));
        }
        match self.running.end(limit_s)? {
            Some(_) => Ok(()),
            None => Err(Error::Lab(format!("a server did not end in {limit_s} s:\n{}", self.text()))),
        }
    }

    /// What it has printed.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it ended because another poller has its core; says so, because then one waits.
    pub(super) fn found_core_taken(&self) -> bool {
        let text = self.text();
        let complaint = text.lines().find(|line| line.contains(CORE_TAKEN));
        if let Some(line) = complaint {
            eprintln!("  wait  {line}");
        }
        complaint.is_some()
    }
}

/// Sleeps; an interrupt ends it early, with an error.
pub(super) fn pause(time: Duration) -> Result<()> {
    const SLICE: Duration = Duration::from_millis(100);
    let until = Instant::now() + time;
    loop {
        if interrupted() {
            return Err(Error::Interrupted);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(SLICE));
    }
}
