//! A checked bdev: one tree, each of whose nodes knows its name and where it was written.

use std::path::PathBuf;
use std::time::Duration;

use crate::backend::{CryptoOptions, Direct, IoError, Moved, NullReads, Poll, Rule};

/// A block device and all that it stands on. Each bdev is used once, so parents own their children.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Its name in messages; a disk that says itself what it is gives its own.
    pub name: String,
    /// Where it was written, `file:line`; empty for flags.
    pub place: String,
    /// What it is.
    pub kind: BackendKind,
}

/// What a bdev is.
#[derive(Clone, Debug, PartialEq)]
pub enum BackendKind {
    /// Nothing at all.
    Null {
        /// The size it pretends to have.
        size_bytes: u64,
        /// Logical block size.
        block_size: u32,
        /// What a read leaves in the buffer.
        reads: NullReads,
    },
    /// RAM.
    Malloc {
        /// Its size.
        size_bytes: u64,
        /// Logical block size.
        block_size: u32,
    },
    /// A file or block device.
    Aio {
        /// The file.
        path: PathBuf,
        /// Whether it is opened with O_DIRECT.
        direct: Direct,
        /// Whether its device's poll queues are used.
        poll: Poll,
        /// Logical block size; `None` for the target's own.
        block_size: Option<u32>,
        /// Whether it is opened for reading only, whoever stands on it.
        read_only: bool,
        /// The size that it must have, and is created with if it is missing.
        create_bytes: Option<u64>,
    },
    /// Stripes over children.
    Raid0 {
        /// Bytes of one stripe on one child.
        chunk_bytes: u64,
        /// What it stands on, in order.
        children: Vec<Backend>,
    },
    /// Encryption of a child.
    Crypto {
        /// What it stands on.
        child: Box<Backend>,
        /// Where its key is.
        key: KeySource,
        /// Sectors and discards.
        options: CryptoOptions,
    },
    /// A child with some I/Os held back.
    Delay {
        /// What it stands on.
        child: Box<Backend>,
        /// Which I/Os.
        rule: Rule,
        /// For how long.
        latency: Duration,
    },
    /// A child with some I/Os failing.
    Error {
        /// What it stands on.
        child: Box<Backend>,
        /// Which I/Os.
        rule: Rule,
        /// How they fail.
        error: IoError,
        /// How much of their data moves all the same.
        moved: Moved,
    },
}

/// Where a key is; never the key itself.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    /// In a file.
    File(PathBuf),
    /// In a credential that the service manager passes on.
    Credential(String),
}

/// A whole stack, from the top.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    /// The disk that it stands for, if any does.
    pub disk: Option<String>,
    /// Whether everything in it is opened for reading only.
    pub read_only: bool,
    /// The bdev at the top.
    pub top: Backend,
}

impl Backend {
    /// Its `type` in the configuration.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            BackendKind::Null { .. } => "null",
            BackendKind::Malloc { .. } => "malloc",
            BackendKind::Aio { .. } => "aio",
            BackendKind::Raid0 { .. } => "raid0",
            BackendKind::Crypto { .. } => "crypto",
            BackendKind::Delay { .. } => "delay",
            BackendKind::Error { .. } => "error",
        }
    }

    /// What it stands on, in order.
    #[must_use]
    pub fn children(&self) -> &[Backend] {
        match &self.kind {
            BackendKind::Null { .. } | BackendKind::Malloc { .. } | BackendKind::Aio { .. } => &[],
            BackendKind::Raid0 { children, .. } => children,
            BackendKind::Crypto { child, .. }
            | BackendKind::Delay { child, .. }
            | BackendKind::Error { child, .. } => std::slice::from_ref(child),
        }
    }

    /// Whether opening it takes as much memory as it has blocks: then it is opened last.
    #[must_use]
    pub fn takes_memory(&self) -> bool {
        matches!(self.kind, BackendKind::Malloc { .. }) || self.children().iter().any(Self::takes_memory)
    }

    /// The bdev of this name among it and all that it stands on.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Backend> {
        if self.name == name {
            return Some(self);
        }
        self.children().iter().find_map(|child| child.find(name))
    }

    /// Its size, as far as the text alone tells.
    pub(super) fn known_size_bytes(&self) -> Option<u64> {
        match &self.kind {
            BackendKind::Null { size_bytes, .. } | BackendKind::Malloc { size_bytes, .. } => {
                Some(*size_bytes)
            }
            BackendKind::Aio { .. } => None,
            BackendKind::Raid0 { chunk_bytes, children } => {
                let whole = |bytes: u64| bytes / chunk_bytes * chunk_bytes;
                let known = children.iter().map(|child| child.known_size_bytes().map(whole));
                known.reduce(|sum, bytes| sum?.checked_add(bytes?)).flatten()
            }
            BackendKind::Crypto { child, options, .. } => {
                let sector_bytes = u64::from(options.sector_bytes);
                child.known_size_bytes().map(|size_bytes| size_bytes / sector_bytes * sector_bytes)
            }
            BackendKind::Delay { child, .. } | BackendKind::Error { child, .. } => child.known_size_bytes(),
        }
    }

    /// The least logical block size that it can turn out to have.
    pub(super) fn least_block_size(&self) -> u32 {
        match &self.kind {
            BackendKind::Null { block_size, .. } | BackendKind::Malloc { block_size, .. } => *block_size,
            BackendKind::Aio { block_size, .. } => block_size.unwrap_or(512),
            BackendKind::Crypto { options, .. } => options.sector_bytes,
            BackendKind::Raid0 { .. } | BackendKind::Delay { .. } | BackendKind::Error { .. } => {
                self.children().iter().map(Self::least_block_size).max().unwrap_or(512)
            }
        }
    }
}
