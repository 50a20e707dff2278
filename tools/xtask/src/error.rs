//! The one error of this program.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// What went wrong, with the file, command or value at fault and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot {action} {path}: {source}")]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot start `{command}`: {source}")]
    Start { command: String, source: std::io::Error },
    #[error("`{command}` ended with {status}{}", after_tail(.tail))]
    Command { command: String, status: ExitStatus, tail: String },
    #[error("`{command}` still ran after {limit_s} s and was stopped{}", after_tail(.tail))]
    TooLong { command: String, limit_s: u64, tail: String },
    #[error("interrupted")]
    Interrupted,
    #[error("cannot understand {what}: {source}")]
    Json { what: String, source: serde_json::Error },
    #[error("the lab needs {missing}, and installing it needs root; run:\n  {command}")]
    NeedsRoot { missing: String, command: String },
    #[error("{0} has closed the connection")]
    Closed(&'static str),
    #[error("{0}")]
    Lab(String),
}

fn after_tail(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!("; its output ends with:\n{tail}") }
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn file<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(std::io::Error) -> Error + 'a {
        move |source| Error::File { action, path: path.to_path_buf(), source }
    }
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;
