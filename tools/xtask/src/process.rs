//! Child processes: bounded by time, stopped by Ctrl-C, each in a process group of its own so that stopping one
//! stops what it started.

use crate::error::{Error, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(20);
const MERCY: Duration = Duration::from_millis(500);
const TAIL_LINES: usize = 30;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C, SIGTERM and SIGHUP end what runs in an orderly way instead of ending this process.
pub(crate) fn catch_interrupts() {
    // Failing to install it only means that an interrupt ends us at once; QEMU dies with us anyway.
    let _ = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst));
}

pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Where a command's output goes.
enum Sink<'a> {
    Terminal,
    Log(&'a Path),
}

/// Runs with output on the terminal.
pub(crate) fn run(command: Command, limit_s: u64) -> Result<()> {
    run_to(command, limit_s, &Sink::Terminal)
}

/// Runs with output in a log file, whose end becomes part of the error.
pub(crate) fn run_logged(command: Command, limit_s: u64, log: &Path) -> Result<()> {
    run_to(command, limit_s, &Sink::Log(log))
}

fn run_to(mut command: Command, limit_s: u64, sink: &Sink<'_>) -> Result<()> {
    if let Sink::Log(path) = sink {
        let create =
            || File::options().create(true).append(true).open(path).map_err(Error::file("create", path));
        command.stdout(create()?).stderr(create()?);
    }
    let name = words(&command);
    let ended = spawn(&mut command)?.wait(limit_s)?;
    let tail = match sink {
        Sink::Terminal => String::new(),
        Sink::Log(path) => tail(&std::fs::read_to_string(path).unwrap_or_default()),
    };
    check(name, ended, limit_s, tail)
}

/// Runs and gives what was printed on stdout.
pub(crate) fn output(command: Command, limit_s: u64) -> Result<String> {
    let name = words(&command);
    let (ended, stdout, stderr) = capture(command, limit_s)?;
    check(name, ended, limit_s, tail(&stderr))?;
    Ok(stdout)
}

/// Runs and gives what was printed on stdout, whatever the exit status.
pub(crate) fn output_of_any_status(command: Command, limit_s: u64) -> Result<String> {
    Ok(capture(command, limit_s)?.1)
}

fn capture(mut command: Command, limit_s: u64) -> Result<(Option<ExitStatus>, String, String)> {
    let path = Path::new("a temporary file");
    let unnamed = || tempfile::tempfile().map_err(Error::file("create", path));
    let (mut stdout, mut stderr) = (unnamed()?, unnamed()?);
    let copy = |file: &File| file.try_clone().map_err(Error::file("duplicate", path));
    command.stdout(copy(&stdout)?).stderr(copy(&stderr)?);
    let ended = spawn(&mut command)?.wait(limit_s)?;
    Ok((ended, content(&mut stdout), content(&mut stderr)))
}

fn check(command: String, ended: Option<ExitStatus>, limit_s: u64, tail: String) -> Result<()> {
    match ended {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Error::Command { command, status, tail }),
        None => Err(Error::TooLong { command, limit_s, tail }),
    }
}

fn content(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Starts a command without input, in a process group of its own.
pub(crate) fn spawn(command: &mut Command) -> Result<Running> {
    let name = words(command);
    let child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|source| Error::Start { command: name, source })?;
    Ok(Running { child, own_group: true })
}

/// Starts a command that owns the terminal.
pub(crate) fn spawn_on_terminal(command: &mut Command) -> Result<Running> {
    let name = words(command);
    let child = command.spawn().map_err(|source| Error::Start { command: name, source })?;
    Ok(Running { child, own_group: false })
}

/// A started command; dropping it stops it.
pub(crate) struct Running {
    child: Child,
    own_group: bool,
}

impl Running {
    /// Its status once it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for the end; `None` if the bound came first (and it was stopped).
    pub(crate) fn wait(&mut self, limit_s: u64) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + Duration::from_secs(limit_s);
        loop {
            if let Some(status) = self.ended() {
                return Ok(Some(status));
            }
            if interrupted() {
                self.stop();
                return Err(Error::Interrupted);
            }
            if Instant::now() >= deadline {
                self.stop();
                return Ok(None);
            }
            std::thread::sleep(STEP);
        }
    }

    /// Asks it to end by itself; `None` if it did not within the bound (and it was stopped).
    pub(crate) fn end(&mut self, limit_s: u64) -> Result<Option<ExitStatus>> {
        self.signal(Signal::SIGTERM);
        self.wait(limit_s)
    }

    /// Ends it without asking.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }

    /// Asks it to end, then makes it.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + MERCY;
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(STEP);
        }
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }

    fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            self.signal_now(signal);
        }
    }

    /// Sends a signal to one that has not been seen to end.
    pub(crate) fn signal_now(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        let _ = if self.own_group { killpg(pid, signal) } else { kill(pid, signal) };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.stop();
        }
    }
}

/// A command line as one types it.
pub(crate) fn words(command: &Command) -> String {
    let all = std::iter::once(command.get_program()).chain(command.get_args());
    all.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// A command with arguments.
pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_output_and_errors() {
        assert_eq!(output(command("echo", ["a", "b"]), 5).unwrap(), "a b\n");
        let error = output(command("ls", ["/no/such"]), 5).unwrap_err().to_string();
        assert!(
            error.starts_with("`ls /no/such` ended with exit status: 2; its output ends with:"),
            "{error}"
        );
    }

    #[test]
    fn stops_at_the_bound() {
        let started = Instant::now();
        let error = run(command("sleep", ["30"]), 0).unwrap_err().to_string();
        assert_eq!(error, "`sleep 30` still ran after 0 s and was stopped");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
