//! `spinblk serve` with one disk on an image file: started, killed, frozen, stopped.

use crate::error::Error;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Long, because another program may poll the core.
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_millis(1);
/// What it says when another program has the core; and when a killed one still has the file, whose rings the kernel puts
/// away some time after the process.
const TAKEN: [&str; 2] = ["is already polled by", "is in use by another disk or process"];
pub(crate) const READY: &str = "\nready\n";
pub(crate) const CONNECTED: &str = "a client has connected";

/// What all its lives have in common.
pub(crate) struct Serve {
    program: PathBuf,
    pub(crate) image: PathBuf,
    pub(crate) socket: PathBuf,
    log: PathBuf,
    config: PathBuf,
    cores: Vec<usize>,
}

/// One of its lives; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Serve {
    /// Everything but the program lies in the folder.
    pub(crate) fn new(program: &Path, folder: &Path) -> Result<Serve, Error> {
        let set = sched_getaffinity(Pid::from_raw(0));
        let set = set.map_err(|e| Error::system("ask for the cores of this process")(e.into()))?;
        let cores = (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect();
        let at = |name: &str| folder.join(name);
        Ok(Serve {
            program: program.to_owned(),
            image: at("disk.img"),
            socket: at("d0.sock"),
            log: at("spinblk.log"),
            config: at("spinblk.toml"),
            cores,
        })
    }

    /// Starts it, and waits for nothing.
    pub(crate) fn spawn(&self) -> Result<Daemon, Error> {
        let file = |action| move |source| Error::File { action, path: self.log.clone(), source };
        let log = File::create(&self.log).map_err(file("create"))?;
        fs::write(&self.config, self.sections()).map_err(file("write the configuration beside"))?;
        let mut command = Command::new(&self.program);
        command.args(["--log", "info", "serve", "--config"]).arg(&self.config);
        // What ends this process by a key is not for the daemon.
        command.env("NO_COLOR", "1").process_group(0).stdin(Stdio::null());
        command.stderr(log.try_clone().map_err(file("duplicate"))?).stdout(log);
        let start = |source| Error::File { action: "start", path: self.program.clone(), source };
        Ok(Daemon { child: command.spawn().map_err(start)?, log: self.log.clone() })
    }

    /// The image file, with half of its I/Os held back for a while: they are done and not answered, if the daemon dies then.
    fn sections(&self) -> String {
        let core = self.cores.last().copied().unwrap_or(0);
        format!(
            "[reactor]\ncores = [{core}]\nhugepages = \"off\"\n\n\
             [[bdev]]\nname = \"file\"\ntype = \"aio\"\npath = \"{}\"\n\n\
             [[bdev]]\nname = \"slow\"\ntype = \"delay\"\nchild = \"file\"\nlatency = \"5ms\"\nrate = 0.5\n\n\
             [[disk]]\nname = \"d0\"\nbdev = \"slow\"\nqueues = 2\ntransport = \"vhost-user\"\nsocket = \"{}\"\n",
            self.image.display(),
            self.socket.display()
        )
    }

    /// Starts it, and waits until it has said this. If its core or file is taken, another try follows, on another core.
    pub(crate) fn start(&mut self, until: &str) -> Result<Daemon, Error> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let mut daemon = self.spawn()?;
            let is_up = daemon.wait(deadline, |text| text.contains(until))?;
            let log = daemon.text();
            if is_up {
                return Ok(daemon);
            }
            if !TAKEN.iter().any(|words| log.contains(words)) || Instant::now() >= deadline {
                return Err(Error::Daemon {
                    what: format!("spinblk does not come to say {:?}", until.trim()),
                    log,
                });
            }
            self.cores.rotate_right(1);
        }
    }
}

impl Daemon {
    /// What it has said so far.
    pub(crate) fn text(&self) -> String {
        // A line before the first, so that every line has an end before it.
        format!("\n{}", String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()))
    }

    /// How many requests it does again for those before it.
    pub(crate) fn resumed(&self) -> u64 {
        resumed(&self.text())
    }

    /// Ends it without a chance to clean up, and waits until the kernel has put it away.
    pub(crate) fn kill(mut self) -> Result<(), Error> {
        self.signal(Signal::SIGKILL);
        self.child.wait().map(drop).map_err(Error::system("wait for spinblk"))
    }

    /// Stops it where it is.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Ends it as a user would; everything must be well.
    pub(crate) fn stop(mut self) -> Result<(), Error> {
        self.signal(Signal::SIGTERM);
        self.wait(Instant::now() + STOP_LIMIT, |_| false)?;
        let status = self.child.try_wait().ok().flatten();
        if status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        let what = match status {
            Some(status) => format!("spinblk ended with {status} after SIGTERM"),
            None => format!("spinblk did not end in {} s after SIGTERM", STOP_LIMIT.as_secs()),
        };
        Err(Error::Daemon { what, log: self.text() })
    }

    /// Waits for something in its log; false if it ended before, or the time is over.
    fn wait(&mut self, deadline: Instant, seen: impl Fn(&str) -> bool) -> Result<bool, Error> {
        loop {
            if self.child.try_wait().map_err(Error::system("wait for spinblk"))?.is_some() {
                return Ok(false);
            }
            if seen(&self.text()) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(STEP);
        }
    }

    fn signal(&self, signal: Signal) {
        // It is ours until it is waited for, so the number is no other's. It may have ended.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resumed(text: &str) -> u64 {
    let numbers = text.lines().filter_map(|line| line.split_once(" requests were in flight"));
    numbers.filter_map(|(before, _)| before.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_done_again_are_counted() {
        let text = "INFO disk d0: queue 0: 31 requests were in flight and are done again\nready\n\
                    INFO disk d0: queue 1: 4 requests were in flight and are done again\n";
        assert_eq!((resumed(text), resumed("ready\n")), (35, 0));
    }
}
