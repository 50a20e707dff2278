//! What one type of bdev has to tell that others have not.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::backend::{FileState, IoError, Moved, NullReads, Rule};
use crate::config::{BackendKind, KeySource, error_name, op_names, show_latency, show_size};

/// What one type has that others have not.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Special {
    /// Of a null disk.
    Null {
        /// What reads give.
        reads: &'static str,
    },
    /// Of a RAM disk: nothing.
    Malloc {},
    /// Of a file.
    Aio {
        /// Where it is.
        path: PathBuf,
        /// Whether the page cache is bypassed; `None` while the file is missing.
        o_direct: Option<bool>,
    },
    /// Of stripes.
    Raid0 {
        /// Bytes of one stripe on one child.
        chunk_bytes: u64,
    },
    /// Of encryption.
    Crypto {
        /// Always the same so far.
        cipher: &'static str,
        /// Bytes encrypted as one.
        sector_bytes: u32,
        /// Where the key is: a file,
        #[serde(skip_serializing_if = "Option::is_none")]
        key_file: Option<PathBuf>,
        /// or a credential.
        #[serde(skip_serializing_if = "Option::is_none")]
        key_credential: Option<String>,
    },
    /// Of a delay.
    Delay {
        /// How long I/Os are held back.
        latency_us: u128,
        /// Which.
        #[serde(flatten)]
        struck: Struck,
    },
    /// Of errors on purpose.
    Error {
        /// How I/Os fail.
        error: &'static str,
        /// How much of their data moves all the same.
        moved: &'static str,
        /// Which.
        #[serde(flatten)]
        struck: Struck,
    },
}

/// Which I/Os are struck.
#[derive(Clone, Debug, Serialize)]
pub struct Struck {
    /// The operations.
    pub ops: Vec<&'static str>,
    /// How many of them, from 0 to 1.
    pub rate: f64,
    /// The first byte of the range.
    pub offset_bytes: u64,
    /// Its length; `None` to the end of the device.
    pub length_bytes: Option<u64>,
    /// Where chances start.
    pub seed: u64,
}

impl Special {
    pub(super) fn new(kind: &BackendKind, file: Option<FileState>) -> Self {
        match kind {
            BackendKind::Null { reads, .. } => Self::Null {
                reads: match reads {
                    NullReads::Untouched => "untouched",
                    NullReads::Zeroes => "zeroes",
                },
            },
            BackendKind::Malloc { .. } => Self::Malloc {},
            BackendKind::Aio { path, .. } => Self::Aio {
                path: path.clone(),
                o_direct: match file {
                    Some(FileState::Direct) => Some(true),
                    Some(FileState::Cached) => Some(false),
                    Some(FileState::Missing) | None => None,
                },
            },
            BackendKind::Raid0 { chunk_bytes, .. } => Self::Raid0 { chunk_bytes: *chunk_bytes },
            BackendKind::Crypto { key, options, .. } => {
                let (key_file, key_credential) = match key {
                    KeySource::File(path) => (Some(path.clone()), None),
                    KeySource::Credential(name) => (None, Some(name.clone())),
                };
                let sector_bytes = options.sector_bytes;
                Self::Crypto { cipher: "AES-256-XTS", sector_bytes, key_file, key_credential }
            }
            BackendKind::Delay { rule, latency, .. } => {
                Self::Delay { latency_us: latency.as_micros(), struck: Struck::new(rule) }
            }
            BackendKind::Error { rule, error, moved, .. } => Self::error(rule, *error, *moved),
        }
    }

    fn error(rule: &Rule, error: IoError, moved: Moved) -> Self {
        let moved = match moved {
            Moved::Nothing => "nothing",
            Moved::Part => "part",
            Moved::All => "all",
        };
        Self::Error { error: error_name(error), moved, struck: Struck::new(rule) }
    }
}

impl Struck {
    fn new(rule: &Rule) -> Self {
        let (start, end) = (rule.range_bytes.start, rule.range_bytes.end);
        Self {
            ops: op_names(rule.ops),
            rate: f64::from(rule.per_million) / 1e6,
            offset_bytes: start,
            length_bytes: (end != u64::MAX).then(|| end - start),
            seed: rule.seed,
        }
    }
}

/// Paths and names are quoted, for they may hold anything.
impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null { reads } => write!(f, "reads {reads}"),
            Self::Malloc {} => write!(f, "RAM"),
            Self::Aio { path, o_direct } => {
                let how = match o_direct {
                    Some(true) => "O_DIRECT",
                    Some(false) => "page cache",
                    None => "missing, will be created",
                };
                write!(f, "{path:?}, {how}")
            }
            Self::Raid0 { chunk_bytes } => write!(f, "chunk {}", show_size(*chunk_bytes)),
            Self::Crypto { cipher, sector_bytes, key_file, key_credential } => {
                write!(f, "{cipher}, sectors of {sector_bytes} bytes")?;
                match (key_file, key_credential) {
                    (Some(path), _) => write!(f, ", key file {path:?}"),
                    (None, Some(name)) => write!(f, ", key credential {name:?}"),
                    (None, None) => Ok(()),
                }
            }
            Self::Delay { latency_us, struck } => {
                let latency = Duration::from_micros(u64::try_from(*latency_us).unwrap_or(u64::MAX));
                write!(f, "{} for {struck}", show_latency(latency))
            }
            Self::Error { error, moved, struck } => write!(f, "{error} for {struck}, {moved} moved"),
        }
    }
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, rate {}", self.ops.join(" "), self.rate)?;
        match (self.offset_bytes, self.length_bytes) {
            (0, None) => {}
            (offset, None) => write!(f, ", from byte {offset}")?,
            (offset, Some(length)) => write!(f, ", {length} bytes from byte {offset}")?,
        }
        write!(f, ", seed {}", self.seed)
    }
}
