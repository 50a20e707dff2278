//! What can go wrong in the program, each in one line with the way out.

use std::io;
use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that is wrong or missing.
    #[error("{place}{what}: {why}")]
    Setting {
        /// Where it was written, with a colon and a space at the end; empty for plain flags.
        place: String,
        /// The key and its value.
        what: String,
        /// What is wrong and what is allowed.
        why: String,
    },
    /// A text that is no configuration.
    #[error("{place}: {why}")]
    ConfigText {
        /// File and line.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// A configuration file that cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Flags that make no sense together.
    #[error("{0}")]
    Usage(String),
    /// The machine lacks something that serving needs.
    #[error("{found}; {fix} (see `spinblk doctor`)")]
    Host {
        /// What was looked for and what was found.
        found: String,
        /// How to mend it.
        fix: String,
    },
    /// The process's memory must be locked and cannot be.
    #[error("lock_memory is \"require\", but memory cannot be locked: {why}; {fix}")]
    LockMemory {
        /// What is missing.
        why: String,
        /// How to mend it.
        fix: &'static str,
    },
    /// A reactor could not be started.
    #[error(transparent)]
    Reactor(#[from] spinblk_reactor::Error),
    /// A bdev could not be made.
    #[error("{place}{separator}{source}", separator = if place.is_empty() { "" } else { ": " })]
    Bdev {
        /// Where it was written, `file:line`; empty for flags.
        place: String,
        /// What it said; it names itself.
        source: Box<spinblk_bdev::Error>,
    },
    /// A disk could not be exported.
    #[error(transparent)]
    Export(Box<spinblk_vduse::Error>),
    /// A disk could not be served on its socket.
    #[error(transparent)]
    VhostUser(Box<spinblk_vhost_user::Error>),
    /// Signals could not be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(#[from] nix::Error),
    /// A reactor ended by itself.
    #[error(
        "the reactor on core {core} has died; the message above says why; disks that the next start can take over wait for it, the others were stopped"
    )]
    ReactorDied {
        /// Its core.
        core: usize,
    },
    /// A disk's control thread ended by itself.
    #[error(
        "disk {name}: its control thread has died; the message above says why; disks that the next start can take over wait for it, the others were stopped"
    )]
    ControlDied {
        /// The disk.
        name: String,
    },
    /// The load generator failed.
    #[error(transparent)]
    Load(Box<spinblk_load::Error>),
    /// Requests failed under load, or blocks held something else than was written.
    #[error("{0}")]
    Unclean(String),
    /// Not everything was put away at the end.
    #[error("stopped, with {count} problem(s) named above")]
    Stop {
        /// How many.
        count: usize,
    },
    /// A socket of the daemon that could not be made.
    #[error("cannot {action} {at}: {source}; its directory must exist and be writable, a port must be free")]
    Listen {
        /// The path or address.
        at: String,
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A socket that belongs to a process that runs.
    #[error("cannot make the socket {}: another process listens on it; choose another path or end that one", path.display())]
    SocketBusy {
        /// The socket.
        path: PathBuf,
    },
    /// A path where something else is.
    #[error("cannot make the socket {}: what is there is not a socket; remove it or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The control thread could not be started.
    #[error("cannot start the control thread: {0}")]
    ControlThread(io::Error),
    /// A daemon that does not answer as it should.
    #[error("cannot ask the daemon at {}: {why}", socket.display())]
    Daemon {
        /// Its control socket.
        socket: PathBuf,
        /// What happened.
        why: String,
    },
    /// The daemon's answer to a request that it refused.
    #[error("the daemon refuses {method}: {why}")]
    Refused {
        /// The method.
        method: String,
        /// Its words.
        why: String,
    },
    /// A configuration that could not be written.
    #[error("cannot write the configuration {}: {source}; give a file in a directory that spinblk may write to", path.display())]
    SaveConfig {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A source of histograms that cannot be read.
    #[error("cannot read {}: {source}; give an interval log or a control socket", path.display())]
    HistRead {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A line of an interval log that is none.
    #[error("{}:{line}: {why}", path.display())]
    HistLine {
        /// The log.
        path: PathBuf,
        /// The line's number.
        line: u64,
        /// What is wrong and how to go on.
        why: String,
    },
    /// A source of histograms that does not hold what was asked for.
    #[error("{origin}: {why}")]
    HistSource {
        /// The source as it was given.
        origin: String,
        /// What is missing and what there is.
        why: String,
    },
    /// A disk's name that none can have, from a daemon.
    #[error("the daemon tells of a disk named {name:?}, and none can have that name: is it another program?")]
    DiskName {
        /// The name.
        name: String,
    },
    /// The terminal cannot be used.
    #[error("cannot use the terminal: {0}; `spinblk top --once` needs none")]
    Terminal(io::Error),
    /// A report that could not be written.
    #[error("cannot write the report {}: {source}; give a file in a directory that you may write to", path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

// Boxed, for it is large, and every function here returns an `Error`.
impl From<spinblk_vduse::Error> for Error {
    fn from(source: spinblk_vduse::Error) -> Self {
        Self::Export(Box::new(source))
    }
}

impl From<spinblk_vhost_user::Error> for Error {
    fn from(source: spinblk_vhost_user::Error) -> Self {
        Self::VhostUser(Box::new(source))
    }
}

impl From<spinblk_load::Error> for Error {
    fn from(source: spinblk_load::Error) -> Self {
        Self::Load(Box::new(source))
    }
}

impl Error {
    /// The program's exit status: 2 for what was asked wrongly, 1 for what went wrong.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Setting { .. } | Self::ConfigText { .. } | Self::ConfigFile { .. } | Self::Usage(_) => 2,
            Self::HistRead { .. } | Self::HistLine { .. } | Self::HistSource { .. } => 2,
            Self::Load(e) if matches!(**e, spinblk_load::Error::Job { .. }) => 2,
            _ => 1,
        }
    }

    /// The message on one line, whatever names and texts it quotes.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut line = String::new();
        for letter in self.to_string().chars() {
            if letter.is_control() {
                line.extend(letter.escape_default());
            } else {
                line.push(letter);
            }
        }
        line
    }
}
