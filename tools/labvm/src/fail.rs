//! The one error of this crate: why a scenario, or the guest itself, failed.

use std::path::{Path, PathBuf};

/// Why something in the guest failed; every variant names the file, command or value at fault.
#[derive(Debug, thiserror::Error)]
pub enum Fail {
    /// A check of a scenario did not hold.
    #[error("{0}")]
    Check(String),
    /// A file could not be used.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried, such as "read".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A command could not be started.
    #[error("cannot start `{command}`: {source}")]
    Start {
        /// The command line.
        command: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A command ended with an error.
    #[error("`{command}` ended with {status}; its output ends with:\n{tail}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The last lines that it printed.
        tail: String,
    },
    /// A command was killed at its bound.
    #[error(
        "`{command}` still ran after {limit_s} s and was killed; its output ends with:\n{tail}\nall processes:\n{processes}"
    )]
    TooLong {
        /// The command line.
        command: String,
        /// Its bound.
        limit_s: u64,
        /// The last lines that it printed.
        tail: String,
        /// What ran when it was killed, and where in the kernel it hung.
        processes: String,
    },
    /// A condition never came true.
    #[error("waited {limit_s} s in vain for {what}")]
    Waited {
        /// The condition.
        what: String,
        /// The bound.
        limit_s: u64,
    },
    /// Something that a program printed is not what it should be.
    #[error("cannot understand {what}: {source}")]
    Json {
        /// Which output.
        what: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: nix::Error,
    },
}

impl Fail {
    /// For `map_err` on file operations.
    pub(crate) fn file<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Fail + 'a {
        move |source| Fail::File { action, path: path.to_path_buf(), source }
    }

    /// For `map_err` on system calls.
    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(nix::Error) -> Fail {
        let action = action.into();
        move |source| Fail::System { action, source }
    }
}

/// Ends the scenario with a message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::Fail::Check(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;
