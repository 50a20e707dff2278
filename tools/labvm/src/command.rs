//! Commands that are bounded by time.
//!
//! A command's output goes to a file, never to a pipe, so that nobody has to drain it and a child stuck in the
//! kernel (D state, unkillable) can be left behind without hanging its parent.

use crate::fail::Fail;
use crate::state::process_report;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const DEFAULT_LIMIT_S: u64 = 30;
const TAIL_LINES: usize = 12;
const STEP: Duration = Duration::from_millis(5);

/// A command line with a bound.
pub(crate) struct Cmd {
    words: Vec<String>,
    limit_s: u64,
}

/// What a finished command left.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) text: String,
}

impl Cmd {
    pub(crate) fn new(program: &str) -> Cmd {
        Cmd { words: vec![program.to_owned()], limit_s: DEFAULT_LIMIT_S }
    }

    pub(crate) fn arg(mut self, word: impl Into<String>) -> Cmd {
        self.words.push(word.into());
        self
    }

    pub(crate) fn args<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Cmd {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    pub(crate) fn path(self, path: &Path) -> Cmd {
        self.arg(path.to_string_lossy())
    }

    pub(crate) fn limit_s(mut self, limit_s: u64) -> Cmd {
        self.limit_s = limit_s;
        self
    }

    /// Runs to the end and asks for success; gives what was printed (stdout and stderr).
    pub(crate) fn run(self) -> Result<String, Fail> {
        let command = self.words.join(" ");
        let output = self.output()?;
        if output.status.success() {
            return Ok(output.text);
        }
        Err(Fail::Command { command, status: output.status, tail: tail(&output.text) })
    }

    /// Runs to the end, whatever the status.
    pub(crate) fn output(self) -> Result<Output, Fail> {
        let limit_s = self.limit_s;
        self.spawn()?.finish(limit_s)
    }

    /// Starts it in the background, with its output in an unnamed file.
    pub(crate) fn spawn(self) -> Result<Job, Fail> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("output.{}.{number}", std::process::id()));
        let job = self.spawn_into(&path);
        // The open descriptors keep it alive for as long as somebody reads or writes it.
        let _ = std::fs::remove_file(&path);
        job
    }

    /// Starts it in the background, with its output in the given file.
    pub(crate) fn spawn_into(self, path: &Path) -> Result<Job, Fail> {
        let command = self.words.join(" ");
        let _ = std::fs::remove_file(path);
        let create =
            || File::options().create(true).append(true).open(path).map_err(Fail::file("create", path));
        let (stdout, stderr) = (create()?, create()?);
        let log = File::open(path).map_err(Fail::file("open", path))?;
        let child = Command::new(&self.words[0])
            .args(&self.words[1..])
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .map_err(|source| Fail::Start { command: command.clone(), source })?;
        Ok(Job { child, command, log, status: None })
    }
}

/// A command in the background; dropping it kills it.
pub(crate) struct Job {
    child: Child,
    command: String,
    log: File,
    status: Option<ExitStatus>,
}

impl Job {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Sends a signal to this one process.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill(pid_of(&self.child), signal);
    }

    /// Waits for the end, kills it at the bound.
    pub(crate) fn finish(&mut self, limit_s: u64) -> Result<Output, Fail> {
        let deadline = Instant::now() + Duration::from_secs(limit_s);
        loop {
            if let Some(status) = self.ended() {
                return Ok(Output { status, text: self.text() });
            }
            if Instant::now() >= deadline {
                let processes = process_report();
                self.signal(Signal::SIGKILL);
                let command = self.command.clone();
                return Err(Fail::TooLong { command, limit_s, tail: tail(&self.text()), processes });
            }
            std::thread::sleep(STEP);
        }
    }

    /// What it has printed so far.
    pub(crate) fn text(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = self.log.seek(SeekFrom::Start(0));
        let _ = self.log.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::SIGKILL);
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// The last lines of a text.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_output_or_says_how_it_failed() {
        assert_eq!(Cmd::new("echo").arg("hello").run().unwrap(), "hello\n");
        let wrong = Cmd::new("ls").arg("/no/such/file").run().unwrap_err().to_string();
        assert!(wrong.contains("ls /no/such/file") && wrong.contains("exit status: 2"), "{wrong}");
    }

    #[test]
    fn is_killed_at_the_bound() {
        let late = Cmd::new("sleep").arg("60").limit_s(0).run().unwrap_err();
        assert!(late.to_string().starts_with("`sleep 60` still ran after 0 s"), "{late}");
    }

    #[test]
    fn tail_keeps_the_last_lines() {
        let text: String = (0..20).map(|n| format!("{n}\n")).collect();
        assert!(tail(&text).starts_with("8\n") && tail(&text).ends_with("19"));
    }
}
