//! What is compared: each target's server, started on its core for one measurement, and gone after it.

use super::pinned::{Pinned, pause};
use crate::error::{Error, Result};
use crate::process::{command, words};
use crate::programs::find;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT_S: u64 = 30;
/// For another poller to leave the core: a test of this workspace, say.
const CORE_LIMIT: Duration = Duration::from_secs(120);
const RETRY: Duration = Duration::from_secs(2);
const NULL_BYTES: u64 = 64 << 30;

/// A target of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// No server: two cores that do nothing but a split ring's memory traffic.
    BareRing,
    Null,
    NullPacked,
    Malloc,
    /// qemu-storage-daemon's null-co.
    Qsd(Tuning),
}

/// How qemu-storage-daemon is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tuning {
    /// The main loop serves the disk.
    MainLoop,
    /// A thread of its own, which polls as it sees fit.
    Iothread,
    /// The same, polling at least so long before it sleeps.
    Polling { max_ns: u64 },
}

/// What is tried before the comparison; the best of them is compared.
pub(super) const TUNINGS: [Tuning; 4] = [
    Tuning::MainLoop,
    Tuning::Iothread,
    Tuning::Polling { max_ns: 1_000_000 },
    Tuning::Polling { max_ns: 1_000_000_000 },
];

impl Target {
    pub(super) fn name(self) -> &'static str {
        match self {
            Target::BareRing => "bare ring",
            Target::Null => "spinblk null, split",
            Target::NullPacked => "spinblk null, packed",
            Target::Malloc => "spinblk malloc, split",
            Target::Qsd(_) => "qemu-storage-daemon null-co",
        }
    }

    /// The command that serves it at a socket.
    fn server(self, spinblk: &Path, core: usize, socket: &Path) -> Result<Option<Command>> {
        let disk = |what: &str| serve(spinblk, core, what, socket);
        Ok(match self {
            Target::BareRing => None,
            // The client chooses the format of the rings.
            Target::Null | Target::NullPacked => Some(disk("type=null,size=64GiB")),
            Target::Malloc => Some(disk("type=malloc,size=256MiB")),
            Target::Qsd(tuning) => {
                let mut qsd = command(
                    &find("qemu-storage-daemon")?.to_string_lossy(),
                    [
                        "--blockdev",
                        &format!("null-co,node-name=n0,size={NULL_BYTES},latency-ns=0,read-zeroes=off"),
                    ],
                );
                qsd.args(tuning.arguments(socket));
                Some(qsd)
            }
        })
    }

    /// spinblk pins what needs pinning; qemu-storage-daemon is held on its core from outside.
    fn core_from_outside(self, core: usize) -> Option<usize> {
        matches!(self, Target::Qsd(_)).then_some(core)
    }
}

impl Tuning {
    fn arguments(self, socket: &Path) -> Vec<String> {
        let (object, thread) = match self {
            Tuning::MainLoop => (None, ""),
            Tuning::Iothread => (Some("iothread,id=io0".to_owned()), ",iothread=io0"),
            Tuning::Polling { max_ns } => {
                (Some(format!("iothread,id=io0,poll-max-ns={max_ns}")), ",iothread=io0")
            }
        };
        let socket = socket.display();
        let export = format!(
            "vhost-user-blk,id=e0,node-name=n0,addr.type=unix,addr.path={socket},writable=on{thread}"
        );
        let object = object.map(|object| ["--object".to_owned(), object]);
        object.into_iter().flatten().chain(["--export".to_owned(), export]).collect()
    }

    /// Its settings, as they are written on the command line.
    pub(super) fn describe(self) -> String {
        match self {
            Tuning::MainLoop => "main loop".to_owned(),
            Tuning::Iothread => "iothread".to_owned(),
            Tuning::Polling { max_ns } => format!("iothread, poll-max-ns={max_ns}"),
        }
    }
}

/// A running server.
pub(super) struct Server {
    pub(super) program: Option<Pinned>,
    pub(super) socket: PathBuf,
}

impl Server {
    /// Starts the target's server, if it has one.
    pub(super) fn start(target: Target, spinblk: &Path, core: usize, folder: &Path) -> Result<Server> {
        let socket = socket_in(folder);
        let Some(line) = target.server(spinblk, core, &socket)? else {
            return Ok(Server { program: None, socket });
        };
        let is_ready = |text: &str| match target {
            Target::Qsd(_) => socket.exists(),
            _ => says_ready(text),
        };
        let program = launch(&line, target.core_from_outside(core), folder, is_ready)?;
        Ok(Server { program: Some(program), socket })
    }

    /// Starts spinblk with one vhost-user disk, which these keys describe.
    pub(super) fn start_spinblk(disk: &str, spinblk: &Path, core: usize, folder: &Path) -> Result<Server> {
        let socket = socket_in(folder);
        let program = launch(&serve(spinblk, core, disk, &socket), None, folder, says_ready)?;
        Ok(Server { program: Some(program), socket })
    }

    /// Its process, if there is one.
    pub(super) fn process(&self) -> Option<u32> {
        self.program.as_ref().map(|program| program.process)
    }

    /// Ends it.
    pub(super) fn stop(self) -> Result<()> {
        self.program.map_or(Ok(()), |program| program.finish(STOP_LIMIT_S))
    }
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("disk.sock")
}

/// The command that serves the disk that these keys describe.
fn serve(spinblk: &Path, core: usize, disk: &str, socket: &Path) -> Command {
    let socket = socket.display();
    let disk = format!("name=bench,{disk},queue-size=1024,transport=vhost-user,socket={socket}");
    command(&spinblk.to_string_lossy(), ["serve", "--cores", &core.to_string(), "--disk", &disk])
}

fn says_ready(log: &str) -> bool {
    log.lines().any(|line| line == "ready")
}

/// Starts a server; waits while another poller has its core.
fn launch(
    line: &Command,
    core_from_outside: Option<usize>,
    folder: &Path,
    is_ready: impl Fn(&str) -> bool,
) -> Result<Pinned> {
    let _ = std::fs::remove_file(socket_in(folder));
    let deadline = Instant::now() + CORE_LIMIT;
    loop {
        let mut program = Pinned::start(line, core_from_outside, "server", folder)?;
        if program.wait_until(START_LIMIT, &is_ready)? {
            return Ok(program);
        }
        if !program.found_core_taken() || Instant::now() >= deadline {
            return Err(Error::Lab(format!("`{}` does not serve:\n{}", words(line), program.text())));
        }
        pause(RETRY)?;
    }
}
