//! The one error of this crate.

use std::path::PathBuf;

/// What went wrong, with the file, message or request at fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses something.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The kernel refuses something that is no file.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The server refused a message or went away meanwhile.
    #[error("vhost-user message {step}: {source}")]
    Protocol {
        /// Which message.
        step: &'static str,
        /// The answer, or its absence.
        source: vhost::Error,
    },
    /// Nobody serves the disk any more.
    #[error("nobody has served {} for {limit_s} s; the last try: {last}", socket.display())]
    Gone {
        /// Where it was served.
        socket: PathBuf,
        /// How long.
        limit_s: u64,
        /// How connecting failed.
        last: Box<Error>,
    },
    /// Requests that do not come back, or whose coming back nobody is told of.
    #[error(
        "{in_flight} requests hang: no interrupt for {limit_s} s; {unseen} queue(s) hold completions that none told of"
    )]
    Hangs {
        /// Requests that are waited for.
        in_flight: usize,
        /// How long.
        limit_s: u64,
        /// Queues that have something to see.
        unseen: usize,
    },
    /// The disk is not what it should be.
    #[error("{0}")]
    Wrong(String),
    /// The daemon is not what it should be.
    #[error("{what}; its log:\n{log}")]
    Daemon {
        /// What it did.
        what: String,
        /// What it said.
        log: String,
    },
}

impl Error {
    /// For `map_err` on what has no path.
    pub(crate) fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::System { action, source }
    }
}
